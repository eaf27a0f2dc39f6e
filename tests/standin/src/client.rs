//! A small HTTPS client for the stand-in's own API: the agent joins with it, `kubectl` lists with it, tests look
//! with it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use thiserror::Error;
use tokio::net::TcpStream;

use crate::pki::Identity;

/// A request that got no answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The address could not be reached.
    #[error("failed to connect to {address}")]
    Connect {
        /// Host and port.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The TLS handshake failed.
    #[error("failed to agree on TLS with {address}")]
    Tls {
        /// Host and port.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The connection broke during the exchange.
    #[error("failed to talk to {address}")]
    Talk {
        /// Host and port.
        address: String,
        /// Why.
        #[source]
        source: hyper::Error,
    },
    /// No answer in time.
    #[error("failed to get an answer from {address} in {seconds} s")]
    Timeout {
        /// Host and port.
        address: String,
        /// The limit.
        seconds: f64,
    },
    /// Certificates, addresses or headers that can't be used.
    #[error("failed to prepare a request: {0}")]
    Prepare(String),
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: StatusCode,
    /// The type of the body, empty if none was given.
    pub content_type: String,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; null if it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// Whom to trust.
#[derive(Clone, Copy, Debug)]
pub enum Trust<'a> {
    /// The certificates in this PEM text.
    Authority(&'a str),
    /// Anyone: only for fetching the authority that is then checked by its hash.
    Anyone,
}

/// A client of one address. Every request has a connection of its own.
#[derive(Clone, Debug)]
pub struct Client {
    address: String,
    name: ServerName<'static>,
    tls: Arc<ClientConfig>,
    limit: Duration,
}

impl Client {
    /// A client for `address` (`host:port`), with a client certificate if `identity` is given.
    pub fn new(
        address: &str,
        trust: Trust<'_>,
        identity: Option<&Identity>,
    ) -> Result<Self, ClientError> {
        let prepare = |error: &dyn std::fmt::Display| ClientError::Prepare(error.to_string());
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned()).map_err(|error| prepare(&error))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| prepare(&error))?;
        let builder = match trust {
            Trust::Authority(pem) => {
                let mut roots = RootCertStore::empty();
                for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                    roots
                        .add(certificate.map_err(|error| prepare(&error))?)
                        .map_err(|error| prepare(&error))?;
                }
                builder.with_root_certificates(roots)
            }
            Trust::Anyone => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(TrustAnyone(provider))),
        };
        let tls = match identity {
            Some(identity) => {
                let chain = CertificateDer::pem_slice_iter(identity.certificate.as_bytes())
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(|error| prepare(&error))?;
                let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes())
                    .map_err(|error| prepare(&error))?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| prepare(&error))?
            }
            None => builder.with_no_client_auth(),
        };
        Ok(Self {
            address: address.to_owned(),
            name,
            tls: Arc::new(tls),
            limit: Duration::from_secs(20),
        })
    }

    /// Replaces the limit of 20 s for a whole request.
    pub fn with_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Asks without a body.
    pub async fn get(&self, path: &str) -> Result<Answer, ClientError> {
        self.send(Method::GET, path, &[], Bytes::new()).await
    }

    /// Asks again and again until an answer pleases: for tests, and for what announces itself in no other way.
    ///
    /// # Panics
    /// When none has after 20 s; the message has the last one.
    pub async fn until(&self, path: &str, pleases: impl Fn(&Answer) -> bool) -> Answer {
        let mut last = String::new();
        let pleasing = async {
            loop {
                if let Ok(answer) = self.get(path).await {
                    if pleases(&answer) {
                        return answer;
                    }
                    last = answer.text();
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let pleased = tokio::time::timeout(Duration::from_secs(20), pleasing).await;
        pleased.unwrap_or_else(|_elapsed| panic!("{path} never pleased, at last: {last}"))
    }

    /// Sends a request and reads the whole answer.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Answer, ClientError> {
        let exchange = async {
            let response = self.exchange(method, path, headers, body.into()).await?;
            let status = response.status();
            let content_type = response
                .headers()
                .get(http::header::CONTENT_TYPE)
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default()
                .to_owned();
            let body = response
                .into_body()
                .collect()
                .await
                .map_err(|source| self.talk(source))?;
            Ok(Answer {
                status,
                content_type,
                body: body.to_bytes(),
            })
        };
        tokio::time::timeout(self.limit, exchange)
            .await
            .unwrap_or_else(|_| Err(self.late()))
    }

    /// Sends a request and hands over the answer as it arrives, for watches.
    pub async fn open(&self, path: &str) -> Result<Response<Incoming>, ClientError> {
        tokio::time::timeout(
            self.limit,
            self.exchange(Method::GET, path, &[], Bytes::new()),
        )
        .await
        .unwrap_or_else(|_| Err(self.late()))
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        let address = || self.address.clone();
        let stream =
            TcpStream::connect(&self.address)
                .await
                .map_err(|source| ClientError::Connect {
                    address: address(),
                    source,
                })?;
        let stream = tokio_rustls::TlsConnector::from(Arc::clone(&self.tls))
            .connect(self.name.clone(), stream)
            .await
            .map_err(|source| ClientError::Tls {
                address: address(),
                source,
            })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|source| self.talk(source))?;
        // Ends with the answer's body; its own error is the sender's error too.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::HOST, &self.address);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request
            .body(Full::new(body))
            .map_err(|error| ClientError::Prepare(error.to_string()))?;
        sender
            .send_request(request)
            .await
            .map_err(|source| self.talk(source))
    }

    fn talk(&self, source: hyper::Error) -> ClientError {
        ClientError::Talk {
            address: self.address.clone(),
            source,
        }
    }

    fn late(&self) -> ClientError {
        ClientError::Timeout {
            address: self.address.clone(),
            seconds: self.limit.as_secs_f64(),
        }
    }
}

/// The value of an `Authorization` header for a supervisor user.
pub fn basic(user: &str, secret: &str) -> String {
    use base64::Engine as _;
    let text = format!("{user}:{secret}");
    format!(
        "Basic {}",
        base64::engine::general_purpose::STANDARD.encode(text)
    )
}

#[derive(Debug)]
struct TrustAnyone(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustAnyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
