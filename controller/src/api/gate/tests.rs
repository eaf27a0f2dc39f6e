//! What is audited when callers are refused in great numbers, and answers whose caller is removed.

use std::convert::Infallible;
use std::time::Duration;

use canasta_transport::listen::{Peer, PeerInfo, RefusalReason, RefusedHandshake};
use canasta_transport::spiffe::FleetId;
use canasta_transport::status::Fault;
use futures_util::stream;
use http::{Request, Response};
use http_body_util::{BodyExt as _, StreamBody};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer as _, Service as _, ServiceExt as _, service_fn};

use super::Gate;
use crate::identity::Directory;
use crate::store::{AuditRow, StateDir, Store};

struct Lab {
    _directory: tempfile::TempDir,
    _state: StateDir,
    store: Store,
    gate: Gate,
}

impl Lab {
    async fn new() -> Self {
        let directory = tempfile::tempdir().expect("directory");
        let state = StateDir::take(directory.path()).expect("state");
        let store = Store::open(&state, "fleet").await.expect("database");
        let gate = Gate::new(store.clone(), Directory::default());
        Self {
            _directory: directory,
            _state: state,
            store,
            gate,
        }
    }

    /// Makes a call over a connection of this peer; `answer` is what the service behind the gate gives.
    async fn call(&self, info: PeerInfo, method: &str, answer: fn() -> Body) -> Response<Body> {
        let service = service_fn(move |_: Request<Body>| {
            std::future::ready(Ok::<_, Infallible>(Response::new(answer())))
        });
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = method.parse().expect("a path");
        request.extensions_mut().insert(info);
        let mut gated = self.gate.layer(service);
        let ready = gated.ready().await.expect("ready");
        ready.call(request).await.expect("an answer")
    }

    async fn rows(&self) -> Vec<AuditRow> {
        self.store.audit(1000).await.expect("rows")
    }
}

fn stranger(number: usize) -> PeerInfo {
    let remote = format!("10.0.{}.{}:4711", number / 200, number % 200);
    PeerInfo::new(Peer::Anonymous, remote)
}

#[tokio::test]
async fn strangers_fill_a_bounded_number_of_rows_and_hide_no_member() {
    let lab = Lab::new().await;
    for number in 0..200 {
        let method = "/canasta.fleet.v1.HostService/AddHost";
        let answer = lab.call(stranger(number), method, Body::empty).await;
        let status = Status::from_header_map(answer.headers()).expect("refused");
        assert_eq!(status.code(), tonic::Code::PermissionDenied);
    }
    let rows = lab.rows().await.len();
    assert!((60..100).contains(&rows), "{rows} rows for 200 refusals");

    let fleet = FleetId::random().expect("random");
    let anna = fleet.user("anna".parse().expect("name"));
    for _ in 0..200 {
        lab.gate.refused_handshake(&RefusedHandshake {
            remote: "192.0.2.7:4711".to_owned(),
            identity: Some(anna.clone()),
            reason: RefusalReason::TimedOut,
        });
        lab.gate.refused_handshake(&RefusedHandshake {
            remote: "192.0.2.8:4711".to_owned(),
            identity: None,
            reason: RefusalReason::TimedOut,
        });
    }
    let of_anna = async || {
        let rows = lab.rows().await;
        let handshakes = rows.iter().filter(|row| row.entry.what == "handshake");
        handshakes
            .inspect(|row| assert_eq!(row.entry.who, "user anna"))
            .count()
    };
    let waiting = async {
        while of_anna().await < 60 {
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(20), waiting).await;
    waited.expect("rows about the member");
    assert!(of_anna().await < 100);
    assert_eq!(lab.gate.refused_handshakes(), 400);
}

#[tokio::test]
async fn who_calls_too_often_without_a_certificate_is_told_when_to_come_again() {
    let lab = Lab::new().await;
    let mut refused = None;
    // More than may come at once, and than can come in the time that this takes.
    for _ in 0..100 {
        let method = "/canasta.fleet.v1.EnrolmentService/GetClock";
        let answer = lab.call(stranger(1), method, Body::empty).await;
        refused = Status::from_header_map(answer.headers())
            .filter(|status| status.code() != tonic::Code::Ok);
        if refused.is_some() {
            break;
        }
    }
    let fault = Fault::from_status(&refused.expect("refused"));
    assert_eq!(fault.reason, "TOO_MANY_CALLS");
    let pause = fault.retry_after.expect("when to come again");
    assert!(pause <= Duration::from_secs(1), "{pause:?}");
}

#[tokio::test]
async fn an_open_answer_ends_when_its_connection_is_closed() {
    fn endless() -> Body {
        Body::new(StreamBody::new(stream::pending::<
            Result<hyper::body::Frame<bytes::Bytes>, Status>,
        >()))
    }
    let lab = Lab::new().await;
    let info = PeerInfo::new(
        Peer::Local {
            uid: 0,
            name: "root".to_owned(),
        },
        "unix socket".to_owned(),
    );
    let closed = info.closed().clone();
    let answer = lab
        .call(info, "/canasta.fleet.v1.HostService/ListHosts", endless)
        .await;
    let mut body = answer.into_body();
    let reading = tokio::spawn(async move { body.frame().await });
    tokio::task::yield_now().await;
    closed.cancel();
    let frame = tokio::time::timeout(Duration::from_secs(20), reading).await;
    let ended = frame.expect("at once").expect("no panic").expect("a frame");
    assert!(ended.is_err(), "{ended:?}");
}
