//! Connections: TLS with the server's certificate, HTTP/1.1, and the choice of who answers a path. Started by the
//! timeline.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::answer::{Body, Status, plain};
use super::auth::{self, AskForCertificate};
use super::{Phase, Shared, StartError, api, supervisor};

const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

impl Shared {
    /// TLS with a fresh certificate for this start.
    pub(super) fn acceptor(&self) -> Result<TlsAcceptor, StartError> {
        let tls = |error: &dyn std::fmt::Display| StartError::Tls(error.to_string());
        let identity = self.server_ca.server("k3s", &self.names())?;
        let chain = CertificateDer::pem_slice_iter(identity.certificate.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| tls(&error))?;
        let key =
            PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).map_err(|error| tls(&error))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| tls(&error))?
            .with_client_cert_verifier(Arc::new(AskForCertificate(provider)))
            .with_single_cert(chain, key)
            .map_err(|error| tls(&error))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

/// Serves connections until dropped; dropping it cuts them all.
pub(super) async fn serve(shared: Arc<Shared>, listener: TcpListener, acceptor: TlsAcceptor) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    connections.spawn(connection(Arc::clone(&shared), acceptor.clone(), stream, peer));
                }
                // Out of files or the like: others may close theirs.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(
    shared: Arc<Shared>,
    acceptor: TlsAcceptor,
    stream: TcpStream,
    peer: SocketAddr,
) {
    let stream = match tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            shared.log.info(format!(
                "Cluster-Http-Server http: TLS handshake error from {peer}: {error}"
            ));
            return;
        }
        Err(_) => return,
    };
    let certificates: Arc<[CertificateDer<'static>]> = stream
        .get_ref()
        .1
        .peer_certificates()
        .unwrap_or_default()
        .to_vec()
        .into();
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        let certificates = Arc::clone(&certificates);
        async move { Ok::<_, std::convert::Infallible>(respond(&shared, &certificates, request).await) }
    });
    // A connection that breaks is the client's business.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn respond(
    shared: &Arc<Shared>,
    certificates: &[CertificateDer<'static>],
    request: Request<Incoming>,
) -> Response<Body> {
    if shared.phase() == Phase::Starting {
        return plain(
            StatusCode::SERVICE_UNAVAILABLE,
            "text/plain; charset=utf-8",
            "starting\n",
        );
    }
    if let Some(response) = supervisor::respond(shared, certificates, &request) {
        return response;
    }
    let Some(secrets) = shared.resources.find("", "v1", "secrets") else {
        return Status::no_such_resource().response();
    };
    let verifier = shared.verifier.as_ref();
    match auth::user(
        verifier,
        certificates,
        request.headers(),
        &shared.store,
        secrets,
    ) {
        Some(user) => api::respond(shared, &user, request).await,
        None => Status::unauthorized().response(),
    }
}
