//! An agent joins a server in process: tokens checked for real, the Node through its life, the texts of failed joins.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use canasta_standin::agent::{self, Agent};
use canasta_standin::client::{Client, Trust};
use canasta_standin::log::Log;
use canasta_standin::server::{Options, Running, Server};
use canasta_standin::{kubectl, node};

const LIMIT: Duration = Duration::from_secs(20);

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    tokio::time::timeout(LIMIT, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("{what}: never"));
}

async fn server(root: &Path) -> (Running, Client, String) {
    let mut options = Options::new(root);
    options.node_name = Some("cp1".into());
    options.listen = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    options.scale = 0.02;
    let running = Server::start(options).await.unwrap();
    let client = Client::new(&running.local_addr().to_string(), Trust::Anyone, None).unwrap();
    eventually("ping", async || {
        client
            .get("/ping")
            .await
            .is_ok_and(|answer| answer.status == 200)
    })
    .await;
    let (_, admin) = kubectl::kubeconfig(&root.join("etc/rancher/k3s/k3s.yaml")).unwrap();
    let token = std::fs::read_to_string(root.join("var/lib/rancher/k3s/server/token")).unwrap();
    (running, admin, token.trim().to_owned())
}

fn options(root: &Path, server: &Running, token: &str) -> agent::Options {
    let mut options = agent::Options::new(root);
    options.node_name = Some("w1".into());
    options.scale = 0.02;
    options.arguments = vec![
        format!("--server=https://{}", server.local_addr()),
        format!("--token={token}"),
        "--node-ip=10.77.0.12".into(),
    ];
    options
}

#[tokio::test]
async fn a_node_joins_and_is_unknown_when_its_agent_stops() {
    let (root, worker) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (server, admin, token) = server(root.path()).await;
    let agent = Agent::start(options(worker.path(), &server, &token))
        .await
        .unwrap();
    let status = async |wanted: &str| {
        let answer = admin.get("/api/v1/nodes/w1").await;
        answer.is_ok_and(|answer| node::ready_status(&answer.json()) == wanted)
    };
    eventually("NotReady", async || status("False").await).await;
    eventually("Ready", async || status("True").await).await;
    let object = admin.get("/api/v1/nodes/w1").await.unwrap().json();
    assert_eq!(object["status"]["addresses"][0]["address"], "10.77.0.12");
    assert_eq!(
        object["metadata"]["labels"].get("node-role.kubernetes.io/master"),
        None
    );
    assert!(worker.path().join("run/flannel/subnet.env").exists());

    agent.shutdown().await;
    eventually("Unknown", async || status("Unknown").await).await;
    let agent = Agent::start(options(worker.path(), &server, &token))
        .await
        .unwrap();
    eventually("Ready again", async || status("True").await).await;
    agent.shutdown().await;
    server.shutdown().await;
}

#[tokio::test]
async fn bad_joins_say_what_the_recordings_say() {
    let root = tempfile::tempdir().unwrap();
    let (server, _, token) = server(root.path()).await;
    let (hash, secret) = (token[3..67].to_owned(), token[75..].to_owned());
    let other_hash = "6ef485a3bab0ec595fe667aad8518ca986af95d198d45a15746c2032df05a125";
    let cases = [
        (
            format!("K10{hash}::server:{}", "0".repeat(32)),
            "/v1-k3s/config: 401 Unauthorized".to_owned(),
        ),
        (
            format!("K10{other_hash}::server:{secret}"),
            format!(
                "token CA hash does not match the Cluster CA certificate hash: {other_hash} != {hash}"
            ),
        ),
        ("K10abc".to_owned(), "invalid token format".to_owned()),
        (
            "wrong".to_owned(),
            "/v1-k3s/config: 401 Unauthorized".to_owned(),
        ),
    ];
    for (bad, expected) in cases {
        let worker = tempfile::tempdir().unwrap();
        let (log, lines) = Log::captured();
        let mut options = options(worker.path(), &server, &bad);
        options.log = log;
        let agent = Agent::start(options).await.unwrap();
        let count = || {
            lines
                .lock()
                .unwrap()
                .iter()
                .filter(|(_, line)| line.ends_with(&expected))
                .count()
        };
        // It retries for ever.
        eventually(&expected, async || count() >= 2).await;
        assert!(!worker.path().join("etc/rancher/node/password").exists());
        agent.shutdown().await;
    }

    let worker = tempfile::tempdir().unwrap();
    let (log, lines) = Log::captured();
    let mut same_name = options(worker.path(), &server, &token);
    same_name.node_name = Some("cp1".into());
    same_name.log = log;
    // The server's own password must be known first.
    let (_, admin) = kubectl::kubeconfig(&root.path().join("etc/rancher/k3s/k3s.yaml")).unwrap();
    let secret = "/api/v1/namespaces/kube-system/secrets/cp1.node-password.k3s";
    eventually("password", async || {
        admin
            .get(secret)
            .await
            .is_ok_and(|answer| answer.status == 200)
    })
    .await;
    let agent = Agent::start(same_name).await.unwrap();
    eventually("rejected", async || {
        lines
            .lock()
            .unwrap()
            .iter()
            .any(|(_, line)| line.contains("Node password rejected, duplicate hostname"))
    })
    .await;
    agent.shutdown().await;

    let mut missing = options(worker.path(), &server, &token);
    missing.arguments.remove(1);
    assert_eq!(
        Agent::start(missing).await.unwrap_err().to_string(),
        "--token is required"
    );
    server.shutdown().await;
}
