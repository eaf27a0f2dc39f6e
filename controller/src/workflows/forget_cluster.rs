//! `canasta cluster forget`: the controller forgets a cluster whose nodes are gone for good. Nothing is changed on any host.

use canasta_proto::name::{ClusterName, HostName};
use futures_util::future::join_all;

use super::gather::has_program;
use super::node_target::unknown_cluster;
use super::{Context, Error, Refusal};
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
    let Some(cluster) = store.cluster(name.as_str()).await? else {
        return Err(unknown_cluster(name.as_str()).into());
    };
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
    let asked = join_all(hosts.iter().map(|host| has_k3s(context, host))).await;
    let mut alive = Vec::new();
    for (host, has_k3s) in hosts.iter().zip(asked) {
        if has_k3s? {
            alive.push(host.as_str());
        }
    }
    if !alive.is_empty() {
        return Err(still_alive(&name, &alive, cluster.adopted).into());
    }
    store.forget_cluster(name.as_str()).await?;
    drop(held);
    tracing::info!(cluster = %name, "a cluster is forgotten");
    Ok(hosts)
}

fn still_alive(name: &ClusterName, alive: &[&str], adopted: bool) -> Refusal {
    let hint = if adopted {
        format!(
            "it was adopted, so it is uninstalled the way it was installed: k3s-uninstall.sh on {}",
            alive.join(", ")
        )
    } else {
        format!(
            "uninstall it there: canasta uninstall k8s --host {}",
            alive[0]
        )
    };
    Refusal::new(
        "CLUSTER_ALIVE",
        format!(
            "cluster '{name}' is not gone: k3s is still on {}",
            alive.join(", ")
        ),
        hint,
    )
}

/// Whether an agent that answers still has a k3s that this fleet put there or adopted.
async fn has_k3s(context: &Context, host: &str) -> Result<bool, Error> {
    let Ok(host) = host.parse::<HostName>() else {
        return Ok(false);
    };
    if !context.fleet.answers(&host).await? {
        return Ok(false);
    }
    Ok(match context.fleet.refresh(&host).await {
        Ok(facts) => facts.k3s.as_ref().is_some_and(has_program),
        // Connected and silent: it may have anything.
        Err(_) => true,
    })
}
