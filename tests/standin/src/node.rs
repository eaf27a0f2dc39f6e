//! The Node object through its life: created, taken over by the cluster, ready, lost. The server walks its own Node
//! through these stages, an agent its own.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::clock::kubernetes_now;
use crate::net::{architecture, local_mac};

const NOT_READY: &str =
    "[PLEG is not healthy: pleg has yet to be successful, CSINode is not yet initialized]";
const UNINITIALISED: &str = "node.cloudprovider.kubernetes.io/uninitialized";
const NOT_READY_TAINT: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE_TAINT: &str = "node.kubernetes.io/unreachable";

/// What one node says of itself.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its address inside the cluster.
    pub address: String,
    /// Addresses reachable from outside.
    pub external: Vec<String>,
    /// The version of its k3s.
    pub version: String,
    /// Labels asked for by its configuration, `key=value`.
    pub labels: Vec<String>,
    /// The annotation with its arguments, JSON.
    pub arguments: String,
}

impl Node {
    /// The object as the kubelet first makes it.
    pub fn created(&self, root: &Path) -> Value {
        let now = kubernetes_now();
        let arch = architecture();
        let mut labels = json!({
            "beta.kubernetes.io/arch": arch, "beta.kubernetes.io/os": "linux", "kubernetes.io/arch": arch,
            "kubernetes.io/hostname": self.name, "kubernetes.io/os": "linux",
        });
        for label in &self.labels {
            let (key, value) = label.split_once('=').unwrap_or((label, ""));
            labels[key] = value.into();
        }
        let capacity = capacity();
        let mut addresses = vec![json!({"type": "InternalIP", "address": self.address})];
        addresses.extend(
            self.external
                .iter()
                .map(|address| json!({"type": "ExternalIP", "address": address})),
        );
        addresses.push(json!({"type": "Hostname", "address": self.name}));
        let condition = |kind: &str, status: &str, reason: &str, message: &str| {
            json!({"type": kind, "status": status, "lastHeartbeatTime": now, "lastTransitionTime": now,
                "reason": reason, "message": message})
        };
        json!({
            "kind": "Node", "apiVersion": "v1",
            "metadata": {
                "name": self.name,
                "labels": labels,
                "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"},
                "finalizers": ["wrangler.cattle.io/node"],
            },
            "spec": {"taints": [
                {"key": UNINITIALISED, "value": "true", "effect": "NoSchedule"},
                {"key": NOT_READY_TAINT, "effect": "NoSchedule"},
            ]},
            "status": {
                "capacity": capacity,
                "allocatable": capacity,
                "conditions": [
                    condition("MemoryPressure", "False", "KubeletHasSufficientMemory",
                        "kubelet has sufficient memory available"),
                    condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
                    condition("PIDPressure", "False", "KubeletHasSufficientPID",
                        "kubelet has sufficient PID available"),
                    condition("Ready", "False", "KubeletNotReady", NOT_READY),
                ],
                "addresses": addresses,
                "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
                "nodeInfo": self.info(root),
            },
        })
    }

    /// A kubelet that starts again over a Node that is there: not ready until its next report.
    pub fn restarted(&self, object: &mut Value, root: &Path) {
        let fresh = self.created(root);
        object["status"]["nodeInfo"] = fresh["status"]["nodeInfo"].clone();
        object["status"]["addresses"] = fresh["status"]["addresses"].clone();
        untaint(object, UNREACHABLE_TAINT);
        condition(object, "Ready", "False", "KubeletNotReady", NOT_READY);
        for (kind, reason, message) in PRESSURES {
            condition(object, kind, "False", reason, message);
        }
        taint(object, NOT_READY_TAINT, "NoSchedule");
    }

    /// The k3s annotations, which come a second after Ready.
    pub fn annotated(&self, object: &mut Value) {
        let annotations = &mut object["metadata"]["annotations"];
        annotations["k3s.io/hostname"] = self.name.clone().into();
        annotations["k3s.io/internal-ip"] = self.address.clone().into();
        if let Some(address) = self.external.first() {
            annotations["k3s.io/external-ip"] = address.clone().into();
        }
        annotations["k3s.io/node-args"] = self.arguments.clone().into();
        annotations["k3s.io/node-config-hash"] =
            crate::token::hash(self.arguments.as_bytes()).into();
        annotations["k3s.io/node-env"] = "{}".into();
    }

    /// flannel runs, with a link of this hardware address: the condition that is absent before.
    pub fn network_up(&self, object: &mut Value, mac: &str) {
        let annotations = &mut object["metadata"]["annotations"];
        annotations["flannel.alpha.coreos.com/backend-data"] =
            json!({"VNI": 1, "VtepMAC": mac}).to_string().into();
        annotations["flannel.alpha.coreos.com/backend-type"] = "vxlan".into();
        annotations["flannel.alpha.coreos.com/kube-subnet-manager"] = "true".into();
        annotations["flannel.alpha.coreos.com/public-ip"] = self.address.clone().into();
        condition(
            object,
            "NetworkUnavailable",
            "False",
            "FlannelIsUp",
            "Flannel is running on this node",
        );
    }

    /// The hardware address of a VXLAN link that is only claimed.
    pub fn claimed_mac(&self) -> String {
        local_mac(&Sha256::digest(self.name.as_bytes()))
    }

    fn info(&self, root: &Path) -> Value {
        // A machine that is a directory may have ids of its own; the rest is the real one's.
        let read = |path: &str| {
            fs::read_to_string(root.join(path))
                .or_else(|_none| fs::read_to_string(Path::new("/").join(path)))
                .unwrap_or_default()
                .trim()
                .to_owned()
        };
        let machine = fs::read_to_string(root.join("etc/machine-id")).unwrap_or_default();
        let release = fs::read_to_string(root.join("etc/os-release")).unwrap_or_default();
        let image = release
            .lines()
            .find_map(|line| line.strip_prefix("PRETTY_NAME="))
            .unwrap_or("Linux")
            .trim_matches('"');
        json!({
            "machineID": machine.trim(), "systemUUID": machine.trim(),
            "bootID": read("proc/sys/kernel/random/boot_id"),
            "kernelVersion": read("proc/sys/kernel/osrelease"),
            "osImage": image,
            "containerRuntimeVersion": "containerd://1.4.4-k3s2",
            "kubeletVersion": self.version, "kubeProxyVersion": self.version,
            "operatingSystem": "linux", "architecture": architecture(),
        })
    }
}

const PRESSURES: [(&str, &str, &str); 3] = [
    (
        "MemoryPressure",
        "KubeletHasSufficientMemory",
        "kubelet has sufficient memory available",
    ),
    (
        "DiskPressure",
        "KubeletHasNoDiskPressure",
        "kubelet has no disk pressure",
    ),
    (
        "PIDPressure",
        "KubeletHasSufficientPID",
        "kubelet has sufficient PID available",
    ),
];

/// The cloud controller's work: the node is known, its first taint is gone.
pub fn initialised(object: &mut Value) {
    let name = object["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    object["spec"]["providerID"] = format!("k3s://{name}").into();
    object["metadata"]["labels"]["beta.kubernetes.io/instance-type"] = "k3s".into();
    object["metadata"]["labels"]["node.kubernetes.io/instance-type"] = "k3s".into();
    untaint(object, UNINITIALISED);
}

/// The labels that mark a server.
pub fn control_plane(object: &mut Value) {
    object["metadata"]["labels"]["node-role.kubernetes.io/control-plane"] = "true".into();
    object["metadata"]["labels"]["node-role.kubernetes.io/master"] = "true".into();
}

/// The kubelet reports ready; the taints follow.
pub fn ready(object: &mut Value) {
    condition(
        object,
        "Ready",
        "True",
        "KubeletReady",
        "kubelet is posting ready status",
    );
    for (kind, reason, message) in PRESSURES {
        condition(object, kind, "False", reason, message);
    }
    object["metadata"]["annotations"]["node.alpha.kubernetes.io/ttl"] = "0".into();
    untaint(object, NOT_READY_TAINT);
    untaint(object, UNREACHABLE_TAINT);
}

/// No lease for too long: every condition of the kubelet is unknown. Answers whether that is news.
pub fn lost(object: &mut Value) -> bool {
    if ready_status(object) == "Unknown" {
        return false;
    }
    for kind in ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"] {
        condition(
            object,
            kind,
            "Unknown",
            "NodeStatusUnknown",
            "Kubelet stopped posting node status.",
        );
    }
    taint(object, UNREACHABLE_TAINT, "NoSchedule");
    true
}

/// The second taint of a lost node, five seconds after the first.
pub fn evicting(object: &mut Value) {
    taint(object, UNREACHABLE_TAINT, "NoExecute");
}

/// `True`, `False`, `Unknown`, or nothing if there is no such condition.
pub fn ready_status(object: &Value) -> &str {
    object["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == "Ready")
        .and_then(|condition| condition["status"].as_str())
        .unwrap_or_default()
}

fn condition(object: &mut Value, kind: &str, status: &str, reason: &str, message: &str) {
    let now = kubernetes_now();
    if !object["status"]["conditions"].is_array() {
        object["status"]["conditions"] = json!([]);
    }
    let Some(conditions) = object["status"]["conditions"].as_array_mut() else {
        return;
    };
    let old = conditions
        .iter()
        .position(|condition| condition["type"] == kind);
    let since = old
        .map(|index| &conditions[index])
        .filter(|condition| condition["status"] == status)
        .map_or_else(
            || now.clone().into(),
            |condition| condition["lastTransitionTime"].clone(),
        );
    let new = json!({"type": kind, "status": status, "lastHeartbeatTime": now, "lastTransitionTime": since,
        "reason": reason, "message": message});
    match old {
        Some(index) => conditions[index] = new,
        // flannel puts its condition first.
        None if kind == "NetworkUnavailable" => conditions.insert(0, new),
        None => conditions.push(new),
    }
}

fn taint(object: &mut Value, key: &str, effect: &str) {
    if !object["spec"]["taints"].is_array() {
        object["spec"]["taints"] = json!([]);
    }
    if let Some(taints) = object["spec"]["taints"].as_array_mut()
        && !taints
            .iter()
            .any(|taint| taint["key"] == key && taint["effect"] == effect)
    {
        taints.push(json!({"key": key, "effect": effect}));
    }
}

fn untaint(object: &mut Value, key: &str) {
    let Some(spec) = object["spec"].as_object_mut() else {
        return;
    };
    if let Some(taints) = spec.get_mut("taints").and_then(Value::as_array_mut) {
        taints.retain(|taint| taint["key"] != key);
        if taints.is_empty() {
            spec.remove("taints");
        }
    }
}

fn capacity() -> Value {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix("MemTotal:"))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        })
        .unwrap_or(4 * 1024 * 1024);
    json!({"cpu": cpus.to_string(), "ephemeral-storage": "264212084Ki", "hugepages-1Gi": "0",
        "hugepages-2Mi": "0", "memory": format!("{memory}Ki"), "pods": "110"})
}
