//! The scheduler: gives pods without a node one that fits, after their claims are filled, or writes into the pod's
//! status why there is none, in the recorded words.

use std::collections::BTreeMap;

use serde_json::Value;

use super::query::expressions_match;
use super::volumes::{self, Claim};
use super::{Shared, pods};

/// Places every pod that can be placed.
pub(super) fn reconcile(shared: &Shared) {
    let everyone = pods::list(shared, "");
    let unplaced = everyone.iter().filter(|pod| {
        pod["spec"]["nodeName"].as_str().is_none_or(str::is_empty)
            && pod["metadata"]["deletionTimestamp"].is_null()
            && !pods::is_over(pod)
            && pod["spec"]["schedulerName"] == "default-scheduler"
    });
    let Some(nodes) = shared.resources.find("", "v1", "nodes") else {
        return;
    };
    let nodes = shared.store.list(nodes, "").objects;
    let mut load: BTreeMap<String, usize> = BTreeMap::new();
    for pod in &everyone {
        if let Some(node) = pod["spec"]["nodeName"].as_str() {
            *load.entry(node.to_owned()).or_default() += 1;
        }
    }
    for pod in unplaced {
        match choose(&nodes, pod, &volumes::claims(shared, pod), &load) {
            Ok(node) => {
                if place(shared, pod, &node) {
                    *load.entry(node).or_default() += 1;
                }
            }
            Err(message) => {
                // A pod deleted at this moment needs no reason.
                let _ = shared.store.update(&pods::key_of(pod), None, |pod| {
                    pods::condition(
                        pod,
                        "PodScheduled",
                        "False",
                        Some(("Unschedulable", &message)),
                    );
                });
            }
        }
    }
}

// Binds the pod, or has its claims filled first. Answers whether it is bound.
fn place(shared: &Shared, pod: &Value, node: &str) -> bool {
    let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
    let mut filled = true;
    for claim in volumes::claims(shared, pod) {
        if let Claim::Waiting { name, selected } = claim {
            filled = false;
            if selected.as_deref() != Some(node) {
                volumes::select_node(shared, namespace, &name, node);
            }
        }
    }
    filled && pods::bind(shared, &pods::key_of(pod), node).is_ok()
}

fn choose(
    nodes: &[Value],
    pod: &Value,
    claims: &[Claim],
    load: &BTreeMap<String, usize>,
) -> Result<String, String> {
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let mut best: Option<(usize, String)> = None;
    for node in nodes {
        if let Some(reason) = misfit(node, pod, claims) {
            *reasons.entry(reason).or_default() += 1;
            continue;
        }
        let name = node["metadata"]["name"].as_str().unwrap_or_default();
        let candidate = (load.get(name).copied().unwrap_or(0), name.to_owned());
        if best.as_ref().is_none_or(|best| candidate < *best) {
            best = Some(candidate);
        }
    }
    if let Some((_, name)) = best {
        return Ok(name);
    }
    if nodes.is_empty() {
        return Err("no nodes available to schedule pods".into());
    }
    let mut parts: Vec<String> = reasons
        .iter()
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    parts.sort();
    Err(format!(
        "0/{} nodes are available: {}.",
        nodes.len(),
        parts.join(", ")
    ))
}

// Why a node does not fit.
fn misfit(node: &Value, pod: &Value, claims: &[Claim]) -> Option<String> {
    for claim in claims {
        match claim {
            Claim::Absent(name) => {
                return Some(format!("persistentvolumeclaim {name:?} not found"));
            }
            Claim::Unbound => {
                return Some("pod has unbound immediate PersistentVolumeClaims".into());
            }
            Claim::Waiting { .. } | Claim::Bound(_) => {}
        }
    }
    if node["spec"]["unschedulable"] == true
        && !tolerates(pod, "node.kubernetes.io/unschedulable", "", "NoSchedule")
    {
        return Some("node(s) were unschedulable".into());
    }
    let taints = node["spec"]["taints"].as_array().into_iter().flatten();
    for taint in taints {
        let text = |field: &str| taint[field].as_str().unwrap_or_default();
        let (key, value, effect) = (text("key"), text("value"), text("effect"));
        if effect != "PreferNoSchedule" && !tolerates(pod, key, value, effect) {
            return Some(format!(
                "node(s) had taint {{{key}: {value}}}, that the pod didn't tolerate"
            ));
        }
    }
    if !selected(node, pod) {
        return Some("node(s) didn't match Pod's node affinity/selector".into());
    }
    let labels = &node["metadata"]["labels"];
    let conflict = claims.iter().any(|claim| match claim {
        Claim::Bound(volume) => !volumes::reaches(volume, labels),
        Claim::Waiting {
            selected: Some(name),
            ..
        } => node["metadata"]["name"] != *name,
        _ => false,
    });
    conflict.then(|| "node(s) had volume node affinity conflict".into())
}

fn selected(node: &Value, pod: &Value) -> bool {
    let labels = &node["metadata"]["labels"];
    let selector = pod["spec"]["nodeSelector"].as_object();
    let required =
        &pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    let terms = required["nodeSelectorTerms"].as_array();
    selector
        .into_iter()
        .flatten()
        .all(|(name, value)| labels[name] == *value)
        && terms.is_none_or(|terms| {
            terms.iter().any(|term| {
                expressions_match(&term["matchExpressions"], labels)
                    && expressions_match(&term["matchFields"], &fields(node))
            })
        })
}

fn fields(node: &Value) -> Value {
    serde_json::json!({"metadata.name": node["metadata"]["name"]})
}

fn tolerates(pod: &Value, key: &str, value: &str, effect: &str) -> bool {
    let tolerations = pod["spec"]["tolerations"].as_array();
    tolerations.into_iter().flatten().any(|toleration| {
        let text = |field: &str| toleration[field].as_str().unwrap_or_default();
        let exists = text("operator") == "Exists";
        (text("effect").is_empty() || text("effect") == effect)
            && (text("key") == key || text("key").is_empty() && exists)
            && (exists || text("value") == value)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(name: &str, spec: Value) -> Value {
        json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}, "spec": spec})
    }

    fn chosen(nodes: &[Value], pod: &Value, claims: &[Claim]) -> Result<String, String> {
        let load = BTreeMap::from([("cp1".to_owned(), 2)]);
        choose(nodes, pod, claims, &load)
    }

    #[test]
    fn a_pod_goes_where_it_may_and_least_is() {
        let nodes = [
            node("cp1", json!({})),
            node("w1", json!({})),
            node("w2", json!({"unschedulable": true})),
        ];
        assert_eq!(chosen(&nodes, &json!({"spec": {}}), &[]), Ok("w1".into()));
        let pinned = json!({"spec": {"nodeSelector": {"kubernetes.io/hostname": "w2"}}});
        assert_eq!(
            chosen(&nodes, &pinned, &[]).unwrap_err(),
            "0/3 nodes are available: 1 node(s) were unschedulable, 2 node(s) didn't match Pod's node affinity/selector."
        );
        let daemon = json!({"spec": {"tolerations": [{"operator": "Exists"}],
            "nodeSelector": {"kubernetes.io/hostname": "w2"}}});
        assert_eq!(chosen(&nodes, &daemon, &[]), Ok("w2".into()));
    }

    #[test]
    fn the_recorded_words() {
        let taint =
            json!({"taints": [{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]});
        let nodes = [node("w1", taint)];
        let pod = json!({"spec": {}});
        assert_eq!(
            chosen(&nodes, &pod, &[]).unwrap_err(),
            "0/1 nodes are available: 1 node(s) had taint {node.kubernetes.io/not-ready: }, that the pod didn't tolerate."
        );
        assert_eq!(
            chosen(&nodes, &pod, &[Claim::Unbound]).unwrap_err(),
            "0/1 nodes are available: 1 pod has unbound immediate PersistentVolumeClaims."
        );
        assert_eq!(
            chosen(&nodes, &pod, &[Claim::Absent("not-there".into())]).unwrap_err(),
            "0/1 nodes are available: 1 persistentvolumeclaim \"not-there\" not found."
        );
        let volume = json!({"spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
            {"key": "kubernetes.io/hostname", "operator": "In", "values": ["w9"]}]}]}}}});
        assert_eq!(
            chosen(&[node("w1", json!({}))], &pod, &[Claim::Bound(volume)]).unwrap_err(),
            "0/1 nodes are available: 1 node(s) had volume node affinity conflict."
        );
    }
}
