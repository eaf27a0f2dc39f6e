//! Downloads: what is tried again and what ends, what is gone on with, and what is never put in place.

use std::time::Duration;

use super::server::{Reply, Server};
use super::{Bench, SIZE, program, sha256};

#[tokio::test]
async fn a_release_is_fetched_once_checked_and_kept() {
    let server = Server::start(&[]).await;
    let bench = Bench::on(&server).await;
    let artefacts = bench.open().await;
    let (first, second) = tokio::join!(bench.ensure(&artefacts), bench.ensure(&artefacts));
    let ((artefact, fetched), (_, again)) = (first.expect("fetched"), second.expect("kept"));
    assert!(fetched != again, "one of the two downloads");
    assert_eq!(server.requests().len(), 1);
    assert!(server.requests()[0].starts_with("get /v1.34.8%2bk3s1/k3s http"));
    assert_eq!((artefact.size(), artefact.arch()), (SIZE as u64, "amd64"));
    assert_eq!(std::fs::read(&artefact.path).expect("file"), program());
    assert_eq!(
        (bench.kept(), bench.partials()),
        (vec![sha256(&program())], 0)
    );
    // Another run of the controller has it too.
    let (_, fetched) = bench.ensure(&bench.open().await).await.expect("kept");
    assert!(!fetched);
    assert_eq!(
        artefacts.list().await.expect("list")[0].version,
        "v1.34.8+k3s1"
    );
}

#[tokio::test]
async fn what_passes_is_tried_again_from_where_it_stopped() {
    let server = Server::start(&[
        Reply::Status(500),
        Reply::Status(503),
        Reply::Cut(1000),
        Reply::Hang(2000),
    ])
    .await;
    let bench = Bench::on(&server).await;
    let artefacts = bench.open().await;
    bench.ensure(&artefacts).await.expect("the fifth try");
    assert_eq!(
        bench.told(),
        [
            "ARTEFACT_DOWNLOAD_FAILED",
            "ARTEFACT_DOWNLOAD_FAILED",
            "ARTEFACT_TRUNCATED",
            "ARTEFACT_DOWNLOAD_STALLED"
        ]
    );
    let requests = server.requests();
    assert!(
        requests[3].contains("range: bytes=1000-"),
        "{}",
        requests[3]
    );
    assert!(requests[3].contains("if-range: \"one\""), "{}", requests[3]);
    assert!(
        requests[4].contains("range: bytes=3000-"),
        "{}",
        requests[4]
    );
    assert_eq!(bench.kept(), [sha256(&program())]);
}

#[tokio::test]
async fn what_does_not_pass_ends_with_an_error_that_names_the_url() {
    for (replies, reason, tries) in [
        (vec![Reply::Status(404)], "ARTEFACT_NOT_FOUND", 1),
        (vec![Reply::Other], "ARTEFACT_CHECKSUM_MISMATCH", 1),
        (vec![Reply::Status(500); 5], "ARTEFACT_DOWNLOAD_FAILED", 5),
        (vec![Reply::Cut(0); 5], "ARTEFACT_TRUNCATED", 5),
        (vec![Reply::Hang(0); 5], "ARTEFACT_DOWNLOAD_STALLED", 5),
        (vec![Reply::Announce(1 << 40)], "ARTEFACT_TOO_LARGE", 1),
    ] {
        let server = Server::start(&replies).await;
        let bench = Bench::on(&server).await;
        let artefacts = bench.open().await;
        let error = bench.ensure(&artefacts).await.expect_err(reason);
        assert_eq!(error.reason(), reason);
        let url = format!("http://{}/v1.34.8%2Bk3s1/k3s", server.address);
        assert!(error.to_string().contains(&url), "{error}");
        assert!(!error.hint().is_empty());
        assert_eq!(server.requests().len(), tries, "{reason}");
        assert!(bench.kept().is_empty(), "nothing is renamed into place");
        assert!(artefacts.list().await.expect("list").is_empty());
    }
}

#[tokio::test]
async fn a_part_of_an_earlier_run_is_gone_on_with_and_a_wrong_one_is_fetched_anew() {
    let mut replies = vec![Reply::Cut(25_000)];
    replies.extend([Reply::Cut(0); 4]);
    let server = Server::start(&replies).await;
    let bench = Bench::on(&server).await;
    bench.ensure(&bench.open().await).await.expect_err("cut");
    assert_eq!(bench.partials(), 2, "the part and what it is compared by");
    let mut bytes = std::fs::read(bench.part()).expect("part");
    assert_eq!(bytes.len(), 25_000);
    bytes[10] ^= 1;
    std::fs::write(bench.part(), bytes).expect("part");
    bench.ensure(&bench.open().await).await.expect("anew");
    let requests = server.requests();
    assert!(requests[5].contains("range: bytes=25000-"));
    assert!(!requests[6].contains("range:"));
    assert_eq!(bench.partials(), 0);
}

#[tokio::test]
async fn a_download_that_gets_further_each_time_is_not_given_up() {
    let server = Server::start(&[Reply::Cut(1000); 12]).await;
    let bench = Bench::on(&server).await;
    bench.ensure(&bench.open().await).await.expect("in the end");
    assert_eq!(bench.told(), ["ARTEFACT_TRUNCATED"; 12]);
    assert!(server.requests()[12].contains("range: bytes=12000-"));
}

#[tokio::test]
async fn all_tries_together_have_a_limit() {
    let server = Server::start(&vec![Reply::Cut(1); SIZE / 10]).await;
    let mut bench = Bench::on(&server).await;
    bench.limits.total = Duration::from_millis(600);
    let error = bench.ensure(&bench.open().await).await;
    let tries = server.requests().len();
    assert!(error.is_err() && tries > 5, "{error:?} after {tries} tries");

    let server = Server::start(&[Reply::Hang(1000)]).await;
    let mut bench = Bench::on(&server).await;
    bench.limits.total = Duration::from_millis(200);
    let error = bench.ensure(&bench.open().await).await.expect_err("late");
    assert!(
        error.to_string().contains("not done after 0.2 s"),
        "{error}"
    );
    assert_eq!(server.requests().len(), 1);
    assert!(bench.kept().is_empty());
}

#[tokio::test]
async fn what_has_no_end_is_cut_off_and_not_kept() {
    let server = Server::start(&[Reply::Endless]).await;
    let mut bench = Bench::on(&server).await;
    bench.limits.most = 1_000_000;
    let artefacts = bench.open().await;
    let error = bench.ensure(&artefacts).await.expect_err("no end");
    assert_eq!(error.reason(), "ARTEFACT_TOO_LARGE");
    assert!(error.to_string().contains("/k3s is too large"), "{error}");
    assert_eq!(server.requests().len(), 1);
    assert_eq!((bench.kept().len(), bench.partials()), (0, 0));
}

#[tokio::test]
async fn a_trickle_is_given_up_although_something_comes() {
    let server = Server::start(&[Reply::Drip; 5]).await;
    let mut bench = Bench::on(&server).await;
    bench.limits.slow = Duration::from_millis(100);
    let error = bench.ensure(&bench.open().await).await.expect_err("slow");
    assert_eq!(error.reason(), "ARTEFACT_DOWNLOAD_STALLED");
    assert!(
        error.to_string().contains("less than 10 KiB a second"),
        "{error}"
    );
    assert_eq!(server.requests().len(), 5, "a trickle is no way on");
    assert!(bench.kept().is_empty());
}

#[tokio::test]
async fn what_was_damaged_on_disk_is_fetched_anew_and_what_nobody_knows_is_swept() {
    let server = Server::start(&[]).await;
    let bench = Bench::on(&server).await;
    let artefacts = bench.open().await;
    let (artefact, _) = bench.ensure(&artefacts).await.expect("fetched");
    std::fs::write(&artefact.path, b"rubbish").expect("write");
    std::fs::write(bench.directory().join("stranger"), b"x").expect("write");
    std::fs::write(bench.directory().join("partial/import-1"), b"x").expect("write");
    let artefacts = bench.open().await;
    assert_eq!((bench.kept().len(), bench.partials()), (1, 0));
    let (artefact, fetched) = bench.ensure(&artefacts).await.expect("anew");
    assert!(fetched);
    assert_eq!(std::fs::read(&artefact.path).expect("file"), program());
}

#[tokio::test]
async fn a_directory_is_a_source_and_its_checksum_file_is_heeded() {
    let source = tempfile::tempdir().expect("a directory");
    let release = source.path().join("v1.34.8+k3s1");
    std::fs::create_dir(&release).expect("directory");
    std::fs::write(release.join("k3s"), program()).expect("write");
    let template = source.path().display().to_string();
    let mut bench = Bench::new(template, None).await;
    bench.limits.most = SIZE as u64;
    let artefacts = bench.open().await;
    let error = bench.ensure(&artefacts).await.expect_err("no checksum");
    assert_eq!(error.reason(), "ARTEFACT_CHECKSUM_MISSING");
    let sums = release.join("sha256sum-amd64.txt");
    std::fs::write(&sums, format!("{}  k3s\n", "0".repeat(64))).expect("write");
    let error = bench.ensure(&artefacts).await.expect_err("another hash");
    assert_eq!(error.reason(), "ARTEFACT_CHECKSUM_MISMATCH");
    std::fs::write(&sums, format!("{}  k3s\n", sha256(&program()))).expect("write");
    let (artefact, _) = bench.ensure(&artefacts).await.expect("checked");
    assert_eq!(artefact.source(), release.join("k3s").display().to_string());
}

#[tokio::test]
async fn a_directory_that_lacks_the_file_or_has_a_huge_one_is_told_with_the_path() {
    let source = tempfile::tempdir().expect("a directory");
    let release = source.path().join("v1.34.8+k3s1");
    std::fs::create_dir(&release).expect("directory");
    let template = source.path().display().to_string();
    let mut bench = Bench::new(template, Some(&sha256(&program()))).await;
    bench.limits.most = SIZE as u64 - 1;
    let artefacts = bench.open().await;
    let path = release.join("k3s");
    let missing = bench.ensure(&artefacts).await.expect_err("no file");
    assert_eq!(missing.reason(), "ARTEFACT_NOT_FOUND");
    let text = format!("{} does not exist on the controller", path.display());
    assert_eq!(missing.to_string(), text);
    std::fs::write(&path, program()).expect("write");
    let huge = bench.ensure(&artefacts).await.expect_err("too large");
    assert_eq!(huge.reason(), "ARTEFACT_TOO_LARGE");
    assert!(huge.to_string().contains(&*path.to_string_lossy()));
    assert_eq!((bench.kept().len(), bench.partials()), (0, 0));
}

#[tokio::test]
async fn a_disk_without_room_is_told_with_path_and_bytes_and_room_mends_it() {
    let server = Server::start(&[]).await;
    let mut bench = Bench::on(&server).await;
    bench.limits.reserve = 1 << 60;
    let artefacts = bench.open().await;
    let error = bench.ensure(&artefacts).await.expect_err("no room");
    assert_eq!(error.reason(), "DISK_FULL");
    let partials = bench.directory().join("partial");
    let needed = (1_u64 << 60) + SIZE as u64;
    let begin = format!(
        "failed to write {}: {needed} bytes are needed and ",
        partials.display()
    );
    let free = error.to_string();
    let free = free
        .strip_prefix(&begin)
        .and_then(|rest| rest.strip_suffix(" are free"));
    assert!(
        free.is_some_and(|free| free.parse::<u64>().is_ok()),
        "{error}"
    );
    assert!(error.hint().contains(&*partials.to_string_lossy()));
    assert_eq!((bench.kept().len(), bench.partials()), (0, 0));
    bench.limits.reserve = 0;
    bench.ensure(&bench.open().await).await.expect("room");
}

#[tokio::test]
async fn a_place_that_can_not_be_written_is_named() {
    let server = Server::start(&[]).await;
    let bench = Bench::on(&server).await;
    let artefacts = bench.open().await;
    // A directory stands where the part should be written.
    std::fs::create_dir(bench.part()).expect("directory");
    let error = bench.ensure(&artefacts).await.expect_err("no file");
    assert_eq!(error.reason(), "FILE_FAILED");
    assert!(
        error.to_string().contains("k3s-v1.34.8+k3s1-amd64.part"),
        "{error}"
    );
}
