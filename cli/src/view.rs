//! What the commands print: the messages of the wire as plain data with stable names, for tables, JSON and YAML.

pub(crate) mod cluster;
pub(crate) mod host;
pub(crate) mod node;
pub(crate) mod operation;
pub(crate) mod people;
pub(crate) mod plan;
pub(crate) mod setup;
pub(crate) mod storage;
pub(crate) mod uninstall;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

/// What programs read when something was removed.
#[derive(Debug, Serialize)]
pub(crate) struct Removed {
    name: String,
    removed: bool,
}

impl Removed {
    pub(crate) fn new(name: String) -> Self {
        Self {
            name,
            removed: true,
        }
    }
}

/// A time of the wire.
pub(crate) fn time(timestamp: Option<prost_types::Timestamp>) -> Option<Timestamp> {
    let timestamp = timestamp?;
    Timestamp::new(timestamp.seconds, timestamp.nanos).ok()
}

/// Where a fact comes from and how old it is.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Origin {
    /// Who said so.
    pub(crate) source: String,
    /// When; null when it was never told.
    pub(crate) observed_at: Option<Timestamp>,
    /// Its age in seconds.
    pub(crate) age_seconds: Option<i64>,
    /// Why it is not known; empty when it is.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) error: String,
}

impl Origin {
    pub(crate) fn new(
        source: String,
        observed_at: Option<prost_types::Timestamp>,
        error: String,
    ) -> Self {
        let observed_at = time(observed_at);
        Self {
            source,
            observed_at,
            age_seconds: observed_at.map(|at| Timestamp::now().duration_since(at).as_secs().max(0)),
            error,
        }
    }
}

/// `3 s`, `12 min`, `5 h`, `9 d`: the time from then to now, for tables.
pub(crate) fn age(at: Option<Timestamp>) -> String {
    at.map_or_else(
        || "-".to_owned(),
        |at| span(Timestamp::now().duration_since(at)),
    )
}

/// A length of time in one unit.
pub(crate) fn span(span: SignedDuration) -> String {
    match span.as_secs() {
        seconds if seconds < 1 => "0 s".to_owned(),
        seconds @ 1..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

/// `512 B`, `1.5 MiB`: a size for people.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
    let mut value = bytes as f64 / 1024.0;
    let mut unit = UNITS[0];
    for next in &UNITS[1..] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

/// The name of an enum value of the wire without its prefix, as words: `HOST_STATE_WAITING_FOR_JOIN` is `waiting for join`.
pub(crate) fn word(name: &str, prefix: &str) -> String {
    match name
        .strip_prefix(prefix)
        .unwrap_or(name)
        .to_ascii_lowercase()
        .replace('_', " ")
    {
        word if word == "unspecified" => "unknown".to_owned(),
        word => word,
    }
}

#[cfg(test)]
mod tests {
    use super::{size, span, word};
    use jiff::SignedDuration;

    #[test]
    fn sizes_and_spans_are_short() {
        assert_eq!(size(12), "12 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(74 * 1024 * 1024), "74.0 MiB");
        assert_eq!(size(1 << 50), "1024.0 TiB");
        assert_eq!(span(SignedDuration::from_secs(-5)), "0 s");
        assert_eq!(span(SignedDuration::from_secs(119)), "119 s");
        assert_eq!(span(SignedDuration::from_secs(120)), "2 min");
        assert_eq!(span(SignedDuration::from_secs(172_800)), "2 d");
    }

    #[test]
    fn enum_names_become_words() {
        assert_eq!(
            word("HOST_STATE_WAITING_FOR_JOIN", "HOST_STATE_"),
            "waiting for join"
        );
        assert_eq!(word("HOST_STATE_UNSPECIFIED", "HOST_STATE_"), "unknown");
    }
}
