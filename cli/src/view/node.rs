//! Nodes of all clusters as they are printed.

use canasta_proto::pb;
use serde::Serialize;

use super::cluster::Node;
use crate::output;

/// `canasta node list`.
#[derive(Debug, Serialize)]
pub(crate) struct NodeList {
    nodes: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    cluster: String,
    #[serde(flatten)]
    node: Node,
}

impl NodeList {
    pub(crate) fn new(clusters: Vec<pb::Cluster>) -> Self {
        let rows = |cluster: pb::Cluster| {
            let name = cluster.name;
            cluster.nodes.into_iter().map(move |node| Row {
                cluster: name.clone(),
                node: node.into(),
            })
        };
        Self {
            nodes: clusters.into_iter().flat_map(rows).collect(),
        }
    }

    pub(crate) fn table(&self) -> String {
        if self.nodes.is_empty() {
            return "no nodes yet; install one with `canasta install k8s-cp --host HOST`\n"
                .to_owned();
        }
        let dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        let rows = self.nodes.iter().map(|Row { cluster, node }| {
            [
                node.name.clone(),
                dash(&node.host),
                cluster.clone(),
                node.role_words(),
                node.ready_word().to_owned(),
                node.cordoned_words(),
                dash(&node.disagreement),
            ]
        });
        output::table(
            [
                "NODE",
                "HOST",
                "CLUSTER",
                "ROLE",
                "READY",
                "CORDONED BY",
                "DISAGREEMENT",
            ],
            rows,
        )
    }
}

/// `canasta node cordon` and `canasta node uncordon`.
#[derive(Debug, Serialize)]
pub(crate) struct Cordon {
    node: String,
    cluster: String,
    cordoned: bool,
    changed: bool,
}

impl Cordon {
    pub(crate) fn new(node: String, cluster: String, cordoned: bool, changed: bool) -> Self {
        Self {
            node,
            cluster,
            cordoned,
            changed,
        }
    }

    pub(crate) fn sentence(&self) -> String {
        let takes = match (self.cordoned, self.changed) {
            (true, true) => "takes no new pods now; those on it stay",
            (true, false) => "took no new pods already",
            (false, true) => "takes new pods again",
            (false, false) => "took new pods already",
        };
        format!("node '{}' of cluster '{}' {takes}", self.node, self.cluster)
    }
}

#[cfg(test)]
mod tests {
    use canasta_proto::pb;

    use super::{Cordon, NodeList};

    #[test]
    fn a_row_says_whose_node_it_is_and_who_keeps_pods_from_it() {
        let node = |name: &str, ready, cordoned| pb::ClusterNode {
            name: name.to_owned(),
            role: "worker".to_owned(),
            ready,
            cordoned,
            ..pb::ClusterNode::default()
        };
        let list = NodeList::new(vec![pb::Cluster {
            name: "wiki".to_owned(),
            nodes: vec![
                node("w1", Some(true), true),
                node("w2", Some(false), false),
                node("w3", None, false),
            ],
            ..pb::Cluster::default()
        }]);
        let table = list.table();
        let rows = crate::output::cells(&table);
        assert_eq!(
            rows[1..],
            [
                [
                    "w1",
                    "-",
                    "wiki",
                    "worker",
                    "yes",
                    "someone outside this fleet",
                    "-"
                ],
                ["w2", "-", "wiki", "worker", "NO", "-", "-"],
                ["w3", "-", "wiki", "worker", "unknown", "unknown", "-"],
            ]
        );
        let json = serde_json::to_value(&list).expect("plain data");
        assert_eq!(json["nodes"][0]["cluster"], "wiki");
        assert_eq!(json["nodes"][0]["cordoned"], true);
    }

    #[test]
    fn a_cordon_says_whether_it_changed_anything() {
        let sentence = |cordoned, changed| {
            Cordon::new("w1".to_owned(), "wiki".to_owned(), cordoned, changed).sentence()
        };
        assert!(sentence(true, true).contains("takes no new pods now"));
        assert!(sentence(true, false).contains("took no new pods already"));
        assert!(sentence(false, true).contains("takes new pods again"));
        assert!(sentence(false, false).contains("took new pods already"));
    }
}
