//! Packages of the agent: told by themselves, kept, and handed out.

use canasta_proto::package::{Format, sample};
use canasta_proto::pb;

use super::import::import;
use super::{Bench, sha256};

#[tokio::test]
async fn a_package_of_the_agent_is_imported_by_what_it_tells_of_itself_and_handed_out() {
    const CONTROL: &str = "Package: canasta-agent\nVersion: 9.9.9-1\nArchitecture: arm64\n";
    let bench = Bench::new("/nowhere".to_owned(), None).await;
    let artefacts = bench.open().await;
    let file = sample::deb(".xz", CONTROL);
    let header = pb::ImportHeader {
        name: "agent".to_owned(),
        version: String::new(),
        arch: String::new(),
        sha256: sha256(&file),
        size: file.len() as u64,
    };
    let stored = import(&artefacts, &header, &file).await.expect("a package");
    let told = stored.to_pb();
    assert_eq!(
        (
            told.name.as_str(),
            told.version.as_str(),
            told.arch.as_str()
        ),
        ("agent-deb", "9.9.9-1", "arm64")
    );
    for (change, part) in [
        (
            pb::ImportHeader {
                version: "1".to_owned(),
                ..header.clone()
            },
            "its own version",
        ),
        (
            pb::ImportHeader {
                arch: "amd64".to_owned(),
                ..header.clone()
            },
            "a package for arm64",
        ),
    ] {
        let error = import(&artefacts, &change, &file).await.expect_err(part);
        assert!(error.to_string().contains(part), "{error}");
    }
    let shipped = tempfile::tempdir().expect("a directory");
    let own = CONTROL.replace("9.9.9", env!("CARGO_PKG_VERSION"));
    let brought = sample::deb(".gz", &own);
    let get = |format, arch| artefacts.agent_package(format, arch, shipped.path());
    let found = get(Format::Deb, "aarch64").await.expect("imported");
    assert_eq!(found.artefact.version, "9.9.9-1");
    std::fs::write(shipped.path().join("a.deb"), &brought).expect("written");
    std::fs::write(shipped.path().join("b.deb"), b"nothing").expect("written");
    let mut found = get(Format::Deb, "aarch64").await.expect("brought");
    assert_eq!(found.artefact.sha256, sha256(&brought));
    assert!(found.artefact.source.ends_with("a.deb"));
    let mut content = Vec::new();
    while let Some(chunk) = found.chunks.recv().await {
        content.extend_from_slice(&chunk.expect("read"));
    }
    assert_eq!(content, brought);
    for (format, arch) in [
        (Format::Rpm, "arm64"),
        (Format::Deb, "amd64"),
        (Format::Deb, "../x"),
    ] {
        let error = get(format, arch).await.expect_err("none");
        assert_eq!(error.reason(), "AGENT_PACKAGE_MISSING");
    }
}
