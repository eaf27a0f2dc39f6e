//! The kubelet: its health port on loopback, which answers `ok` once it runs, its own port, and its pods. Server and agent run it.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::files::Paths;
use crate::log::Log;

pub(crate) mod pods;

/// Where the real kubelet serves its health.
pub const HEALTH: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 10248);

/// The port of its own API.
const API_PORT: u16 = 10250;

/// Serves `/healthz` until dropped; without an address, waits for ever. A port that is taken is logged.
pub(crate) async fn serve(address: Option<SocketAddr>, log: &Log) {
    let Some(address) = address else {
        return std::future::pending().await;
    };
    let listener = match TcpListener::bind(address).await {
        Ok(listener) => listener,
        Err(error) => {
            log.error(format!(
                "Starting healthz server failed: listen tcp {address}: {error}"
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

/// Serves the kubelet's own API on all addresses until dropped, where nobody is let in; waits for ever if not wanted.
pub(crate) async fn serve_api(wanted: bool, paths: &Paths, log: &Log) {
    let acceptor = match wanted.then(|| acceptor(paths)) {
        None => return std::future::pending().await,
        Some(Ok(acceptor)) => acceptor,
        Some(Err(message)) => {
            log.error(format!("kubelet: {message}"));
            return std::future::pending().await;
        }
    };
    let listener = match TcpListener::bind((Ipv6Addr::UNSPECIFIED, API_PORT)).await {
        Ok(listener) => listener,
        Err(error) => {
            log.error(format!("listen tcp 0.0.0.0:{API_PORT}: {error}"));
            return std::future::pending().await;
        }
    };
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                let acceptor = acceptor.clone();
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    // As above.
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service_fn(refuse))
                        .await;
                });
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

fn acceptor(paths: &Paths) -> Result<TlsAcceptor, String> {
    let read = |name: &str| std::fs::read(paths.agent(name)).map_err(|error| error.to_string());
    let certificate = read("serving-kubelet.crt")?;
    let chain = CertificateDer::pem_slice_iter(&certificate)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| error.to_string())?;
    let key = PrivateKeyDer::from_pem_slice(&read("serving-kubelet.key")?)
        .map_err(|error| error.to_string())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| error.to_string())?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn refuse(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = Response::new(Full::new(Bytes::from_static(b"Unauthorized")));
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    std::future::ready(Ok(response)).await
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
