//! Connections for tonic's server. Accepting and handshakes run in a task of their own, so that a slow or hostile caller
//! holds up nobody: at most [`Limits::handshakes`] at a time, each at most [`Limits::handshake`] long, and of all these
//! places one source address holds a quarter at most.
//!
//! The agent listens with [`tcp`], the controller with [`tcp`] and [`unix`]. Both hand the [`Incoming`] to
//! `serve_with_incoming_shutdown`, and handlers find out who calls with [`peer_of`].

mod accept;
mod connection;
mod registry;
mod sources;

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

pub(crate) use accept::prepare;
pub use connection::Connection;
pub use registry::Connections;

use crate::facts::CertificateFacts;
use crate::refusal::HandshakeRefusal;
use crate::spiffe::Identity;
use crate::tls::ServerTls;

/// Bounds of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Handshakes at a time; more wait as long as a handshake may take.
    pub handshakes: usize,
    /// The longest that a handshake may take.
    pub handshake: Duration,
    /// Open connections at a time; more wait in the kernel's queue.
    pub connections: usize,
    /// How much is read from a connection at once, in bytes: each holds as much. rustls alone reads 4 KiB at a time, which costs a
    /// receiver of large files more system calls than bytes are worth.
    pub read: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshakes: 64,
            handshake: Duration::from_secs(5),
            connections: 1024,
            read: 8 << 10,
        }
    }
}

/// Who is at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// A caller without a certificate.
    Anonymous,
    /// A member of the fleet.
    Identified {
        /// Who it is.
        identity: Identity,
        /// Serial, key and dates of its certificate.
        facts: Arc<CertificateFacts>,
    },
    /// A process of this machine, over the unix socket.
    Local {
        /// The user id of the process.
        uid: u32,
        /// The name of that user; the number when it has none.
        name: String,
    },
}

/// `unknown`, `user alice`, `controller`, `local root`: for logs and the audit trail.
impl fmt::Display for Peer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => formatter.write_str("unknown"),
            Self::Identified { identity, .. } => identity.kind.fmt(formatter),
            Self::Local { name, .. } => write!(formatter, "local {name}"),
        }
    }
}

/// Who calls, and from where. Stands in the extensions of each request.
#[derive(Debug, Clone)]
pub struct PeerInfo {
    /// Who it is.
    pub peer: Peer,
    /// `ADDRESS:PORT`, or `unix socket`.
    pub remote: String,
    closed: CancellationToken,
}

impl PeerInfo {
    /// A caller whose connection nobody closes.
    pub fn new(peer: Peer, remote: String) -> Self {
        Self {
            peer,
            remote,
            closed: CancellationToken::new(),
        }
    }

    fn closed_by(self, token: &CancellationToken) -> Self {
        Self {
            closed: token.clone(),
            ..self
        }
    }

    /// Cancelled when the connection is closed through [`Connections`]: what is still on its way there is dropped.
    pub fn closed(&self) -> &CancellationToken {
        &self.closed
    }
}

/// Finds out who calls: `peer_of(request.extensions())`. None when the request did not come over a [`Connection`].
pub fn peer_of(extensions: &tonic::Extensions) -> Option<&PeerInfo> {
    extensions.get::<PeerInfo>()
}

/// Why a caller did not get through the handshake.
#[derive(Debug, thiserror::Error)]
pub enum RefusalReason {
    /// One side refused the other.
    #[error(transparent)]
    Refused(HandshakeRefusal),
    /// It took longer than [`Limits::handshake`].
    #[error("the handshake took too long")]
    TimedOut,
    /// Its address holds as many places as one address may, or there are too many callers without a certificate.
    #[error("too many callers come from this address, or too many without a certificate")]
    Crowded,
    /// The connection broke, or what came was not TLS.
    #[error("the handshake broke off")]
    Broken(#[source] io::Error),
}

/// A caller that did not get through the handshake.
#[derive(Debug)]
pub struct RefusedHandshake {
    /// Its `ADDRESS:PORT`.
    pub remote: String,
    /// Who it is, when it showed a certificate of the fleet's CA and proved to hold its key.
    pub identity: Option<Identity>,
    /// Why.
    pub reason: RefusalReason,
}

/// Takes refused handshakes: logs, counts, audits at a bounded rate. Called on the runtime, so it must not block.
pub type RefusalSink = dyn Fn(RefusedHandshake) + Send + Sync;

/// The connections that got through: a stream for tonic. Dropping it closes the listener.
#[derive(Debug)]
pub struct Incoming {
    connections: mpsc::Receiver<Connection>,
    _accepting: AbortOnDropHandle<()>,
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.connections
            .poll_recv(context)
            .map(|connection| connection.map(Ok))
    }
}

/// Accepts callers over TLS. Must be called on a tokio runtime.
pub fn tcp(
    listener: TcpListener,
    tls: ServerTls,
    connections: Connections,
    limits: Limits,
    refused: Arc<RefusalSink>,
) -> Incoming {
    incoming(|sender| accept::tcp(listener, tls, connections, limits, refused, sender))
}

/// Accepts processes of this machine over a unix socket; who may open it is decided by the socket's mode and group. Must be
/// called on a tokio runtime.
pub fn unix(listener: UnixListener, connections: Connections, limits: Limits) -> Incoming {
    incoming(|sender| accept::unix(listener, connections, limits, sender))
}

fn incoming<F>(accept: impl FnOnce(mpsc::Sender<Connection>) -> F) -> Incoming
where
    F: Future<Output = ()> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(1);
    Incoming {
        connections: receiver,
        _accepting: AbortOnDropHandle::new(tokio::spawn(accept(sender))),
    }
}

/// tonic's server as both daemons set it up: probes that find dead peers, and windows of `window` bytes for what callers
/// send. A caller can make the server hold that much per connection, so an open port gets a small one.
pub fn server(window: u32) -> tonic::transport::Server {
    tonic::transport::Server::builder()
        .initial_connection_window_size(window)
        .initial_stream_window_size(window)
        .max_frame_size(MAX_FRAME.min(window.max(MIN_FRAME)))
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
}

/// Window for pushes of artefacts to an agent, in bytes.
pub const PUSH_WINDOW: u32 = 4 << 20;
/// Window for a port that anyone can reach, in bytes.
pub const OPEN_WINDOW: u32 = 1 << 20;
/// The largest HTTP/2 frame, in bytes: a chunk of an artefact in one piece.
const MAX_FRAME: u32 = 1 << 20;
/// The least that HTTP/2 allows.
const MIN_FRAME: u32 = 1 << 14;
