//! Storage classes of a cluster, and the volumes that are of one. Called by [`crate::storage`] and by the workflows that set up and
//! remove storage.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PersistentVolume;
use k8s_openapi::api::storage::v1::{CSIDriver, StorageClass};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions};

use super::reach::{ClusterApi, NodeError, is_not_found};

/// The label of objects that this system makes, and its value.
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
const US: &str = "canasta";
/// How a node mounts the share.
const MOUNT: &str = "nfsvers=4.1";

/// What became of a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Made {
    /// It was not there.
    Created,
    /// It was there as wanted.
    Unchanged,
    /// It was there with another share. What a class says can't be changed, so it was made anew.
    Replaced,
}

/// A class of volumes on an NFS share, for the driver of this name.
pub(crate) fn on_share(name: &str, driver: &str, server: &str, share: &str) -> StorageClass {
    let labels = [(MANAGED_BY.to_owned(), US.to_owned())];
    let parameters = [("server", server), ("share", share)];
    StorageClass {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(BTreeMap::from(labels)),
            ..ObjectMeta::default()
        },
        provisioner: driver.to_owned(),
        parameters: Some(
            parameters
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
        ),
        reclaim_policy: Some("Delete".to_owned()),
        volume_binding_mode: Some("Immediate".to_owned()),
        mount_options: Some(vec![MOUNT.to_owned()]),
        ..StorageClass::default()
    }
}

/// Whether this system made a class.
pub(crate) fn is_ours(class: &StorageClass) -> bool {
    let labels = class.metadata.labels.as_ref();
    labels.is_some_and(|labels| labels.get(MANAGED_BY).is_some_and(|by| by == US))
}

/// Whether two classes give the same volumes.
fn is_same(one: &StorageClass, other: &StorageClass) -> bool {
    let said = |class: &StorageClass| {
        (
            class.provisioner.clone(),
            class.parameters.clone().unwrap_or_default(),
            class.reclaim_policy.clone().unwrap_or_default(),
            class.mount_options.clone().unwrap_or_default(),
        )
    };
    said(one) == said(other)
}

impl ClusterApi {
    /// All storage classes of the cluster.
    pub(crate) async fn storage_classes(&self) -> Result<Vec<StorageClass>, NodeError> {
        let classes = Api::<StorageClass>::all(self.client.clone());
        let every = ListParams::default();
        let listed = self
            .asked("list the storage classes", classes.list(&every))
            .await?;
        Ok(listed.items)
    }

    /// One storage class; none when the API knows none of this name.
    pub(crate) async fn storage_class(
        &self,
        name: &str,
    ) -> Result<Option<StorageClass>, NodeError> {
        let classes = Api::<StorageClass>::all(self.client.clone());
        let what = format!("look at storage class {name}");
        self.asked(&what, classes.get_opt(name)).await
    }

    /// Whether the cluster has a driver of this name for volumes.
    pub(crate) async fn has_driver(&self, name: &str) -> Result<bool, NodeError> {
        let drivers = Api::<CSIDriver>::all(self.client.clone());
        let what = format!("look for the driver {name}");
        let found = self.asked(&what, drivers.get_opt(name)).await?;
        Ok(found.is_some())
    }

    /// Has a class of ours be as wanted. Whoever calls has looked that it is nobody else's.
    pub(crate) async fn put_class(&self, wanted: &StorageClass) -> Result<Made, NodeError> {
        let name = wanted.metadata.name.clone().unwrap_or_default();
        let mut made = Made::Created;
        if let Some(found) = self.storage_class(&name).await? {
            if is_same(&found, wanted) {
                return Ok(Made::Unchanged);
            }
            self.delete_class(&found).await?;
            made = Made::Replaced;
        }
        let classes = Api::<StorageClass>::all(self.client.clone());
        let what = format!("make storage class {name}");
        let parameters = PostParams::default();
        self.asked(&what, classes.create(&parameters, wanted))
            .await?;
        Ok(made)
    }

    /// Deletes a class, and refuses where another one has its name by now; false where it was gone.
    pub(crate) async fn delete_class(&self, class: &StorageClass) -> Result<bool, NodeError> {
        let name = class.metadata.name.clone().unwrap_or_default();
        let classes = Api::<StorageClass>::all(self.client.clone());
        let this = DeleteParams::default().preconditions(Preconditions {
            uid: class.metadata.uid.clone(),
            resource_version: None,
        });
        let what = format!("delete storage class {name}");
        let delete = async {
            match classes.delete(&name, &this).await {
                Ok(_) => Ok(true),
                Err(error) if is_not_found(&error) => Ok(false),
                Err(error) => Err(error),
            }
        };
        self.asked(&what, delete).await
    }

    /// The volumes that are of one of these classes or lie on this share, in whatever phase: `pvc-… (claim wiki/images)`. Who
    /// moves or deletes a class leaves its volumes where they are.
    pub(crate) async fn volumes_using(
        &self,
        classes: &[String],
        share: Option<(&[String], &str)>,
    ) -> Result<Vec<String>, NodeError> {
        let volumes = self.volumes().await?.into_iter();
        let using = volumes.filter_map(|volume| shown(volume, classes, share));
        Ok(using.collect())
    }
}

/// A volume that is of one of the classes, or whose driver has it on a share: servers, and the path.
fn shown(
    volume: PersistentVolume,
    classes: &[String],
    share: Option<(&[String], &str)>,
) -> Option<String> {
    let spec = volume.spec?;
    let class = spec.storage_class_name.as_ref();
    let is_of_class = class.is_some_and(|class| classes.contains(class));
    let attributes = spec
        .csi
        .as_ref()
        .and_then(|csi| csi.volume_attributes.as_ref());
    let lies_there = attributes
        .zip(share)
        .is_some_and(|(attributes, (servers, path))| {
            let is_path = attributes.get("share").is_some_and(|share| share == path);
            is_path
                && attributes
                    .get("server")
                    .is_some_and(|server| servers.contains(server))
        });
    if !is_of_class && !lies_there {
        return None;
    }
    let name = volume.metadata.name.unwrap_or_default();
    Some(match spec.claim_ref {
        Some(claim) => format!(
            "{name} (claim {}/{})",
            claim.namespace.unwrap_or_default(),
            claim.name.unwrap_or_default()
        ),
        None => name,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{is_ours, is_same, on_share, shown};

    #[test]
    fn volumes_are_found_by_their_class_and_by_where_they_lie() {
        let volume = |class: &str, server: &str| {
            let volume = json!({"metadata": {"name": "pv1"}, "spec": {"storageClassName": class,
                "claimRef": {"namespace": "wiki", "name": "images"},
                "csi": {"driver": "nfs.csi.k8s.io", "volumeHandle": "h",
                    "volumeAttributes": {"server": server, "share": "/srv/nfs"}}}});
            serde_json::from_value(volume).expect("a volume")
        };
        let classes = ["nfs".to_owned()];
        let servers = ["10.0.0.5".to_owned()];
        let share = Some((&servers[..], "/srv/nfs"));
        let of = |class, server| shown(volume(class, server), &classes, share);
        for (class, server) in [("nfs", "10.0.0.9"), ("old", "10.0.0.5")] {
            assert_eq!(
                of(class, server).as_deref(),
                Some("pv1 (claim wiki/images)")
            );
        }
        assert_eq!(of("old", "10.0.0.9"), None);
        assert_eq!(shown(volume("old", "10.0.0.5"), &classes, None), None);
    }

    #[test]
    fn a_class_says_how_its_share_is_mounted_and_whose_it_is() {
        let class = on_share("nfs", "nfs.csi.k8s.io", "10.0.0.5", "/srv/nfs/canasta");
        assert!(is_ours(&class));
        assert_eq!(
            class.mount_options.as_deref(),
            Some(&["nfsvers=4.1".to_owned()][..])
        );
        assert_eq!(class.reclaim_policy.as_deref(), Some("Delete"));
        assert!(is_same(&class, &class.clone()));
        let moved = on_share("nfs", "nfs.csi.k8s.io", "10.0.0.6", "/srv/nfs/canasta");
        assert!(!is_same(&class, &moved));
        let mut theirs = class;
        theirs.metadata.labels = None;
        assert!(!is_ours(&theirs));
    }
}
