//! What the parts of one agent share, and its life from start to end.

use std::sync::Arc;

use canasta_host::Host;
use canasta_transport::material::Material;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use super::refusals::Refusals;
use super::serving::Serving;
use super::{AgentError, AgentOptions, Life, State, Timings};
use crate::artefacts::Artefacts;
use crate::config::Config;
use crate::facts::Collector;
use crate::identity::Identity;
use crate::join::{self, JoinSocket};
use crate::listener;
use crate::paths::Paths;
use crate::probes;
use crate::tasks::Tasks;

/// One agent.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) host: Host,
    pub(crate) config: Config,
    pub(crate) timings: Timings,
    pub(crate) paths: Paths,
    pub(crate) identity: Identity,
    pub(crate) tasks: Tasks,
    pub(crate) artefacts: Artefacts,
    pub(crate) facts: Collector,
    /// Whom the port refused.
    pub(crate) refusals: Refusals,
    /// Changes with every start.
    pub(crate) run_id: String,
    /// What it has going on.
    pub(crate) life: Life,
    /// Held by the one join that runs.
    pub(crate) joining: Arc<tokio::sync::Mutex<()>>,
    /// Held by each round of probes that listens.
    pub(crate) probing: Arc<Semaphore>,
    serving: Serving,
    state: watch::Sender<State>,
}

impl Core {
    /// Takes up what an earlier run left and opens what there is to open: the socket for joins, and the port if the
    /// node has joined.
    pub(super) async fn open(
        options: AgentOptions,
        state: watch::Sender<State>,
    ) -> Result<Arc<Self>, AgentError> {
        let AgentOptions {
            host,
            config,
            probe,
            timings,
        } = options;
        let paths = Paths::below(&host.root);
        let life = Life::default();
        let identity = Identity::load(&paths.identity, life.clone()).await?;
        let tasks =
            Tasks::load(&paths.tasks, Arc::clone(&host.machine), probe, life.clone()).await?;
        let artefacts = Artefacts::new(host.clone(), life.clone());
        artefacts.sweep().await;
        let socket = JoinSocket::open(&paths).await?;
        let core = Arc::new(Self {
            facts: Collector::new(host.clone(), crate::VERSION),
            host,
            config,
            timings,
            paths,
            identity,
            tasks,
            artefacts,
            refusals: Refusals::default(),
            run_id: uuid::Uuid::now_v7().to_string(),
            life,
            joining: Arc::default(),
            probing: Arc::new(Semaphore::new(probes::ROUNDS)),
            serving: Serving::default(),
            state,
        });
        match core.identity.material() {
            Some(material) => {
                let listener = listener::bind(&core.config.listen_candidates())?;
                core.serve_as(&material, Some(listener));
            }
            None => {
                core.state.send_replace(State::WaitingForJoin);
            }
        }
        core.life.spawn(socket.serve(Arc::clone(&core)));
        core.life
            .spawn_awaited(join::file::take_up(Arc::clone(&core)));
        Ok(core)
    }

    /// Ends in order: nothing new is begun, and what is open gets its time.
    pub(super) async fn shut_down(&self) {
        self.life.stopping.cancel();
        let drained = async {
            self.tasks.drained().await;
            self.life.drained().await;
            self.serving.stopped().await;
        };
        if tokio::time::timeout(self.timings.drain, drained)
            .await
            .is_err()
        {
            tracing::warn!(
                running = ?self.tasks.running(),
                "the agent ends with work still open; a task that was cut off is told as interrupted"
            );
        }
        self.crash().await;
    }

    /// Drops all work where it stands and breaks all connections; resolves when nothing runs any more.
    pub(super) async fn crash(&self) {
        self.let_go();
        self.life.ended().await;
    }

    /// As [`Core::crash`], without waiting.
    pub(super) fn let_go(&self) {
        self.life.end();
        self.serving.close_all();
    }

    /// Where the agent listens; `None` before it has joined.
    pub(crate) fn listening(&self) -> Option<std::net::SocketAddr> {
        self.serving.address()
    }

    /// What the agent is doing.
    pub(crate) fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Serves with an identity that is new to this process. `listener` is given when the port was not open before;
    /// otherwise connections of the identity before it are closed.
    pub(crate) fn serve_as(self: &Arc<Self>, material: &Material, listener: Option<TcpListener>) {
        match (listener, self.identity.reloadable()) {
            (Some(listener), Some(reloadable)) => self.serving.start(self, listener, reloadable),
            _ => self.serving.close_all(),
        }
        let Some(listening) = self.serving.address() else {
            return;
        };
        let name = match &material.identity().kind {
            canasta_transport::spiffe::Kind::Agent(name) => name.to_string(),
            other => other.to_string(),
        };
        let state = State::Joined {
            fleet_id: material.identity().fleet.to_string(),
            name,
            listening,
        };
        tracing::info!(%listening, "{state}");
        self.state.send_replace(state);
    }
}
