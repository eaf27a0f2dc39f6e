//! Errands below the fake host's directory. Directories are real ones; programs are what a test makes of them.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;

use super::locked;
use crate::files::Root;
use crate::outside::{Answer, Errand, Outside, OutsideError, Program, Ran, place};

type OnRun = Arc<dyn Fn(&Root, &Program) -> Ran + Send + Sync>;

/// What is done outside of the sandbox, in a test.
pub struct FakeOutside {
    root: Root,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    ran: Vec<Program>,
    on_run: Option<OnRun>,
}

impl fmt::Debug for FakeOutside {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("FakeOutside")
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}

impl FakeOutside {
    pub(super) fn new(root: Root) -> Self {
        Self {
            root,
            state: Mutex::default(),
        }
    }

    /// Has `work` stand for all programs; without it they end well and do nothing.
    pub fn on_run(&self, work: impl Fn(&Root, &Program) -> Ran + Send + Sync + 'static) {
        locked(&self.state).on_run = Some(Arc::new(work));
    }

    /// The programs that were run, in order.
    pub fn ran(&self) -> Vec<Program> {
        locked(&self.state).ran.clone()
    }

    fn run(&self, program: &Program) -> Ran {
        let work = {
            let mut state = locked(&self.state);
            state.ran.push(program.clone());
            state.on_run.clone()
        };
        work.map(|work| work(&self.root, program))
            .unwrap_or_default()
    }
}

#[async_trait]
impl Outside for FakeOutside {
    async fn perform(&self, errand: &Errand, _limit: Duration) -> Result<Answer, OutsideError> {
        Ok(match errand {
            Errand::Run(program) | Errand::Finish(program) => Answer::Ran(self.run(program)),
            Errand::Look(path) => place::look(&self.root, path),
            Errand::Make(path) => place::make(&self.root, path),
        })
    }
}
