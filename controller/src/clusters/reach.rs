//! The API of a cluster, reached through the agent of one of its control planes, with a limit on every question.
//!
//! [`ClusterApi`] is what workflows work with; what can be asked stands in [`super::nodes`], [`super::pods`],
//! [`super::volumes`] and [`super::classes`].

use std::time::Duration;

use canasta_proto::name::HostName;
use canasta_steps::StepError;
use canasta_transport::status::Fault;
use tonic::Code;

use super::ready::AskError;
use super::{CONTROL_PLANE, Clusters};
use crate::store;

/// Why the API of a cluster could not be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// There is nothing to ask through.
    #[error("cluster '{cluster}' has no control plane that this fleet knows")]
    NoControlPlane {
        /// The cluster.
        cluster: String,
    },
    /// There is no way to it.
    #[error("failed to reach the API of cluster '{cluster}' through host '{host}'")]
    Unreachable {
        /// The cluster.
        cluster: String,
        /// The control plane.
        host: HostName,
        /// Why.
        #[source]
        source: Box<AskError>,
    },
    /// It refused, or the connection broke.
    #[error("failed to {what} through the API of cluster '{cluster}' on host '{host}'")]
    Request {
        /// What was to be done: `list the nodes`.
        what: String,
        /// The cluster.
        cluster: String,
        /// The control plane.
        host: HostName,
        /// What came back.
        #[source]
        source: Box<kube::Error>,
    },
    /// It did not answer.
    #[error("failed to {what} through the API of cluster '{cluster}' on host '{host}': no answer within {} s", limit.as_secs())]
    Late {
        /// What was to be done.
        what: String,
        /// The cluster.
        cluster: String,
        /// The control plane.
        host: HostName,
        /// How long it was waited for.
        limit: Duration,
    },
    /// The API knows no such node.
    #[error("cluster '{cluster}' has no node '{node}'")]
    NoNode {
        /// The cluster.
        cluster: String,
        /// The name.
        node: String,
    },
    /// The database failed.
    #[error("failed to use the controller's database")]
    Store(#[from] store::Error),
}

impl From<&NodeError> for Fault {
    fn from(error: &NodeError) -> Self {
        let fault = |code, reason: &str| Self::from_error(code, reason, error);
        match error {
            NodeError::NoControlPlane { cluster } => fault(Code::FailedPrecondition, "NO_CONTROL_PLANE")
                .about(format!("cluster {cluster}"))
                .hint(format!(
                    "`canasta cluster show {cluster}` shows its nodes; one whose control plane is gone for good is forgotten with `canasta cluster forget {cluster}`"
                )),
            NodeError::Request {
                cluster, source, ..
            } if matches!(&**source, kube::Error::Api(status) if status.code < 500) => {
                fault(Code::FailedPrecondition, "API_REFUSED")
                    .about(format!("cluster {cluster}"))
                    .hint(
                        "the API answers and does not do it; mend what it names, then run the command again",
                    )
            }
            NodeError::Unreachable { cluster, host, .. }
            | NodeError::Request { cluster, host, .. }
            | NodeError::Late { cluster, host, .. } => fault(Code::Unavailable, "API_UNREACHABLE")
                .about(format!("cluster {cluster}"))
                .hint(format!(
                    "look at the control plane: `canasta host show {host} --refresh`, and on it `systemctl status k3s`; then run the command again"
                )),
            NodeError::NoNode { cluster, node } => fault(Code::NotFound, "NODE_NOT_FOUND")
                .about(format!("node {node}"))
                .hint(format!("`canasta node list --cluster {cluster}` shows the nodes")),
            NodeError::Store(source) => source.into(),
        }
    }
}

impl From<NodeError> for Fault {
    fn from(error: NodeError) -> Self {
        Self::from(&error)
    }
}

impl From<NodeError> for StepError {
    fn from(error: NodeError) -> Self {
        Fault::from(&error).to_report().into()
    }
}

/// The API of a cluster.
#[derive(Clone)]
pub(crate) struct ClusterApi {
    pub(crate) cluster: String,
    /// The control plane through whose agent it is reached.
    pub(crate) host: HostName,
    pub(super) client: kube::Client,
    limit: Duration,
}

impl std::fmt::Debug for ClusterApi {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("ClusterApi")
            .field("cluster", &self.cluster)
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

impl Clusters {
    /// The API of a cluster through the first of its control planes whose agent gives credentials for it.
    ///
    /// # Errors
    /// When there is none, or the last one can't be reached.
    pub(crate) async fn api_of(&self, cluster: &str) -> Result<ClusterApi, NodeError> {
        let mut last = NodeError::NoControlPlane {
            cluster: cluster.to_owned(),
        };
        for node in self.store.cluster_nodes().await? {
            if node.cluster != cluster || node.role != CONTROL_PLANE {
                continue;
            }
            let Ok(host) = node.host.parse::<HostName>() else {
                continue;
            };
            match self.api_through(cluster, &host).await {
                Ok(api) => return Ok(api),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// The API of a cluster through one host, which need not be recorded as its control plane.
    ///
    /// # Errors
    /// When its agent can't be reached or gives no credentials.
    pub(crate) async fn api_through(
        &self,
        cluster: &str,
        host: &HostName,
    ) -> Result<ClusterApi, NodeError> {
        let limit = self.timings.request;
        let late = |_elapsed| {
            Err(AskError::Late {
                seconds: limit.as_secs(),
            })
        };
        let client = tokio::time::timeout(limit, self.api(host))
            .await
            .unwrap_or_else(late)
            .map_err(|source| NodeError::Unreachable {
                cluster: cluster.to_owned(),
                host: host.clone(),
                source: Box::new(source),
            })?;
        Ok(ClusterApi {
            cluster: cluster.to_owned(),
            host: host.clone(),
            client,
            limit,
        })
    }
}

impl ClusterApi {
    /// One question with its limit. `what` is what is to be done: `list the nodes`.
    pub(super) async fn asked<T>(
        &self,
        what: &str,
        question: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, NodeError> {
        match tokio::time::timeout(self.limit, question).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(source)) => Err(NodeError::Request {
                what: what.to_owned(),
                cluster: self.cluster.clone(),
                host: self.host.clone(),
                source: Box::new(source),
            }),
            Err(_elapsed) => Err(NodeError::Late {
                what: what.to_owned(),
                cluster: self.cluster.clone(),
                host: self.host.clone(),
                limit: self.limit,
            }),
        }
    }
}

/// Whether a change was refused since the object is another one by now, or was changed meanwhile.
pub(super) fn is_conflict(error: &NodeError) -> bool {
    let NodeError::Request { source, .. } = error else {
        return false;
    };
    matches!(&**source, kube::Error::Api(status) if status.code == 409)
}

/// Whether a question was answered with "there is no such object".
pub(super) fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}
