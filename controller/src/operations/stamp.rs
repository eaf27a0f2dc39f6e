//! Times between the wire, the database (milliseconds since 1970) and this machine's clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost_types::Timestamp;

/// Now, as it is stored: whole milliseconds.
pub(crate) fn now() -> Timestamp {
    from_millis(now_millis())
}

/// Now, in milliseconds since 1970.
pub(crate) fn now_millis() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// A stored time for the wire.
pub(crate) fn from_millis(millis: i64) -> Timestamp {
    let nanos = i32::try_from(millis.rem_euclid(1000)).unwrap_or(0) * 1_000_000;
    Timestamp {
        seconds: millis.div_euclid(1000),
        nanos,
    }
}

/// A time of the wire for the database.
pub(crate) fn to_millis(at: Timestamp) -> i64 {
    at.seconds
        .saturating_mul(1000)
        .saturating_add(i64::from(at.nanos / 1_000_000))
}

#[cfg(test)]
mod tests {
    use super::{from_millis, to_millis};

    #[test]
    fn a_stored_time_comes_back() {
        for millis in [0, 1, 999, 1000, 1_764_000_000_123, -1] {
            assert_eq!(to_millis(from_millis(millis)), millis);
        }
    }
}
