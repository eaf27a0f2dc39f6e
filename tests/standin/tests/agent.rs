//! An agent joins a server in process: tokens checked for real, the Node through its life, the texts of failed joins.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use canasta_standin::agent::{self, Agent};
use canasta_standin::client::{Client, Trust};
use canasta_standin::log::Log;
use canasta_standin::server::{Options, Running, Server};
use canasta_standin::trailer::Profile;
use canasta_standin::{bootstrap, kubectl, node};
use http::Method;

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
    server_of(Profile::Recorded, root).await
}

async fn server_of(profile: Profile, root: &Path) -> (Running, Client, String) {
    let mut options = Options::new(root);
    options.profile = profile;
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

async fn node_is(admin: &Client, name: &str, wanted: &str) -> bool {
    let answer = admin.get(&format!("/api/v1/nodes/{name}")).await;
    answer.is_ok_and(|answer| node::ready_status(&answer.json()) == wanted)
}

async fn token(root: &Path, arguments: &[&str]) -> kubectl::Output {
    let arguments: Vec<String> = arguments.iter().map(|word| (*word).to_owned()).collect();
    bootstrap::command::run(&root.join("etc/rancher/k3s/k3s.yaml"), &arguments).await
}

#[tokio::test]
async fn a_bootstrap_token_joins_until_it_ends_and_members_restart_without_it() {
    let (root, worker) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (server, admin, _) = server_of(Profile::Documented, root.path()).await;
    let created = token(
        root.path(),
        &["create", "--ttl", "10m", "--description", "w1"],
    )
    .await;
    assert_eq!(created.code, 0, "{created:?}");
    let text = created.stdout.trim().to_owned();
    let id = text[text.len() - 23..].split('.').next().unwrap();
    assert!(token(root.path(), &["list"]).await.stdout.contains(id));
    let documented = |directory: &Path, name: &str| {
        let mut options = options(directory, &server, &text);
        options.node_name = Some(name.into());
        options.profile = Profile::Documented;
        options
    };
    let agent = Agent::start(documented(worker.path(), "w1")).await.unwrap();
    eventually("Ready", async || node_is(&admin, "w1", "True").await).await;
    agent.shutdown().await;

    let deleted = token(root.path(), &["delete", id]).await;
    assert_eq!(
        deleted.stdout,
        format!("bootstrap token \"{id}\" deleted\n")
    );
    let agent = Agent::start(documented(worker.path(), "w1")).await.unwrap();
    eventually("NotReady", async || node_is(&admin, "w1", "False").await).await;
    eventually("Ready", async || node_is(&admin, "w1", "True").await).await;
    agent.shutdown().await;

    let refused = async |options: agent::Options, expected: &str| {
        let (log, lines) = Log::captured();
        let agent = Agent::start(agent::Options { log, ..options })
            .await
            .unwrap();
        eventually(expected, async || {
            let lines = lines.lock().unwrap();
            lines.iter().any(|(_, line)| line.contains(expected))
        })
        .await;
        agent.shutdown().await;
    };
    let other = tempfile::tempdir().unwrap();
    refused(
        documented(other.path(), "w2"),
        "/v1-k3s/config: 401 Unauthorized",
    )
    .await;
    let mut nothing = documented(worker.path(), "w1");
    nothing.arguments.remove(1);
    refused(nothing, "token must not be empty").await;
    // A Node that was deleted needs a token that is good.
    admin
        .send(Method::DELETE, "/api/v1/nodes/w1", &[], "")
        .await
        .unwrap();
    refused(documented(worker.path(), "w1"), "401 Unauthorized").await;
    assert_eq!(admin.get("/api/v1/nodes/w1").await.unwrap().status, 404);
    server.shutdown().await;
}

#[tokio::test]
async fn an_expired_bootstrap_token_is_refused_and_its_secret_goes() {
    let root = tempfile::tempdir().unwrap();
    let (server, admin, _) = server_of(Profile::Documented, root.path()).await;
    let created = token(root.path(), &["create", "--ttl=1s"]).await;
    let text = created.stdout.trim().to_owned();
    let bearer = format!("Bearer {}", &text[text.len() - 23..]);
    let client = Client::new(&server.local_addr().to_string(), Trust::Anyone, None).unwrap();
    let status = async || {
        let headers = [("Authorization", bearer.as_str())];
        let answer = client
            .send(Method::GET, "/v1-k3s/config", &headers, "")
            .await;
        answer.unwrap().status.as_u16()
    };
    assert_eq!(status().await, 200);
    eventually("401", async || status().await == 401).await;
    let secrets = "/api/v1/namespaces/kube-system/secrets?fieldSelector=type%3Dbootstrap.kubernetes.io%2Ftoken";
    eventually("swept", async || {
        admin.get(secrets).await.unwrap().json()["items"] == serde_json::json!([])
    })
    .await;
    server.shutdown().await;
}

#[tokio::test]
async fn a_node_that_was_deleted_comes_back_with_another_subnet_after_a_restart() {
    let (root, worker) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (server, admin, token) = server(root.path()).await;
    let agent = Agent::start(options(worker.path(), &server, &token))
        .await
        .unwrap();
    eventually("Ready", async || node_is(&admin, "w1", "True").await).await;
    let secret = "/api/v1/namespaces/kube-system/secrets/w1.node-password.k3s";
    let stored = admin.get(secret).await.unwrap().json();
    assert_eq!(stored["type"], "Opaque");
    assert_eq!(stored["immutable"], true);
    let subnet =
        async || admin.get("/api/v1/nodes/w1").await.unwrap().json()["spec"]["podCIDR"].clone();
    let before = subnet().await;
    admin
        .send(Method::DELETE, "/api/v1/nodes/w1", &[], "")
        .await
        .unwrap();
    assert_eq!(admin.get(secret).await.unwrap().status, 404);
    agent.shutdown().await;
    // An OS that was installed anew has another password, which is no fault once the Node is gone.
    std::fs::remove_file(worker.path().join("etc/rancher/node/password")).unwrap();
    let agent = Agent::start(options(worker.path(), &server, &token))
        .await
        .unwrap();
    eventually("Ready again", async || node_is(&admin, "w1", "True").await).await;
    assert_ne!(subnet().await, before);
    agent.shutdown().await;
    server.shutdown().await;
}
