//! Exports that hosts of the fleet make for their clusters: who may mount them, and bringing them up to date when nodes come and go.
//! Called by the workflows that set up storage, join workers and uninstall k3s.

use std::collections::BTreeSet;
use std::net::IpAddr;

use canasta_proto::name::HostName;
use canasta_proto::pb;
use canasta_proto::pb::task_spec::Verb;
use canasta_proto::share::ClientRange;
use canasta_steps::{Done, Reporter, StepError};
use canasta_transport::facts::hex;
use k8s_openapi::api::core::v1::Node;
use sha2::{Digest as _, Sha256};

use super::Context;
use super::record::database_failed;
use crate::clusters::{ClusterApi, NodeError};
use crate::operations::agent::AgentTask;
use crate::store::shared_storage::SharedRow;

/// Addresses of a node by which it may come to a server of its cluster.
const ADDRESSES: [&str; 2] = ["InternalIP", "ExternalIP"];

/// The addresses of a node, those in the cluster's own network first.
pub(super) fn addresses(node: &Node) -> Vec<IpAddr> {
    let status = node.status.as_ref();
    let told = status.and_then(|status| status.addresses.as_deref());
    let told = told.unwrap_or_default();
    let of = |kind: &'static str| told.iter().filter(move |address| address.type_ == kind);
    ADDRESSES
        .into_iter()
        .flat_map(of)
        .filter_map(|address| address.address.parse().ok())
        .collect()
}

/// Who may mount an export: the nodes of its cluster, those on their way there, and whom the operator named. Sorted, each once.
fn clients(nodes: &[Node], coming: &[IpAddr], named: &[String]) -> Vec<String> {
    let addresses = nodes.iter().flat_map(addresses);
    let addresses = addresses.chain(coming.iter().copied());
    let named = named.iter().filter_map(|client| client.parse().ok());
    let all: BTreeSet<ClientRange> = addresses.map(ClientRange::one).chain(named).collect();
    all.iter().map(ToString::to_string).collect()
}

/// A node that is about to be none any more.
#[derive(Debug, Clone, Copy)]
pub(super) struct Leaving<'a> {
    /// The host.
    pub(super) host: &'a str,
    /// Its Node, which may still be there.
    pub(super) node: &'a str,
}

/// An export of a host, with the classes that are on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Export {
    pub(super) host: HostName,
    pub(super) path: String,
    /// One of the classes on it.
    pub(super) class: String,
    /// Whom the operator named, for whichever class.
    pub(super) named: Vec<String>,
}

/// The exports that hosts make for a cluster. A pure function.
pub(super) fn of_cluster(rows: &[SharedRow], cluster: &str) -> Vec<Export> {
    let mut exports: Vec<Export> = Vec::new();
    for row in rows.iter().filter(|row| row.cluster == cluster) {
        let Some(Ok(host)) = row.host.as_ref().map(|host| host.parse::<HostName>()) else {
            continue;
        };
        let same = |export: &&mut Export| export.host == host && export.path == row.path;
        match exports.iter_mut().find(same) {
            Some(export) => export.named.extend(row.clients.iter().cloned()),
            None => exports.push(Export {
                host,
                path: row.path.clone(),
                class: row.class.clone(),
                named: row.clients.clone(),
            }),
        }
    }
    exports
}

/// Who may mount an export of a cluster as things are: its nodes, and hosts that are on their way to be nodes, which are noted
/// before their k3s is started.
///
/// # Errors
/// When the database or the API of the cluster can't be asked.
pub(super) async fn current_clients(
    context: &Context,
    api: &ClusterApi,
    leaving: Option<Leaving<'_>>,
    export: &Export,
) -> Result<Vec<String>, NodeError> {
    let rows = context.store.cluster_nodes().await?;
    let of_cluster = rows.iter().filter(|row| row.cluster == api.cluster);
    let stays = of_cluster.filter(|row| leaving.is_none_or(|leaving| leaving.host != row.host));
    let noted: Vec<IpAddr> = stays.filter_map(|row| row.node_ip.parse().ok()).collect();
    let mut nodes = api.nodes().await?;
    nodes.retain(|node| {
        let name = node.metadata.name.as_deref();
        leaving.is_none_or(|leaving| Some(leaving.node) != name)
    });
    Ok(clients(&nodes, &noted, &export.named))
}

/// What the agent of the host is to do for an export.
pub(super) fn ensure(
    export: &Export,
    backend: pb::NfsBackend,
    clients: Vec<String>,
) -> pb::TaskSpec {
    pb::TaskSpec {
        verb: Some(Verb::ExportEnsure(pb::ExportEnsureTask {
            backend: backend.into(),
            path: export.path.clone(),
            clients,
        })),
    }
}

/// What an operator types to have an export brought up to date.
fn command(export: &Export, cluster: &str) -> String {
    let Export {
        host, path, class, ..
    } = export;
    format!(
        "canasta storage setup nfs --host {host} --install-server --share {path} --storage-class-name {class} --cluster {cluster}"
    )
}

/// Brings the exports of a cluster to the nodes that it has and to those on their way there. What a host that is away can't be
/// told is a warning: the nodes are there whether or not they can mount.
///
/// # Errors
/// When the database or the API of the cluster can't be asked.
pub(super) async fn follow_nodes(
    context: &Context,
    api: &ClusterApi,
    operation: &str,
    leaving: Option<Leaving<'_>>,
    reporter: &Reporter,
) -> Result<Done, StepError> {
    let _turn = context.clusters.exports_turn.lock().await;
    let rows = context.store.shared_storage().await;
    let exports = of_cluster(&rows.map_err(database_failed)?, &api.cluster);
    if exports.is_empty() {
        return Ok(Done::unchanged("no host exports anything for this cluster"));
    }
    let (mut told, mut failed) = (Vec::new(), Vec::new());
    let mut changed = false;
    for export in &exports {
        let clients = current_clients(context, api, leaving, export).await?;
        let task = AgentTask::new(
            context.fleet.clone(),
            export.host.clone(),
            operation,
            &task_name(export, &clients),
            context.timings.agent_wait,
        );
        let spec = ensure(export, pb::NfsBackend::Unspecified, clients);
        match task.run(spec, reporter).await {
            Ok(done) => {
                changed |= done.outcome != pb::StepOutcome::Unchanged;
                told.push(format!("{} of {}", export.path, export.host));
            }
            Err(error) => failed.push(format!(
                "{} of {}: {error}; once that is mended, `{}` does it",
                export.path,
                export.host,
                command(export, &api.cluster)
            )),
        }
    }
    if !failed.is_empty() {
        return Ok(Done::warning(format!(
            "not every export was brought up to date: {}",
            failed.join("; ")
        )));
    }
    let text = format!("the nodes of the cluster may mount {}", told.join(", "));
    Ok(if changed {
        Done::changed(text)
    } else {
        Done::unchanged(text)
    })
}

/// Tells one list from another: an earlier attempt of the step may have told another one.
fn task_name(export: &Export, clients: &[String]) -> String {
    let Export { host, path, .. } = export;
    let digest = Sha256::digest(format!("{host} {path} {}", clients.join(" ")));
    format!("storage-clients-{}", hex(&digest[..6]))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn clients_are_the_nodes_of_the_cluster_and_those_that_were_named() {
        let node = |addresses: serde_json::Value| -> Node {
            let node = json!({"metadata": {"name": "n"}, "status": {"addresses": addresses}});
            serde_json::from_value(node).expect("a node")
        };
        let nodes = [
            node(json!([
                {"type": "ExternalIP", "address": "203.0.113.5"},
                {"type": "InternalIP", "address": "10.0.0.6"},
                {"type": "InternalIP", "address": "2001:db8::6"},
                {"type": "Hostname", "address": "n6"},
            ])),
            node(json!([{"type": "InternalIP", "address": "10.0.0.5"}])),
        ];
        assert_eq!(addresses(&nodes[0])[0].to_string(), "10.0.0.6");
        let named = ["10.0.0.5", "10.9.0.0/24", "*"].map(str::to_owned);
        let coming = ["10.0.0.7".parse().expect("an address")];
        assert_eq!(
            clients(&nodes, &coming, &named),
            [
                "10.0.0.5",
                "10.0.0.6",
                "10.0.0.7",
                "10.9.0.0/24",
                "203.0.113.5",
                "2001:db8::6"
            ]
        );
    }

    #[test]
    fn classes_on_one_share_have_one_export() {
        let row = |class: &str, host: Option<&str>, path: &str, client: &str| SharedRow {
            cluster: "wiki".to_owned(),
            class: class.to_owned(),
            host: host.map(str::to_owned),
            server: "10.0.0.5".to_owned(),
            path: path.to_owned(),
            clients: vec![client.to_owned()],
            made: true,
            is_default: false,
        };
        let mut rows = vec![
            row("a", Some("cp1"), "/srv/a", "10.9.0.1"),
            row("b", Some("cp1"), "/srv/a", "10.9.0.2"),
            row("c", Some("w1"), "/srv/a", "10.9.0.3"),
            row("d", None, "/srv/a", "10.9.0.4"),
        ];
        rows.push(SharedRow {
            cluster: "other".to_owned(),
            ..rows[0].clone()
        });
        let exports = of_cluster(&rows, "wiki");
        let shown: Vec<_> = exports
            .iter()
            .map(|export| (export.host.as_str(), export.named.join(" ")))
            .collect();
        assert_eq!(
            shown,
            [
                ("cp1", "10.9.0.1 10.9.0.2".to_owned()),
                ("w1", "10.9.0.3".to_owned())
            ]
        );
    }
}
