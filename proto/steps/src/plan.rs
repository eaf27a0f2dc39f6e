//! Steps and the order between them. Operations of the controller and tasks of the agent build plans.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use canasta_proto::pb::{StepFinished, StepOutcome};

use crate::{Reporter, StepError};

/// What a step is, for the plan and for every list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepInfo {
    /// Stable within the operation: `push-artefact`.
    pub id: String,
    /// What it does, in words.
    pub title: String,
    /// The host that it works on; empty for work of the controller itself.
    pub host: String,
}

/// How a step ended when it did not fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// How.
    pub outcome: StepOutcome,
    /// What was changed, why it was skipped, or what to heed.
    pub detail: String,
}

impl Done {
    /// Something was changed.
    pub fn changed(detail: impl Into<String>) -> Self {
        Self::new(StepOutcome::Changed, detail)
    }

    /// All was as wanted already.
    pub fn unchanged(detail: impl Into<String>) -> Self {
        Self::new(StepOutcome::Unchanged, detail)
    }

    /// What an earlier run made was damaged or half done, and is whole again.
    pub fn repaired(detail: impl Into<String>) -> Self {
        Self::new(StepOutcome::Repaired, detail)
    }

    /// The step does not apply here, for this reason.
    pub fn skipped(reason: impl Into<String>) -> Self {
        Self::new(StepOutcome::Skipped, reason)
    }

    /// Done, but the operator should read this.
    pub fn warning(text: impl Into<String>) -> Self {
        Self::new(StepOutcome::Warning, text)
    }

    fn new(outcome: StepOutcome, detail: impl Into<String>) -> Self {
        Self {
            outcome,
            detail: detail.into(),
        }
    }
}

impl From<Done> for StepFinished {
    fn from(done: Done) -> Self {
        Self {
            outcome: done.outcome.into(),
            detail: done.detail,
        }
    }
}

/// One piece of work that is safe to run again.
#[async_trait]
pub trait Step: Send + Sync {
    /// Does the work, or finds that it is done. Dropped at a crash or never: not at a cancel, which waits for its end.
    async fn run(&self, reporter: &Reporter) -> Result<Done, StepError>;

    /// Takes back what `run` did when a later step failed. Most steps keep what they did: a re-run goes on from it.
    async fn undo(&self) -> Result<(), StepError> {
        Ok(())
    }
}

/// A plan that can't be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Two steps have the same id.
    #[error("the plan has two steps called {0}")]
    Twice(String),
    /// A step waits for one that does not stand before it.
    #[error("step {step} waits for {after}, which does not stand before it")]
    Order {
        /// The step that waits.
        step: String,
        /// What it waits for.
        after: String,
    },
}

pub(crate) struct Planned {
    pub(crate) info: StepInfo,
    pub(crate) after: Vec<String>,
    pub(crate) step: Arc<dyn Step>,
}

/// A list of steps that can be read aloud.
#[derive(Default)]
pub struct Plan {
    pub(crate) steps: Vec<Planned>,
}

impl Plan {
    /// An empty plan.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a step that begins when the last one in the list has ended.
    pub fn then(self, info: StepInfo, step: impl Step + 'static) -> Self {
        let after = self.steps.last().map(|last| last.info.id.clone());
        self.add(info, after.into_iter().collect(), step)
    }

    /// Appends a step that begins when the named ones, all earlier in the list, have ended.
    pub fn after(self, after: &[&str], info: StepInfo, step: impl Step + 'static) -> Self {
        self.add(info, after.iter().map(|&id| id.to_owned()).collect(), step)
    }

    fn add(mut self, info: StepInfo, after: Vec<String>, step: impl Step + 'static) -> Self {
        self.steps.push(Planned {
            info,
            after,
            step: Arc::new(step),
        });
        self
    }

    /// What the steps are, in order.
    pub fn infos(&self) -> impl Iterator<Item = &StepInfo> {
        self.steps.iter().map(|planned| &planned.info)
    }

    /// Checks that ids are unique and that steps wait only for earlier ones.
    ///
    /// # Errors
    /// Names the first step that breaks a rule.
    pub fn check(&self) -> Result<(), PlanError> {
        let mut seen = HashSet::new();
        for planned in &self.steps {
            if let Some(after) = planned
                .after
                .iter()
                .find(|after| !seen.contains(after.as_str()))
            {
                return Err(PlanError::Order {
                    step: planned.info.id.clone(),
                    after: after.clone(),
                });
            }
            if !seen.insert(planned.info.id.as_str()) {
                return Err(PlanError::Twice(planned.info.id.clone()));
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Plan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.infos()).finish()
    }
}
