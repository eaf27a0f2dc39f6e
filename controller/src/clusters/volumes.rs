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
    /// False for a directory that no rule ties to a node by its name: its data may be here.
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
            formatter.write_str(", tied to no node by its name: its data may be on any")?;
        }
        formatter.write_str(")")
    }
}

/// The volumes that are pinned to a node by its name or its hostname label, in whatever phase, and those in a directory that
/// may be on it, since their rules name no other node. A pure function.
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
            let places: Vec<_> = required
                .iter()
                .flatten()
                .map(|term| place(term, name, label))
                .collect();
            let elsewhere = !places.is_empty() && places.iter().all(|at| *at == Place::Elsewhere);
            let tied = places.contains(&Place::Here);
            // What is no directory and names no node by a known key is on a server or in a zone.
            if !tied && (path.is_none() || elsewhere) {
                return None;
            }
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

/// What a rule of a volume says of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Here,
    Elsewhere,
    /// Its keys name no node.
    Unclear,
}

/// Where a term has its volume: a volume counts rather once too often.
fn place(term: &NodeSelectorTerm, name: &str, label: &str) -> Place {
    let of_rule = |key: &str, values: &Option<Vec<String>>, operator: &str| {
        let wanted: &[&str] = match key {
            "kubernetes.io/hostname" | "beta.kubernetes.io/hostname" => &[label],
            "metadata.name" => &[name],
            // Drivers of volumes on the disks of a node.
            "topology.topolvm.io/node" | "openebs.io/nodename" | "topology.hostpath.csi/node" => {
                &[name, label]
            }
            _ => return Place::Unclear,
        };
        let mut values = values.iter().flatten();
        let listed = values.any(|value| wanted.contains(&value.as_str()));
        match (operator, listed) {
            ("In", true) | ("NotIn", false) | ("Exists", _) => Place::Here,
            ("In", false) | ("NotIn", true) => Place::Elsewhere,
            _ => Place::Unclear,
        }
    };
    let expressions = term.match_expressions.iter().flatten();
    let fields = term.match_fields.iter().flatten();
    let places: Vec<_> = expressions
        .chain(fields)
        .map(|rule| of_rule(&rule.key, &rule.values, &rule.operator))
        .collect();
    let clear = [Place::Here, Place::Elsewhere];
    let found = clear.into_iter().find(|place| places.contains(place));
    found.unwrap_or(Place::Unclear)
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
        let csi = || json!({"csi": {"driver": "d", "volumeHandle": "h"}});
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
        .chain([
            volume("zone", "Bound", host_path(), on("zone", "In", &["a"])),
            volume("csi-zone", "Bound", csi(), on("zone", "In", &["a"])),
            volume(
                "lvm",
                "Bound",
                csi(),
                on("topology.topolvm.io/node", "In", &["w1"]),
            ),
            volume(
                "lvm-w2",
                "Bound",
                csi(),
                on("openebs.io/nodename", "In", &["w2"]),
            ),
        ])
        .map(|volume| serde_json::from_value(volume).expect("a volume"))
        .collect();
        let found = pinned(all, "w1", "label-w1");
        let names: Vec<_> = found.iter().map(|volume| volume.name.as_str()).collect();
        assert_eq!(
            names,
            ["here", "released", "anywhere", "not-w2", "zone", "lvm"]
        );
        assert_eq!(
            found[0].to_string(),
            "volume here (Bound, claim pods/data, 10Mi, in /data)"
        );
        assert!(found[2].to_string().ends_with("its data may be on any)"));
        assert_eq!(found[1].phase, "Released");
    }
}
