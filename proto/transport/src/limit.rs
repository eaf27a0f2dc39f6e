//! Limits on what callers may cost that nobody knows, or that were refused: calls by source address, rows in the audit
//! trail, lines in the log. The controller's gate and the agent's port use them; [`listen`](crate::listen) tells sources
//! apart by [`source`].

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A bucket that refills at a steady rate.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: f64,
    at: Instant,
}

/// How much may come at once, and how much a second in the long run.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// What may come at once after a quiet time.
    pub burst: f64,
    /// What may come each second in the long run.
    pub per_second: f64,
}

impl Bucket {
    fn full(rate: Rate, now: Instant) -> Self {
        Self {
            left: rate.burst,
            at: now,
        }
    }

    fn refill(&mut self, rate: Rate, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + passed * rate.per_second).min(rate.burst);
        self.at = now;
    }

    /// Takes one out; where there is none, after how long there will be.
    fn take(&mut self, rate: Rate, now: Instant) -> Result<(), Duration> {
        self.refill(rate, now);
        if self.left < 1.0 {
            let seconds = (1.0 - self.left) / rate.per_second;
            return Err(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX));
        }
        self.left -= 1.0;
        Ok(())
    }
}

/// One limit for all.
#[derive(Debug)]
pub struct Limit {
    rate: Rate,
    bucket: Mutex<Bucket>,
}

impl Limit {
    /// A limit of this rate.
    pub fn new(rate: Rate) -> Self {
        Self {
            rate,
            bucket: Mutex::new(Bucket::full(rate, Instant::now())),
        }
    }

    /// True when there is room for one more.
    pub fn take(&self) -> bool {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.take(self.rate, Instant::now()).is_ok()
    }
}

/// A limit that remembers how much it left out, for lines of a log.
#[derive(Debug)]
pub struct LogLimit {
    limit: Limit,
    left_out: AtomicU64,
}

impl LogLimit {
    /// A limit of this rate.
    pub fn new(rate: Rate) -> Self {
        Self {
            limit: Limit::new(rate),
            left_out: AtomicU64::new(0),
        }
    }

    /// When there is room for one more line: how many were left out since the last one.
    pub fn take(&self) -> Option<u64> {
        if self.limit.take() {
            Some(self.left_out.swap(0, Ordering::Relaxed))
        } else {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            None
        }
    }
}

/// The most sources that are told apart; those that have been quiet are forgotten first.
const SOURCES: usize = 4096;
/// When a new source may come again while there are too many of them.
const FULL: Duration = Duration::from_secs(5);

/// A limit for each source address.
#[derive(Debug)]
pub struct SourceLimit {
    rate: Rate,
    buckets: Mutex<HashMap<IpAddr, Bucket>>,
}

impl SourceLimit {
    /// A limit of this rate.
    pub fn new(rate: Rate) -> Self {
        Self {
            rate,
            buckets: Mutex::default(),
        }
    }

    /// Takes room for one more from here. `remote` is `ADDRESS:PORT`.
    ///
    /// # Errors
    /// When there is none; after how long there will be, if nobody else there takes it.
    pub fn take(&self, remote: &str) -> Result<(), Duration> {
        let source = remote
            .parse::<SocketAddr>()
            .map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), |remote| {
                source(remote.ip())
            });
        let now = Instant::now();
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= SOURCES && !buckets.contains_key(&source) {
            let rate = self.rate;
            buckets.retain(|_, bucket| {
                bucket.refill(rate, now);
                bucket.left < rate.burst
            });
            if buckets.len() >= SOURCES {
                return Err(FULL);
            }
        }
        buckets
            .entry(source)
            .or_insert_with(|| Bucket::full(self.rate, now))
            .take(self.rate, now)
    }
}

/// The address that counts: for IPv6 the /64, since a single machine has all of it.
pub fn source(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{FULL, LogLimit, Rate, SOURCES, SourceLimit};

    const RATE: Rate = Rate {
        burst: 3.0,
        per_second: 1.0,
    };

    #[tokio::test(start_paused = true)]
    async fn each_source_has_a_burst_and_then_a_rate() {
        let limit = SourceLimit::new(RATE);
        for _ in 0..3 {
            assert_eq!(limit.take("10.0.0.1:1000"), Ok(()));
        }
        let second = Duration::from_secs(1);
        assert_eq!(limit.take("[::ffff:10.0.0.1]:1001"), Err(second));
        assert_eq!(limit.take("10.0.0.2:1000"), Ok(()));
        tokio::time::advance(second / 4).await;
        assert_eq!(limit.take("10.0.0.1:1002"), Err(second * 3 / 4));
        tokio::time::advance(second * 3 / 4).await;
        assert_eq!(limit.take("10.0.0.1:1002"), Ok(()));
        assert_eq!(limit.take("10.0.0.1:1003"), Err(second));
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_tells_how_much_was_left_out() {
        let limit = LogLimit::new(RATE);
        let taken: Vec<_> = (0..5).filter_map(|_| limit.take()).collect();
        assert_eq!(taken, [0, 0, 0]);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!((limit.take(), limit.take()), (Some(2), None));
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded() {
        let limit = SourceLimit::new(RATE);
        let address = |number: usize| format!("[2001:db8:{number:x}::1]:1");
        for number in 0..SOURCES {
            assert_eq!(limit.take(&address(number)), Ok(()));
        }
        assert_eq!(limit.take(&address(SOURCES)), Err(FULL));
        tokio::time::advance(FULL).await;
        assert_eq!(limit.take(&address(SOURCES)), Ok(()));
        let in_one_net = SourceLimit::new(RATE);
        let taken = (0..9).filter(|host| in_one_net.take(&format!("[2001:db8::{host}]:1")).is_ok());
        assert_eq!(taken.count(), 3);
    }
}
