//! Runs a plan: each step when those it waits for have ended, its events into the journal, once more after a crash.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use canasta_proto::pb;
use futures_util::FutureExt as _;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio_util::sync::CancellationToken;

use crate::plan::Planned;
use crate::{Done, Journal, JournalError, NoProbe, Plan, Probe, Reporter, StepError, StepEvent};

/// How long one undo may take.
const UNDO_LIMIT: Duration = Duration::from_mins(1);

/// What an earlier run of the same plan left.
#[derive(Debug, Clone, Default)]
pub struct Resume {
    /// Steps that ended well and are not run again.
    pub finished: HashSet<String>,
    /// How often each step was begun.
    pub attempts: HashMap<String, u32>,
}

/// How a run ended.
#[derive(Debug)]
pub enum End {
    /// All steps ended well.
    Succeeded,
    /// A step failed; nothing new was begun after it.
    Failed(StepError),
    /// Cancelled at the end of a step.
    Cancelled,
    /// The journal could not be written; nothing more was done.
    Journal(JournalError),
}

/// Runs plans.
#[derive(Clone)]
pub struct Runner {
    journal: Arc<dyn Journal>,
    probe: Arc<dyn Probe>,
}

impl Runner {
    /// A runner that writes to this journal.
    pub fn new(journal: Arc<dyn Journal>) -> Self {
        Self {
            journal,
            probe: Arc::new(NoProbe),
        }
    }

    /// The same with a probe around every step.
    pub fn with_probe(self, probe: Arc<dyn Probe>) -> Self {
        Self { probe, ..self }
    }

    /// Runs the plan to its end, from where an earlier run stopped. A cancel takes effect at the end of the running
    /// steps. Steps that nothing orders run at the same time.
    pub async fn run(&self, plan: &Plan, resume: Resume, cancel: &CancellationToken) -> End {
        let mut finished = resume.finished;
        let mut begun: HashSet<&str> = HashSet::new();
        let mut ended_now: Vec<&Planned> = Vec::new();
        let mut running = FuturesUnordered::new();
        let mut end = None;
        loop {
            if end.is_none() && !cancel.is_cancelled() {
                for planned in &plan.steps {
                    let id = planned.info.id.as_str();
                    let ready = planned.after.iter().all(|after| finished.contains(after));
                    if ready && !finished.contains(id) && begun.insert(id) {
                        let attempt = resume.attempts.get(id).copied().unwrap_or(0) + 1;
                        running
                            .push(async move { (planned, self.run_step(planned, attempt).await) });
                    }
                }
            }
            match running.next().await {
                None => break,
                Some((planned, Ok(()))) => {
                    finished.insert(planned.info.id.clone());
                    ended_now.push(planned);
                }
                Some((_, Err(failure))) => {
                    end.get_or_insert(failure);
                }
            }
        }
        match end {
            Some(End::Failed(error)) => {
                self.undo(&ended_now).await;
                End::Failed(error)
            }
            Some(end) => end,
            None if plan
                .steps
                .iter()
                .all(|planned| finished.contains(&planned.info.id)) =>
            {
                End::Succeeded
            }
            None if cancel.is_cancelled() => End::Cancelled,
            // Steps are left that nothing will ever make ready; `Plan::check` finds such a plan before it is run.
            None => End::Failed(
                StepError::new(
                    "INTERNAL",
                    "the plan has steps that wait for one that it lacks",
                )
                .hint("report it with the daemon's log of this minute"),
            ),
        }
    }

    async fn run_step(&self, planned: &Planned, attempt: u32) -> Result<(), End> {
        let id = planned.info.id.as_str();
        self.record(id, StepEvent::Started(pb::StepStarted { attempt }))
            .await?;
        let reporter = Reporter::new(id.to_owned(), attempt, Arc::clone(&self.journal));
        let work = AssertUnwindSafe(self.probed(planned, &reporter))
            .catch_unwind()
            .await;
        let result = work.unwrap_or_else(|_panic| {
            Err(StepError::new(
                "INTERNAL",
                format!("the step {id} ended in a bug of this program"),
            )
            .subject(id)
            .hint(
                "report it with the daemon's log of this minute; running the command again is safe",
            ))
        });
        match result {
            Ok(done) => self.record(id, StepEvent::Finished(done.into())).await,
            Err(error) => {
                let event = pb::StepFailed {
                    error: Some(error.report().clone()),
                };
                if let Err(broken) = self.record(id, StepEvent::Failed(event)).await {
                    // Nobody else will tell of it.
                    tracing::error!(
                        step = id,
                        reason = error.reason(),
                        error = &error as &dyn std::error::Error,
                        "the step failed, and the journal could not be written"
                    );
                    return Err(broken);
                }
                Err(End::Failed(error))
            }
        }
    }

    async fn probed(&self, planned: &Planned, reporter: &Reporter) -> Result<Done, StepError> {
        self.probe.before(&planned.info).await?;
        let mut done = planned.step.run(reporter).await?;
        if self.probe.run_twice(&planned.info) {
            done = planned.step.run(reporter).await?;
        }
        self.probe.after(&planned.info).await?;
        Ok(done)
    }

    async fn record(&self, id: &str, event: StepEvent) -> Result<(), End> {
        self.journal.record(id, event).await.map_err(End::Journal)
    }

    /// Undoes what ended in this run, last first. What can't be undone is logged and left to a re-run.
    async fn undo(&self, ended: &[&Planned]) {
        for planned in ended.iter().rev() {
            let id = planned.info.id.as_str();
            let undo = AssertUnwindSafe(planned.step.undo()).catch_unwind();
            match tokio::time::timeout(UNDO_LIMIT, undo).await {
                Ok(Ok(Ok(()))) => {}
                Ok(Err(_panic)) => {
                    tracing::error!(step = id, "undoing the step ended in a bug of this program");
                }
                Ok(Ok(Err(error))) => {
                    tracing::error!(
                        step = id,
                        error = &error as &dyn std::error::Error,
                        "the step could not be undone"
                    );
                }
                Err(_elapsed) => {
                    tracing::error!(step = id, limit = ?UNDO_LIMIT, "undoing the step took too long");
                }
            }
        }
    }
}

impl fmt::Debug for Runner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Runner").finish_non_exhaustive()
    }
}
