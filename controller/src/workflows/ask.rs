//! One question to an agent from within a step: waits for an agent that is away, and asks again when the connection broke.

use std::time::Duration;

use canasta_proto::name::HostName;
use canasta_steps::StepError;
use canasta_transport::status::Fault;
use tonic::{Response, Status};

use super::{Context, Error};
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

/// Why something could not be planned, as the error of a step that plans again.
pub(super) fn step_error(error: Error) -> StepError {
    Fault::from(error).to_report().into()
}
