//! Callers that the agent refused in the handshake: counted, logged at a bounded rate, and those that are members of the
//! fleet kept for the controller's audit trail.
//!
//! [`super::serving`] notes them, [`crate::status`] tells the controller.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use canasta_proto::pb;
use canasta_transport::limit::{LogLimit, Rate};
use canasta_transport::listen::RefusedHandshake;
use canasta_transport::status::chain;
use tokio::sync::watch;

/// Lines about callers that nobody knows: anyone can make as many as he likes.
const STRANGERS: Rate = Rate {
    burst: 20.0,
    per_second: 0.2,
};
/// Lines and notes about members of the fleet, which strangers must not crowd out.
const MEMBERS: Rate = Rate {
    burst: 16.0,
    per_second: 0.2,
};
/// The most members that are kept.
const KEPT: usize = 16;

/// The refused callers of one run of the agent.
#[derive(Debug)]
pub(crate) struct Refusals {
    count: AtomicU64,
    strangers: LogLimit,
    members: LogLimit,
    kept: watch::Sender<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// The number of the last one.
    last: u64,
    peers: VecDeque<pb::RefusedPeer>,
}

impl Default for Refusals {
    fn default() -> Self {
        Self {
            count: AtomicU64::new(0),
            strangers: LogLimit::new(STRANGERS),
            members: LogLimit::new(MEMBERS),
            kept: watch::Sender::default(),
        }
    }
}

impl Refusals {
    /// Counts a refused caller, and logs and keeps it where the rate allows.
    pub(super) fn note(&self, refused: &RefusedHandshake, now: SystemTime) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let RefusedHandshake {
            remote,
            identity,
            reason,
        } = refused;
        let peer = identity.as_ref().map(|identity| identity.kind.to_string());
        let limit = match peer {
            Some(_) => &self.members,
            None => &self.strangers,
        };
        let Some(left_out) = limit.take() else {
            return;
        };
        tracing::warn!(
            %remote,
            peer = peer.as_deref().unwrap_or("unknown"),
            causes = ?chain(reason),
            left_out,
            "refused a connection: {reason}"
        );
        let Some(peer) = peer else {
            return;
        };
        self.kept.send_modify(|kept| {
            kept.last += 1;
            kept.peers.push_back(pb::RefusedPeer {
                number: kept.last,
                at: Some(now.into()),
                peer,
                remote: remote.clone(),
                reason: reason.to_string(),
            });
            if kept.peers.len() > KEPT {
                kept.peers.pop_front();
            }
        });
    }

    /// How many were refused.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// The last members among them, oldest first.
    pub(crate) fn members(&self) -> Vec<pb::RefusedPeer> {
        self.kept.borrow().peers.iter().cloned().collect()
    }

    /// Resolves each time when another member was refused; the first time for one after this call.
    pub(crate) fn follow(&self) -> Follow {
        Follow(self.kept.subscribe())
    }
}

/// Follows the members that are refused.
#[derive(Debug)]
pub(crate) struct Follow(watch::Receiver<Kept>);

impl Follow {
    /// Resolves when another one was refused.
    pub(crate) async fn another(&mut self) {
        if self.0.changed().await.is_err() {
            // The agent is gone.
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use canasta_transport::listen::RefusalReason;
    use canasta_transport::spiffe::{FleetId, Identity};

    use super::*;

    fn refused(identity: Option<Identity>) -> RefusedHandshake {
        RefusedHandshake {
            remote: "192.0.2.7:4711".to_owned(),
            identity,
            reason: RefusalReason::TimedOut,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_are_counted_and_do_not_crowd_out_members() {
        let refusals = Refusals::default();
        let mut follow = refusals.follow();
        for _ in 0..1000 {
            refusals.note(&refused(None), SystemTime::now());
        }
        assert_eq!((refusals.count(), refusals.members().len()), (1000, 0));
        let fleet = FleetId::random().expect("random");
        for number in 0..100 {
            let anna = fleet.user(format!("anna{number}").parse().expect("name"));
            refusals.note(&refused(Some(anna)), SystemTime::now());
        }
        follow.another().await;
        let members = refusals.members();
        assert_eq!((refusals.count(), members.len()), (1100, KEPT));
        assert_eq!(members[0].number, 1);
        assert_eq!(members[0].peer, "user anna0");
        // More come at the rate alone, and the oldest give way.
        tokio::time::advance(std::time::Duration::from_secs(5)).await;
        let otto = fleet.user("otto".parse().expect("name"));
        refusals.note(&refused(Some(otto)), SystemTime::now());
        let members = refusals.members();
        assert_eq!(members.len(), KEPT);
        assert_eq!(
            (members[0].number, members[KEPT - 1].peer.as_str()),
            (2, "user otto")
        );
    }
}
