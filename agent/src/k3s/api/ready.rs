//! Asks the local API server whether it is ready, with the administrator's certificate and the cluster's CA.
//!
//! k3s tells systemd READY and writes its kubeconfig seconds before the API can be used, so only `/readyz` counts. There is no
//! event for it; the caller asks again.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use canasta_host::Host;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{ApiEndpoint, ApiError, Credentials};

/// How much of an answer is read.
const CAP: usize = 64 * 1024;
/// How many failing checks are named.
const MOST_NAMED: usize = 4;

/// The API server couldn't be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadyError {
    /// Its address or credentials aren't known.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// Certificates or key of the kubeconfig aren't usable.
    #[error("failed to use the credentials in {}", super::paths::KUBECONFIG)]
    Credentials(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Nothing listens, or something that speaks no TLS, or its certificate isn't of this cluster.
    #[error("failed to connect to the API server at {address}")]
    Connect {
        /// Where.
        address: std::net::SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The question or the answer broke off.
    #[error("failed to ask the API server at {address}")]
    Http {
        /// Where.
        address: std::net::SocketAddr,
        /// Why.
        #[source]
        source: hyper::Error,
    },
    /// No answer in time.
    #[error("the API server gave no answer within {} s", limit.as_secs())]
    TimedOut {
        /// How long it was waited for.
        limit: Duration,
    },
}

/// What `/readyz` answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// The API server can be used.
    Ready,
    /// Not yet; what it said, for people.
    NotYet(String),
}

/// Asks once.
pub async fn ask(host: &Host, limit: Duration) -> Result<Readiness, ReadyError> {
    tokio::time::timeout(limit, ask_now(host))
        .await
        .unwrap_or(Err(ReadyError::TimedOut { limit }))
}

async fn ask_now(host: &Host) -> Result<Readiness, ReadyError> {
    let (endpoint, credentials) = super::read(host).await?;
    let address = endpoint.address;
    let connector = connector(&endpoint, &credentials)?;
    let connect = |source| ReadyError::Connect { address, source };
    let tcp = TcpStream::connect(address).await.map_err(connect)?;
    let name = ServerName::IpAddress(address.ip().into());
    let stream = connector.connect(name, tcp).await.map_err(connect)?;
    let http = |source| ReadyError::Http { address, source };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(http)?;
    let request = http::Request::get("/readyz")
        .header(http::header::HOST, address.to_string())
        .header(http::header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .expect("all parts are valid");
    let talk = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let mut body = response.into_body();
        let mut text = BytesMut::new();
        while let Some(frame) = body.frame().await {
            if let Some(data) = frame?.data_ref() {
                text.extend_from_slice(&data[..data.len().min(CAP - text.len())]);
            }
            if text.len() >= CAP {
                break;
            }
        }
        Ok((status.as_u16(), text))
    };
    // The connection must be driven while the answer is read; where it breaks, `talk` gets the error.
    let drive = async {
        let _told_to_talk = connection.await;
        std::future::pending::<()>().await;
    };
    let answer = tokio::select! {
        answer = talk => answer,
        () = drive => unreachable!("driving never ends"),
    };
    let (status, body) = answer.map_err(http)?;
    Ok(judge(status, &String::from_utf8_lossy(&body)))
}

fn connector(
    endpoint: &ApiEndpoint,
    credentials: &Credentials,
) -> Result<TlsConnector, ReadyError> {
    let unusable =
        |source: Box<dyn std::error::Error + Send + Sync>| ReadyError::Credentials(source);
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&endpoint.ca_pem) {
        let certificate = certificate.map_err(|error| unusable(error.to_string().into()))?;
        roots
            .add(certificate)
            .map_err(|error| unusable(error.into()))?;
    }
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(&credentials.certificate_pem)
            .collect::<Result<_, _>>()
            .map_err(|error| unusable(error.to_string().into()))?;
    // The parser's own error isn't kept: it may quote the key.
    let key = PrivateKeyDer::from_pem_slice(&credentials.key_pem)
        .map_err(|_quoting| unusable("the client key is no PEM key".into()))?;
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_protocol_versions(&[&rustls::version::TLS13])
    .map_err(|error| unusable(error.into()))?
    .with_root_certificates(roots)
    .with_client_auth_cert(chain, key)
    .map_err(|error| unusable(error.into()))?;
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Reads an answer of `/readyz`: 503 `starting` first, then 401 or 500 with a list of checks, then 200.
fn judge(status: u16, body: &str) -> Readiness {
    let text = match status {
        200 => return Readiness::Ready,
        401 | 403 => format!(
            "API server answers {status}: it does not know the administrator's certificate yet"
        ),
        500 => {
            let failing: Vec<&str> = body
                .lines()
                .filter_map(|line| line.strip_prefix("[-]")?.split_whitespace().next())
                .collect();
            let named = failing
                .iter()
                .take(MOST_NAMED)
                .copied()
                .collect::<Vec<_>>()
                .join(", ");
            match failing.len() {
                0 => "API server answers 500".to_owned(),
                count if count > MOST_NAMED => {
                    format!("API server answers 500: {count} checks not ready: {named}, …")
                }
                count => format!("API server answers 500: {count} checks not ready: {named}"),
            }
        }
        other => {
            let first = body
                .lines()
                .next()
                .unwrap_or_default()
                .chars()
                .take(100)
                .collect::<String>();
            format!(
                "API server answers {other}{}{first}",
                if first.is_empty() { "" } else { ", " }
            )
        }
    };
    Readiness::NotYet(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::k3s::fake_api::FakeApi;

    #[test]
    fn answers_of_a_start_are_read() {
        let not_yet = |text: &str| Readiness::NotYet(text.to_owned());
        assert_eq!(
            judge(503, "starting\n"),
            not_yet("API server answers 503, starting")
        );
        assert_eq!(judge(502, ""), not_yet("API server answers 502"));
        assert!(matches!(judge(401, "{}"), Readiness::NotYet(text) if text.contains("401")));
        let list = "[+]ping ok\n[-]poststarthook/rbac/bootstrap-roles failed: reason withheld\n[-]etcd failed: reason withheld\nreadyz check failed\n";
        assert_eq!(
            judge(500, list),
            not_yet(
                "API server answers 500: 2 checks not ready: poststarthook/rbac/bootstrap-roles, etcd"
            )
        );
        let many = "[-]a x\n[-]b x\n[-]c x\n[-]d x\n[-]e x\n";
        assert_eq!(
            judge(500, many),
            not_yet("API server answers 500: 5 checks not ready: a, b, c, d, …")
        );
        assert_eq!(judge(500, ""), not_yet("API server answers 500"));
        assert_eq!(judge(200, "ok"), Readiness::Ready);
    }

    const LIMIT: Duration = Duration::from_secs(5);

    async fn with_kubeconfig(kubeconfig: &str) -> canasta_host::fake::FakeHost {
        let fake = canasta_host::fake::FakeHost::new("cp1");
        fake.root
            .write(crate::k3s::paths::KUBECONFIG, kubeconfig, 0o600)
            .await
            .unwrap();
        fake
    }

    #[tokio::test]
    async fn the_question_is_asked_with_the_certificate_and_the_answer_read() {
        let api = FakeApi::start(&[(503, "starting\n"), (200, "ok")]).await;
        let fake = with_kubeconfig(&api.kubeconfig).await;
        let host = fake.host();
        assert_eq!(
            ask(&host, LIMIT).await.unwrap(),
            Readiness::NotYet("API server answers 503, starting".to_owned())
        );
        assert_eq!(ask(&host, LIMIT).await.unwrap(), Readiness::Ready);
        assert_eq!(api.asked(), 2);
    }

    #[tokio::test]
    async fn an_api_server_of_another_cluster_is_not_believed() {
        let (api, other) = (
            FakeApi::start(&[(200, "ok")]).await,
            FakeApi::start(&[(200, "ok")]).await,
        );
        let server = |text: &str| {
            text.lines()
                .find(|line| line.contains("server:"))
                .unwrap()
                .to_owned()
        };
        let mixed = api
            .kubeconfig
            .replace(&server(&api.kubeconfig), &server(&other.kubeconfig));
        let fake = with_kubeconfig(&mixed).await;
        assert!(matches!(
            ask(&fake.host(), LIMIT).await,
            Err(ReadyError::Connect { .. })
        ));
    }

    #[tokio::test]
    async fn silence_ends_at_the_limit_and_a_closed_port_at_once() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api = FakeApi::start(&[(200, "ok")]).await;
        let server = api
            .kubeconfig
            .lines()
            .find(|line| line.contains("server:"))
            .unwrap()
            .to_owned();
        let to = |address: std::net::SocketAddr| {
            api.kubeconfig
                .replace(&server, &format!("    server: https://{address}"))
        };
        let fake = with_kubeconfig(&to(silent.local_addr().unwrap())).await;
        let answer = ask(&fake.host(), Duration::from_millis(50)).await;
        assert!(
            matches!(answer, Err(ReadyError::TimedOut { .. })),
            "{answer:?}"
        );
        let address = silent.local_addr().unwrap();
        drop(silent);
        let fake = with_kubeconfig(&to(address)).await;
        let answer = ask(&fake.host(), LIMIT).await;
        assert!(
            matches!(answer, Err(ReadyError::Connect { .. })),
            "{answer:?}"
        );
    }
}
