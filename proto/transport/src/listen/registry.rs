//! The open connections of a daemon, so that those of a removed host or user can be closed at once.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use super::Peer;
use crate::facts::CertificateFacts;
use crate::spiffe::Identity;

/// The open connections of one or more listeners. Cheap to clone; all clones are the same.
#[derive(Clone, Default)]
pub struct Connections {
    open: Arc<Mutex<Open>>,
}

#[derive(Default)]
struct Open {
    next: u64,
    entries: HashMap<u64, (Peer, CancellationToken)>,
}

impl Connections {
    /// Closes the connections of members for which the closure says true, and tells how many. Their calls are dropped; a
    /// handshake that is under way is judged again before it is let in.
    pub fn close(&self, which: impl Fn(&Identity, &CertificateFacts) -> bool) -> usize {
        let open = self.lock();
        let mut closed = 0;
        for (peer, token) in open.entries.values() {
            if let Peer::Identified { identity, facts } = peer
                && which(identity, facts)
            {
                token.cancel();
                closed += 1;
            }
        }
        closed
    }

    /// How many connections are open.
    pub fn len(&self) -> usize {
        self.lock().entries.len()
    }

    /// True when no connection is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a connection until the answer is dropped.
    pub(super) fn add(&self, peer: Peer) -> Registered {
        let token = CancellationToken::new();
        let mut open = self.lock();
        let key = open.next;
        open.next += 1;
        open.entries.insert(key, (peer, token.clone()));
        Registered {
            connections: self.clone(),
            key,
            token,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Connections({} open)", self.len())
    }
}

/// A connection's place among the open ones.
pub(super) struct Registered {
    connections: Connections,
    key: u64,
    /// Cancelled when the connection is to be closed.
    pub(super) token: CancellationToken,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.connections.lock().entries.remove(&self.key);
    }
}
