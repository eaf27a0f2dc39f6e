//! Storage of clusters: the classes that volumes come from, and what volumes of each can do. Called by the API.

mod provisioners;

use canasta_proto::pb;
use k8s_openapi::api::storage::v1::StorageClass;

use self::provisioners::access_modes;
use crate::clusters::{Clusters, shown};
use crate::operations::stamp;
use crate::store;

/// The annotation that makes a class the default, and its older name, which API servers still honour
/// (`pkg/volume/util/storageclass.go` of Kubernetes).
const IS_DEFAULT: [&str; 2] = [
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
];
/// The driver whose classes name a server and a share.
const NFS: &str = "nfs.csi.k8s.io";
/// What a class deletes that does not say what it does.
const RECLAIM: &str = "Delete";

/// What the storage classes of a cluster can do now, as its API and the table of provisioners tell.
///
/// # Errors
/// When the database can't be read; that the API does not answer is told in the answer.
pub(crate) async fn of_cluster(
    clusters: &Clusters,
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
    match answer {
        Ok(classes) => found.classes = classes.into_iter().map(told).collect(),
        Err(crate::clusters::NodeError::Store(error)) => return Err(error),
        Err(error) => found.error = shown(&error),
    }
    found
        .classes
        .sort_by(|one, other| one.name.cmp(&other.name));
    Ok(found)
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
