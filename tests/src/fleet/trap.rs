//! What a test does to steps while they run: fails one, holds one so that a daemon can be killed there, runs each twice.
//! The controller has one around the steps of operations, each agent one around its tasks.

use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use canasta_steps::{Probe, StepError, StepInfo};
use tokio::sync::watch;

/// Around which side of a step's work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Before it: nothing was done.
    Before,
    /// After it, before its end is written down: all was done and nobody knows.
    After,
}

/// Both moments, for loops.
pub const MOMENTS: [Moment; 2] = [Moment::Before, Moment::After];

/// A probe that a test sets while the daemon runs.
#[derive(Debug, Default)]
pub struct Trap {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    set: Option<Set>,
    twice: bool,
    seen: Vec<String>,
}

#[derive(Debug)]
struct Set {
    step: String,
    moment: Moment,
    act: Act,
}

#[derive(Debug)]
enum Act {
    Fail,
    Hold {
        reached: watch::Sender<bool>,
        go: watch::Receiver<bool>,
    },
}

/// A step that is held, or will be.
#[derive(Debug)]
pub struct Held {
    step: String,
    reached: watch::Receiver<bool>,
    go: watch::Sender<bool>,
}

impl Held {
    /// Waits until the step is held.
    ///
    /// # Panics
    /// When it never is.
    pub async fn reached(&mut self) {
        let what = format!("the step {} to be reached", self.step);
        let reached = self.reached.wait_for(|reached| *reached);
        super::within(&what, reached)
            .await
            .expect("the trap lives as long as the fleet");
    }

    /// Lets the step go on.
    pub fn release(self) {
        self.go.send_replace(true);
    }
}

impl Trap {
    /// Fails the next run of this step, with the reason `INJECTED`.
    pub fn fail(&self, step: &str, moment: Moment) {
        self.set(step, moment, Act::Fail);
    }

    /// Holds the next run of this step until it is released; for ever when the handle is dropped.
    pub fn hold(&self, step: &str, moment: Moment) -> Held {
        let (tell, reached) = watch::channel(false);
        let (go, wait) = watch::channel(false);
        self.set(
            step,
            moment,
            Act::Hold {
                reached: tell,
                go: wait,
            },
        );
        Held {
            step: step.to_owned(),
            reached,
            go,
        }
    }

    /// Runs every step a second time right after the first, from now on or no more.
    pub fn run_twice(&self, twice: bool) {
        self.lock().twice = twice;
    }

    /// The steps that began since the last call, in order.
    pub fn take_seen(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().seen)
    }

    fn set(&self, step: &str, moment: Moment, act: Act) {
        self.lock().set = Some(Set {
            step: step.to_owned(),
            moment,
            act,
        });
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn strike(&self, info: &StepInfo, moment: Moment) -> Result<(), StepError> {
        let fits = |set: &mut Set| set.step == info.id && set.moment == moment;
        let struck = self.lock().set.take_if(fits);
        match struck.map(|set| set.act) {
            None => Ok(()),
            Some(Act::Fail) => Err(StepError::new("INJECTED", "a failure was injected")
                .subject(&info.id)
                .hint("this is a test")),
            Some(Act::Hold { reached, mut go }) => {
                reached.send_replace(true);
                if go.wait_for(|go| *go).await.is_err() {
                    std::future::pending::<()>().await;
                }
                Ok(())
            }
        }
    }
}

#[async_trait]
impl Probe for Trap {
    async fn before(&self, info: &StepInfo) -> Result<(), StepError> {
        self.lock().seen.push(info.id.clone());
        self.strike(info, Moment::Before).await
    }

    async fn after(&self, info: &StepInfo) -> Result<(), StepError> {
        self.strike(info, Moment::After).await
    }

    fn run_twice(&self, _info: &StepInfo) -> bool {
        self.lock().twice
    }
}
