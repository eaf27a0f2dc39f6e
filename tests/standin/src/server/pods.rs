//! Pods as the API treats them: the defaults of a new one, binding to a node, graceful deletion, and eviction, which the
//! disruption budgets guard. What a pod does on its node is the kubelet's business.

use bytes::Bytes;
use http::{Response, StatusCode};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::answer::{Body, Status, json as json_answer};
use super::store::{Key, StoreError};
use super::{Shared, budgets};
use crate::bootstrap::rfc3339;
use crate::clock::kubernetes_now;
use crate::trailer::Profile;

/// How long the admission of a pod looks for its service account.
const ACCOUNT_LIMIT: std::time::Duration = std::time::Duration::from_secs(1);

/// The key of a pod.
pub(super) fn key(namespace: &str, name: &str) -> Key {
    Key {
        resource: "pods".into(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

/// The key of an object that is a pod.
pub(super) fn key_of(pod: &Value) -> Key {
    let text = |field: &str| pod["metadata"][field].as_str().unwrap_or_default();
    key(text("namespace"), text("name"))
}

/// Every pod of a namespace, or of all.
pub(super) fn list(shared: &Shared, namespace: &str) -> Vec<Value> {
    shared
        .resources
        .find("", "v1", "pods")
        .map(|pods| shared.store.list(pods, namespace).objects)
        .unwrap_or_default()
}

/// Waits for the service account of a new pod, which follows its namespace a moment later; refuses without one.
pub(super) async fn admit(
    shared: &Shared,
    namespace: &str,
    pod: &Value,
) -> Result<(), Box<Status>> {
    let account = pod["spec"]["serviceAccountName"]
        .as_str()
        .unwrap_or("default");
    let key = Key {
        resource: "serviceaccounts".into(),
        namespace: namespace.to_owned(),
        name: account.to_owned(),
    };
    let found = async {
        while shared.store.get(&key).is_none() {
            shared.clock.wait(0.5).await;
        }
    };
    if tokio::time::timeout(ACCOUNT_LIMIT, found).await.is_err() {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        return Err(Box::new(Status::no_account(name, namespace, account)));
    }
    Ok(())
}

/// Fills in what the API server does, and begins the status.
pub(super) fn complete(pod: &mut Value) {
    let account = pod["spec"]["serviceAccountName"]
        .as_str()
        .unwrap_or("default")
        .to_owned();
    let defaults = json!({
        "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst",
        "serviceAccountName": account, "serviceAccount": account, "securityContext": {},
        "schedulerName": "default-scheduler", "priority": 0, "enableServiceLinks": true,
        "preemptionPolicy": "PreemptLowerPriority",
    });
    fill(&mut pod["spec"], &defaults);
    for kind in ["containers", "initContainers"] {
        if let Some(containers) = pod["spec"][kind].as_array_mut() {
            for container in containers {
                let image = container["image"].as_str().unwrap_or_default();
                let moving = image.ends_with(":latest") || !image.contains(':');
                let policy = if moving { "Always" } else { "IfNotPresent" };
                let defaults = json!({"resources": {}, "terminationMessagePath": "/dev/termination-log",
                    "terminationMessagePolicy": "File", "imagePullPolicy": policy});
                fill(container, &defaults);
            }
        }
    }
    if !pod["spec"]["tolerations"].is_array() {
        pod["spec"]["tolerations"] = json!([]);
    }
    if let Some(tolerations) = pod["spec"]["tolerations"].as_array_mut() {
        for key in [
            "node.kubernetes.io/not-ready",
            "node.kubernetes.io/unreachable",
        ] {
            let known = |toleration: &Value| {
                (toleration["key"] == key || toleration["key"].is_null())
                    && (toleration["effect"] == "NoExecute" || toleration["effect"].is_null())
            };
            if !tolerations.iter().any(known) {
                tolerations.push(
                    json!({"key": key, "operator": "Exists", "effect": "NoExecute",
                    "tolerationSeconds": 300}),
                );
            }
        }
    }
    pod["status"] = json!({"phase": "Pending", "qosClass": "BestEffort"});
}

fn fill(object: &mut Value, defaults: &Value) {
    for (name, value) in defaults.as_object().into_iter().flatten() {
        if object[name].is_null() {
            object[name] = value.clone();
        }
    }
}

/// Sets one condition of a pod, keeping the time of its last transition where the status is the same.
pub(super) fn condition(pod: &mut Value, kind: &str, status: &str, why: Option<(&str, &str)>) {
    if !pod["status"]["conditions"].is_array() {
        pod["status"]["conditions"] = json!([]);
    }
    let Some(conditions) = pod["status"]["conditions"].as_array_mut() else {
        return;
    };
    let mut new = json!({"type": kind, "status": status, "lastProbeTime": null,
        "lastTransitionTime": kubernetes_now()});
    if let Some((reason, message)) = why {
        new["reason"] = reason.into();
        new["message"] = message.into();
    }
    match conditions
        .iter_mut()
        .find(|condition| condition["type"] == kind)
    {
        Some(old) => {
            if old["status"] == status {
                new["lastTransitionTime"] = old["lastTransitionTime"].clone();
            }
            *old = new;
        }
        None => conditions.push(new),
    }
}

/// Whether a pod has the condition Ready.
pub(super) fn is_ready(pod: &Value) -> bool {
    let mut conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// Whether nothing of a pod runs any more, or ever will.
pub(super) fn is_over(pod: &Value) -> bool {
    matches!(
        pod["status"]["phase"].as_str(),
        Some("Succeeded" | "Failed")
    )
}

/// Gives a pod to a node.
pub(super) fn bind(shared: &Shared, key: &Key, node: &str) -> Result<Value, StoreError> {
    shared.store.update(key, None, |pod| {
        pod["spec"]["nodeName"] = node.into();
        condition(pod, "PodScheduled", "True", None);
    })
}

/// `POST …/binding`.
pub(super) fn binding(shared: &Shared, key: &Key, body: &Value) -> Result<(), StoreError> {
    let node = body["target"]["name"].as_str().unwrap_or_default();
    bind(shared, key, node).map(|_| ())
}

/// Deletes a pod: at once where nothing runs or no grace is given, else by marking it for its kubelet.
pub(super) fn delete(shared: &Shared, key: &Key, grace: Option<u64>) -> Result<Value, StoreError> {
    let pod = shared.store.get(key).ok_or(StoreError::Absent)?;
    let own = pod["spec"]["terminationGracePeriodSeconds"]
        .as_u64()
        .unwrap_or(30);
    let grace = grace.unwrap_or(own);
    let finalizers = pod["metadata"]["finalizers"]
        .as_array()
        .is_some_and(|finalizers| !finalizers.is_empty());
    let idle = pod["spec"]["nodeName"]
        .as_str()
        .unwrap_or_default()
        .is_empty()
        || is_over(&pod);
    if !finalizers && (grace == 0 || idle) {
        return shared.store.delete(key);
    }
    if pod["metadata"]["deletionTimestamp"].is_string() {
        return Ok(pod);
    }
    let seconds = i64::try_from(grace).unwrap_or(i64::MAX);
    let at = Timestamp::now() + SignedDuration::from_secs(seconds.min(86_400));
    shared.store.update(key, None, |pod| {
        pod["metadata"]["deletionTimestamp"] = rfc3339(at).into();
        pod["metadata"]["deletionGracePeriodSeconds"] = grace.into();
    })
}

/// `POST …/eviction`.
pub(super) fn evict(shared: &Shared, key: &Key, body: &Bytes) -> Response<Body> {
    let eviction: Value = serde_json::from_slice(body).unwrap_or_default();
    let version = eviction["apiVersion"].as_str().unwrap_or_default();
    if version == "policy/v1" && shared.profile == Profile::Recorded {
        return Status::bad_request(
            "Eviction in version \"v1\" cannot be handled as a Eviction: no kind \"Eviction\" is registered for \
             version \"policy/v1\" in scheme \"k8s.io/kubernetes/pkg/api/legacyscheme/scheme.go:30\"",
        )
        .response();
    }
    if !matches!(version, "policy/v1" | "policy/v1beta1") || eviction["kind"] != "Eviction" {
        return Status::bad_request("not an Eviction object").response();
    }
    if eviction["metadata"]["name"] != key.name {
        return Status::bad_request("name in URL does not match name in Eviction object")
            .response();
    }
    let not_found = || {
        shared.resources.find("", "v1", "pods").map_or_else(
            || Status::no_such_resource().response(),
            |pods| Status::not_found(pods, &key.name).response(),
        )
    };
    let Some(pod) = shared.store.get(key) else {
        return not_found();
    };
    if let Err(status) = budgets::guard(shared, &pod) {
        return status.response();
    }
    if eviction["deleteOptions"]["dryRun"].is_array() {
        return Status::evicted().response();
    }
    let grace = eviction["deleteOptions"]["gracePeriodSeconds"].as_u64();
    match delete(shared, key, grace) {
        Ok(_) => Status::evicted().response(),
        Err(_) => not_found(),
    }
}

/// Answers the deletion of a pod with the pod, as the API does for this kind.
pub(super) fn deleted(pod: Value) -> Response<Body> {
    let mut pod = pod;
    pod["kind"] = "Pod".into();
    pod["apiVersion"] = "v1".into();
    json_answer(StatusCode::OK, &pod)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_pod_gets_defaults_and_tolerations() {
        let mut pod = json!({"metadata": {"name": "a"}, "spec": {"terminationGracePeriodSeconds": 1,
            "containers": [{"name": "c", "image": "busybox:1.32.1"}, {"name": "d", "image": "busybox"}],
            "tolerations": [{"operator": "Exists", "effect": "NoSchedule"}]}, "status": {"phase": "Running"}});
        complete(&mut pod);
        assert_eq!(pod["spec"]["terminationGracePeriodSeconds"], 1);
        assert_eq!(pod["spec"]["serviceAccount"], "default");
        assert_eq!(
            pod["spec"]["containers"][0]["imagePullPolicy"],
            "IfNotPresent"
        );
        assert_eq!(pod["spec"]["containers"][1]["imagePullPolicy"], "Always");
        assert_eq!(pod["spec"]["tolerations"].as_array().unwrap().len(), 3);
        assert_eq!(pod["status"]["phase"], "Pending");
    }

    #[test]
    fn a_condition_keeps_its_time_until_its_status_turns() {
        let mut pod = json!({"status": {"conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "then"}]}});
        condition(&mut pod, "Ready", "True", None);
        assert_eq!(pod["status"]["conditions"][0]["lastTransitionTime"], "then");
        assert!(is_ready(&pod));
        condition(
            &mut pod,
            "Ready",
            "False",
            Some(("ContainersNotReady", "x")),
        );
        assert_ne!(pod["status"]["conditions"][0]["lastTransitionTime"], "then");
        assert!(!is_ready(&pod));
    }
}
