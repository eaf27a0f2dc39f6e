//! How the connection to a host stands, as its link publishes it.

use canasta_proto::name::HostName;
use canasta_proto::pb;
use canasta_proto::pb::agent_service_client::AgentServiceClient;
use jiff::{Timestamp, Unit};
use tonic::transport::Channel;

use super::FleetError;
use crate::store::HostRow;

/// How the connection to a host stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Its agent has not joined.
    Waiting,
    /// The agent is connected.
    Connected,
    /// The agent can't be reached.
    Unreachable {
        /// Why, with address and port.
        reason: String,
    },
    /// Its certificate ended and can't be renewed.
    NeedsRejoin {
        /// Why, with address and port.
        reason: String,
    },
}

/// What a link publishes.
#[derive(Debug, Clone)]
pub struct LinkState {
    /// How it stands.
    pub phase: Phase,
    /// Since when it stands so.
    pub since: Timestamp,
    /// What came of each address in the last dial.
    pub attempts: Vec<pb::DialAttempt>,
    /// The last status that the agent sent.
    pub status: Option<pb::WatchStatusResponse>,
    /// A client, while it is connected.
    pub(super) client: Option<AgentServiceClient<Channel>>,
    /// SHA-256 of the public key that the agent showed, while it is connected.
    pub(super) key: Option<[u8; 32]>,
    /// How many dials have come to an end.
    pub(super) rounds: u64,
}

impl LinkState {
    /// The state before the first dial.
    pub(super) fn new(host: &HostRow, now: Timestamp) -> Self {
        Self {
            phase: if host.joined_at.is_some() {
                Phase::Unreachable {
                    reason: "not dialled yet since the controller was started".to_owned(),
                }
            } else {
                Phase::Waiting
            },
            since: now,
            attempts: Vec::new(),
            status: None,
            client: None,
            key: None,
            rounds: 0,
        }
    }

    /// Goes over to a phase; `since` stays when only the reason is another.
    pub(super) fn enter(&mut self, phase: Phase, now: Timestamp) {
        if std::mem::discriminant(&self.phase) != std::mem::discriminant(&phase) {
            self.since = now;
        }
        if phase != Phase::Connected {
            self.client = None;
            self.key = None;
        }
        self.phase = phase;
    }

    /// The client, or why there is none.
    pub(super) fn verdict(
        &self,
        host: &HostName,
    ) -> Result<AgentServiceClient<Channel>, FleetError> {
        let host = host.clone();
        let since = self.since.round(Unit::Second).unwrap_or(self.since);
        match (&self.phase, &self.client) {
            (_, Some(client)) => Ok(client.clone()),
            (Phase::Waiting, None) => Err(FleetError::NotJoined { host }),
            (Phase::NeedsRejoin { reason }, None) => Err(FleetError::NeedsRejoin {
                host,
                reason: reason.clone(),
            }),
            (Phase::Unreachable { reason }, None) => Err(FleetError::Unreachable {
                host,
                since,
                reason: reason.clone(),
            }),
            (Phase::Connected, None) => Err(FleetError::Unreachable {
                host,
                since,
                reason: "the connection is being made".to_owned(),
            }),
        }
    }
}
