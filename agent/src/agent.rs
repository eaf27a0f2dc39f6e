//! The whole daemon over a host. The program calls [`Agent::run`]; tests call [`Agent::start`], as often as they like in
//! one process, and may end each agent in order or as by a crash.

mod core;
mod life;
mod refusals;
mod running;
mod serving;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use canasta_host::Host;
use canasta_steps::Probe;
use tokio::sync::watch;

use crate::config::Config;

pub(crate) use self::core::Core;
pub(crate) use self::life::Life;
pub use self::running::RunningAgent;

/// What an agent is made of.
#[derive(Clone)]
pub struct AgentOptions {
    /// The machine that it works on. All of the agent's own files lie below the host's root.
    pub host: Host,
    /// Its settings.
    pub config: Config,
    /// Looks on around every step; production uses [`canasta_steps::NoProbe`].
    pub probe: Arc<dyn Probe>,
    /// How long it waits for what.
    pub timings: Timings,
}

impl AgentOptions {
    /// An agent over this host with default settings.
    pub fn new(host: Host) -> Self {
        Self {
            host,
            config: Config::default(),
            probe: Arc::new(canasta_steps::NoProbe),
            timings: Timings::default(),
        }
    }
}

impl std::fmt::Debug for AgentOptions {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("AgentOptions")
            .field("host", &self.host)
            .field("config", &self.config)
            .field("timings", &self.timings)
            .finish_non_exhaustive()
    }
}

/// How long the agent waits for what. Tests make it shorter.
#[derive(Debug, Clone)]
pub struct Timings {
    /// A status goes out at the latest after this long.
    pub status_interval: Duration,
    /// Pause before the second try of a join from the file; doubled with each further one.
    pub join_retry_first: Duration,
    /// The longest pause between two tries.
    pub join_retry_last: Duration,
    /// How long connecting to the controller may take.
    pub join_connect: Duration,
    /// How long the controller may take with one answer of an enrolment.
    pub join_answer: Duration,
    /// How long a join waits, all in all, for a controller that takes no more calls from this address for now. A connection without
    /// a certificate is closed after two minutes.
    pub join_patience: Duration,
    /// How long open calls and a running task get to end at a shutdown.
    pub drain: Duration,
    /// How long the steps of an install wait.
    pub install: crate::k3s::install::Timings,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            status_interval: Duration::from_secs(15),
            join_retry_first: Duration::from_secs(1),
            join_retry_last: Duration::from_secs(30),
            join_connect: Duration::from_secs(10),
            join_answer: Duration::from_mins(1),
            join_patience: Duration::from_mins(1),
            drain: Duration::from_secs(10),
            install: crate::k3s::install::Timings::default(),
        }
    }
}

/// What the agent is doing, for systemd's status line and for `canasta-agent status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It is not up yet.
    Starting,
    /// It has no identity and no port open.
    WaitingForJoin,
    /// It serves the controller of its fleet.
    Joined {
        /// The fleet.
        fleet_id: String,
        /// The name of this host in it.
        name: String,
        /// Where it listens.
        listening: SocketAddr,
    },
}

impl std::fmt::Display for State {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Starting => formatter.write_str("starting"),
            Self::WaitingForJoin => formatter.write_str("waiting for join"),
            Self::Joined {
                fleet_id,
                name,
                listening,
            } => write!(
                formatter,
                "joined fleet {fleet_id} as {name}, listening on {listening}"
            ),
        }
    }
}

/// The agent can't start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The identity's directory can't be read.
    #[error("failed to load the identity")]
    Identity(#[from] crate::identity::IdentityError),
    /// The journals of tasks can't be read.
    #[error("failed to load the journals of tasks")]
    Tasks(#[from] crate::tasks::TaskError),
    /// The port can't be opened.
    #[error("failed to open the agent's port")]
    Listen(#[from] crate::listener::ListenError),
    /// The socket for joins can't be opened.
    #[error("failed to open the socket for `canasta-agent join`")]
    JoinSocket(#[from] crate::join::SocketError),
}

/// The daemon.
#[derive(Debug)]
pub struct Agent;

impl Agent {
    /// Runs an agent on the current runtime until `stop` resolves, then lets open work end for [`Timings::drain`].
    /// What it is doing is told through `state`.
    ///
    /// # Errors
    /// When it can't start.
    pub async fn run(
        options: AgentOptions,
        state: watch::Sender<State>,
        stop: impl Future<Output = ()>,
    ) -> Result<(), AgentError> {
        let core = Core::open(options, state).await?;
        stop.await;
        core.shut_down().await;
        Ok(())
    }

    /// Starts an agent on the current runtime and returns when it is up.
    ///
    /// # Errors
    /// When it can't start.
    pub async fn start(options: AgentOptions) -> Result<RunningAgent, AgentError> {
        RunningAgent::start(options).await
    }
}
