//! A node: a fake machine with a real agent on it. The machine outlives the agent, as machines do.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use canasta_agent::join::client;
use canasta_agent::join::message::{Answer, Ask, Done, Failure, JoinRequest, TokenText};
use canasta_agent::{Agent, AgentOptions, RunningAgent, State};
use canasta_host::fake::{FakeHost, Order};
use canasta_proto::pb;
use canasta_standin::kubectl;
use http::Method;
use serde_json::Value;
use tokio_stream::StreamExt as _;

use super::k3s::{self, K3s};
use super::trap::Trap;
use super::{again, place, program, within};

/// A node of the fleet.
#[derive(Debug)]
pub struct Node {
    /// Its name in the fleet, and its hostname.
    pub name: String,
    /// Its address in the network of the machines.
    pub ip: IpAddr,
    /// The machine.
    pub host: FakeHost,
    /// k3s on it.
    pub k3s: K3s,
    /// Around the agent's tasks.
    pub probe: Arc<Trap>,
    /// Where the agent listens once it has joined.
    pub address: SocketAddr,
    /// Where the controller is told to dial.
    pub advertise: SocketAddr,
    agent: Option<RunningAgent>,
}

impl Node {
    /// A new machine with an agent that waits for its join.
    pub async fn start(name: &str) -> Self {
        let host = FakeHost::new(name);
        let address = place::free();
        let [.., third, fourth] = address.port().to_be_bytes();
        let ip = IpAddr::from([10, 77, third, fourth]);
        let own = format!("{ip}/16");
        host.network.set_address(own.parse().expect("an address"));
        let mut node = Self {
            name: name.to_owned(),
            ip,
            k3s: K3s::set_up(&host),
            host,
            probe: Arc::default(),
            address,
            advertise: address,
            agent: None,
        };
        node.restart().await;
        node
    }

    /// Starts the agent on what an earlier one left.
    ///
    /// # Panics
    /// When it can't start.
    pub async fn restart(&mut self) {
        self.start_with(self.options()).await;
    }

    /// Starts the agent anew, with a patience of its own with k3s's API, and a third of it with a server that is joined.
    ///
    /// # Panics
    /// When it can't start.
    pub async fn restart_waiting(&mut self, ready: Duration) {
        self.crash().await;
        let mut options = self.options();
        options.timings.install.ready = ready;
        options.timings.install.patience = ready / 3;
        self.start_with(options).await;
    }

    async fn start_with(&mut self, options: AgentOptions) {
        let started = again(|| Agent::start(options.clone())).await;
        self.agent = Some(started.expect("the agent starts"));
    }

    fn options(&self) -> AgentOptions {
        let mut options = AgentOptions::new(self.host.host());
        options.config.listen = Some(self.address);
        options.probe = self.probe.clone();
        let timings = &mut options.timings;
        timings.join_connect = Duration::from_secs(5);
        timings.drain = Duration::from_secs(2);
        timings.join_retry_first = Duration::from_millis(20);
        // Longer than a k3s that is to exit takes for its exit to be seen, on a busy machine.
        timings.install.settle = Duration::from_millis(60);
        timings.install.first_pause = Duration::from_millis(10);
        timings.install.longest_pause = Duration::from_millis(50);
        timings.install.ready = Duration::from_secs(10);
        options
    }

    /// Kills the agent where it stands.
    pub async fn crash(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.abort().await;
        }
    }

    /// What the agent is doing.
    ///
    /// # Panics
    /// When it does not run.
    pub fn state(&self) -> State {
        self.agent().state().borrow().clone()
    }

    /// Waits until the agent is a member of a fleet.
    ///
    /// # Panics
    /// When it does not become one.
    pub async fn until_joined(&self) -> State {
        let mut state = self.agent().state();
        let joined = state.wait_for(|state| matches!(state, State::Joined { .. }));
        let joined = within(&format!("{} to join", self.name), joined).await;
        joined.expect("the agent runs").clone()
    }

    /// Joins as `canasta-agent join` does.
    ///
    /// # Errors
    /// What the operator on the node reads.
    ///
    /// # Panics
    /// When the agent does not answer.
    pub async fn join(&self, controller: SocketAddr, token: &str) -> Result<Done, Failure> {
        self.join_as(JoinRequest {
            controller: controller.to_string(),
            token: TokenText::new(token),
            advertise: Some(self.advertise.to_string()),
            name: None,
        })
        .await
    }

    /// Joins with everything that an operator can give.
    ///
    /// # Errors
    /// What the operator on the node reads.
    ///
    /// # Panics
    /// When the agent does not answer.
    pub async fn join_as(&self, request: JoinRequest) -> Result<Done, Failure> {
        let ask = Ask::Join(request);
        let asked = client::ask(self.agent().join_socket(), &ask, |_| {});
        match within("the join to end", asked)
            .await
            .expect("the agent answers")
        {
            Answer::Done(done) => Ok(done),
            Answer::Error(failure) => Err(failure),
            other => panic!("a join is answered with {other:?}"),
        }
    }

    /// Puts a k3s here that the agent knows nothing of, as its own installer does, and starts it.
    ///
    /// # Panics
    /// When it can't be written or does not come up.
    pub async fn install_foreign_k3s(&self, version: &str) {
        use std::os::unix::fs::PermissionsExt;
        let unit = "[Unit]\nDescription=Lightweight Kubernetes\n[Service]\nType=notify\n\
                    ExecStart=/usr/local/bin/k3s server --tls-san 203.0.113.9\n[Install]\nWantedBy=multi-user.target\n";
        let config = format!("node-name: {}\nnode-ip: 10.77.0.200\n", self.name);
        for (path, content, mode) in [
            (k3s::BINARY, program::release(version, 0), 0o755),
            (
                "/etc/systemd/system/k3s.service",
                unit.as_bytes().to_vec(),
                0o644,
            ),
            ("/etc/rancher/k3s/config.yaml", config.into_bytes(), 0o600),
            (
                "/usr/local/bin/k3s-uninstall.sh",
                b"#!/bin/sh\n".to_vec(),
                0o755,
            ),
        ] {
            let path = self.host.root.path(path);
            std::fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
            std::fs::write(&path, content).expect("the file can be written");
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode))
                .expect("its mode can be set");
        }
        let systemd = self.host.host().systemd;
        let mut states = systemd
            .watch(k3s::UNIT)
            .await
            .expect("the unit can be watched");
        systemd
            .enable(k3s::UNIT)
            .await
            .expect("the unit is enabled");
        systemd
            .start_no_block(k3s::UNIT)
            .await
            .expect("the unit is started");
        let up = async {
            while let Some(state) = states.next().await {
                if state.expect("a state").active_state == "active" {
                    return;
                }
            }
        };
        within("the foreign k3s to be up", up).await;
        self.host.systemd.clear_orders();
    }

    /// How often systemd was told to start or restart k3s.
    pub fn starts_ordered(&self) -> usize {
        let is_start = |order: &Order| match order {
            Order::Start(unit) | Order::Restart(unit) => unit == k3s::UNIT,
            _ => false,
        };
        self.host
            .systemd
            .orders()
            .iter()
            .filter(|order| is_start(order))
            .count()
    }

    /// Asks the API of the k3s on this control plane as its administrator: the status and the body of the answer.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn ask_api(&self, method: Method, path: &str, body: &Value) -> (u16, Value) {
        let file = self.host.root.path(k3s::KUBECONFIG);
        let (_, api) = kubectl::kubeconfig(&file).expect("it has a kubeconfig");
        let headers = [("Content-Type", "application/json")];
        let answer = api.send(method, path, &headers, body.to_string()).await;
        let answer = answer.expect("the API answers");
        (answer.status.as_u16(), answer.json())
    }

    /// A text below the machine's root.
    ///
    /// # Panics
    /// When it can't be read.
    pub fn read(&self, path: &str) -> String {
        let path = self.host.root.path(path);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Everything that changes when something on the machine is touched but the agent's own state: each file below `/etc`
    /// and `/usr` with its content, and the orders to systemd.
    pub fn picture(&self) -> (Vec<(String, Vec<u8>)>, Vec<Order>) {
        let mut files = Vec::new();
        for directory in ["etc", "usr"] {
            gather(&self.host.directory().join(directory), &mut files);
        }
        files.sort();
        (files, self.host.systemd.orders())
    }

    /// Every path on the machine but those of the agent's own state.
    pub fn files(&self) -> Vec<String> {
        let mut files = Vec::new();
        list(self.host.directory(), &mut files);
        let own = ["var/lib/canasta-agent", "run/canasta-agent"]
            .map(|own| self.host.directory().join(own).display().to_string());
        files.retain(|path| !own.iter().any(|own| path.starts_with(own)));
        files.sort();
        files
    }

    fn agent(&self) -> &RunningAgent {
        self.agent.as_ref().expect("the agent runs")
    }
}

/// Everything below a directory, directories too.
fn list(directory: &std::path::Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        found.push(path.display().to_string());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            list(&path, found);
        }
    }
}

fn gather(directory: &std::path::Path, files: &mut Vec<(String, Vec<u8>)>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = path.display().to_string();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => gather(&path, files),
            Ok(kind) if kind.is_symlink() => {
                let target = std::fs::read_link(&path).unwrap_or_default();
                files.push((name, target.into_os_string().into_encoded_bytes()));
            }
            _ => files.push((name, std::fs::read(&path).unwrap_or_default())),
        }
    }
}

/// Facts of the node as the fleet shows them.
///
/// # Panics
/// When the host has told none.
pub fn k3s_facts(host: &pb::Host) -> pb::K3sFacts {
    let facts = host.facts.as_ref().expect("the host has told facts");
    facts.k3s.clone().unwrap_or_default()
}
