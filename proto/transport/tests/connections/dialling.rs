//! What is told when nobody can be reached, and the unix socket.

use std::io::ErrorKind;
use std::time::Duration;

use canasta_transport::dial::{self, DialError, Limits};
use canasta_transport::listen::{self, Connections};
use canasta_transport::tls::ClientTls;
use nix::unistd::{User, getuid};
use tokio::net::{TcpListener, UnixListener};

use crate::service::{call, serve};

async fn error(address: &str, limits: &Limits) -> DialError {
    dial::connect(address, &ClientTls::pinned([0; 32]), limits)
        .await
        .expect_err("not reached")
}

#[tokio::test]
async fn each_failure_names_the_address_and_is_told_apart() {
    let limits = Limits::default();
    let hasty = Limits {
        handshake: Duration::from_millis(200),
        ..limits
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
    let address = listener.local_addr().expect("address").to_string();

    // Accepted by the kernel, and never answered.
    let stalled = error(&address, &hasty).await;
    assert!(matches!(stalled, DialError::Stalled { .. }), "{stalled:?}");

    let (broken, ()) = tokio::join!(error(&address, &limits), async {
        let (silent, _) = listener.accept().await.expect("accept");
        drop(silent);
        drop(listener.accept().await.expect("accept"));
    });
    assert!(matches!(broken, DialError::Broken { .. }), "{broken:?}");

    drop(listener);
    let refused = error(&address, &limits).await;
    assert!(matches!(refused, DialError::Refused { .. }), "{refused:?}");
    for error in [stalled, broken, refused] {
        assert!(error.to_string().contains(&address), "{error}");
        assert_eq!(error.refusal(), None);
    }

    let unresolved = error("localhost", &limits).await;
    assert!(
        matches!(unresolved, DialError::Resolve { .. }),
        "{unresolved:?}"
    );
}

#[tokio::test]
async fn the_unix_socket_tells_who_opened_it() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("controller.sock");
    let connections = Connections::default();
    let incoming = listen::unix(
        UnixListener::bind(&path).expect("socket"),
        connections.clone(),
        listen::Limits::default(),
    );
    let (_hanging, _task) = serve(incoming);
    let channel = dial::connect_unix(&path, &Limits::default())
        .await
        .expect("connected");
    let row = call(&channel, 0).await.expect("an answer");
    let user = User::from_uid(getuid()).expect("users").expect("a user");
    assert_eq!(row.who, format!("local {}", user.name));
    assert_eq!(row.from, "unix socket");
    // Nobody's certificate stands behind a local connection.
    assert_eq!(connections.close(|_, _| true), 0);
    assert_eq!(connections.len(), 1);
}

#[tokio::test]
async fn a_missing_socket_is_told_by_its_path() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("none.sock");
    match dial::connect_unix(&path, &Limits::default()).await {
        Err(DialError::Socket { path: told, source }) => {
            assert_eq!(told, path);
            assert_eq!(source.kind(), ErrorKind::NotFound);
        }
        other => panic!("{other:?}"),
    }
}
