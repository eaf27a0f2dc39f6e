//! What is known before k3s is uninstalled: what is on the host, what is recorded, and what the cluster says.

use std::path::Path;
use std::time::Duration;

use canasta_proto::local_path::is_volume;
use canasta_proto::name::HostName;
use canasta_proto::pb;
use canasta_proto::pb::{OperationState, StepState};

use super::steps::STOP_SERVICE;
use super::{KIND, Planned};
use crate::clusters::local_paths::LocalPaths;
use crate::clusters::nodes::{hostname_label, identity};
use crate::clusters::volumes::{PinnedVolume, pinned};
use crate::clusters::{CONTROL_PLANE, ClusterApi, NodeError, shown};
use crate::operations::agent::Client;
use crate::operations::stamp;
use crate::store::Store;
use crate::store::clusters::NodeRow;
use crate::store::shared_storage::SharedRow;
use crate::workflows::ask::once;
use crate::workflows::{Context, Error};

/// How many operations of a host are looked at for the newest that has ended.
const RECENT: u32 = 5;

/// After how many seconds the answer of a cluster is too old to go by.
const LONG_AGO: i64 = 60 * 60;

/// How long an agent may take to count what lies on its disk.
const LOOK: Duration = Duration::from_mins(1);

/// Where k3s keeps its own, and where it keeps local volumes unless it is told otherwise.
const K3S_DIR: &str = "/var/lib/rancher/k3s";
pub(super) const LOCAL_STORAGE: &str = "/var/lib/rancher/k3s/storage";

/// What is known of a host whose k3s is to be uninstalled.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    pub(super) inspected: pb::InspectUninstallResponse,
    /// What the controller recorded of it as a node.
    pub(super) node: Option<NodeRow>,
    /// True when its Node was never seen Ready.
    pub(super) never_ready: bool,
    /// The id of its machine; empty for a host that is no node.
    pub(super) machine: String,
    /// The workers of its cluster, when it is the control plane: host and name of the Node.
    pub(super) workers: Vec<(String, String)>,
    /// What it exports for storage classes.
    pub(super) exports: Vec<SharedRow>,
    pub(super) cluster: Asked,
    /// Where the cluster keeps local volumes on the host: by its API, else by what an earlier uninstall had from it. What the
    /// cluster said at the join is in the agent's own record.
    pub(super) local_paths: LocalPaths,
}

/// What the cluster says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Asked {
    /// There is nothing that it could know of data on this host.
    #[default]
    NotNeeded,
    /// It answered.
    Answered {
        /// Volumes that have, or may have, their data on this host.
        volumes: Vec<PinnedVolume>,
        /// The other nodes that it has.
        others: Vec<String>,
    },
    /// It could not be asked; why.
    Failed(String),
}

impl Known {
    /// Whether something that the agent found can be data of the cluster's. Outside of k3s's own directories, a directory that
    /// the provisioner's settings name may hold anything: only what is named as a volume counts there. The agent knows that
    /// itself; one that is older does not. A control plane's own configuration may name the same directory.
    pub(super) fn can_be_data(&self, path: &str) -> bool {
        let Some((place, name)) = path.rsplit_once('/') else {
            return false;
        };
        let mut told = self.local_paths.usable.iter();
        self.is_control_plane()
            || Path::new(place).starts_with(K3S_DIR)
            || told.all(|told| told != place)
            || is_volume(name)
    }

    /// Whether the host is a control plane by its record.
    pub(super) fn is_control_plane(&self) -> bool {
        let recorded = self.node.as_ref();
        recorded.is_some_and(|node| node.role == CONTROL_PLANE)
    }
}

/// Asks the agent, the database and the cluster.
pub(super) async fn gather(context: &Context, host: &HostName) -> Result<Known, Error> {
    let store = &context.store;
    let node = store.cluster_node(host.as_str()).await?;
    let mark = store.worker_mark(host.as_str()).await?;
    let never_ready = match &node {
        // A control plane is recorded once it is Ready.
        Some(node) => node.role != CONTROL_PLANE && mark.is_none_or(|mark| mark.ready_at.is_none()),
        None => true,
    };
    let mut known = Known {
        node,
        never_ready,
        ..Known::default()
    };
    known.exports = store.shared_storage().await?;
    let served = |row: &SharedRow| row.made && row.host.as_deref() == Some(host.as_str());
    known.exports.retain(served);
    let Some(node) = known.node.clone() else {
        known.inspected = inspect(context, host, &[]).await?;
        return Ok(known);
    };
    if known.is_control_plane() {
        let mut rows = store.cluster_nodes().await?;
        let control_planes = rows
            .iter()
            .filter(|row| row.cluster == node.cluster && row.role == CONTROL_PLANE)
            .count();
        rows.retain(|row| row.cluster == node.cluster && row.role != CONTROL_PLANE);
        if control_planes == 1 {
            known.workers = rows
                .into_iter()
                .map(|row| (row.host, row.node_name))
                .collect();
        }
    }
    let facts = context.fleet.refresh(host).await?;
    known.machine = facts.machine_id;
    let k3s = facts.k3s.unwrap_or_default();
    let answer = ask(context, &node, &known.machine).await;
    known.local_paths = match &answer {
        Ok(answer) => answer.local_paths.clone(),
        Err(_) => told_before(store, host, &node.cluster).await?,
    };
    known.inspected = inspect(context, host, &known.local_paths.usable).await?;
    match answer {
        Ok(answer) => {
            // A join that ended before its Node was Ready is not marked, and the Node may have got pods since.
            known.never_ready &= !answer.registered;
            known.cluster = answer.asked;
        }
        Err(_)
            if known.inspected.stored.is_empty()
                && (never_ready || was_asked(store, host, &k3s).await?) => {}
        Err(error) => known.cluster = Asked::Failed(shown(&error)),
    }
    Ok(known)
}

/// Whether an uninstall a while ago had the cluster's answer and came as far as stopping k3s, which was not started since: so
/// nothing was placed on the host. On a control plane nobody is left to be asked then. A forced one may have had no answer.
async fn was_asked(store: &Store, host: &HostName, k3s: &pb::K3sFacts) -> Result<bool, Error> {
    let running = [OperationState::Running, OperationState::Cancelling];
    let recent = store.operations(RECENT, host.as_str()).await?;
    let last = recent
        .into_iter()
        .find(|operation| !running.contains(&operation.state()));
    let Some(last) = last.filter(|operation| operation.kind == KIND) else {
        return Ok(false);
    };
    let stopped = |step: &pb::Step| {
        let was_run = !matches!(step.state(), StepState::Pending | StepState::NotRun);
        let started = step.started_at.map_or(i64::MAX, |at| at.seconds);
        let is_recent = stamp::now().seconds - started < LONG_AGO;
        let runs_again = k3s.unit_started_at.is_some_and(|at| at.seconds >= started);
        step.id == STOP_SERVICE && was_run && is_recent && !runs_again
    };
    let request = store.request_of(&last.id).await?.unwrap_or_default();
    let answered = serde_json::from_str(&request).is_ok_and(|planned: Planned| !planned.force);
    Ok(answered && last.steps.iter().any(stopped))
}

/// What the last uninstalls of a host from the same cluster knew of where that keeps local volumes, the newest first.
async fn told_before(store: &Store, host: &HostName, cluster: &str) -> Result<LocalPaths, Error> {
    let mut told = LocalPaths::default();
    let recent = store.operations(RECENT, host.as_str()).await?;
    for operation in recent.iter().filter(|operation| operation.kind == KIND) {
        let request = store.request_of(&operation.id).await?.unwrap_or_default();
        match serde_json::from_str::<Planned>(&request) {
            Ok(planned) if planned.cluster == cluster => told.remember(&planned.local_paths),
            _ => {}
        }
    }
    Ok(told)
}

async fn inspect(
    context: &Context,
    host: &HostName,
    local_paths: &[String],
) -> Result<pb::InspectUninstallResponse, Error> {
    let request = pb::InspectUninstallRequest {
        local_paths: local_paths.to_vec(),
    };
    let what = "what an uninstall would destroy";
    let look = |mut client: Client| async move { client.inspect_uninstall(request).await };
    once(context, host, what, LOOK, look).await
}

/// The answer of a cluster.
struct Answer {
    asked: Asked,
    /// Whether it has a Node of this machine. One that does not tell its machine counts as one.
    registered: bool,
    local_paths: LocalPaths,
}

/// What the cluster says.
async fn ask(context: &Context, node: &NodeRow, machine: &str) -> Result<Answer, NodeError> {
    let api: ClusterApi = context.clusters.api_of(&node.cluster).await?;
    let nodes = api.nodes().await?;
    let is_own = |name: &Option<String>| name.as_deref() == Some(node.node_name.as_str());
    let own = nodes.iter().find(|found| is_own(&found.metadata.name));
    let registered = own.is_some_and(|own| ["", machine].contains(&identity(own).0));
    let label = own.map_or(node.node_name.as_str(), hostname_label);
    let volumes = pinned(api.volumes().await?, &node.node_name, label);
    let others = nodes
        .iter()
        .filter(|found| !is_own(&found.metadata.name))
        .filter_map(|found| found.metadata.name.clone())
        .collect();
    Ok(Answer {
        asked: Asked::Answered { volumes, others },
        registered,
        local_paths: api.local_paths(&node.node_name).await?,
    })
}
