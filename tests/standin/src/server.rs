//! `k3s server`: the supervisor and the API server on one port, the Node, the files. The program runs one below `/`;
//! tests run any number below temporary directories.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::clock::{Clock, DEFAULT_SCALE};
use crate::config::{Command, Config, ConfigError};
use crate::files::{FileError, Paths};
use crate::host::{Host, HostError};
use crate::log::Log;
use crate::net;
use crate::node::Node;
use crate::pki::{Authority, PkiError};
use crate::token::{self, Token};
use crate::trailer::{DEFAULT_VERSION, Faults, Profile};
use resources::Resources;
use store::Store;

mod accounts;
mod answer;
mod api;
mod auth;
mod budgets;
mod controllers;
mod disk;
mod fields;
mod health;
mod listener;
mod manifests;
mod patch;
mod pods;
mod query;
mod resources;
mod scheduler;
mod store;
mod supervisor;
mod timeline;
mod volumes;
mod watch;
mod write;

type Callback = Arc<dyn Fn() + Send + Sync>;

/// How to run a server.
#[derive(Clone)]
pub struct Options {
    /// Everything on disk is below this directory; `/` for the program.
    pub root: PathBuf,
    /// The Node's name; without it the configuration's, else the machine's host name.
    pub node_name: Option<String>,
    /// Where to listen; port 0 takes a free one. Without it as configured, else port 6443 everywhere.
    pub listen: Option<SocketAddr>,
    /// Where the kubelet's health is served, on loopback; tests that don't ask for it leave it out.
    pub kubelet_health: Option<SocketAddr>,
    /// Whether to work on the node itself: links, firewall, mounts, processes. Only for the program on a machine of
    /// its own.
    pub kernel: bool,
    /// The version to claim.
    pub version: String,
    /// Which k3s to behave like.
    pub profile: Profile,
    /// Real seconds per recorded second.
    pub scale: f64,
    /// Misbehaviour on demand.
    pub faults: Faults,
    /// Called where the real program tells systemd READY=1.
    pub on_ready_notify: Callback,
    /// Flags of the command line, without program and sub-command.
    pub arguments: Vec<String>,
    /// Where log lines go.
    pub log: Log,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("root", &self.root)
            .field("node_name", &self.node_name)
            .field("listen", &self.listen)
            .field("version", &self.version)
            .field("profile", &self.profile)
            .finish_non_exhaustive()
    }
}

impl Options {
    /// The recorded server below `root`, silent, at the usual speed.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            node_name: None,
            listen: None,
            kubelet_health: None,
            kernel: false,
            version: DEFAULT_VERSION.to_owned(),
            profile: Profile::Recorded,
            scale: DEFAULT_SCALE,
            faults: Faults::default(),
            on_ready_notify: Arc::new(|| {}),
            arguments: Vec::new(),
            log: Log::silent(),
        }
    }
}

/// A server that did not start. The text is what the real program puts into its fatal line.
#[derive(Debug, Error)]
pub enum StartError {
    /// The configuration is refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The node itself could not be worked on.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The certificates could not be made or read.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// TLS could not be set up.
    #[error("failed to set up TLS: {0}")]
    Tls(String),
    /// The port is taken, or the address is not ours.
    #[error("listen tcp {address}: bind: {reason}")]
    Listen {
        /// As the real program names it.
        address: String,
        /// The system's word.
        reason: String,
    },
    /// A fault ended the start before the port was open.
    #[error("{}", .0.message)]
    Exit(Exit),
}

/// The end of a server that was not asked to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The exit code.
    pub code: u8,
    /// The message of the fatal line.
    pub message: String,
}

/// A running server. Dropping it stops it soon after; [`Running::shutdown`] waits for that.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    stop: tokio::sync::watch::Sender<bool>,
    task: JoinHandle<Option<Exit>>,
}

impl Running {
    /// The address that it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Waits for a fault to end the server; for ever if there is none. Safe to cancel.
    pub async fn exited(&mut self) -> Exit {
        match (&mut self.task).await {
            Ok(Some(exit)) => exit,
            Ok(None) | Err(_) => Exit {
                code: 1,
                message: "context canceled".into(),
            },
        }
    }

    /// Closes the port and every connection and saves the state.
    pub async fn shutdown(self) {
        self.stop.send_replace(true);
        // A server that ended by itself is as good as one that was stopped.
        let _ = self.task.await;
    }
}

/// The stand-in for `k3s server`.
#[derive(Debug)]
pub struct Server;

impl Server {
    /// Reads the configuration, waits out the part in which the port still refuses, and opens it. The rest follows on
    /// its own, at the recorded moments.
    pub async fn start(options: Options) -> Result<Running, StartError> {
        let clock = Clock::new(options.scale);
        let log = options.log.clone();
        let shared = Arc::new(
            tokio::task::spawn_blocking(move || Shared::open(&options, clock))
                .await
                .map_err(|error| StartError::Tls(error.to_string()))??,
        );
        log.info(format!("Starting k3s {} (standin)", shared.version));
        let listener = tokio::select! {
            () = clock.at(1.6) => shared.bind().await?,
            exit = shared.fault_exit() => return Err(StartError::Exit(exit)),
        };
        let address = listener.local_addr().map_err(|error| StartError::Listen {
            address: String::new(),
            reason: error.to_string(),
        })?;
        shared.port.store(address.port(), Ordering::Release);
        let acceptor = shared.acceptor()?;
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let task = tokio::spawn(timeline::run(shared, listener, acceptor, stopped));
        Ok(Running {
            address,
            stop,
            task,
        })
    }
}

/// How far the server has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// Every path answers 503.
    Starting,
    /// Supervisor and API answer, `/readyz` fails: first with its datastore, then with its hooks.
    Up,
    /// As above, later.
    Hooks,
    /// `/readyz` is ok.
    Ready,
}

/// What every part of a server needs.
struct Shared {
    paths: Paths,
    config: Config,
    clock: Clock,
    log: Log,
    version: String,
    profile: Profile,
    faults: Faults,
    notify: Callback,
    kubelet_health: Option<SocketAddr>,
    host: Option<Arc<Host>>,
    listen: Option<SocketAddr>,
    root: PathBuf,
    node: Node,
    server_ca: Authority,
    client_ca: Authority,
    verifier: Arc<dyn ClientCertVerifier>,
    server_secret: String,
    node_secret: String,
    resources: Resources,
    store: Store,
    phase: AtomicU8,
    port: AtomicU16,
    leases: timeline::Leases,
    /// Held while the state is written: the last one to write has the newest.
    saving: Mutex<()>,
}

impl Shared {
    fn open(options: &Options, clock: Clock) -> Result<Self, StartError> {
        let environment = |name: &str| {
            std::env::var(name)
                .ok()
                .filter(|_| options.root.as_os_str() == "/")
        };
        let config = Config::load(
            &options.root,
            Command::Server,
            &options.arguments,
            environment,
        )?;
        let paths = Paths::new(&options.root, config.get("data-dir"));
        disk::skeleton(&paths)?;
        let server_ca = Authority::open(&paths.server("tls"), "server-ca")?;
        let client_ca = Authority::open(&paths.server("tls"), "client-ca")?;
        let (server_secret, node_secret) = secrets(&config, &paths, &options.root, options.profile);
        let address = config
            .split("node-ip")
            .first()
            .cloned()
            .unwrap_or_else(|| net::own_address().to_string());
        let name = options
            .node_name
            .clone()
            .or_else(|| config.get("node-name").map(str::to_owned))
            .unwrap_or_else(net::host_name);
        let node = Node {
            name: name.to_lowercase(),
            address,
            external: config.split("node-external-ip"),
            version: options.version.clone(),
            labels: config.split("node-label"),
            arguments: config.node_arguments("server"),
        };
        let link = config.get("flannel-iface");
        let host = options
            .kernel
            .then(|| Host::open(&paths, &options.log, &node.address, link))
            .transpose()?;
        Ok(Self {
            host,
            verifier: verifier(&client_ca)?,
            store: Store::open(&paths.server("db/state.db"))?,
            resources: Resources::of(options.profile),
            phase: AtomicU8::new(Phase::Starting as u8),
            port: AtomicU16::new(0),
            leases: timeline::Leases::default(),
            saving: Mutex::default(),
            listen: options.listen,
            kubelet_health: options.kubelet_health,
            root: options.root.clone(),
            version: options.version.clone(),
            profile: options.profile,
            faults: options.faults.clone(),
            notify: Arc::clone(&options.on_ready_notify),
            log: options.log.clone(),
            paths,
            config,
            clock,
            node,
            server_ca,
            client_ca,
            server_secret,
            node_secret,
        })
    }

    fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Starting,
            1 => Phase::Up,
            2 => Phase::Hooks,
            _ => Phase::Ready,
        }
    }

    fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// The port that is listened on; 0 before that.
    fn port(&self) -> u16 {
        self.port.load(Ordering::Acquire)
    }

    /// Waits for the fault that ends the process.
    async fn fault_exit(&self) -> Exit {
        let Some(after) = self.faults.exit_after_ms else {
            return std::future::pending().await;
        };
        self.clock
            .at_real(std::time::Duration::from_millis(after))
            .await;
        Exit {
            code: self.faults.exit_code.unwrap_or(1),
            message: self.faults.exit_message.clone().unwrap_or_else(|| {
                "starting kubernetes: preparing server: a fault was asked for".into()
            }),
        }
    }

    async fn bind(&self) -> Result<TcpListener, StartError> {
        if let Some(address) = self.listen {
            return TcpListener::bind(address)
                .await
                .map_err(|error| refused(address, &error));
        }
        let port = self
            .config
            .get("https-listen-port")
            .and_then(|port| port.parse().ok())
            .unwrap_or(6443);
        if let Some(address) = self
            .config
            .get("bind-address")
            .and_then(|text| text.parse().ok())
        {
            let address = SocketAddr::new(address, port);
            return TcpListener::bind(address)
                .await
                .map_err(|error| refused(address, &error));
        }
        let everywhere = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        match TcpListener::bind(everywhere).await {
            Ok(listener) => Ok(listener),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                Err(refused(everywhere, &error))
            }
            // No IPv6 here.
            Err(_) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
                .await
                .map_err(|error| refused(everywhere, &error)),
        }
    }

    /// Names for the server's certificate.
    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = [
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
            "localhost",
            "127.0.0.1",
            "::1",
            "10.43.0.1",
        ]
        .map(str::to_owned)
        .into();
        names.push(self.node.address.clone());
        names.push(self.node.name.clone());
        names.extend(self.config.split("tls-san"));
        names.extend(self.node.external.iter().cloned());
        names.dedup();
        names
    }
}

// Secrets of the users `server` and `node`: configured ones win over those of an earlier run.
fn secrets(
    config: &Config,
    paths: &Paths,
    root: &std::path::Path,
    profile: Profile,
) -> (String, String) {
    let secret_of = |text: String| {
        Token::parse(&text, profile)
            .and_then(|token| token.secret().map(str::to_owned))
            .unwrap_or(text)
    };
    let server = config
        .secret("token", root)
        .or_else(|| std::fs::read_to_string(paths.server("token")).ok())
        .map_or_else(token::random, secret_of);
    let node = config
        .secret("agent-token", root)
        .map_or_else(|| server.clone(), secret_of);
    (server, node)
}

fn verifier(client_ca: &Authority) -> Result<Arc<dyn ClientCertVerifier>, StartError> {
    use rustls::pki_types::pem::PemObject as _;
    let tls = |error: &dyn fmt::Display| StartError::Tls(error.to_string());
    let mut roots = rustls::RootCertStore::empty();
    let certificate =
        rustls::pki_types::CertificateDer::from_pem_slice(client_ca.certificate().as_bytes())
            .map_err(|error| tls(&error))?;
    roots.add(certificate).map_err(|error| tls(&error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| tls(&error))
}

fn refused(address: SocketAddr, error: &std::io::Error) -> StartError {
    let address = if address.ip().is_unspecified() {
        format!(":{}", address.port())
    } else {
        address.to_string()
    };
    let reason = match error.kind() {
        std::io::ErrorKind::AddrInUse => "address already in use".to_owned(),
        std::io::ErrorKind::AddrNotAvailable => "cannot assign requested address".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    };
    StartError::Listen { address, reason }
}
