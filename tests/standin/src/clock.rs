//! Time as the recordings count it: seconds after the start of the process, shortened by a factor. Used by the
//! server and the agent to follow the recorded sequence.

use std::time::{Duration, Instant};

/// Recorded seconds turn into this share of a second unless told otherwise: a start of 20 s takes one.
pub const DEFAULT_SCALE: f64 = 0.05;

/// A start time and a factor.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
    scale: f64,
}

impl Clock {
    /// Begins now; a recorded second lasts `scale` real ones.
    pub fn new(scale: f64) -> Self {
        Self {
            start: Instant::now(),
            scale: if scale.is_finite() && scale >= 0.0 {
                scale
            } else {
                DEFAULT_SCALE
            },
        }
    }

    /// How long `seconds` of the recording last here.
    pub fn scaled(&self, seconds: f64) -> Duration {
        Duration::from_secs_f64((seconds * self.scale).max(0.0))
    }

    /// How long ago the start was, not scaled.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Waits until the moment that was `seconds` after the start in the recording.
    pub async fn at(&self, seconds: f64) {
        tokio::time::sleep_until((self.start + self.scaled(seconds)).into()).await;
    }

    /// Waits for `seconds` of the recording from now.
    pub async fn wait(&self, seconds: f64) {
        tokio::time::sleep(self.scaled(seconds)).await;
    }

    /// Waits until `elapsed` after the start, not scaled.
    pub async fn at_real(&self, elapsed: Duration) {
        tokio::time::sleep_until((self.start + elapsed).into()).await;
    }
}

/// Now, as Kubernetes writes a time: whole seconds, UTC.
pub fn kubernetes_now() -> String {
    jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string()
}

/// Now with microseconds, as a Lease writes its renewal.
pub fn kubernetes_now_micros() -> String {
    jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%S%.6fZ")
        .to_string()
}
