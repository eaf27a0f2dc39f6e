//! Questions to an agent from within a step: they wait for an agent that is away, and are asked again when the connection broke,
//! as it does when the agent is restarted.

use std::time::Duration;

use canasta_proto::name::HostName;
use canasta_proto::pb;
use canasta_steps::StepError;
use canasta_transport::status::Fault;
use tonic::{Response, Status};

use super::{Context, Error};
use crate::fleet::FleetError;
use crate::operations::agent::{Client, connect, is_cut};

/// How often a question is asked whose connection breaks.
const TRIES: u32 = 3;
/// The pause before it is asked again.
const PAUSE: Duration = Duration::from_millis(500);

/// Asks an agent. `limit` is how long one answer may take.
///
/// # Errors
/// `AGENT_UNREACHABLE` when it does not come back, else what the agent says.
pub(super) async fn ask<T, F, A>(
    context: &Context,
    host: &HostName,
    limit: Duration,
    question: F,
) -> Result<T, StepError>
where
    F: Fn(Client) -> A + Send + Sync,
    A: Future<Output = Result<Response<T>, Status>> + Send,
{
    let mut tries = 0;
    loop {
        let client = connect(&context.fleet, host, context.timings.agent_wait).await?;
        let answer = tokio::time::timeout(limit, question(client)).await;
        let status = match answer {
            Ok(Ok(answer)) => return Ok(answer.into_inner()),
            Ok(Err(status)) => status,
            Err(_elapsed) => Status::deadline_exceeded(format!(
                "the agent on {host} did not answer within {} s",
                limit.as_secs()
            )),
        };
        tries += 1;
        if tries == TRIES || !is_cut(&status) {
            let mut report = Fault::from_status(&status).to_report();
            if report.subject.is_empty() {
                report.subject = format!("host {host}");
            }
            return Err(report.into());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Does what asks an agent more than one question, from the beginning again when the connection broke.
///
/// # Errors
/// `AGENT_UNREACHABLE` when it does not come back, else what came of it.
pub(super) async fn again<T, W, A>(
    context: &Context,
    host: &HostName,
    work: W,
) -> Result<T, StepError>
where
    W: Fn() -> A + Send + Sync,
    A: Future<Output = Result<T, Error>> + Send,
{
    let mut tries = 0;
    loop {
        connect(&context.fleet, host, context.timings.agent_wait).await?;
        tries += 1;
        match work().await {
            Err(Error::Fleet(error)) if tries < TRIES && is_broken(&error) => {
                tokio::time::sleep(PAUSE).await;
            }
            done => return done.map_err(step_error),
        }
    }
}

/// Asks an agent once, for a plan that is made while somebody waits. `what` is what is asked for.
///
/// # Errors
/// When it can't be reached, does not answer within `limit`, or refuses.
pub(super) async fn once<T, A>(
    context: &Context,
    host: &HostName,
    what: &'static str,
    limit: Duration,
    question: impl FnOnce(Client) -> A,
) -> Result<T, Error>
where
    A: Future<Output = Result<Response<T>, Status>>,
{
    let client = context.fleet.agent(host).await?;
    let late = |_elapsed| Err(Status::deadline_exceeded("it did not answer in time"));
    let answer = tokio::time::timeout(limit, question(client)).await;
    let answer = answer
        .unwrap_or_else(late)
        .map_err(|source| FleetError::Call {
            host: host.clone(),
            what,
            source: Box::new(source),
        })?;
    Ok(answer.into_inner())
}

/// Whether the connection to an agent broke, or is not there again yet.
fn is_broken(error: &FleetError) -> bool {
    match error {
        FleetError::Call { source, .. } => is_cut(source),
        FleetError::Unreachable { .. } => true,
        _ => false,
    }
}

/// What an agent tells of its node now.
///
/// # Errors
/// As [`again`].
pub(super) async fn facts(context: &Context, host: &HostName) -> Result<pb::NodeFacts, StepError> {
    again(context, host, || async {
        Ok(context.fleet.refresh(host).await?)
    })
    .await
}

/// Why something could not be planned, as the error of a step that plans again.
pub(super) fn step_error(error: Error) -> StepError {
    Fault::from(error).to_report().into()
}
