//! What a server hands out, by what its k3s and its files hold; what a node keeps.

use canasta_host::fake::FakeHost;
use canasta_host::systemd::Unit;

use super::*;
use crate::k3s::record::{Origin, Record};

const CA: &str = "the CA of the cluster";
const MINUTE: Duration = Duration::from_mins(1);

/// A server whose k3s is this script.
async fn server(script: &str) -> FakeHost {
    let fake = FakeHost::new("cp1");
    let root = &fake.root;
    root.write(paths::BINARY, format!("#!/bin/sh\n{script}\n"), 0o755)
        .await
        .unwrap();
    root.write(paths::SERVER_CA, CA, 0o600).await.unwrap();
    root.write(
        paths::SERVER_TOKEN,
        format!("K10{}::server:serversecret\n", sha256(CA.as_bytes())),
        0o600,
    )
    .await
    .unwrap();
    fake.systemd.add(Unit {
        name: paths::SERVER_UNIT.to_owned(),
        load_state: "loaded".to_owned(),
        ..Unit::default()
    });
    fake
}

/// A k3s that knows no tokens, as recorded.
const NO_TOKENS: &str = r#"echo "No help topic for 'token'"; exit 3"#;

async fn made(fake: &FakeHost) -> Result<Created, StepError> {
    create(&fake.host(), MINUTE, "join of w1").await
}

fn full(credential: &str) -> String {
    format!("K10{}::{credential}", sha256(CA.as_bytes()))
}

#[tokio::test]
async fn a_bootstrap_token_is_made_where_k3s_knows_them() {
    let whole = full("abcdef.0123456789abcdef");
    for printed in ["abcdef.0123456789abcdef", &whole] {
        let fake = server(&format!(
            r#"[ "$*" = "token create --ttl 60s --description join of w1" ] || exit 9; echo {printed}"#
        ))
        .await;
        let created = made(&fake).await.unwrap();
        assert_eq!(created.token.reveal(), whole);
        assert_eq!(created.token.bootstrap_id(), Some("abcdef"));
        assert_eq!(created.kind, JoinCredentialKind::BootstrapToken);
    }
}

#[tokio::test]
async fn a_k3s_that_fails_or_prints_something_else_is_said_without_what_it_printed() {
    let error = made(&server("echo 'the API is away' >&2; exit 1").await)
        .await
        .unwrap_err();
    assert_eq!(error.reason(), "TOKEN_CREATE_FAILED");
    assert!(error.report().message.contains("the API is away"));
    for printed in ["geheim", &full("server:geheim"), &full("node:geheim")] {
        let error = made(&server(&format!("echo {printed}")).await)
            .await
            .unwrap_err();
        assert_eq!(error.reason(), "TOKEN_CREATE_FAILED");
        assert!(!format!("{error:?}").contains("geheim"), "{error:?}");
    }
}

#[tokio::test]
async fn an_old_k3s_hands_out_its_own_agent_token() {
    let fake = server(NO_TOKENS).await;
    let none = made(&fake).await.unwrap_err();
    assert_eq!(none.reason(), "NO_JOIN_CREDENTIAL");
    assert!(none.report().hint.contains("agent-token-file"));
    assert!(none.report().hint.contains("upgrade"));
    // k3s's own file is a link to the server's token unless an agent token is set.
    std::fs::create_dir_all(fake.root.path(paths::SERVER_DIR)).unwrap();
    std::os::unix::fs::symlink(
        fake.root.path(paths::SERVER_TOKEN),
        fake.root.path(paths::SERVER_AGENT_TOKEN),
    )
    .unwrap();
    assert_eq!(
        made(&fake).await.unwrap_err().reason(),
        "NO_JOIN_CREDENTIAL"
    );
    // An agent token that is the server's is none.
    fake.root
        .write(paths::AGENT_TOKEN, "serversecret", 0o600)
        .await
        .unwrap();
    assert_eq!(
        made(&fake).await.unwrap_err().reason(),
        "NO_JOIN_CREDENTIAL"
    );

    fake.root
        .write("/etc/own", "K10ab::node:agentsecret\n", 0o600)
        .await
        .unwrap();
    fake.root
        .write(paths::CONFIG, "agent-token-file: /etc/own\n", 0o600)
        .await
        .unwrap();
    // One of ours that is not in effect any more.
    fake.root
        .write(paths::AGENT_TOKEN, "ours", 0o600)
        .await
        .unwrap();
    let created = made(&fake).await.unwrap();
    assert_eq!(created.token.reveal(), full("node:agentsecret"));
    assert_eq!(created.kind, JoinCredentialKind::AgentToken);
    assert_eq!(created.token.bootstrap_id(), None);
}

#[tokio::test]
async fn only_a_server_that_was_started_has_credentials() {
    let fake = FakeHost::new("w1");
    assert_eq!(made(&fake).await.unwrap_err().reason(), "NOT_A_SERVER");
    let fake = server(NO_TOKENS).await;
    fake.root.remove_file(paths::SERVER_CA).await.unwrap();
    assert_eq!(
        made(&fake).await.unwrap_err().reason(),
        "SERVER_NOT_STARTED"
    );
}

#[tokio::test]
async fn a_credential_is_kept_for_root_alone_and_recorded() {
    let fake = FakeHost::new("w1");
    let host = fake.host();
    let token: JoinToken = full("node:one").parse().unwrap();
    store(&host, &token).await.unwrap();
    store(&host, &token).await.unwrap();
    assert_eq!(
        fake.root.mode(paths::JOIN_TOKEN).await.unwrap(),
        Some(0o600)
    );
    let record = Record::load(&host).await.unwrap().unwrap();
    assert_eq!(record.role, Role::Agent);
    assert!(!record.is_install() && !record.restart_needed);
    assert_eq!(record.entry(paths::JOIN_TOKEN).unwrap().kind, Kind::Secret);
    assert!(record.entry("/etc/rancher/k3s").unwrap().created);
    let stored = fake.root.read_text(paths::RECORD).await.unwrap().unwrap();
    assert!(!stored.contains("node:one") && !stored.contains(&sha256(b"node:one")));

    store(&host, &full("node:two").parse().unwrap())
        .await
        .unwrap();
    let record = Record::load(&host).await.unwrap().unwrap();
    assert!(record.restart_needed, "k3s has read the old one");
    let kept = fake.root.read_text(paths::JOIN_TOKEN).await.unwrap();
    assert_eq!(kept.as_deref(), Some(full("node:two").as_str()));
}

#[tokio::test]
async fn a_file_or_a_k3s_that_is_not_ours_is_left_alone() {
    let token: JoinToken = full("node:one").parse().unwrap();
    let fake = FakeHost::new("w1");
    fake.root
        .write(paths::JOIN_TOKEN, "theirs", 0o600)
        .await
        .unwrap();
    assert_eq!(
        store(&fake.host(), &token).await.unwrap_err().reason(),
        "FILE_NOT_OURS"
    );
    assert_eq!(
        store(&server("").await.host(), &token)
            .await
            .unwrap_err()
            .reason(),
        "FOREIGN_K3S"
    );
    let fake = FakeHost::new("cp1");
    let mut record = Record::new(Origin::Installed, Role::Server);
    record.put(Owned {
        path: paths::BINARY.to_owned(),
        kind: Kind::File,
        sha256: String::new(),
        created: true,
    });
    record.save(&fake.host()).await.unwrap();
    assert_eq!(
        store(&fake.host(), &token).await.unwrap_err().reason(),
        "K3S_ROLE_CONFLICT"
    );
}
