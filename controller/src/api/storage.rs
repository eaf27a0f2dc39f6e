//! Storage of clusters, shown here.

use canasta_proto::name::ClusterName;
use canasta_proto::pb;
use canasta_proto::pb::storage_service_server::StorageService;
use canasta_transport::status::Fault;
use futures_util::future::try_join_all;
use tonic::{Request, Response};

use super::fault::cluster_not_found;
use super::{Answer, invalid};
use crate::storage;
use crate::workflows::Context;

/// Shows the storage of clusters.
#[derive(Debug)]
pub(super) struct StorageApi {
    pub(super) context: Context,
}

#[tonic::async_trait]
impl StorageService for StorageApi {
    async fn list_storage(
        &self,
        request: Request<pb::ListStorageRequest>,
    ) -> Answer<pb::ListStorageResponse> {
        let asked = request.into_inner().cluster;
        let known = self.context.store.clusters().await.map_err(Fault::from)?;
        let mut names: Vec<String> = known.into_iter().map(|cluster| cluster.name).collect();
        if !asked.is_empty() {
            let name: ClusterName = asked
                .parse()
                .map_err(|rule| invalid("cluster", "INVALID_NAME", rule))?;
            names.retain(|known| known == name.as_str());
            if names.is_empty() {
                return Err(cluster_not_found(&name).into());
            }
        }
        let clusters = names
            .iter()
            .map(|name| storage::of_cluster(&self.context.clusters, name));
        let clusters = try_join_all(clusters).await.map_err(Fault::from)?;
        Ok(Response::new(pb::ListStorageResponse { clusters }))
    }
}
