//! Puts the parts together and takes them apart again. Called by `main`, and by tests, many times in one process.
//!
//! All tasks of a controller run on a runtime of its own, so that [`RunningController::abort`] is what a crash is: everything
//! stops where it stands.

mod listeners;

use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use canasta_steps::{NoProbe, Probe};
use canasta_transport::listen::{self, Connections, Incoming, Limits};
use canasta_transport::tls::ServerTls;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use crate::api::{self, DescriptorError, Health, gate::Gate};
use crate::artefacts::{self, Artefacts};
use crate::clusters::Clusters;
use crate::config::Config;
use crate::fleet::Fleet;
use crate::identity::{CaError, Directory, Issuer, Tokens};
use crate::operations::{self, Operations};
use crate::retention;
use crate::store::{self, OpenError, StateDir, Store};
use crate::workflows;

/// Verified downloads, in the state directory.
const ARTEFACTS: &str = "artefacts";
/// How often a silent caller is probed.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// The most calls at a time over one connection.
const CALLS: u32 = 64;
/// How long the threads of the runtime get to end.
const THREADS_END: Duration = Duration::from_secs(5);

/// Why the controller can't be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The port can't be opened.
    #[error("failed to listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// The socket can't be opened.
    #[error("failed to listen on {}", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The state can't be used.
    #[error(transparent)]
    State(#[from] OpenError),
    /// The CA can't be used.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The database failed after it was opened.
    #[error("failed to read what the controller knows")]
    Store(#[source] store::Error),
    /// Operations of an earlier run can't be taken up.
    #[error("failed to take up the operations of an earlier run")]
    Resume(#[source] operations::Error),
    /// The directory of artefacts can't be used.
    #[error("failed to take up the artefacts")]
    Artefacts(#[source] artefacts::Error),
    /// The services can't be described.
    #[error(transparent)]
    Descriptors(#[from] DescriptorError),
    /// No runtime could be made.
    #[error("failed to start the threads of the controller")]
    Runtime(#[source] std::io::Error),
    /// A part panicked while it was started.
    #[error("failed to start the controller: a part of it panicked")]
    Panicked,
}

/// What a controller is started with.
pub struct ControllerOptions {
    config: Config,
    tcp: TcpListener,
    probe: Arc<dyn Probe>,
}

impl ControllerOptions {
    /// Opens the port that is configured.
    ///
    /// # Errors
    /// When it can't be opened.
    pub fn bind(config: Config) -> Result<Self, StartError> {
        let tcp = listeners::tcp(config.listen)?;
        Ok(Self {
            config,
            tcp,
            probe: Arc::new(NoProbe),
        })
    }

    /// Lets a test look on while the steps of operations run.
    #[must_use]
    pub fn with_probe(self, probe: Arc<dyn Probe>) -> Self {
        Self { probe, ..self }
    }
}

impl fmt::Debug for ControllerOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ControllerOptions")
            .field("config", &self.config)
            .field("tcp", &self.tcp)
            .finish_non_exhaustive()
    }
}

/// Starts controllers.
#[derive(Debug, Clone, Copy)]
pub struct Controller;

impl Controller {
    /// Takes up the state directory, connects to the fleet, goes on with operations, and serves.
    ///
    /// # Errors
    /// When the state can't be used or something can't be opened. Nothing keeps running then.
    pub async fn start(options: ControllerOptions) -> Result<RunningController, StartError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("controller")
            .enable_all()
            .build()
            .map_err(StartError::Runtime)?;
        let started = runtime.spawn(start(options)).await;
        match started {
            Ok(Ok(parts)) => Ok(RunningController {
                parts,
                runtime: Some(runtime),
            }),
            Ok(Err(error)) => {
                end(runtime).await;
                Err(error)
            }
            Err(_) => {
                end(runtime).await;
                Err(StartError::Panicked)
            }
        }
    }
}

/// Ends the runtime; its threads are waited for elsewhere, as one can't wait for them from a task.
async fn end(runtime: Runtime) {
    let ended = tokio::task::spawn_blocking(move || runtime.shutdown_timeout(THREADS_END));
    // The closure does not panic.
    let _ = ended.await;
}

/// A controller that serves.
#[derive(Debug)]
pub struct RunningController {
    parts: Running,
    runtime: Option<Runtime>,
}

#[derive(Debug)]
struct Running {
    address: SocketAddr,
    socket: PathBuf,
    drain: Duration,
    health: Health,
    stop: CancellationToken,
    servers: Vec<JoinHandle<Result<(), tonic::transport::Error>>>,
    fleet: Fleet,
    gate: Gate,
    operations: Operations,
    store: Store,
    _state: StateDir,
}

impl RunningController {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.parts.address
    }

    /// Its unix socket.
    pub fn socket(&self) -> &Path {
        &self.parts.socket
    }

    /// The connections to the agents.
    pub fn fleet(&self) -> &Fleet {
        &self.parts.fleet
    }

    /// The database.
    pub fn store(&self) -> &Store {
        &self.parts.store
    }

    /// The operations.
    pub fn operations(&self) -> &Operations {
        &self.parts.operations
    }

    /// The gate, which counts refused callers.
    pub fn gate(&self) -> &Gate {
        &self.parts.gate
    }

    /// Waits until the controller's own threads have run something: what a watchdog wants to know.
    pub async fn pulse(&self) {
        if let Some(runtime) = &self.runtime {
            // An empty task can't fail.
            let _ = runtime.spawn(std::future::ready(())).await;
        }
    }

    /// Stops: no new callers, running calls get the configured time, operations stop at a safe point.
    pub async fn shutdown(mut self) {
        let Some(runtime) = self.runtime.take() else {
            return;
        };
        let parts = &mut self.parts;
        parts.health.stopping().await;
        parts.stop.cancel();
        let servers = std::mem::take(&mut parts.servers);
        let drained = async {
            parts.operations.shut_down().await;
            futures_util::future::join_all(servers).await;
        };
        if tokio::time::timeout(parts.drain, drained).await.is_err() {
            tracing::warn!("calls were cut off: they did not end in time");
        }
        parts.store.close().await;
        // One that can't be removed is replaced at the next start.
        let _ = std::fs::remove_file(&parts.socket);
        end(runtime).await;
    }

    /// Stops everything where it stands, as a crash does, and waits until nothing runs any more.
    pub async fn abort(mut self) {
        if let Some(runtime) = self.runtime.take() {
            end(runtime).await;
        }
    }
}

impl Drop for RunningController {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Starts all parts; runs on the controller's own runtime.
async fn start(options: ControllerOptions) -> Result<Running, StartError> {
    let ControllerOptions { config, tcp, probe } = options;
    let address = tcp.local_addr().map_err(|source| StartError::Listen {
        address: config.listen,
        source,
    })?;
    let (state, issuer, store) = take_up(&config).await?;
    let directory = Directory::load(&store).await.map_err(StartError::Store)?;
    let context = context(&config, &store, &issuer).await?;
    let fleet = context.fleet.clone();
    let operations = Operations::new(store.clone(), workflows::kinds(&context), probe);
    operations.resume().await.map_err(StartError::Resume)?;
    let debtor = context.clusters.clone();
    let connections = Connections::default();
    let (routes, health) = api::routes(api::Parts {
        tokens: Tokens::new(store.clone(), issuer.pin(), config.timings.token),
        issuer: issuer.clone(),
        directory: directory.clone(),
        connections: connections.clone(),
        operations: operations.clone(),
        context,
        agent_packages: config.agent_packages.clone(),
        advertised: listeners::advertised(config.advertise.as_ref(), address),
    })
    .await?;
    let gate = Gate::new(store.clone(), directory);
    let (tcp, unix) = open(&config, address, tcp)?;
    let limits = Limits::default();
    let incoming = [
        guarded(tcp, &issuer, &gate, connections.clone(), limits),
        listen::unix(unix, connections, limits),
    ];
    tokio::spawn(issuer.keep_own_leaf());
    let stop = CancellationToken::new();
    tokio::spawn(retention::prune_daily(
        store.clone(),
        config.retention.clone(),
        stop.clone(),
    ));
    tokio::spawn(stop.clone().run_until_cancelled_owned(debtor.keep_paying()));
    let servers = incoming
        .into_iter()
        .map(|incoming| {
            let server = Server::builder()
                .layer(gate.clone())
                .http2_keepalive_interval(Some(KEEPALIVE))
                .max_concurrent_streams(CALLS)
                .add_routes(routes.clone())
                .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
            tokio::spawn(server)
        })
        .collect();
    tracing::info!(%address, socket = %config.socket.display(), "serving");
    Ok(Running {
        address,
        socket: config.socket,
        drain: config.timings.drain,
        health,
        stop,
        servers,
        fleet,
        gate,
        operations,
        store,
        _state: state,
    })
}

/// Takes up the state directory: CA first, then the database, both made at a first start.
async fn take_up(config: &Config) -> Result<(StateDir, Issuer, Store), StartError> {
    let path = config.state_dir.clone();
    let life = config.timings.leaf;
    let (mut state, issuer) = blocking(move || {
        let state = StateDir::take(&path)?;
        let issuer = Issuer::open(&state, life)?;
        Ok((state, issuer))
    })
    .await?;
    let store = Store::open(&state, issuer.fleet().as_str()).await?;
    let state = blocking(move || {
        state.settle()?;
        Ok(state)
    })
    .await?;
    Ok((state, issuer, store))
}

/// What workflows work with.
async fn context(
    config: &Config,
    store: &Store,
    issuer: &Issuer,
) -> Result<workflows::Context, StartError> {
    let timings = &config.timings;
    let fleet = Fleet::start(store.clone(), issuer.clone(), timings.clone())
        .await
        .map_err(StartError::Store)?;
    let artefacts = Artefacts::open(
        store.clone(),
        config.state_dir.join(ARTEFACTS),
        config.k3s.clone(),
        artefacts::Limits {
            stall: timings.download_stall,
            slow: timings.download_slow,
            total: timings.download,
            first_pause: timings.download_pause,
            push_stall: timings.push_stall,
            ..artefacts::Limits::default()
        },
    )
    .await
    .map_err(StartError::Artefacts)?;
    Ok(workflows::Context {
        clusters: Clusters::new(store.clone(), fleet.clone(), timings.clone()),
        store: store.clone(),
        fleet,
        artefacts,
        timings: timings.clone(),
        k3s: config.k3s.clone(),
    })
}

/// The TCP listener with the gate at its handshakes.
fn guarded(
    tcp: tokio::net::TcpListener,
    issuer: &Issuer,
    gate: &Gate,
    connections: Connections,
    limits: Limits,
) -> Incoming {
    let (admitting, refusing) = (gate.clone(), gate.clone());
    let tls = ServerTls::controller(
        issuer.material().clone(),
        Arc::new(move |identity, facts| admitting.admit(identity, facts)),
    );
    let refused = Arc::new(move |refused| refusing.refused_handshake(&refused));
    listen::tcp(tcp, tls, connections, limits, refused)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StartError> + Send + 'static,
) -> Result<T, StartError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or(Err(StartError::Panicked))
}

fn open(
    config: &Config,
    address: SocketAddr,
    tcp: TcpListener,
) -> Result<(tokio::net::TcpListener, tokio::net::UnixListener), StartError> {
    let tcp = tcp
        .set_nonblocking(true)
        .and_then(|()| tokio::net::TcpListener::from_std(tcp))
        .map_err(|source| StartError::Listen { address, source })?;
    let unix: UnixListener = listeners::unix(&config.socket, &config.socket_group)?;
    let unix = unix
        .set_nonblocking(true)
        .and_then(|()| tokio::net::UnixListener::from_std(unix))
        .map_err(|source| StartError::Socket {
            path: config.socket.clone(),
            source,
        })?;
    Ok((tcp, unix))
}
