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
    debts: Vec<Debt>,
    nodes: Vec<Node>,
}

/// What is done once the API answers again.
#[derive(Debug, Serialize)]
struct Debt {
    what: String,
    since: Option<Timestamp>,
    last_error: Option<String>,
}

#[derive(Debug, Serialize)]
struct Api {
    reachable: bool,
    version: Option<String>,
    #[serde(flatten)]
    origin: Origin,
}

#[derive(Debug, Serialize)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) host: Option<String>,
    role: String,
    ready: Option<bool>,
    ready_reason: String,
    ready_message: String,
    kubelet_version: Option<String>,
    internal_ip: Option<String>,
    /// Null when the API could not be asked.
    cordoned: Option<bool>,
    cordoned_by: Option<String>,
    orphaned: bool,
    pub(super) disagreement: Option<String>,
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
            cordoned: (node.cordoned || node.ready.is_some()).then_some(node.cordoned),
            cordoned_by: known(node.cordoned_by),
            orphaned: node.orphaned,
            disagreement: known(node.disagreement),
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
            debts: cluster.debts.into_iter().map(Into::into).collect(),
            nodes: cluster.nodes.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<pb::Debt> for Debt {
    fn from(debt: pb::Debt) -> Self {
        Self {
            what: debt.what,
            since: time(debt.since),
            last_error: known(debt.last_error),
        }
    }
}

impl Debt {
    fn text(&self) -> String {
        let tried = self.last_error.as_ref();
        let tried = tried.map_or_else(String::new, |error| format!("; the last try: {error}"));
        format!(
            "still to be done once the API answers, since {}: {}{tried}",
            age(self.since),
            self.what
        )
    }
}

impl Node {
    /// `worker`, or `worker, orphaned`.
    pub(super) fn role_words(&self) -> String {
        let orphaned = if self.orphaned { ", orphaned" } else { "" };
        format!("{}{orphaned}", self.role)
    }

    /// Who keeps pods from it; `-` for nobody.
    pub(super) fn cordoned_words(&self) -> String {
        match (self.cordoned, &self.cordoned_by) {
            (Some(true), Some(by)) => by.clone(),
            (Some(true), None) => "someone outside this fleet".to_owned(),
            (Some(false), _) => "-".to_owned(),
            (None, _) => "unknown".to_owned(),
        }
    }

    pub(super) fn ready_word(&self) -> &'static str {
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
                    node.role_words(),
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
        for debt in &self.debts {
            text.push_str(&format!("\n{}: {}\n", self.name, debt.text()));
        }
        for node in &self.nodes {
            if let Some(disagreement) = &node.disagreement {
                text.push_str(&format!("\n{}: {disagreement}\n", node.name));
            }
            if node.orphaned {
                text.push_str(&format!(
                    "\n{0}: its control plane was uninstalled; `canasta uninstall k8s --host {1}` takes k3s off it\n",
                    node.name,
                    node.host.as_deref().unwrap_or(&node.name)
                ));
            }
            if node.cordoned == Some(true) {
                text.push_str(&format!(
                    "\n{}: takes no new pods, cordoned by {}\n",
                    node.name,
                    node.cordoned_words()
                ));
            }
            if node.ready == Some(false) {
                text.push_str(&format!(
                    "\n{}: {}: {}\n",
                    node.name, node.ready_reason, node.ready_message
                ));
            }
            // A disagreement names it already where it is the reason.
            let told = node.disagreement.as_deref().unwrap_or_default();
            if !node.agent.origin.error.is_empty() && !told.contains(&node.agent.origin.error) {
                text.push_str(&format!(
                    "\n{}: the agent could not be asked: {}\n",
                    node.name, node.agent.origin.error
                ));
            }
        }
        text
    }
}

/// `canasta cluster forget`.
#[derive(Debug, Serialize)]
pub(crate) struct ClusterForgotten {
    name: String,
    forgotten: bool,
    hosts: Vec<String>,
}

impl ClusterForgotten {
    pub(crate) fn new(name: String, hosts: Vec<String>) -> Self {
        Self {
            name,
            forgotten: true,
            hosts,
        }
    }

    pub(crate) fn sentence(&self) -> String {
        let hosts = if self.hosts.is_empty() {
            String::new()
        } else {
            format!(" (its hosts: {})", self.hosts.join(", "))
        };
        format!(
            "cluster '{}' is forgotten{hosts}; nothing was changed on any host",
            self.name
        )
    }
}

#[cfg(test)]
mod tests {
    use canasta_proto::pb;

    use super::{ClusterForgotten, ClusterList};

    fn cluster() -> pb::Cluster {
        pb::Cluster {
            name: "wiki".to_owned(),
            nodes: vec![pb::ClusterNode {
                name: "w1.example".to_owned(),
                host: "w1".to_owned(),
                role: "worker".to_owned(),
                ready: Some(true),
                cordoned: true,
                cordoned_by: "user anna".to_owned(),
                orphaned: true,
                disagreement: "the API says Ready, and its agent can't be asked: away".to_owned(),
                agent_error: "away".to_owned(),
                ..pb::ClusterNode::default()
            }],
            debts: vec![pb::Debt {
                what: "delete node w2 and its password secret".to_owned(),
                last_error: "connection refused".to_owned(),
                since: None,
            }],
            ..pb::Cluster::default()
        }
    }

    #[test]
    fn a_cluster_shows_what_is_owed_and_what_is_odd() {
        let text = ClusterList::new(vec![cluster()]).text();
        for words in [
            "worker, orphaned",
            "cordoned by user anna",
            "its agent can't be asked: away",
            "canasta uninstall k8s --host w1",
            "delete node w2 and its password secret; the last try: connection refused",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
        assert_eq!(text.matches("asked: away").count(), 1, "{text}");
    }

    #[test]
    fn programs_read_null_where_nobody_knows() {
        let mut known = cluster();
        let node = &mut known.nodes[0];
        (node.ready, node.cordoned) = (None, false);
        node.disagreement = String::new();
        let list = serde_json::to_value(ClusterList::new(vec![known])).expect("plain data");
        let node = &list["clusters"][0]["nodes"][0];
        assert!(node["cordoned"].is_null() && node["disagreement"].is_null());
        assert_eq!(
            list["clusters"][0]["debts"][0]["last_error"],
            "connection refused"
        );
    }

    #[test]
    fn forgetting_names_the_hosts() {
        let hosts = vec!["cp1".to_owned(), "w1".to_owned()];
        let sentence = ClusterForgotten::new("wiki".to_owned(), hosts).sentence();
        assert!(sentence.contains("'wiki' is forgotten (its hosts: cp1, w1)"));
    }
}
