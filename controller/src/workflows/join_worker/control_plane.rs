//! The control plane that hosts join: whether anything can be joined to it as it stands.

use canasta_proto::name::HostName;
use canasta_proto::pb;

use crate::clusters::{CONTROL_PLANE, ClusterApi};
use crate::store::clusters::{ClusterRow, NodeRow};
use crate::workflows::gather::has_program;
use crate::workflows::{Context, Error, Refusal};

/// A control plane that answers.
#[derive(Debug)]
pub(super) struct ControlPlane {
    pub(super) host: HostName,
    pub(super) node: NodeRow,
    pub(super) cluster: ClusterRow,
    pub(super) api: ClusterApi,
    /// The hosts of the cluster that the fleet knows.
    pub(super) members: Vec<NodeRow>,
}

/// Finds the control plane on a host and asks its API.
///
/// # Errors
/// When the host is not registered, its agent is unreachable, or what is there is no control plane that answers; each with
/// the state that was found.
pub(super) async fn find(context: &Context, name: &str) -> Result<ControlPlane, Error> {
    let host = context.fleet.host(name).await?.name;
    let facts = context.fleet.refresh(&host).await?;
    let node = context.store.cluster_node(host.as_str()).await?;
    let cluster = match &node {
        Some(node) => context.store.cluster(&node.cluster).await?,
        None => None,
    };
    let (node, cluster) = judge(&host, &facts.k3s.unwrap_or_default(), node, cluster)?;
    let api = context.clusters.api_through(&cluster.name, &host).await?;
    // Credentials prove nothing yet: it has to answer.
    api.nodes().await?;
    let mut members = context.store.cluster_nodes().await?;
    members.retain(|member| member.cluster == cluster.name);
    Ok(ControlPlane {
        host,
        node,
        cluster,
        api,
        members,
    })
}

/// Whether what is recorded and seen of a host is a control plane that runs. A pure function.
pub(super) fn judge(
    host: &HostName,
    k3s: &pb::K3sFacts,
    node: Option<NodeRow>,
    cluster: Option<ClusterRow>,
) -> Result<(NodeRow, ClusterRow), Refusal> {
    let refused = |reason, message: String, hint: String| {
        Err(Refusal::new(reason, message, hint).about(host))
    };
    let worker = node.as_ref().is_some_and(|node| node.role != CONTROL_PLANE);
    if worker || (has_program(k3s) && k3s.role() == pb::K3sRole::Agent) {
        let cluster = node.map(|node| format!(" of cluster '{}'", node.cluster));
        return refused(
            "WRONG_ROLE",
            format!(
                "host '{host}' is a worker{}, and workers join a control plane",
                cluster.unwrap_or_default()
            ),
            "name the control plane: --cp-host HOST; `canasta cluster list` shows it".to_owned(),
        );
    }
    if !has_program(k3s) {
        return refused(
            "NO_K3S",
            format!("host '{host}' has no k3s, so there is nothing to join"),
            format!("install a control plane first: canasta install k8s-cp --host {host}"),
        );
    }
    let (Some(node), Some(cluster)) = (node, cluster) else {
        return if k3s.origin() == pb::K3sOrigin::Installed {
            refused(
                "INSTALL_UNFINISHED",
                format!("the k3s on host '{host}' is of an install that did not come to its end"),
                format!("run it again: canasta install k8s-cp --host {host}"),
            )
        } else {
            refused(
                "FOREIGN_K3S",
                format!(
                    "host '{host}' has a k3s that this fleet did not install: {}",
                    k3s.found.join(", ")
                ),
                format!("take it over as it is: canasta install k8s-cp --host {host} --adopt"),
            )
        };
    };
    // A server that is still starting is as good as one that is active: its API is asked next.
    if !matches!(
        k3s.unit_active_state.as_str(),
        "active" | "activating" | "reloading"
    ) {
        return refused(
            "K3S_STOPPED",
            format!(
                "k3s on host '{host}' does not run: {} is {} ({})",
                k3s.unit, k3s.unit_active_state, k3s.unit_sub_state
            ),
            format!(
                "start it on {host} (`systemctl start k3s`; `journalctl -u k3s` tells why it stopped), or run canasta install k8s-cp --host {host} again"
            ),
        );
    }
    Ok((node, cluster))
}
