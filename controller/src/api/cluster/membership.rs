//! The calls that change who belongs to a cluster: joins of workers, uninstalls, forgetting; and the one that hands out an
//! administrator's credentials.

use canasta_proto::name::ClusterName;
use canasta_proto::pb;
use canasta_transport::status::Fault;
use tonic::{Code, Response, Status};

use super::super::caller::{AuditSubject, Caller, OperationStarted, check_admin};
use super::super::invalid;
use super::ClusterApi;
use crate::clusters::KubeconfigError;
use crate::workflows::{forget_cluster, join_worker, uninstall_k3s};

impl ClusterApi {
    pub(super) async fn joined(
        &self,
        asked: pb::JoinWorkersRequest,
        caller: &Caller,
    ) -> Result<Response<pb::JoinWorkersResponse>, Status> {
        if !asked.ignore_findings.is_empty() {
            check_admin(caller, "ignoring findings")?;
        }
        let joins = join_worker::join(&self.context, &self.operations, &asked, &caller.who).await?;
        let hosts: Vec<_> = joins.iter().map(|join| join.host.as_str()).collect();
        let started: Vec<_> = joins
            .iter()
            .map(|join| join.operation_id.as_str())
            .filter(|operation| !operation.is_empty())
            .collect();
        let subject = AuditSubject(format!(
            "host {}, control plane {}",
            hosts.join(", "),
            asked.control_plane
        ));
        let operations = (!started.is_empty()).then(|| OperationStarted(started.join(" ")));
        let mut response = Response::new(pb::JoinWorkersResponse { joins });
        response.extensions_mut().insert(subject);
        if let Some(operations) = operations {
            response.extensions_mut().insert(operations);
        }
        Ok(response)
    }

    pub(super) async fn uninstalled(
        &self,
        asked: pb::UninstallK3sRequest,
        caller: &Caller,
    ) -> Result<Response<pb::UninstallK3sResponse>, Status> {
        if asked.force {
            check_admin(caller, "force")?;
        }
        let started =
            uninstall_k3s::uninstall(&self.context, &self.operations, &asked, &caller.who);
        let (operation_id, plan) = started.await?;
        let forced = if asked.force { ", by force" } else { "" };
        let subject = AuditSubject(format!("host {}{forced}", plan.host));
        let mut response = Response::new(pb::UninstallK3sResponse {
            operation_id: operation_id.clone(),
            plan: Some(plan),
        });
        response.extensions_mut().insert(subject);
        if !operation_id.is_empty() {
            response
                .extensions_mut()
                .insert(OperationStarted(operation_id));
        }
        Ok(response)
    }

    pub(super) async fn forgotten(
        &self,
        asked: pb::ForgetClusterRequest,
        by: &str,
    ) -> Result<Response<pb::ForgetClusterResponse>, Status> {
        let hosts =
            forget_cluster::forget(&self.context, &self.operations, &asked.name, by).await?;
        let mut response = Response::new(pb::ForgetClusterResponse { hosts });
        let subject = AuditSubject(format!("cluster {}", asked.name));
        response.extensions_mut().insert(subject);
        Ok(response)
    }

    pub(super) async fn kubeconfig(
        &self,
        asked: pb::GetKubeconfigRequest,
    ) -> Result<Response<pb::GetKubeconfigResponse>, Status> {
        let name: ClusterName = asked
            .cluster
            .parse()
            .map_err(|rule| invalid("cluster", "INVALID_NAME", rule))?;
        let kubeconfig = self.context.clusters.kubeconfig(&name, &asked.server);
        let kubeconfig = kubeconfig.await.map_err(Fault::from)?;
        let mut response = Response::new(pb::GetKubeconfigResponse {
            cluster: name.to_string(),
            servers: kubeconfig.servers,
            ca_certificate: kubeconfig.credentials.ca_certificate,
            client_certificate: kubeconfig.credentials.client_certificate,
            client_key: kubeconfig.credentials.client_key,
        });
        let subject = AuditSubject(format!("cluster {name}"));
        response.extensions_mut().insert(subject);
        Ok(response)
    }
}

impl From<KubeconfigError> for Fault {
    fn from(error: KubeconfigError) -> Self {
        let fault = |code, reason: &str| Self::from_error(code, reason, &error);
        match &error {
            KubeconfigError::Unknown(name) => fault(Code::NotFound, "CLUSTER_NOT_FOUND")
                .about(format!("cluster {name}"))
                .hint("`canasta cluster list` shows the clusters"),
            KubeconfigError::NoControlPlane(name) => {
                fault(Code::FailedPrecondition, "NO_CONTROL_PLANE")
                    .about(format!("cluster {name}"))
                    .hint(format!("`canasta cluster show {name}` shows its nodes"))
            }
            KubeconfigError::Server => invalid("server", "INVALID_ADDRESS", &error),
            KubeconfigError::NotCarried { cluster, server, host, carried } => {
                fault(Code::FailedPrecondition, "SERVER_NOT_CARRIED")
                    .about(format!("cluster {cluster}"))
                    .caused_by(vec![format!("it carries: {}", carried.join(", "))])
                    .hint(format!(
                        "name one of these, or put the address into the certificate: canasta install k8s-cp --host {host} --public-ip {server}, together with all other public addresses"
                    ))
            }
            KubeconfigError::Store(source) => source.into(),
            KubeconfigError::Fleet(_) => match error {
                KubeconfigError::Fleet(error) => error.into(),
                _ => unreachable!("matched above"),
            },
        }
    }
}
