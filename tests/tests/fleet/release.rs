//! The release server at its worst, and the way of the file to the node.

use std::path::Path;

use canasta_proto::pb;
use canasta_proto::pb::OperationState;
use canasta_standin::release::{Fault, FaultKind};
use canasta_tests::fleet::client::install_on;
use canasta_tests::fleet::node::Node;
use canasta_tests::fleet::wire::Wire;
use canasta_tests::fleet::{Fleet, VERSION, k3s, program};

fn misbehave(fleet: &Fleet, kind: FaultKind) {
    fleet.release.set_fault(Some(Fault { kind, asset: None }));
}

/// Files in a directory that are named as artefacts are, by their hash.
fn stored(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let files = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
    files
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Installs, expects it to fail at the download, and checks that nothing came of it.
async fn fails(fleet: &Fleet, node: &Node, reason: &str) -> pb::ErrorReport {
    let operation = fleet.install(install_on("cp1")).await.unwrap();
    assert_eq!(operation.state(), OperationState::Failed, "{operation:?}");
    let failed = operation
        .steps
        .iter()
        .find(|step| step.state() == pb::StepState::Failed)
        .unwrap();
    assert_eq!(failed.id, "fetch-artefact");
    let error = operation.error.expect("an error");
    assert_eq!(error.reason, reason, "{error:?}");
    let text = format!("{} {}", error.message, error.causes.join(" "));
    assert!(
        text.contains(&format!("http://{}/", fleet.release.local_addr())),
        "names no URL: {error:?}"
    );
    assert!(!error.hint.is_empty(), "{error:?}");
    assert_eq!(stored(&fleet.state_dir().join("artefacts")), [""; 0]);
    assert!(!node.host.root.path(k3s::BINARY).exists());
    let artefacts = fleet
        .admin()
        .await
        .artefacts()
        .list_artefacts(pb::ListArtefactsRequest {})
        .await
        .unwrap();
    assert_eq!(artefacts.into_inner().artefacts, []);
    error
}

/// The server behaves again: another run does it.
async fn mends(fleet: &Fleet) {
    fleet.release.set_fault(None);
    let operation = fleet.install(install_on("cp1")).await.unwrap();
    assert_eq!(
        operation.state(),
        OperationState::Succeeded,
        "{operation:?}"
    );
}

#[tokio::test]
async fn a_file_that_is_not_the_pinned_one_is_refused() {
    let mut fleet = Fleet::start().await;
    let node = fleet.joined("cp1").await;
    let good = fleet.config.k3s.sha256.replace("0".repeat(64));
    fleet.crash().await;
    fleet.restart().await;
    let error = fails(&fleet, &node, "ARTEFACT_CHECKSUM_MISMATCH").await;
    assert!(error.message.contains(&"0".repeat(64)), "{error:?}");
    fleet.config.k3s.sha256 = good;
    fleet.crash().await;
    fleet.restart().await;
    mends(&fleet).await;
}

#[tokio::test]
async fn a_plain_source_without_a_pin_is_refused_before_anything_is_fetched() {
    let mut fleet = Fleet::start().await;
    let node = fleet.joined("cp1").await;
    fleet.config.k3s.sha256 = None;
    fleet.crash().await;
    fleet.restart().await;
    let error = fails(&fleet, &node, "ARTEFACT_PIN_REQUIRED").await;
    assert!(
        error.hint.contains("sha256") && error.hint.contains("artefact import"),
        "{error:?}"
    );
    assert_eq!(fleet.release.requests(), []);
}

#[tokio::test]
async fn a_directory_with_a_wrong_checksum_file_is_refused_and_a_right_one_taken() {
    let mut fleet = Fleet::start().await;
    let node = fleet.joined("cp1").await;
    let releases = fleet.take_releases_from_directory().await;
    let file = program::release(VERSION, 0);
    program::lay_out(&releases, VERSION, &file, &"1".repeat(64));
    let operation = fleet.install(install_on("cp1")).await.unwrap();
    let error = operation.error.expect("an error");
    assert_eq!(error.reason, "ARTEFACT_CHECKSUM_MISMATCH", "{error:?}");
    assert!(
        error.message.contains(&releases.display().to_string()),
        "{error:?}"
    );
    assert!(!node.host.root.path(k3s::BINARY).exists());
    program::lay_out(&releases, VERSION, &file, &program::sha256(&file));
    mends(&fleet).await;
}

#[tokio::test]
async fn a_missing_release_is_told_without_another_try() {
    let fleet = Fleet::start().await;
    let node = fleet.joined("cp1").await;
    misbehave(&fleet, FaultKind::NotFound);
    let error = fails(&fleet, &node, "ARTEFACT_NOT_FOUND").await;
    assert!(error.message.contains("404"), "{error:?}");
    assert_eq!(fleet.release.requests().len(), 1);
    mends(&fleet).await;
}

#[tokio::test]
async fn a_server_that_stumbles_is_asked_again_and_one_that_is_down_is_told() {
    let fleet = Fleet::start().await;
    let node = fleet.joined("cp1").await;
    misbehave(&fleet, FaultKind::ServerError { times: 1000 });
    let error = fails(&fleet, &node, "ARTEFACT_DOWNLOAD_FAILED").await;
    assert!(error.message.contains("500"), "{error:?}");
    let tries = fleet.release.requests().len();
    assert!(tries > 2, "{tries} tries");

    misbehave(&fleet, FaultKind::ServerError { times: 2 });
    let (id, _) = fleet
        .admin()
        .await
        .install(install_on("cp1"))
        .await
        .unwrap();
    let events = fleet.admin().await.events(&id, 0).await.unwrap();
    let retries = events
        .iter()
        .filter(|event| matches!(event.event, Some(pb::operation_event::Event::Retrying(_))));
    assert_eq!(retries.count(), 2);
    assert_eq!(
        fleet.admin().await.operation(&id).await.unwrap().state(),
        OperationState::Succeeded
    );
}

#[tokio::test]
async fn a_server_that_hangs_is_given_up() {
    let fleet = Fleet::start().await;
    let node = fleet.joined("cp1").await;
    misbehave(&fleet, FaultKind::Hang);
    fails(&fleet, &node, "ARTEFACT_DOWNLOAD_STALLED").await;
    mends(&fleet).await;
}

#[tokio::test]
async fn a_download_that_breaks_off_goes_on_where_it_stopped() {
    let size = 300_000;
    let fleet = Fleet::start_with(size, |_| {}).await;
    let node = fleet.joined("cp1").await;
    misbehave(
        &fleet,
        FaultKind::TruncateAfter {
            bytes: 0,
            times: 1000,
        },
    );
    let operation = fleet.install(install_on("cp1")).await.unwrap();
    assert_eq!(operation.state(), OperationState::Failed);
    assert!(!node.host.root.path(k3s::BINARY).exists());
    let before = fleet.release.requests().len();

    misbehave(
        &fleet,
        FaultKind::TruncateAfter {
            bytes: 100_000,
            times: 2,
        },
    );
    let operation = fleet.install(install_on("cp1")).await.unwrap();
    assert_eq!(
        operation.state(),
        OperationState::Succeeded,
        "{operation:?}"
    );
    let ranges: Vec<_> = fleet
        .release
        .requests()
        .split_off(before)
        .into_iter()
        .filter_map(|request| request.range)
        .collect();
    assert!(
        ranges
            .iter()
            .any(|range| range.starts_with("bytes=") && range != "bytes=0-"),
        "{ranges:?}"
    );
    let installed = std::fs::read(node.host.root.path(k3s::BINARY)).unwrap();
    assert_eq!(
        program::sha256(&installed),
        fleet.config.k3s.sha256.clone().unwrap()
    );
}

#[tokio::test]
async fn a_push_that_breaks_off_goes_on_where_it_stopped() {
    let size = 6 << 20;
    let fleet = Fleet::start_with(size, |_| {}).await;
    let mut node = Node::start("cp1").await;
    let wire = Wire::to(node.address).await;
    node.advertise = wire.address();
    fleet.join(&node).await;
    let before = wire.forwarded();
    wire.break_after(4 << 20);
    let operation = fleet.install(install_on("cp1")).await.unwrap();
    assert_eq!(
        operation.state(),
        OperationState::Succeeded,
        "{operation:?}"
    );
    assert!(wire.has_broken());
    // What was there was not sent again: less than the file and the half of it went over the wire.
    let sent = wire.forwarded() - before;
    assert!(sent > size as u64 && sent < 9 << 20, "{sent}");
    let installed = std::fs::read(node.host.root.path(k3s::BINARY)).unwrap();
    assert_eq!(
        program::sha256(&installed),
        fleet.config.k3s.sha256.clone().unwrap()
    );
}

#[tokio::test]
async fn a_release_is_fetched_once_for_any_number_of_nodes() {
    let fleet = Fleet::start().await;
    let admin = fleet.admin().await;
    let (_one, _other) = (fleet.joined("cp1").await, fleet.joined("cp2").await);
    let (first, _) = admin.install(install_on("cp1")).await.unwrap();
    let (second, _) = admin.install(install_on("cp2")).await.unwrap();
    let (first, second) = tokio::join!(admin.ended(&first), admin.ended(&second));
    assert_eq!(
        (first.state(), second.state()),
        (OperationState::Succeeded, OperationState::Succeeded)
    );
    let files = fleet
        .release
        .requests()
        .into_iter()
        .filter(|request| request.path.ends_with("/k3s"));
    assert_eq!(files.count(), 1);
}

#[tokio::test]
async fn an_import_is_kept_only_when_it_is_what_it_says() {
    let fleet = Fleet::start().await;
    let cli = fleet.cli("anna", pb::Role::Admin).await;
    let path = fleet.scratch().join("k3s-file");
    std::fs::write(&path, "not a program").unwrap();
    let path = path.display().to_string();
    let output = cli
        .run(&["artefact", "import", "k3s", &path, "--version", VERSION])
        .await;
    assert_ne!(output.code, 0, "{output:?}");
    assert!(output.stderr.starts_with("error: "), "{output:?}");
    assert_eq!(stored(&fleet.state_dir().join("artefacts")), [""; 0]);

    let admin = fleet.admin().await;
    let file = program::head_only(1000);
    let artefact = admin.import(VERSION, &file).await.unwrap();
    assert_eq!(
        (artefact.size, artefact.sha256.as_str()),
        (file.len() as u64, program::sha256(&file).as_str())
    );
    assert!(
        artefact.source.starts_with("imported by local "),
        "{artefact:?}"
    );
    let other = program::head_only(5000);
    let fault = admin.import(VERSION, &other).await.unwrap_err();
    assert_eq!(fault.reason, "ARTEFACT_DIFFERS");
}
