//! The kubelet's work on pods: those placed on its node are started, reported, and taken away when they are deleted.
//! Server and agent run it with their own client, through the API like the real one.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::client::Client;
use crate::clock::{Clock, kubernetes_now};
use crate::host::Host;
use crate::log::Log;
use crate::token;

/// The kubelet of one node.
#[derive(Debug)]
pub(crate) struct Kubelet {
    /// Everything on disk is below this directory.
    pub(crate) root: PathBuf,
    pub(crate) client: Client,
    /// The Node's name and address.
    pub(crate) node: String,
    pub(crate) address: String,
    pub(crate) clock: Clock,
    pub(crate) log: Log,
    pub(crate) addresses: Addresses,
    /// The node itself, for a kubelet that really runs something.
    pub(crate) host: Option<Arc<Host>>,
}

/// Addresses of pods: the free ones of the node's subnet in turn.
#[derive(Debug, Default)]
pub(crate) struct Addresses(Mutex<HashMap<String, u8>>);

impl Addresses {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last byte of a pod's address, the same for the same pod.
    fn take(&self, uid: &str) -> u8 {
        let mut taken = self.lock();
        if let Some(host) = taken.get(uid) {
            return *host;
        }
        let used: HashSet<u8> = taken.values().copied().collect();
        let host = (2..=254).find(|host| !used.contains(host)).unwrap_or(254);
        taken.insert(uid.to_owned(), host);
        host
    }

    fn free(&self, uid: &str) {
        self.lock().remove(uid);
    }
}

/// How far the kubelet has come with a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Started,
    Stopping,
}

/// Why a watch ended.
enum Ended {
    /// The server is away, or the watch's time is up.
    Broken,
    /// Its version is too old: everything has to be read again.
    Expired,
}

impl Kubelet {
    /// Runs until dropped.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut stages = HashMap::new();
        let mut tasks = JoinSet::new();
        loop {
            if let Some(version) = self.sync(&mut stages, &mut tasks).await {
                let ended = self.watch(&version, &mut stages, &mut tasks).await;
                if matches!(ended, Ended::Expired) {
                    continue;
                }
            }
            self.clock.wait(1.0).await;
        }
    }

    fn path(&self) -> String {
        format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{}", self.node)
    }

    // Reads all pods of the node; answers the version to watch from.
    async fn sync(
        self: &Arc<Self>,
        stages: &mut HashMap<String, Stage>,
        tasks: &mut JoinSet<()>,
    ) -> Option<String> {
        let answer = self.client.get(&self.path()).await.ok()?;
        if answer.status != StatusCode::OK {
            return None;
        }
        let list = answer.json();
        let items = list["items"].as_array().cloned().unwrap_or_default();
        let uids: HashSet<String> = items.iter().map(uid).collect();
        stages.retain(|uid, _| uids.contains(uid));
        if let Some(host) = &self.host {
            for uid in host.pods() {
                if !uids.contains(&uid) {
                    self.take_away(uid, tasks);
                }
            }
        }
        for pod in items {
            self.handle(pod, stages, tasks);
        }
        list["metadata"]["resourceVersion"]
            .as_str()
            .map(str::to_owned)
    }

    async fn watch(
        self: &Arc<Self>,
        version: &str,
        stages: &mut HashMap<String, Stage>,
        tasks: &mut JoinSet<()>,
    ) -> Ended {
        let path = format!("{}&watch=true&resourceVersion={version}", self.path());
        let Ok(response) = self.client.open(&path).await else {
            return Ended::Broken;
        };
        let mut body = response.into_body();
        let mut buffer = Vec::new();
        loop {
            let frame = tokio::select! {
                frame = body.frame() => frame,
                Some(_) = tasks.join_next() => continue,
            };
            let Some(Ok(frame)) = frame else {
                return Ended::Broken;
            };
            buffer.extend_from_slice(frame.data_ref().map_or(&[][..], AsRef::as_ref));
            while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = buffer.drain(..=end).collect();
                let event: Value = serde_json::from_slice(&line).unwrap_or_default();
                match event["type"].as_str() {
                    Some("DELETED") => {
                        let uid = uid(&event["object"]);
                        stages.remove(&uid);
                        self.addresses.free(&uid);
                        self.take_away(uid, tasks);
                    }
                    Some("ADDED" | "MODIFIED") => {
                        self.handle(event["object"].clone(), stages, tasks);
                    }
                    Some("ERROR") => return Ended::Expired,
                    _ => {}
                }
            }
        }
    }

    fn handle(
        self: &Arc<Self>,
        pod: Value,
        stages: &mut HashMap<String, Stage>,
        tasks: &mut JoinSet<()>,
    ) {
        let uid = uid(&pod);
        let kubelet = Arc::clone(self);
        if pod["metadata"]["deletionTimestamp"].is_string() {
            if stages.insert(uid, Stage::Stopping) != Some(Stage::Stopping) {
                tasks.spawn(async move { kubelet.stop(&pod).await });
            }
        } else if !stages.contains_key(&uid) && !is_over(&pod) {
            stages.insert(uid, Stage::Started);
            tasks.spawn(async move { kubelet.start(pod).await });
        }
    }

    // One that is gone already is as good.
    fn take_away(&self, uid: String, tasks: &mut JoinSet<()>) {
        if let Some(host) = &self.host {
            let host = Arc::clone(host);
            tasks.spawn_blocking(move || host.remove(&uid));
        }
    }

    // Starts a pod on the node itself; its address is then what it really has.
    async fn really_start(&self, pod: &mut Value) {
        let Some(host) = &self.host else {
            return;
        };
        loop {
            let (host, started) = (Arc::clone(host), pod.clone());
            let address = tokio::task::spawn_blocking(move || host.start(&started)).await;
            if let Ok(Some(address)) = address {
                pod["status"]["podIP"] = address.into();
                return;
            }
            self.clock.wait(5.0).await;
        }
    }

    async fn start(&self, mut pod: Value) {
        if pod["status"]["phase"] == "Running" {
            // Of an earlier run of this kubelet, and still there.
            self.clock.wait(1.0).await;
            self.really_start(&mut pod).await;
            self.report(&pod, &self.running(&pod)).await;
            return;
        }
        self.clock.wait(0.6).await;
        let creating = self.creating(&pod);
        self.report(&pod, &creating).await;
        // A later report keeps the times of this one.
        pod["status"] = creating;
        if !self.claims_are_bound(&pod).await {
            return;
        }
        self.clock.wait(2.0).await;
        let status = if let Some((directory, create)) = helper(&pod) {
            self.help(&pod, &directory, create).await
        } else {
            self.really_start(&mut pod).await;
            self.running(&pod)
        };
        self.report(&pod, &status).await;
    }

    async fn stop(&self, pod: &Value) {
        let grace = pod["metadata"]["deletionGracePeriodSeconds"]
            .as_u64()
            .unwrap_or(30);
        // What runs here ends soon after it is told to.
        self.clock.wait(if grace == 0 { 0.1 } else { 1.5 }).await;
        if let Some(host) = &self.host {
            let (host, uid) = (Arc::clone(host), uid(pod));
            // What it could not take away it has said.
            let _ = tokio::task::spawn_blocking(move || host.remove(&uid)).await;
        }
        let options =
            json!({"gracePeriodSeconds": 0, "preconditions": {"uid": pod["metadata"]["uid"]}});
        while let Err(error) = self
            .client
            .send(
                Method::DELETE,
                &object_path(pod),
                &[("Content-Type", "application/json")],
                options.to_string(),
            )
            .await
        {
            self.log.error(error.to_string());
            self.clock.wait(5.0).await;
        }
    }

    // Waits for the pod's claims; gives up when the pod is gone.
    async fn claims_are_bound(&self, pod: &Value) -> bool {
        let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
        let claims: Vec<String> = volumes
            .filter_map(|volume| volume["persistentVolumeClaim"]["claimName"].as_str())
            .map(|name| {
                let namespace = text(&pod["metadata"]["namespace"]);
                format!("/api/v1/namespaces/{namespace}/persistentvolumeclaims/{name}")
            })
            .collect();
        for claim in claims {
            loop {
                let answer = self.client.get(&claim).await;
                if answer.is_ok_and(|answer| answer.json()["status"]["phase"] == "Bound") {
                    break;
                }
                self.clock.wait(2.0).await;
                let gone = self.client.get(&object_path(pod)).await;
                if gone.is_ok_and(|answer| answer.status == StatusCode::NOT_FOUND) {
                    return false;
                }
            }
        }
        true
    }

    // Does what the script of a provisioner's helper pod does.
    async fn help(&self, pod: &Value, directory: &str, create: bool) -> Value {
        let path = self.root.join(directory.trim_start_matches('/'));
        let done = tokio::task::spawn_blocking(move || {
            if create {
                crate::files::directory(&path, 0o777).map_err(|error| error.to_string())
            } else {
                match std::fs::remove_dir_all(&path) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        Err(error.to_string())
                    }
                    _ => Ok(()),
                }
            }
        })
        .await;
        let phase = match done {
            Ok(Ok(())) => "Succeeded",
            Ok(Err(message)) => {
                self.log.error(message);
                "Failed"
            }
            Err(_) => "Failed",
        };
        let mut status = self.running(pod);
        status["phase"] = phase.into();
        for state in status["containerStatuses"]
            .as_array_mut()
            .into_iter()
            .flatten()
        {
            let code = i32::from(phase == "Failed");
            state["ready"] = false.into();
            state["state"] = json!({"terminated": {"exitCode": code, "reason": "Completed"}});
        }
        status
    }

    async fn report(&self, pod: &Value, status: &Value) {
        let path = format!("{}/status", object_path(pod));
        let patch =
            json!({"metadata": {"uid": pod["metadata"]["uid"]}, "status": status}).to_string();
        for _ in 0..5 {
            let headers = [("Content-Type", "application/strategic-merge-patch+json")];
            match self
                .client
                .send(Method::PATCH, &path, &headers, patch.clone())
                .await
            {
                // A pod that is gone needs no report.
                Ok(_) => return,
                Err(error) => {
                    self.log.error(error.to_string());
                    tokio::time::sleep(self.clock.scaled(2.0).max(Duration::from_millis(10))).await;
                }
            }
        }
    }

    fn creating(&self, pod: &Value) -> Value {
        let now = kubernetes_now();
        let names = names(pod);
        let message = format!("containers with unready status: [{}]", names.join(" "));
        let condition = |kind: &str, status: &str| {
            let mut condition = json!({"type": kind, "status": status, "lastProbeTime": null,
                "lastTransitionTime": now});
            if status == "False" {
                condition["reason"] = "ContainersNotReady".into();
                condition["message"] = message.clone().into();
            }
            condition
        };
        let containers = containers(pod, |container| {
            json!({"name": container["name"], "state": {"waiting": {"reason": "ContainerCreating"}},
                "lastState": {}, "ready": false, "restartCount": 0, "image": container["image"], "imageID": "",
                "started": false})
        });
        json!({
            "phase": "Pending",
            "conditions": [condition("Initialized", "True"), condition("Ready", "False"),
                condition("ContainersReady", "False"), condition("PodScheduled", "True")],
            "hostIP": self.address,
            "startTime": now,
            "containerStatuses": containers,
        })
    }

    fn running(&self, pod: &Value) -> Value {
        let now = kubernetes_now();
        let host = self.addresses.take(&uid(pod));
        let address = if pod["spec"]["hostNetwork"] == true {
            self.address.clone()
        } else {
            pod["status"]["podIP"]
                .as_str()
                .map_or_else(|| self.pod_address(host), str::to_owned)
        };
        let condition = |kind: &str| {
            json!({"type": kind, "status": "True", "lastProbeTime": null, "lastTransitionTime": now,
                "reason": null, "message": null})
        };
        let containers = containers(pod, |container| {
            let image = text(&container["image"]);
            let id = token::hash(format!("{}{}", uid(pod), container["name"]).as_bytes());
            json!({"name": container["name"], "state": {"running": {"startedAt": now}, "waiting": null},
                "lastState": {}, "ready": true, "restartCount": 0, "image": image,
                "imageID": format!("sha256:{}", token::hash(image.as_bytes())),
                "containerID": format!("containerd://{id}"), "started": true})
        });
        json!({
            "phase": "Running",
            "conditions": [condition("Initialized"), condition("Ready"), condition("ContainersReady"),
                condition("PodScheduled")],
            "hostIP": self.address,
            "podIP": address,
            "podIPs": [{"ip": address}],
            "startTime": pod["status"]["startTime"].as_str().unwrap_or(&now),
            "containerStatuses": containers,
        })
    }

    // From flannel's own file, which says the node's subnet.
    fn pod_address(&self, host: u8) -> String {
        let lease = std::fs::read_to_string(self.root.join("run/flannel/subnet.env"));
        let subnet = lease
            .unwrap_or_default()
            .lines()
            .find_map(|line| line.strip_prefix("FLANNEL_SUBNET=").map(str::to_owned))
            .unwrap_or_else(|| "10.42.0.1/24".into());
        let network = subnet
            .rsplit_once('.')
            .map_or("10.42.0", |(network, _)| network);
        format!("{network}.{host}")
    }
}

fn containers(pod: &Value, status: impl Fn(&Value) -> Value) -> Vec<Value> {
    let list = pod["spec"]["containers"].as_array();
    list.into_iter().flatten().map(status).collect()
}

fn names(pod: &Value) -> Vec<String> {
    let list = pod["spec"]["containers"].as_array();
    list.into_iter()
        .flatten()
        .map(|container| text(&container["name"]).to_owned())
        .collect()
}

// The directory that a helper pod makes or removes, and which of both.
fn helper(pod: &Value) -> Option<(String, bool)> {
    let name = text(&pod["metadata"]["name"]);
    let create = name.starts_with("helper-pod-create-");
    if pod["metadata"]["namespace"] != "kube-system"
        || !(create || name.starts_with("helper-pod-delete-"))
    {
        return None;
    }
    let mut variables = pod["spec"]["containers"][0]["env"].as_array()?.iter();
    let directory = variables.find(|variable| variable["name"] == "VOL_DIR")?;
    Some((directory["value"].as_str()?.to_owned(), create))
}

fn is_over(pod: &Value) -> bool {
    matches!(text(&pod["status"]["phase"]), "Succeeded" | "Failed")
}

fn object_path(pod: &Value) -> String {
    format!(
        "/api/v1/namespaces/{}/pods/{}",
        text(&pod["metadata"]["namespace"]),
        text(&pod["metadata"]["name"])
    )
}

fn uid(pod: &Value) -> String {
    text(&pod["metadata"]["uid"]).to_owned()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_kept_and_reused() {
        let addresses = Addresses::default();
        assert_eq!(addresses.take("a"), 2);
        assert_eq!(addresses.take("b"), 3);
        assert_eq!(addresses.take("a"), 2);
        addresses.free("a");
        assert_eq!(addresses.take("c"), 2);
    }

    #[test]
    fn helper_pods_name_their_directory() {
        let pod = json!({"metadata": {"namespace": "kube-system", "name": "helper-pod-delete-pvc-1"},
            "spec": {"containers": [{"env": [{"name": "VOL_DIR", "value": "/s/pvc-1"}]}]}});
        assert_eq!(helper(&pod), Some(("/s/pvc-1".into(), false)));
        let other =
            json!({"metadata": {"namespace": "default", "name": "helper-pod-delete-pvc-1"}});
        assert_eq!(helper(&other), None);
    }
}
