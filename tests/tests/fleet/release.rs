//! The release server at its worst, and the way of the file to the node.

use std::path::Path;
use std::time::Duration;

use canasta_controller::config::Pins;
use canasta_proto::pb;
use canasta_proto::pb::OperationState;
use canasta_standin::release::{Fault, FaultKind, ReleaseServer};
use canasta_tests::fleet::client::install_on;
use canasta_tests::fleet::node::Node;
use canasta_tests::fleet::wire::Wire;
use canasta_tests::fleet::{Fleet, PATCH, SMALL, VERSION, k3s, pin, place, program};

fn misbehave(fleet: &Fleet, kind: FaultKind, asset: Option<&str>) {
    let asset = asset.map(str::to_owned);
    fleet.release.set_fault(Some(Fault { kind, asset }));
}

/// The URL of a file of the release that is installed.
fn url(fleet: &Fleet, asset: &str) -> String {
    let version = VERSION.replace('+', "%2B");
    format!("{}/{version}/{asset}", fleet.release.base())
}

/// Files in a directory that are named as artefacts are, by their hash.
fn stored(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let files = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
    files
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Installs, expects it to fail at the download of this file, and checks that nothing came of it.
async fn fails(fleet: &Fleet, node: &Node, reason: &str, asset: &str) -> pb::ErrorReport {
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
    let url = url(fleet, asset);
    assert!(error.message.contains(&url), "{url} is not in {error:?}");
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
    mends_by_itself(fleet).await;
}

/// What the server does is got over in one run.
async fn mends_by_itself(fleet: &Fleet) {
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
    let good = fleet.config.k3s.sha256.clone();
    let (version, wrong) = (VERSION.parse().unwrap(), "0".repeat(64));
    let pins = &mut fleet.config.k3s.sha256;
    pins.insert(version, program::arch(), &wrong);
    fleet.crash().await;
    fleet.restart().await;
    let error = fails(
        &fleet,
        &node,
        "ARTEFACT_CHECKSUM_MISMATCH",
        program::asset(),
    )
    .await;
    let told = format!("[k3s] sha256 in controller.toml tells {wrong}");
    assert!(error.message.contains(&told), "{error:?}");
    fleet.config.k3s.sha256 = good;
    fleet.crash().await;
    fleet.restart().await;
    mends(&fleet).await;
}

#[tokio::test]
async fn a_plain_source_without_a_pin_is_refused_before_anything_is_fetched() {
    let mut fleet = Fleet::start().await;
    let node = fleet.joined("cp1").await;
    fleet.config.k3s.sha256 = Pins::default();
    fleet.crash().await;
    fleet.restart().await;
    let error = fails(&fleet, &node, "ARTEFACT_PIN_REQUIRED", program::asset()).await;
    let line = Pins::line(VERSION, program::arch(), "…");
    assert!(
        error.hint.contains(&line) && error.hint.contains("artefact import"),
        "{error:?}"
    );
    assert_eq!(fleet.release.requests(), []);
}

#[tokio::test]
async fn each_version_has_a_pin_of_its_own() {
    let mut fleet = Fleet::start().await;
    let (_one, _other) = (fleet.joined("cp1").await, fleet.joined("cp2").await);
    mends(&fleet).await;
    let upgrade = pb::InstallControlPlaneRequest {
        k3s_version: PATCH.to_owned(),
        ..install_on("cp1")
    };
    let before = fleet.release.requests().len();
    let refused = fleet.install(upgrade.clone()).await.unwrap();
    let error = refused.error.expect("an error");
    assert_eq!(error.reason, "ARTEFACT_PIN_REQUIRED", "{error:?}");
    assert!(
        error
            .hint
            .contains(&Pins::line(PATCH, program::arch(), "…")),
        "{error:?}"
    );
    assert_eq!(fleet.release.requests().len(), before);

    pin(&mut fleet.config, PATCH, SMALL);
    fleet.crash().await;
    fleet.restart().await;
    let upgraded = fleet.install(upgrade).await.unwrap();
    assert_eq!(upgraded.state(), OperationState::Succeeded, "{upgraded:?}");
    // The old version is still had, for a host that stays at it.
    let other = fleet.install(install_on("cp2")).await.unwrap();
    assert_eq!(other.state(), OperationState::Succeeded, "{other:?}");
}

#[tokio::test]
async fn over_tls_the_published_checksum_is_fetched_and_heeded() {
    let mut fleet = Fleet::start().await;
    let node = fleet.joined("cp1").await;
    fleet.take_releases_over_tls().await;
    let list = program::checksums();
    let broken = FaultKind::ServerError { times: 1000 };
    for (kind, reason, named) in [
        (
            FaultKind::BadChecksum,
            "ARTEFACT_CHECKSUM_MISMATCH",
            program::asset(),
        ),
        (FaultKind::NoChecksum, "ARTEFACT_CHECKSUM_MISSING", &*list),
        (FaultKind::NotFound, "ARTEFACT_NOT_FOUND", &*list),
        (broken, "ARTEFACT_DOWNLOAD_FAILED", &*list),
    ] {
        misbehave(&fleet, kind, Some(&list));
        let error = fails(&fleet, &node, reason, named).await;
        if reason == "ARTEFACT_CHECKSUM_MISMATCH" {
            assert!(error.message.contains(&url(&fleet, &list)), "{error:?}");
        }
    }
    mends(&fleet).await;
    let installed = std::fs::read(node.host.root.path(k3s::BINARY)).unwrap();
    assert_eq!(installed, program::release(VERSION, SMALL));
}

#[tokio::test]
async fn a_redirect_from_tls_to_a_plain_connection_is_refused() {
    let mut fleet = Fleet::start().await;
    let node = fleet.joined("cp1").await;
    fleet.take_releases_over_tls().await;
    let source = program::source(&fleet.scratch().join("k3s"), SMALL);
    let plain = ReleaseServer::start(place::free(), source, false);
    let plain = plain.await.unwrap();
    for asset in [&*program::checksums(), program::asset()] {
        let to = plain.base();
        misbehave(&fleet, FaultKind::Redirect { to }, Some(asset));
        let error = fails(&fleet, &node, "ARTEFACT_DOWNLOAD_FAILED", asset).await;
        assert!(
            error.causes.join(" ").contains("to a plain connection"),
            "{error:?}"
        );
    }
    assert_eq!(plain.requests(), []);
    mends(&fleet).await;
}

#[tokio::test]
async fn a_server_that_no_known_authority_vouches_for_is_refused_at_once() {
    let mut fleet = Fleet::start().await;
    let node = fleet.joined("cp1").await;
    fleet.take_releases_over_tls().await;
    let good = fleet.config.k3s.ca_file.clone().unwrap();
    let source = program::source(&fleet.scratch().join("k3s"), SMALL);
    let other = ReleaseServer::start_tls(place::free(), source, false).await;
    let strange = fleet.scratch().join("strange-ca.pem");
    std::fs::write(&strange, other.unwrap().authority().unwrap()).unwrap();
    fleet.config.k3s.ca_file = Some(strange);
    fleet.crash().await;
    fleet.restart().await;
    let list = program::checksums();
    let error = fails(&fleet, &node, "ARTEFACT_SOURCE_UNTRUSTED", &list).await;
    assert!(error.hint.contains("[k3s] ca_file"), "{error:?}");
    assert_eq!(fleet.release.requests(), []);
    fleet.config.k3s.ca_file = Some(good);
    fleet.crash().await;
    fleet.restart().await;
    mends(&fleet).await;
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
    assert_eq!(stored(&fleet.state_dir().join("artefacts")), [""; 0]);
    assert!(!node.host.root.path(k3s::BINARY).exists());
    program::lay_out(&releases, VERSION, &file, &program::sha256(&file));
    mends(&fleet).await;
}

#[tokio::test]
async fn each_fault_of_the_server_ends_clearly_after_the_tries_that_may_help() {
    let fleet = Fleet::start_with(300_000, |config| {
        config.timings.download_stall = Duration::from_millis(250);
        config.timings.download_slow = Duration::from_millis(200);
    })
    .await;
    let node = fleet.joined("cp1").await;
    let times = 1000;
    for (kind, reason, words, tries) in [
        (
            FaultKind::NotFound,
            "ARTEFACT_NOT_FOUND",
            "the server says 404",
            1,
        ),
        (
            FaultKind::ServerError { times },
            "ARTEFACT_DOWNLOAD_FAILED",
            "the server says 500",
            5,
        ),
        (
            FaultKind::Hang,
            "ARTEFACT_DOWNLOAD_STALLED",
            "nothing came for 0.25 s",
            5,
        ),
        (
            FaultKind::TruncateAfter { bytes: 0, times },
            "ARTEFACT_TRUNCATED",
            "it ended after 0 of ",
            5,
        ),
        (
            FaultKind::Slow {
                bytes_per_second: 1000,
            },
            "ARTEFACT_DOWNLOAD_STALLED",
            "less than 10 KiB a second",
            5,
        ),
    ] {
        let before = fleet.release.requests().len();
        misbehave(&fleet, kind.clone(), None);
        let error = fails(&fleet, &node, reason, program::asset()).await;
        assert!(error.message.contains(words), "{error:?}");
        let tried = fleet.release.requests().len() - before;
        assert_eq!(tried, tries, "tries at {kind:?}");
    }
    mends(&fleet).await;
}

#[tokio::test]
async fn a_server_that_stumbles_is_asked_again() {
    let fleet = Fleet::start().await;
    let _node = fleet.joined("cp1").await;
    misbehave(&fleet, FaultKind::ServerError { times: 2 }, None);
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
async fn a_download_that_breaks_off_goes_on_where_it_stopped() {
    let size = 300_000;
    let fleet = Fleet::start_with(size, |_| {}).await;
    let node = fleet.joined("cp1").await;
    let cuts = FaultKind::TruncateAfter {
        bytes: 100_000,
        times: 2,
    };
    misbehave(&fleet, cuts, None);
    mends_by_itself(&fleet).await;
    let ranges: Vec<_> = fleet
        .release
        .requests()
        .into_iter()
        .map(|request| request.range)
        .collect();
    let range = |from: &str| Some(format!("bytes={from}-"));
    assert_eq!(ranges, [None, range("100000"), range("200000")]);
    let installed = std::fs::read(node.host.root.path(k3s::BINARY)).unwrap();
    assert_eq!(installed, program::release(VERSION, size));
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
    assert_eq!(installed, program::release(VERSION, size));
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
