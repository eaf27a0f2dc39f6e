//! Reading a task's events as they come: from the file, woken by the task that writes it. Holds a few events at most.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use canasta_proto::pb;
use tokio::sync::watch;

use super::journal::{Reader, is_last};
use super::live::Tip;
use super::{TaskError, blocking};

/// Events that are read at a time.
const BATCH: usize = 8;

/// Reads the events of one task.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    after_seq: u64,
    tip: watch::Receiver<Tip>,
    reader: Option<Reader>,
    ready: VecDeque<pb::WatchTaskResponse>,
    sent_progress: Option<Arc<pb::WatchTaskResponse>>,
    done: bool,
}

impl Follower {
    pub(super) fn new(path: PathBuf, after_seq: u64, tip: watch::Receiver<Tip>) -> Self {
        Self {
            path,
            after_seq,
            tip,
            reader: None,
            ready: VecDeque::new(),
            sent_progress: None,
            done: false,
        }
    }

    /// The next event; `None` after the one that ended the task.
    ///
    /// # Errors
    /// When the journal can't be read.
    pub async fn next(&mut self) -> Result<Option<pb::WatchTaskResponse>, TaskError> {
        loop {
            if !self.ready.is_empty() && !self.is_told() {
                self.wait().await;
                continue;
            }
            if let Some(event) = self.ready.pop_front() {
                self.done = self.done || is_last(&event);
                if event.seq > self.after_seq {
                    return Ok(Some(event));
                }
                continue;
            }
            if self.done {
                return Ok(None);
            }
            // Taken before reading, so that what comes in between wakes us.
            let tip = self.tip.borrow_and_update().clone();
            self.read().await?;
            if !self.ready.is_empty() {
                continue;
            }
            if let Some(end) = tip.unwritten {
                self.done = true;
                return Ok(Some((*end).clone()));
            }
            if tip.cut {
                self.done = true;
                return Err(TaskError::Interrupted);
            }
            if tip.ended {
                // The file ends without an end only where someone cut it.
                self.done = true;
                continue;
            }
            if let Some(progress) = tip.progress
                && !self
                    .sent_progress
                    .as_ref()
                    .is_some_and(|sent| Arc::ptr_eq(sent, &progress))
            {
                self.sent_progress = Some(Arc::clone(&progress));
                return Ok(Some((*progress).clone()));
            }
            self.wait().await;
        }
    }

    /// Whether the task has told of the next event. One that is on disk alone is held back: whoever hears of the end may
    /// start the next task at once, and would be refused.
    fn is_told(&mut self) -> bool {
        let tip = self.tip.borrow_and_update();
        let told = |event: &pb::WatchTaskResponse| tip.ended || event.seq <= tip.stored;
        self.ready.front().is_some_and(told)
    }

    async fn wait(&mut self) {
        if self.tip.changed().await.is_err() {
            // The task is gone; what it wrote last is in the file.
            self.tip = watch::channel(Tip::ended()).1;
        }
    }

    async fn read(&mut self) -> Result<(), TaskError> {
        let (reader, path) = (self.reader.take(), self.path.clone());
        let (reader, events) = blocking(move || {
            let mut reader = match reader {
                Some(reader) => reader,
                None => Reader::open(&path)?,
            };
            let mut events = VecDeque::new();
            while events.len() < BATCH {
                match reader.next()? {
                    Some(event) => events.push_back(event),
                    None => break,
                }
            }
            Ok((reader, events))
        })
        .await?;
        self.reader = Some(reader);
        self.ready = events;
        Ok(())
    }
}
