//! Clusters: installing, adopting and showing them here; members and nodes in the modules beside.

mod membership;
mod node;

use canasta_proto::name::ClusterName;
use canasta_proto::pb;
use canasta_proto::pb::cluster_service_server::ClusterService;
use canasta_transport::status::Fault;
use tonic::{Code, Request, Response, Status};

use super::caller::{AuditSubject, OperationStarted, caller_of};
use super::fault::cluster_not_found;
use super::{Answer, invalid};
use crate::operations::Operations;
use crate::workflows::{self, Begun, Context, Error, adopt_control_plane, install_control_plane};

/// Installs and shows clusters.
#[derive(Debug)]
pub(super) struct ClusterApi {
    pub(super) context: Context,
    pub(super) operations: Operations,
}

#[tonic::async_trait]
impl ClusterService for ClusterApi {
    async fn install_control_plane(
        &self,
        request: Request<pb::InstallControlPlaneRequest>,
    ) -> Answer<pb::InstallControlPlaneResponse> {
        let by = caller_of(&request).who;
        let asked = request.into_inner();
        let begun =
            install_control_plane::install(&self.context, &self.operations, &asked, &by).await?;
        Ok(audited(begun, |operation_id, plan| {
            pb::InstallControlPlaneResponse { operation_id, plan }
        }))
    }

    async fn adopt_control_plane(
        &self,
        request: Request<pb::AdoptControlPlaneRequest>,
    ) -> Answer<pb::AdoptControlPlaneResponse> {
        let by = caller_of(&request).who;
        let asked = request.into_inner();
        let begun =
            adopt_control_plane::adopt(&self.context, &self.operations, &asked, &by).await?;
        Ok(audited(begun, |operation_id, plan| {
            pb::AdoptControlPlaneResponse { operation_id, plan }
        }))
    }

    async fn list_clusters(
        &self,
        _: Request<pb::ListClustersRequest>,
    ) -> Answer<pb::ListClustersResponse> {
        let clusters = self.context.clusters.list().await?;
        Ok(Response::new(pb::ListClustersResponse { clusters }))
    }

    async fn get_cluster(
        &self,
        request: Request<pb::GetClusterRequest>,
    ) -> Answer<pb::GetClusterResponse> {
        let name: ClusterName = request
            .into_inner()
            .name
            .parse()
            .map_err(|rule| invalid("name", "INVALID_NAME", rule))?;
        let cluster = self.context.clusters.get(name.as_str()).await?;
        let cluster = cluster.ok_or_else(|| cluster_not_found(&name))?;
        Ok(Response::new(pb::GetClusterResponse {
            cluster: Some(cluster),
        }))
    }

    async fn join_workers(
        &self,
        request: Request<pb::JoinWorkersRequest>,
    ) -> Answer<pb::JoinWorkersResponse> {
        let caller = caller_of(&request);
        self.joined(request.into_inner(), &caller).await
    }

    async fn uninstall_k3s(
        &self,
        request: Request<pb::UninstallK3sRequest>,
    ) -> Answer<pb::UninstallK3sResponse> {
        let caller = caller_of(&request);
        self.uninstalled(request.into_inner(), &caller).await
    }

    async fn forget_cluster(
        &self,
        request: Request<pb::ForgetClusterRequest>,
    ) -> Answer<pb::ForgetClusterResponse> {
        let by = caller_of(&request).who;
        self.forgotten(request.into_inner(), &by).await
    }

    async fn get_kubeconfig(
        &self,
        request: Request<pb::GetKubeconfigRequest>,
    ) -> Answer<pb::GetKubeconfigResponse> {
        self.kubeconfig(request.into_inner()).await
    }

    async fn cordon_node(
        &self,
        request: Request<pb::CordonNodeRequest>,
    ) -> Answer<pb::CordonNodeResponse> {
        let by = caller_of(&request).who;
        self.cordoned(request.into_inner(), &by).await
    }

    async fn uncordon_node(
        &self,
        request: Request<pb::UncordonNodeRequest>,
    ) -> Answer<pb::UncordonNodeResponse> {
        self.uncordoned(request.into_inner()).await
    }

    async fn drain_node(
        &self,
        request: Request<pb::DrainNodeRequest>,
    ) -> Answer<pb::DrainNodeResponse> {
        let by = caller_of(&request).who;
        self.drained(request.into_inner(), &by).await
    }
}

/// A response with what the audit trail needs to know.
fn audited<T>(
    begun: Begun,
    response: impl FnOnce(String, Option<pb::InstallPlan>) -> T,
) -> Response<T> {
    let subject = AuditSubject(format!(
        "host {}, cluster {}",
        begun.plan.host, begun.plan.cluster
    ));
    let operation = begun.operation_id.clone();
    let mut response = Response::new(response(begun.operation_id, Some(begun.plan)));
    response.extensions_mut().insert(subject);
    if !operation.is_empty() {
        response
            .extensions_mut()
            .insert(OperationStarted(operation));
    }
    response
}

impl From<workflows::Error> for Fault {
    fn from(error: workflows::Error) -> Self {
        match error {
            Error::Name { field, rule } => invalid(field, "INVALID_NAME", rule),
            Error::Version(rule) => invalid("k3s_version", "INVALID_VERSION", rule),
            Error::PublicIp => invalid("public_ips", "INVALID_ADDRESS", &error),
            Error::HostRequired { rule, ref hosts } => {
                let fit = hosts.iter().find(|candidate| candidate.fits);
                let hint = match fit {
                    Some(candidate) => format!("name one: --host {}", candidate.host),
                    None if hosts.is_empty() => {
                        "add one with `canasta host add --name NAME`".to_owned()
                    }
                    None => format!("{rule}; or name a host: --host HOST"),
                };
                let points = hosts.iter().map(ToString::to_string).collect();
                invalid("host", "HOST_REQUIRED", &error)
                    .hint(hint)
                    .caused_by(points)
            }
            Error::ClusterRequired { ref clusters } => {
                let hint = match clusters.first() {
                    Some(cluster) => format!("name one: --cluster {cluster}"),
                    None => "install one with `canasta install k8s-cp --host HOST`".to_owned(),
                };
                invalid("cluster", "CLUSTER_REQUIRED", &error)
                    .hint(hint)
                    .caused_by(clusters.clone())
            }
            Error::Refused(refusal) => {
                Fault::new(Code::FailedPrecondition, refusal.reason, refusal.message)
                    .about(refusal.subject)
                    .hint(refusal.hint)
                    .caused_by(refusal.points)
            }
            Error::Field { field, rule } => invalid(field, "INVALID_FIELD", rule),
            Error::Report(report) => Fault::from_report(Code::FailedPrecondition, &report),
            Error::Node(error) => error.into(),
            Error::Fleet(error) => error.into(),
            Error::Operations(error) => error.into(),
            Error::Artefacts(error) => error.into(),
            Error::Store(error) => error.into(),
        }
    }
}

impl From<workflows::Error> for Status {
    fn from(error: workflows::Error) -> Self {
        Fault::from(error).into()
    }
}
