//! Volumes whose data lies on one node. Called by the guards of the uninstall.

use k8s_openapi::api::core::v1::{NodeSelectorTerm, PersistentVolume};
use kube::Api;
use kube::api::ListParams;

use super::reach::{ClusterApi, NodeError};

/// A volume that has, or may have, its data on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PinnedVolume {
    pub(crate) name: String,
    /// `namespace/name`; empty when it was never claimed.
    pub(crate) claim: String,
    /// `Bound`, `Released`, …
    pub(crate) phase: String,
    /// `10Gi`; empty when not told.
    pub(crate) capacity: String,
    /// The directory; empty when it has none.
    pub(crate) path: String,
    /// False for a hostPath that no rule ties to any node: its data may be here.
    pub(crate) tied: bool,
}

impl std::fmt::Display for PinnedVolume {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "volume {} ({}", self.name, self.phase)?;
        for (word, value) in [
            ("claim ", &self.claim),
            ("", &self.capacity),
            ("in ", &self.path),
        ] {
            if !value.is_empty() {
                write!(formatter, ", {word}{value}")?;
            }
        }
        if !self.tied {
            formatter.write_str(", tied to no node: its data may be on any")?;
        }
        formatter.write_str(")")
    }
}

/// The volumes that are pinned to a node by its name or its hostname label, in whatever phase, and hostPaths that are pinned
/// to none. A pure function.
pub(crate) fn pinned(volumes: Vec<PersistentVolume>, name: &str, label: &str) -> Vec<PinnedVolume> {
    volumes
        .into_iter()
        .filter_map(|volume| {
            let spec = volume.spec.unwrap_or_default();
            let required = spec
                .node_affinity
                .and_then(|affinity| affinity.required)
                .map(|required| required.node_selector_terms);
            let path = spec
                .host_path
                .map(|host_path| host_path.path)
                .or(spec.local.map(|local| local.path));
            let tied = match (&required, &path) {
                (Some(terms), _) if terms.iter().any(|term| fits(term, name, label)) => true,
                (None, Some(_)) => false,
                _ => return None,
            };
            Some(PinnedVolume {
                name: volume.metadata.name.unwrap_or_default(),
                claim: spec
                    .claim_ref
                    .map(|claim| {
                        let part = |text: Option<String>| text.unwrap_or_default();
                        format!("{}/{}", part(claim.namespace), part(claim.name))
                    })
                    .unwrap_or_default(),
                phase: volume
                    .status
                    .and_then(|status| status.phase)
                    .unwrap_or_else(|| "in an unknown phase".to_owned()),
                capacity: spec
                    .capacity
                    .and_then(|mut capacity| capacity.remove("storage"))
                    .map(|size| size.0)
                    .unwrap_or_default(),
                path: path.unwrap_or_default(),
                tied,
            })
        })
        .collect()
}

/// Whether a term may choose a node. What it demands besides is not looked at: a volume counts rather once too often.
fn fits(term: &NodeSelectorTerm, name: &str, label: &str) -> bool {
    let chosen = |key: &str, values: &Option<Vec<String>>, operator: &str| {
        let wanted = match key {
            "kubernetes.io/hostname" | "beta.kubernetes.io/hostname" => label,
            "metadata.name" => name,
            _ => return false,
        };
        let listed = values.iter().flatten().any(|value| value == wanted);
        match operator {
            "NotIn" => !listed,
            "Exists" => true,
            _ => listed,
        }
    };
    let expressions = term.match_expressions.iter().flatten();
    let fields = term.match_fields.iter().flatten();
    expressions
        .chain(fields)
        .any(|rule| chosen(&rule.key, &rule.values, &rule.operator))
}

impl ClusterApi {
    /// All volumes of the cluster.
    pub(crate) async fn volumes(&self) -> Result<Vec<PersistentVolume>, NodeError> {
        let volumes = Api::<PersistentVolume>::all(self.client.clone());
        let every = ListParams::default();
        let listed = self.asked("list the volumes", volumes.list(&every)).await?;
        Ok(listed.items)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::pinned;

    fn volume(name: &str, phase: &str, source: Value, affinity: Value) -> Value {
        let mut spec = json!({
            "capacity": {"storage": "10Mi"},
            "claimRef": {"namespace": "pods", "name": "data"},
        });
        for part in [source, affinity] {
            for (key, value) in part.as_object().expect("fields") {
                spec[key] = value.clone();
            }
        }
        json!({"metadata": {"name": name}, "spec": spec, "status": {"phase": phase}})
    }

    fn on(key: &str, operator: &str, values: &[&str]) -> Value {
        json!({"nodeAffinity": {"required": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": key, "operator": operator, "values": values}]},
        ]}}})
    }

    #[test]
    fn volumes_count_by_the_label_of_the_node_whatever_their_phase() {
        let host_path = || json!({"hostPath": {"path": "/data"}});
        let hostname = "kubernetes.io/hostname";
        let all: Vec<_> = [
            volume(
                "here",
                "Bound",
                host_path(),
                on(hostname, "In", &["label-w1"]),
            ),
            volume(
                "released",
                "Released",
                json!({"local": {"path": "/l"}}),
                on(hostname, "In", &["w2", "label-w1"]),
            ),
            volume(
                "elsewhere",
                "Bound",
                host_path(),
                on(hostname, "In", &["w2"]),
            ),
            volume(
                "by-name-of-another",
                "Bound",
                host_path(),
                on(hostname, "In", &["w1"]),
            ),
            volume("anywhere", "Bound", host_path(), json!({})),
            volume(
                "nfs",
                "Bound",
                json!({"nfs": {"server": "s", "path": "/"}}),
                json!({}),
            ),
            volume(
                "not-w2",
                "Bound",
                json!({"local": {"path": "/l"}}),
                on(hostname, "NotIn", &["w2"]),
            ),
        ]
        .into_iter()
        .map(|volume| serde_json::from_value(volume).expect("a volume"))
        .collect();
        let found = pinned(all, "w1", "label-w1");
        let names: Vec<_> = found.iter().map(|volume| volume.name.as_str()).collect();
        assert_eq!(names, ["here", "released", "anywhere", "not-w2"]);
        assert_eq!(
            found[0].to_string(),
            "volume here (Bound, claim pods/data, 10Mi, in /data)"
        );
        assert!(found[2].to_string().ends_with("its data may be on any)"));
        assert_eq!(found[1].phase, "Released");
    }
}
