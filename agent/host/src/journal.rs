//! The last lines that a unit logged, as evidence for errors and findings.
//!
//! [`Journalctl`] asks the program of that name; with the feature `fake`, `fake::FakeJournal` is a list.

use std::fmt::Debug;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::command;

#[cfg(test)]
mod tests;

/// How long journalctl may take. Large journals on slow disks need seconds.
const LIMIT: Duration = Duration::from_secs(10);

/// How much of journalctl's output is kept.
const CAP: usize = 4 * 1024 * 1024;

/// The most lines that one question may ask for.
pub const MOST_LINES: usize = 2000;

/// The journal couldn't be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// journalctl couldn't be run or said no.
    #[error("failed to read the journal of {unit}")]
    Journalctl {
        /// The unit.
        unit: String,
        /// What came of the program.
        #[source]
        source: command::Error,
    },
}

/// One entry of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// When it was logged; `None` where the entry doesn't say.
    pub time: Option<SystemTime>,
    /// The text, without a trailing newline. Bytes that aren't UTF-8 are replaced.
    pub message: String,
}

/// From where on lines are of interest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Since {
    /// From the beginning of the journal.
    Start,
    /// Lines of one run of the unit ([`crate::systemd::Unit::invocation_id`]), with what systemd said about that run.
    Invocation(String),
    /// Lines from this moment on.
    Time(SystemTime),
}

/// The log of the machine.
#[async_trait]
pub trait Journal: Send + Sync + Debug {
    /// The last `lines` entries (at most [`MOST_LINES`]) of a unit, oldest first.
    async fn tail(&self, unit: &str, lines: usize, since: Since)
    -> Result<Vec<Line>, JournalError>;
}

/// The journal of this machine, read by journalctl.
#[derive(Debug, Clone, Copy)]
pub struct Journalctl;

#[async_trait]
impl Journal for Journalctl {
    async fn tail(
        &self,
        unit: &str,
        lines: usize,
        since: Since,
    ) -> Result<Vec<Line>, JournalError> {
        let output = command::run("journalctl", arguments(unit, lines, &since), LIMIT, CAP)
            .await
            .map_err(|source| JournalError::Journalctl {
                unit: unit.to_owned(),
                source,
            })?;
        Ok(parse(&output.stdout))
    }
}

fn arguments(unit: &str, lines: usize, since: &Since) -> Vec<String> {
    let mut arguments = vec![
        "--no-pager".to_owned(),
        "--quiet".to_owned(),
        "--output=json".to_owned(),
        "--output-fields=MESSAGE".to_owned(),
        format!("--lines={}", lines.min(MOST_LINES)),
    ];
    match since {
        Since::Start => arguments.push(format!("--unit={unit}")),
        Since::Time(time) => {
            let after = time.duration_since(UNIX_EPOCH).unwrap_or_default();
            arguments.push(format!("--unit={unit}"));
            arguments.push(format!(
                "--since=@{}.{:06}",
                after.as_secs(),
                after.subsec_micros()
            ));
        }
        // The first field is on what the unit wrote, the second on what systemd wrote about it.
        Since::Invocation(id) => arguments.extend([
            format!("_SYSTEMD_INVOCATION_ID={id}"),
            "+".to_owned(),
            format!("INVOCATION_ID={id}"),
        ]),
    }
    arguments
}

/// Reads journalctl's JSON, one object a line. Lines that aren't such objects (the last one of a cut output) are left out.
pub fn parse(output: &[u8]) -> Vec<Line> {
    output
        .split(|byte| *byte == b'\n')
        .filter_map(parse_line)
        .collect()
}

fn parse_line(line: &[u8]) -> Option<Line> {
    let entry: serde_json::Value = serde_json::from_slice(line).ok()?;
    let message = message_text(entry.get("MESSAGE")?)?;
    let time = entry
        .get("__REALTIME_TIMESTAMP")
        .and_then(serde_json::Value::as_str)
        .and_then(|text| text.parse().ok())
        .map(|micros| UNIX_EPOCH + Duration::from_micros(micros));
    Some(Line { time, message })
}

/// A message is a string, an array of bytes where it isn't printable text, or null where it was too long to print.
fn message_text(message: &serde_json::Value) -> Option<String> {
    let text = match message {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Array(items) => {
            let bytes: Option<Vec<u8>> = items
                .iter()
                .map(|item| item.as_u64().and_then(|byte| u8::try_from(byte).ok()))
                .collect();
            String::from_utf8_lossy(&bytes?).into_owned()
        }
        serde_json::Value::Null => "(message too long for journalctl to print)".to_owned(),
        _ => return None,
    };
    Some(text.trim_end_matches('\n').to_owned())
}
