//! How a running step tells of its progress and of what it tries again.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use canasta_proto::pb;
use tokio::time::Instant;

use crate::{Journal, StepError, StepEvent};

/// At most four progress events a second go out; the ones between are dropped, for each holds all that the last did.
const PROGRESS_PAUSE: Duration = Duration::from_millis(250);

/// Tells of one running step.
#[derive(Clone)]
pub struct Reporter {
    step: String,
    attempt: u32,
    journal: Arc<dyn Journal>,
    last_progress: Arc<Mutex<Option<Instant>>>,
}

impl Reporter {
    pub(crate) fn new(step: String, attempt: u32, journal: Arc<dyn Journal>) -> Self {
        Self {
            step,
            attempt,
            journal,
            last_progress: Arc::default(),
        }
    }

    /// 1 for the first attempt; grows with each time the step is run again.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Tells how far the step has come. Cheap to call often.
    pub async fn progress(&self, progress: pb::StepProgress) {
        let now = Instant::now();
        let complete = progress.total > 0 && progress.done >= progress.total;
        {
            let mut last = self.last_progress.lock().expect("no holder panics");
            if !complete && last.is_some_and(|last| now.duration_since(last) < PROGRESS_PAUSE) {
                return;
            }
            *last = Some(now);
        }
        self.record(StepEvent::Progress(progress)).await;
    }

    /// Tells what the step is doing right now, in words.
    pub async fn message(&self, message: impl Into<String>) {
        self.progress(pb::StepProgress {
            message: message.into(),
            ..pb::StepProgress::default()
        })
        .await;
    }

    /// Tells that something did not work and is tried again after `delay`.
    pub async fn retrying(&self, error: StepError, delay: Duration) {
        self.record(StepEvent::Retrying(pb::StepRetrying {
            error: Some(error.into()),
            delay_ms: u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
        }))
        .await;
    }

    async fn record(&self, event: StepEvent) {
        // What is told here changes no state; a journal that is broken fails the step at its end.
        if let Err(error) = self.journal.record(&self.step, event).await {
            tracing::warn!(
                step = self.step,
                error = &error as &dyn std::error::Error,
                "progress was not recorded"
            );
        }
    }
}

impl fmt::Debug for Reporter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Reporter")
            .field("step", &self.step)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}
