//! How many of a listener's places one source may hold: a single address must not keep everyone else out.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;

use crate::limit::source;

/// The places of one kind, counted by source (an IPv4 address, or a /64). Used by the accept loop.
pub(super) struct Sources {
    /// The most that one source may hold.
    most: usize,
    /// Of these so many may be at work at a time; the others wait.
    at_work: usize,
    held: Mutex<HashMap<IpAddr, Held>>,
}

struct Held {
    places: usize,
    turns: Arc<Semaphore>,
}

impl Sources {
    /// Each source gets `most` places, and `at_work` of them may be at work at a time.
    pub(super) fn new(most: usize, at_work: usize) -> Arc<Self> {
        Arc::new(Self {
            most: most.max(1),
            at_work: at_work.max(1),
            held: Mutex::default(),
        })
    }

    /// Takes a place until the answer is dropped. None when the source holds all that it may.
    pub(super) fn enter(self: &Arc<Self>, ip: IpAddr) -> Option<Place> {
        let source = source(ip);
        let mut held = self.lock();
        let entry = held.entry(source).or_insert_with(|| Held {
            places: 0,
            turns: Arc::new(Semaphore::new(self.at_work)),
        });
        if entry.places >= self.most {
            return None;
        }
        entry.places += 1;
        Some(Place {
            turns: entry.turns.clone(),
            sources: self.clone(),
            source,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One place of a source.
pub(super) struct Place {
    /// Whose permits let the source's places be at work.
    pub(super) turns: Arc<Semaphore>,
    sources: Arc<Sources>,
    source: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.sources.lock();
        if let Some(entry) = held.get_mut(&self.source) {
            entry.places -= 1;
            if entry.places == 0 {
                held.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Sources;

    #[test]
    fn a_source_has_its_places_and_leaves_no_trace() {
        let sources = Sources::new(2, 1);
        let ip = |text: &str| text.parse().expect("address");
        let first = sources.enter(ip("2001:db8::1")).expect("a place");
        let second = sources.enter(ip("2001:db8::2")).expect("a place");
        assert!(sources.enter(ip("2001:db8::3")).is_none());
        let other = sources.enter(ip("2001:db8:0:1::3")).expect("a place");
        assert_eq!(first.turns.available_permits(), 1);
        drop(first);
        let again = sources.enter(ip("2001:db8::4")).expect("a place");
        drop((second, other, again));
        assert!(sources.lock().is_empty());
    }
}
