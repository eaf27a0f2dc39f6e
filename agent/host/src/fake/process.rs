//! Processes that are a list, and programs that a test does the work of.

use std::collections::HashMap;
use std::fmt;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;

use super::locked;
use crate::command;
use crate::process::{Process, ProcessError, Processes};

/// What a program printed, and its exit status.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Printed {
    /// On stdout.
    pub stdout: String,
    /// On stderr.
    pub stderr: String,
    /// 0 for success.
    pub status: i32,
}

type Program = Arc<dyn Fn(Vec<String>) -> BoxFuture<'static, Option<Printed>> + Send + Sync>;

/// What runs, as a test has set it.
#[derive(Debug, Default)]
pub struct FakeProcesses {
    state: Mutex<State>,
    programs: Mutex<Programs>,
}

#[derive(Default)]
struct Programs(HashMap<PathBuf, Program>);

impl fmt::Debug for Programs {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.0.keys()).finish()
    }
}

#[derive(Debug, Default)]
struct State {
    running: Vec<Process>,
    /// Numbers of processes that don't end.
    stuck: Vec<u32>,
}

impl FakeProcesses {
    /// Has a process run.
    pub fn add(&self, process: Process) {
        locked(&self.state).running.push(process);
    }

    /// Has the process with this number not end.
    pub fn hold(&self, pid: u32) {
        locked(&self.state).stuck.push(pid);
    }

    /// Has `work` answer for the program at a path, by its arguments; where it answers nothing, what is there is run.
    pub fn on_run<F, R>(&self, program: PathBuf, work: F)
    where
        F: Fn(Vec<String>) -> R + Send + Sync + 'static,
        R: Future<Output = Option<Printed>> + Send + 'static,
    {
        let work: Program = Arc::new(move |arguments| Box::pin(work(arguments)));
        locked(&self.programs).0.insert(program, work);
    }

    /// Numbers of what runs.
    pub fn pids(&self) -> Vec<u32> {
        let state = locked(&self.state);
        state.running.iter().map(|process| process.pid).collect()
    }

    pub(super) fn clear(&self) {
        *locked(&self.state) = State::default();
    }
}

#[async_trait]
impl Processes for FakeProcesses {
    async fn list(&self) -> Result<Vec<Process>, ProcessError> {
        Ok(locked(&self.state).running.clone())
    }

    async fn kill(&self, process: &Process) -> Result<(), ProcessError> {
        let mut state = locked(&self.state);
        if state.stuck.contains(&process.pid) {
            return Ok(());
        }
        let is_it = |other: &Process| (other.pid, other.started) == (process.pid, process.started);
        state.running.retain(|other| !is_it(other));
        // Children of a process that ended belong to PID 1.
        for other in &mut state.running {
            if other.parent == process.pid {
                other.parent = 1;
            }
        }
        Ok(())
    }

    async fn run(
        &self,
        program: &Path,
        arguments: &[&str],
        limit: Duration,
        cap: usize,
    ) -> Result<command::Output, command::Error> {
        let name = program.display().to_string();
        let work = locked(&self.programs).0.get(program).cloned();
        let owned: Vec<String> = arguments.iter().map(|&one| one.to_owned()).collect();
        let printed = match work {
            Some(work) => work(owned.clone()).await,
            None => None,
        };
        match printed {
            None => command::run(&name, arguments, limit, cap).await,
            Some(printed) if printed.status == 0 => Ok(command::Output {
                stdout: printed.stdout.into_bytes(),
                stderr: printed.stderr.into_bytes(),
                truncated: false,
            }),
            Some(printed) => Err(command::Error::Failed {
                program: name,
                args: owned,
                status: ExitStatus::from_raw(printed.status << 8),
                stderr_tail: printed.stderr,
            }),
        }
    }
}
