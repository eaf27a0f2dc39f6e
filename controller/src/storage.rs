//! Storage of clusters: the classes that volumes come from, and what volumes of each can do. Called by the API.

mod provisioners;

use std::collections::BTreeMap;
use std::fmt;

use canasta_proto::pb;
use k8s_openapi::api::storage::v1::StorageClass;
use serde::{Deserialize, Serialize};

use self::provisioners::access_modes;
use crate::clusters::{Clusters, shown};
use crate::operations::stamp;
use crate::store::proofs::CheckRow;
use crate::store::{self, Store};

/// The annotation that makes a class the default, and its older name, which API servers still honour
/// (`pkg/volume/util/storageclass.go` of Kubernetes).
const IS_DEFAULT: [&str; 2] = [
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
];
/// The driver whose classes name a server and a share.
pub(crate) const NFS: &str = "nfs.csi.k8s.io";
/// What a class deletes that does not say what it does.
const RECLAIM: &str = "Delete";

/// What the storage classes of a cluster can do now, as its API and the table of provisioners tell.
///
/// # Errors
/// When the database can't be read; that the API does not answer is told in the answer.
pub(crate) async fn of_cluster(
    clusters: &Clusters,
    store: &Store,
    cluster: &str,
) -> Result<pb::ClusterStorage, store::Error> {
    let mut found = pb::ClusterStorage {
        cluster: cluster.to_owned(),
        ..pb::ClusterStorage::default()
    };
    let answer = match clusters.api_of(cluster).await {
        Ok(api) => {
            found.source = format!("API server through the agent on {}", api.host);
            api.storage_classes().await
        }
        Err(error) => Err(error),
    };
    found.observed_at = Some(stamp::now());
    let checks = store.last_checks(cluster).await?;
    let mut made = store.shared_storage().await?;
    made.retain(|row| row.cluster == cluster);
    let mut hosts: Vec<String> = store
        .cluster_nodes()
        .await?
        .into_iter()
        .filter(|node| node.cluster == cluster)
        .map(|node| node.host)
        .collect();
    hosts.sort();
    match answer {
        Ok(classes) => {
            found.classes = classes.into_iter().map(told).collect();
            for class in &mut found.classes {
                let of_class =
                    |row: &&CheckRow| (&row.server, &row.path) == (&class.server, &class.share);
                let check = checks.iter().find(of_class);
                class.proof = check.and_then(|check| proof(check, &hosts));
                if let Some(row) = made.iter().find(|row| row.class == class.name) {
                    class.is_instance_default = row.is_default;
                    class.host = row.host.clone().unwrap_or_default();
                }
            }
        }
        Err(crate::clusters::NodeError::Store(error)) => return Err(error),
        Err(error) => found.error = shown(&error),
    }
    found
        .classes
        .sort_by(|one, other| one.name.cmp(&other.name));
    Ok(found)
}

/// A share of an NFS server, and the storage classes whose volumes are on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Share {
    /// Name or address of the server, as a class writes it.
    pub(crate) server: String,
    /// The path on it.
    pub(crate) path: String,
    /// By name.
    pub(crate) classes: Vec<String>,
}

impl fmt::Display for Share {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.server, self.path)
    }
}

/// The shares that storage classes are on, by server and path. A pure function.
pub(crate) fn shares(classes: Vec<StorageClass>) -> Vec<Share> {
    let mut shares: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    for class in classes.into_iter().map(told) {
        if !class.server.is_empty() {
            let of_share = shares.entry((class.server, class.share));
            of_share.or_default().push(class.name);
        }
    }
    let share = |((server, path), mut classes): ((String, String), Vec<String>)| {
        classes.sort();
        Share {
            server,
            path,
            classes,
        }
    };
    shares.into_iter().map(share).collect()
}

/// What a check of a share says; nothing where nobody tried. `hosts` are those that the cluster has now. A pure function.
fn proof(check: &CheckRow, hosts: &[String]) -> Option<pb::ShareProof> {
    let mut nodes: Vec<pb::NodeProof> = Vec::new();
    for row in &check.proofs {
        let step = pb::ProofStep {
            step: row.step.as_str().to_owned(),
            reason: row.reason.clone(),
            message: row.message.clone(),
            hint: row.hint.clone(),
        };
        match nodes.last_mut() {
            Some(node) if node.host == row.host => node.steps.push(step),
            _ => nodes.push(pb::NodeProof {
                host: row.host.clone(),
                steps: vec![step],
            }),
        }
    }
    let newer = hosts
        .iter()
        .filter(|host| !nodes.iter().any(|node| &node.host == *host));
    let unproved_nodes = check.unproved.iter().chain(newer).cloned().collect();
    (!nodes.is_empty()).then(|| pb::ShareProof {
        checked_at: Some(stamp::from_millis(check.checked_at)),
        nodes,
        operation_id: check.operation.clone(),
        unproved_nodes,
    })
}

/// A class as it is told. A pure function.
fn told(class: StorageClass) -> pb::StorageClass {
    let annotations = class.metadata.annotations.unwrap_or_default();
    let is_true = |name: &&str| annotations.get(*name).is_some_and(|value| value == "true");
    let mut parameters = class
        .parameters
        .filter(|_| class.provisioner == NFS)
        .unwrap_or_default();
    pb::StorageClass {
        name: class.metadata.name.unwrap_or_default(),
        access_modes: access_modes(&class.provisioner)
            .unwrap_or_default()
            .iter()
            .map(|mode| (*mode).into())
            .collect(),
        is_default: IS_DEFAULT.iter().any(is_true),
        reclaim_policy: class.reclaim_policy.unwrap_or_else(|| RECLAIM.to_owned()),
        server: parameters.remove("server").unwrap_or_default(),
        share: parameters.remove("share").unwrap_or_default(),
        provisioner: class.provisioner,
        ..pb::StorageClass::default()
    }
}

#[cfg(test)]
mod tests {
    use canasta_proto::pb::AccessMode;
    use serde_json::{Value, json};

    use super::told;

    fn of(class: Value) -> canasta_proto::pb::StorageClass {
        told(serde_json::from_value(class).expect("a storage class"))
    }

    #[test]
    fn the_class_of_k3s_is_the_default_and_no_shared_storage() {
        let class = of(json!({
            "metadata": {"name": "local-path", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
            "provisioner": "rancher.io/local-path", "reclaimPolicy": "Retain",
            "parameters": {"server": "not its meaning"},
        }));
        assert!(
            class.is_default
                && !class
                    .access_modes()
                    .any(|mode| mode == AccessMode::ReadWriteMany)
        );
        assert_eq!(
            (class.reclaim_policy.as_str(), class.server.as_str()),
            ("Retain", "")
        );
    }

    #[test]
    fn a_class_of_nfs_names_its_server_and_share() {
        let class = of(json!({
            "metadata": {"name": "nfs", "annotations": {"storageclass.beta.kubernetes.io/is-default-class": "false"}},
            "provisioner": "nfs.csi.k8s.io", "parameters": {"server": "10.0.0.5", "share": "/srv/nfs/canasta"},
        }));
        assert!(
            !class.is_default
                && class
                    .access_modes()
                    .any(|mode| mode == AccessMode::ReadWriteMany)
        );
        assert_eq!(
            (
                class.server.as_str(),
                class.share.as_str(),
                class.reclaim_policy.as_str()
            ),
            ("10.0.0.5", "/srv/nfs/canasta", "Delete")
        );
    }

    #[test]
    fn an_unknown_provisioner_promises_nothing() {
        let class = of(json!({"metadata": {"name": "own"}, "provisioner": "example.org/own"}));
        assert_eq!(class.access_modes().count(), 0);
    }
}
