//! The calls about nodes: cordon, uncordon, drain.

use canasta_proto::pb;
use tonic::{Response, Status};

use super::super::caller::{AuditSubject, OperationStarted};
use super::ClusterApi;
use crate::workflows::node_target::{self, Target};
use crate::workflows::{Error, drain_node};

impl ClusterApi {
    pub(super) async fn cordoned(
        &self,
        asked: pb::CordonNodeRequest,
        by: &str,
    ) -> Result<Response<pb::CordonNodeResponse>, Status> {
        let target = node_target::find(&self.context, &asked.node, &asked.cluster).await?;
        let changed = node_target::cordon(&self.context, &target, by).await;
        let changed = changed.map_err(Error::from)?;
        Ok(about(
            &target,
            pb::CordonNodeResponse {
                changed,
                cluster: target.cluster.clone(),
                node: target.node_name.clone(),
            },
        ))
    }

    pub(super) async fn uncordoned(
        &self,
        asked: pb::UncordonNodeRequest,
    ) -> Result<Response<pb::UncordonNodeResponse>, Status> {
        let target = node_target::find(&self.context, &asked.node, &asked.cluster).await?;
        let changed = node_target::uncordon(&self.context, &target).await;
        let changed = changed.map_err(Error::from)?;
        Ok(about(
            &target,
            pb::UncordonNodeResponse {
                changed,
                cluster: target.cluster.clone(),
                node: target.node_name.clone(),
            },
        ))
    }

    pub(super) async fn drained(
        &self,
        asked: pb::DrainNodeRequest,
        by: &str,
    ) -> Result<Response<pb::DrainNodeResponse>, Status> {
        let started = drain_node::drain(&self.context, &self.operations, &asked, by);
        let (operation, target) = started.await?;
        let mut response = about(
            &target,
            pb::DrainNodeResponse {
                operation_id: operation.clone(),
                cluster: target.cluster.clone(),
                node: target.node_name.clone(),
            },
        );
        response
            .extensions_mut()
            .insert(OperationStarted(operation));
        Ok(response)
    }
}

fn about<T>(target: &Target, message: T) -> Response<T> {
    let mut response = Response::new(message);
    let subject = format!("node {}, cluster {}", target.node_name, target.cluster);
    response.extensions_mut().insert(AuditSubject(subject));
    response
}
