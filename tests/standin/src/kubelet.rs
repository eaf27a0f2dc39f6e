//! The kubelet: its health port on loopback, which answers `ok` once it runs, and its pods. Server and agent run it.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::log::Log;

pub(crate) mod pods;

/// The real kubelet's port.
pub const HEALTH_PORT: u16 = 10248;

/// Serves `/healthz` until dropped; without a port, waits for ever. A port that is taken is logged.
pub(crate) async fn serve(port: Option<u16>, log: &Log) {
    let Some(port) = port else {
        return std::future::pending().await;
    };
    let listener = match TcpListener::bind(("127.0.0.1", port)).await {
        Ok(listener) => listener,
        Err(error) => {
            log.error(format!(
                "Starting healthz server failed: listen tcp 127.0.0.1:{port}: {error}"
            ));
            return std::future::pending().await;
        }
    };
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                connections.spawn(async move {
                    // A connection that breaks is the client's business.
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service_fn(respond))
                        .await;
                });
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn respond(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, body) = match request.uri().path() {
        "/healthz" => (StatusCode::OK, "ok"),
        _ => (StatusCode::NOT_FOUND, "404 page not found\n"),
    };
    let mut response = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
    *response.status_mut() = status;
    std::future::ready(Ok(response)).await
}
