//! Joining: six ways in which it must not work, each with its own words, and a node that can't be reached.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use canasta_agent::State;
use canasta_agent::join::message::{Failure, JoinRequest, TokenText};
use canasta_proto::pb;
use canasta_proto::token::{Purpose, Token};
use canasta_tests::fleet::cli::Cli;
use canasta_tests::fleet::client::install_on;
use canasta_tests::fleet::node::Node;
use canasta_tests::fleet::recorder::Recorder;
use canasta_tests::fleet::{Fleet, people, place, within};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

const DAY: Duration = Duration::from_hours(24);
const DAY_SECONDS: i64 = 24 * 60 * 60;

/// Checks what the operator on the node gets, and that the node is as it was.
fn refused(node: &Node, failure: Failure, reason: &str, words: &str) -> String {
    assert_eq!(failure.reason, reason, "{failure:?}");
    let text = format!("{}: {}", failure.message, failure.causes.join(": "));
    assert!(text.contains(words), "{failure:?}");
    assert!(!failure.hint.is_empty(), "{failure:?}");
    assert_eq!(node.state(), State::WaitingForJoin);
    text
}

#[tokio::test]
async fn a_join_that_is_refused_says_why_in_words_of_its_own() {
    let fleet = Fleet::start().await;
    let admin = fleet.admin().await;
    let node = Node::start("cp1").await;
    let good = admin.add_host("cp1").await.unwrap();
    let others = admin.add_host("cp2").await.unwrap();
    let pin = Token::parse(Purpose::Join, &good).unwrap().pin();
    let mut messages = BTreeSet::new();

    let wrong = Token::new(Purpose::Join, pin, [1; 24]).reveal();
    let failure = node.join(fleet.address(), &wrong).await.unwrap_err();
    messages.insert(refused(&node, failure, "TOKEN_UNKNOWN", "not known"));

    let request = JoinRequest {
        controller: fleet.address().to_string(),
        token: TokenText::new(&others),
        advertise: None,
        name: Some("cp1".to_owned()),
    };
    let failure = node.join_as(request).await.unwrap_err();
    messages.insert(refused(
        &node,
        failure,
        "TOKEN_OTHER_HOST",
        "this token is for host cp2",
    ));

    let recorder = Recorder::start(DAY).await;
    let token = recorder.token().reveal();
    let failure = node.join(recorder.address(), &token).await.unwrap_err();
    messages.insert(refused(
        &node,
        failure,
        "CLOCK_SKEW",
        "behind the controller's",
    ));

    let failure = node.join(recorder.address(), &good).await.unwrap_err();
    messages.insert(refused(&node, failure, "CA_PIN_MISMATCH", "another CA"));

    let first = Node::start("cp1").await;
    first.join(fleet.address(), &good).await.unwrap();
    let failure = node.join(fleet.address(), &good).await.unwrap_err();
    messages.insert(refused(&node, failure, "TOKEN_USED", "used already"));

    let hasty =
        Fleet::start_with(0, |config| config.timings.token = Duration::from_millis(1)).await;
    let late = hasty.admin().await.add_host("cp1").await.unwrap();
    let failure = node.join(hasty.address(), &late).await.unwrap_err();
    messages.insert(refused(&node, failure, "TOKEN_EXPIRED", "expired at"));

    assert_eq!(messages.len(), 6, "{messages:#?}");
    let rows = admin.audit_rows().await;
    for reason in ["TOKEN_UNKNOWN", "TOKEN_OTHER_HOST", "TOKEN_USED"] {
        let audited =
            |row: &&pb::AuditRow| row.outcome.ends_with(reason) && row.what.ends_with("EnrolHost");
        assert_eq!(
            rows.iter().filter(audited).count(),
            1,
            "{reason}: {rows:#?}"
        );
    }
}

#[tokio::test]
async fn a_token_is_sent_to_the_right_controller_and_with_right_clocks_only() {
    let node = Node::start("cp1").await;

    // The recorder does hear a token when there is nothing against sending it.
    let right = Recorder::start(Duration::ZERO).await;
    let token = right.token();
    let failure = node
        .join(right.address(), &token.reveal())
        .await
        .unwrap_err();
    assert_eq!(failure.reason, "ENROLMENT_CUT");
    assert_eq!(right.calls(), ["GetClock", "EnrolHost"]);
    assert!(right.has_heard(token.secret()));

    let ahead = Recorder::start(DAY).await;
    let token = ahead.token();
    let failure = node
        .join(ahead.address(), &token.reveal())
        .await
        .unwrap_err();
    assert!(failure.message.contains("behind"), "{failure:?}");
    assert_eq!(ahead.calls(), ["GetClock"]);
    assert!(!ahead.has_heard(token.secret()));

    let behind = Recorder::start(Duration::ZERO).await;
    let token = behind.token();
    node.host
        .machine
        .change(|state| state.clock_offset_seconds = DAY_SECONDS);
    let failure = node
        .join(behind.address(), &token.reveal())
        .await
        .unwrap_err();
    assert!(failure.message.contains("ahead of"), "{failure:?}");
    assert_eq!(behind.calls(), ["GetClock"]);
    assert!(!behind.has_heard(token.secret()));
    node.host
        .machine
        .change(|state| state.clock_offset_seconds = 0);

    let stranger = Recorder::start(Duration::ZERO).await;
    let failure = node
        .join(stranger.address(), &token.reveal())
        .await
        .unwrap_err();
    assert_eq!(failure.reason, "CA_PIN_MISMATCH");
    assert_eq!((stranger.connections(), stranger.bytes()), (1, Vec::new()));
}

#[tokio::test]
async fn the_cli_keeps_its_token_from_strangers_and_from_wrong_clocks() {
    let cli = Cli::new();
    let add = async |recorder: &Recorder, token: &Token| {
        let controller = recorder.address().to_string();
        let arguments = [
            "context",
            "add",
            "x",
            "--controller",
            &controller,
            "--token-file",
            "-",
        ];
        cli.run_with_input(&arguments, &token.reveal()).await
    };
    let ahead = Recorder::start(DAY).await;
    let token = Token::new(Purpose::User, ahead.token().pin(), [3; 24]);
    let output = add(&ahead, &token).await;
    assert_eq!(output.code, 1, "{output:?}");
    assert!(
        output.stderr.contains("clock is 86") && output.stderr.contains("the token was not sent"),
        "{output:?}"
    );
    assert_eq!(ahead.calls(), ["GetClock"]);
    assert!(!ahead.has_heard(token.secret()));

    let stranger = Recorder::start(Duration::ZERO).await;
    let output = add(&stranger, &token).await;
    assert_eq!(output.code, 4, "{output:?}");
    assert!(
        output
            .stderr
            .contains("is not the controller that made this token"),
        "{output:?}"
    );
    assert_eq!((stranger.connections(), stranger.bytes()), (1, Vec::new()));
}

#[tokio::test]
async fn a_node_that_can_not_be_reached_is_told_with_address_and_port() {
    let fleet = Fleet::start().await;
    let mut node = Node::start("cp1").await;
    let closed = place::free();
    node.advertise = closed;
    let token = fleet.admin().await.add_host("cp1").await.unwrap();
    let done = node.join(fleet.address(), &token).await.unwrap();
    assert_eq!(done.reached, Some(false));
    let attempt = done
        .attempts
        .iter()
        .find(|attempt| attempt.address == closed.to_string());
    let error = &attempt.unwrap_or_else(|| panic!("{done:?}")).error;
    assert!(
        error.contains(&closed.to_string()) && error.contains("nothing listens on that port"),
        "{error}"
    );
    assert!(done.hint.contains("/tcp of this node"), "{done:?}");

    let host = fleet.host_is("cp1", pb::HostState::Unreachable).await;
    assert!(host.state_reason.contains(&closed.to_string()), "{host:?}");
    assert!(host.state_since.is_some());
    let shown: Vec<_> = host
        .addresses
        .iter()
        .map(|address| (address.address.clone(), address.source.as_str()))
        .collect();
    assert!(
        shown.contains(&(closed.to_string(), "join --advertise")),
        "{shown:?}"
    );
    assert!(
        shown
            .iter()
            .any(|(_, source)| *source == "source of the join"),
        "{shown:?}"
    );
    let list = fleet
        .cli("anna", pb::Role::Viewer)
        .await
        .run(&["host", "list"])
        .await;
    assert_eq!(list.code, 0, "{list:?}");
    assert!(list.stdout.contains("unreachable since "), "{list:?}");
}

#[tokio::test]
async fn a_join_can_be_prepared_in_a_file() {
    let fleet = Fleet::start().await;
    let token = fleet.admin().await.add_host("cp1").await.unwrap();
    let mut node = Node::start("cp1").await;
    node.crash().await;
    let file = node.host.root.path("/etc/canasta/join.toml");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    let text = format!(
        "controller = '{}'\ntoken = '{token}'\nadvertise = '{}'\n",
        fleet.address(),
        node.address
    );
    std::fs::write(&file, text).unwrap();
    node.restart().await;
    fleet.host_is("cp1", pb::HostState::Connected).await;
    fleet
        .until("the file to be deleted", async || {
            (!file.exists()).then_some(())
        })
        .await;
}

#[tokio::test]
async fn the_same_host_comes_back_with_a_new_token_and_keeps_its_history() {
    let fleet = Fleet::start().await;
    let admin = fleet.admin().await;
    let lost = fleet.joined("cp1").await;
    let before = admin.host("cp1", false).await.unwrap();
    drop(lost);
    fleet.host_is("cp1", pb::HostState::Unreachable).await;
    let token = admin.host_token("cp1").await.unwrap();
    let node = Node::start("cp1").await;
    let done = node.join(fleet.address(), &token).await.unwrap();
    assert_eq!(done.reached, Some(true), "{done:?}");
    let after = fleet.host_is("cp1", pb::HostState::Connected).await;
    assert_eq!(after.added_at, before.added_at);
    assert_ne!(after.public_key_sha256, before.public_key_sha256);
}

#[tokio::test]
async fn hosts_come_back_after_either_side_was_killed() {
    let mut fleet = Fleet::start().await;
    let mut node = fleet.joined("cp1").await;
    node.crash().await;
    fleet.host_is("cp1", pb::HostState::Unreachable).await;
    node.restart().await;
    fleet.host_is("cp1", pb::HostState::Connected).await;
    fleet.crash().await;
    fleet.restart().await;
    fleet.host_is("cp1", pb::HostState::Connected).await;
    let shown = fleet.admin().await.host("cp1", true).await.unwrap();
    assert_eq!(shown.facts.expect("asked now").hostname, "cp1");
}

#[tokio::test]
async fn since_when_a_host_is_unreachable_is_known_after_a_restart_too() {
    let mut fleet = Fleet::start().await;
    let mut node = fleet.joined("cp1").await;
    node.crash().await;
    let before = fleet.host_is("cp1", pb::HostState::Unreachable).await;
    for _ in 0..2 {
        fleet.crash().await;
        fleet.restart().await;
        let after = fleet.host_is("cp1", pb::HostState::Unreachable).await;
        assert_eq!(after.state_since, before.state_since);
    }
    // Once it was there, the next time counts anew.
    node.restart().await;
    fleet.host_is("cp1", pb::HostState::Connected).await;
    node.crash().await;
    let anew = fleet.host_is("cp1", pb::HostState::Unreachable).await;
    assert_ne!(anew.state_since, before.state_since);
}

#[tokio::test]
async fn a_host_that_was_not_dialled_yet_is_not_called_unreachable() {
    // A port that takes connections and says nothing keeps the first dial from its end.
    let mut fleet =
        Fleet::start_with(0, |config| config.timings.dial = Duration::from_secs(60)).await;
    let mut node = fleet.joined("cp1").await;
    node.crash().await;
    fleet.host_is("cp1", pb::HostState::Unreachable).await;
    fleet.crash().await;
    let silent = tokio::net::TcpListener::bind(node.address).await.unwrap();
    fleet.restart().await;
    let (_held, _) = within("the dial", silent.accept()).await.unwrap();
    let host = fleet.admin().await.host("cp1", false).await.unwrap();
    assert_eq!(host.state(), pb::HostState::NotDialled, "{host:?}");
    let list = fleet
        .cli("anna", pb::Role::Viewer)
        .await
        .run(&["host", "list"])
        .await;
    assert_eq!(list.code, 0, "{list:?}");
    assert!(
        !list.stdout.contains("unreachable") && list.stdout.contains("not dialled"),
        "{list:?}"
    );
}

#[tokio::test]
async fn a_removed_host_is_shut_out_at_once() {
    let fleet = Fleet::start().await;
    let node = fleet.joined("cp1").await;
    let admin = fleet.admin().await;
    let name = || "cp1".to_owned();
    admin
        .hosts()
        .remove_host(pb::RemoveHostRequest {
            name: name(),
            force: false,
        })
        .await
        .unwrap();
    let fault = admin.host("cp1", true).await.unwrap_err();
    assert_eq!(fault.reason, "HOST_NOT_REGISTERED");
    // Added again under the same name, its old certificate counts for nothing.
    admin.add_host("cp1").await.unwrap();
    let host = admin.host("cp1", false).await.unwrap();
    assert_eq!(host.state(), pb::HostState::WaitingForJoin);
    assert!(matches!(node.state(), State::Joined { .. }));
}

/// All that the daemons of this process log.
#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Takes the log of this process. Each test is a process of its own.
    fn take() -> Self {
        let log = Self::default();
        let writer = log.clone();
        let filter: Targets =
            "info,canasta_agent=trace,canasta_controller=trace,canasta_transport=trace"
                .parse()
                .unwrap();
        let layer = tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .with_writer(move || writer.clone());
        tracing_subscriber::registry()
            .with(filter)
            .with(layer)
            .init();
        log
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes
        .windows(text.len())
        .any(|window| window == text.as_bytes())
}

/// Each file below a directory, with its content.
fn files(directory: &Path, found: &mut Vec<(PathBuf, Vec<u8>)>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            files(&entry.path(), found);
        } else if kind.is_file() {
            found.push((entry.path(), std::fs::read(entry.path()).unwrap()));
        }
    }
}

#[tokio::test]
async fn no_token_and_no_key_is_kept_where_it_does_not_belong() {
    let log = Log::take();
    let fleet = Fleet::start().await;
    let admin = fleet.admin().await;
    let node = Node::start("cp1").await;
    let good = admin.add_host("cp1").await.unwrap();
    node.join(fleet.address(), &good).await.unwrap();
    let user = fleet.user_token("anna", pb::Role::Operator).await;
    people::redeem(fleet.address(), &user).await;
    let (operation, _) = admin.install(install_on("cp1")).await.unwrap();
    let operation = admin.ended(&operation).await;
    assert_eq!(operation.state(), pb::OperationState::Succeeded);

    // Tokens that do not work: used, unknown, and no token at all.
    let pin = Token::parse(Purpose::Join, &good).unwrap().pin();
    let unknown = Token::new(Purpose::Join, pin, [1; 24]).reveal();
    let nonsense = format!("{good}x");
    let other = Node::start("cp2").await;
    let mut told = Vec::new();
    for token in [&good, &unknown, &nonsense] {
        let failure = other.join(fleet.address(), token).await.unwrap_err();
        told.push(format!("{failure:?}"));
    }

    let mut secrets = vec![good.clone(), user.clone(), unknown.clone()];
    for (purpose, token) in [
        (Purpose::Join, &good),
        (Purpose::User, &user),
        (Purpose::Join, &unknown),
    ] {
        let token = Token::parse(purpose, token).unwrap();
        secrets.push(token.secret().to_owned());
    }
    secrets.push("PRIVATE KEY".to_owned());
    told.push(format!("{:?}", admin.audit_rows().await));
    told.push(format!("{operation:?}"));
    let log = log.0.lock().unwrap().clone();
    assert!(holds(&log, "task begins"), "nothing is logged");
    for secret in &secrets {
        assert!(!holds(&log, secret), "a secret is in the log");
        for text in &told {
            assert!(!text.contains(secret), "{text}");
        }
    }
    let mut kept = Vec::new();
    files(fleet.state_dir(), &mut kept);
    for node in [&node, &other] {
        files(&node.host.root.path("/var/lib/canasta-agent"), &mut kept);
    }
    let database = |(path, _): &(PathBuf, Vec<u8>)| path.ends_with("fleet.db");
    assert!(
        kept.iter().any(database),
        "the database was not looked into"
    );
    for (path, bytes) in kept {
        let keys = ["ca.key", "key.pem", "join-key.pem", "next-key.pem"];
        let is_key = keys.iter().any(|name| path.ends_with(name));
        for secret in &secrets {
            let allowed = is_key && secret == "PRIVATE KEY";
            assert_eq!(
                holds(&bytes, secret),
                allowed,
                "{}: a secret that does not belong there, or a key that is none",
                path.display()
            );
        }
    }
}
