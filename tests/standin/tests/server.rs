//! The server in process, seen through a real TLS client: phases, files, tokens, errors, the Node's way to Ready,
//! restart.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use canasta_standin::client::{Answer, Client, Trust, basic};
use canasta_standin::kubectl;
use canasta_standin::server::{Options, Running, Server, StartError};
use canasta_standin::token;
use canasta_standin::trailer::{Faults, Profile};
use http::Method;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(20);

fn options(root: &Path) -> Options {
    let mut options = Options::new(root);
    options.node_name = Some("CP1".into());
    options.listen = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    options.scale = 0.02;
    options.arguments = vec![
        "--node-ip=10.77.0.11".into(),
        "--tls-san=203.0.113.7".into(),
    ];
    options
}

fn anonymous(running: &Running) -> Client {
    Client::new(&running.local_addr().to_string(), Trust::Anyone, None).unwrap()
}

fn admin(root: &Path) -> Option<Client> {
    kubectl::kubeconfig(&root.join("etc/rancher/k3s/k3s.yaml")).map(|(_, client)| client)
}

async fn up(root: &Path, running: &Running) -> Client {
    anonymous(running)
        .until("/ping", |answer| answer.status == 200)
        .await;
    admin(root).unwrap()
}

fn ready(node: &Value) -> Value {
    let conditions = node["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    conditions
        .into_iter()
        .find(|condition| condition["type"] == "Ready")
        .unwrap_or_default()
}

#[tokio::test]
async fn phases_come_in_the_recorded_order() {
    let root = tempfile::tempdir().unwrap();
    let notified = Arc::new(AtomicBool::new(false));
    let mut options = options(root.path());
    options.scale = 0.5;
    let notify = Arc::clone(&notified);
    options.on_ready_notify = Arc::new(move || notify.store(true, Ordering::Release));
    let running = Server::start(options).await.unwrap();
    let client = anonymous(&running);
    for path in ["/ping", "/cacerts", "/readyz", "/api/v1/nodes", "/nonsense"] {
        let answer = client.get(path).await.unwrap();
        assert_eq!(
            (answer.status.as_u16(), answer.text().as_str()),
            (503, "starting\n"),
            "{path}"
        );
    }
    assert!(admin(root.path()).is_none());

    client
        .until("/ping", |answer| {
            answer.status == 200 && answer.text() == "pong"
        })
        .await;
    let admin = admin(root.path()).expect("k3s.yaml is there when the supervisor answers");
    let nodes = admin.get("/api/v1/nodes").await.unwrap();
    assert_eq!(nodes.status, 200);
    assert_eq!(nodes.json()["items"], json!([]));
    let failing = admin.get("/readyz").await.unwrap();
    assert_eq!(failing.status, 500);
    assert!(
        failing
            .text()
            .starts_with("[+]ping ok\n[+]log ok\n[-]etcd failed: reason withheld\n")
    );
    assert!(failing.text().ends_with("readyz check failed\n"));
    for path in ["/livez", "/readyz", "/version", "/v1-k3s/readyz"] {
        assert_eq!(client.get(path).await.unwrap().status, 401, "{path}");
    }

    // READY=1 comes while /readyz still fails.
    admin
        .until("/readyz", |answer| {
            if !notified.load(Ordering::Acquire) {
                assert_eq!(answer.status, 500);
            }
            notified.load(Ordering::Acquire)
        })
        .await;
    let passing = admin.until("/readyz", |answer| answer.status == 200).await;
    assert_eq!(passing.text(), "ok");
    let verbose = admin.get("/readyz?verbose").await.unwrap().text();
    assert!(verbose.ends_with("[+]shutdown ok\nreadyz check passed\n"));
    assert_eq!(verbose.len(), 1077);
    running.shutdown().await;
}

#[tokio::test]
async fn files_and_token_have_the_recorded_forms() {
    let root = tempfile::tempdir().unwrap();
    let running = Server::start(options(root.path())).await.unwrap();
    up(root.path(), &running).await;
    let mode = |path: &str| {
        std::fs::metadata(root.path().join(path))
            .unwrap()
            .permissions()
            .mode()
            & 0o7777
    };
    for (path, expected) in [
        ("etc/rancher/k3s/k3s.yaml", 0o600),
        ("etc/rancher/node", 0o755),
        ("etc/rancher/node/password", 0o600),
        ("var/lib/rancher/k3s/server", 0o700),
        ("var/lib/rancher/k3s/server/token", 0o600),
        ("var/lib/rancher/k3s/server/cred/passwd", 0o600),
        ("var/lib/rancher/k3s/agent/client-kubelet.crt", 0o600),
        ("run/k3s", 0o711),
    ] {
        assert_eq!(mode(path), expected, "{path}");
    }
    let server = root.path().join("var/lib/rancher/k3s/server");
    let written = std::fs::read_to_string(server.join("token")).unwrap();
    assert_eq!(written.len(), 109);
    let cacerts = anonymous(&running).get("/cacerts").await.unwrap();
    let hash = token::hash(&cacerts.body);
    assert!(
        written.starts_with(&format!("K10{hash}::server:")),
        "{written}"
    );
    assert_eq!(
        std::fs::read_link(server.join("node-token")).unwrap(),
        server.join("token")
    );
    assert!(!server.join("agent-token").exists());
    running.shutdown().await;
}

#[tokio::test]
async fn supervisor_users_are_told_apart() {
    let root = tempfile::tempdir().unwrap();
    let mut options = options(root.path());
    options
        .arguments
        .push("--agent-token=only-for-agents".into());
    let running = Server::start(options).await.unwrap();
    up(root.path(), &running).await;
    let client = anonymous(&running);
    let written =
        std::fs::read_to_string(root.path().join("var/lib/rancher/k3s/server/token")).unwrap();
    let secret = written.trim().rsplit(':').next().unwrap().to_owned();
    assert_ne!(secret, "only-for-agents");
    let ask = async |user: &str, secret: &str, more: &[(&str, &str)]| {
        let credentials = basic(user, secret);
        let mut headers = vec![("Authorization", credentials.as_str())];
        headers.extend_from_slice(more);
        let path = if more.is_empty() {
            "/v1-k3s/config"
        } else {
            "/v1-k3s/serving-kubelet.crt"
        };
        let answer = client.send(Method::GET, path, &headers, "").await.unwrap();
        (answer.status.as_u16(), answer.text())
    };
    assert_eq!(ask("node", "only-for-agents", &[]).await.0, 200);
    assert_eq!(ask("node", &secret, &[]).await, (401, String::new()));
    assert_eq!(ask("server", &secret, &[]).await, (403, String::new()));
    assert_eq!(client.get("/v1-k3s/config").await.unwrap().status, 403);
    let node = |password| [("k3s-Node-Name", "w1"), ("k3s-Node-Password", password)];
    let (status, text) = ask("node", "only-for-agents", &node("right")).await;
    assert_eq!(status, 200);
    assert!(text.contains("-----BEGIN PRIVATE KEY-----"));
    assert_eq!(
        ask("node", "only-for-agents", &node("wrong")).await,
        (
            403,
            "unable to verify hash for node 'w1': hash does not match".into()
        )
    );
    assert_eq!(
        ask("node", "only-for-agents", &[("X-Other", "x")]).await,
        (400, "node name not set".into())
    );
    running.shutdown().await;
}

#[tokio::test]
async fn errors_are_those_of_the_recordings() {
    let root = tempfile::tempdir().unwrap();
    let running = Server::start(options(root.path())).await.unwrap();
    let admin = up(root.path(), &running).await;
    let anonymous = anonymous(&running);
    admin
        .until(
            "/api/v1/namespaces/default/serviceaccounts/default",
            |answer| answer.status == 200,
        )
        .await;
    let account = admin
        .get("/api/v1/namespaces/default/secrets")
        .await
        .unwrap()
        .json();
    let encoded = account["items"][0]["data"]["token"]
        .as_str()
        .unwrap()
        .to_owned();
    let bearer = {
        use base64::Engine as _;
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(encoded)
            .unwrap();
        format!("Bearer {}", String::from_utf8(bytes).unwrap())
    };
    post(
        &admin,
        "/api/v1/namespaces",
        &json!({"metadata": {"name": "err"}}),
    )
    .await;
    let created = post(
        &admin,
        "/api/v1/namespaces/err/configmaps",
        &json!({"metadata": {"name": "a"}, "data": {"k": "v"}}),
    )
    .await;
    assert_eq!(created.status, 201);

    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recordings/errors");
    let mut checked = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let recorded: Value =
            serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let method: Method = recorded["method"].as_str().unwrap().parse().unwrap();
        let mut headers = Vec::new();
        headers.extend(
            recorded["content_type"]
                .as_str()
                .map(|kind| ("Content-Type", kind)),
        );
        let mut client = &admin;
        match name.as_str() {
            "401-no-credentials" => client = &anonymous,
            "403-list-nodes" => {
                client = &anonymous;
                headers.push(("Authorization", bearer.as_str()));
            }
            "406-accept" => headers.push(("Accept", "text/html")),
            _ => {}
        }
        let body = match &recorded["body"] {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let answer = client
            .send(method, recorded["path"].as_str().unwrap(), &headers, body)
            .await
            .unwrap();
        assert_eq!(
            u64::from(answer.status.as_u16()),
            recorded["status"].as_u64().unwrap(),
            "{name}"
        );
        let expected = recorded["answer"]
            .to_string()
            .replace("err:default", "default:default");
        assert_eq!(
            answer.json(),
            serde_json::from_str::<Value>(&expected).unwrap(),
            "{name}"
        );
        checked += 1;
    }
    assert_eq!(checked, 14);
    assert_eq!(
        anonymous.get("/readyz").await.unwrap().text(),
        "{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"metadata\":{},\"status\":\"Failure\",\"message\":\"Unauthorized\",\
         \"reason\":\"Unauthorized\",\"code\":401}\n"
    );
    let group = admin.get("/apis/nothing.example/v1").await.unwrap();
    assert_eq!(
        (group.status.as_u16(), group.text().as_str()),
        (404, "404 page not found\n")
    );
    running.shutdown().await;
}

async fn post(client: &Client, path: &str, body: &Value) -> Answer {
    let headers = [("Content-Type", "application/json")];
    client
        .send(Method::POST, path, &headers, body.to_string())
        .await
        .unwrap()
}

#[tokio::test]
async fn a_watch_sees_the_node_become_ready() {
    let root = tempfile::tempdir().unwrap();
    let running = Server::start(options(root.path())).await.unwrap();
    let admin = up(root.path(), &running).await;
    let watch = "/api/v1/nodes?watch=true&fieldSelector=metadata.name%3Dcp1&timeoutSeconds=20";
    let mut events = admin.open(watch).await.unwrap().into_body();
    let mut seen: Vec<Value> = Vec::new();
    let mut buffer = Vec::new();
    let has_network =
        |node: &Value| node["status"]["conditions"][0]["type"] == "NetworkUnavailable";
    while !seen
        .last()
        .is_some_and(|event| has_network(&event["object"]))
    {
        let frame = tokio::time::timeout(LIMIT, events.frame())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        buffer.extend_from_slice(frame.data_ref().unwrap());
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            seen.push(serde_json::from_slice(&line).unwrap());
        }
    }
    let first = &seen[0];
    assert_eq!(first["type"], "ADDED");
    assert_eq!(first["object"]["kind"], "Node");
    assert_eq!(
        ready(&first["object"])["message"],
        "[PLEG is not healthy: pleg has yet to be successful, CSINode is not yet initialized]"
    );
    let taints = &first["object"]["spec"]["taints"];
    assert_eq!(
        taints[0]["key"],
        "node.cloudprovider.kubernetes.io/uninitialized"
    );
    assert_eq!(taints[1]["key"], "node.kubernetes.io/not-ready");
    let turned = seen
        .iter()
        .position(|event| ready(&event["object"])["status"] == "True")
        .unwrap();
    assert!(turned > 1);
    assert!(
        seen[..turned]
            .iter()
            .all(|event| ready(&event["object"])["status"] == "False")
    );
    let last = &seen.last().unwrap()["object"];
    assert_eq!(ready(last)["reason"], "KubeletReady");
    assert_eq!(last["spec"]["podCIDR"], "10.42.0.0/24");
    assert_eq!(last["spec"].get("taints"), None);
    assert_eq!(
        last["metadata"]["labels"]["node-role.kubernetes.io/control-plane"],
        "true"
    );
    assert_eq!(
        last["metadata"]["annotations"]["k3s.io/internal-ip"],
        "10.77.0.11"
    );
    assert!(root.path().join("run/flannel/subnet.env").exists());
    drop(events);

    let patched = admin
        .send(
            Method::PATCH,
            "/api/v1/nodes/cp1",
            &[("Content-Type", "application/strategic-merge-patch+json")],
            json!({"spec": {"unschedulable": true}}).to_string(),
        )
        .await
        .unwrap();
    assert_eq!(patched.json()["spec"]["unschedulable"], true);
    let output = kubectl::run(
        &root.path().join("etc/rancher/k3s/k3s.yaml"),
        &["get".into(), "nodes".into()],
    )
    .await;
    assert!(
        output
            .stdout
            .contains("cp1    Ready,SchedulingDisabled   control-plane,master"),
        "{output:?}"
    );
    let gone = admin
        .send(Method::DELETE, "/api/v1/nodes/cp1", &[], "")
        .await
        .unwrap();
    assert_eq!(gone.json()["kind"], "Node");
    let secret = "/api/v1/namespaces/kube-system/secrets/cp1.node-password.k3s";
    assert_eq!(admin.get(secret).await.unwrap().status, 404);
    running.shutdown().await;
}

#[tokio::test]
async fn a_restart_keeps_authority_token_and_node_which_is_not_ready_for_a_while() {
    let root = tempfile::tempdir().unwrap();
    let manifests = root.path().join("var/lib/rancher/k3s/server/manifests");
    std::fs::create_dir_all(&manifests).unwrap();
    std::fs::write(
        manifests.join("traefik.yaml"),
        "apiVersion: helm.cattle.io/v1\nkind: HelmChartConfig\nmetadata:\n  name: traefik\n  namespace: kube-system\n\
         spec:\n  valuesContent: |-\n    service: {}\n",
    )
    .unwrap();
    let running = Server::start(options(root.path())).await.unwrap();
    let admin = up(root.path(), &running).await;
    let node = admin
        .until("/api/v1/nodes/cp1", |answer| {
            ready(&answer.json())["status"] == "True"
        })
        .await;
    let configs = "/apis/helm.cattle.io/v1/namespaces/kube-system/helmchartconfigs";
    assert_eq!(
        admin.get(configs).await.unwrap().json()["items"][0]["metadata"]["name"],
        "traefik"
    );
    let cacerts = anonymous(&running).get("/cacerts").await.unwrap().text();
    let token_path = root.path().join("var/lib/rancher/k3s/server/token");
    let written = std::fs::read_to_string(&token_path).unwrap();
    running.shutdown().await;

    let mut slower = options(root.path());
    slower.scale = 0.1;
    let running = Server::start(slower).await.unwrap();
    let again = up(root.path(), &running).await;
    assert_eq!(
        anonymous(&running).get("/cacerts").await.unwrap().text(),
        cacerts
    );
    assert_eq!(std::fs::read_to_string(&token_path).unwrap(), written);
    let kept = again.get("/api/v1/nodes/cp1").await.unwrap().json();
    assert_eq!(kept["metadata"]["uid"], node.json()["metadata"]["uid"]);
    assert_eq!(ready(&kept)["status"], "True");
    again
        .until("/api/v1/nodes/cp1", |answer| {
            ready(&answer.json())["status"] == "False"
        })
        .await;
    again
        .until("/api/v1/nodes/cp1", |answer| {
            ready(&answer.json())["status"] == "True"
        })
        .await;
    running.shutdown().await;
}

#[tokio::test]
async fn a_taken_port_is_the_real_programs_fatal_line() {
    let root = tempfile::tempdir().unwrap();
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut options = options(root.path());
    options.listen = Some(taken.local_addr().unwrap());
    let error = Server::start(options).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "listen tcp {}: bind: address already in use",
            taken.local_addr().unwrap()
        )
    );
}

#[tokio::test]
async fn faults_strike() {
    let root = tempfile::tempdir().unwrap();
    let mut broken = options(root.path());
    broken.faults = Faults {
        exit_after_ms: Some(1500),
        exit_code: Some(2),
        exit_message: Some("no luck".into()),
        ..Faults::default()
    };
    let mut running = Server::start(broken.clone()).await.unwrap();
    let exit = tokio::time::timeout(LIMIT, running.exited()).await.unwrap();
    assert_eq!((exit.code, exit.message.as_str()), (2, "no luck"));
    broken.faults.exit_after_ms = Some(0);
    assert!(matches!(
        Server::start(broken.clone()).await,
        Err(StartError::Exit(_))
    ));

    let root = tempfile::tempdir().unwrap();
    let mut broken = options(root.path());
    broken.faults = Faults {
        node_never_ready: true,
        ..Faults::default()
    };
    let running = Server::start(broken).await.unwrap();
    let admin = up(root.path(), &running).await;
    admin.until("/readyz", |answer| answer.status == 200).await;
    let node = admin
        .until("/api/v1/nodes/cp1", |answer| {
            answer.json()["metadata"]["labels"]["node-role.kubernetes.io/master"] == "true"
        })
        .await;
    assert_eq!(ready(&node.json())["status"], "False");
    running.shutdown().await;
}

#[tokio::test]
async fn the_documented_profile_has_a_readiness_path_and_an_agent_token() {
    let root = tempfile::tempdir().unwrap();
    let mut options = options(root.path());
    options.profile = Profile::Documented;
    options.scale = 0.2;
    options
        .arguments
        .push("--agent-token=only-for-agents".into());
    let running = Server::start(options).await.unwrap();
    let admin = up(root.path(), &running).await;
    let client = anonymous(&running);
    let credentials = basic("node", "only-for-agents");
    let ask = async || {
        let headers = [("Authorization", credentials.as_str())];
        let answer = client
            .send(Method::GET, "/v1-k3s/readyz", &headers, "")
            .await;
        answer.unwrap().status.as_u16()
    };
    assert_eq!(ask().await, 503);
    assert_eq!(client.get("/v1-k3s/readyz").await.unwrap().status, 403);
    admin.until("/readyz", |answer| answer.status == 200).await;
    assert_eq!(ask().await, 200);
    let written =
        std::fs::read_to_string(root.path().join("var/lib/rancher/k3s/server/agent-token"))
            .unwrap();
    assert!(written.ends_with("::node:only-for-agents\n"));
    running.shutdown().await;
}

#[tokio::test]
async fn a_server_that_never_gets_ready_still_notifies() {
    let root = tempfile::tempdir().unwrap();
    let notified = Arc::new(tokio::sync::Notify::new());
    let notify = Arc::clone(&notified);
    let mut options = options(root.path());
    options.on_ready_notify = Arc::new(move || notify.notify_one());
    options.faults.never_ready = true;
    let running = Server::start(options).await.unwrap();
    tokio::time::timeout(LIMIT, notified.notified())
        .await
        .unwrap();
    let admin = admin(root.path()).unwrap();
    let answer = admin.get("/readyz").await.unwrap();
    assert_eq!(answer.status, 500);
    assert!(
        answer
            .text()
            .contains("[-]poststarthook/rbac/bootstrap-roles failed: reason withheld\n")
    );
    assert_eq!(
        admin.get("/api/v1/nodes").await.unwrap().json()["items"],
        json!([])
    );
    running.shutdown().await;
}
