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
use super::sources::Place;

/// A connection whose other end is known. Reading and writing fail once it was closed through
/// [`Connections`](super::Connections).
pub struct Connection {
    io: Io,
    info: PeerInfo,
    closed: Pin<Box<dyn Future<Output = ()> + Send + Sync>>,
    registered: Registered,
    /// Give their places to the next callers.
    _permits: (OwnedSemaphorePermit, Option<Guest>),
}

/// A caller without a certificate has a place among those, and goes after a while.
pub(super) struct Guest {
    /// How long it may stay.
    pub(super) stay: Duration,
    pub(super) _place: Place,
    pub(super) _permit: OwnedSemaphorePermit,
}

pub(super) enum Io {
    Tls(Box<TlsStream<BufReader<TcpStream>>>),
    Unix(UnixStream),
}

impl Connection {
    pub(super) fn new(
        io: Io,
        info: PeerInfo,
        registered: Registered,
        permit: OwnedSemaphorePermit,
        guest: Option<Guest>,
    ) -> Self {
        let token = registered.token.clone();
        let stay = guest.as_ref().map(|guest| guest.stay);
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

    /// Fails when the connection is to be closed, and has the task woken when it is: a server that waits for a peer that
    /// does not read would not notice otherwise.
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.registered.token.is_cancelled() || self.closed.as_mut().poll(context).is_ready() {
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
        self.check(context)?;
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
        self.check(context)?;
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
        self.check(context)?;
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
        self.check(context)?;
        match &mut self.io {
            Io::Tls(io) => Pin::new(io).poll_flush(context),
            Io::Unix(io) => Pin::new(io).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        match &mut self.io {
            Io::Tls(io) => Pin::new(io).poll_shutdown(context),
            Io::Unix(io) => Pin::new(io).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::AsyncWriteExt as _;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::listen::{Connections, Peer};

    #[tokio::test]
    async fn a_writer_whose_peer_does_not_read_is_woken_when_the_connection_is_closed() {
        let (ours, _theirs) = UnixStream::pair().expect("pair");
        let registered = Connections::default().add(Peer::Anonymous);
        let token = registered.token.clone();
        let place = Arc::new(Semaphore::new(1)).acquire_owned().await;
        let mut connection = Connection::new(
            Io::Unix(ours),
            PeerInfo::new(Peer::Anonymous, String::new()),
            registered,
            place.expect("open"),
            None,
        );
        let writing = tokio::spawn(async move {
            loop {
                if let Err(error) = connection.write_all(&[0; 4096]).await {
                    return error;
                }
            }
        });
        // The writer runs until the socket is full; this thread has nothing else to do.
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        token.cancel();
        let error = tokio::time::timeout(Duration::from_secs(20), writing).await;
        let error = error.expect("woken").expect("no panic");
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
    }
}
