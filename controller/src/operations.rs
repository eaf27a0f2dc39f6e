//! Operations: work of the controller that outlives every connection and every restart of the controller.
//!
//! The API starts a [`Workflow`] and gets an id at once; the work runs in a task of its own, each change of its state
//! stored before anyone hears of it. [`Operations::resume`] takes up at start what a stop left unended.

pub(crate) mod agent;
mod live;
pub mod locks;
pub mod probes;
pub(crate) mod stamp;
mod watch;
pub mod workflow;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use canasta_proto::pb;
use canasta_proto::pb::operation_event::Event;
use canasta_steps::{End, Plan, PlanError, Probe, Resume, Runner, StepError};
use futures_util::Stream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::live::Live;
use self::locks::{Busy, Guard, Holder, Locks, Wanted};
pub use self::workflow::{Kinds, RebuildError, Workflow};
use crate::store::{self, Store};

/// The fewest characters of an id that are enough to name an operation.
const PREFIX: usize = 6;
/// How many ids an ambiguous beginning is answered with.
const LISTED: u32 = 10;
/// The pause before the end of an operation is stored again when the database could not be written.
const STORE_AGAIN: Duration = Duration::from_secs(1);

/// Why an operation could not be started, found, followed or cancelled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Somebody else holds what is needed.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// No operation has this id.
    #[error("operation '{0}' is not known")]
    NotFound(String),
    /// The text is not the beginning of an id.
    #[error(
        "an operation is named by its id or the first {PREFIX} or more characters of it: digits, a to f and '-'"
    )]
    Prefix,
    /// Several operations begin so.
    #[error("'{prefix}' is the beginning of several operations: {}", ids.join(", "))]
    Ambiguous {
        /// What was given.
        prefix: String,
        /// The first of those that fit.
        ids: Vec<String>,
    },
    /// It has ended, so it can't be cancelled.
    #[error("operation {0} has ended already")]
    Ended(String),
    /// The controller is about to stop.
    #[error("the controller is stopping; the operation goes on when it has started again")]
    Stopping,
    /// The workflow's plan is broken.
    #[error("failed to plan the operation")]
    Plan(#[source] PlanError),
    /// The database could not be read or written.
    #[error("failed to use the controller's database")]
    Store(#[source] store::Error),
}

/// What a call holds while it plans an operation, or while it does its work at once. Given back when dropped.
#[derive(Debug)]
pub struct Held {
    guard: Guard,
    holder: Holder,
}

/// All operations.
#[derive(Clone)]
pub struct Operations {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    kinds: Kinds,
    probe: Arc<dyn Probe>,
    locks: Locks,
    live: Mutex<HashMap<String, Arc<Live>>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Operations {
    /// Operations kept in `store`. `kinds` rebuild what goes on after a restart; `probe` looks on while steps run.
    pub fn new(store: Store, kinds: Kinds, probe: Arc<dyn Probe>) -> Self {
        Self {
            inner: Arc::new(Inner {
                store,
                kinds,
                probe,
                locks: Locks::default(),
                live: Mutex::default(),
                stop: CancellationToken::new(),
                tasks: TaskTracker::new(),
            }),
        }
    }

    /// Holds what a call is about to plan or to change, until the answer is dropped or handed to [`Operations::start`].
    /// `kind` is the kind of the operation, or what the call does; `started_by` is `user alice` or `local root`.
    ///
    /// # Errors
    /// [`Error::Busy`] names the holder.
    pub fn hold(&self, wanted: &Wanted, kind: &str, started_by: &str) -> Result<Held, Error> {
        let holder = Holder {
            id: uuid::Uuid::now_v7().to_string(),
            begun: false,
            kind: kind.to_owned(),
            started_by: started_by.to_owned(),
        };
        let guard = self.inner.locks.take(wanted, &holder)?;
        Ok(Held { guard, holder })
    }

    /// The names of all kinds of operations.
    pub fn kinds(&self) -> impl Iterator<Item = &'static str> {
        self.inner.kinds.names()
    }

    /// The operation that changes a host right now.
    pub fn changer_of(&self, host: &str) -> Option<String> {
        self.inner.locks.changer_of(host)
    }

    /// Starts an operation and returns its id as soon as it is stored. What was held while it was planned stays held, and
    /// what it needs besides is taken now.
    ///
    /// # Errors
    /// [`Error::Busy`] when somebody else holds what this one needs.
    pub async fn start(&self, held: Held, workflow: Arc<dyn Workflow>) -> Result<String, Error> {
        if self.inner.stop.is_cancelled() {
            return Err(Error::Stopping);
        }
        let Held { mut guard, holder } = held;
        let id = holder.id;
        let plan = workflow.steps(&id);
        plan.check().map_err(Error::Plan)?;
        let wanted = workflow.locks();
        guard.extend(&wanted)?;
        let operation = pb::Operation {
            id: id.clone(),
            kind: workflow.kind().to_owned(),
            title: workflow.title(),
            state: pb::OperationState::Running.into(),
            started_by: holder.started_by,
            started_at: Some(stamp::now()),
            hosts: wanted.changed_hosts(),
            steps: pending(&plan),
            last_seq: 1,
            ..pb::Operation::default()
        };
        let planned = pb::OperationEvent {
            operation_id: id.clone(),
            seq: 1,
            at: operation.started_at,
            step_id: String::new(),
            event: Some(Event::Planned(pb::OperationPlanned {
                title: operation.title.clone(),
                steps: operation.steps.clone(),
            })),
        };
        let request = workflow.request().to_string();
        let all = self.clone();
        // In a task of its own: a caller who goes away now must not leave a stored operation that nobody runs.
        let begun = tokio::spawn(async move {
            let store = all.inner.store.clone();
            store
                .insert_operation(&operation, &request, &planned)
                .await
                .map_err(Error::Store)?;
            tracing::info!(
                operation = operation.id,
                kind = operation.kind,
                by = operation.started_by,
                "operation started"
            );
            guard.begin();
            let live = Arc::new(Live::new(operation.id.clone(), store, 1));
            all.spawn(live, plan, Resume::default(), guard);
            Ok(())
        });
        begun.await.unwrap_or(Err(Error::Stopping))?;
        Ok(id)
    }

    /// Takes up every operation that was not ended when the controller stopped. Call it once, before the API is open.
    ///
    /// # Errors
    /// When the database can't be read or written.
    pub async fn resume(&self) -> Result<(), Error> {
        let unended = self
            .inner
            .store
            .unended_operations()
            .await
            .map_err(Error::Store)?;
        for store::operations::Unended { operation, request } in unended {
            let store = self.inner.store.clone();
            let live = Arc::new(Live::new(operation.id.clone(), store, operation.last_seq));
            if let Some(error) = failed_step(&operation) {
                self.end_at_once(&live, pb::OperationState::Failed, error)
                    .await?;
                continue;
            }
            match self.rebuild(&operation, &request) {
                Ok((plan, guard)) => {
                    tracing::info!(
                        operation = operation.id,
                        kind = operation.kind,
                        "operation goes on"
                    );
                    if operation.state() == pb::OperationState::Cancelling {
                        let ran = |step: &pb::Step| step.state() == pb::StepState::Running;
                        if operation.steps.iter().any(ran) {
                            live.cancel_once_begun();
                        } else {
                            live.cancel.cancel();
                        }
                    }
                    self.spawn(live, plan, resume_of(&operation), guard);
                }
                Err(error) => {
                    tracing::error!(
                        operation = operation.id,
                        error = &error as &dyn std::error::Error,
                        "operation can't go on"
                    );
                    let report = StepError::from_source("OPERATION_INTERRUPTED", &error)
                        .subject(&operation.id)
                        .hint("run the command again: it goes on from what is really there");
                    self.end_at_once(&live, pb::OperationState::Interrupted, report.into())
                        .await?;
                }
            }
        }
        Ok(())
    }

    fn rebuild(&self, operation: &pb::Operation, request: &str) -> Result<(Plan, Guard), Rebuild> {
        let workflow = self.inner.kinds.build(&operation.kind, request)?;
        let plan = workflow.steps(&operation.id);
        let same = plan
            .infos()
            .map(|info| &info.id)
            .eq(operation.steps.iter().map(|step| &step.id));
        if !same || plan.check().is_err() {
            return Err(RebuildError::Steps.into());
        }
        let holder = Holder {
            id: operation.id.clone(),
            begun: true,
            kind: operation.kind.clone(),
            started_by: operation.started_by.clone(),
        };
        let guard = self.inner.locks.take(&workflow.locks(), &holder)?;
        Ok((plan, guard))
    }

    async fn end_at_once(
        &self,
        live: &Live,
        state: pb::OperationState,
        error: pb::ErrorReport,
    ) -> Result<(), Error> {
        let ended = pb::OperationEnded {
            state: state.into(),
            error: Some(error),
        };
        live.store_end(&ended).await.map_err(Error::Store)
    }

    fn spawn(&self, live: Arc<Live>, plan: Plan, resume: Resume, guard: Guard) {
        self.inner.live().insert(live.id.clone(), Arc::clone(&live));
        let inner = Arc::clone(&self.inner);
        self.inner.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = inner.stop.cancelled() => {}
                () = inner.run(&live, &plan, resume, guard) => {}
            }
            inner.live().remove(&live.id);
            live.tell_stop();
        });
    }

    /// Finds an operation by its id or an unambiguous beginning of it.
    async fn find(&self, prefix: &str) -> Result<String, Error> {
        let plain = |byte: u8| byte.is_ascii_hexdigit() || byte == b'-';
        if prefix.len() < PREFIX || prefix.len() > 36 || !prefix.bytes().all(plain) {
            return Err(Error::Prefix);
        }
        let prefix = prefix.to_ascii_lowercase();
        let mut ids = self
            .inner
            .store
            .operation_ids(&prefix, LISTED)
            .await
            .map_err(Error::Store)?;
        match ids.len() {
            0 => Err(Error::NotFound(prefix)),
            1 => Ok(ids.remove(0)),
            _ => Err(Error::Ambiguous { prefix, ids }),
        }
    }

    /// Shows an operation with its steps, by its id or an unambiguous beginning of it.
    ///
    /// # Errors
    /// When no operation or more than one begins so.
    pub async fn get(&self, prefix: &str) -> Result<pb::Operation, Error> {
        let id = self.find(prefix).await?;
        let operation = self
            .inner
            .store
            .operation(&id)
            .await
            .map_err(Error::Store)?;
        let mut operation = operation.ok_or(Error::NotFound(id))?;
        if let Some(live) = self.inner.live().get(&operation.id) {
            live.fill_progress(&mut operation);
        }
        Ok(operation)
    }

    /// The newest operations, those that change `host` alone when it is not empty.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn list(&self, limit: u32, host: &str) -> Result<Vec<pb::Operation>, Error> {
        let listed = self.inner.store.operations(limit, host).await;
        let mut operations = listed.map_err(Error::Store)?;
        let live = self.inner.live();
        for operation in &mut operations {
            if let Some(live) = live.get(&operation.id) {
                live.fill_progress(operation);
            }
        }
        Ok(operations)
    }

    /// The events of an operation after a number, then as they happen; ends after the event that ends the operation.
    ///
    /// # Errors
    /// When no operation or more than one begins so.
    pub async fn watch(
        &self,
        prefix: &str,
        after: u64,
    ) -> Result<impl Stream<Item = Result<pb::OperationEvent, Error>> + Send + use<>, Error> {
        let id = self.find(prefix).await?;
        let live = self.inner.live().get(&id).cloned();
        Ok(watch::watch(self.inner.store.clone(), live, id, after))
    }

    /// Asks an operation to stop at the end of its running step.
    ///
    /// # Errors
    /// [`Error::Ended`] when it has ended.
    pub async fn cancel(&self, prefix: &str) -> Result<pb::Operation, Error> {
        let id = self.find(prefix).await?;
        let live = self.inner.live().get(&id).cloned();
        let live = live.ok_or_else(|| Error::Ended(id.clone()))?;
        let store = self.inner.store.clone();
        // In a task of its own, so that what is stored is also done when the caller goes away.
        let marked = tokio::spawn(async move {
            store
                .mark_cancelling(&live.id)
                .await
                .map_err(Error::Store)?;
            live.cancel.cancel();
            Ok(())
        });
        marked.await.unwrap_or(Err(Error::Stopping))?;
        self.get(&id).await
    }

    /// Stops all work where it is; it goes on after the next start.
    pub async fn shut_down(&self) {
        self.inner.stop.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }
}

/// Why an operation can't go on after a restart.
#[derive(Debug, thiserror::Error)]
enum Rebuild {
    #[error(transparent)]
    Workflow(#[from] RebuildError),
    #[error(transparent)]
    Busy(#[from] Busy),
}

impl Inner {
    fn live(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Live>>> {
        self.live.lock().expect("no holder panics")
    }

    async fn run(&self, live: &Arc<Live>, plan: &Plan, resume: Resume, guard: Guard) {
        let journal = Arc::clone(live);
        let runner = Runner::new(journal).with_probe(Arc::clone(&self.probe));
        let end = runner.run(plan, resume, &live.cancel).await;
        let (state, error) = match end {
            End::Succeeded => (pb::OperationState::Succeeded, None),
            End::Cancelled => (pb::OperationState::Cancelled, None),
            End::Failed(error) => (pb::OperationState::Failed, Some(error.into())),
            End::Journal(error) => {
                let report = StepError::from_source("DATABASE_FAILED", &error)
                    .subject(&live.id)
                    .hint("mend what is named (room, rights), then run the command again: it goes on from what is really there");
                (pb::OperationState::Interrupted, Some(report.into()))
            }
        };
        let ended = pb::OperationEnded {
            state: state.into(),
            error,
        };
        // Its hosts stay locked until its end is stored: otherwise a restart would take it up beside a newer one.
        while let Err(error) = live.store_end(&ended).await {
            tracing::error!(
                operation = live.id,
                error = &error as &dyn std::error::Error,
                "the end of the operation could not be stored; trying again"
            );
            tokio::time::sleep(STORE_AGAIN).await;
        }
        tracing::info!(
            operation = live.id,
            state = state.as_str_name(),
            "operation ended"
        );
        drop(guard);
        self.live().remove(&live.id);
        live.tell_end().await;
    }
}

fn pending(plan: &Plan) -> Vec<pb::Step> {
    plan.infos()
        .map(|info| pb::Step {
            id: info.id.clone(),
            title: info.title.clone(),
            host: info.host.clone(),
            state: pb::StepState::Pending.into(),
            ..pb::Step::default()
        })
        .collect()
}

/// The error of the step that had failed when the controller stopped before it could store the operation's end.
fn failed_step(operation: &pb::Operation) -> Option<pb::ErrorReport> {
    let failed = |step: &&pb::Step| step.state() == pb::StepState::Failed;
    let step = operation.steps.iter().find(failed)?;
    Some(step.error.clone().unwrap_or_default())
}

fn resume_of(operation: &pb::Operation) -> Resume {
    let finished = |step: &&pb::Step| step.state() == pb::StepState::Finished;
    Resume {
        finished: operation
            .steps
            .iter()
            .filter(finished)
            .map(|step| step.id.clone())
            .collect(),
        attempts: operation
            .steps
            .iter()
            .map(|step| (step.id.clone(), step.attempts))
            .collect(),
    }
}

impl fmt::Debug for Operations {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Operations")
            .field("kinds", &self.inner.kinds)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
