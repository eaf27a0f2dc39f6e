//! Storage of clusters: shown here, and proved by an operation that is started here.

use canasta_proto::name::ClusterName;
use canasta_proto::pb;
use canasta_proto::pb::storage_service_server::StorageService;
use canasta_transport::status::Fault;
use futures_util::future::try_join_all;
use tonic::{Request, Response};

use super::caller::{AuditSubject, OperationStarted, caller_of};
use super::fault::cluster_not_found;
use super::{Answer, invalid};
use crate::operations::Operations;
use crate::storage;
use crate::workflows::{Context, check_storage};

/// Shows and proves the storage of clusters.
#[derive(Debug)]
pub(super) struct StorageApi {
    pub(super) context: Context,
    pub(super) operations: Operations,
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
            .map(|name| storage::of_cluster(&self.context.clusters, &self.context.store, name));
        let clusters = try_join_all(clusters).await.map_err(Fault::from)?;
        Ok(Response::new(pb::ListStorageResponse { clusters }))
    }

    async fn check_storage(
        &self,
        request: Request<pb::CheckStorageRequest>,
    ) -> Answer<pb::CheckStorageResponse> {
        let by = caller_of(&request).who;
        let asked = request.into_inner();
        let checked = check_storage::check(&self.context, &self.operations, &asked, &by).await?;
        let subject = AuditSubject(format!("cluster {}", checked.cluster));
        let operation = OperationStarted(checked.operation_id.clone());
        let mut response = Response::new(checked);
        response.extensions_mut().insert(subject);
        response.extensions_mut().insert(operation);
        Ok(response)
    }
}
