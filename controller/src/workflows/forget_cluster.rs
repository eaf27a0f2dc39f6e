//! `canasta cluster forget`: the controller forgets a cluster whose nodes are gone for good. Nothing is changed on any host.

use canasta_proto::name::{ClusterName, HostName};
use futures_util::future::join_all;

use super::gather::has_program;
use super::node_target::unknown_cluster;
use super::{Context, Error, Refusal};
use crate::fleet::Phase;
use crate::operations::Operations;
use crate::operations::locks::{Resource, Wanted};

/// Forgets a cluster, and tells the hosts that belonged to it.
///
/// # Errors
/// When there is none of this name, it is being changed, or an agent that answers still has k3s of it.
pub(crate) async fn forget(
    context: &Context,
    operations: &Operations,
    name: &str,
    started_by: &str,
) -> Result<Vec<String>, Error> {
    let name: ClusterName = name.parse().map_err(|rule| Error::Name {
        field: "name",
        rule,
    })?;
    let store = &context.store;
    if store.cluster(name.as_str()).await?.is_none() {
        return Err(unknown_cluster(name.as_str()).into());
    }
    let mut nodes = store.cluster_nodes().await?;
    nodes.retain(|node| node.cluster == name.as_str());
    let hosts: Vec<String> = nodes.into_iter().map(|node| node.host).collect();
    let mut changes = vec![Resource::Membership(name.to_string())];
    changes.extend(hosts.iter().cloned().map(Resource::Host));
    let wanted = Wanted {
        changes,
        consults: Vec::new(),
    };
    let held = operations.hold(&wanted, "forget-cluster", started_by)?;
    let alive = join_all(hosts.iter().map(|host| has_k3s(context, host))).await;
    let alive: Vec<_> = hosts
        .iter()
        .zip(alive)
        .filter_map(|(host, alive)| alive.then_some(host.as_str()))
        .collect();
    if !alive.is_empty() {
        return Err(Refusal::new(
            "CLUSTER_ALIVE",
            format!(
                "cluster '{name}' is not gone: k3s is still on {}",
                alive.join(", ")
            ),
            format!(
                "uninstall it there: canasta uninstall k8s --host {}",
                alive[0]
            ),
        )
        .into());
    }
    store.forget_cluster(name.as_str()).await?;
    drop(held);
    tracing::info!(cluster = %name, "a cluster is forgotten");
    Ok(hosts)
}

/// Whether an agent that answers still has a k3s that this fleet put there or adopted.
async fn has_k3s(context: &Context, host: &str) -> bool {
    let Ok(host) = host.parse::<HostName>() else {
        return false;
    };
    let state = context.fleet.state(&host);
    if state.is_none_or(|state| state.phase != Phase::Connected) {
        return false;
    }
    match context.fleet.refresh(&host).await {
        Ok(facts) => facts.k3s.as_ref().is_some_and(has_program),
        // Connected and silent: it may have anything.
        Err(_) => true,
    }
}
