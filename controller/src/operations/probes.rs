//! What tests put around the steps of any operation, through the options of the controller: each step twice, a failure
//! at a step, and a stop of the world at a step, which is where a test then crashes a daemon.

use async_trait::async_trait;
use canasta_steps::{Probe, StepError, StepInfo};
use tokio::sync::watch;

/// Runs each step twice.
#[derive(Debug, Clone, Copy, Default)]
pub struct EachTwice;

#[async_trait]
impl Probe for EachTwice {
    fn run_twice(&self, _: &StepInfo) -> bool {
        true
    }
}

/// On which side of a step something happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Before it is run.
    Before,
    /// After it was run, and before its end is stored.
    After,
}

/// Fails a step with the reason `INJECTED`.
#[derive(Debug, Clone)]
pub struct FailAt {
    /// The id of the step.
    pub step: String,
    /// On which side.
    pub side: Side,
}

impl FailAt {
    fn check(&self, info: &StepInfo, side: Side) -> Result<(), StepError> {
        if self.side == side && self.step == info.id {
            return Err(StepError::new(
                "INJECTED",
                format!("a test failed the step {}", info.id),
            ));
        }
        Ok(())
    }
}

#[async_trait]
impl Probe for FailAt {
    async fn before(&self, info: &StepInfo) -> Result<(), StepError> {
        self.check(info, Side::Before)
    }

    async fn after(&self, info: &StepInfo) -> Result<(), StepError> {
        self.check(info, Side::After)
    }
}

/// Holds a step for ever, so that a test can stop or kill something there.
#[derive(Debug)]
pub struct HoldAt {
    step: String,
    side: Side,
    reached: watch::Sender<bool>,
}

impl HoldAt {
    /// Holds the step with this id.
    pub fn new(step: impl Into<String>, side: Side) -> Self {
        Self {
            step: step.into(),
            side,
            reached: watch::Sender::new(false),
        }
    }

    /// Waits until the step is held.
    pub async fn reached(&self) {
        // The sender is here, so the wait can't fail.
        let _ = self.reached.subscribe().wait_for(|reached| *reached).await;
    }

    async fn hold(&self, info: &StepInfo, side: Side) {
        if self.side == side && self.step == info.id {
            self.reached.send_replace(true);
            std::future::pending::<()>().await;
        }
    }
}

#[async_trait]
impl Probe for HoldAt {
    async fn before(&self, info: &StepInfo) -> Result<(), StepError> {
        self.hold(info, Side::Before).await;
        Ok(())
    }

    async fn after(&self, info: &StepInfo) -> Result<(), StepError> {
        self.hold(info, Side::After).await;
        Ok(())
    }
}
