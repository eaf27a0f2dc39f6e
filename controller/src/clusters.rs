//! Clusters: what is recorded of them, and asking their API through the agent of a control-plane node.
//!
//! Called by the API, which shows clusters, and by workflows, which wait for nodes.

mod api;
mod capabilities;
pub(crate) mod classes;
mod debts;
#[cfg(test)]
pub(crate) mod fake;
mod kubeconfig;
pub(crate) mod local_paths;
pub(crate) mod nodes;
pub(crate) mod pods;
mod reach;
mod ready;
mod tunnel;
mod view;
pub(crate) mod volumes;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use canasta_proto::name::HostName;
use canasta_proto::pb;
use futures_util::future::join_all;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::ListParams;

pub use self::api::ApiError;
pub(crate) use self::debts::token_mark;
pub(crate) use self::kubeconfig::KubeconfigError;
pub(crate) use self::reach::ClusterApi;
pub use self::reach::NodeError;
pub use self::ready::AskError;
pub(crate) use self::ready::{Awaited, ready_condition, shown};
use self::view::{AgentView, ApiAnswer, ApiAsked, merge};
use crate::config::Timings;
use crate::fleet::Fleet;
use crate::operations::stamp;
use crate::store::clusters::{ClusterRow, NodeRow};
use crate::store::{self, Store};

/// The role of a node that runs the API.
pub(crate) const CONTROL_PLANE: &str = "control-plane";
/// The role of a node that only runs pods.
pub(crate) const WORKER: &str = "worker";
/// How long the API of a cluster may take when it is shown.
const API_LIMIT: Duration = Duration::from_secs(3);
/// How long an agent may take when a cluster is shown.
const AGENT_LIMIT: Duration = Duration::from_secs(2);

/// All clusters.
#[derive(Debug, Clone)]
pub struct Clusters {
    store: Store,
    fleet: Fleet,
    timings: Timings,
    /// Held while it is found out who may mount what hosts export, and while they are told: a list that was made earlier and
    /// arrives later would shut out whoever came in between.
    pub(crate) exports_turn: Arc<tokio::sync::Mutex<()>>,
}

impl Clusters {
    /// Clusters as `store` has them, asked through `fleet`.
    pub fn new(store: Store, fleet: Fleet, timings: Timings) -> Self {
        Self {
            store,
            fleet,
            timings,
            exports_turn: Arc::default(),
        }
    }

    /// All clusters by name, with what their APIs and the agents of their nodes say now.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn list(&self) -> Result<Vec<pb::Cluster>, store::Error> {
        let clusters = self.store.clusters().await?;
        let nodes = self.store.cluster_nodes().await?;
        let shown = clusters.iter().map(|cluster| {
            let of_cluster = |node: &&NodeRow| node.cluster == cluster.name;
            self.show(cluster, nodes.iter().filter(of_cluster).cloned().collect())
        });
        Ok(join_all(shown).await)
    }

    /// One cluster; none when there is none of this name.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn get(&self, name: &str) -> Result<Option<pb::Cluster>, store::Error> {
        let Some(cluster) = self.store.cluster(name).await? else {
            return Ok(None);
        };
        let mut nodes = self.store.cluster_nodes().await?;
        nodes.retain(|node| node.cluster == name);
        Ok(Some(self.show(&cluster, nodes).await))
    }

    /// The cluster and the role of each host that is a node, by the host's name.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn memberships(&self) -> Result<HashMap<String, (String, String)>, store::Error> {
        let nodes = self.store.cluster_nodes().await?;
        Ok(nodes
            .into_iter()
            .map(|node| (node.host, (node.cluster, node.role)))
            .collect())
    }

    async fn show(&self, cluster: &ClusterRow, nodes: Vec<NodeRow>) -> pb::Cluster {
        let agents = async {
            let views = nodes
                .iter()
                .map(|node| async { (node.host.clone(), self.agent_view(&node.host).await) });
            join_all(views).await.into_iter().collect()
        };
        let (asked, agents, debts) = tokio::join!(self.ask(&nodes), agents, self.store.due_debts());
        let mut shown = merge(cluster, &nodes, &asked, &agents);
        // What is owed is told where it can be read; the rest is not less true without it.
        shown.debts = debts::told(&debts.unwrap_or_default(), &cluster.name);
        shown
    }

    /// Asks the API through each control-plane node in turn, until one answers.
    async fn ask(&self, nodes: &[NodeRow]) -> ApiAsked {
        let mut asked = ApiAsked {
            answer: Err("no control-plane node is known".to_owned()),
            source: String::new(),
            at: stamp::now(),
        };
        let deadline = tokio::time::Instant::now() + API_LIMIT;
        for node in nodes.iter().filter(|node| node.role == CONTROL_PLANE) {
            asked.source = format!("API server through the agent on {}", node.host);
            asked.answer = match tokio::time::timeout_at(deadline, self.ask_one(&node.host)).await {
                Ok(answer) => answer,
                Err(_elapsed) => Err(format!(
                    "it did not answer within {} s",
                    API_LIMIT.as_secs()
                )),
            };
            asked.at = stamp::now();
            if asked.answer.is_ok() {
                break;
            }
        }
        asked
    }

    async fn ask_one(&self, host: &str) -> Result<ApiAnswer, String> {
        let host: HostName = host.parse().map_err(|error| shown(&error))?;
        let client = self.api(&host).await.map_err(|error| shown(&error))?;
        let nodes = Api::<Node>::all(client.clone());
        let every = ListParams::default();
        let (version, nodes) = tokio::join!(client.apiserver_version(), nodes.list(&every));
        Ok(ApiAnswer {
            version: version.map_err(|error| shown(&error))?.git_version,
            nodes: nodes.map_err(|error| shown(&error))?.items,
        })
    }

    /// What the agent on a host says now, else what it said last, with the reason.
    async fn agent_view(&self, host: &str) -> AgentView {
        let Ok(name) = host.parse::<HostName>() else {
            return AgentView::default();
        };
        let error = match tokio::time::timeout(AGENT_LIMIT, self.fleet.refresh(&name)).await {
            Ok(Ok(facts)) => {
                return AgentView {
                    facts: Some(facts),
                    error: String::new(),
                };
            }
            Ok(Err(error)) => shown(&error),
            Err(_elapsed) => format!(
                "the agent did not answer within {} s",
                AGENT_LIMIT.as_secs()
            ),
        };
        let known = self.store.host(&name).await;
        AgentView {
            facts: known.ok().flatten().and_then(|host| host.facts),
            error,
        }
    }
}

#[cfg(test)]
mod tests;
