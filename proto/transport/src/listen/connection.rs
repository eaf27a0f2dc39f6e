//! A connection that got through the handshake, as tonic takes it.

use std::fmt;
use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, BufReader, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::PeerInfo;
use super::registry::Registered;

/// A connection whose other end is known. Reading and writing fail once it was closed through
/// [`Connections`](super::Connections).
pub struct Connection {
    io: Io,
    info: PeerInfo,
    closed: Pin<Box<dyn Future<Output = ()> + Send + Sync>>,
    registered: Registered,
    /// Give their places to the next callers.
    _permits: (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>),
}

pub(super) enum Io {
    Tls(Box<TlsStream<BufReader<TcpStream>>>),
    Unix(UnixStream),
}

impl Connection {
    /// A guest has a second place, and how long it may stay.
    pub(super) fn new(
        io: Io,
        info: PeerInfo,
        registered: Registered,
        permit: OwnedSemaphorePermit,
        guest: Option<(OwnedSemaphorePermit, Duration)>,
    ) -> Self {
        let token = registered.token.clone();
        let (guest, stay) = guest.unzip();
        let closed = async move {
            match stay {
                Some(stay) => {
                    if tokio::time::timeout(stay, token.cancelled()).await.is_err() {
                        token.cancel();
                    }
                }
                None => token.cancelled().await,
            }
        };
        Self {
            io,
            info,
            closed: Box::pin(closed),
            registered,
            _permits: (permit, guest),
        }
    }

    /// Who is at the other end.
    pub fn info(&self) -> &PeerInfo {
        &self.info
    }

    fn check(&self) -> io::Result<()> {
        if self.registered.token.is_cancelled() {
            return Err(closed());
        }
        Ok(())
    }
}

fn closed() -> io::Error {
    io::Error::new(
        ErrorKind::ConnectionAborted,
        "the connection was closed by this side: its peer was removed, or is no member and stayed too long",
    )
}

impl Connected for Connection {
    type ConnectInfo = PeerInfo;

    fn connect_info(&self) -> PeerInfo {
        self.info.clone()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Connection")
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Wakes the reader when the connection is to be closed, however idle it is.
        if self.registered.token.is_cancelled() || self.closed.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(closed()));
        }
        match &mut self.io {
            Io::Tls(io) => Pin::new(io).poll_read(context, buffer),
            Io::Unix(io) => Pin::new(io).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        match &mut self.io {
            Io::Tls(io) => Pin::new(io).poll_write(context, bytes),
            Io::Unix(io) => Pin::new(io).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        match &mut self.io {
            Io::Tls(io) => Pin::new(io).poll_write_vectored(context, slices),
            Io::Unix(io) => Pin::new(io).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Tls(io) => io.is_write_vectored(),
            Io::Unix(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        match &mut self.io {
            Io::Tls(io) => Pin::new(io).poll_flush(context),
            Io::Unix(io) => Pin::new(io).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        match &mut self.io {
            Io::Tls(io) => Pin::new(io).poll_shutdown(context),
            Io::Unix(io) => Pin::new(io).poll_shutdown(context),
        }
    }
}
