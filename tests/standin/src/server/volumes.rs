//! Volumes: claims bind when a pod needs them, the local-path provisioner makes a directory on the pod's node through a
//! helper pod, and a volume that nobody claims any more is released. The scheduler waits for claims, the controllers
//! call here.

use serde_json::{Value, json};

use super::query::expressions_match;
use super::store::Key;
use super::{Shared, pods};

const PROVISIONER: &str = "rancher.io/local-path";
const STORAGE: &str = "/var/lib/rancher/k3s/storage";
const HELPER_IMAGE: &str = "rancher/library-busybox:1.32.1";
/// The annotation by which the scheduler tells a provisioner the node.
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";

fn claim_key(namespace: &str, name: &str) -> Key {
    Key {
        resource: "persistentvolumeclaims".into(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

fn volume_key(name: &str) -> Key {
    Key {
        resource: "persistentvolumes".into(),
        namespace: String::new(),
        name: name.to_owned(),
    }
}

fn list(shared: &Shared, plural: &str) -> Vec<Value> {
    shared
        .resources
        .find("", "v1", plural)
        .map(|resource| shared.store.list(resource, "").objects)
        .unwrap_or_default()
}

fn class(shared: &Shared, name: &str) -> Option<Value> {
    let classes = shared
        .resources
        .find("storage.k8s.io", "v1", "storageclasses")?;
    shared.store.get(&Key::new(classes, "", name))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// What the API server adds to a new claim; one that names no class gets the default class.
pub(super) fn complete_claim(shared: &Shared, claim: &mut Value) {
    claim["metadata"]["finalizers"] = json!(["kubernetes.io/pvc-protection"]);
    claim["status"] = json!({"phase": "Pending"});
    if claim["spec"]["volumeMode"].is_null() {
        claim["spec"]["volumeMode"] = "Filesystem".into();
    }
    let classes = shared
        .resources
        .find("storage.k8s.io", "v1", "storageclasses");
    if let Some(classes) = classes.filter(|_| claim["spec"]["storageClassName"].is_null()) {
        let is_default = |class: &Value| {
            class["metadata"]["annotations"]["storageclass.kubernetes.io/is-default-class"]
                == "true"
        };
        let objects = shared.store.list(classes, "").objects;
        if let Some(class) = objects.into_iter().find(is_default) {
            claim["spec"]["storageClassName"] = class["metadata"]["name"].clone();
        }
    }
}

/// What the API server adds to a new volume.
pub(super) fn complete_volume(volume: &mut Value) {
    volume["metadata"]["finalizers"] = json!(["kubernetes.io/pv-protection"]);
    volume["status"] = json!({"phase": "Pending"});
    for (field, default) in [
        ("volumeMode", "Filesystem"),
        ("persistentVolumeReclaimPolicy", "Retain"),
    ] {
        if volume["spec"][field].is_null() {
            volume["spec"][field] = default.into();
        }
    }
}

/// What a claim means for the scheduling of a pod.
#[derive(Debug, PartialEq)]
pub(super) enum Claim {
    /// There is none of that name.
    Absent(String),
    /// It waits for something else than a pod.
    Unbound,
    /// It binds once the pod has a node; an earlier choice of a node stands.
    Waiting {
        name: String,
        selected: Option<String>,
    },
    /// It is bound to this volume.
    Bound(Value),
}

/// The claims of a pod.
pub(super) fn claims(shared: &Shared, pod: &Value) -> Vec<Claim> {
    let namespace = text(&pod["metadata"]["namespace"]);
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    volumes
        .filter_map(|volume| volume["persistentVolumeClaim"]["claimName"].as_str())
        .map(|name| claim(shared, namespace, name))
        .collect()
}

fn claim(shared: &Shared, namespace: &str, name: &str) -> Claim {
    let Some(claim) = shared.store.get(&claim_key(namespace, name)) else {
        return Claim::Absent(name.to_owned());
    };
    if claim["status"]["phase"] == "Bound" {
        let volume = shared
            .store
            .get(&volume_key(text(&claim["spec"]["volumeName"])));
        return volume.map_or(Claim::Unbound, Claim::Bound);
    }
    let waits = class(shared, text(&claim["spec"]["storageClassName"]))
        .is_some_and(|class| class["volumeBindingMode"] == "WaitForFirstConsumer");
    if !waits {
        return Claim::Unbound;
    }
    Claim::Waiting {
        name: name.to_owned(),
        selected: claim["metadata"]["annotations"][SELECTED_NODE]
            .as_str()
            .map(str::to_owned),
    }
}

/// Tells the provisioner for which node a claim is to be filled.
pub(super) fn select_node(shared: &Shared, namespace: &str, claim: &str, node: &str) {
    // A claim deleted at this moment needs no node.
    let _ = shared
        .store
        .update(&claim_key(namespace, claim), None, |claim| {
            claim["metadata"]["annotations"][SELECTED_NODE] = node.into();
        });
}

/// Whether a volume may be used on a node with these labels.
pub(super) fn reaches(volume: &Value, labels: &Value) -> bool {
    let terms = volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"].as_array();
    terms.is_none_or(|terms| {
        terms
            .iter()
            .any(|term| expressions_match(&term["matchExpressions"], labels))
    })
}

/// Moves every claim and every volume one step on.
pub(super) fn reconcile(shared: &Shared) {
    for claim in list(shared, "persistentvolumeclaims") {
        reconcile_claim(shared, &claim);
    }
    for volume in list(shared, "persistentvolumes") {
        reconcile_volume(shared, &volume);
    }
}

fn reconcile_claim(shared: &Shared, claim: &Value) {
    let (namespace, name) = (
        text(&claim["metadata"]["namespace"]),
        text(&claim["metadata"]["name"]),
    );
    let key = claim_key(namespace, name);
    if claim["metadata"]["deletionTimestamp"].is_string() {
        if !is_used(shared, namespace, name) {
            // The protection ends, and with it the claim.
            let _ = shared.store.update(&key, None, |claim| {
                claim["metadata"]["finalizers"] = json!([]);
            });
        }
        return;
    }
    if claim["status"]["phase"] == "Bound" {
        return;
    }
    let class = class(shared, text(&claim["spec"]["storageClassName"]));
    if class.is_some_and(|class| class["provisioner"] == PROVISIONER) {
        if let Some(node) = claim["metadata"]["annotations"][SELECTED_NODE].as_str() {
            provision(shared, claim, node);
        }
    } else if let Some(volume) = list(shared, "persistentvolumes")
        .into_iter()
        .find(|volume| suits(volume, claim))
    {
        bind(shared, claim, &volume);
    }
}

fn is_used(shared: &Shared, namespace: &str, name: &str) -> bool {
    pods::list(shared, namespace).iter().any(|pod| {
        let mut volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
        !pods::is_over(pod)
            && volumes.any(|volume| volume["persistentVolumeClaim"]["claimName"] == name)
    })
}

// Whether a volume made by hand may fill a claim.
fn suits(volume: &Value, claim: &Value) -> bool {
    let wanted = text(&claim["spec"]["volumeName"]);
    let reference = &volume["spec"]["claimRef"];
    let reserved = reference["name"] == claim["metadata"]["name"]
        && reference["namespace"] == claim["metadata"]["namespace"]
        && (reference["uid"].is_null() || reference["uid"] == claim["metadata"]["uid"]);
    let modes = claim["spec"]["accessModes"].as_array();
    let offered = volume["spec"]["accessModes"].as_array();
    (wanted.is_empty() || volume["metadata"]["name"] == wanted)
        && (reserved || reference.is_null() && volume["status"]["phase"] == "Available")
        && text(&volume["spec"]["storageClassName"]) == text(&claim["spec"]["storageClassName"])
        && modes
            .into_iter()
            .flatten()
            .all(|mode| offered.is_some_and(|offered| offered.contains(mode)))
}

fn bind(shared: &Shared, claim: &Value, volume: &Value) {
    let reference = reference(claim);
    let name = text(&volume["metadata"]["name"]);
    let bound = shared.store.update(&volume_key(name), None, |volume| {
        volume["spec"]["claimRef"] = reference;
        volume["status"]["phase"] = "Bound".into();
    });
    if bound.is_ok() {
        fill(shared, claim, volume);
    }
}

fn reference(claim: &Value) -> Value {
    let metadata = &claim["metadata"];
    json!({"kind": "PersistentVolumeClaim", "namespace": metadata["namespace"], "name": metadata["name"],
        "uid": metadata["uid"], "apiVersion": "v1", "resourceVersion": metadata["resourceVersion"]})
}

fn fill(shared: &Shared, claim: &Value, volume: &Value) {
    let key = claim_key(
        text(&claim["metadata"]["namespace"]),
        text(&claim["metadata"]["name"]),
    );
    // A claim deleted meanwhile leaves its volume released, which the next look finds.
    let _ = shared.store.update(&key, None, |claim| {
        claim["metadata"]["annotations"]["pv.kubernetes.io/bind-completed"] = "yes".into();
        claim["metadata"]["annotations"]["pv.kubernetes.io/bound-by-controller"] = "yes".into();
        claim["spec"]["volumeName"] = volume["metadata"]["name"].clone();
        claim["status"] = json!({"phase": "Bound", "accessModes": claim["spec"]["accessModes"],
            "capacity": volume["spec"]["capacity"]});
    });
}

/// Where local-path volumes lie.
pub(super) fn storage(shared: &Shared) -> &str {
    let configured = shared.config.get("default-local-storage-path");
    configured.unwrap_or(STORAGE)
}

/// The directory of a local-path volume on its node.
fn directory(shared: &Shared, volume: &str, claim: &Value) -> String {
    format!(
        "{}/{volume}_{}_{}",
        storage(shared),
        text(&claim["metadata"]["namespace"]),
        text(&claim["metadata"]["name"])
    )
}

fn provision(shared: &Shared, claim: &Value, node: &str) {
    let key = claim_key(
        text(&claim["metadata"]["namespace"]),
        text(&claim["metadata"]["name"]),
    );
    // As the annotation of the provisioner says from its first look on.
    let _ = shared.store.update(&key, None, |claim| {
        claim["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-provisioner"] =
            PROVISIONER.into();
    });
    if claim["spec"]["accessModes"] != json!(["ReadWriteOnce"]) {
        return;
    }
    let name = format!("pvc-{}", text(&claim["metadata"]["uid"]));
    let path = directory(shared, &name, claim);
    if !helped(shared, "create", &name, &path, node) {
        return;
    }
    let class = class(shared, text(&claim["spec"]["storageClassName"])).unwrap_or_default();
    let volume = json!({
        "metadata": {"name": name, "annotations": {"pv.kubernetes.io/provisioned-by": PROVISIONER},
            "finalizers": ["kubernetes.io/pv-protection"]},
        "spec": {
            "capacity": {"storage": claim["spec"]["resources"]["requests"]["storage"]},
            "hostPath": {"path": path, "type": "DirectoryOrCreate"},
            "accessModes": ["ReadWriteOnce"],
            "claimRef": reference(claim),
            "persistentVolumeReclaimPolicy": class["reclaimPolicy"].as_str().unwrap_or("Delete"),
            "storageClassName": claim["spec"]["storageClassName"],
            "volumeMode": "Filesystem",
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]}},
        },
        "status": {"phase": "Bound"},
    });
    // One that is there was made by an earlier look.
    let _ = shared.store.create(volume_key(&name), volume.clone());
    fill(shared, claim, &volume);
}

fn reconcile_volume(shared: &Shared, volume: &Value) {
    let name = text(&volume["metadata"]["name"]);
    let key = volume_key(name);
    let reference = &volume["spec"]["claimRef"];
    let claim = shared.store.get(&claim_key(
        text(&reference["namespace"]),
        text(&reference["name"]),
    ));
    let claimed = claim.is_some_and(|claim| {
        reference["uid"].is_null() || claim["metadata"]["uid"] == reference["uid"]
    });
    let phase = match text(&volume["status"]["phase"]) {
        _ if reference["uid"].is_null() => "Available",
        _ if claimed => "Bound",
        _ => "Released",
    };
    if volume["metadata"]["deletionTimestamp"].is_string() && phase != "Bound" {
        let _ = shared.store.update(&key, None, |volume| {
            volume["metadata"]["finalizers"] = json!([]);
        });
        return;
    }
    // Deleted at this moment, it has no phase to keep.
    let _ = shared.store.update(&key, None, |volume| {
        volume["status"]["phase"] = phase.into();
    });
    let ours = volume["metadata"]["annotations"]["pv.kubernetes.io/provisioned-by"] == PROVISIONER;
    if phase == "Released" && ours && volume["spec"]["persistentVolumeReclaimPolicy"] == "Delete" {
        let term = &volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"][0];
        let node = text(&term["matchExpressions"][0]["values"][0]);
        if helped(
            shared,
            "delete",
            name,
            text(&volume["spec"]["hostPath"]["path"]),
            node,
        ) {
            // Somebody else's deletion is as good.
            let _ = shared.store.delete(&key);
        }
    }
}

/// Whether the helper pod has done its work on the node; made if there is none, removed when it has.
fn helped(shared: &Shared, action: &str, volume: &str, path: &str, node: &str) -> bool {
    let key = pods::key("kube-system", &format!("helper-pod-{action}-{volume}"));
    match shared.store.get(&key) {
        Some(pod) if pod["status"]["phase"] == "Succeeded" => {
            // It may be deleted twice.
            let _ = pods::delete(shared, &key, Some(0));
            true
        }
        Some(_) => false,
        None => {
            // Only this task makes it.
            let _ = shared.store.create(key, helper(action, path, node));
            false
        }
    }
}

fn helper(action: &str, path: &str, node: &str) -> Value {
    let script = match action {
        "create" => "/script/setup",
        _ => "/script/teardown",
    };
    let parent = path.rsplit_once('/').map_or(path, |(parent, _)| parent);
    let mut pod = json!({
        "metadata": {},
        "spec": {
            "nodeName": node,
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 30,
            "serviceAccountName": "local-path-provisioner-service-account",
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "helper-pod", "image": HELPER_IMAGE, "command": ["/bin/sh", script],
                "env": [{"name": "VOL_DIR", "value": path}, {"name": "VOL_MODE", "value": "Filesystem"}],
                "volumeMounts": [{"name": "data", "mountPath": parent}]}],
            "volumes": [{"name": "data", "hostPath": {"path": parent, "type": "DirectoryOrCreate"}}],
        },
    });
    pods::complete(&mut pod);
    pod
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_reaches_the_nodes_of_its_affinity() {
        let volume = json!({"spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
            {"key": "kubernetes.io/hostname", "operator": "In", "values": ["w1"]}]}]}}}});
        assert!(reaches(&volume, &json!({"kubernetes.io/hostname": "w1"})));
        assert!(!reaches(&volume, &json!({"kubernetes.io/hostname": "w2"})));
        assert!(reaches(&json!({"spec": {}}), &json!({})));
    }

    #[test]
    fn a_volume_made_by_hand_suits_a_claim_of_its_class_and_modes() {
        let volume = json!({"metadata": {"name": "v"}, "status": {"phase": "Available"},
            "spec": {"storageClassName": "nfs", "accessModes": ["ReadWriteMany", "ReadWriteOnce"]}});
        let claim = |class: &str, mode: &str| {
            json!({"metadata": {"name": "c", "namespace": "d", "uid": "u"},
            "spec": {"storageClassName": class, "accessModes": [mode]}})
        };
        assert!(suits(&volume, &claim("nfs", "ReadWriteMany")));
        assert!(!suits(&volume, &claim("other", "ReadWriteMany")));
        assert!(!suits(&volume, &claim("nfs", "ReadOnlyMany")));
        let mut taken = volume;
        taken["spec"]["claimRef"] = json!({"name": "x", "namespace": "d"});
        assert!(!suits(&taken, &claim("nfs", "ReadWriteMany")));
    }
}
