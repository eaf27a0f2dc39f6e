//! The release server as a downloader sees it: checksums, resuming, faults.

use std::net::SocketAddr;

use bytes::Bytes;
use canasta_standin::release::{Fault, FaultKind, ReleaseServer, Source};
use canasta_standin::token;
use canasta_standin::trailer::{Faults, Profile, Trailer};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

struct Got {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
    whole: bool,
}

async fn ask(
    address: SocketAddr,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Got {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("Host", "release");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request
        .body(Full::new(Bytes::from(body.to_owned())))
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    let (parts, mut incoming) = response.into_parts();
    let mut got = Got {
        status: parts.status,
        headers: parts.headers,
        body: Vec::new(),
        whole: true,
    };
    while let Some(frame) = incoming.frame().await {
        match frame {
            Ok(frame) => got.body.extend_from_slice(frame.data_ref().unwrap()),
            Err(_) => got.whole = false,
        }
    }
    got
}

async fn get(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Got {
    ask(address, Method::GET, path, headers, "").await
}

async fn standin(directory: &std::path::Path) -> ReleaseServer {
    let file = directory.join("k3s");
    std::fs::write(&file, vec![7_u8; 200_000]).unwrap();
    let source = Source::Standin {
        file,
        profile: Profile::Recorded,
        faults: Faults::default(),
    };
    ReleaseServer::start(SocketAddr::from(([127, 0, 0, 1], 0)), source, true)
        .await
        .unwrap()
}

#[tokio::test]
async fn any_version_is_served_with_its_trailer_and_checksum() {
    let directory = tempfile::tempdir().unwrap();
    let server = standin(directory.path()).await;
    let program = get(server.local_addr(), "/v1.34.8%2Bk3s1/k3s", &[]).await;
    assert_eq!(program.status, 200);
    let path = directory.path().join("downloaded");
    std::fs::write(&path, &program.body).unwrap();
    assert_eq!(Trailer::read(&path).unwrap().version, "v1.34.8+k3s1");
    let sums = get(
        server.local_addr(),
        "/v1.34.8+k3s1/sha256sum-amd64.txt",
        &[],
    )
    .await;
    let expected = format!("{}  k3s\n", token::hash(&program.body));
    assert_eq!(String::from_utf8(sums.body).unwrap(), expected);
    let arm = get(
        server.local_addr(),
        "/v1.34.8+k3s1/sha256sum-arm64.txt",
        &[],
    )
    .await;
    assert!(
        String::from_utf8(arm.body)
            .unwrap()
            .ends_with("  k3s-arm64\n")
    );
    for path in ["/v1.34.8/k3s", "/v1.34.8+k3s1/other", "/k3s", "/"] {
        assert_eq!(
            get(server.local_addr(), path, &[]).await.status,
            404,
            "{path}"
        );
    }
    let other = get(server.local_addr(), "/v1.35.1+k3s1/k3s", &[]).await;
    assert_ne!(other.headers["etag"], program.headers["etag"]);
}

#[tokio::test]
async fn a_real_file_is_served_as_it_is_for_its_version_alone() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("k3s");
    std::fs::write(&file, b"real").unwrap();
    let source = Source::Real {
        file,
        version: "v1.21.3+k3s1".into(),
    };
    let server = ReleaseServer::start(SocketAddr::from(([127, 0, 0, 1], 0)), source, false)
        .await
        .unwrap();
    assert_eq!(
        get(server.local_addr(), "/v1.21.3%2bk3s1/k3s", &[])
            .await
            .body,
        b"real"
    );
    assert_eq!(
        get(server.local_addr(), "/v1.34.8+k3s1/k3s", &[])
            .await
            .status,
        404
    );
}

#[tokio::test]
async fn a_truncated_download_is_resumed() {
    let directory = tempfile::tempdir().unwrap();
    let server = standin(directory.path()).await;
    let path = "/v1.34.8+k3s1/k3s";
    server.set_fault(Some(Fault {
        kind: FaultKind::TruncateAfter {
            bytes: 70_000,
            times: 1,
        },
        asset: Some("k3s".into()),
    }));
    let mut first = get(server.local_addr(), path, &[]).await;
    assert!(!first.whole);
    assert_eq!(first.body.len(), 70_000);
    let etag = first.headers["etag"].to_str().unwrap().to_owned();
    let length: u64 = first.headers["content-length"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();

    let resumed = [("Range", "bytes=70000-"), ("If-Range", etag.as_str())];
    let rest = get(server.local_addr(), path, &resumed).await;
    assert_eq!(rest.status, 206);
    assert_eq!(
        rest.headers["content-range"],
        format!("bytes 70000-{}/{length}", length - 1)
    );
    first.body.extend(rest.body);
    assert_eq!(etag, format!("\"{}\"", token::hash(&first.body)));

    let stale = [("Range", "bytes=70000-"), ("If-Range", "\"other\"")];
    assert_eq!(get(server.local_addr(), path, &stale).await.status, 200);
    let in_trailer = format!("bytes={}-", length - 5);
    let end = get(server.local_addr(), path, &[("Range", &in_trailer)]).await;
    assert_eq!(end.body, first.body[first.body.len() - 5..]);
    let beyond = format!("bytes={length}-");
    assert_eq!(
        get(server.local_addr(), path, &[("Range", &beyond)])
            .await
            .status,
        416
    );
    let requests = server.requests();
    assert_eq!(requests.len(), 5);
    assert_eq!(requests[1].range.as_deref(), Some("bytes=70000-"));
}

#[tokio::test]
async fn a_body_is_cut_at_the_very_byte_with_all_before_it_sent() {
    let directory = tempfile::tempdir().unwrap();
    let server = standin(directory.path()).await;
    for bytes in [0, 1, 65_536, 150_001] {
        server.set_fault(Some(Fault {
            kind: FaultKind::TruncateAfter { bytes, times: 1 },
            asset: None,
        }));
        let got = get(server.local_addr(), "/v1.34.8+k3s1/k3s", &[]).await;
        assert_eq!((got.status.as_u16(), got.whole), (200, false));
        assert_eq!(got.body.len() as u64, bytes);
    }
}

#[tokio::test]
async fn faults_by_the_control_path() {
    let directory = tempfile::tempdir().unwrap();
    let server = standin(directory.path()).await;
    let address = server.local_addr();
    let path = "/v1.34.8+k3s1/k3s";
    let set = async |json: &str| {
        let got = ask(address, Method::POST, "/-/fault", &[], json).await;
        assert_eq!(got.status, 200, "{}", String::from_utf8_lossy(&got.body));
    };
    set(r#"{"fault": "server_error", "times": 2}"#).await;
    assert_eq!(get(address, path, &[]).await.status, 500);
    assert_eq!(get(address, path, &[]).await.status, 500);
    assert_eq!(get(address, path, &[]).await.status, 200);
    set(r#"{"fault": "not_found"}"#).await;
    assert_eq!(get(address, path, &[]).await.status, 404);
    set(r#"{"fault": "bad_checksum"}"#).await;
    let program = get(address, path, &[]).await;
    let sums = get(address, "/v1.34.8+k3s1/sha256sum-amd64.txt", &[]).await;
    let sums = String::from_utf8(sums.body).unwrap();
    assert_eq!(sums.len(), 70);
    assert!(!sums.starts_with(&token::hash(&program.body)));
    set(r#"{"fault": "no_checksum"}"#).await;
    let sums = get(address, "/v1.34.8+k3s1/sha256sum-amd64.txt", &[]).await;
    let sums = String::from_utf8(sums.body).unwrap();
    assert!(!sums.ends_with("  k3s\n"), "{sums}");
    set(r#"{"fault": "redirect", "to": "http://elsewhere"}"#).await;
    let moved = get(address, path, &[]).await;
    assert_eq!(moved.status, 302);
    assert_eq!(moved.headers["location"], format!("http://elsewhere{path}"));
    set(r#"{"fault": "slow", "bytes_per_second": 1000000}"#).await;
    assert_eq!(get(address, path, &[]).await.body, program.body);
    set(r#"{"fault": "hang"}"#).await;
    let hanging = tokio::time::timeout(
        std::time::Duration::from_millis(100),
        get(address, path, &[]),
    )
    .await;
    assert!(hanging.is_err());
    ask(address, Method::DELETE, "/-/fault", &[], "").await;
    assert_eq!(get(address, path, &[]).await.status, 200);
}

#[tokio::test]
async fn an_apt_repository_is_served_beside_and_nothing_outside_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let server = standin(directory.path()).await;
    let address = server.local_addr();
    assert_eq!(get(address, "/apt/Packages", &[]).await.status, 404);
    // A link, as it is put in place when there is something to serve: what it leads to is looked up each time.
    let link = directory.path().join("link");
    server.serve_repository(link.clone());
    assert_eq!(get(address, "/apt/Packages", &[]).await.status, 404);
    let repository = directory.path().join("repository");
    std::fs::create_dir_all(repository.join("pool")).unwrap();
    std::fs::write(repository.join("Packages"), "Package: a\n").unwrap();
    std::fs::write(repository.join("pool/a_1%3a2+b~c_all.deb"), "0123456789").unwrap();
    std::os::unix::fs::symlink(&repository, &link).unwrap();
    let index = get(address, "/apt/Packages", &[]).await;
    assert_eq!(
        (index.status.as_u16(), &*index.body),
        (200, &b"Package: a\n"[..])
    );
    let path = "/apt/pool/a_1%253a2%2bb%7ec_all.deb";
    let rest = get(address, path, &[("Range", "bytes=4-")]).await;
    assert_eq!((rest.status.as_u16(), &*rest.body), (206, &b"456789"[..]));
    for path in [
        "/apt",
        "/apt/",
        "/apt/pool",
        "/apt/../k3s",
        "/apt/%2e%2e/k3s",
        "/apt/%2e%2e%2fk3s",
        "/apt//etc/passwd",
    ] {
        assert_eq!(get(address, path, &[]).await.status, 404, "{path}");
    }
    assert_eq!(get(address, "/v1.34.8+k3s1/k3s", &[]).await.status, 200);
}
