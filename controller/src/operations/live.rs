//! A running operation: stores its events, then tells them to those who watch. The runner writes to it as its journal.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use canasta_proto::pb;
use canasta_proto::pb::operation_event::Event;
use canasta_steps::{Journal, JournalError, StepEvent};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::stamp;
use crate::logging::line;
use crate::store::{self, Store};

/// How long a database that something else holds is waited for, besides SQLite's own patience.
const BUSY_PATIENCE: Duration = Duration::from_secs(60);
const BUSY_PAUSE: Duration = Duration::from_millis(250);

/// What watchers are woken by. It only tells that there is more to read, never what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// The number of the last stored event.
    pub(super) seq: u64,
    /// Grows with each progress.
    pub(super) progress: u64,
    /// The last event is stored.
    pub(super) ended: bool,
    /// The controller stops; the operation goes on after its next start.
    pub(super) stopped: bool,
}

/// The last progress of each running step, with the number that it was told under.
#[derive(Debug, Default)]
struct LastProgress {
    told: u64,
    of_steps: BTreeMap<String, (u64, prost_types::Timestamp, pb::StepProgress)>,
}

/// A running operation.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) id: String,
    pub(super) cancel: CancellationToken,
    /// Taken up again while it was being cancelled: what ran is finished first, so the cancel comes once it runs again.
    cancel_once_begun: AtomicBool,
    store: Store,
    /// The number of the last stored event; held while the next one is stored.
    seq: tokio::sync::Mutex<u64>,
    told: watch::Sender<Told>,
    progress: Mutex<LastProgress>,
}

impl Live {
    /// An operation whose last stored event has this number.
    pub(super) fn new(id: String, store: Store, seq: u64) -> Self {
        let told = Told {
            seq,
            ..Told::default()
        };
        Self {
            id,
            cancel: CancellationToken::new(),
            cancel_once_begun: AtomicBool::new(false),
            store,
            seq: tokio::sync::Mutex::new(seq),
            told: watch::Sender::new(told),
            progress: Mutex::default(),
        }
    }

    /// Cancels as soon as a step has begun, so that this step is brought to its end.
    pub(super) fn cancel_once_begun(&self) {
        self.cancel_once_begun.store(true, Ordering::Relaxed);
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Told> {
        self.told.subscribe()
    }

    /// The last progress of each step that was told after `seen`, oldest first, as events.
    pub(super) fn progress_after(&self, seen: u64, seq: u64) -> Vec<pb::OperationEvent> {
        let progress = self.progress.lock().expect("no holder panics");
        let mut news: Vec<_> = progress
            .of_steps
            .iter()
            .filter(|(_, (told, ..))| *told > seen)
            .collect();
        news.sort_by_key(|(_, (told, ..))| *told);
        news.into_iter()
            .map(|(step, (_, at, progress))| pb::OperationEvent {
                operation_id: self.id.clone(),
                seq,
                at: Some(*at),
                step_id: step.clone(),
                event: Some(Event::Progress(progress.clone())),
            })
            .collect()
    }

    /// Fills in the last progress of running steps, which is not in the database.
    pub(super) fn fill_progress(&self, operation: &mut pb::Operation) {
        let progress = self.progress.lock().expect("no holder panics");
        for step in &mut operation.steps {
            step.progress = progress
                .of_steps
                .get(&step.id)
                .map(|(_, _, progress)| progress.clone());
        }
    }

    /// Stores the end. Watchers hear of it by [`Live::tell_end`].
    pub(super) async fn store_end(&self, ended: &pb::OperationEnded) -> Result<(), store::Error> {
        let mut seq = self.seq.lock().await;
        let event = self.event(*seq + 1, "", Event::Ended(ended.clone()));
        self.store.end_operation(&event, ended).await?;
        *seq += 1;
        Ok(())
    }

    /// Tells the stored end.
    pub(super) async fn tell_end(&self) {
        let seq = *self.seq.lock().await;
        self.told.send_modify(|told| {
            told.seq = seq;
            told.ended = true;
        });
    }

    /// Tells that the controller stops.
    pub(super) fn tell_stop(&self) {
        self.told.send_modify(|told| told.stopped = true);
    }

    fn event(&self, seq: u64, step: &str, event: Event) -> pb::OperationEvent {
        pb::OperationEvent {
            operation_id: self.id.clone(),
            seq,
            at: Some(stamp::now()),
            step_id: step.to_owned(),
            event: Some(event),
        }
    }

    /// Stores an event. A database that something else holds, such as a backup, is waited for: work that goes well on a node
    /// is not to be cut off by that.
    async fn append(&self, event: &pb::OperationEvent) -> Result<(), store::Error> {
        let deadline = Instant::now() + BUSY_PATIENCE;
        loop {
            match self.store.append_step_event(event).await {
                Err(error @ store::Error::Busy { .. }) if Instant::now() < deadline => {
                    tracing::warn!(
                        operation = self.id,
                        error = line(&error),
                        "an event could not be stored yet; trying again"
                    );
                    tokio::time::sleep(BUSY_PAUSE).await;
                }
                ended => return ended,
            }
        }
    }

    fn keep_progress(&self, step: &str, news: pb::StepProgress) {
        let told = {
            let mut progress = self.progress.lock().expect("no holder panics");
            progress.told += 1;
            let told = progress.told;
            progress
                .of_steps
                .insert(step.to_owned(), (told, stamp::now(), news));
            told
        };
        self.told.send_modify(|last| last.progress = told);
    }

    fn forget_progress(&self, step: &str) {
        let mut progress = self.progress.lock().expect("no holder panics");
        progress.of_steps.remove(step);
    }
}

#[async_trait]
impl Journal for Live {
    async fn record(&self, step: &str, event: StepEvent) -> Result<(), JournalError> {
        let event = match event {
            StepEvent::Progress(progress) => {
                self.keep_progress(step, progress);
                return Ok(());
            }
            StepEvent::Started(started) => Event::Started(started),
            StepEvent::Retrying(retrying) => Event::Retrying(retrying),
            StepEvent::Finished(finished) => Event::Finished(finished),
            StepEvent::Failed(failed) => Event::Failed(failed),
        };
        let begun = matches!(event, Event::Started(_));
        if !matches!(event, Event::Retrying(_)) {
            self.forget_progress(step);
        }
        let mut seq = self.seq.lock().await;
        let event = self.event(*seq + 1, step, event);
        self.append(&event)
            .await
            .map_err(|error| JournalError(Box::new(error)))?;
        *seq += 1;
        self.told.send_modify(|told| told.seq = event.seq);
        if begun && self.cancel_once_begun.load(Ordering::Relaxed) {
            self.cancel.cancel();
        }
        Ok(())
    }
}
