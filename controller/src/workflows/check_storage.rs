//! `canasta storage check`: every host of a cluster proves that it can use the NFS shares behind the cluster's storage classes.
//!
//! A host writes a file of its own, reads the one of another host, and removes its own. What one host can't do keeps no other
//! from trying: a step that found a fault ends with a warning, and the last one fails with all of them.

mod steps;

use canasta_proto::address::Address;
use canasta_proto::name::ClusterName;
use canasta_proto::pb;
use canasta_proto::share::check_path;
use canasta_steps::Plan;
use serde::{Deserialize, Serialize};

use super::host_text::HostText;
use super::launch::launch;
use super::node_target::unknown_cluster;
use super::{Context, Error, Refusal};
use crate::clusters::ClusterApi;
use crate::operations::locks::{Resource, Wanted};
use crate::operations::{Operations, Workflow};
use crate::storage::Share;
use crate::store;

/// The kind of the operation.
pub(crate) const KIND: &str = "check-storage";

/// The most shares of one check: who has more classes has them of few servers.
const MOST_SHARES: usize = 16;

/// What a check proves. Stored with the operation, which is rebuilt from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Planned {
    cluster: String,
    shares: Vec<Share>,
    /// What is said of shares that can't be proved.
    unusable: Vec<String>,
    hosts: Vec<HostText>,
    /// Nodes that are no hosts of the fleet.
    unproved_nodes: Vec<String>,
    /// What an operator types to have it done again.
    #[serde(default = "unknown_command")]
    command: String,
}

/// For an operation that an older controller stored.
fn unknown_command() -> String {
    "canasta storage check".to_owned()
}

impl Planned {
    /// The proof of one share from every host of a cluster.
    pub(super) fn of_share(
        cluster: &str,
        share: Share,
        members: &Members,
        command: String,
    ) -> Self {
        Self {
            cluster: cluster.to_owned(),
            shares: vec![share],
            unusable: Vec::new(),
            hosts: members.hosts.clone(),
            unproved_nodes: members.unproved_nodes.clone(),
            command,
        }
    }
}

/// A check that was planned.
#[derive(Debug)]
pub(crate) struct CheckStorage {
    context: Context,
    planned: Planned,
}

impl CheckStorage {
    pub(super) fn new(context: Context, planned: Planned) -> Self {
        Self { context, planned }
    }
}

impl Workflow for CheckStorage {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn title(&self) -> String {
        let Planned {
            cluster,
            shares,
            hosts,
            ..
        } = &self.planned;
        format!(
            "prove the shared storage of cluster {cluster} ({} from {})",
            counted(shares.len(), "share"),
            counted(hosts.len(), "host")
        )
    }

    fn locks(&self) -> Wanted {
        let Planned { cluster, hosts, .. } = &self.planned;
        let mut consults = vec![Resource::Membership(cluster.clone())];
        consults.extend(hosts.iter().map(|host| Resource::Host(host.to_string())));
        Wanted {
            changes: vec![Resource::Storage(cluster.clone())],
            consults,
        }
    }

    fn request(&self) -> serde_json::Value {
        serde_json::to_value(&self.planned).expect("a plan is JSON")
    }

    fn steps(&self, operation: &str) -> Plan {
        proofs(Plan::new(), None, &self.context, &self.planned, operation)
    }
}

pub(super) use self::steps::{VERDICT, add as proofs};

/// Who can prove something in a cluster, and of which nodes nothing can be known.
#[derive(Debug, Clone)]
pub(super) struct Members {
    /// Hosts of the fleet, by name.
    pub(super) hosts: Vec<HostText>,
    /// Nodes that are no hosts of the fleet, by name.
    pub(super) unproved_nodes: Vec<String>,
}

impl Members {
    /// Those of a cluster, by its API and the controller's own record.
    pub(super) async fn of(context: &Context, api: &ClusterApi) -> Result<Self, Error> {
        let rows = context.store.cluster_nodes().await?;
        let rows: Vec<_> = rows
            .into_iter()
            .filter(|row| row.cluster == api.cluster)
            .collect();
        let nodes = api.nodes().await?;
        let mut unproved_nodes: Vec<String> = nodes
            .into_iter()
            .filter_map(|node| node.metadata.name)
            .filter(|name| !rows.iter().any(|row| &row.node_name == name))
            .collect();
        unproved_nodes.sort();
        let hosts = rows.into_iter().map(|row| row.host.try_into());
        let mut hosts: Vec<HostText> = hosts
            .collect::<Result<_, _>>()
            .map_err(|_| store::Error::damaged("the name of a host"))?;
        hosts.sort_by_key(ToString::to_string);
        Ok(Self {
            hosts,
            unproved_nodes,
        })
    }
}

pub(super) fn counted(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

/// Starts a check.
///
/// # Errors
/// When the cluster is not known or there are several, its API can't be asked, or there is nothing to prove.
pub(crate) async fn check(
    context: &Context,
    operations: &Operations,
    asked: &pb::CheckStorageRequest,
    started_by: &str,
) -> Result<pb::CheckStorageResponse, Error> {
    let cluster = cluster(context, &asked.cluster).await?;
    let api = context.clusters.api_of(&cluster).await?;
    let shares = crate::storage::shares(api.storage_classes().await?);
    let (shares, unusable) = usable(&cluster, shares)?;
    let members = Members::of(context, &api).await?;
    let Members {
        hosts,
        unproved_nodes,
    } = &members;
    let mut response = pb::CheckStorageResponse {
        cluster: cluster.clone(),
        hosts: hosts.iter().map(ToString::to_string).collect(),
        shares: shares.iter().map(ToString::to_string).collect(),
        unproved_nodes: unproved_nodes.clone(),
        operation_id: String::new(),
    };
    let planned = Planned {
        command: format!("canasta storage check --cluster {cluster}"),
        cluster,
        shares,
        unusable,
        hosts: members.hosts,
        unproved_nodes: members.unproved_nodes,
    };
    let workflow = CheckStorage::new(context.clone(), planned);
    let held = operations.hold(&workflow.locks(), KIND, started_by)?;
    response.operation_id = launch(operations, Some(held), workflow).await?.operation_id;
    Ok(response)
}

/// The cluster that is meant: the one that is named, or the only one.
pub(super) async fn cluster(context: &Context, named: &str) -> Result<String, Error> {
    let known = context.store.clusters().await?;
    let names: Vec<String> = known.into_iter().map(|cluster| cluster.name).collect();
    if named.is_empty() {
        return match names.as_slice() {
            [only] => Ok(only.clone()),
            _ => Err(Error::ClusterRequired { clusters: names }),
        };
    }
    let name: ClusterName = named.parse().map_err(|rule| Error::Name {
        field: "cluster",
        rule,
    })?;
    match names.into_iter().find(|known| known == name.as_str()) {
        Some(name) => Ok(name),
        None => Err(unknown_cluster(name.as_str()).into()),
    }
}

/// The shares that can be proved, and what is said of the others: what a class names was written by anybody. A pure function.
///
/// # Errors
/// When none is left.
fn usable(cluster: &str, shares: Vec<Share>) -> Result<(Vec<Share>, Vec<String>), Refusal> {
    let has_form = |share: &Share| {
        let server = share.server.parse::<Address>().ok();
        server.is_some_and(|server| server.port().is_none()) && check_path(&share.path).is_ok()
    };
    let (mut good, bad): (Vec<_>, Vec<_>) = shares.into_iter().partition(has_form);
    let too_many = good.split_off(good.len().min(MOST_SHARES));
    let classes = |share: &Share| share.classes.join(", ");
    let mut unusable: Vec<String> = bad
        .iter()
        .map(|share| {
            format!(
                "the share of class {} can't be proved as it is written: {share}",
                classes(share)
            )
        })
        .collect();
    unusable.extend(too_many.iter().map(|share| {
        format!(
            "the share of class {} was left out: one check proves {MOST_SHARES} shares",
            classes(share)
        )
    }));
    if !good.is_empty() {
        return Ok((good, unusable));
    }
    let mut refusal = Refusal::new(
        "NO_SHARES",
        format!(
            "no storage class of cluster '{cluster}' is on an NFS server whose share can be proved"
        ),
        format!(
            "`canasta storage list --cluster {cluster}` shows the classes; the `server` of one is an IP address or a DNS name, its \
             `share` a path without '..', spaces and a '/' at its end"
        ),
    );
    refusal.points = unusable;
    Err(refusal)
}

#[cfg(test)]
mod tests {
    use super::{MOST_SHARES, usable};
    use crate::storage::Share;

    fn share(server: &str, path: &str) -> Share {
        Share {
            server: server.to_owned(),
            path: path.to_owned(),
            classes: vec!["nfs".to_owned()],
        }
    }

    #[test]
    fn what_a_class_names_is_checked_and_keeps_no_other_from_being_proved() {
        let good = [share("10.0.0.5", "/srv/nfs"), share("nas.example.org", "/")];
        let (proved, said) = usable("wiki", good.to_vec()).expect("usable");
        assert_eq!((proved.as_slice(), said.len()), (&good[..], 0));
        for (server, path) in [
            ("10.0.0.5:2049", "/srv/nfs"),
            ("nas -o rw", "/srv/nfs"),
            ("10.0.0.5", "/srv/../etc"),
            ("10.0.0.5", "srv"),
        ] {
            let refusal = usable("wiki", vec![share(server, path)]).expect_err(server);
            assert_eq!(refusal.reason, "NO_SHARES");
            assert!(refusal.points[0].contains("class nfs"), "{refusal:?}");
            let both = vec![share(server, path), good[0].clone()];
            let (proved, said) = usable("wiki", both).expect("one can be proved");
            assert_eq!((proved.len(), said.len()), (1, 1));
        }
        usable("wiki", Vec::new()).expect_err("none");
        let many = (0..=MOST_SHARES).map(|count| share("10.0.0.5", &format!("/srv/{count}")));
        let (proved, said) = usable("wiki", many.collect()).expect("some");
        assert_eq!((proved.len(), said.len()), (MOST_SHARES, 1));
    }
}
