//! Processes that are a list.

use std::sync::Mutex;

use async_trait::async_trait;

use super::locked;
use crate::process::{Process, ProcessError, Processes};

/// What runs, as a test has set it.
#[derive(Debug, Default)]
pub struct FakeProcesses {
    state: Mutex<State>,
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
}
