//! Clusters and plans as they are printed.

use canasta_proto::pb;
use jiff::Timestamp;
use serde::Serialize;

use super::host::{K3s, known};
use super::{Origin, age, time, word};
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

/// The plan of an install: what `--dry-run` shows.
#[derive(Debug, Serialize)]
pub(crate) struct Plan {
    operation_id: Option<String>,
    host: String,
    cluster: String,
    k3s_version: String,
    current_version: Option<String>,
    node_name: String,
    node_ip: String,
    node_ip_source: String,
    tls_sans: Vec<String>,
    findings: Vec<Finding>,
    steps: Vec<PlannedStep>,
}

/// A finding of a check.
#[derive(Debug, Serialize)]
pub(crate) struct Finding {
    code: String,
    severity: String,
    subject: String,
    message: String,
    mend: String,
}

#[derive(Debug, Serialize)]
struct PlannedStep {
    id: String,
    title: String,
    host: String,
    detail: String,
}

impl Plan {
    pub(crate) fn new(operation_id: String, plan: pb::InstallPlan) -> Self {
        Self {
            operation_id: known(operation_id),
            host: plan.host,
            cluster: plan.cluster,
            k3s_version: plan.k3s_version,
            current_version: known(plan.current_version),
            node_name: plan.node_name,
            node_ip: plan.node_ip,
            node_ip_source: plan.node_ip_source,
            tls_sans: plan.tls_sans,
            findings: plan
                .findings
                .into_iter()
                .map(|finding| Finding {
                    severity: word(finding.severity().as_str_name(), "SEVERITY_"),
                    code: finding.code,
                    subject: finding.subject,
                    message: finding.message,
                    mend: finding.mend,
                })
                .collect(),
            steps: plan
                .steps
                .into_iter()
                .map(|step| PlannedStep {
                    id: step.id,
                    title: step.title,
                    host: step.host,
                    detail: step.detail,
                })
                .collect(),
        }
    }

    /// Whether something stands in the way.
    pub(crate) fn is_refused(&self) -> bool {
        self.findings
            .iter()
            .any(|finding| finding.severity == "error")
    }

    pub(crate) fn text(&self) -> String {
        let mut text = output::facts([
            ("host", self.host.clone()),
            ("cluster", self.cluster.clone()),
            (
                "k3s",
                match &self.current_version {
                    Some(current) if self.k3s_version.is_empty() => format!("now {current}"),
                    Some(current) if *current != self.k3s_version => {
                        format!("{} (now {current})", self.k3s_version)
                    }
                    _ => self.k3s_version.clone(),
                },
            ),
            ("node name", self.node_name.clone()),
            (
                "node address",
                if self.node_ip.is_empty() {
                    String::new()
                } else {
                    format!("{} ({})", self.node_ip, self.node_ip_source)
                },
            ),
            ("in the certificate", self.tls_sans.join(", ")),
        ]);
        text.push_str(&self.findings_text());
        if self.steps.is_empty() {
            text.push_str(
                "\nThere is no plan while this stands in the way. Nothing was changed.\n",
            );
            return text;
        }
        text.push_str("\nWhat would be done:\n");
        let steps = self
            .steps
            .iter()
            .map(|step| (step.title.as_str(), step.detail.clone()));
        text.extend(
            output::facts(steps)
                .lines()
                .map(|line| format!("  {line}\n")),
        );
        text.push_str("\nNothing was changed.\n");
        text
    }

    /// The findings, each with its mend.
    pub(crate) fn findings_text(&self) -> String {
        self.findings
            .iter()
            .map(|finding| {
                let Finding {
                    code,
                    severity,
                    message,
                    mend,
                    ..
                } = finding;
                format!("\n{severity} {code}: {message}\n  mend: {mend}\n")
            })
            .collect()
    }
}
