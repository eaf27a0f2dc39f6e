//! The journal of one task: a file of JSON lines. The first line is the header with what was asked; each further line
//! is one event: readable words for a person, and the message itself, so that it is sent again exactly as it was.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use canasta_proto::pb;
use canasta_proto::pb::watch_task_response::Event;
use canasta_steps::StepInfo;
use jiff::Timestamp;
use prost::Message as _;
use serde::{Deserialize, Serialize};

use super::{TaskError, TaskId, timestamp};

/// What follows the id in the name of the file.
pub(super) const SUFFIX: &str = ".jsonl";

/// Where the journal of a task lies.
pub(super) fn path(directory: &Path, id: &TaskId) -> PathBuf {
    directory.join(format!("{id}{SUFFIX}"))
}

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    task: String,
    step: String,
    title: String,
    asked_at: Timestamp,
    /// `TaskSpec`, base64.
    spec: String,
}

/// Any other line.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    seq: u64,
    at: Timestamp,
    kind: String,
    text: String,
    /// `WatchTaskResponse`, base64.
    event: String,
}

/// A journal that is being written. All calls block.
#[derive(Debug)]
pub(super) struct JournalFile {
    path: PathBuf,
    file: File,
    last_seq: u64,
}

impl JournalFile {
    /// Makes the journal with its header; it is on disk when this returns.
    pub(super) fn create(
        path: &Path,
        id: &TaskId,
        info: &StepInfo,
        spec: &pb::TaskSpec,
        now: SystemTime,
    ) -> Result<Self, TaskError> {
        let header = Header {
            task: id.to_string(),
            step: info.id.clone(),
            title: info.title.clone(),
            asked_at: readable(now),
            spec: STANDARD.encode(spec.encode_to_vec()),
        };
        // Whole or not there at all: nobody has heard of the task before its header is on disk.
        canasta_durable::write(path, &json_line(&header), 0o600)?;
        let file = OpenOptions::new()
            .append(true)
            .mode(0o600)
            .open(path)
            .map_err(|source| canasta_durable::Error::new("open", path, source))?;
        Ok(Self {
            path: path.to_path_buf(),
            file,
            last_seq: 0,
        })
    }

    /// Takes up a journal that a crash may have cut off; a half-written last line is cut away. `None` when its task has
    /// ended.
    pub(super) fn reopen(path: &Path) -> Result<Option<Self>, TaskError> {
        let mut reader = Reader::open(path)?;
        let mut last_seq = 0;
        loop {
            match reader.next() {
                Ok(Some(event)) if is_last(&event) => return Ok(None),
                Ok(Some(event)) => last_seq = event.seq,
                // What follows damage can't be trusted; the task did not get to its end.
                Ok(None) | Err(TaskError::Damaged { .. }) => break,
                Err(error) => return Err(error),
            }
        }
        let file = OpenOptions::new()
            .append(true)
            .open(path)
            .map_err(|source| canasta_durable::Error::new("open", path, source))?;
        file.set_len(reader.position)
            .map_err(|source| canasta_durable::Error::new("cut", path, source))?;
        Ok(Some(Self {
            path: path.to_path_buf(),
            file,
            last_seq,
        }))
    }

    /// The number of the last event.
    pub(super) fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// Appends an event under the next number; it is on disk when this returns.
    pub(super) fn append(
        &mut self,
        event: Event,
        now: SystemTime,
    ) -> Result<pb::WatchTaskResponse, TaskError> {
        let message = pb::WatchTaskResponse {
            seq: self.last_seq + 1,
            at: Some(timestamp(now)),
            event: Some(event),
        };
        let (kind, text) = words(&message);
        let line = json_line(&Line {
            seq: message.seq,
            at: readable(now),
            kind: kind.to_owned(),
            text,
            event: STANDARD.encode(message.encode_to_vec()),
        });
        let before = self.file.metadata().map(|found| found.len());
        let written = self
            .file
            .write_all(&line)
            .and_then(|()| self.file.sync_data());
        if let Err(source) = written {
            // Half a line would make the next one unreadable.
            if let Ok(length) = before {
                let _ = self.file.set_len(length);
            }
            return Err(canasta_durable::Error::new("write", &self.path, source).into());
        }
        self.last_seq = message.seq;
        Ok(message)
    }
}

/// Reads a journal from its first event on, also while it is being written. All calls block.
#[derive(Debug)]
pub(super) struct Reader {
    path: PathBuf,
    file: BufReader<File>,
    /// Where the next whole line begins.
    position: u64,
    line: u64,
}

impl Reader {
    pub(super) fn open(path: &Path) -> Result<Self, TaskError> {
        let file =
            File::open(path).map_err(|source| canasta_durable::Error::new("open", path, source))?;
        let mut reader = Self {
            path: path.to_path_buf(),
            file: BufReader::new(file),
            position: 0,
            line: 0,
        };
        // The header is written whole; an empty file is damage.
        reader.line()?.ok_or_else(|| reader.damaged())?;
        Ok(reader)
    }

    /// The next event, or `None` where the file ends for now.
    pub(super) fn next(&mut self) -> Result<Option<pb::WatchTaskResponse>, TaskError> {
        let begin = self.position;
        let Some(line) = self.line()? else {
            return Ok(None);
        };
        let event = serde_json::from_slice::<Line>(&line)
            .ok()
            .and_then(|line| STANDARD.decode(line.event).ok())
            .and_then(|bytes| pb::WatchTaskResponse::decode(bytes.as_slice()).ok());
        if event.is_none() {
            self.position = begin;
        }
        event.map(Some).ok_or_else(|| self.damaged())
    }

    /// The next whole line; a part of one is left for the next call.
    fn line(&mut self) -> Result<Option<Vec<u8>>, TaskError> {
        let mut line = Vec::new();
        let failed = |source| canasta_durable::Error::new("read", &self.path, source);
        self.file.read_until(b'\n', &mut line).map_err(failed)?;
        if line.last() != Some(&b'\n') {
            self.file
                .seek(SeekFrom::Start(self.position))
                .map_err(failed)?;
            return Ok(None);
        }
        self.position += line.len() as u64;
        self.line += 1;
        Ok(Some(line))
    }

    fn damaged(&self) -> TaskError {
        TaskError::Damaged {
            path: self.path.clone(),
            line: self.line.max(1),
        }
    }
}

/// When a journal was changed last.
pub(super) fn changed_at(path: &Path) -> Result<SystemTime, TaskError> {
    let found = fs::metadata(path).and_then(|found| found.modified());
    Ok(found.map_err(|source| canasta_durable::Error::new("look at", path, source))?)
}

/// True for the event that ends a task.
pub(super) fn is_last(event: &pb::WatchTaskResponse) -> bool {
    matches!(
        event.event,
        Some(Event::Finished(_) | Event::Failed(_) | Event::Interrupted(_))
    )
}

/// What happened, for a person who reads the file.
fn words(message: &pb::WatchTaskResponse) -> (&'static str, String) {
    let report = |error: &Option<pb::ErrorReport>| {
        error
            .as_ref()
            .map(|error| format!("{}: {}", error.reason, error.message))
            .unwrap_or_default()
    };
    match &message.event {
        Some(Event::Started(started)) => ("started", format!("attempt {}", started.attempt)),
        Some(Event::Progress(progress)) => ("progress", progress.message.clone()),
        Some(Event::Retrying(retrying)) => ("retrying", report(&retrying.error)),
        Some(Event::Finished(finished)) => ("finished", finished.detail.clone()),
        Some(Event::Failed(failed)) => ("failed", report(&failed.error)),
        Some(Event::Interrupted(_)) => ("interrupted", "the agent was restarted".to_owned()),
        None => ("unknown", String::new()),
    }
}

fn readable(at: SystemTime) -> Timestamp {
    Timestamp::try_from(at).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn json_line(value: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(value).expect("numbers and text alone");
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests;
