//! The place where a test looks into the runner: around every step, it may fail it, stop the world, or run it twice.

use async_trait::async_trait;

use crate::{StepError, StepInfo};

/// Looks on while steps run. Production uses [`NoProbe`].
#[async_trait]
pub trait Probe: Send + Sync {
    /// Before a step is run; an error fails the step instead of running it.
    async fn before(&self, _info: &StepInfo) -> Result<(), StepError> {
        Ok(())
    }

    /// After a step was run and before its end is stored: a crash here leaves work done that no journal knows of.
    async fn after(&self, _info: &StepInfo) -> Result<(), StepError> {
        Ok(())
    }

    /// Whether to run a step a second time right after the first.
    fn run_twice(&self, _info: &StepInfo) -> bool {
        false
    }
}

/// Looks at nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProbe;

#[async_trait]
impl Probe for NoProbe {}
