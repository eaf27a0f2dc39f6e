//! The calls about nodes: cordon, uncordon, drain.

use canasta_proto::pb;
use canasta_transport::roles::Role;
use canasta_transport::status::Fault;
use tonic::{Code, Response, Status};

use super::super::caller::{AuditSubject, Caller, OperationStarted};
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

/// Refuses a flag that needs the role admin in a call that does not.
pub(super) fn check_admin(caller: &Caller, flag: &str) -> Result<(), Status> {
    if caller.role >= Role::Admin {
        return Ok(());
    }
    Err(Fault::new(
        Code::PermissionDenied,
        "ROLE_TOO_LOW",
        format!(
            "{flag} needs the role {}, and {} has the role {}",
            Role::Admin,
            caller.who,
            caller.role
        ),
    )
    .hint("ask an admin of the fleet")
    .into())
}

#[cfg(test)]
mod tests {
    use canasta_transport::roles::Role;
    use canasta_transport::status::Fault;

    use super::check_admin;
    use crate::api::caller::Caller;

    #[test]
    fn what_destroys_or_looks_away_needs_an_admin() {
        let caller = |role| Caller {
            who: "user anna".to_owned(),
            from: String::new(),
            role,
        };
        check_admin(&caller(Role::Admin), "force").expect("allowed");
        for role in [Role::Operator, Role::Viewer, Role::Anonymous] {
            let refused = check_admin(&caller(role), "force").expect_err("refused");
            assert_eq!(refused.code(), tonic::Code::PermissionDenied);
            let fault = Fault::from_status(&refused);
            assert_eq!(fault.reason, "ROLE_TOO_LOW");
            assert!(fault.message.contains("force needs the role admin"));
        }
    }
}
