use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use canasta_proto::pb;
use canasta_proto::version::K3sVersion;
use canasta_steps::StepError;
use canasta_transport::facts::hex;
use futures_util::stream;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::{Artefact, Artefacts, Cut, Error, Format, Tell, Timings};
use crate::config::K3s;
use crate::store::{StateDir, Store};

const SIZE: usize = 300_000;

/// A program for amd64, as far as its head tells.
fn program() -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..SIZE)
        .map(|index| u8::try_from(index % 251).expect("small"))
        .collect();
    bytes[..20].copy_from_slice(&[
        0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 62, 0,
    ]);
    bytes
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// What the server does with one request.
#[derive(Debug, Clone, Copy)]
enum Reply {
    /// A status without a file.
    Status(u16),
    /// The file, or the range of it that is asked for.
    File,
    /// All is announced and so many bytes are sent.
    Cut(usize),
    /// So many bytes are sent, and then nothing.
    Hang(usize),
    /// Other content under the same name.
    Other,
}

/// A release server that does as it is told, and the file for what comes after.
struct Server {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start(replies: &[Reply]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let heads: Arc<Mutex<Vec<String>>> = Arc::default();
        let mut replies: VecDeque<Reply> = replies.iter().copied().collect();
        tokio::spawn({
            let heads = Arc::clone(&heads);
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let reply = replies.pop_front().unwrap_or(Reply::File);
                    tokio::spawn(answer(stream, reply, Arc::clone(&heads)));
                }
            }
        });
        Self { address, heads }
    }

    fn requests(&self) -> Vec<String> {
        self.heads.lock().expect("heads").clone()
    }
}

async fn answer(mut stream: TcpStream, reply: Reply, heads: Arc<Mutex<Vec<String>>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    let from = head
        .lines()
        .find_map(|line| line.strip_prefix("range: bytes="))
        .and_then(|range| range.trim_end_matches('-').parse().ok())
        .unwrap_or(0);
    heads.lock().expect("heads").push(head);
    let mut file = program();
    if matches!(reply, Reply::Other) {
        file[100] ^= 1;
    }
    let (status, body) = match reply {
        Reply::Status(status) => (status, &[][..]),
        _ if from > 0 => (206, &file[from..]),
        _ => (200, &file[..]),
    };
    let last = file.len() - 1;
    let head = format!(
        "HTTP/1.1 {status} X\r\ncontent-length: {}\r\netag: \"one\"\r\ncontent-range: bytes {from}-{last}/{}\r\nconnection: close\r\n\r\n",
        body.len(),
        file.len()
    );
    let sent = match reply {
        Reply::Cut(count) | Reply::Hang(count) => &body[..count],
        _ => body,
    };
    // The client may be gone.
    let _ = stream.write_all(head.as_bytes()).await;
    let _ = stream.write_all(sent).await;
    let _ = stream.flush().await;
    if matches!(reply, Reply::Hang(_)) {
        std::future::pending::<()>().await;
    }
}

/// Writes down what it is told.
#[derive(Default)]
struct Told(Mutex<Vec<String>>);

#[async_trait]
impl Tell for Told {
    async fn bytes(&self, _: u64, _: u64, _: &str) {}

    async fn retrying(&self, error: StepError, _: Duration) {
        self.0.lock().expect("told").push(error.reason().to_owned());
    }
}

struct Bench {
    dir: tempfile::TempDir,
    store: Store,
    config: K3s,
    told: Told,
    _state: StateDir,
}

impl Bench {
    async fn new(release_url: String, sha256: Option<String>) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let state = StateDir::take(dir.path()).expect("state");
        Self {
            store: Store::open(&state, "fleet").await.expect("database"),
            dir,
            config: K3s {
                release_url,
                sha256,
                ..K3s::default()
            },
            told: Told::default(),
            _state: state,
        }
    }

    async fn on(server: &Server) -> Self {
        let url = format!("http://{}/{{version}}/{{asset}}", server.address);
        Self::new(url, Some(sha256(&program()))).await
    }

    fn directory(&self) -> PathBuf {
        self.dir.path().join("artefacts")
    }

    async fn open(&self) -> Artefacts {
        let timings = Timings {
            stall: Duration::from_millis(300),
            first_pause: Duration::from_millis(1),
        };
        Artefacts::open(
            self.store.clone(),
            self.directory(),
            self.config.clone(),
            timings,
        )
        .await
        .expect("artefacts")
    }

    async fn ensure(&self, artefacts: &Artefacts) -> Result<(Artefact, bool), Error> {
        artefacts.ensure_k3s(&version(), "x86_64", &self.told).await
    }

    fn told(&self) -> Vec<String> {
        self.told.0.lock().expect("told").clone()
    }

    /// Names of the files that are kept, without those on their way.
    fn kept(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.directory()).expect("directory");
        entries
            .map(|entry| {
                entry
                    .expect("entry")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .filter(|name| name != "partial")
            .collect()
    }

    fn partials(&self) -> usize {
        std::fs::read_dir(self.directory().join("partial"))
            .expect("directory")
            .count()
    }
}

fn version() -> K3sVersion {
    "v1.34.8+k3s1".parse().expect("version")
}

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
    let server = Server::start(&[Reply::Cut(5000); 5]).await;
    let bench = Bench::on(&server).await;
    bench.ensure(&bench.open().await).await.expect_err("cut");
    assert_eq!(bench.partials(), 2, "the part and what it is compared by");
    let part = bench
        .directory()
        .join("partial/k3s-v1.34.8+k3s1-amd64.part");
    let mut bytes = std::fs::read(&part).expect("part");
    assert_eq!(bytes.len(), 25_000);
    bytes[10] ^= 1;
    std::fs::write(&part, bytes).expect("part");
    bench.ensure(&bench.open().await).await.expect("anew");
    let requests = server.requests();
    assert!(requests[5].contains("range: bytes=25000-"));
    assert!(!requests[6].contains("range:"));
    assert_eq!(bench.partials(), 0);
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
    let bench = Bench::new(template, None).await;
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

fn header() -> pb::ImportHeader {
    pb::ImportHeader {
        name: "k3s".to_owned(),
        version: "v1.34.8+k3s1".to_owned(),
        sha256: sha256(&program()),
        size: SIZE as u64,
        arch: String::new(),
    }
}

async fn import(
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
    assert_eq!(
        (error.reason(), error.code()),
        ("ARTEFACT_DIFFERS", tonic::Code::AlreadyExists)
    );
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
            "only 'k3s' and 'agent'",
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
        assert_eq!(error.code(), tonic::Code::InvalidArgument, "{error}");
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

#[tokio::test]
async fn a_disk_that_can_not_be_written_is_named() {
    let error =
        super::file::check_space(std::path::Path::new("/"), u64::MAX).expect_err("too much");
    assert_eq!(error.reason(), "DISK_FULL");
    assert!(
        error.to_string().contains("bytes are needed and"),
        "{error}"
    );
    let server = Server::start(&[]).await;
    let bench = Bench::on(&server).await;
    let artefacts = bench.open().await;
    // A directory stands where the part should be written.
    std::fs::create_dir(
        bench
            .directory()
            .join("partial/k3s-v1.34.8+k3s1-amd64.part"),
    )
    .expect("directory");
    let error = bench.ensure(&artefacts).await.expect_err("no file");
    assert_eq!(error.reason(), "FILE_FAILED");
    assert!(
        error.to_string().contains("k3s-v1.34.8+k3s1-amd64.part"),
        "{error}"
    );
}

#[tokio::test]
async fn a_package_of_the_agent_is_imported_by_what_it_tells_of_itself_and_handed_out() {
    const CONTROL: &str = "Package: canasta-agent\nVersion: 9.9.9-1\nArchitecture: arm64\n";
    let bench = Bench::new("/nowhere".to_owned(), None).await;
    let artefacts = bench.open().await;
    let file = super::package::tests::deb(".xz", CONTROL);
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
    let brought = super::package::tests::deb(".gz", &own);
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
