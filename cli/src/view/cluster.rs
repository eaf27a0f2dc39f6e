//! Clusters as they are printed.

use canasta_proto::pb;
use jiff::Timestamp;
use serde::Serialize;

use super::host::{K3s, known};
use super::{Origin, age, time};
use crate::output;

/// `canasta cluster list`.
#[derive(Debug, Serialize)]
pub(crate) struct ClusterList {
    clusters: Vec<Cluster>,
}

#[derive(Debug, Serialize)]
struct Cluster {
    name: String,
    k3s_version: String,
    endpoint: String,
    ca_hash: Option<String>,
    adopted: bool,
    created_at: Option<Timestamp>,
    api: Api,
    nodes: Vec<Node>,
}

#[derive(Debug, Serialize)]
struct Api {
    reachable: bool,
    version: Option<String>,
    #[serde(flatten)]
    origin: Origin,
}

#[derive(Debug, Serialize)]
struct Node {
    name: String,
    host: Option<String>,
    role: String,
    ready: Option<bool>,
    ready_reason: String,
    ready_message: String,
    kubelet_version: Option<String>,
    internal_ip: Option<String>,
    api: Origin,
    agent: AgentView,
}

#[derive(Debug, Serialize)]
struct AgentView {
    #[serde(flatten)]
    origin: Origin,
    k3s: Option<K3s>,
}

impl From<pb::ClusterNode> for Node {
    fn from(node: pb::ClusterNode) -> Self {
        Self {
            api: Origin::new(
                node.api_source,
                node.api_observed_at,
                if node.ready.is_none() {
                    node.ready_reason.clone()
                } else {
                    String::new()
                },
            ),
            agent: AgentView {
                origin: Origin::new(node.agent_source, node.agent_observed_at, node.agent_error),
                k3s: node.agent_view.map(Into::into),
            },
            name: node.name,
            host: known(node.host),
            role: node.role,
            ready: node.ready,
            ready_reason: node.ready_reason,
            ready_message: node.ready_message,
            kubelet_version: known(node.kubelet_version),
            internal_ip: known(node.internal_ip),
        }
    }
}

impl From<pb::Cluster> for Cluster {
    fn from(cluster: pb::Cluster) -> Self {
        let api = cluster.api.unwrap_or_default();
        Self {
            name: cluster.name,
            k3s_version: cluster.k3s_version,
            endpoint: cluster.endpoint,
            ca_hash: known(cluster.ca_hash),
            adopted: cluster.adopted,
            created_at: time(cluster.created_at),
            api: Api {
                reachable: api.reachable,
                version: known(api.version),
                origin: Origin::new(api.source, api.observed_at, api.error),
            },
            nodes: cluster.nodes.into_iter().map(Into::into).collect(),
        }
    }
}

impl Node {
    fn ready_word(&self) -> &'static str {
        match self.ready {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "unknown",
        }
    }

    fn agent_words(&self) -> String {
        match &self.agent.k3s {
            Some(k3s) => {
                let state = k3s.unit_state.as_deref().unwrap_or("unit unknown");
                format!("{state}, {} old", age(self.agent.origin.observed_at))
            }
            None => "unknown".to_owned(),
        }
    }
}

impl ClusterList {
    pub(crate) fn new(clusters: Vec<pb::Cluster>) -> Self {
        Self {
            clusters: clusters.into_iter().map(Into::into).collect(),
        }
    }

    pub(crate) fn table(&self) -> String {
        if self.clusters.is_empty() {
            return "no clusters yet; install one with `canasta install k8s-cp --host HOST`\n"
                .to_owned();
        }
        let rows = self.clusters.iter().flat_map(|cluster| {
            cluster.nodes.iter().map(|node| {
                [
                    cluster.name.clone(),
                    node.name.clone(),
                    node.host.clone().unwrap_or_else(|| "-".to_owned()),
                    node.role.clone(),
                    node.ready_word().to_owned(),
                    node.kubelet_version
                        .clone()
                        .unwrap_or_else(|| "unknown".to_owned()),
                    node.internal_ip.clone().unwrap_or_else(|| "-".to_owned()),
                    node.agent_words(),
                ]
            })
        });
        let mut text = output::table(
            [
                "CLUSTER",
                "NODE",
                "HOST",
                "ROLE",
                "READY",
                "VERSION",
                "ADDRESS",
                "AGENT SAYS",
            ],
            rows,
        );
        for cluster in &self.clusters {
            text.push_str(&cluster.trouble());
        }
        text
    }

    /// One cluster in full.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for cluster in &self.clusters {
            text.push_str(&output::facts([
                ("name", cluster.name.clone()),
                ("k3s", cluster.k3s_version.clone()),
                ("endpoint", cluster.endpoint.clone()),
                ("CA hash", cluster.ca_hash.clone().unwrap_or_default()),
                (
                    "adopted",
                    if cluster.adopted {
                        "yes, not installed by this fleet".to_owned()
                    } else {
                        String::new()
                    },
                ),
                (
                    "API",
                    match &cluster.api.version {
                        Some(version) => format!(
                            "{version}, asked {} ago: {}",
                            age(cluster.api.origin.observed_at),
                            cluster.api.origin.source
                        ),
                        None => "unknown".to_owned(),
                    },
                ),
            ]));
            text.push('\n');
        }
        text + &self.table()
    }
}

impl Cluster {
    /// What people must know besides the table: why something is unknown or not ready.
    fn trouble(&self) -> String {
        let mut text = String::new();
        if !self.api.reachable {
            text.push_str(&format!(
                "\n{}: the API could not be asked: {}\n",
                self.name, self.api.origin.error
            ));
        }
        for node in &self.nodes {
            if node.ready == Some(false) {
                text.push_str(&format!(
                    "\n{}: {}: {}\n",
                    node.name, node.ready_reason, node.ready_message
                ));
            }
            if !node.agent.origin.error.is_empty() {
                text.push_str(&format!(
                    "\n{}: the agent could not be asked: {}\n",
                    node.name, node.agent.origin.error
                ));
            }
        }
        text
    }
}
