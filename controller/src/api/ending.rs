//! Answers that end with their connection. The gate wraps each answer, so that the open stream of someone who was removed
//! ends whatever the connection itself is waiting for.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;
use tonic::body::Body;

/// The body, until its connection is closed.
pub(super) fn ending_with(body: Body, closed: &CancellationToken) -> Body {
    // What is whole already is sent as it is.
    if body.is_end_stream() {
        return body;
    }
    Body::new(Ending {
        body,
        closed: Box::pin(closed.clone().cancelled_owned()),
    })
}

struct Ending {
    body: Body,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl HttpBody for Ending {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.closed.as_mut().poll(context).is_ready() {
            let ended = Status::unauthenticated(
                "the connection was closed: its caller was removed from the fleet, or is no member and stayed too long",
            );
            return Poll::Ready(Some(Err(ended)));
        }
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
