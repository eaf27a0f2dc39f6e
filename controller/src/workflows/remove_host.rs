//! `canasta host remove`: a host leaves the fleet. One that is a node stays, but for a worker whose machine is gone for good:
//! its Node is then deleted by the controller, as soon as the API of its cluster answers. Called by the API of hosts.

use std::time::Duration;

use canasta_proto::name::HostName;

use super::{Context, Error, Refusal};
use crate::clusters::CONTROL_PLANE;
use crate::fleet::{FleetError, Phase};
use crate::operations::Operations;
use crate::operations::locks::Wanted;
use crate::store::clusters::NodeRow;
use crate::store::debts::{DebtKind, NewDebt};
use crate::store::shared_storage::SharedRow;

/// How long the cluster is waited for; what it is owed after that is paid when it answers.
const PAY: Duration = Duration::from_secs(3);

/// A host that is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Removed {
    pub(crate) host: HostName,
    /// The cluster that it was a worker of; empty if of none.
    pub(crate) cluster: String,
    /// True when its Node is still to be deleted there.
    pub(crate) owed: bool,
}

/// Removes a host. `gone` says that its machine is gone for good.
///
/// # Errors
/// When it is not registered or is being changed, or is a node: a control plane, one whose agent answers, or one that is not
/// said to be gone.
pub(crate) async fn remove(
    context: &Context,
    operations: &Operations,
    name: &str,
    gone: bool,
    started_by: &str,
) -> Result<Removed, Error> {
    let host = context.fleet.host(name).await?.name;
    let _held = operations.hold(&Wanted::change_of(&host), "remove-host", started_by)?;
    let node = context.store.cluster_node(host.as_str()).await?;
    if !gone {
        serves_nothing(context, &host).await?;
    }
    let mut removed = Removed {
        host,
        cluster: String::new(),
        owed: false,
    };
    if let Some(node) = node {
        removed.owed = let_go(context, &removed.host, &node, gone).await?;
        removed.cluster = node.cluster;
    }
    let host = &removed.host;
    if !context.fleet.remove(host).await? {
        return Err(FleetError::NotRegistered { host: host.clone() }.into());
    }
    tracing::info!(%host, "removed a host");
    Ok(removed)
}

/// Refuses a host on which volumes of a storage class lie.
async fn serves_nothing(context: &Context, host: &HostName) -> Result<(), Error> {
    let rows = context.store.shared_storage().await?;
    let served = |row: &&SharedRow| row.host.as_deref() == Some(host.as_str());
    let Some(row) = rows.iter().find(served) else {
        return Ok(());
    };
    let (path, class, cluster) = (&row.path, &row.class, &row.cluster);
    Err(Refusal::new(
        "SERVES_STORAGE",
        format!("host '{host}' exports {path} for storage class '{class}' of cluster '{cluster}'"),
        format!(
            "end that first: canasta storage remove nfs --host {host} --share {path}; when the machine is gone for good: canasta host remove {host} --force"
        ),
    )
    .about(host)
    .into())
}

/// Takes a worker that is gone out of its cluster; true when its Node could not be deleted yet.
async fn let_go(
    context: &Context,
    host: &HostName,
    node: &NodeRow,
    gone: bool,
) -> Result<bool, Error> {
    let Context {
        store,
        fleet,
        clusters,
        ..
    } = context;
    let cluster = node.cluster.as_str();
    let control_plane = node.role == CONTROL_PLANE;
    // Said to be gone, it is dialled: what was known of it before may be of before its reboot, or of the controller's.
    let answers = if gone {
        fleet.answers(host).await?
    } else {
        fleet
            .state(host)
            .is_some_and(|state| state.phase == Phase::Connected)
    };
    if answers || control_plane || !gone {
        let last = match (answers, control_plane) {
            (true, _) => String::new(),
            (false, true) => {
                format!("; when the machine is gone for good: canasta cluster forget {cluster}")
            }
            (false, false) => {
                format!("; when the machine is gone for good: canasta host remove {host} --force")
            }
        };
        return Err(Refusal::new(
            "HOST_IN_CLUSTER",
            format!("host '{host}' is a {} of cluster '{cluster}'", node.role),
            format!("uninstall k3s first: canasta uninstall k8s --host {host}{last}"),
        )
        .about(host)
        .into());
    }
    let row = fleet.host(host.as_str()).await?;
    let machine = row.facts.map(|facts| facts.machine_id);
    // Owed before it is forgotten: it is not due until then, and a crash in between loses nothing.
    let debt = NewDebt {
        cluster,
        kind: DebtKind::DeleteNode,
        node_name: &node.node_name,
        host: host.as_str(),
        machine: machine.as_deref().unwrap_or_default(),
        operation: "",
        last_error: "",
    };
    store.put_debt(&debt).await?;
    store.forget_node(host.as_str()).await?;
    let owed = store
        .debt(cluster, DebtKind::DeleteNode, &node.node_name)
        .await?;
    let Some(debt) = owed else {
        // The cluster had no other node, and went with it.
        return Ok(false);
    };
    // What fails is told by the cluster's debts.
    let paid = tokio::time::timeout(PAY, clusters.settle(&debt)).await;
    Ok(!matches!(paid, Ok(Ok(true))))
}

#[cfg(test)]
mod tests {
    use super::{Removed, remove};
    use crate::store::debts::DebtKind;
    use crate::workflows::Error;
    use crate::workflows::bench::Lab;

    async fn asked(lab: &Lab, name: &str, gone: bool) -> Result<Removed, Error> {
        remove(&lab.context, &lab.operations, name, gone, "user anna").await
    }

    fn refusal(answer: Result<Removed, Error>) -> String {
        match answer {
            Err(Error::Refused(refusal)) => format!("{}; {}", refusal.message, refusal.hint),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn only_a_worker_that_is_gone_leaves_its_cluster_this_way() {
        let lab = Lab::new().await;
        lab.joined().await;
        for gone in [false, true] {
            let answers = refusal(asked(&lab, "w1", gone).await);
            assert!(
                answers.ends_with("canasta uninstall k8s --host w1"),
                "{answers}"
            );
        }
        lab.cut_worker();
        let asks = refusal(asked(&lab, "w1", false).await);
        assert!(asks.ends_with("canasta host remove w1 --force"), "{asks}");
        let server = refusal(asked(&lab, "cp1", true).await);
        assert!(server.contains("uninstall k8s --host cp1"), "{server}");

        let removed = asked(&lab, "w1", true).await.expect("removed");
        assert_eq!((removed.cluster.as_str(), removed.owed), ("c", false));
        assert_eq!(lab.api.get("/api/v1/nodes/w1"), None);
        let store = &lab.bench.store;
        assert_eq!(store.cluster_node("w1").await.expect("read"), None);
        let unknown = asked(&lab, "w1", true).await;
        assert!(matches!(unknown, Err(Error::Fleet(_))), "{unknown:?}");
    }

    #[tokio::test]
    async fn an_api_that_is_away_is_owed_the_deletion() {
        let lab = Lab::new().await;
        lab.joined().await;
        lab.cut_worker();
        *lab.bench.agent.api.lock().expect("api") = None;
        let removed = asked(&lab, "w1", true).await.expect("removed");
        assert!(removed.owed);
        let debt = lab.bench.store.debt("c", DebtKind::DeleteNode, "w1").await;
        assert!(debt.expect("read").is_some());
        assert!(lab.api.get("/api/v1/nodes/w1").is_some());
    }
}
