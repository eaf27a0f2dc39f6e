//! A stream of bytes to the API server of a node, through the `Tunnel` rpc of its agent.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use canasta_proto::pb;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::PollSender;
use tonic::{Status, Streaming};

use crate::operations::agent::Client;

/// The most bytes in one message.
const MOST: usize = 64 * 1024;
/// How many messages may wait to be sent.
const QUEUE: usize = 4;

/// Bytes to and from the API server.
pub(super) struct Tunnel {
    incoming: Streaming<pb::TunnelResponse>,
    ready: Bytes,
    outgoing: PollSender<pb::TunnelRequest>,
}

impl Tunnel {
    /// Opens a tunnel; the agent connects to the API server of its own k3s.
    pub(super) async fn open(mut agent: Client) -> Result<Self, Status> {
        let (outgoing, messages) = mpsc::channel(QUEUE);
        let incoming = agent.tunnel(ReceiverStream::new(messages)).await?;
        Ok(Self {
            incoming: incoming.into_inner(),
            ready: Bytes::new(),
            outgoing: PollSender::new(outgoing),
        })
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        use futures_util::Stream as _;
        while self.ready.is_empty() {
            match ready!(Pin::new(&mut self.incoming).poll_next(context)) {
                Some(Ok(message)) => self.ready = message.data,
                Some(Err(status)) => return Poll::Ready(Err(io::Error::other(status))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let count = self.ready.len().min(buffer.remaining());
        buffer.put_slice(&self.ready[..count]);
        self.ready.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let closed = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        ready!(self.outgoing.poll_reserve(context)).map_err(closed)?;
        let count = bytes.len().min(MOST);
        let message = pb::TunnelRequest {
            data: Bytes::copy_from_slice(&bytes[..count]),
        };
        self.outgoing.send_item(message).map_err(closed)?;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outgoing.close();
        Poll::Ready(Ok(()))
    }
}
