//! An agent: what is written, when its credential goes, when it has joined, and why it can't.

use std::sync::atomic::{AtomicU16, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::k3s::credential::store;
use crate::k3s::join_token::JoinToken;

const OLD: &str = "v1.21.3+k3s1";
const AGENT: &str = "k3s-agent.service";

fn agent(version: &str) -> K3sSpec {
    K3sSpec {
        role: K3sRole::Agent.into(),
        node_name: "w1".to_owned(),
        tls_sans: Vec::new(),
        server_url: "https://192.0.2.1:6443".to_owned(),
        ..spec(version)
    }
}

fn token(secret: &str) -> JoinToken {
    format!("K10{}::node:{secret}", "0a".repeat(32))
        .parse()
        .unwrap()
}

/// A machine with a credential and an agent that was started.
async fn started(version: &str) -> FakeHost {
    let fake = FakeHost::new("w1");
    stage(&fake, version).await;
    store(&fake.host(), &token("one")).await.unwrap();
    to_start(&fake, &agent(version)).await;
    fake.systemd.clear_orders();
    fake
}

async fn give_identity(fake: &FakeHost) {
    for path in paths::KUBELET_IDENTITY {
        fake.root.write(path, "x", 0o600).await.unwrap();
    }
}

async fn config(fake: &FakeHost) -> String {
    fake.root.read_text(paths::CONFIG).await.unwrap().unwrap()
}

/// A kubelet that answers with this status; the node is configured to ask it.
async fn kubelet(fake: &FakeHost, status: u16) -> Arc<AtomicU16> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let drop_in = format!("{}/kubelet.yaml", paths::CONFIG_DROP_INS);
    let text = format!("kubelet-arg+: healthz-port={port}\n");
    fake.root.write(drop_in, text, 0o600).await.unwrap();
    let status = Arc::new(AtomicU16::new(status));
    let answers = Arc::clone(&status);
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let _question = tcp.read(&mut [0; 1024]).await;
            let code = answers.load(Ordering::SeqCst);
            let answer = format!("HTTP/1.1 {code} x\r\nContent-Length: 2\r\n\r\nok");
            let _hung_up = tcp.write_all(answer.as_bytes()).await;
        }
    });
    status
}

async fn joined(fake: &FakeHost, spec: &K3sSpec) -> Result<Done, StepError> {
    step(fake, spec, Step::Joined).await
}

#[tokio::test]
async fn where_the_cluster_keeps_volumes_is_recorded_and_what_was_known_before_stays() {
    let fake = started(V1).await;
    assert_eq!(record(&fake).await.local_paths, [""; 0]);
    for told in [&["/srv/a"][..], &["/srv/b", "/srv/a"], &[]] {
        let spec = K3sSpec {
            local_paths: told.iter().map(|&path| path.to_owned()).collect(),
            ..agent(V1)
        };
        step(&fake, &spec, Step::Config).await.unwrap();
    }
    assert_eq!(record(&fake).await.local_paths, ["/srv/a", "/srv/b"]);
    // The record of an agent that knew nothing of it.
    let text = fake.root.read_text(paths::RECORD).await.unwrap().unwrap();
    let mut older: serde_json::Value = serde_json::from_str(&text).unwrap();
    older
        .as_object_mut()
        .unwrap()
        .remove("local_paths")
        .unwrap();
    fake.root
        .write(paths::RECORD, older.to_string(), 0o600)
        .await
        .unwrap();
    assert_eq!(record(&fake).await.local_paths, [""; 0]);
}

#[tokio::test]
async fn an_agent_has_its_own_files_and_a_second_run_changes_nothing() {
    let fake = FakeHost::new("w1");
    stage(&fake, V1).await;
    store(&fake.host(), &token("one")).await.unwrap();
    let spec = agent(V1);
    let first = to_start(&fake, &spec).await;
    assert!(
        first
            .iter()
            .all(|(_, outcome, _)| *outcome == StepOutcome::Changed),
        "{first:?}"
    );
    let text = config(&fake).await;
    assert!(text.contains("token-file: /etc/rancher/k3s/join-token"));
    assert!(text.contains("server: https://192.0.2.1:6443"));
    for path in [paths::TRAEFIK_MANIFEST, paths::AGENT_TOKEN] {
        assert!(!fake.root.exists(path).await.unwrap(), "{path}");
    }
    assert!(fake.host().systemd.unit(AGENT).await.unwrap().is_active());
    let before = fake.root.read_text(paths::SNAPSHOT).await.unwrap().unwrap();
    assert!(
        !before.contains("\"/etc/rancher/k3s\""),
        "the directory came with the credential"
    );
    fake.systemd.clear_orders();
    for (which, outcome, detail) in to_start(&fake, &spec).await {
        assert_eq!(outcome, StepOutcome::Unchanged, "{which:?}: {detail}");
    }
    assert_eq!(fake.systemd.orders(), []);
    let error = step(&fake, &super::spec(V1), Step::Binary)
        .await
        .unwrap_err();
    assert_eq!(error.reason(), "K3S_ROLE_CONFLICT");
    assert_eq!(
        step(&fake, &spec, Step::ApiReady)
            .await
            .unwrap_err()
            .reason(),
        "SPEC_INVALID"
    );
}

#[tokio::test]
async fn a_credential_stays_for_root_alone_and_is_told() {
    let fake = started(V1).await;
    give_identity(&fake).await;
    let done = step(&fake, &agent(V1), Step::KeepCredential).await.unwrap();
    assert_eq!(done.outcome, StepOutcome::Unchanged);
    assert!(done.detail.contains("root alone"), "{}", done.detail);
    assert_eq!(
        fake.root.mode(paths::JOIN_TOKEN).await.unwrap(),
        Some(0o600)
    );
    assert!(config(&fake).await.contains("token-file"));
}

#[tokio::test]
async fn a_lost_credential_is_told_and_k3s_is_not_restarted_without_it() {
    let fake = started(V1).await;
    give_identity(&fake).await;
    fake.root.remove_file(paths::JOIN_TOKEN).await.unwrap();
    to_start(&fake, &agent(V1)).await;
    assert_eq!(starts(&fake), 0);
    assert!(config(&fake).await.contains("token-file"));
    let keep = async || {
        let kept = step(&fake, &agent(V1), Step::KeepCredential).await;
        kept.unwrap_err().reason().to_owned()
    };
    assert_eq!(keep().await, "FILE_MISSING");
    let host = fake.host();
    let mut record = Record::load(&host).await.unwrap().unwrap();
    record.owned.retain(|entry| entry.path != paths::JOIN_TOKEN);
    record.save(&host).await.unwrap();
    let theirs = fake.root.write(paths::JOIN_TOKEN, "theirs", 0o644).await;
    theirs.unwrap();
    assert_eq!(keep().await, "FILE_MISSING", "it is somebody else's");
}

#[tokio::test]
async fn a_new_credential_before_the_join_is_read_by_one_restart() {
    let fake = started(V1).await;
    store(&fake.host(), &token("two")).await.unwrap();
    let ends = to_start(&fake, &agent(V1)).await;
    let (_, _, detail) = ends.last().unwrap();
    assert_eq!(
        detail,
        "restarted once, because the credential of the join changed"
    );
    assert_eq!(starts(&fake), 1);
}

#[tokio::test]
async fn an_agent_has_joined_when_it_has_its_certificates_and_a_healthy_kubelet() {
    let fake = started(V1).await;
    let status = kubelet(&fake, 500).await;
    let journal = fake.journal.clone();
    // What takes its time on the way there is no fault.
    journal.log(AGENT, "level=error msg=\"failed to get CA certs: EOF\"");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let spec = K3sSpec {
        server_url: format!("https://{}", listener.local_addr().unwrap()),
        ..agent(V1)
    };
    journal.log(AGENT, "level=info msg=\"going on\"");
    let steps = Arc::<Told>::default();
    let on_the_way = async {
        steps.said("certificates yet", 1).await;
        give_identity(&fake).await;
        steps.said("the kubelet is not well yet", 1).await;
        status.store(200, Ordering::SeqCst);
    };
    let waiting = told_to(&steps, &fake, &spec, Step::Joined, timings());
    let ((done, _), ()) = tokio::join!(waiting, on_the_way);
    assert_eq!(done.unwrap().outcome, StepOutcome::Changed);
    assert_eq!(outcome(joined(&fake, &spec).await), StepOutcome::Unchanged);
    // A healthy kubelet and old certificates don't make up for a unit that is down.
    fake.systemd.stops_with(AGENT, 1);
    let systemd = fake.host().systemd;
    systemd.stop(AGENT, Duration::from_secs(1)).await.unwrap();
    assert_eq!(
        joined(&fake, &spec).await.unwrap_err().reason(),
        "K3S_EXITED"
    );
}

#[tokio::test]
async fn a_join_that_cannot_work_is_told_by_its_cause() {
    for (line, reason) in [
        (
            "level=error msg=\"invalid token format\"",
            "JOIN_TOKEN_MALFORMED",
        ),
        (
            "level=error msg=\"Failed to configure agent: failed to retrieve configuration from server: https://127.0.0.1:6444/v1-k3s/config: 401 Unauthorized\"",
            "JOIN_TOKEN_REJECTED",
        ),
    ] {
        let fake = started(V1).await;
        let run = fake.host().systemd.unit(AGENT).await.unwrap();
        let run = run.invocation_id.unwrap();
        // An earlier run's faults don't count.
        for _ in 0..3 {
            fake.journal.log_in_run(
                AGENT,
                "earlier",
                "level=error msg=\"Node password rejected\"",
            );
            fake.journal.log_in_run(AGENT, &run, line);
        }
        let error = joined(&fake, &agent(V1)).await.unwrap_err();
        assert_eq!(error.reason(), reason);
        let report = error.report();
        assert_eq!(report.subject, "192.0.2.1:6443");
        assert!(!report.hint.is_empty());
        assert!(report.evidence[0].lines.iter().any(|seen| seen == line));
        assert!(!format!("{error:?}").contains("node:one"));
    }
}

#[tokio::test]
async fn a_server_that_refuses_is_told_without_a_line_in_the_journal() {
    let fake = started(V1).await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let spec = K3sSpec {
        server_url: format!("https://{address}"),
        ..agent(V1)
    };
    let error = joined(&fake, &spec).await.unwrap_err();
    assert_eq!(error.reason(), "JOIN_SERVER_REFUSED");
    assert!(error.report().message.contains(&address.to_string()));
}

#[tokio::test]
async fn a_unit_that_restarts_for_want_of_a_token_is_told_so() {
    let fake = started(OLD).await;
    fake.journal
        .log(AGENT, "level=fatal msg=\"--token is required\"");
    let error = joined(&fake, &agent(OLD)).await.unwrap_err();
    assert_eq!(error.reason(), "JOIN_TOKEN_MISSING");
}

#[tokio::test]
async fn a_healthy_kubelet_of_an_earlier_run_does_not_make_up_for_one_that_is_down() {
    let fake = started(V1).await;
    kubelet(&fake, 200).await;
    give_identity(&fake).await;
    fake.systemd.change(AGENT, |unit| {
        unit.main_pid = None;
        "activating".clone_into(&mut unit.active_state);
        "auto-restart".clone_into(&mut unit.sub_state);
    });
    let short = Timings {
        ready: Duration::from_millis(300),
        patience: Duration::from_secs(60),
        ..timings()
    };
    let error = told(&fake, &agent(V1), Step::Joined, short)
        .await
        .0
        .unwrap_err();
    assert_eq!(error.reason(), "K3S_NOT_JOINED");
    assert!(error.report().causes[0].contains("does not run"));
}
