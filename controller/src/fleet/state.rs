//! How the connection to a host stands, as its link publishes it.

use canasta_proto::name::HostName;
use canasta_proto::pb;
use canasta_proto::pb::agent_service_client::AgentServiceClient;
use jiff::{Timestamp, Unit};
use tonic::transport::Channel;

use super::FleetError;
use crate::store::{Away, HostRow};

/// How the connection to a host stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Its agent has not joined.
    Waiting,
    /// Its agent has joined, and the controller has not dialled it since it was started: nothing is known yet.
    NotDialled,
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

impl Phase {
    /// How its agent is away, when it is known to be.
    fn away(&self) -> Option<Away> {
        match self {
            Self::Unreachable { .. } => Some(Away::Unreachable),
            Self::NeedsRejoin { .. } => Some(Away::NeedsRejoin),
            Self::Waiting | Self::NotDialled | Self::Connected => None,
        }
    }
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
    /// How and since when it was away when the controller was started.
    before: Option<(Away, Timestamp)>,
}

impl LinkState {
    /// The state before the first dial.
    pub(super) fn new(host: &HostRow, now: Timestamp) -> Self {
        Self {
            phase: if host.joined_at.is_some() {
                Phase::NotDialled
            } else {
                Phase::Waiting
            },
            since: now,
            attempts: Vec::new(),
            status: None,
            client: None,
            key: None,
            rounds: 0,
            before: host.away,
        }
    }

    /// Goes over to a phase; `since` stays when only the reason is another, and over a restart of the controller.
    pub(super) fn enter(&mut self, phase: Phase, now: Timestamp) {
        if std::mem::discriminant(&self.phase) != std::mem::discriminant(&phase) {
            let away = phase.away();
            self.since = match self.before.take() {
                Some((before, since)) if away == Some(before) => since,
                // As it is kept, so that it reads the same after a restart.
                _ => Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now),
            };
        }
        if phase != Phase::Connected {
            self.client = None;
            self.key = None;
        }
        self.phase = phase;
    }

    /// How and since when its agent is away, as it is kept over restarts.
    pub(super) fn away(&self) -> Option<(Away, Timestamp)> {
        self.phase.away().map(|away| (away, self.since))
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
            (Phase::NotDialled, None) => Err(FleetError::NotDialled { host }),
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
