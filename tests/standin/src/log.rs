//! Log lines in k3s's form (`time="…" level=… msg="…"`), written to stderr by the program and kept or dropped by
//! tests. Every part of the stand-in logs through this.

use std::fmt;
use std::io::Write as _;
use std::sync::{Arc, Mutex};

/// The severity of a line, by k3s's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Normal events.
    Info,
    /// Something is odd.
    Warning,
    /// Something failed and is tried again.
    Error,
    /// The last line before the process ends.
    Fatal,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Fatal => "fatal",
        }
    }
}

type Sink = dyn Fn(Level, &str) + Send + Sync;

/// The lines that a test's log has kept.
pub type Lines = Arc<Mutex<Vec<(Level, String)>>>;

/// Where lines go. Cheap to clone.
#[derive(Clone)]
pub struct Log(Arc<Sink>);

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Log")
    }
}

impl Log {
    /// Lines in k3s's form on stderr, which systemd puts into the journal.
    pub fn stderr() -> Self {
        Self(Arc::new(|level, message| {
            // A journal that is gone must not end the program.
            let _ = writeln!(std::io::stderr(), "{}", line(level, message));
        }))
    }

    /// Lines in k3s's form for a journal other than systemd's.
    pub fn lines(sink: impl Fn(String) + Send + Sync + 'static) -> Self {
        Self(Arc::new(move |level, message: &str| {
            sink(line(level, message));
        }))
    }

    /// No lines at all.
    pub fn silent() -> Self {
        Self(Arc::new(|_, _| {}))
    }

    /// Keeps the messages for a test to look at.
    pub fn captured() -> (Self, Lines) {
        let lines = Lines::default();
        let sink = Arc::clone(&lines);
        let log = Self(Arc::new(move |level, message: &str| {
            if let Ok(mut lines) = sink.lock() {
                lines.push((level, message.to_owned()));
            }
        }));
        (log, lines)
    }

    /// Writes one line of level info.
    pub fn info(&self, message: impl AsRef<str>) {
        (self.0)(Level::Info, message.as_ref());
    }

    /// Writes one line of level warning.
    pub fn warning(&self, message: impl AsRef<str>) {
        (self.0)(Level::Warning, message.as_ref());
    }

    /// Writes one line of level error.
    pub fn error(&self, message: impl AsRef<str>) {
        (self.0)(Level::Error, message.as_ref());
    }

    /// Writes the line that comes before an exit.
    pub fn fatal(&self, message: impl AsRef<str>) {
        (self.0)(Level::Fatal, message.as_ref());
    }
}

pub(crate) fn line(level: Level, message: &str) -> String {
    let time = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.9fZ");
    let message = message
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n");
    format!("time=\"{time}\" level={} msg=\"{message}\"", level.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_escaped_as_in_the_recordings() {
        let line = line(Level::Error, "Get \"https://x\": EOF");
        assert!(line.starts_with("time=\"20"), "{line}");
        assert!(
            line.ends_with("level=error msg=\"Get \\\"https://x\\\": EOF\""),
            "{line}"
        );
    }
}
