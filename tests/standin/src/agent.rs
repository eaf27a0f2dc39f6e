//! `k3s agent`: joins a server with a token that is really checked, registers its Node, and keeps its lease. What it
//! says when a join fails, and how often, is as recorded.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::client::{Client, ClientError, Trust, basic};
use crate::clock::{Clock, DEFAULT_SCALE, kubernetes_now_micros};
use crate::config::{Command, Config, ConfigError};
use crate::files::{FileError, Paths};
use crate::host::Host;
use crate::kubelet::pods::{Addresses, Kubelet};
use crate::log::Log;
use crate::node::Node;
use crate::pki::Identity;
use crate::token::{self, Token};
use crate::trailer::{DEFAULT_VERSION, Faults, Profile};
use crate::{kubelet, net, node};

mod balancer;
pub(crate) mod disk;
mod overlay;

type Callback = Arc<dyn Fn() + Send + Sync>;

/// Opens a connection to a server by its address and port.
pub type Dial = Arc<dyn Fn(String) -> BoxFuture<'static, std::io::Result<TcpStream>> + Send + Sync>;

/// How to run an agent.
#[derive(Clone)]
pub struct Options {
    /// Everything on disk is below this directory; `/` for the program.
    pub root: PathBuf,
    /// The Node's name; without it the configuration's, else the machine's host name.
    pub node_name: Option<String>,
    /// The port on loopback through which it reaches the server; 0 takes a free one.
    pub balancer_port: u16,
    /// How the server is reached; tests in one process have addresses of their own.
    pub dial: Dial,
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
            .field("version", &self.version)
            .field("profile", &self.profile)
            .finish_non_exhaustive()
    }
}

impl Options {
    /// The recorded agent below `root`, silent, at the usual speed, on a free port.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            node_name: None,
            balancer_port: 0,
            dial: Arc::new(|server| Box::pin(TcpStream::connect(server))),
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

/// An agent that did not start. The text is what the real program puts into its fatal line.
#[derive(Debug, Error)]
pub enum StartError {
    /// The configuration is refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A setting is missing.
    #[error("--{0} is required")]
    Missing(&'static str),
    /// The local port is taken.
    #[error("listen tcp 127.0.0.1:{port}: bind: address already in use")]
    Listen {
        /// The port.
        port: u16,
        /// The system's word.
        #[source]
        source: std::io::Error,
    },
}

/// A running agent. Dropping it stops it.
#[derive(Debug)]
pub struct Running {
    task: JoinHandle<()>,
}

impl Running {
    /// Stops it. Its Node stays, and becomes unknown when its lease is too old.
    pub async fn shutdown(mut self) {
        self.task.abort();
        // Aborted is what was asked for.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The stand-in for `k3s agent`.
#[derive(Debug)]
pub struct Agent {
    paths: Paths,
    root: PathBuf,
    clock: Clock,
    log: Log,
    node: Node,
    token: String,
    balancer: String,
    server: String,
    link: Option<String>,
    options: Options,
}

/// What a failed join says, and after how many recorded seconds the next try comes.
struct Failure {
    message: String,
    again: f64,
}

impl Failure {
    fn token(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            again: 2.0,
        }
    }

    fn configure(message: impl fmt::Display) -> Self {
        Self {
            message: format!("Failed to configure agent: {message}"),
            again: 5.0,
        }
    }
}

impl Agent {
    /// Reads the configuration and opens the local port. Joining goes on by itself, for ever if need be.
    pub async fn start(options: Options) -> Result<Running, StartError> {
        let environment = |name: &str| {
            std::env::var(name)
                .ok()
                .filter(|_| options.root.as_os_str() == "/")
        };
        let config = Config::load(
            &options.root,
            Command::Agent,
            &options.arguments,
            environment,
        )?;
        let paths = Paths::new(&options.root, config.get("data-dir"));
        let token = match config.secret("token", &options.root) {
            Some(token) => token,
            // Newer releases go on where the node has a certificate, and then retry for ever.
            None if options.profile == Profile::Documented && disk::client(&paths).is_some() => {
                String::new()
            }
            None => return Err(StartError::Missing("token")),
        };
        let server = config.get("server").ok_or(StartError::Missing("server"))?;
        let server = server
            .trim_start_matches("https://")
            .trim_end_matches('/')
            .to_owned();
        let server = if server.contains(':') {
            server
        } else {
            format!("{server}:443")
        };
        let listen = |source| StartError::Listen {
            port: options.balancer_port,
            source,
        };
        let listener = TcpListener::bind(("127.0.0.1", options.balancer_port))
            .await
            .map_err(listen)?;
        let port = listener.local_addr().map_err(listen)?.port();
        options
            .log
            .info(format!("Starting k3s agent {} (standin)", options.version));
        options.log.info(format!(
            "Running load balancer 127.0.0.1:{port} -> [{server}]"
        ));
        let name = options
            .node_name
            .clone()
            .or_else(|| config.get("node-name").map(str::to_owned))
            .unwrap_or_else(net::host_name);
        let address = config.split("node-ip").first().cloned();
        let agent = Self {
            paths,
            root: options.root.clone(),
            clock: Clock::new(options.scale),
            log: options.log.clone(),
            node: Node {
                name: name.to_lowercase(),
                address: address.unwrap_or_else(|| net::own_address().to_string()),
                external: config.split("node-external-ip"),
                version: options.version.clone(),
                labels: config.split("node-label"),
                arguments: config.node_arguments("agent"),
            },
            token,
            balancer: format!("127.0.0.1:{port}"),
            server: server.clone(),
            link: config.get("flannel-iface").map(str::to_owned),
            options,
        };
        let dial = Arc::clone(&agent.options.dial);
        let task = tokio::spawn(async move {
            tokio::select! {
                () = balancer::run(listener, server, dial) => {}
                () = agent.run() => {}
            }
        });
        Ok(Running { task })
    }

    async fn run(&self) {
        let client = loop {
            match self.join().await {
                Ok(client) => break client,
                Err(failure) => {
                    self.log.error(failure.message);
                    self.clock.wait(failure.again).await;
                }
            }
        };
        self.clock.wait(7.0).await;
        // Heard only where the unit is of type notify.
        if self.options.profile == Profile::Recorded {
            self.notify();
        }
        let host = self.open_host().await;
        tokio::select! {
            () = self.heartbeats(&client) => {}
            () = self.report(&client, host.as_ref()) => {}
            () = kubelet::serve(self.options.kubelet_health, &self.log) => {}
            () = self.pods(&client, host.clone()) => {}
            () = kubelet::serve_api(host.is_some(), &self.paths, &self.log) => {}
        }
    }

    fn notify(&self) {
        if !self.options.faults.no_notify {
            (self.options.on_ready_notify)();
        }
    }

    /// One try: the server's authority, its configuration, the kubelet's certificates.
    async fn join(&self) -> Result<Client, Failure> {
        if self.token.is_empty() {
            return Err(self.invalid("token must not be empty"));
        }
        let token = Token::parse(&self.token, self.options.profile)
            .ok_or_else(|| self.invalid("invalid token format"))?;
        let url = format!("https://{}", self.balancer);
        let limit = self.clock.scaled(20.0).max(Duration::from_secs(1));
        let unchecked = Client::new(&self.balancer, Trust::Anyone, None)
            .map_err(|error| Failure::token(error.to_string()))?
            .with_limit(limit);
        let path = format!("{url}/cacerts");
        let answer = unchecked.get("/cacerts").await.map_err(|error| {
            Failure::token(format!(
                "failed to get CA certs: Get \"{path}\": {}",
                reason(&error)
            ))
        })?;
        if answer.status != StatusCode::OK {
            return Err(Failure::token(format!(
                "failed to get CA certs: {path}: {}",
                answer.status
            )));
        }
        let cacerts = answer.text();
        match token.ca_hash() {
            Some(ca_hash) => {
                let found = token::hash(cacerts.as_bytes());
                if ca_hash != found {
                    return Err(self.invalid(format!(
                        "token CA hash does not match the Cluster CA certificate hash: {ca_hash} != {found}"
                    )));
                }
            }
            None => self.log.warning(
                "Cluster CA certificate is not trusted by the host CA bundle, but the token does not include a CA \
                 hash. Use the full token from the server's node-token file to enable Cluster CA validation.",
            ),
        }
        // A member shows its kubelet's certificate in newer releases, whatever has become of the token.
        let member = Some(())
            .filter(|()| self.options.profile == Profile::Documented)
            .and_then(|()| disk::client(&self.paths));
        let server = Client::new(&self.balancer, Trust::Authority(&cacerts), member.as_ref())
            .map_err(Failure::configure)?
            .with_limit(limit);
        let credentials = credentials(&token);
        self.fetch(&server, "config", &[("Authorization", &credentials)])
            .await?;
        let password = disk::node_password(&self.paths).map_err(|error| file(&error))?;
        let headers = [
            ("Authorization", credentials.as_str()),
            ("k3s-Node-Name", &self.node.name),
            ("k3s-Node-Password", &password),
            ("k3s-Node-IP", &self.node.address),
        ];
        let (server, serving) = match self.fetch(&server, "serving-kubelet.crt", &headers).await {
            // The Node is gone: only the token helps now.
            Err(_) if member.is_some() => {
                let server = Client::new(&self.balancer, Trust::Authority(&cacerts), None)
                    .map_err(Failure::configure)?
                    .with_limit(limit);
                let serving = self.fetch(&server, "serving-kubelet.crt", &headers).await?;
                (server, serving)
            }
            fetched => (server, fetched?),
        };
        let serving = identity(&serving);
        let client = identity(&self.fetch(&server, "client-kubelet.crt", &headers).await?);
        let client_ca = self.fetch(&server, "client-ca.crt", &headers).await?;
        disk::certificates(&self.paths, &client_ca, &cacerts, &client, &serving)
            .map_err(|error| file(&error))?;
        disk::settings(&self.paths, &url).map_err(|error| file(&error))?;
        Client::new(&self.balancer, Trust::Authority(&cacerts), Some(&client))
            .map_err(Failure::configure)
    }

    // Newer releases say whose connection they could not validate.
    fn invalid(&self, message: impl fmt::Display) -> Failure {
        Failure::token(match self.options.profile {
            Profile::Recorded => message.to_string(),
            Profile::Documented => format!(
                "Failed to validate connection to cluster at https://{}: {message}",
                self.server
            ),
        })
    }

    async fn fetch(
        &self,
        server: &Client,
        name: &str,
        headers: &[(&str, &str)],
    ) -> Result<String, Failure> {
        let path = format!("/v1-k3s/{name}");
        let url = format!("https://{}{path}", self.balancer);
        let answer = server
            .send(Method::GET, &path, headers, "")
            .await
            .map_err(|error| Failure::configure(format!("Get \"{url}\": {}", reason(&error))))?;
        match answer.status {
            StatusCode::OK => Ok(answer.text()),
            StatusCode::FORBIDDEN if name == "serving-kubelet.crt" => Err(Failure::configure(
                "Node password rejected, duplicate hostname or contents of '/etc/rancher/node/password' may not match \
                 server node-passwd entry, try enabling a unique node name with the --with-node-id flag",
            )),
            status if name == "config" => Err(Failure::configure(format!(
                "failed to retrieve configuration from server: {url}: {status}"
            ))),
            status => Err(Failure::configure(format!("{url}: {status}"))),
        }
    }

    /// Makes the Node or takes it over, and reports as the recorded kubelet does.
    async fn report(&self, kubelet: &Client, host: Option<&Arc<Host>>) {
        if self.register(kubelet).await == StatusCode::CONFLICT {
            self.change(kubelet, |object| self.node.restarted(object, &self.root))
                .await;
        }
        self.change(kubelet, node::initialised).await;
        self.clock.wait(1.0).await;
        self.change(kubelet, |object| self.node.annotated(object))
            .await;
        self.clock.wait(1.0).await;
        let path = format!("/api/v1/nodes/{}", self.node.name);
        let own = self.change(kubelet, |_| {}).await;
        let subnet = own["spec"]["podCIDR"].clone();
        let mac = self
            .network(host, subnet.as_str().unwrap_or("10.42.0.0/24"))
            .await;
        self.change(kubelet, |object| self.node.network_up(object, &mac))
            .await;
        let _peers = host.map(|host| self.follow_peers(host, kubelet));
        if self.options.profile == Profile::Documented {
            self.notify();
        }
        self.clock.wait(8.0).await;
        if !self.options.faults.node_never_ready {
            self.change(kubelet, node::ready).await;
        }
        // From here on a Node that is lost and found reports itself again; one that is deleted does not come back.
        loop {
            self.clock.wait(10.0).await;
            match kubelet.get(&path).await {
                Ok(answer) if node::ready_status(&answer.json()) == "Unknown" => {
                    self.change(kubelet, node::ready).await;
                }
                Ok(answer) if answer.status == StatusCode::NOT_FOUND => self.log.error(format!(
                    "Error updating node status, will retry: error getting node \"{0}\": nodes \"{0}\" not found",
                    self.node.name
                )),
                // The server may be away for a while.
                Ok(_) | Err(_) => {}
            }
        }
    }

    /// Makes the Node, as soon as the server is there; answers whether it was there already.
    async fn register(&self, kubelet: &Client) -> StatusCode {
        let created = self.node.created(&self.root).to_string();
        loop {
            let made = self
                .send(kubelet, Method::POST, "/api/v1/nodes", created.clone())
                .await;
            match made {
                Some(made @ (StatusCode::CREATED | StatusCode::CONFLICT)) => return made,
                Some(status) => self.log.error(format!(
                    "Unable to register node \"{}\" with API server: {status}",
                    self.node.name
                )),
                None => {}
            }
            self.clock.wait(2.0).await;
        }
    }

    async fn pods(&self, client: &Client, host: Option<Arc<Host>>) {
        let kubelet = Kubelet {
            root: self.root.clone(),
            client: client.clone(),
            node: self.node.name.clone(),
            address: self.node.address.clone(),
            clock: self.clock,
            log: self.log.clone(),
            addresses: Addresses::default(),
            host,
        };
        // With its network, as the recorded one.
        self.clock.wait(2.5).await;
        Arc::new(kubelet).run().await;
    }

    async fn heartbeats(&self, kubelet: &Client) {
        let folder = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
        let name = &self.node.name;
        loop {
            let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name},
                "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": kubernetes_now_micros()}})
            .to_string();
            let renewed = self
                .send(
                    kubelet,
                    Method::PUT,
                    &format!("{folder}/{name}"),
                    lease.clone(),
                )
                .await;
            if renewed == Some(StatusCode::NOT_FOUND) {
                self.send(kubelet, Method::POST, folder, lease).await;
            }
            self.clock.wait(10.0).await;
        }
    }

    /// Reads the Node, changes it and writes it back; answers what was written.
    async fn change(&self, kubelet: &Client, change: impl Fn(&mut Value)) -> Value {
        let path = format!("/api/v1/nodes/{}", self.node.name);
        loop {
            let answer = match kubelet.get(&path).await {
                Ok(answer) if answer.status == StatusCode::OK => answer,
                Ok(answer) if answer.status == StatusCode::NOT_FOUND => return Value::Null,
                // The server is away, or starts: it is asked until it answers.
                Ok(_) | Err(_) => {
                    self.clock.wait(2.0).await;
                    continue;
                }
            };
            let mut object = answer.json();
            change(&mut object);
            if self
                .send(kubelet, Method::PUT, &path, object.to_string())
                .await
                == Some(StatusCode::OK)
            {
                return object;
            }
            self.clock.wait(0.5).await;
        }
    }

    async fn send(
        &self,
        kubelet: &Client,
        method: Method,
        path: &str,
        body: String,
    ) -> Option<StatusCode> {
        let headers = [("Content-Type", "application/json")];
        match kubelet.send(method, path, &headers, body).await {
            Ok(answer) => Some(answer.status),
            Err(error) => {
                self.log.error(error.to_string());
                None
            }
        }
    }
}

fn credentials(token: &Token) -> String {
    match token {
        Token::Secure { secret, .. } | Token::Short(secret) => basic("node", secret),
        Token::Bootstrap { token, .. } => format!("Bearer {token}"),
    }
}

// Certificates and their key come as one text.
fn identity(text: &str) -> Identity {
    let key = text.find("-----BEGIN PRIVATE KEY").unwrap_or(text.len());
    Identity {
        certificate: text[..key].to_owned(),
        key: text[key..].to_owned(),
    }
}

fn file(error: &FileError) -> Failure {
    Failure::configure(error)
}

fn reason(error: &ClientError) -> String {
    match error {
        ClientError::Timeout { .. } => {
            "context deadline exceeded (Client.Timeout exceeded while awaiting headers)".to_owned()
        }
        ClientError::Connect { .. } | ClientError::Tls { .. } | ClientError::Talk { .. } => {
            "EOF".to_owned()
        }
        ClientError::Prepare(text) => text.clone(),
    }
}
