//! Whom the client trusts, on a machine with and without CA certificates.

#![expect(
    clippy::disallowed_types,
    reason = "a process without CA certificates can't be this one"
)]

use std::process::Command;

use super::server::Server;
use super::{Bench, program, sha256};

const NOWHERE: &str = "/nonexistent";

/// Runs the named test of this file again, in a process that finds no CA certificates. False in that process.
fn again_without_certificates(test: &str) -> bool {
    if std::env::var_os("SSL_CERT_FILE").is_some_and(|file| file == NOWHERE) {
        return false;
    }
    let itself = std::env::current_exe().expect("this program");
    let output = Command::new(itself)
        .args(["--exact", &format!("artefacts::tests::trust::{test}")])
        .env("SSL_CERT_FILE", NOWHERE)
        .env("SSL_CERT_DIR", NOWHERE)
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("1 passed"), "{text}");
    true
}

#[tokio::test]
async fn without_ca_certificates_all_but_tls_works() {
    if again_without_certificates("without_ca_certificates_all_but_tls_works") {
        return;
    }
    let source = tempfile::tempdir().expect("a directory");
    let release = source.path().join("v1.34.8+k3s1");
    std::fs::create_dir(&release).expect("directory");
    std::fs::write(release.join("k3s"), program()).expect("write");
    let pin = sha256(&program());
    let template = source.path().display().to_string();
    let bench = Bench::new(template, Some(&pin)).await;
    bench
        .ensure(&bench.open().await)
        .await
        .expect("a directory");

    let bench = Bench::on(&Server::start(&[]).await).await;
    bench.ensure(&bench.open().await).await.expect("a pin");

    let bench = Bench::new("https://127.0.0.1:1/{asset}".to_owned(), None).await;
    let error = bench.ensure(&bench.open().await).await.expect_err("TLS");
    assert_eq!(error.reason(), "ARTEFACT_NOBODY_TRUSTED");
    let url = "https://127.0.0.1:1/sha256sum-amd64.txt";
    assert!(error.to_string().contains(url), "{error}");
    assert!(error.hint().contains("package ca-certificates"));
    assert!(error.hint().contains("[k3s] ca_file"));
}

#[tokio::test]
async fn a_ca_file_that_can_not_be_used_is_told_with_its_path() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).expect("write");
        path
    };
    let begin = "-----BEGIN CERTIFICATE-----\n";
    let end = "\n-----END CERTIFICATE-----\n";
    for (path, why) in [
        (directory.path().join("missing"), "no such file"),
        (file("empty", ""), "no certificate"),
        (file("not-pem", "hello"), "no certificate"),
        (file("no-end", begin), "missing section end"),
        (file("no-der", &format!("{begin}aGVsbG8={end}")), ""),
    ] {
        let mut bench = Bench::new("https://127.0.0.1:1/{asset}".to_owned(), None).await;
        bench.config.ca_file = Some(path.clone());
        let error = bench.ensure(&bench.open().await).await.expect_err(why);
        assert_eq!(error.reason(), "ARTEFACT_CA_FILE", "{error:?}");
        let text = error.to_string();
        assert!(text.contains(&*path.to_string_lossy()), "{text}");
        assert!(text.contains("https://127.0.0.1:1/"), "{text}");
        assert!(error.hint().contains("[k3s] ca_file"));
        let source = std::error::Error::source(&error).expect("why").to_string();
        assert!(source.contains(why), "{why}: {source}");
    }
}
