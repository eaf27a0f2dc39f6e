//! The kinds of operations, each with the ground that it works on, how it is asked for, and what must be true after it.

use std::time::Duration;

use canasta_proto::pb;
use canasta_proto::pb::{OperationState, StepOutcome};
use canasta_standin::bootstrap::SECRET_TYPE;
use canasta_standin::trailer::Profile;
use canasta_tests::fleet::client::install_on;
use canasta_tests::fleet::node::Node;
use canasta_tests::fleet::share::{PATH, Share, proved};
use canasta_tests::fleet::{Fleet, PATCH, SMALL, pin};
use http::Method;
use serde_json::{Value, json};

/// The control plane and the worker: hosts and nodes.
const CONTROL_PLANE: &str = "cp1";
const WORKER: &str = "w1";
/// Where the API server is to be reached from then on.
const PUBLIC: &str = "203.0.113.7";
const PODS: &str = "/api/v1/namespaces/default/pods";

/// A kind of operation, for a node in one role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Install,
    /// A newer k3s and another public address, which one restart brings.
    Change,
    Adopt,
    Join,
    Drain,
    CheckStorage,
    /// The worker exports the share.
    SetupNfs,
    RemoveStorage,
    RemoveControlPlane,
    RemoveWorker,
}

/// All that are tested.
pub(super) const ALL: [Kind; 10] = [
    Kind::Install,
    Kind::Change,
    Kind::Adopt,
    Kind::Join,
    Kind::Drain,
    Kind::CheckStorage,
    Kind::SetupNfs,
    Kind::RemoveStorage,
    Kind::RemoveControlPlane,
    Kind::RemoveWorker,
];

/// A fleet with the nodes that a kind works on.
pub(super) struct Ground {
    pub(super) fleet: Fleet,
    control_plane: Node,
    worker: Option<Node>,
    /// What was on the nodes before anything was done.
    bare: [Vec<String>; 2],
    /// Pods that were placed so far.
    pods: usize,
    share: Share,
    has_class: bool,
    has_driver: bool,
}

impl Ground {
    /// A control plane alone, on which nothing is done yet.
    pub(super) async fn alone() -> Self {
        let fleet = Fleet::start_with(SMALL, |config| {
            config.timings.evict_again = Duration::from_millis(20);
            pin(config, PATCH, SMALL);
        })
        .await;
        let control_plane = fleet.joined(CONTROL_PLANE).await;
        Self {
            bare: [control_plane.files(), Vec::new()],
            fleet,
            control_plane,
            worker: None,
            pods: 0,
            share: Share::default(),
            has_class: false,
            has_driver: false,
        }
    }

    /// A control plane with k3s, and a worker that has not joined it.
    pub(super) async fn with_worker(profile: Profile) -> Self {
        let mut ground = Self::alone().await;
        let worker = ground.fleet.joined(WORKER).await;
        // A worker that is not heard of for 33 of the server's seconds is lost, and on a busy machine it may be late.
        ground.control_plane.k3s.set_scale(0.04);
        worker.k3s.set_scale(0.01);
        for node in [&ground.control_plane, &worker] {
            node.k3s.set_profile(profile);
        }
        ground.bare[1] = worker.files();
        ground.worker = Some(worker);
        Kind::Install.succeed(&ground).await;
        ground
    }

    /// The same, with the worker joined.
    pub(super) async fn with_member(profile: Profile) -> Self {
        let ground = Self::with_worker(profile).await;
        Kind::Join.succeed(&ground).await;
        ground
    }

    fn worker(&self) -> &Node {
        self.worker.as_ref().expect("the ground has a worker")
    }

    /// Asks the API of the cluster.
    async fn ask(&self, method: Method, path: &str, body: &Value) -> (u16, Value) {
        self.control_plane.ask_api(method, path, body).await
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.ask(Method::GET, path, &Value::Null).await
    }

    /// Places a pod on the worker, and waits until it runs. A budget that allows its eviction selects it.
    async fn place_pod(&mut self) {
        self.pods += 1;
        let name = format!("pod{}", self.pods);
        let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": name},
            "spec": {"minAvailable": 0, "selector": {"matchLabels": {"app": name}}}});
        let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
            "spec": {"nodeName": WORKER, "terminationGracePeriodSeconds": 1,
                "containers": [{"name": "c", "image": "busybox:1.32.1"}]}});
        for (path, body) in [(budgets, budget), (PODS, pod)] {
            let (status, answer) = self.ask(Method::POST, path, &body).await;
            assert_eq!(status, 201, "{answer}");
        }
        let path = format!("{PODS}/{name}");
        let runs = async || {
            let (_, pod) = self.get(&path).await;
            (pod["status"]["phase"] == "Running").then_some(())
        };
        self.fleet.until("the pod to run", runs).await;
    }

    /// Names of the pods on the worker.
    async fn pods_on_worker(&self) -> Vec<String> {
        let (_, list) = self.get(PODS).await;
        let pods = list["items"].as_array().into_iter().flatten();
        pods.filter(|pod| pod["spec"]["nodeName"] == WORKER)
            .map(|pod| {
                pod["metadata"]["name"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned()
            })
            .collect()
    }

    async fn clusters(&self) -> Vec<pb::Cluster> {
        let mut clusters = self.fleet.admin().await.clusters();
        let answer = clusters.list_clusters(pb::ListClustersRequest {}).await;
        answer.expect("clusters are listed").into_inner().clusters
    }

    /// One cluster with so many nodes, all of them Ready.
    async fn is_well(&self, nodes: usize, case: &str) {
        let well = async || {
            let clusters = self.clusters().await;
            let ready = clusters.iter().flat_map(|cluster| &cluster.nodes);
            let ready: Vec<_> = ready.map(|node| node.ready).collect();
            (clusters.len() == 1 && ready == vec![Some(true); nodes]).then_some(())
        };
        self.fleet
            .until(&format!("{case}: {nodes} nodes to be Ready"), well)
            .await;
    }

    /// Gives both nodes a share, and the cluster a storage class that is on it.
    async fn put_share(&mut self) {
        self.share.give_to(&self.control_plane);
        self.share.give_to(self.worker());
        if !std::mem::replace(&mut self.has_class, true) {
            Share::register(&self.control_plane, "nfs", PATH).await;
        }
    }

    /// Has the worker be able to export, and the cluster to make volumes on what it exports.
    async fn bring_storage(&mut self) {
        self.share.give_to(&self.control_plane);
        self.share.give_to(self.worker());
        if !std::mem::replace(&mut self.has_driver, true) {
            self.share.serve_from(self.worker());
            Share::bring_driver(&self.control_plane).await;
        }
    }

    async fn storage(&self) -> pb::ListStorageResponse {
        let request = pb::ListStorageRequest::default();
        let mut client = self.fleet.admin().await.storage();
        client
            .list_storage(request)
            .await
            .expect("listed")
            .into_inner()
    }

    /// How often k3s was started.
    fn starts(&self) -> u32 {
        let worker = self.worker.as_ref().map_or(0, |node| node.k3s.starts());
        self.control_plane.k3s.starts() + worker
    }
}

impl Kind {
    /// As the controller calls it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Install | Self::Change => "install-k8s-cp",
            Self::Adopt => "adopt-k8s-cp",
            Self::Join => "install-k8s-worker",
            Self::Drain => "drain-node",
            Self::CheckStorage => "check-storage",
            Self::SetupNfs => "setup-nfs",
            Self::RemoveStorage => "remove-storage",
            Self::RemoveControlPlane | Self::RemoveWorker => "uninstall-k8s",
        }
    }

    /// The node that it works on.
    pub(super) fn node(self, ground: &mut Ground) -> &mut Node {
        match self {
            Self::Install | Self::Change | Self::Adopt | Self::RemoveControlPlane => {
                &mut ground.control_plane
            }
            Self::Join
            | Self::Drain
            | Self::CheckStorage
            | Self::SetupNfs
            | Self::RemoveStorage
            | Self::RemoveWorker => ground.worker.as_mut().expect("the ground has a worker"),
        }
    }

    /// How often k3s is started by it.
    pub(super) fn starts(self) -> u32 {
        u32::from(matches!(self, Self::Install | Self::Change | Self::Join))
    }

    /// Whether it takes little time. What asks two nodes and the API in each run takes more, and so does what restarts k3s.
    pub(super) fn is_short(self) -> bool {
        !matches!(
            self,
            Self::Join | Self::RemoveWorker | Self::Change | Self::SetupNfs
        )
    }

    /// Whether the ground can be used again after it; nothing undoes an adoption.
    pub(super) fn can_be_done_again(self) -> bool {
        self != Self::Adopt
    }

    /// Whether nothing orders these steps: what all hosts do on a share is done by all at once.
    pub(super) fn are_at_once(self, one: &str, other: &str) -> bool {
        let without_host = |step: &str| step.rsplit_once('-').map(|(kind, _)| kind.to_owned());
        let proves = matches!(self, Self::CheckStorage | Self::SetupNfs);
        proves && without_host(one) == without_host(other)
    }

    /// Gives it everything to do, on ground where it or its opposite was done before.
    pub(super) async fn prepare(self, ground: &mut Ground) {
        match self {
            Self::Adopt => {
                ground
                    .control_plane
                    .install_foreign_k3s("v1.33.4+k3s1")
                    .await;
            }
            Self::RemoveWorker => ground.place_pod().await,
            Self::Drain => {
                let request = pb::UncordonNodeRequest {
                    node: WORKER.to_owned(),
                    ..pb::UncordonNodeRequest::default()
                };
                let mut clusters = ground.fleet.admin().await.clusters();
                let uncordoned = clusters.uncordon_node(request).await;
                uncordoned.expect("the node is uncordoned");
                ground.place_pod().await;
            }
            Self::CheckStorage => ground.put_share().await,
            Self::SetupNfs | Self::RemoveStorage => ground.bring_storage().await,
            Self::Install | Self::Change | Self::Join | Self::RemoveControlPlane => {}
        }
    }

    /// Starts it; nothing where the controller finds that nothing is to be done.
    pub(super) async fn start(self, ground: &Ground) -> Option<String> {
        let admin = ground.fleet.admin().await;
        let started = match self {
            Self::Install => {
                let answer = admin.install(install_on(CONTROL_PLANE)).await;
                answer.map(|(id, _)| id)
            }
            Self::Change => {
                let request = pb::InstallControlPlaneRequest {
                    k3s_version: PATCH.to_owned(),
                    public_ips: vec![PUBLIC.to_owned()],
                    ..install_on(CONTROL_PLANE)
                };
                admin.install(request).await.map(|(id, _)| id)
            }
            Self::Adopt => {
                let request = pb::AdoptControlPlaneRequest {
                    host: CONTROL_PLANE.to_owned(),
                    ..pb::AdoptControlPlaneRequest::default()
                };
                admin.adopt(request).await.map(|(id, _)| id)
            }
            Self::Join => admin.join_worker(WORKER, CONTROL_PLANE).await,
            Self::Drain => admin.drain(WORKER).await,
            Self::CheckStorage => {
                let answer = admin.check_storage(CONTROL_PLANE).await;
                answer.map(|begun| begun.operation_id)
            }
            Self::SetupNfs => {
                let request = pb::SetupNfsRequest {
                    host: WORKER.to_owned(),
                    share: PATH.to_owned(),
                    install_server: true,
                    ..pb::SetupNfsRequest::default()
                };
                let answer = admin.setup_nfs(request).await;
                answer.map(|begun| begun.operation_id)
            }
            Self::RemoveStorage => {
                let request = pb::RemoveStorageRequest {
                    host: WORKER.to_owned(),
                    share: PATH.to_owned(),
                    ..pb::RemoveStorageRequest::default()
                };
                let answer = admin.remove_storage(request).await;
                answer.map(|begun| begun.operation_id)
            }
            Self::RemoveControlPlane => {
                let answer = admin.uninstall(CONTROL_PLANE, false).await;
                answer.map(|(id, _)| id)
            }
            Self::RemoveWorker => {
                let answer = admin.uninstall(WORKER, false).await;
                answer.map(|(id, _)| id)
            }
        };
        let id = started.unwrap_or_else(|fault| panic!("{self:?} is refused: {fault:?}"));
        Some(id).filter(|id| !id.is_empty())
    }

    /// Runs it to its end.
    pub(super) async fn run(self, ground: &Ground) -> Option<pb::Operation> {
        let id = self.start(ground).await?;
        Some(ground.fleet.admin().await.ended(&id).await)
    }

    /// Runs it, and it does what it should.
    pub(super) async fn succeed(self, ground: &Ground) -> pb::Operation {
        let operation = self.run(ground).await.expect("there is something to do");
        succeeded(&operation, &format!("{self:?}, undisturbed"));
        operation
    }

    /// Everything is as it should be, and another run finds nothing to do.
    pub(super) async fn check(self, ground: &Ground, case: &str) {
        match self {
            Self::Install | Self::Adopt => ground.is_well(1, case).await,
            Self::Change => {
                ground.is_well(1, case).await;
                let cluster = ground.clusters().await.remove(0);
                assert_eq!(cluster.k3s_version, PATCH, "{case}");
                let config = ground.control_plane.read("/etc/rancher/k3s/config.yaml");
                assert!(config.contains(PUBLIC), "{case}: {config}");
            }
            Self::Join => {
                ground.is_well(2, case).await;
                no_token_left(ground, case).await;
            }
            Self::Drain => drained(ground, case).await,
            Self::CheckStorage => {
                let both = [CONTROL_PLANE, WORKER].map(|host| (host.to_owned(), true));
                assert_eq!(proved(&ground.storage().await), both, "{case}");
                assert_eq!(ground.share.files(), Vec::<String>::new(), "{case}");
            }
            Self::SetupNfs => {
                let both = [CONTROL_PLANE, WORKER].map(|host| (host.to_owned(), true));
                assert_eq!(proved(&ground.storage().await), both, "{case}");
                assert_eq!(ground.share.files(), Vec::<String>::new(), "{case}");
                let mut nodes = [ground.control_plane.ip, ground.worker().ip];
                nodes.sort_unstable();
                let nodes = nodes.map(|ip| ip.to_string());
                assert_eq!(ground.share.clients(PATH), nodes, "{case}");
            }
            Self::RemoveStorage => {
                assert_eq!(proved(&ground.storage().await), [], "{case}");
                assert_eq!(ground.share.clients(PATH), Vec::<String>::new(), "{case}");
            }
            Self::RemoveControlPlane => {
                removed(&ground.control_plane, &ground.bare[0], case);
                assert_eq!(ground.clusters().await, [], "{case}");
            }
            Self::RemoveWorker => {
                removed(ground.worker(), &ground.bare[1], case);
                ground.is_well(1, case).await;
                gone_from_the_cluster(ground, case).await;
            }
        }
        let starts = ground.starts();
        self.finds_nothing_to_do(ground, case).await;
        assert_eq!(ground.starts(), starts, "{case}: another run restarted k3s");
    }

    async fn finds_nothing_to_do(self, ground: &Ground, case: &str) {
        let Some(again) = self.run(ground).await else {
            let is_removal = matches!(self, Self::RemoveControlPlane | Self::RemoveWorker);
            assert!(is_removal, "{case}: another run was not even begun");
            return;
        };
        succeeded(&again, case);
        let mut touched = again.steps;
        touched.retain(|step| step.outcome() != StepOutcome::Unchanged);
        assert!(
            touched.is_empty(),
            "{case}: another run changed {touched:#?}"
        );
    }
}

/// What was done came to a good end.
pub(super) fn succeeded(operation: &pb::Operation, case: &str) {
    assert_eq!(
        operation.state(),
        OperationState::Succeeded,
        "{case}: {operation:#?}"
    );
}

/// No token with which another machine could join.
async fn no_token_left(ground: &Ground, case: &str) {
    let (_, secrets) = ground.get("/api/v1/namespaces/kube-system/secrets").await;
    let secrets = secrets["items"].as_array().cloned().unwrap_or_default();
    assert!(!secrets.is_empty(), "{case}: secrets are listed");
    let tokens = secrets
        .iter()
        .filter(|secret| secret["type"] == SECRET_TYPE);
    assert_eq!(tokens.count(), 0, "{case}: {secrets:#?}");
}

async fn drained(ground: &Ground, case: &str) {
    assert_eq!(ground.pods_on_worker().await, [""; 0], "{case}");
    let clusters = ground.clusters().await;
    let mut nodes = clusters.iter().flat_map(|cluster| &cluster.nodes);
    let node = nodes.find(|node| node.name == WORKER).expect("the worker");
    assert!(
        node.cordoned && node.cordoned_by.starts_with("operation "),
        "{case}: {node:#?}"
    );
}

/// Nothing of k3s is left on a machine.
fn removed(node: &Node, bare: &[String], case: &str) {
    assert_eq!(node.files(), bare, "{case}");
}

async fn gone_from_the_cluster(ground: &Ground, case: &str) {
    let password = format!("/api/v1/namespaces/kube-system/secrets/{WORKER}.node-password.k3s");
    for path in [format!("/api/v1/nodes/{WORKER}"), password] {
        let (status, object) = ground.get(&path).await;
        assert_eq!(status, 404, "{case}: {object:#}");
    }
}
