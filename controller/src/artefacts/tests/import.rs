//! Imports: kept only when they are what they say.

use bytes::Bytes;
use canasta_proto::artefact::MAX_SIZE;
use canasta_proto::pb;
use futures_util::stream;

use super::{Artefact, Artefacts, Bench, Error, SIZE, program, sha256};
use crate::artefacts::Cut;

fn header() -> pb::ImportHeader {
    pb::ImportHeader {
        name: "k3s".to_owned(),
        version: "v1.34.8+k3s1".to_owned(),
        sha256: sha256(&program()),
        size: SIZE as u64,
        arch: String::new(),
    }
}

pub(super) async fn import(
    artefacts: &Artefacts,
    header: &pb::ImportHeader,
    file: &[u8],
) -> Result<Artefact, Error> {
    let chunks: Vec<_> = file
        .chunks(100_000)
        .map(|chunk| Ok(Bytes::copy_from_slice(chunk)))
        .collect();
    artefacts
        .import(header, stream::iter(chunks), "user alice")
        .await
}

#[tokio::test]
async fn an_import_is_checked_stored_and_not_replaced() {
    let bench = Bench::new("/nowhere".to_owned(), None).await;
    let artefacts = bench.open().await;
    let stored = import(&artefacts, &header(), &program())
        .await
        .expect("sound");
    assert_eq!(
        (stored.source(), stored.arch()),
        ("imported by user alice", "amd64")
    );
    let (found, fetched) = bench.ensure(&artefacts).await.expect("no source is needed");
    assert_eq!((found.sha256(), fetched), (stored.sha256(), false));
    import(&artefacts, &header(), &program())
        .await
        .expect("the same again");
    let mut other = program();
    other[500] ^= 1;
    let wanted = pb::ImportHeader {
        sha256: sha256(&other),
        ..header()
    };
    let error = import(&artefacts, &wanted, &other)
        .await
        .expect_err("differs");
    assert_eq!(error.reason(), "ARTEFACT_DIFFERS");
    assert_eq!(
        (bench.kept(), bench.partials()),
        (vec![sha256(&program())], 0)
    );
}

#[tokio::test]
async fn an_import_that_is_not_what_it_says_is_refused_and_leaves_nothing() {
    let bench = Bench::new("/nowhere".to_owned(), None).await;
    let artefacts = bench.open().await;
    let script = b"#!/bin/sh\nexit 0\n".to_vec();
    let of = |change: fn(&mut pb::ImportHeader)| {
        let mut header = header();
        change(&mut header);
        header
    };
    let mut scripted = of(|header| header.size = 17);
    scripted.sha256 = sha256(&script);
    for (header, file, part) in [
        (
            of(|header| header.name = "helm".to_owned()),
            program(),
            "only 'k3s'",
        ),
        (
            of(|header| header.version = "../x".to_owned()),
            program(),
            "looks like",
        ),
        (
            of(|header| header.sha256 = "ab".to_owned()),
            program(),
            "64 hexadecimal",
        ),
        (of(|header| header.size = 0), program(), "bytes"),
        (
            of(|header| header.size = MAX_SIZE + 1),
            program(),
            "a file has 1 to 536870912 bytes",
        ),
        (
            of(|header| header.sha256 = "a".repeat(64)),
            program(),
            "its SHA-256 is",
        ),
        (of(|header| header.size -= 1), program(), "more came"),
        (
            of(|header| header.size += 1),
            program(),
            "before all of the file",
        ),
        (
            of(|header| header.arch = "arm64".to_owned()),
            program(),
            "a program for amd64",
        ),
        (scripted, script, "no program"),
    ] {
        let error = import(&artefacts, &header, &file).await.expect_err(part);
        assert!(error.to_string().contains(part), "{part}: {error}");
        assert_eq!(error.reason(), "ARTEFACT_IMPORT_INVALID", "{error}");
    }
    let cut = stream::iter([Ok(Bytes::from_static(b"x")), Err(Cut)]);
    let error = artefacts
        .import(&header(), cut, "user alice")
        .await
        .expect_err("cut");
    assert!(matches!(error, Error::ImportCut));
    assert!(bench.kept().is_empty());
    assert_eq!(bench.partials(), 0);
}
