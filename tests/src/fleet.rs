//! A whole fleet in one process: a real controller with its database below a temporary directory, real agents over fake
//! machines, the stand-in's k3s as what they install, a release server, and clients over real mutual TLS.
//!
//! ```no_run
//! # async fn example() {
//! use canasta_tests::fleet::{Fleet, client::install_on};
//!
//! let fleet = Fleet::start().await;
//! let node = fleet.joined("cp1").await;
//! let admin = fleet.admin().await;
//! let (operation, _plan) = admin.install(install_on("cp1")).await.expect("an operation");
//! admin.ended(&operation).await;
//! # drop(node);
//! # }
//! ```
//!
//! Every daemon can be killed where it stands and started again on what it left; [`trap::Trap`] says where. Nothing here
//! sleeps: what is waited for is an event, with a deadline that [`within`] names when it passes.

pub mod cli;
pub mod client;
pub mod k3s;
pub mod node;
pub mod people;
pub mod place;
pub mod program;
pub mod recorder;
pub mod share;
pub mod ssh;
pub mod terminal;
pub mod trap;
pub mod wire;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use canasta_controller::config::{Config, Pins};
use canasta_controller::controller::{
    Controller, ControllerOptions, RunningController, StartError,
};
use canasta_host::fake::Wire;
use canasta_proto::pb;
use canasta_standin::release::ReleaseServer;
use canasta_transport::dial::{self, Limits};
use canasta_transport::status::Fault;

use cli::Cli;
use client::Client;
use node::Node;
use people::User;
use trap::Trap;

/// The release that a first install takes; the settings pin this one.
pub const VERSION: &str = "v1.34.8+k3s1";
/// A newer one of the same minor version.
pub const PATCH: &str = "v1.34.9+k3s1";
/// Size of what is served as k3s, where it does not matter.
pub const SMALL: usize = 4096;
/// The longest that anything is waited for.
const DEADLINE: Duration = Duration::from_secs(20);

/// Waits for something that must happen.
///
/// # Panics
/// When it does not within some seconds; the message names it.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let value = tokio::time::timeout(DEADLINE, future).await;
    value.unwrap_or_else(|_elapsed| panic!("waited {} s for {what}", DEADLINE.as_secs()))
}

/// Has what the daemons log shown when a test fails; `RUST_LOG` chooses what.
fn show_logs() {
    let chosen = std::env::var("RUST_LOG")
        .unwrap_or_else(|_unset| "info,h2=warn,hyper=warn,sqlx=warn".to_owned());
    let filter: tracing_subscriber::filter::Targets =
        chosen.parse().expect("RUST_LOG is a list of targets");
    // Done already by an earlier fleet of this process.
    let _done = tracing_subscriber::registry()
        .with(filter)
        .with(
            tracing_subscriber::fmt::layer()
                .with_writer(std::io::stderr)
                .with_ansi(false),
        )
        .try_init();
}

/// Starts a daemon in the place of one that was killed. A child of this process that has not come to its own program yet
/// holds copies of what the killed one had open, ports and locks among them, so the first tries may fail.
async fn again<T, E, F>(start: impl Fn() -> F) -> Result<T, E>
where
    F: Future<Output = Result<T, E>>,
{
    for _try in 0..50 {
        if let Ok(started) = start().await {
            return Ok(started);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    start().await
}

async fn start(config: Config, probe: Arc<Trap>) -> Result<RunningController, StartError> {
    let options = ControllerOptions::bind(config)?.with_probe(probe);
    Controller::start(options).await
}

/// Pins what the release server gives out as this version, from the next start of the controller on.
///
/// # Panics
/// When it is no version.
pub fn pin(config: &mut Config, version: &str, size: usize) {
    let sha256 = program::sha256(&program::release(version, size));
    let version = version.parse().expect("a version");
    config.k3s.sha256.insert(version, program::arch(), &sha256);
}

/// A controller with what belongs to it.
pub struct Fleet {
    /// Its settings; a change applies from the next start on.
    pub config: Config,
    /// Around the steps of its operations.
    pub probe: Arc<Trap>,
    /// Where it gets k3s.
    pub release: ReleaseServer,
    /// What connects its nodes.
    pub wire: Wire,
    controller: Option<RunningController>,
    directory: tempfile::TempDir,
}

impl std::fmt::Debug for Fleet {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Fleet")
            .field("address", &self.address())
            .finish_non_exhaustive()
    }
}

impl Fleet {
    /// A new fleet without hosts.
    pub async fn start() -> Self {
        Self::start_with(SMALL, |_| {}).await
    }

    /// A new fleet whose k3s has at least `size` bytes, with some settings changed.
    ///
    /// # Panics
    /// When a part can't start.
    pub async fn start_with(size: usize, change: impl FnOnce(&mut Config)) -> Self {
        show_logs();
        let directory = tempfile::tempdir().expect("a directory");
        let source = program::source(&directory.path().join("k3s"), size);
        let release = ReleaseServer::start(place::free(), source, false)
            .await
            .expect("a release server");
        let mut config = Config {
            listen: place::free(),
            socket: directory.path().join("controller.sock"),
            state_dir: directory.path().join("state"),
            ..Config::default()
        };
        config.advertise = config.listen.to_string().parse().ok();
        config.k3s.version = VERSION.parse().expect("a version");
        config.k3s.release_url = release.url_template();
        pin(&mut config, VERSION, size);
        let timings = &mut config.timings;
        timings.dial = Duration::from_secs(2);
        timings.dial_back = Duration::from_secs(2);
        timings.backoff_first = Duration::from_millis(20);
        timings.backoff_most = Duration::from_millis(200);
        timings.drain = Duration::from_secs(2);
        timings.agent_wait = Duration::from_secs(10);
        timings.node_ready = Duration::from_secs(10);
        timings.download_stall = Duration::from_millis(300);
        timings.download_slow = Duration::from_secs(1);
        timings.download_pause = Duration::from_millis(10);
        change(&mut config);
        let mut fleet = Self {
            config,
            probe: Arc::default(),
            release,
            wire: Wire::default(),
            controller: None,
            directory,
        };
        fleet.restart().await;
        fleet
    }

    /// Takes releases from `releases/` in the scratch directory from now on, where nothing is yet; see [`program::lay_out`].
    pub async fn take_releases_from_directory(&mut self) -> std::path::PathBuf {
        let releases = self.scratch().join("releases");
        self.config.k3s.release_url = releases.join("{version}/{asset}").display().to_string();
        self.config.k3s.sha256 = Pins::default();
        self.crash().await;
        self.restart().await;
        releases
    }

    /// Takes releases over TLS from now on, without pins, from a server whose authority is in the settings.
    ///
    /// # Panics
    /// When the server can't start.
    pub async fn take_releases_over_tls(&mut self) {
        let source = program::source(&self.scratch().join("k3s"), SMALL);
        let release = ReleaseServer::start_tls(place::free(), source, false).await;
        self.release = release.expect("a release server");
        let ca_file = self.scratch().join("release-ca.pem");
        let authority = self.release.authority().expect("it has TLS");
        std::fs::write(&ca_file, authority).expect("the certificate can be written");
        let k3s = &mut self.config.k3s;
        k3s.release_url = self.release.url_template();
        k3s.ca_file = Some(ca_file);
        k3s.sha256 = Pins::default();
        self.crash().await;
        self.restart().await;
    }

    /// Starts the controller on what an earlier one left.
    ///
    /// # Panics
    /// When it can't start.
    pub async fn restart(&mut self) {
        let start = || start(self.config.clone(), self.probe.clone());
        self.controller = Some(again(start).await.expect("the controller starts"));
    }

    /// Kills the controller where it stands.
    pub async fn crash(&mut self) {
        if let Some(controller) = self.controller.take() {
            controller.abort().await;
        }
    }

    /// Stops the controller as systemd does: open calls end with a reason, and operations go on after the next start.
    pub async fn stop(&mut self) {
        if let Some(controller) = self.controller.take() {
            controller.shutdown().await;
        }
    }

    /// The kinds of operations that the controller can take up again.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kinds(&self) -> Vec<&'static str> {
        let controller = self.controller.as_ref().expect("the controller runs");
        controller.operations().kinds().collect()
    }

    /// Where the controller listens.
    pub fn address(&self) -> SocketAddr {
        self.config.listen
    }

    /// The controller's state directory.
    pub fn state_dir(&self) -> &Path {
        &self.config.state_dir
    }

    /// A directory for the test's own files.
    pub fn scratch(&self) -> &Path {
        self.directory.path()
    }

    /// An administrator on the controller's machine, through the unix socket.
    ///
    /// # Panics
    /// When the socket can't be opened.
    pub async fn admin(&self) -> Client {
        let channel = dial::connect_unix(&self.config.socket, &Limits::default()).await;
        Client::new(channel.expect("the socket is open"))
    }

    /// A user with this role on another machine, over mutual TLS.
    ///
    /// # Panics
    /// When the user can't be made or is not let in.
    pub async fn user(&self, name: &str, role: pb::Role) -> User {
        let material = people::redeem(self.address(), &self.user_token(name, role).await).await;
        let controller = material.identity().fleet.controller();
        let dialled = people::dial(self.address(), &material, controller).await;
        User {
            material,
            client: Client::new(dialled.expect("the user is let in").channel),
        }
    }

    /// A one-use token for a user.
    ///
    /// # Panics
    /// When it can't be made.
    pub async fn user_token(&self, name: &str, role: pb::Role) -> String {
        let request = pb::AddUserRequest {
            name: name.to_owned(),
            role: role.into(),
        };
        let answer = self.admin().await.users().add_user(request).await;
        answer.expect("the user is added").into_inner().token
    }

    /// A CLI on another machine, as a user with this role.
    pub async fn cli(&self, name: &str, role: pb::Role) -> Cli {
        Cli::with_context(self.address(), &self.user_token(name, role).await).await
    }

    /// A node that has joined and is connected.
    ///
    /// # Panics
    /// When it can't join.
    pub async fn joined(&self, name: &str) -> Node {
        let node = Node::start(name).await;
        self.join(&node).await;
        node
    }

    /// A fleet with a control plane that has k3s, and a worker that has not joined its cluster: `cp1` and `w1`.
    ///
    /// # Panics
    /// When the install fails.
    pub async fn with_worker() -> (Self, Node, Node) {
        let fleet = Self::start().await;
        let control_plane = fleet.joined("cp1").await;
        let worker = fleet.joined("w1").await;
        for node in [&control_plane, &worker] {
            node.k3s.set_scale(0.01);
        }
        fleet.install_cp1().await;
        (fleet, control_plane, worker)
    }

    async fn install_cp1(&self) {
        let installed = self.install(client::install_on("cp1")).await;
        let installed = installed.expect("it is planned");
        assert_eq!(
            installed.state(),
            pb::OperationState::Succeeded,
            "{installed:#?}"
        );
    }

    /// Installs a control plane on `cp1` and joins `w1` to it; both hosts have joined the fleet.
    ///
    /// # Panics
    /// When either fails.
    pub async fn cluster_of_two(&self) {
        self.install_cp1().await;
        let admin = self.admin().await;
        let join = admin.join_worker("w1", "cp1").await.expect("planned");
        let joined = admin.ended(&join).await;
        assert_eq!(joined.state(), pb::OperationState::Succeeded, "{joined:#?}");
    }

    /// Adds a node's host and has it join.
    ///
    /// # Panics
    /// When it can't join, or the controller does not reach it.
    pub async fn join(&self, node: &Node) {
        node.host.sockets.plug_into(&self.wire);
        let token = self
            .admin()
            .await
            .add_host(&node.name)
            .await
            .expect("the host is added");
        // All nodes come from one address here, and the controller takes one call a second from strangers there; a join is two,
        // and waits by itself until there is room.
        let joined = node.join(self.address(), &token);
        let done = within("a place among the callers", joined).await;
        let done = done.expect("the node joins");
        assert_eq!(done.reached, Some(true), "{done:?}");
    }

    /// Installs with these wishes and waits for the end.
    ///
    /// # Errors
    /// What the controller refuses with.
    pub async fn install(
        &self,
        request: pb::InstallControlPlaneRequest,
    ) -> Result<pb::Operation, Fault> {
        let admin = self.admin().await;
        let (id, _plan) = admin.install(request).await?;
        Ok(admin.ended(&id).await)
    }

    /// Waits until a host is in this state.
    ///
    /// # Panics
    /// When it never is.
    pub async fn host_is(&self, name: &str, state: pb::HostState) -> pb::Host {
        let admin = self.admin().await;
        self.until(&format!("{name} to be {state:?}"), async || {
            let host = admin.host(name, false).await.expect("the host is known");
            (host.state() == state).then_some(host)
        })
        .await
    }

    /// Asks until there is an answer: for what the controller tells only when it is asked.
    ///
    /// # Panics
    /// When there never is one.
    pub async fn until<T>(&self, what: &str, ask: impl AsyncFn() -> Option<T>) -> T {
        let asking = async {
            loop {
                if let Some(answer) = ask().await {
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        within(what, asking).await
    }
}
