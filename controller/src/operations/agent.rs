//! Talking to agents from within steps: waiting for one that is away, and running a task on one to its end.
//!
//! A task outlives every connection and every restart of the controller, so a step only starts it, or finds the one that
//! an earlier attempt of the same step started, and follows it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use canasta_proto::name::HostName;
use canasta_proto::pb;
use canasta_proto::pb::agent_service_client::AgentServiceClient;
use canasta_proto::pb::watch_task_response::Event;
use canasta_steps::{Done, Reporter, StepError};
use canasta_transport::status::{Fault, code_name};
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::fleet::{Fleet, FleetError};

/// A connection to an agent.
pub(crate) type Client = AgentServiceClient<Channel>;

/// The reason that an agent gives while it stops; it is back in a moment.
const STOPPING: &str = "AGENT_STOPPING";
/// The reason that an agent gives while it does another task, which is the subject.
const BUSY: &str = "TASK_RUNNING";
/// How many earlier attempts are looked for; each follows what the one before it left.
const LOOK_BACK: usize = 5;
/// How often a task is started that the agent's own restarts cut off.
const STARTS: u32 = 3;
/// The pause before a task is started again, or a connection that breaks at once is tried again.
const PAUSE: Duration = Duration::from_millis(500);
/// How often in a row a task may be followed and tell nothing new, before it counts as interrupted.
const IDLE_ROUNDS: u32 = 20;
/// How long an agent may take to answer a call; a connection that died in the middle of one may never tell.
pub(crate) const ANSWER: Duration = Duration::from_secs(10);

/// Whether a status stands for a broken connection and not for an answer of the agent.
pub(crate) fn is_cut(status: &Status) -> bool {
    let of_transport = matches!(
        status.code(),
        Code::Unavailable
            | Code::Cancelled
            | Code::Unknown
            | Code::Internal
            | Code::DeadlineExceeded
    );
    let reason = Fault::from_status(status).reason;
    of_transport && (reason == code_name(status.code()) || reason == STOPPING)
}

/// Why a host can't be asked, as the error of a step.
pub(crate) fn fleet_error(error: FleetError) -> StepError {
    Fault::from(error).to_report().into()
}

/// A client for the agent on a host; waits for one that is away until `patience` is over.
///
/// # Errors
/// `AGENT_UNREACHABLE` with address and port when it does not come back; at once when it never joined or was removed.
pub(crate) async fn connect(
    fleet: &Fleet,
    host: &HostName,
    patience: Duration,
) -> Result<Client, StepError> {
    let deadline = Instant::now() + patience;
    loop {
        // Taken before the dial, so that a connection that is made meanwhile wakes the wait.
        let state = fleet.watch(host);
        let error = match fleet.agent(host).await {
            Ok(client) => return Ok(client),
            Err(
                error @ (FleetError::Unreachable { .. }
                | FleetError::NeedsRejoin { .. }
                | FleetError::NotDialled { .. }),
            ) => error,
            Err(error) => return Err(fleet_error(error)),
        };
        let Some(mut state) = state else {
            return Err(fleet_error(error));
        };
        let connected = state.wait_for(|state| state.phase == crate::fleet::Phase::Connected);
        match tokio::time::timeout_at(deadline, connected).await {
            Ok(Ok(_)) => {}
            Ok(Err(_removed)) => return Err(fleet_error(error)),
            Err(_elapsed) => return Err(fleet_error(error)),
        }
    }
}

/// A task on a host that does a step of an operation.
#[derive(Debug)]
pub(crate) struct AgentTask {
    fleet: Fleet,
    host: HostName,
    /// `<operation>-<step>`.
    name: String,
    /// How long an agent that is away is waited for.
    patience: Duration,
    /// How often this step was run by this process.
    runs: AtomicU32,
}

enum TaskEnd {
    Finished(pb::StepFinished),
    Failed(pb::StepFailed),
    Interrupted,
    Unknown,
}

impl AgentTask {
    /// A task named by its operation and its step.
    pub(crate) fn new(
        fleet: Fleet,
        host: HostName,
        operation: &str,
        step: &str,
        patience: Duration,
    ) -> Self {
        Self {
            fleet,
            host,
            name: format!("{operation}-{step}"),
            patience,
            runs: AtomicU32::new(0),
        }
    }

    /// Runs the task to its end. What an earlier attempt started and still runs is followed instead.
    pub(crate) async fn run(
        &self,
        spec: pb::TaskSpec,
        reporter: &Reporter,
    ) -> Result<Done, StepError> {
        let attempt = reporter.attempt();
        let run = self.runs.fetch_add(1, Ordering::Relaxed);
        if run == 0
            && attempt > 1
            && let Some(end) = self.follow_earlier(attempt, reporter).await?
        {
            return done(end);
        }
        for start in 1..=STARTS {
            let id = self.task_id(attempt, start, run);
            match self.follow(&id, Some(&spec), reporter).await? {
                TaskEnd::Interrupted | TaskEnd::Unknown if start < STARTS => {
                    reporter.retrying(self.interrupted(), PAUSE).await;
                    tokio::time::sleep(PAUSE).await;
                }
                TaskEnd::Interrupted | TaskEnd::Unknown => {}
                end => return done(end),
            }
        }
        Err(self.interrupted().hint(format!(
            "see `journalctl -u canasta-agent` on {}, then run the command again",
            self.host
        )))
    }

    /// Follows what an earlier attempt left, newest first; nothing when that has to be done again.
    async fn follow_earlier(
        &self,
        attempt: u32,
        reporter: &Reporter,
    ) -> Result<Option<TaskEnd>, StepError> {
        for earlier in (1..attempt).rev().take(LOOK_BACK) {
            for start in (1..=STARTS).rev() {
                let id = self.task_id(earlier, start, 0);
                match self.follow(&id, None, reporter).await? {
                    TaskEnd::Unknown => {}
                    TaskEnd::Interrupted => return Ok(None),
                    end => return Ok(Some(end)),
                }
            }
        }
        Ok(None)
    }

    /// Unique for each time that the work is to be done.
    fn task_id(&self, attempt: u32, start: u32, run: u32) -> String {
        let mut id = format!("{}-{attempt}", self.name);
        if start > 1 {
            id.push_str(&format!("-r{start}"));
        }
        if run > 0 {
            id.push_str(&format!("-x{run}"));
        }
        id
    }

    fn interrupted(&self) -> StepError {
        StepError::new(
            "TASK_INTERRUPTED",
            format!(
                "the agent on host '{}' was restarted while it worked",
                self.host
            ),
        )
        .subject(format!("host {}", self.host))
    }

    /// Starts a task when a spec is given, and follows it to its end, over as many connections as that takes.
    async fn follow(
        &self,
        id: &str,
        spec: Option<&pb::TaskSpec>,
        reporter: &Reporter,
    ) -> Result<TaskEnd, StepError> {
        let mut started = spec.is_none();
        let mut seq = 0;
        let mut idle = 0;
        let mut failing = None;
        loop {
            let mut client = connect(&self.fleet, &self.host, self.patience).await?;
            if !started && let Some(spec) = spec {
                let request = pb::StartTaskRequest {
                    task_id: id.to_owned(),
                    spec: Some(spec.clone()),
                };
                if let Err(status) = answered(client.start_task(request)).await {
                    match self.await_turn(&mut client, &status, reporter).await {
                        Some(Ok(())) => failing = None,
                        Some(Err(status)) => {
                            self.cut_or_error(status, &mut failing, reporter).await?;
                        }
                        None => self.cut_or_error(status, &mut failing, reporter).await?,
                    }
                    continue;
                }
                started = true;
                failing = None;
            }
            let before = seq;
            let began = Instant::now();
            let followed = self.follow_once(&mut client, id, &mut seq, reporter).await;
            if seq > before || began.elapsed() > ANSWER * 2 {
                failing = None;
            }
            match followed {
                Ok(Some(end)) => return Ok(end),
                // A journal that ends without a last event would be followed for ever.
                Ok(None) if idle == IDLE_ROUNDS => return Ok(TaskEnd::Interrupted),
                Ok(None) => {
                    idle = if seq > before { 0 } else { idle + 1 };
                    reporter
                        .message(format!(
                            "the connection to {} broke; the work goes on there",
                            self.host
                        ))
                        .await;
                    tokio::time::sleep(PAUSE).await;
                }
                Err(status) if status.code() == Code::NotFound => return Ok(TaskEnd::Unknown),
                Err(status) => self.cut_or_error(status, &mut failing, reporter).await?,
            }
        }
    }

    /// Waits for the end of the task that an agent refused another one for; nothing where it refused for something else. Locks of
    /// operations keep most of them apart, and what only asks something of a host goes without.
    async fn await_turn(
        &self,
        client: &mut Client,
        refusal: &Status,
        reporter: &Reporter,
    ) -> Option<Result<(), Status>> {
        let fault = Fault::from_status(refusal);
        if fault.reason != BUSY {
            return None;
        }
        reporter
            .message(format!(
                "waiting for the agent on {} to end another task",
                self.host
            ))
            .await;
        let request = pb::WatchTaskRequest {
            task_id: fault.subject,
            after_seq: 0,
        };
        let ended = async {
            let mut events = answered(client.watch_task(request)).await?.into_inner();
            while events.message().await?.is_some() {}
            Ok(())
        };
        Some(ended.await)
    }

    /// Pauses after a call that broke off. Gives up when calls have broken off for as long as an agent is waited for:
    /// one whose connection lives and who never answers would hold its host for ever.
    async fn cut_or_error(
        &self,
        status: Status,
        failing: &mut Option<Instant>,
        reporter: &Reporter,
    ) -> Result<(), StepError> {
        let since = *failing.get_or_insert_with(Instant::now);
        if !is_cut(&status) || since.elapsed() > self.patience {
            let fault = Fault::from_status(&status);
            let mut report = fault.to_report();
            if report.subject.is_empty() {
                report.subject = format!("host {}", self.host);
            }
            return Err(report.into());
        }
        reporter
            .message(format!("waiting for the agent on {}", self.host))
            .await;
        // The link notices a broken connection by itself; this keeps one that breaks at each call from spinning.
        tokio::time::sleep(PAUSE).await;
        Ok(())
    }

    /// Follows a task over one connection; nothing when the connection ended first.
    async fn follow_once(
        &self,
        client: &mut Client,
        id: &str,
        seq: &mut u64,
        reporter: &Reporter,
    ) -> Result<Option<TaskEnd>, Status> {
        let request = pb::WatchTaskRequest {
            task_id: id.to_owned(),
            after_seq: *seq,
        };
        let mut events = answered(client.watch_task(request)).await?.into_inner();
        while let Some(event) = events.message().await? {
            *seq = (*seq).max(event.seq);
            match event.event {
                Some(Event::Progress(progress)) => reporter.progress(progress).await,
                Some(Event::Retrying(retrying)) => {
                    let error = StepError::from(retrying.error.unwrap_or_default());
                    let delay = Duration::from_millis(retrying.delay_ms);
                    reporter.retrying(error, delay).await;
                }
                Some(Event::Finished(finished)) => return Ok(Some(TaskEnd::Finished(finished))),
                Some(Event::Failed(failed)) => return Ok(Some(TaskEnd::Failed(failed))),
                Some(Event::Interrupted(_)) => return Ok(Some(TaskEnd::Interrupted)),
                // Started, or something that a newer agent tells.
                Some(Event::Started(_)) | None => {}
            }
        }
        Ok(None)
    }
}

async fn answered<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    answered_within(ANSWER, call).await
}

/// What a call is answered with; no answer in time is as a broken connection.
pub(crate) async fn answered_within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    let late = |_elapsed| {
        Err(Status::deadline_exceeded(
            "the agent did not answer in time",
        ))
    };
    tokio::time::timeout(limit, call).await.unwrap_or_else(late)
}

fn done(end: TaskEnd) -> Result<Done, StepError> {
    match end {
        TaskEnd::Finished(finished) => Ok(Done {
            outcome: finished.outcome(),
            detail: finished.detail,
        }),
        TaskEnd::Failed(failed) => Err(failed.error.unwrap_or_default().into()),
        TaskEnd::Interrupted | TaskEnd::Unknown => unreachable!("handled by the caller"),
    }
}

#[cfg(test)]
pub(crate) mod stub;
#[cfg(test)]
mod tests;
