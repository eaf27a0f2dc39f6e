//! Changes of this node: at most one at a time, each at most once, finished whoever listens.
//!
//! [`crate::api`] starts tasks and follows them. A task is one step of [`crate::k3s`], run by the runner that the
//! controller uses too. Its journal is a file (`journal`); who follows it reads that file ([`follow`]), so a slow
//! reader costs no memory. A task that a crash cut off gets `interrupted` as its last event at the next start.

pub mod follow;
mod journal;
mod keep;
mod live;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use canasta_host::Machine;
use canasta_proto::pb;
use canasta_steps::{End, Plan, Probe, Resume, Runner, Step, StepInfo};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use journal::JournalFile;
pub(crate) use live::bound_evidence;
use live::{Live, Tip};

use crate::agent::Life;

/// The most characters of a task's id.
pub const MAX_ID: usize = 200;

/// The id of a task: letters, digits, `.`, `_`, `-` and `:`, at most 200, beginning with a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId(String);

/// The text is not the id of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a task id has 1 to {MAX_ID} letters, digits, '.', '_', '-' or ':', and begins with a letter or digit"
)]
pub struct TaskIdError;

impl FromStr for TaskId {
    type Err = TaskIdError;

    fn from_str(text: &str) -> Result<Self, TaskIdError> {
        let good = (1..=MAX_ID).contains(&text.len())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._-:".contains(&byte))
            && text.as_bytes()[0].is_ascii_alphanumeric();
        good.then(|| Self(text.to_owned())).ok_or(TaskIdError)
    }
}

impl std::fmt::Display for TaskId {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A task can't be started, journaled or found.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// A journal can't be read or written.
    #[error(transparent)]
    File(#[from] canasta_durable::Error),
    /// A line of a journal makes no sense.
    #[error("failed to read the journal {}: line {line} is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Its line, 1 for the header.
        line: u64,
    },
    /// Another task runs.
    #[error("failed to start the task: {running} is still running on this node")]
    Busy {
        /// The task that runs.
        running: TaskId,
    },
    /// The agent is going down.
    #[error("failed to start the task: the agent is shutting down")]
    Stopping,
    /// There is no such task.
    #[error("failed to find the task {id}")]
    Unknown {
        /// Its id.
        id: TaskId,
    },
    /// The thread that did the work ended early.
    #[error("failed to finish work on the journal of a task: the agent is shutting down")]
    Interrupted,
}

/// What a task does: one step, with the message that asked for it.
pub struct Work {
    /// Stable, for the runner and its probe: `k3s-start`.
    pub info: StepInfo,
    /// Does it.
    pub step: Box<dyn Step>,
    /// The message that asked for it, for the head of the journal. Holds no secret.
    pub spec: pb::TaskSpec,
    /// Cancelled by a step that comes to no end while the agent stops: it is let go, and told as interrupted at the next start.
    pub cut: CancellationToken,
}

impl std::fmt::Debug for Work {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Work")
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}

/// All tasks of this node. All clones are the same.
#[derive(Clone)]
pub struct Tasks {
    shared: Arc<Shared>,
}

struct Shared {
    directory: PathBuf,
    machine: Arc<dyn Machine>,
    probe: Arc<dyn Probe>,
    life: Life,
    state: Mutex<State>,
    /// The task that runs; watched by a shutdown.
    running: watch::Sender<Option<TaskId>>,
    /// Held while a task is looked up and its journal is made, and while something is done that no task may run beside.
    starting: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    /// Tasks of this run of the agent that some still follow or that run.
    live: HashMap<TaskId, Arc<Live>>,
    stopping: bool,
}

impl Tasks {
    /// Takes up the journals of earlier runs: what was cut off is marked as interrupted, what is old goes.
    ///
    /// # Errors
    /// When the directory can't be read or written.
    pub async fn load(
        directory: &Path,
        machine: Arc<dyn Machine>,
        probe: Arc<dyn Probe>,
        life: Life,
    ) -> Result<Self, TaskError> {
        let now = machine.now();
        let path = directory.to_path_buf();
        blocking(move || keep::take_up(&path, now)).await?;
        Ok(Self {
            shared: Arc::new(Shared {
                directory: directory.to_path_buf(),
                machine,
                probe,
                life,
                state: Mutex::default(),
                running: watch::Sender::new(None),
                starting: tokio::sync::Mutex::default(),
            }),
        })
    }

    /// Starts a task and answers when its journal is on disk: true. For an id that is known nothing is done: false. What
    /// was begun is brought to its end when the caller goes away meanwhile.
    ///
    /// # Errors
    /// When another task runs, the agent is going down, or the journal can't be written.
    pub async fn start(&self, id: TaskId, work: Work) -> Result<bool, TaskError> {
        let shared = Arc::clone(&self.shared);
        let started = self.shared.life.finish(begin(shared, id, work)).await;
        started.unwrap_or(Err(TaskError::Interrupted))
    }

    /// Does work that no task may run beside, to its end also when whoever waits for it goes away; no task begins meanwhile.
    ///
    /// # Errors
    /// When a task runs or the agent is going down.
    pub async fn exclusive<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, TaskError> {
        let shared = Arc::clone(&self.shared);
        let done = self.shared.life.finish(async move {
            let _starting = shared.starting.lock().await;
            if shared.state().stopping {
                return Err(TaskError::Stopping);
            }
            shared.refuse_if_busy().await?;
            Ok(work.await)
        });
        done.await.unwrap_or(Err(TaskError::Interrupted))
    }

    /// The events of a task after `after_seq`, then those that come, to its end.
    ///
    /// # Errors
    /// When there is no such task.
    pub async fn follow(&self, id: &TaskId, after_seq: u64) -> Result<follow::Follower, TaskError> {
        let _starting = self.shared.starting.lock().await;
        let path = journal::path(&self.shared.directory, id);
        let tip = self.shared.state().live.get(id).map(|live| live.tip());
        let known = {
            let path = path.clone();
            blocking(move || Ok(path.exists())).await?
        };
        if !known {
            return Err(TaskError::Unknown { id: id.clone() });
        }
        // A task that is not live has ended; its file says all.
        let tip = tip.unwrap_or_else(|| watch::channel(Tip::ended()).1);
        Ok(follow::Follower::new(path, after_seq, tip))
    }

    /// The task that runs.
    pub fn running(&self) -> Option<TaskId> {
        self.shared.running.borrow().clone()
    }

    /// Starts nothing more, and resolves when no task runs.
    pub async fn drained(&self) {
        self.shared.state().stopping = true;
        // One that is being started counts already.
        drop(self.shared.starting.lock().await);
        let mut running = self.shared.running.subscribe();
        // The sender lives as long as `self`.
        let _ = running.wait_for(Option::is_none).await;
    }
}

impl std::fmt::Debug for Tasks {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Tasks")
            .field("directory", &self.shared.directory)
            .field("running", &*self.shared.running.borrow())
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    /// A task whose last event is out is over for whoever heard it, so what is left of it is waited for.
    async fn refuse_if_busy(&self) -> Result<(), TaskError> {
        let Some(running) = self.running.borrow().clone() else {
            return Ok(());
        };
        let over = match self.state().live.get(&running) {
            Some(live) => live.tip().borrow().ended,
            None => true,
        };
        if !over {
            return Err(TaskError::Busy { running });
        }
        // The sender lives as long as `self`.
        let _ = self.running.subscribe().wait_for(Option::is_none).await;
        Ok(())
    }
}

/// Makes the journal of a task and sets it going.
async fn begin(shared: Arc<Shared>, id: TaskId, work: Work) -> Result<bool, TaskError> {
    let _starting = shared.starting.lock().await;
    let path = journal::path(&shared.directory, &id);
    let known = {
        let path = path.clone();
        blocking(move || Ok(path.exists())).await?
    };
    if known {
        return Ok(false);
    }
    if shared.state().stopping {
        return Err(TaskError::Stopping);
    }
    shared.refuse_if_busy().await?;
    let (directory, now) = (shared.directory.clone(), shared.machine.now());
    let created = {
        let (id, spec, info) = (id.clone(), work.spec.clone(), work.info.clone());
        shared.life.spawn_blocking(move || {
            keep::prune(&directory, now)?;
            JournalFile::create(&path, &id, &info, &spec, now)
        })
    };
    let file = created.await.unwrap_or(Err(TaskError::Interrupted))?;
    let live = Arc::new(Live::new(
        id.clone(),
        file,
        Arc::clone(&shared.machine),
        shared.life.clone(),
    ));
    shared.state().live.insert(id.clone(), Arc::clone(&live));
    shared.running.send_replace(Some(id.clone()));
    tracing::info!(task = %id, step = work.info.id, "task begins");
    shared.life.spawn(run(Arc::clone(&shared), live, work));
    Ok(true)
}

async fn run(shared: Arc<Shared>, live: Arc<Live>, work: Work) {
    let plan = Plan::new().then(work.info, BoxedStep(work.step));
    let runner = Runner::new(Arc::clone(&live) as Arc<dyn canasta_steps::Journal>)
        .with_probe(Arc::clone(&shared.probe));
    let never = CancellationToken::new();
    let ran = runner.run(&plan, Resume::default(), &never);
    match work.cut.run_until_cancelled(ran).await {
        None => {
            tracing::warn!(task = %live.id(), "task is cut off by the end of the agent");
            live.cut();
        }
        Some(end) => told(&live, end),
    }
    shared.state().live.remove(live.id());
    shared.running.send_replace(None);
}

/// Tells how a task ended.
fn told(live: &Live, end: End) {
    match end {
        End::Succeeded | End::Cancelled => tracing::info!(task = %live.id(), "task ended well"),
        End::Failed(error) => tracing::warn!(
            task = %live.id(),
            reason = error.reason(),
            error = &error as &dyn std::error::Error,
            "task failed"
        ),
        End::Journal(error) => {
            tracing::error!(
                task = %live.id(),
                error = &error as &dyn std::error::Error,
                "the journal of a task can't be written"
            );
            live.broken(&error);
        }
    }
}

/// The runner takes steps by value.
struct BoxedStep(Box<dyn Step>);

#[async_trait::async_trait]
impl Step for BoxedStep {
    async fn run(
        &self,
        reporter: &canasta_steps::Reporter,
    ) -> Result<canasta_steps::Done, canasta_steps::StepError> {
        self.0.run(reporter).await
    }

    async fn undo(&self) -> Result<(), canasta_steps::StepError> {
        self.0.undo().await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TaskError> + Send + 'static,
) -> Result<T, TaskError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or(Err(TaskError::Interrupted))
}

fn timestamp(at: SystemTime) -> prost_types::Timestamp {
    at.into()
}

#[cfg(test)]
mod tests;
