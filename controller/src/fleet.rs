//! The connections to the agents: one task per host dials, watches and renews; everyone else asks [`Fleet`].

mod dial;
mod link;
mod refusals;
mod renewal;
mod state;
#[cfg(test)]
pub(crate) mod stub;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use canasta_proto::name::{HostName, NameError};
use canasta_proto::pb;
use canasta_proto::pb::agent_service_client::AgentServiceClient;
use jiff::Timestamp;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Channel;

pub use state::{LinkState, Phase};

use crate::config::Timings;
use crate::identity::Issuer;
use crate::store::{self, HostRow, Store};

/// Why an agent can't be asked.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// The name can't be one of a host.
    #[error(transparent)]
    Name(NameError),
    /// There is no such host.
    #[error("host '{host}' is not registered")]
    NotRegistered {
        /// Its name.
        host: HostName,
    },
    /// Its agent has not joined.
    #[error("host '{host}' has not joined the fleet yet")]
    NotJoined {
        /// Its name.
        host: HostName,
    },
    /// Its agent can't be reached.
    #[error("host '{host}' is unreachable since {since}: {reason}")]
    Unreachable {
        /// Its name.
        host: HostName,
        /// Since when.
        since: Timestamp,
        /// Why, with address and port.
        reason: String,
    },
    /// The controller was just started, and has not come to dial it.
    #[error("host '{host}' has not been reached yet since the controller was started")]
    NotDialled {
        /// Its name.
        host: HostName,
    },
    /// Its certificate ended and can't be renewed, or its key is not the one on record.
    #[error("host '{host}' needs to join anew: {reason}")]
    NeedsRejoin {
        /// Its name.
        host: HostName,
        /// Why.
        reason: String,
    },
    /// Its agent answered with an error, or not in time.
    #[error("failed to ask the agent on '{host}' for {what}")]
    Call {
        /// Its name.
        host: HostName,
        /// What was asked for.
        what: &'static str,
        /// What came back.
        source: Box<tonic::Status>,
    },
    /// The database failed.
    #[error("failed to look up host '{host}'")]
    Store {
        /// Its name.
        host: HostName,
        /// What happened.
        source: store::Error,
    },
}

/// The connection of one host as its owner sees it.
#[derive(Debug)]
struct Link {
    state: watch::Receiver<LinkState>,
    signals: Arc<Signals>,
    /// Ends the connection under all clients that were handed out.
    _end: DropGuard,
    _task: AbortOnDropHandle<()>,
}

/// How a link is told to look up from what it does.
#[derive(Debug, Default)]
struct Signals {
    /// Somebody wants the agent: dial now.
    wake: Notify,
    /// The host's record changed: read it and connect anew.
    reload: Notify,
}

/// What the links work with.
#[derive(Debug, Clone)]
struct Context {
    store: Store,
    issuer: Issuer,
    timings: Timings,
}

/// The hosts and the connections to their agents. Cheap to clone; the links end with the last clone.
#[derive(Clone)]
pub struct Fleet {
    context: Context,
    links: Arc<Mutex<BTreeMap<HostName, Link>>>,
}

impl Fleet {
    /// Takes up the links to all hosts. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn start(
        store: Store,
        issuer: Issuer,
        timings: Timings,
    ) -> Result<Self, store::Error> {
        let fleet = Self {
            context: Context {
                store,
                issuer,
                timings,
            },
            links: Arc::default(),
        };
        for host in fleet.context.store.hosts().await? {
            fleet.adopt(&host);
        }
        Ok(fleet)
    }

    /// Finds a host by its name, as a caller gave it.
    ///
    /// # Errors
    /// When the name breaks a rule, or there is no such host.
    pub async fn host(&self, name: &str) -> Result<HostRow, FleetError> {
        let name: HostName = name.parse().map_err(FleetError::Name)?;
        let found = self.context.store.host(&name).await;
        match found {
            Ok(Some(host)) => Ok(host),
            Ok(None) => Err(FleetError::NotRegistered { host: name }),
            Err(source) => Err(FleetError::Store { host: name, source }),
        }
    }

    /// How the connection to a host stands; none for a host that is not registered.
    pub fn state(&self, host: &HostName) -> Option<LinkState> {
        self.lock()
            .get(host)
            .map(|link| link.state.borrow().clone())
    }

    /// Follows how the connection to a host stands; ends when the host is removed.
    pub fn watch(&self, host: &HostName) -> Option<watch::Receiver<LinkState>> {
        self.lock().get(host).map(|link| link.state.clone())
    }

    /// A client for the agent on a host. When there is no connection, dials at once and waits for what comes of it.
    ///
    /// # Errors
    /// When the agent can't be reached.
    pub async fn agent(&self, host: &HostName) -> Result<AgentServiceClient<Channel>, FleetError> {
        let not_registered = || FleetError::NotRegistered { host: host.clone() };
        let (mut state, signals) = {
            let links = self.lock();
            let link = links.get(host).ok_or_else(not_registered)?;
            (link.state.clone(), link.signals.clone())
        };
        let before = {
            let state = state.borrow_and_update();
            match state.verdict(host) {
                Ok(client) => return Ok(client),
                Err(error @ FleetError::NotJoined { .. }) => return Err(error),
                Err(_) => state.rounds,
            }
        };
        signals.wake.notify_one();
        let settled = state.wait_for(|state| state.client.is_some() || state.rounds > before);
        // Each address takes as long as it may; then the state that stands is the answer.
        let _ = timeout(self.context.timings.dial_back, settled).await;
        let state = state.borrow();
        state.verdict(host)
    }

    /// Whether the agent on a host answers a dial that is made now; what was known of it before does not count.
    ///
    /// # Errors
    /// When the dial comes to no end in its time, so that nobody can tell.
    pub async fn answers(&self, host: &HostName) -> Result<bool, FleetError> {
        match self.agent(host).await {
            Ok(_) => Ok(true),
            Err(
                FleetError::NotRegistered { .. }
                | FleetError::NotJoined { .. }
                | FleetError::Unreachable { .. }
                | FleetError::NeedsRejoin { .. },
            ) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Asks the agent on a host for its facts now, and keeps them.
    ///
    /// # Errors
    /// When the agent can't be reached or does not answer.
    pub async fn refresh(&self, host: &HostName) -> Result<pb::NodeFacts, FleetError> {
        let client = self.agent(host).await?;
        link::fetch_facts(&self.context, host, client).await
    }

    /// Begins the link to a host that was added.
    pub fn adopt(&self, host: &HostRow) {
        let signals = Arc::<Signals>::default();
        let (sender, state) = watch::channel(LinkState::new(host, Timestamp::now()));
        let end = CancellationToken::new();
        let task = link::Task::new(
            self.context.clone(),
            host.name.clone(),
            sender,
            signals.clone(),
            end.clone(),
        );
        let link = Link {
            state,
            signals,
            _end: end.drop_guard(),
            _task: AbortOnDropHandle::new(tokio::spawn(task.run())),
        };
        self.lock().insert(host.name.clone(), link);
    }

    /// Dials a host that has just enrolled with the public key that has this SHA-256, and tells what came of it.
    pub async fn dial_back(&self, host: &HostName, key: [u8; 32]) -> pb::DialBack {
        let Some((mut state, signals)) = self
            .lock()
            .get(host)
            .map(|link| (link.state.clone(), link.signals.clone()))
        else {
            return pb::DialBack::default();
        };
        signals.reload.notify_one();
        let connected = state.wait_for(|state| state.key == Some(key));
        let reached = timeout(self.context.timings.dial_back, connected)
            .await
            .is_ok_and(|connected| connected.is_ok());
        let mut attempts = state.borrow().attempts.clone();
        if attempts.is_empty() {
            attempts = self.unanswered(host).await;
        }
        pb::DialBack { reached, attempts }
    }

    /// The addresses of a host whose dialling has not come to an end.
    async fn unanswered(&self, host: &HostName) -> Vec<pb::DialAttempt> {
        let row = self.context.store.host(host).await.ok().flatten();
        let addresses = row.map(|row| row.addresses()).unwrap_or_default();
        addresses
            .into_iter()
            .map(|address| pb::DialAttempt {
                error: format!("no answer within {:?}", self.context.timings.dial_back),
                address: address.address,
            })
            .collect()
    }

    /// Removes a host: its certificates are revoked and its connection ends, whoever still holds a client for it. False when it is not registered.
    ///
    /// # Errors
    /// When the database can't be written; then nothing has changed.
    pub async fn remove(&self, host: &HostName) -> Result<bool, store::Error> {
        let removed = self
            .context
            .store
            .remove_host(host, Timestamp::now())
            .await?;
        self.lock().remove(host);
        Ok(removed)
    }

    /// Counts the hosts: all of them, and those that are connected.
    pub fn count(&self) -> (usize, usize) {
        let links = self.lock();
        let connected = links
            .values()
            .filter(|link| link.state.borrow().client.is_some())
            .count();
        (links.len(), connected)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<HostName, Link>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Fleet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (hosts, connected) = self.count();
        write!(formatter, "Fleet({hosts} hosts, {connected} connected)")
    }
}
