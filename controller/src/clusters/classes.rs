//! Storage classes of a cluster. Called by [`crate::storage`].

use k8s_openapi::api::storage::v1::StorageClass;
use kube::Api;
use kube::api::ListParams;

use super::reach::{ClusterApi, NodeError};

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
}
