//! A fleet for tests of workflows: a control plane with an API and a worker, whose agents do as they are told.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use canasta_proto::name::HostName;
use canasta_proto::pb;
use canasta_proto::pb::task_spec::Verb;
use canasta_steps::{NoProbe, Probe};
use futures_util::StreamExt as _;
use jiff::Timestamp;

use super::{Context, kinds};
use crate::artefacts::{self, Artefacts};
use crate::clusters::fake::{FakeApi, node};
use crate::clusters::{CONTROL_PLANE, Clusters};
use crate::config::{K3s, Pins, Timings};
use crate::fleet::stub::Stub;
use crate::operations::Operations;
use crate::operations::agent::stub::{Agent, Bench, OnTask};
use crate::store::clusters::{ClusterRow, NodeRow};

/// The version of the cluster.
pub(super) const VERSION: &str = "v1.34.8+k3s1";

/// All that a workflow needs.
pub(super) struct Lab {
    pub(super) bench: Bench,
    pub(super) context: Context,
    pub(super) operations: Operations,
    pub(super) api: FakeApi,
    pub(super) agent: Arc<Agent>,
    /// Whether the worker's k3s registers its Node when it is started.
    pub(super) registers: Arc<AtomicBool>,
    link: Stub,
}

/// The facts of a node without k3s.
pub(super) fn facts(name: &str, ip: &str) -> pb::NodeFacts {
    pb::NodeFacts {
        hostname: name.to_owned(),
        arch: "x86_64".to_owned(),
        boot_id: format!("boot-{name}"),
        machine_id: format!("machine-{name}"),
        addresses: vec![format!("{ip}/24")],
        node_ip: ip.to_owned(),
        node_ip_link: "eth0".to_owned(),
        k3s: Some(pb::K3sFacts::default()),
        ..pb::NodeFacts::default()
    }
}

/// A k3s that this fleet installed and that runs.
pub(super) fn running(role: pb::K3sRole) -> pb::K3sFacts {
    let unit = match role {
        pb::K3sRole::Agent => "k3s-agent.service",
        _ => "k3s.service",
    };
    pb::K3sFacts {
        present: true,
        origin: pb::K3sOrigin::Installed.into(),
        role: role.into(),
        binary_version: VERSION.to_owned(),
        unit: unit.to_owned(),
        unit_active_state: "active".to_owned(),
        unit_sub_state: "running".to_owned(),
        unit_started_at: Some(prost_types::Timestamp::default()),
        ..pb::K3sFacts::default()
    }
}

/// The cluster `c` of the control plane `cp1`.
pub(super) fn cluster() -> ClusterRow {
    ClusterRow {
        name: "c".to_owned(),
        k3s_version: VERSION.to_owned(),
        ca_hash: "ab".to_owned(),
        endpoint: "https://10.0.0.5:6443".to_owned(),
        adopted: false,
        created_at: 1,
        public_ips: Vec::new(),
    }
}

/// A host of the cluster `c`.
pub(super) fn member(host: &str, role: &str, ip: &str) -> NodeRow {
    NodeRow {
        host: host.to_owned(),
        cluster: "c".to_owned(),
        node_name: host.to_owned(),
        role: role.to_owned(),
        node_ip: ip.to_owned(),
        tls_sans: Vec::new(),
    }
}

impl Lab {
    pub(super) async fn new() -> Self {
        Self::with_probe(Arc::new(NoProbe)).await
    }

    pub(super) async fn with_probe(probe: Arc<dyn Probe>) -> Self {
        let mut bench = Bench::connected().await;
        bench.timings = Timings {
            node_ready: Duration::from_secs(1),
            agent_wait: Duration::from_millis(200),
            evict: Duration::from_secs(30),
            evict_again: Duration::from_millis(20),
            pay_again: Duration::from_millis(20),
            ..bench.timings
        };
        let (_worker, agent, link) = bench.add("w1").await;
        let api = FakeApi::start(&bench.agent, "v1").await;
        for (agent, name, ip) in [
            (&bench.agent, "cp1", "10.0.0.5"),
            (&agent, "w1", "10.0.0.6"),
        ] {
            agent.obliging.store(true, Ordering::Relaxed);
            *agent.facts.lock().expect("facts") = Some(facts(name, ip));
            let host: HostName = name.parse().expect("name");
            bench
                .store
                .add_host(&host, "", Timestamp::now())
                .await
                .expect("added");
        }
        let mut server = facts("cp1", "10.0.0.5");
        server.k3s = Some(running(pb::K3sRole::Server));
        *bench.agent.facts.lock().expect("facts") = Some(server);
        let control_plane = member("cp1", CONTROL_PLANE, "10.0.0.5");
        let cluster = cluster();
        let stored = bench.store.put_cluster_node(&cluster, &control_plane);
        stored.await.expect("stored");
        api.put(
            "/api/v1/nodes/cp1",
            node("cp1", "machine-cp1", "boot-cp1", "True"),
        );
        let context = context(&bench).await;
        let operations = Operations::new(bench.store.clone(), kinds(&context), probe);
        let registers = Arc::new(AtomicBool::new(true));
        *agent.on_task.lock().expect("on_task") = Some(registering(
            Arc::downgrade(&agent),
            api.clone(),
            Arc::clone(&registers),
        ));
        Self {
            bench,
            context,
            operations,
            api,
            agent,
            registers,
            link,
        }
    }

    /// What the worker's agent says of its k3s from now on.
    pub(super) fn worker_runs(&self) {
        let mut facts = self.agent.facts.lock().expect("facts");
        facts.as_mut().expect("set").k3s = Some(running(pb::K3sRole::Agent));
    }

    /// The worker's machine is gone.
    pub(super) fn cut_worker(&self) {
        self.link.cut();
    }

    /// The worker's own Node is Ready.
    pub(super) fn worker_ready(&self) {
        let own = node("w1", "machine-w1", "boot-w1", "True");
        self.api.put("/api/v1/nodes/w1", own);
    }

    /// The worker is a member of the cluster, and was Ready.
    pub(super) async fn joined(&self) {
        self.worker_runs();
        self.worker_ready();
        let row = member("w1", crate::clusters::WORKER, "10.0.0.6");
        let store = &self.bench.store;
        store.put_worker(&row, true).await.expect("stored");
        store.mark_ready("w1").await.expect("marked");
    }

    /// Waits until what an operation does shows.
    pub(super) async fn comes_to(&self, shows: impl Fn() -> bool) {
        let shown = async {
            while !shows() {
                tokio::task::yield_now().await;
            }
        };
        let shown = tokio::time::timeout(Duration::from_secs(20), shown).await;
        shown.expect("in time");
    }

    /// The operation when it has ended.
    pub(super) async fn ended(&self, id: &str) -> pb::Operation {
        let events = self.operations.watch(id, 0).await.expect("known");
        let ended = events.for_each(|_| std::future::ready(()));
        tokio::time::timeout(Duration::from_secs(20), ended)
            .await
            .expect("in time");
        // The end is stored before the hosts are free.
        let holds = |host: &str| self.operations.changer_of(host).as_deref() == Some(id);
        while holds("w1") || holds("cp1") {
            tokio::task::yield_now().await;
        }
        self.operations.get(id).await.expect("known")
    }
}

/// Starting k3s on the worker makes its Node Ready.
fn registering(agent: Weak<Agent>, api: FakeApi, registers: Arc<AtomicBool>) -> OnTask {
    Arc::new(move |spec| {
        let Some(Verb::K3sInstall(install)) = &spec.verb else {
            return;
        };
        let Some(agent) = agent.upgrade() else { return };
        if install.step() != pb::K3sInstallStep::Start || !registers.load(Ordering::Relaxed) {
            return;
        }
        let mut facts = agent.facts.lock().expect("facts");
        let facts = facts.as_mut().expect("set");
        facts.k3s = Some(running(pb::K3sRole::Agent));
        let own = node("w1", &facts.machine_id, &facts.boot_id, "True");
        if api.get("/api/v1/nodes/w1").is_none() {
            api.put("/api/v1/nodes/w1", own);
        }
    })
}

/// The pin of the one release that is there.
fn pins(program: &[u8]) -> Pins {
    let sha256 = canasta_transport::facts::hex(&<sha2::Sha256 as sha2::Digest>::digest(program));
    let mut pins = Pins::default();
    pins.insert(VERSION.parse().expect("a version"), "amd64", &sha256);
    pins
}

async fn context(bench: &Bench) -> Context {
    let source = bench.dir.path().join("source");
    std::fs::create_dir(&source).expect("directory");
    let mut program = vec![0; 1000];
    program[..20].copy_from_slice(&[
        0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 62, 0,
    ]);
    std::fs::write(source.join("k3s"), &program).expect("written");
    let k3s = K3s {
        release_url: format!("{}/{{asset}}", source.display()),
        sha256: pins(&program),
        ..K3s::default()
    };
    let limits = artefacts::Limits {
        stall: Duration::from_secs(1),
        first_pause: Duration::from_millis(1),
        reserve: 0,
        ..artefacts::Limits::default()
    };
    let directory = bench.dir.path().join("artefacts");
    let artefacts = Artefacts::open(bench.store.clone(), directory, k3s.clone(), limits);
    Context {
        clusters: Clusters::new(
            bench.store.clone(),
            bench.fleet.clone(),
            bench.timings.clone(),
        ),
        store: bench.store.clone(),
        fleet: bench.fleet.clone(),
        artefacts: artefacts.await.expect("artefacts"),
        timings: bench.timings.clone(),
        k3s,
    }
}

/// The states and outcomes of an operation's steps, for a message.
pub(super) fn outcomes(operation: &pb::Operation) -> Vec<(String, pb::StepOutcome)> {
    let outcome = |step: &pb::Step| (step.id.clone(), step.outcome());
    operation.steps.iter().map(outcome).collect()
}
