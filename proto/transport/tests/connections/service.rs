//! A small gRPC server that tells its callers who they are, and what it saw of those that it refused.

use std::net::SocketAddr;
use std::sync::Arc;

use canasta_proto::pb;
use canasta_proto::pb::audit_service_client::AuditServiceClient;
use canasta_proto::pb::audit_service_server::{AuditService, AuditServiceServer};
use canasta_transport::listen::{
    self, Connections, Incoming, Limits, OPEN_WINDOW, RefusalReason, RefusedHandshake, peer_of,
};
use canasta_transport::refusal::HandshakeRefusal;
use canasta_transport::status::Fault;
use canasta_transport::tls::ServerTls;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

/// As a limit, makes the call hang.
pub(crate) const HANG: u32 = 7;
/// As a limit, makes the call fail with [`fault`].
pub(crate) const FAIL: u32 = 8;

/// What happens to calls that hang.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Hanging {
    Began,
    Dropped,
}

struct Teller {
    hanging: mpsc::UnboundedSender<Hanging>,
}

/// Tells when a call is dropped.
struct Guard(mpsc::UnboundedSender<Hanging>);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.send(Hanging::Dropped);
    }
}

/// A fault with everything in it.
pub(crate) fn fault() -> Fault {
    Fault::invalid("limit", "a limit is not eight: it's ½ of 16")
        .about("limit")
        .hint("ask for fewer")
        .caused_by((0..4).map(|n| format!("cause {n}")).collect())
}

/// A fault that is far too long.
pub(crate) fn endless_fault() -> Fault {
    Fault::new(Code::Internal, "ENDLESS", "ü".repeat(100_000)).hint("ü".repeat(100_000))
}

#[tonic::async_trait]
impl AuditService for Teller {
    async fn list_audit(
        &self,
        request: Request<pb::ListAuditRequest>,
    ) -> Result<Response<pb::ListAuditResponse>, Status> {
        let peer = peer_of(request.extensions()).expect("peer").clone();
        match request.get_ref().limit {
            HANG => {
                let _guard = Guard(self.hanging.clone());
                let _ = self.hanging.send(Hanging::Began);
                std::future::pending().await
            }
            FAIL => Err(fault().into()),
            limit if limit > FAIL => Err(endless_fault().into()),
            _ => Ok(Response::new(pb::ListAuditResponse {
                rows: vec![pb::AuditRow {
                    who: peer.peer.to_string(),
                    from: peer.remote,
                    ..Default::default()
                }],
            })),
        }
    }
}

/// A running server.
pub(crate) struct Serving {
    pub(crate) address: SocketAddr,
    pub(crate) connections: Connections,
    pub(crate) refused: mpsc::UnboundedReceiver<RefusedHandshake>,
    pub(crate) hanging: mpsc::UnboundedReceiver<Hanging>,
    _task: AbortOnDropHandle<()>,
}

impl Serving {
    pub(crate) async fn new(tls: ServerTls) -> Self {
        Self::with_limits(tls, Limits::default()).await
    }

    pub(crate) async fn with_limits(tls: ServerTls, limits: Limits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
        let address = listener.local_addr().expect("address");
        let connections = Connections::default();
        let (sender, refused) = mpsc::unbounded_channel();
        let incoming = listen::tcp(
            listener,
            tls,
            connections.clone(),
            limits,
            Arc::new(move |handshake| {
                let _ = sender.send(handshake);
            }),
        );
        let (hanging, task) = serve(incoming);
        Self {
            address,
            connections,
            refused,
            hanging,
            _task: task,
        }
    }

    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// The next refusal: who, if known, and why.
    pub(crate) async fn refusal(&mut self) -> (Option<String>, HandshakeRefusal) {
        let refused = self.refused.recv().await.expect("a refusal");
        assert!(refused.remote.starts_with("127.0.0.1:"));
        match refused.reason {
            RefusalReason::Refused(refusal) => (
                refused.identity.map(|identity| identity.kind.to_string()),
                refusal,
            ),
            reason => panic!("not refused but {reason:?}"),
        }
    }
}

/// Serves the small service on connections.
pub(crate) fn serve(
    incoming: Incoming,
) -> (mpsc::UnboundedReceiver<Hanging>, AbortOnDropHandle<()>) {
    let (sender, hanging) = mpsc::unbounded_channel();
    let task = tokio::spawn(async move {
        listen::server(OPEN_WINDOW)
            .serve_with_incoming(
                AuditServiceServer::new(Teller { hanging: sender }),
                incoming,
            )
            .await
            .expect("server");
    });
    (hanging, AbortOnDropHandle::new(task))
}

/// Makes a call.
pub(crate) async fn call(channel: &Channel, limit: u32) -> Result<pb::AuditRow, Status> {
    AuditServiceClient::new(channel.clone())
        .list_audit(pb::ListAuditRequest { limit })
        .await
        .map(|response| response.into_inner().rows.remove(0))
}

/// Asks the server who it takes the caller for.
pub(crate) async fn who(channel: &Channel) -> String {
    call(channel, 0).await.expect("an answer").who
}
