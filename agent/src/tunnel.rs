//! Bytes to the local API server and back. The caller names no address: the agent reads it from k3s's own
//! configuration, and it is on loopback. TLS goes through end to end and is none of the agent's business.

use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use canasta_host::Host;
use futures_util::{Stream, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::agent::Life;
use crate::k3s::api::{ApiError, endpoint};

/// The most bytes of one message.
pub const MAX_DATA: usize = 64 * 1024;
/// Messages that wait for a slow caller.
const WAITING: usize = 4;

/// The local API server can't be reached.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// There is no API server to be found.
    #[error(transparent)]
    NoEndpoint(#[from] ApiError),
    /// It does not take connections.
    #[error("failed to connect to the API server of this node at {address}")]
    Connect {
        /// Where it should listen.
        address: SocketAddr,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// What the caller sends can't be read.
    #[error("failed to read what is to go to the API server of this node")]
    Caller(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The connection broke.
    #[error("failed to carry bytes to the API server of this node")]
    Broken(#[source] std::io::Error),
}

/// Connects to the API server and carries `from_caller` there; what comes back is received from the answer. Each side
/// may end its direction first; a broken connection is told as the last item.
///
/// # Errors
/// When the API server can't be found or reached.
pub async fn open<E>(
    host: &Host,
    from_caller: impl Stream<Item = Result<Bytes, E>> + Send + Unpin + 'static,
    life: &Life,
) -> Result<mpsc::Receiver<Result<Bytes, TunnelError>>, TunnelError>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let address = endpoint(host).await?.address;
    let stream = TcpStream::connect(address)
        .await
        .map_err(|source| TunnelError::Connect { address, source })?;
    // Many small messages of HTTP/2 go through.
    stream.set_nodelay(true).map_err(TunnelError::Broken)?;
    let (sender, receiver) = mpsc::channel(WAITING);
    let stopping = life.stopping.clone();
    life.spawn(async move {
        tokio::select! {
            () = carry(stream, from_caller, &sender) => {}
            () = stopping.cancelled() => {}
            // The caller is gone.
            () = sender.closed() => {}
        }
    });
    Ok(receiver)
}

async fn carry<E: std::error::Error + Send + Sync + 'static>(
    stream: TcpStream,
    mut from_caller: impl Stream<Item = Result<Bytes, E>> + Unpin,
    to_caller: &mpsc::Sender<Result<Bytes, TunnelError>>,
) {
    let (mut reader, mut writer) = stream.into_split();
    let there = async {
        while let Some(bytes) = from_caller.next().await {
            let bytes = bytes.map_err(|error| TunnelError::Caller(Box::new(error)))?;
            writer
                .write_all(&bytes)
                .await
                .map_err(TunnelError::Broken)?;
        }
        // The caller has no more to say and may still listen.
        writer.shutdown().await.map_err(TunnelError::Broken)
    };
    let back = async {
        loop {
            let mut buffer = BytesMut::with_capacity(MAX_DATA);
            if reader
                .read_buf(&mut buffer)
                .await
                .map_err(TunnelError::Broken)?
                == 0
            {
                return Ok(());
            }
            if to_caller.send(Ok(buffer.freeze())).await.is_err() {
                return Ok(());
            }
        }
    };
    tokio::pin!(there, back);
    // Without the way back there is nothing left to carry.
    let ended = tokio::select! {
        back = &mut back => back,
        there = &mut there => match there {
            Ok(()) => back.await,
            Err(error) => Err(error),
        },
    };
    if let Err(error) = ended {
        // The caller may be gone.
        let _ = to_caller.send(Err(error)).await;
    }
}
