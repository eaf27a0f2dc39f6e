//! Pods of a node, and their eviction in the version that the cluster knows. Called by the drain.

use http::Request;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};

use super::reach::{ClusterApi, NodeError};

/// Marks a pod that a kubelet runs from a file; the API only mirrors it.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// A pod that has to leave a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Evictee {
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// True when it is on its way out already.
    pub(crate) ending: bool,
}

impl std::fmt::Display for Evictee {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "pod {}/{}", self.namespace, self.name)
    }
}

/// What came of an eviction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Evicted {
    /// It ends, or was gone already.
    Yes,
    /// It is refused for now, by a disruption budget or whatever else the API asks; what it says.
    Blocked(String),
}

/// The pods that a drain makes leave: all but those of DaemonSets, which would come back at once, and mirrors.
fn evictees(pods: Vec<Pod>) -> Vec<Evictee> {
    let stays = |pod: &Pod| {
        let owners = pod.metadata.owner_references.iter().flatten();
        let mirror = pod
            .metadata
            .annotations
            .as_ref()
            .is_some_and(|annotations| annotations.contains_key(MIRROR));
        mirror
            || owners
                .into_iter()
                .any(|owner| owner.kind == "DaemonSet" && owner.controller.unwrap_or(false))
    };
    pods.into_iter()
        .filter(|pod| !stays(pod))
        .map(|pod| Evictee {
            namespace: pod.metadata.namespace.unwrap_or_default(),
            name: pod.metadata.name.unwrap_or_default(),
            ending: pod.metadata.deletion_timestamp.is_some(),
        })
        .collect()
}

impl ClusterApi {
    /// The pods that have to leave a node.
    pub(crate) async fn evictees(&self, node: &str) -> Result<Vec<Evictee>, NodeError> {
        let pods = Api::<Pod>::all(self.client.clone());
        let only = ListParams::default().fields(&format!("spec.nodeName={node}"));
        let listed = self
            .asked(&format!("list the pods of node {node}"), pods.list(&only))
            .await?;
        let on_node = |pod: &Pod| {
            let spec = pod.spec.as_ref();
            spec.and_then(|spec| spec.node_name.as_deref()) == Some(node)
        };
        Ok(evictees(listed.items.into_iter().filter(on_node).collect()))
    }

    /// Asks for the eviction of a pod.
    pub(crate) async fn evict(&self, pod: &Evictee, version: &str) -> Result<Evicted, NodeError> {
        let path = format!(
            "/api/v1/namespaces/{}/pods/{}/eviction",
            pod.namespace, pod.name
        );
        let body = json!({
            "apiVersion": format!("policy/{version}"),
            "kind": "Eviction",
            "metadata": {"name": pod.name, "namespace": pod.namespace},
        });
        let request = Request::post(path)
            .header("content-type", "application/json")
            .body(body.to_string().into_bytes())
            .expect("names of the API make a path");
        let asked = async {
            match self.client.request::<Value>(request).await {
                Ok(_) => Ok(Evicted::Yes),
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(Evicted::Yes),
                Err(kube::Error::Api(status)) if status.code == 429 => {
                    Ok(Evicted::Blocked(blocked_by(&status)))
                }
                // Two budgets for one pod are a 500, a webhook's no is what it likes: about this pod, and no other.
                Err(kube::Error::Api(status)) => Ok(Evicted::Blocked(format!(
                    "the API answers {}: {}",
                    status.code, status.message
                ))),
                Err(error) => Err(error),
            }
        };
        self.asked(&format!("evict {pod}"), asked).await
    }
}

/// The API's own words, with the budget that it names.
fn blocked_by(status: &kube::core::Status) -> String {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let causes: Vec<&str> = causes.map(|cause| cause.message.as_str()).collect();
    if causes.is_empty() {
        status.message.clone()
    } else {
        causes.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{blocked_by, evictees};

    #[test]
    fn pods_of_daemon_sets_and_mirrors_stay() {
        let pod = |name: &str, more: serde_json::Value| {
            let mut pod = json!({"metadata": {"namespace": "n", "name": name}});
            for (key, value) in more.as_object().expect("fields") {
                pod["metadata"][key] = value.clone();
            }
            serde_json::from_value(pod).expect("a pod")
        };
        let owner = |kind: &str| json!([{"apiVersion": "apps/v1", "kind": kind, "name": "o", "uid": "1", "controller": true}]);
        let left = evictees(vec![
            pod("ds", json!({"ownerReferences": owner("DaemonSet")})),
            pod("rs", json!({"ownerReferences": owner("ReplicaSet")})),
            pod(
                "mirror",
                json!({"annotations": {"kubernetes.io/config.mirror": "x"}}),
            ),
            pod("bare", json!({"deletionTimestamp": "2026-11-23T00:21:38Z"})),
        ]);
        let shown: Vec<_> = left
            .iter()
            .map(|pod| (pod.to_string(), pod.ending))
            .collect();
        assert_eq!(
            shown,
            [
                ("pod n/rs".to_owned(), false),
                ("pod n/bare".to_owned(), true)
            ]
        );
    }

    #[test]
    fn a_refused_eviction_names_the_budget() {
        let status = serde_json::from_value(json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": "Cannot evict pod as it would violate the pod's disruption budget.",
            "reason": "TooManyRequests",
            "details": {"causes": [{"reason": "DisruptionBudget", "message": "The disruption budget one needs 1 healthy pods and has 1 currently"}]},
            "code": 429,
        }))
        .expect("the recorded answer");
        assert_eq!(
            blocked_by(&status),
            "The disruption budget one needs 1 healthy pods and has 1 currently"
        );
    }
}
