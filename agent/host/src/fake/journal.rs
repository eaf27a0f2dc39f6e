//! A journal that is a list.

use std::sync::Mutex;
use std::time::SystemTime;

use async_trait::async_trait;

use super::locked;
use crate::journal::{Journal, JournalError, Line, MOST_LINES, Since};

/// What units logged, in the order in which a test had them do so.
#[derive(Debug, Default)]
pub struct FakeJournal {
    entries: Mutex<Vec<Entry>>,
}

#[derive(Debug)]
struct Entry {
    unit: String,
    invocation: Option<String>,
    line: Line,
}

impl FakeJournal {
    /// Has a unit log a line now. It belongs to any run of the unit.
    pub fn log(&self, unit: &str, message: impl Into<String>) {
        self.push(unit, None, message.into());
    }

    /// Has a unit log a line now, in the run with this invocation id.
    pub fn log_in_run(&self, unit: &str, invocation: &str, message: impl Into<String>) {
        self.push(unit, Some(invocation.to_owned()), message.into());
    }

    fn push(&self, unit: &str, invocation: Option<String>, message: String) {
        let line = Line {
            time: Some(SystemTime::now()),
            message,
        };
        locked(&self.entries).push(Entry {
            unit: unit.to_owned(),
            invocation,
            line,
        });
    }
}

#[async_trait]
impl Journal for FakeJournal {
    async fn tail(
        &self,
        unit: &str,
        lines: usize,
        since: Since,
    ) -> Result<Vec<Line>, JournalError> {
        let wanted = |entry: &&Entry| match &since {
            Since::Start => true,
            Since::Invocation(id) => entry.invocation.as_ref().is_none_or(|own| own == id),
            Since::Time(time) => entry.line.time.is_none_or(|at| at >= *time),
        };
        let entries = locked(&self.entries);
        let of_unit = entries
            .iter()
            .filter(|entry| entry.unit == unit)
            .filter(wanted);
        let mut tail: Vec<Line> = of_unit
            .rev()
            .take(lines.min(MOST_LINES))
            .map(|entry| entry.line.clone())
            .collect();
        tail.reverse();
        Ok(tail)
    }
}
