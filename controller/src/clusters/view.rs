//! What is shown of a cluster: what the controller recorded, what its API says, and what the agents of its nodes say,
//! each with its source and its time. A pure function over what was asked.

use std::collections::HashMap;

use canasta_proto::pb;
use k8s_openapi::api::core::v1::Node;
use prost_types::Timestamp;

use super::CONTROL_PLANE;
use super::nodes::{cordoned_by, is_cordoned};
use super::ready::{kubelet_version, ready_condition};
use crate::operations::stamp;
use crate::store::clusters::{ClusterRow, NodeRow};

/// What is told of a host whose Node is not there.
const UNKNOWN_NODE: &str = "the API does not know this node";

/// What an API answered.
#[derive(Debug, Clone, Default)]
pub(super) struct ApiAnswer {
    pub(super) version: String,
    pub(super) nodes: Vec<Node>,
}

/// What was asked of an API, and what came of it.
#[derive(Debug, Clone)]
pub(super) struct ApiAsked {
    pub(super) answer: Result<ApiAnswer, String>,
    /// `API server through the agent on cp1`.
    pub(super) source: String,
    pub(super) at: Timestamp,
}

/// What is known from the agent of a host.
#[derive(Debug, Clone, Default)]
pub(super) struct AgentView {
    pub(super) facts: Option<pb::NodeFacts>,
    /// Why it is not from now; empty when it is.
    pub(super) error: String,
}

/// Puts together what is shown of a cluster.
pub(super) fn merge(
    cluster: &ClusterRow,
    nodes: &[NodeRow],
    asked: &ApiAsked,
    agents: &HashMap<String, AgentView>,
) -> pb::Cluster {
    let objects = asked.answer.as_ref().map(|answer| answer.nodes.as_slice());
    let named = |node: &Node, name: &str| node.metadata.name.as_deref() == Some(name);
    let mut shown: Vec<pb::ClusterNode> = nodes
        .iter()
        .map(|row| {
            let mut node = pb::ClusterNode {
                name: row.node_name.clone(),
                host: row.host.clone(),
                role: row.role.clone(),
                ..pb::ClusterNode::default()
            };
            match objects {
                Ok(objects) => match objects.iter().find(|object| named(object, &row.node_name)) {
                    Some(object) => fill_api(&mut node, object),
                    None => UNKNOWN_NODE.clone_into(&mut node.ready_reason),
                },
                Err(error) => node.ready_reason.clone_from(error),
            }
            fill_agent(&mut node, agents.get(&row.host));
            node
        })
        .collect();
    for object in objects.unwrap_or_default() {
        let name = object.metadata.name.as_deref().unwrap_or_default();
        if nodes.iter().all(|row| row.node_name != name) {
            let mut node = pb::ClusterNode {
                name: name.to_owned(),
                role: role(object).to_owned(),
                agent_error: "the node is no host of the fleet".to_owned(),
                ..pb::ClusterNode::default()
            };
            fill_api(&mut node, object);
            shown.push(node);
        }
    }
    let orphaned = nodes.iter().all(|row| row.role != CONTROL_PLANE);
    for node in &mut shown {
        node.api_source.clone_from(&asked.source);
        node.api_observed_at = Some(asked.at);
        node.orphaned = orphaned && !node.host.is_empty();
        node.disagreement = disagreement(node, asked.answer.is_ok());
    }
    shown.sort_by(|one, other| one.name.cmp(&other.name));
    pb::Cluster {
        name: cluster.name.clone(),
        k3s_version: cluster.k3s_version.clone(),
        ca_hash: cluster.ca_hash.clone(),
        endpoint: cluster.endpoint.clone(),
        adopted: cluster.adopted,
        created_at: Some(stamp::from_millis(cluster.created_at)),
        nodes: shown,
        api: Some(pb::ApiView {
            reachable: asked.answer.is_ok(),
            version: asked
                .answer
                .as_ref()
                .map_or_else(|_| String::new(), |answer| answer.version.clone()),
            error: asked.answer.as_ref().err().cloned().unwrap_or_default(),
            source: asked.source.clone(),
            observed_at: Some(asked.at),
        }),
        debts: Vec::new(),
    }
}

/// Where the cluster and the agent don't agree, in words.
fn disagreement(node: &pb::ClusterNode, api_answered: bool) -> String {
    let Some(k3s) = node.agent_view.as_ref().filter(|_| !node.host.is_empty()) else {
        return match (node.ready, node.host.is_empty(), node.agent_error.as_str()) {
            (Some(true), false, error) if !error.is_empty() => gone(error),
            _ => String::new(),
        };
    };
    let runs = matches!(k3s.unit_active_state.as_str(), "active" | "reloading");
    let unit = || {
        format!(
            "{} is {} ({})",
            k3s.unit, k3s.unit_active_state, k3s.unit_sub_state
        )
    };
    match (node.ready, node.agent_error.as_str()) {
        // What it said last is no word against the cluster's.
        (Some(true), error) if !error.is_empty() => gone(error),
        (_, error) if !error.is_empty() => String::new(),
        (Some(true), _) if !k3s.present => {
            "the API says Ready, and the agent finds no k3s".to_owned()
        }
        (Some(true), _) if !runs => format!("the API says Ready, and the agent says {}", unit()),
        (Some(true), _) => String::new(),
        (_, _) if api_answered && runs && node.ready_reason == UNKNOWN_NODE => {
            format!(
                "the API does not know this node, and the agent says {}",
                unit()
            )
        }
        (_, _) if api_answered && runs => format!(
            "the API says not Ready ({}), and the agent says {}",
            node.ready_reason,
            unit()
        ),
        _ => String::new(),
    }
}

fn gone(error: &str) -> String {
    format!("the API says Ready, and its agent can't be asked: {error}")
}

fn fill_api(node: &mut pb::ClusterNode, object: &Node) {
    match ready_condition(object) {
        Some(condition) => {
            node.ready = match condition.status.as_str() {
                "True" => Some(true),
                "False" => Some(false),
                _ => None,
            };
            node.ready_reason = condition.reason.clone().unwrap_or_default();
            node.ready_message = condition.message.clone().unwrap_or_default();
        }
        None => "the node has no Ready condition yet".clone_into(&mut node.ready_reason),
    }
    node.cordoned = is_cordoned(object);
    cordoned_by(object).clone_into(&mut node.cordoned_by);
    node.kubelet_version = kubelet_version(object).unwrap_or_default().to_owned();
    let addresses = object
        .status
        .as_ref()
        .and_then(|status| status.addresses.as_ref());
    node.internal_ip = addresses
        .into_iter()
        .flatten()
        .find(|address| address.type_ == "InternalIP")
        .map(|address| address.address.clone())
        .unwrap_or_default();
}

fn fill_agent(node: &mut pb::ClusterNode, view: Option<&AgentView>) {
    node.agent_source = format!("agent on {}", node.host);
    let Some(view) = view else {
        "the agent was not asked".clone_into(&mut node.agent_error);
        return;
    };
    node.agent_error.clone_from(&view.error);
    if let Some(facts) = &view.facts {
        node.agent_view.clone_from(&facts.k3s);
        node.agent_observed_at = facts.observed_at;
    }
}

fn role(object: &Node) -> &'static str {
    let control_plane = object.metadata.labels.as_ref().is_some_and(|labels| {
        [
            "node-role.kubernetes.io/control-plane",
            "node-role.kubernetes.io/master",
        ]
        .iter()
        .any(|label| labels.contains_key(*label))
    });
    if control_plane {
        super::CONTROL_PLANE
    } else {
        "worker"
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use canasta_proto::pb;
    use serde_json::json;

    use super::{AgentView, ApiAnswer, ApiAsked, merge};
    use crate::operations::stamp;
    use crate::store::clusters::{ClusterRow, NodeRow};

    fn cluster() -> ClusterRow {
        ClusterRow {
            name: "c".to_owned(),
            k3s_version: "v1.34.8+k3s1".to_owned(),
            ca_hash: "ab".to_owned(),
            endpoint: "https://10.0.0.1:6443".to_owned(),
            adopted: false,
            created_at: 5,
            public_ips: Vec::new(),
        }
    }

    fn row(host: &str) -> NodeRow {
        NodeRow {
            host: host.to_owned(),
            cluster: "c".to_owned(),
            node_name: format!("node-{host}"),
            role: "control-plane".to_owned(),
            node_ip: "10.0.0.1".to_owned(),
            tls_sans: Vec::new(),
        }
    }

    fn asked(answer: Result<ApiAnswer, String>) -> ApiAsked {
        ApiAsked {
            answer,
            source: "API server through the agent on cp1".to_owned(),
            at: stamp::from_millis(9000),
        }
    }

    fn object(name: &str, ready: &str) -> k8s_openapi::api::core::v1::Node {
        serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {"node-role.kubernetes.io/master": "true"}},
            "status": {
                "conditions": [{"type": "Ready", "status": ready, "reason": "R", "message": "M"}],
                "addresses": [{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": "10.0.0.7"}],
            },
        }))
        .expect("a node")
    }

    #[test]
    fn a_node_is_ready_unready_or_unknown_and_never_guessed() {
        for (status, ready) in [
            ("True", Some(true)),
            ("False", Some(false)),
            ("Unknown", None),
        ] {
            let answer = ApiAnswer {
                version: "v1.34.8+k3s1".to_owned(),
                nodes: vec![object("node-cp1", status)],
            };
            let shown = merge(
                &cluster(),
                &[row("cp1")],
                &asked(Ok(answer)),
                &HashMap::new(),
            );
            let node = &shown.nodes[0];
            assert_eq!((node.ready, node.ready_reason.as_str()), (ready, "R"));
            assert_eq!(node.internal_ip, "10.0.0.7");
            assert_eq!(node.api_observed_at, Some(stamp::from_millis(9000)));
            assert_eq!(shown.api.expect("told").version, "v1.34.8+k3s1");
        }
        let silent = asked(Err("the agent is away".to_owned()));
        let shown = merge(&cluster(), &[row("cp1")], &silent, &HashMap::new());
        assert_eq!(shown.nodes[0].ready, None);
        assert_eq!(shown.nodes[0].ready_reason, "the agent is away");
        assert!(!shown.api.expect("told").reachable);
    }

    #[test]
    fn where_the_cluster_and_the_agent_do_not_agree_it_is_told() {
        let told = |ready: Option<bool>, unit: Option<&str>, error: &str, answered: bool| {
            let node = pb::ClusterNode {
                host: "w1".to_owned(),
                ready,
                ready_reason: "NodeStatusUnknown".to_owned(),
                agent_error: error.to_owned(),
                agent_view: unit.map(|state| pb::K3sFacts {
                    present: true,
                    unit: "k3s-agent.service".to_owned(),
                    unit_active_state: state.to_owned(),
                    unit_sub_state: "x".to_owned(),
                    ..pb::K3sFacts::default()
                }),
                ..pb::ClusterNode::default()
            };
            super::disagreement(&node, answered)
        };
        let away = "host 'w1' is unreachable";
        for (ready, unit, error, answered, part) in [
            (Some(true), Some("active"), "", true, ""),
            (
                Some(true),
                Some("failed"),
                "",
                true,
                "says Ready, and the agent says k3s-agent.service is failed (x)",
            ),
            (
                Some(true),
                Some("active"),
                away,
                true,
                "says Ready, and its agent can't be asked: host 'w1' is unreachable",
            ),
            (Some(true), None, away, true, "can't be asked"),
            (
                Some(false),
                Some("active"),
                "",
                true,
                "says not Ready (NodeStatusUnknown), and the agent says",
            ),
            (
                None,
                Some("active"),
                "",
                true,
                "says not Ready (NodeStatusUnknown)",
            ),
            (None, Some("active"), "", false, ""),
            (Some(false), Some("failed"), "", true, ""),
            (Some(false), Some("active"), away, true, ""),
            (None, None, away, true, ""),
        ] {
            let text = told(ready, unit, error, answered);
            assert_eq!(text.is_empty(), part.is_empty(), "{text}");
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn nodes_of_the_api_and_hosts_of_the_fleet_are_both_shown() {
        let answer = ApiAnswer {
            version: String::new(),
            nodes: vec![object("stranger", "True")],
        };
        let facts = pb::NodeFacts {
            observed_at: Some(stamp::from_millis(1000)),
            k3s: Some(pb::K3sFacts::default()),
            ..pb::NodeFacts::default()
        };
        let view = AgentView {
            facts: Some(facts),
            error: "host 'cp1' is unreachable".to_owned(),
        };
        let agents = HashMap::from([("cp1".to_owned(), view)]);
        let shown = merge(&cluster(), &[row("cp1")], &asked(Ok(answer)), &agents);
        let [known, stranger] = shown.nodes.as_slice() else {
            panic!("two nodes: {:?}", shown.nodes)
        };
        assert_eq!(known.ready_reason, "the API does not know this node");
        assert_eq!(known.agent_observed_at, Some(stamp::from_millis(1000)));
        assert_eq!(known.agent_error, "host 'cp1' is unreachable");
        assert_eq!(known.agent_source, "agent on cp1");
        assert_eq!(
            (stranger.host.as_str(), stranger.role.as_str()),
            ("", "control-plane")
        );
    }
}
