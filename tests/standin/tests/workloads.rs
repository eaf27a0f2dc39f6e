//! Pods, budgets, eviction, volumes and the patches of a Node, seen through a real TLS client as a drain sees them.

use std::net::SocketAddr;
use std::path::Path;

use canasta_standin::agent::{self, Agent};
use canasta_standin::client::{Answer, Client, Trust};
use canasta_standin::server::{Options, Running, Server};
use canasta_standin::trailer::Profile;
use canasta_standin::{kubectl, node};
use http::Method;
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/default/pods";

/// A server whose own node is ready and whose default service account is there.
async fn ready_server(root: &Path, profile: Profile) -> (Running, Client) {
    let mut options = Options::new(root);
    options.profile = profile;
    options.node_name = Some("cp1".into());
    options.listen = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    options.scale = 0.02;
    options.arguments = vec!["--node-ip=10.77.0.11".into()];
    let running = Server::start(options).await.unwrap();
    let anyone = Client::new(&running.local_addr().to_string(), Trust::Anyone, None).unwrap();
    anyone.until("/ping", |answer| answer.status == 200).await;
    let (_, admin) = kubectl::kubeconfig(&root.join("etc/rancher/k3s/k3s.yaml")).unwrap();
    admin
        .until("/api/v1/nodes/cp1", |answer| {
            node::ready_status(&answer.json()) == "True"
        })
        .await;
    let account = "/api/v1/namespaces/default/serviceaccounts/default";
    admin.until(account, |answer| answer.status == 200).await;
    (running, admin)
}

async fn send(client: &Client, method: Method, path: &str, kind: &str, body: &Value) -> Answer {
    let headers = [("Content-Type", kind)];
    client
        .send(method, path, &headers, body.to_string())
        .await
        .unwrap()
}

async fn post(client: &Client, path: &str, body: &Value) -> Answer {
    send(client, Method::POST, path, "application/json", body).await
}

fn pod(name: &str, spec: Value) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": "busybox:1.32.1"}]}});
    for (field, value) in spec.as_object().unwrap() {
        pod["spec"][field] = value.clone();
    }
    pod
}

fn is_running(answer: &Answer) -> bool {
    let pod = answer.json();
    let conditions = pod["status"]["conditions"].as_array().cloned();
    pod["status"]["phase"] == "Running"
        && conditions
            .into_iter()
            .flatten()
            .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

#[tokio::test]
async fn a_pod_is_placed_runs_and_goes() {
    let root = tempfile::tempdir().unwrap();
    let (running, admin) = ready_server(root.path(), Profile::Recorded).await;
    let created = post(&admin, PODS, &pod("a", json!({}))).await;
    assert_eq!(created.status, 201);
    assert_eq!(
        created.json()["status"],
        json!({"phase": "Pending", "qosClass": "BestEffort"})
    );
    let answer = admin.until(&format!("{PODS}/a"), is_running).await.json();
    assert_eq!(answer["spec"]["nodeName"], "cp1");
    assert_eq!(answer["status"]["hostIP"], "10.77.0.11");
    assert!(
        answer["status"]["podIP"]
            .as_str()
            .unwrap()
            .starts_with("10.42.0.")
    );
    let of_node = |name: &str| format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{name}");
    let listed = admin.get(&of_node("cp1")).await.unwrap().json();
    assert!(
        listed["items"]
            .as_array()
            .unwrap()
            .iter()
            .any(|pod| pod["metadata"]["name"] == "a")
    );
    assert_eq!(
        admin.get(&of_node("w9")).await.unwrap().json()["items"],
        json!([])
    );

    // A status is nobody's but the kubelet's, and through its own path.
    let path = format!("{PODS}/a");
    let patch = json!({"status": {"phase": "Failed"}});
    let kept = send(
        &admin,
        Method::PATCH,
        &path,
        "application/merge-patch+json",
        &patch,
    )
    .await;
    assert_eq!(kept.json()["status"]["phase"], "Running");
    let deleted = admin.send(Method::DELETE, &path, &[], "").await.unwrap();
    assert_eq!(deleted.json()["kind"], "Pod");
    assert_eq!(deleted.json()["metadata"]["deletionGracePeriodSeconds"], 1);
    admin.until(&path, |answer| answer.status == 404).await;

    let stuck = pod(
        "b",
        json!({"nodeSelector": {"kubernetes.io/hostname": "w9"}}),
    );
    post(&admin, PODS, &stuck).await;
    let waiting = admin
        .until(&format!("{PODS}/b"), |answer| {
            answer.json()["status"]["conditions"][0]["reason"] == "Unschedulable"
        })
        .await;
    assert_eq!(
        waiting.json()["status"]["conditions"][0]["message"],
        "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."
    );
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "b"},
        "target": {"kind": "Node", "name": "cp1"}});
    assert_eq!(
        post(&admin, &format!("{PODS}/b/binding"), &binding)
            .await
            .status,
        201
    );
    admin.until(&format!("{PODS}/b"), is_running).await;
    running.shutdown().await;
}

fn eviction(version: &str, name: &str) -> Value {
    json!({"apiVersion": version, "kind": "Eviction", "metadata": {"name": name, "namespace": "default"}})
}

/// The body that was recorded for a name, with the pod's name put in.
fn recorded(name: &str) -> Value {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../recordings/eviction/{name}.json"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[tokio::test]
async fn budgets_hold_pods_and_evictions_are_answered_as_recorded() {
    let root = tempfile::tempdir().unwrap();
    let (running, admin) = ready_server(root.path(), Profile::Recorded).await;
    post(&admin, PODS, &pod("one", json!({}))).await;
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "one"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "one"}}}});
    assert_eq!(post(&admin, budgets, &budget).await.status, 201);
    admin.until(&format!("{PODS}/one"), is_running).await;
    let path = format!("{PODS}/one/eviction");
    let newer = post(&admin, &path, &eviction("policy/v1", "one")).await;
    assert_eq!(
        (newer.status.as_u16(), newer.json()),
        (400, recorded("400-policy-v1"))
    );
    let held = post(&admin, &path, &eviction("policy/v1beta1", "one")).await;
    assert_eq!(
        (held.status.as_u16(), held.json()),
        (429, recorded("429-blocked-by-pdb"))
    );
    let status = admin
        .until(&format!("{budgets}/one"), |answer| {
            answer.json()["status"]["currentHealthy"] == 1
        })
        .await
        .json();
    assert_eq!(status["status"]["disruptionsAllowed"], 0);
    assert_eq!(
        status["status"]["conditions"][0]["reason"],
        "InsufficientPods"
    );
    let beta = admin
        .get("/apis/policy/v1beta1/namespaces/default/poddisruptionbudgets/one")
        .await
        .unwrap();
    assert_eq!(beta.json()["apiVersion"], "policy/v1beta1");

    let mut second = pod("two", json!({}));
    second["metadata"]["labels"]["app"] = "one".into();
    post(&admin, PODS, &second).await;
    admin.until(&format!("{PODS}/two"), is_running).await;
    let granted = post(&admin, &path, &eviction("policy/v1beta1", "one")).await;
    assert_eq!(
        (granted.status.as_u16(), granted.json()),
        (201, recorded("201-evicted"))
    );
    // The one that is going counts no more.
    let other = post(
        &admin,
        &format!("{PODS}/two/eviction"),
        &eviction("policy/v1beta1", "two"),
    )
    .await;
    assert_eq!(other.status, 429);
    admin
        .until(&format!("{PODS}/one"), |answer| answer.status == 404)
        .await;
    let gone = post(
        &admin,
        &format!("{PODS}/gone/eviction"),
        &eviction("policy/v1beta1", "gone"),
    )
    .await;
    assert_eq!(
        (gone.status.as_u16(), gone.json()),
        (404, recorded("404-evict-missing"))
    );
    running.shutdown().await;
}

#[tokio::test]
async fn newer_releases_announce_and_take_policy_v1() {
    let root = tempfile::tempdir().unwrap();
    let (running, admin) = ready_server(root.path(), Profile::Documented).await;
    let version = async |client: &Client| {
        let list = client.get("/api/v1").await.unwrap().json();
        let resources = list["resources"].as_array().unwrap().clone();
        let eviction = resources
            .into_iter()
            .find(|entry| entry["name"] == "pods/eviction");
        eviction.unwrap()["version"].clone()
    };
    assert_eq!(version(&admin).await, "v1");
    assert_eq!(admin.get("/apis/policy/v1beta1").await.unwrap().status, 404);
    assert!(
        !admin
            .get("/apis")
            .await
            .unwrap()
            .text()
            .contains("policy/v1beta1")
    );
    post(&admin, PODS, &pod("one", json!({}))).await;
    admin.until(&format!("{PODS}/one"), is_running).await;
    let path = format!("{PODS}/one/eviction");
    assert_eq!(
        post(&admin, &path, &eviction("policy/v1", "one"))
            .await
            .status,
        201
    );
    admin
        .until(&format!("{PODS}/one"), |answer| answer.status == 404)
        .await;
    running.shutdown().await;

    let root = tempfile::tempdir().unwrap();
    let (running, admin) = ready_server(root.path(), Profile::Recorded).await;
    assert_eq!(version(&admin).await, "v1beta1");
    assert_eq!(admin.get("/apis/policy/v1beta1").await.unwrap().status, 200);
    running.shutdown().await;
}

#[tokio::test]
async fn a_node_is_cordoned_by_every_kind_of_patch() {
    let root = tempfile::tempdir().unwrap();
    let (running, admin) = ready_server(root.path(), Profile::Recorded).await;
    let node = "/api/v1/nodes/cp1";
    let tainted = async |wanted: bool| {
        admin
            .until(node, |answer| {
                let taints = answer.json()["spec"]["taints"].to_string();
                taints.contains("node.kubernetes.io/unschedulable") == wanted
            })
            .await
    };
    let on = json!({"spec": {"unschedulable": true}});
    let off = json!({"spec": {"unschedulable": null}});
    for kind in [
        "application/strategic-merge-patch+json",
        "application/merge-patch+json",
    ] {
        let answer = send(&admin, Method::PATCH, node, kind, &on).await;
        assert_eq!(answer.json()["spec"]["unschedulable"], true, "{kind}");
        tainted(true).await;
        let answer = send(&admin, Method::PATCH, node, kind, &off).await;
        assert_eq!(answer.json()["spec"].get("unschedulable"), None, "{kind}");
        tainted(false).await;
    }
    let kind = "application/json-patch+json";
    let step = json!([{"op": "add", "path": "/spec/unschedulable", "value": true}]);
    assert_eq!(
        send(&admin, Method::PATCH, node, kind, &step).await.status,
        200
    );
    tainted(true).await;
    let test = json!([{"op": "test", "path": "/spec/unschedulable", "value": false}]);
    let failed = send(&admin, Method::PATCH, node, kind, &test).await;
    assert_eq!(failed.status, 422);
    assert_eq!(
        failed.json()["message"],
        "the server rejected our request due to an error in our request"
    );
    let step = json!([{"op": "remove", "path": "/spec/unschedulable"}]);
    assert_eq!(
        send(&admin, Method::PATCH, node, kind, &step).await.status,
        200
    );

    let kind = "application/apply-patch+yaml";
    let config = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "cp1"}, "spec": {"unschedulable": true}});
    let nobody = send(&admin, Method::PATCH, node, kind, &config).await;
    assert_eq!(nobody.status, 422);
    let mine = format!("{node}?fieldManager=mine");
    assert_eq!(
        send(&admin, Method::PATCH, &mine, kind, &config)
            .await
            .status,
        200
    );
    tainted(true).await;
    let other = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "cp1"}, "spec": {"unschedulable": false}});
    let theirs = format!("{node}?fieldManager=theirs");
    let conflict = send(&admin, Method::PATCH, &theirs, kind, &other).await;
    assert_eq!(conflict.status, 409);
    assert_eq!(
        conflict.json()["details"]["causes"],
        json!([{"reason": "FieldManagerConflict", "message": "conflict with \"mine\"", "field": ".spec.unschedulable"}])
    );
    let nothing = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "cp1"}});
    let released = send(&admin, Method::PATCH, &mine, kind, &nothing).await;
    assert_eq!(released.json()["spec"].get("unschedulable"), None);
    assert!(released.json()["spec"]["podCIDR"].is_string());
    running.shutdown().await;
}

#[tokio::test]
async fn a_claim_is_filled_on_the_node_of_its_pod_and_emptied_with_it() {
    let (root, worker) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (running, admin) = ready_server(root.path(), Profile::Recorded).await;
    let token =
        std::fs::read_to_string(root.path().join("var/lib/rancher/k3s/server/token")).unwrap();
    let mut options = agent::Options::new(worker.path());
    options.node_name = Some("w1".into());
    options.scale = 0.02;
    options.arguments = vec![
        format!("--server=https://{}", running.local_addr()),
        format!("--token={}", token.trim()),
        "--node-ip=10.77.0.12".into(),
    ];
    let agent = Agent::start(options.clone()).await.unwrap();
    admin
        .until("/api/v1/nodes/w1", |answer| {
            node::ready_status(&answer.json()) == "True"
        })
        .await;
    admin
        .until(
            "/apis/storage.k8s.io/v1/storageclasses/local-path",
            |answer| answer.status == 200,
        )
        .await;
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "10Mi"}}}});
    let made = post(&admin, claims, &claim).await.json();
    assert_eq!(made["spec"]["storageClassName"], "local-path");
    assert_eq!(made["status"]["phase"], "Pending");
    let user = pod(
        "pv",
        json!({"nodeSelector": {"kubernetes.io/hostname": "w1"},
        "volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "data"}}]}),
    );
    post(&admin, PODS, &user).await;
    admin.until(&format!("{PODS}/pv"), is_running).await;
    let bound = admin.get(&format!("{claims}/data")).await.unwrap().json();
    assert_eq!(bound["status"]["phase"], "Bound");
    let volume = bound["spec"]["volumeName"].as_str().unwrap();
    assert_eq!(
        volume,
        format!("pvc-{}", bound["metadata"]["uid"].as_str().unwrap())
    );
    let volumes = format!("/api/v1/persistentvolumes/{volume}");
    let stored = admin.get(&volumes).await.unwrap().json();
    let path = stored["spec"]["hostPath"]["path"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(
        path,
        format!("/var/lib/rancher/k3s/storage/{volume}_default_data")
    );
    assert_eq!(
        stored["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"][0]["matchExpressions"][0],
        json!({"key": "kubernetes.io/hostname", "operator": "In", "values": ["w1"]})
    );
    let directory = worker.path().join(path.trim_start_matches('/'));
    assert!(directory.is_dir());
    assert!(!root.path().join(path.trim_start_matches('/')).exists());

    // Its claim is protected while the pod uses it.
    let deleted = admin
        .send(Method::DELETE, &format!("{claims}/data"), &[], "")
        .await
        .unwrap();
    assert!(deleted.json()["metadata"]["deletionTimestamp"].is_string());
    // Without its agent the pod can't end, and the volume stays.
    agent.shutdown().await;
    admin
        .send(Method::DELETE, &format!("{PODS}/pv"), &[], "")
        .await
        .unwrap();
    assert_eq!(
        admin.get(&format!("{claims}/data")).await.unwrap().status,
        200
    );
    let agent = Agent::start(options).await.unwrap();
    admin
        .until(&format!("{claims}/data"), |answer| answer.status == 404)
        .await;
    admin.until(&volumes, |answer| answer.status == 404).await;
    assert!(!directory.exists());
    agent.shutdown().await;
    running.shutdown().await;
}
