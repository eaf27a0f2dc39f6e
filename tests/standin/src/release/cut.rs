//! A connection that breaks in the middle of a body, when all before that has gone out. Under each connection of the
//! release server; [`super::serve`] arms it.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Says where a connection breaks. Clones are of the same connection.
#[derive(Clone, Default)]
pub(super) struct Scissors(Arc<Mutex<Option<u64>>>);

impl Scissors {
    /// Has the connection break after so many bytes of the body of the next answer.
    pub(super) fn cut_after(&self, bytes: u64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(bytes);
    }

    fn armed(&self) -> Option<u64> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The connection.
pub(super) struct Breakable<S> {
    stream: S,
    scissors: Scissors,
    /// What may still be written, once an answer that is to be cut has begun.
    left: Option<u64>,
}

impl<S> Breakable<S> {
    pub(super) fn new(stream: S, scissors: Scissors) -> Self {
        Self {
            stream,
            scissors,
            left: None,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Breakable<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Some(body) = self.scissors.armed() else {
            return Pin::new(&mut self.stream).poll_write(context, bytes);
        };
        // The head of an answer comes in one piece.
        let left = self
            .left
            .unwrap_or_else(|| body.saturating_add(head_length(bytes)));
        if left == 0 {
            // Flushed and closed in order, so that the other end gets all before it sees the end.
            ready!(Pin::new(&mut self.stream).poll_flush(context))?;
            ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
            return Poll::Ready(Err(io::Error::other("cut off as asked")));
        }
        let part = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, &bytes[..part]))?;
        self.left = Some(left - written as u64);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Breakable<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

fn head_length(bytes: &[u8]) -> u64 {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
    end.map_or(0, |at| at as u64 + 4)
}
