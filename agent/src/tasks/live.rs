//! A task that runs: writes its events and tells followers how far the file goes.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use canasta_host::Machine;
use canasta_proto::pb;
use canasta_proto::pb::watch_task_response::Event;
use canasta_steps::{Journal, JournalError, StepEvent};
use tokio::sync::watch;

use super::journal::JournalFile;
use super::{TaskError, TaskId, timestamp};
use crate::agent::Life;

/// The most lines of one piece of evidence, and the most bytes of one line: as the contract says.
const EVIDENCE_LINES: usize = 200;
const LINE_BYTES: usize = 4096;
/// The most bytes of all evidence of one event together, so that an event fits into a message with room to spare.
const EVIDENCE_BYTES: usize = 1024 * 1024;

/// How far a task has come.
#[derive(Debug, Clone, Default)]
pub(super) struct Tip {
    /// The number of the last event on disk.
    pub(super) stored: u64,
    /// The last progress, when it came after the last event on disk.
    pub(super) progress: Option<Arc<pb::WatchTaskResponse>>,
    /// The task has ended.
    pub(super) ended: bool,
    /// The end that could not be written to the file.
    pub(super) unwritten: Option<Arc<pb::WatchTaskResponse>>,
    /// The task comes to no end in this run of the agent.
    pub(super) cut: bool,
}

impl Tip {
    /// Of a task whose file holds all.
    pub(super) fn ended() -> Self {
        Self {
            ended: true,
            ..Self::default()
        }
    }
}

/// A task that runs.
pub(super) struct Live {
    id: TaskId,
    /// Taken out while a blocking thread writes.
    file: tokio::sync::Mutex<Option<JournalFile>>,
    machine: Arc<dyn Machine>,
    life: Life,
    tip: watch::Sender<Tip>,
    last_seq: Mutex<u64>,
}

impl Live {
    pub(super) fn new(
        id: TaskId,
        file: JournalFile,
        machine: Arc<dyn Machine>,
        life: Life,
    ) -> Self {
        Self {
            id,
            file: tokio::sync::Mutex::new(Some(file)),
            machine,
            life,
            tip: watch::Sender::new(Tip::default()),
            last_seq: Mutex::new(0),
        }
    }

    pub(super) fn id(&self) -> &TaskId {
        &self.id
    }

    pub(super) fn tip(&self) -> watch::Receiver<Tip> {
        self.tip.subscribe()
    }

    /// Tells followers that the task is over although its file can't say so.
    pub(super) fn broken(&self, error: &JournalError) {
        let report = canasta_steps::StepError::from_source("JOURNAL_NOT_WRITTEN", error)
            .subject(super::super::paths::TASKS)
            .hint("make room on the node's disk and run the command again; every step is safe to run again");
        let message = self.message(
            *self.last_seq.lock().expect("no holder panics") + 1,
            Event::Failed(pb::StepFailed {
                error: Some(report.into()),
            }),
        );
        self.tip.send_modify(|tip| {
            tip.unwritten = Some(Arc::new(message));
            tip.ended = true;
        });
    }

    /// Tells followers that there will be no more of the task before the next start of the agent.
    pub(super) fn cut(&self) {
        self.tip.send_modify(|tip| tip.cut = true);
    }

    fn message(&self, seq: u64, event: Event) -> pb::WatchTaskResponse {
        pb::WatchTaskResponse {
            seq,
            at: Some(timestamp(self.machine.now())),
            event: Some(event),
        }
    }

    async fn store(&self, event: Event) -> Result<(), TaskError> {
        let mut place = self.file.lock().await;
        let mut file = place.take().ok_or(TaskError::Interrupted)?;
        let now = self.machine.now();
        let (file, written) = self
            .life
            .spawn_blocking(move || {
                let written = file.append(event, now);
                (file, written)
            })
            .await
            .map_err(|_| TaskError::Interrupted)?;
        *self.last_seq.lock().expect("no holder panics") = file.last_seq();
        *place = Some(file);
        let message = written?;
        self.tip.send_modify(|tip| {
            tip.stored = message.seq;
            tip.progress = None;
            tip.ended = super::journal::is_last(&message);
        });
        Ok(())
    }
}

#[async_trait]
impl Journal for Live {
    async fn record(&self, _step: &str, event: StepEvent) -> Result<(), JournalError> {
        let event = match event {
            StepEvent::Progress(progress) => {
                let seq = *self.last_seq.lock().expect("no holder panics");
                let message = Arc::new(self.message(seq, Event::Progress(progress)));
                self.tip.send_modify(|tip| tip.progress = Some(message));
                return Ok(());
            }
            StepEvent::Started(started) => Event::Started(started),
            StepEvent::Retrying(mut retrying) => {
                retrying.error.as_mut().map(bound);
                Event::Retrying(retrying)
            }
            StepEvent::Finished(finished) => Event::Finished(finished),
            StepEvent::Failed(mut failed) => {
                failed.error.as_mut().map(bound);
                Event::Failed(failed)
            }
        };
        self.store(event)
            .await
            .map_err(|error| JournalError(Box::new(error)))
    }
}

/// Keeps the end of evidence that is longer than the contract allows.
fn bound(report: &mut pb::ErrorReport) {
    let mut left = EVIDENCE_BYTES;
    for evidence in &mut report.evidence {
        bound_evidence(evidence, &mut left);
    }
}

/// Keeps the last lines of a piece of evidence, within the contract's bounds and within `left` bytes.
pub(crate) fn bound_evidence(evidence: &mut pb::Evidence, left: &mut usize) {
    let lines = std::mem::take(&mut evidence.lines);
    let mut kept = Vec::new();
    for mut line in lines.into_iter().rev().take(EVIDENCE_LINES) {
        if line.len() > LINE_BYTES {
            let end = (0..=LINE_BYTES)
                .rev()
                .find(|&end| line.is_char_boundary(end))
                .unwrap_or(0);
            line.truncate(end);
        }
        if line.len() > *left {
            break;
        }
        *left -= line.len();
        kept.push(line);
    }
    kept.reverse();
    evidence.lines = kept;
}

#[cfg(test)]
mod tests {
    use super::{EVIDENCE_BYTES, EVIDENCE_LINES, LINE_BYTES, bound};
    use canasta_proto::pb;

    #[test]
    fn evidence_keeps_its_end_within_bounds() {
        let evidence = |line: &str, count: usize| pb::Evidence {
            lines: (0..count)
                .map(|number| format!("{number} {line}"))
                .collect(),
            ..pb::Evidence::default()
        };
        let mut report = pb::ErrorReport {
            evidence: vec![evidence("a", 500), evidence(&"ü".repeat(5000), 500)],
            ..pb::ErrorReport::default()
        };
        bound(&mut report);
        assert_eq!(report.evidence[0].lines.len(), EVIDENCE_LINES);
        assert_eq!(report.evidence[0].lines[EVIDENCE_LINES - 1], "499 a");
        assert!(
            report.evidence[1]
                .lines
                .iter()
                .all(|line| line.len() <= LINE_BYTES)
        );
        let total: usize = report
            .evidence
            .iter()
            .flat_map(|one| &one.lines)
            .map(String::len)
            .sum();
        assert!(total <= EVIDENCE_BYTES);
    }
}
