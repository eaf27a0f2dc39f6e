//! A link whose owner is a test: it connects and cuts as the test says.

use canasta_proto::name::HostName;
use canasta_proto::pb::agent_service_client::AgentServiceClient;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Channel;

use super::{Fleet, Link, LinkState, Phase, Signals};
use crate::store::HostRow;

/// The test's end of a link.
#[derive(Debug)]
pub(crate) struct Stub(watch::Sender<LinkState>);

impl Stub {
    /// The host has an agent now.
    pub(crate) fn connect(&self, client: AgentServiceClient<Channel>) {
        self.0.send_modify(|state| {
            state.enter(Phase::Connected, Timestamp::now());
            state.client = Some(client);
            state.rounds += 1;
        });
    }

    /// The agent is gone.
    pub(crate) fn cut(&self) {
        self.0.send_modify(|state| {
            let reason = "failed to connect to 192.0.2.1:7443".to_owned();
            state.enter(Phase::Unreachable { reason }, Timestamp::now());
            state.rounds += 1;
        });
    }

    /// How many listen to the link: the fleet itself, and each place that waits for its agent.
    pub(crate) fn listeners(&self) -> usize {
        self.0.receiver_count()
    }
}

impl Fleet {
    /// Adds a host that is linked to a test. Whoever asks for its agent while there is none waits for the next word.
    pub(crate) fn stub(&self, row: &HostRow) -> Stub {
        let (sender, state) = watch::channel(LinkState::new(row, Timestamp::now()));
        let link = Link {
            state,
            signals: std::sync::Arc::<Signals>::default(),
            _end: CancellationToken::new().drop_guard(),
            _task: AbortOnDropHandle::new(tokio::spawn(std::future::pending())),
        };
        self.lock().insert(row.name.clone(), link);
        Stub(sender)
    }

    /// A host of that name as `host add` and a join would leave it.
    pub(crate) fn row(name: &HostName) -> HostRow {
        HostRow {
            name: name.clone(),
            added_at: Timestamp::now(),
            address: String::new(),
            advertise: String::new(),
            source: String::new(),
            hostname: name.to_string(),
            agent_version: String::new(),
            joined_at: Some(Timestamp::now()),
            facts: None,
            away: None,
        }
    }
}
