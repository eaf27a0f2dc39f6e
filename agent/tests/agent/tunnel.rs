//! Bytes to the local API server and back.

use bytes::Bytes;
use canasta_proto::pb;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tonic::Code;

use crate::fixture::{Node, fault, joined};

fn kubeconfig(node: &Node, server: &str) {
    let text = format!(
        "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: Y2E=\n    server: {server}\n  name: default\nusers:\n- name: default\n  user:\n    client-certificate-data: Y2VydA==\n    client-key-data: a2V5\n"
    );
    let path = node.path("/etc/rancher/k3s/k3s.yaml");
    std::fs::create_dir_all(path.parent().expect("parent")).expect("directory");
    std::fs::write(path, text).expect("write");
}

fn data(bytes: &'static [u8]) -> pb::TunnelRequest {
    pb::TunnelRequest {
        data: Bytes::from_static(bytes),
    }
}

#[tokio::test]
async fn bytes_go_both_ways_and_each_side_ends_its_own() {
    let (_controller, node, _agent, mut client) = joined().await;
    let server = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    kubeconfig(
        &node,
        &format!("https://{}", server.local_addr().expect("address")),
    );
    let serving = tokio::spawn(async move {
        let (mut stream, _) = server.accept().await.expect("accept");
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.expect("read to the end");
        stream.write_all(b"you said: ").await.expect("write");
        stream.write_all(&all).await.expect("write");
    });
    let requests = futures_util::stream::iter([data(b"hello "), data(b"world")]);
    let mut answers = client.tunnel(requests).await.expect("tunnel").into_inner();
    let mut all = Vec::new();
    while let Some(answer) = answers.message().await.expect("answer") {
        all.extend_from_slice(&answer.data);
    }
    assert_eq!(all, b"you said: hello world");
    serving.await.expect("served");
}

#[tokio::test]
async fn an_api_server_that_is_not_there_is_told() {
    let (_controller, node, _agent, mut client) = joined().await;
    let status = client
        .tunnel(futures_util::stream::iter([data(b"x")]))
        .await
        .expect_err("no k3s");
    assert_eq!(fault(&status).reason, "API_NOT_RUNNING");
    let status = client
        .get_api_credentials(pb::GetApiCredentialsRequest {})
        .await
        .expect_err("no k3s");
    let missing = fault(&status);
    assert_eq!(
        (missing.code, missing.reason.as_str()),
        (Code::FailedPrecondition, "API_CREDENTIALS_MISSING")
    );

    let closed = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("bind")
        .local_addr()
        .expect("address");
    kubeconfig(&node, &format!("https://{closed}"));
    let status = client
        .tunnel(futures_util::stream::iter([data(b"x")]))
        .await
        .expect_err("down");
    let down = fault(&status);
    assert_eq!(
        (down.code, down.reason.as_str()),
        (Code::Unavailable, "API_NOT_RUNNING")
    );
    assert_eq!(down.subject, closed.to_string());

    kubeconfig(&node, "https://10.0.0.1:6443");
    let status = client
        .tunnel(futures_util::stream::iter([data(b"x")]))
        .await
        .expect_err("elsewhere");
    assert_eq!(fault(&status).reason, "KUBECONFIG_UNUSABLE");
}

#[tokio::test]
async fn credentials_come_from_the_kubeconfig() {
    let (_controller, node, _agent, mut client) = joined().await;
    kubeconfig(&node, "https://127.0.0.1:6443");
    let answer = client
        .get_api_credentials(pb::GetApiCredentialsRequest {})
        .await
        .expect("credentials")
        .into_inner();
    assert_eq!(&answer.ca_certificate[..], b"ca");
    assert_eq!(&answer.client_certificate[..], b"cert");
    assert_eq!(&answer.client_key[..], b"key");
    assert_eq!(answer.server_name, "127.0.0.1");
}
