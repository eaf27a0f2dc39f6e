//! Where the runner writes what happens. The controller's journal is its database, the agent's a file a task.

use async_trait::async_trait;
use canasta_proto::pb;

/// Something that happened to one step.
#[derive(Debug, Clone, PartialEq)]
pub enum StepEvent {
    /// It has begun.
    Started(pb::StepStarted),
    /// It has come further. Not stored one by one: the journal keeps the last.
    Progress(pb::StepProgress),
    /// Something is tried again.
    Retrying(pb::StepRetrying),
    /// It has ended well.
    Finished(pb::StepFinished),
    /// It has failed.
    Failed(pb::StepFailed),
}

impl StepEvent {
    /// True for events that must be on disk before anyone hears of them: all but progress.
    pub fn is_stored(&self) -> bool {
        !matches!(self, Self::Progress(_))
    }
}

/// The journal could not be written; the work stops, because nobody could take it up again.
#[derive(Debug, thiserror::Error)]
#[error("failed to write the journal")]
pub struct JournalError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// Stores the events of one operation or task and tells them to those who watch.
#[async_trait]
pub trait Journal: Send + Sync {
    /// Stores an event and then tells it; progress is told and only its last value kept.
    async fn record(&self, step: &str, event: StepEvent) -> Result<(), JournalError>;
}
