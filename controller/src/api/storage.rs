//! Storage of clusters: shown here, and proved by an operation that is started here.

use canasta_proto::name::ClusterName;
use canasta_proto::pb;
use canasta_proto::pb::storage_service_server::StorageService;
use canasta_transport::status::Fault;
use futures_util::future::try_join_all;
use tonic::{Request, Response};

use super::caller::{AuditSubject, OperationStarted, caller_of, check_admin};
use super::fault::cluster_not_found;
use super::{Answer, invalid};
use crate::operations::Operations;
use crate::storage;
use crate::workflows::{Context, check_storage, remove_storage, setup_nfs};

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
        let subject = format!("cluster {}", checked.cluster);
        let operation = checked.operation_id.clone();
        Ok(audited(checked, subject, operation))
    }

    async fn setup_nfs(
        &self,
        request: Request<pb::SetupNfsRequest>,
    ) -> Answer<pb::SetupNfsResponse> {
        let by = caller_of(&request).who;
        let asked = request.into_inner();
        let begun = setup_nfs::setup(&self.context, &self.operations, asked, &by).await?;
        let subject = format!("share {}, cluster {}", begun.share, begun.cluster);
        let operation = begun.operation_id.clone();
        Ok(audited(begun, subject, operation))
    }

    async fn remove_storage(
        &self,
        request: Request<pb::RemoveStorageRequest>,
    ) -> Answer<pb::RemoveStorageResponse> {
        let caller = caller_of(&request);
        let asked = request.into_inner();
        if asked.force {
            check_admin(&caller, "force")?;
        }
        let begun =
            remove_storage::remove(&self.context, &self.operations, &asked, &caller.who).await?;
        let (clusters, classes) = (begun.clusters.join(", "), begun.storage_classes.join(", "));
        let mut subject = format!("cluster {clusters}, classes {classes}");
        if !asked.host.is_empty() {
            subject.push_str(&format!(", share {} of host {}", asked.share, asked.host));
        }
        if asked.force {
            subject.push_str(", by force");
        }
        let operation = begun.operation_id.clone();
        Ok(audited(begun, subject, operation))
    }
}

/// A response with what the audit trail needs to know; a dry run has no operation.
fn audited<T>(answer: T, subject: String, operation: String) -> Response<T> {
    let mut response = Response::new(answer);
    response.extensions_mut().insert(AuditSubject(subject));
    if !operation.is_empty() {
        response
            .extensions_mut()
            .insert(OperationStarted(operation));
    }
    response
}
