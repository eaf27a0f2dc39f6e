//! A `kube` client for the API of a cluster: HTTP over TLS with the cluster's own CA, over the tunnel of an agent.
//!
//! The credentials are asked of the agent each time, live in the TLS configuration of the client, and go with it.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use canasta_proto::pb;
use http::{HeaderValue, Request, Response, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use kube::client::Body;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

use super::tunnel::Tunnel;
use crate::operations::agent::Client;

/// Why the API of a cluster can't be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApiError {
    /// The agent gave no credentials.
    #[error("failed to get the API credentials of host '{host}' from its agent")]
    Credentials {
        /// The control-plane node.
        host: String,
        /// What it said.
        #[source]
        source: Box<tonic::Status>,
    },
    /// The credentials are none.
    #[error("failed to read the API credentials of host '{host}': {what}")]
    Unreadable {
        /// The control-plane node.
        host: String,
        /// Which part.
        what: &'static str,
    },
}

/// What it takes to be an administrator of a cluster's API. Debug tells nothing of it.
#[derive(Clone)]
pub(super) struct Credentials {
    tls: Arc<ClientConfig>,
    server_name: ServerName<'static>,
    authority: HeaderValue,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Credentials")
            .field("server_name", &self.server_name)
            .finish_non_exhaustive()
    }
}

impl Credentials {
    /// Reads what an agent gave.
    pub(super) fn read(
        host: &str,
        given: &pb::GetApiCredentialsResponse,
    ) -> Result<Self, ApiError> {
        let unreadable = |what| ApiError::Unreadable {
            host: host.to_owned(),
            what,
        };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&given.ca_certificate) {
            let certificate = certificate.map_err(|_| unreadable("the CA certificate"))?;
            roots
                .add(certificate)
                .map_err(|_| unreadable("the CA certificate"))?;
        }
        let chain = CertificateDer::pem_slice_iter(&given.client_certificate)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| unreadable("the client certificate"))?;
        let key = PrivateKeyDer::from_pem_slice(&given.client_key)
            .map_err(|_| unreadable("the client key"))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("ring speaks TLS 1.3")
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(|_| unreadable("the client certificate and its key"))?;
        let server_name = ServerName::try_from(given.server_name.clone())
            .map_err(|_| unreadable("the name of the server"))?;
        let authority = HeaderValue::from_str(&given.server_name)
            .map_err(|_| unreadable("the name of the server"))?;
        Ok(Self {
            tls: Arc::new(tls),
            server_name,
            authority,
        })
    }
}

/// A client for the API server of a control-plane node.
pub(super) async fn client(mut agent: Client, host: &str) -> Result<kube::Client, ApiError> {
    let given = agent
        .get_api_credentials(pb::GetApiCredentialsRequest {})
        .await
        .map_err(|source| ApiError::Credentials {
            host: host.to_owned(),
            source: Box::new(source),
        })?
        .into_inner();
    let credentials = Credentials::read(host, &given)?;
    Ok(kube::Client::new(
        Requests { agent, credentials },
        "default",
    ))
}

/// Sends each request over a tunnel of its own: there are few, and none waits behind a watch.
#[derive(Debug, Clone)]
struct Requests {
    agent: Client,
    credentials: Credentials,
}

/// Why a request was not answered.
type SendError = Box<dyn std::error::Error + Send + Sync>;

impl tower::Service<Request<Body>> for Requests {
    type Response = Response<Incoming>;
    type Error = SendError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, SendError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(send(self.clone(), request))
    }
}

async fn send(to: Requests, mut request: Request<Body>) -> Result<Response<Incoming>, SendError> {
    let tunnel = Tunnel::open(to.agent).await?;
    let stream = TlsConnector::from(to.credentials.tls)
        .connect(to.credentials.server_name, tunnel)
        .await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the answer's body, whether it is read to its end or dropped.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "a connection to a cluster's API broke"
            );
        }
    });
    request
        .headers_mut()
        .insert(header::HOST, to.credentials.authority);
    Ok(sender.send_request(request).await?)
}
