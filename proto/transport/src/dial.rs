//! Connections for tonic's client: one channel is one connection whose other end is known.
//!
//! The controller dials agents, the CLI dials the controller, a joining agent makes its first contact. A channel never
//! connects again behind its owner's back, since who answers is judged per connection: when it breaks, calls fail with
//! UNAVAILABLE and the owner dials anew.

mod ending;
mod prefixed;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use crate::listen::prepare;
use crate::refusal::{HandshakeRefusal, refusal_of};
use crate::spiffe::CONTROLLER_DNS;
use crate::tls::{ClientTls, Handshaken, Presented};
use ending::Ending;
use prefixed::Prefixed;

/// Bounds of dialling and of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The longest that finding and reaching the address may take.
    pub connect: Duration,
    /// The longest that the handshake may take, the other side's verdict included.
    pub handshake: Duration,
    /// How often the other side is probed when it is silent.
    pub keepalive: Duration,
    /// How long it may take to answer a probe.
    pub keepalive_timeout: Duration,
    /// The window for what the other side sends, in bytes.
    pub window: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            handshake: Duration::from_secs(5),
            keepalive: Duration::from_secs(10),
            keepalive_timeout: Duration::from_secs(10),
            window: 4 << 20,
        }
    }
}

/// Why nobody could be reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name has no address, or the text is no address with a port.
    #[error("failed to find the address of {address}")]
    Resolve {
        /// What was dialled, `HOST:PORT`.
        address: String,
        /// What the resolver says.
        source: io::Error,
    },
    /// The machine answered that nothing listens there.
    #[error("failed to connect to {address}: nothing listens on that port")]
    Refused {
        /// What was dialled, `HOST:PORT`.
        address: String,
    },
    /// Nothing answered.
    #[error("failed to connect to {address}: no answer within {after:?}")]
    TimedOut {
        /// What was dialled, `HOST:PORT`.
        address: String,
        /// How long was waited.
        after: Duration,
    },
    /// There is no way there.
    #[error("failed to connect to {address}")]
    Unreachable {
        /// What was dialled, `HOST:PORT`.
        address: String,
        /// What the system says.
        source: io::Error,
    },
    /// Something listens, but does not finish the handshake.
    #[error("failed to agree on TLS with {address}: no answer within {after:?}")]
    Stalled {
        /// What was dialled, `HOST:PORT`.
        address: String,
        /// How long was waited.
        after: Duration,
    },
    /// One side refused the other.
    #[error("failed to agree on TLS with {address}")]
    Handshake {
        /// What was dialled, `HOST:PORT`.
        address: String,
        /// Why.
        #[source]
        refusal: Box<HandshakeRefusal>,
    },
    /// The connection broke, or what answered does not speak TLS.
    #[error("failed to agree on TLS with {address}: the connection broke off")]
    Broken {
        /// What was dialled, `HOST:PORT`.
        address: String,
        /// What happened.
        source: io::Error,
    },
    /// HTTP/2 could not be begun.
    #[error("failed to speak gRPC with {address}")]
    Protocol {
        /// What was dialled, `HOST:PORT` or the path of a socket.
        address: String,
        /// What happened.
        source: tonic::transport::Error,
    },
    /// The unix socket can't be opened.
    #[error("failed to open the socket {}", path.display())]
    Socket {
        /// Its path.
        path: PathBuf,
        /// What the system says: not found, permission denied, refused.
        source: io::Error,
    },
}

impl DialError {
    /// The refusal, when one side refused the other.
    pub fn refusal(&self) -> Option<&HandshakeRefusal> {
        match self {
            Self::Handshake { refusal, .. } => Some(refusal),
            _ => None,
        }
    }
}

/// A channel with what is known of its other end. Calls may go out at once.
#[derive(Debug, Clone)]
pub struct Dialled {
    /// The channel; it lives as long as its one connection.
    pub channel: Channel,
    /// Who answered.
    pub presented: Presented,
    /// The address that answered.
    pub remote: SocketAddr,
}

/// Dials `HOST:PORT` and returns when both sides have accepted each other.
///
/// The other side's verdict comes with the first bytes that it sends, which an HTTP/2 server does unasked; until then
/// nothing but the handshake leaves this machine.
///
/// # Errors
/// Each names the address; [`DialError::refusal`] tells refusals apart.
pub async fn connect(
    address: &str,
    tls: &ClientTls,
    limits: &Limits,
) -> Result<Dialled, DialError> {
    connect_until(address, tls, limits, CancellationToken::new()).await
}

/// As [`connect`], and the connection breaks when `end` is cancelled, whoever still holds a clone of its channel.
///
/// # Errors
/// As [`connect`].
pub async fn connect_until(
    address: &str,
    tls: &ClientTls,
    limits: &Limits,
    end: CancellationToken,
) -> Result<Dialled, DialError> {
    let (stream, remote) = reach(address, limits.connect).await?;
    if let Err(error) = prepare(&stream) {
        tracing::debug!(%error, %address, "failed to set socket options");
    }
    let agreed = timeout_at(Instant::now() + limits.handshake, agree(tls, stream)).await;
    let (stream, presented) = match agreed {
        Ok(Ok(agreed)) => agreed,
        Ok(Err(source)) => {
            let address = address.to_owned();
            return Err(match refusal_of(&source) {
                Some(refusal) => DialError::Handshake {
                    address,
                    refusal: Box::new(refusal),
                },
                None => DialError::Broken { address, source },
            });
        }
        Err(_) => {
            return Err(DialError::Stalled {
                address: address.to_owned(),
                after: limits.handshake,
            });
        }
    };
    Ok(Dialled {
        channel: channel(Ending::new(stream, end), &tls.dns_name(), address, limits).await?,
        presented,
        remote,
    })
}

/// Opens the controller's unix socket.
///
/// # Errors
/// Each names the path.
pub async fn connect_unix(path: &Path, limits: &Limits) -> Result<Channel, DialError> {
    let stream = UnixStream::connect(path)
        .await
        .map_err(|source| DialError::Socket {
            path: path.to_owned(),
            source,
        })?;
    channel(stream, CONTROLLER_DNS, &path.to_string_lossy(), limits).await
}

/// Finds the addresses and tries one after the other; each gets an equal part of the time that is left.
async fn reach(address: &str, limit: Duration) -> Result<(TcpStream, SocketAddr), DialError> {
    let end = Instant::now() + limit;
    let timed_out = || DialError::TimedOut {
        address: address.to_owned(),
        after: limit,
    };
    let found: Vec<SocketAddr> = timeout_at(end, lookup_host(address))
        .await
        .map_err(|_| timed_out())?
        .map_err(|source| DialError::Resolve {
            address: address.to_owned(),
            source,
        })?
        .collect();
    let mut last = DialError::Resolve {
        address: address.to_owned(),
        source: io::Error::new(io::ErrorKind::NotFound, "the name has no address"),
    };
    let mut left = u32::try_from(found.len()).unwrap_or(u32::MAX);
    for remote in found {
        let now = Instant::now();
        let part = now + end.saturating_duration_since(now) / left.max(1);
        left -= 1;
        last = match timeout_at(part, TcpStream::connect(remote)).await {
            Ok(Ok(stream)) => return Ok((stream, remote)),
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                DialError::Refused {
                    address: address.to_owned(),
                }
            }
            Ok(Err(source)) => DialError::Unreachable {
                address: address.to_owned(),
                source,
            },
            Err(_) => timed_out(),
        };
    }
    Err(last)
}

/// Does the handshake and waits for the first bytes of the other side, which are its verdict.
async fn agree<IO>(
    tls: &ClientTls,
    stream: IO,
) -> io::Result<(Prefixed<tokio_rustls::client::TlsStream<IO>>, Presented)>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut handshaken = tls.handshake(stream).await?;
    let mut first = vec![0; 1024];
    let length = handshaken.stream.read(&mut first).await?;
    if length == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    first.truncate(length);
    handshaken.mark_used();
    let Handshaken {
        stream, presented, ..
    } = handshaken;
    Ok((Prefixed::new(first, stream), presented))
}

/// Makes a channel over one connection.
async fn channel<IO>(
    io: IO,
    name: &str,
    address: &str,
    limits: &Limits,
) -> Result<Channel, DialError>
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let protocol = |source| DialError::Protocol {
        address: address.to_owned(),
        source,
    };
    let mut once = Some(io);
    let connector = tower::service_fn(move |_: Uri| {
        let io = once.take().map(TokioIo::new).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotConnected,
                "the connection has ended and is not made again by itself",
            )
        });
        std::future::ready(io)
    });
    Endpoint::from_shared(format!("http://{name}"))
        .map_err(protocol)?
        .http2_keep_alive_interval(limits.keepalive)
        .keep_alive_timeout(limits.keepalive_timeout)
        .keep_alive_while_idle(true)
        .initial_connection_window_size(limits.window)
        .initial_stream_window_size(limits.window)
        .connect_with_connector(connector)
        .await
        .map_err(protocol)
}
