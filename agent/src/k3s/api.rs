//! The API server of the k3s on this node: where it listens, whose CA it has, and whether it is ready.
//!
//! The tunnel asks for [`endpoint`]; facts ask for [`ca_hash`]; the step that waits for the API uses [`ready`].

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use canasta_host::Host;
use canasta_host::files::FileError;
use canasta_proto::pb::GetApiCredentialsResponse;
use serde::Deserialize;

use super::{owned, paths};

pub mod ready;

/// The port of the API where the kubeconfig names none.
const HTTPS: u16 = 443;

/// The API server of this node couldn't be told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApiError {
    /// k3s hasn't written its kubeconfig: it was never started, or is starting for the first time.
    #[error(
        "there is no {}: k3s has not been started on this node",
        paths::KUBECONFIG
    )]
    NoKubeconfig,
    /// The kubeconfig can't be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The kubeconfig isn't one, or is half written.
    #[error("failed to understand {}: {what}", paths::KUBECONFIG)]
    Malformed {
        /// What is missing or wrong in it; never a value.
        what: &'static str,
    },
    /// The kubeconfig leads to another machine, and the agent connects to its own API server alone.
    #[error(
        "failed to use {}: its server {server} is not an address of this machine's loopback",
        paths::KUBECONFIG
    )]
    NotLoopback {
        /// The server as it stands there.
        server: String,
    },
}

/// Where the local API server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiEndpoint {
    /// On loopback.
    pub address: SocketAddr,
    /// The CA that signed its certificate, PEM.
    pub ca_pem: Vec<u8>,
}

/// The administrator's credentials of the cluster.
pub struct Credentials {
    /// Certificate chain, PEM.
    certificate_pem: Vec<u8>,
    /// Private key, PEM.
    key_pem: Vec<u8>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Credentials(redacted)")
    }
}

/// Reads where the local API server listens.
pub async fn endpoint(host: &Host) -> Result<ApiEndpoint, ApiError> {
    Ok(read(host).await?.0)
}

/// What the controller needs to be an administrator of the local API server through the tunnel. Secret.
pub async fn administrator(host: &Host) -> Result<GetApiCredentialsResponse, ApiError> {
    let (endpoint, credentials) = read(host).await?;
    Ok(GetApiCredentialsResponse {
        ca_certificate: endpoint.ca_pem.into(),
        client_certificate: credentials.certificate_pem.into(),
        client_key: credentials.key_pem.into(),
        server_name: endpoint.address.ip().to_string(),
    })
}

/// SHA-256, hex, of the CA's file, which is the body of `/cacerts`; `None` before the first start.
pub async fn ca_hash(host: &Host) -> Result<Option<String>, FileError> {
    Ok(host
        .root
        .read_optional(paths::SERVER_CA)
        .await?
        .as_deref()
        .map(owned::sha256))
}

/// Reads the kubeconfig that k3s wrote.
async fn read(host: &Host) -> Result<(ApiEndpoint, Credentials), ApiError> {
    match host.root.read_optional(paths::KUBECONFIG).await? {
        None => Err(ApiError::NoKubeconfig),
        Some(content) => parse(&content),
    }
}

fn parse(content: &[u8]) -> Result<(ApiEndpoint, Credentials), ApiError> {
    let malformed = |what| ApiError::Malformed { what };
    // The source isn't kept: a YAML error may quote the file, and the file holds a key.
    let config: Kubeconfig =
        serde_norway::from_slice(content).map_err(|_quoting| malformed("it is no kubeconfig"))?;
    let cluster = config
        .clusters
        .into_iter()
        .next()
        .ok_or(malformed("it has no cluster"))?
        .cluster;
    let user = config
        .users
        .into_iter()
        .next()
        .ok_or(malformed("it has no user"))?
        .user;
    let bytes = |text: String, what| {
        STANDARD
            .decode(text.trim())
            .map_err(|_quoting| malformed(what))
    };
    let endpoint = ApiEndpoint {
        address: loopback(&cluster.server)?,
        ca_pem: bytes(cluster.certificate_authority_data, "its CA is not base64")?,
    };
    let credentials = Credentials {
        certificate_pem: bytes(
            user.client_certificate_data,
            "its client certificate is not base64",
        )?,
        key_pem: bytes(user.client_key_data, "its client key is not base64")?,
    };
    Ok((endpoint, credentials))
}

/// The address of `https://127.0.0.1:6443`, if it is on loopback.
fn loopback(server: &str) -> Result<SocketAddr, ApiError> {
    let uri: http::Uri = server.parse().map_err(|_| ApiError::Malformed {
        what: "its server is no URL",
    })?;
    let host = uri.host().unwrap_or_default();
    let address = match host.trim_start_matches('[').trim_end_matches(']') {
        "localhost" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        text => text.parse().ok(),
    };
    match address {
        Some(address) if address.is_loopback() && uri.scheme_str() == Some("https") => {
            Ok(SocketAddr::new(address, uri.port_u16().unwrap_or(HTTPS)))
        }
        _ => Err(ApiError::NotLoopback {
            server: server.chars().take(200).collect(),
        }),
    }
}

#[derive(Deserialize)]
struct Kubeconfig {
    clusters: Vec<NamedCluster>,
    users: Vec<NamedUser>,
}

#[derive(Deserialize)]
struct NamedCluster {
    cluster: Cluster,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority_data: String,
}

#[derive(Deserialize)]
struct NamedUser {
    user: User,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    client_certificate_data: String,
    client_key_data: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kubeconfig(server: &str) -> String {
        format!(
            "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: Y2E=\n    server: {server}\n  name: default\n\
             users:\n- name: default\n  user:\n    client-certificate-data: Y2VydA==\n    client-key-data: Z2VoZWlt\n"
        )
    }

    #[test]
    fn the_local_endpoint_is_read() {
        for (server, address) in [
            ("https://127.0.0.1:6443", "127.0.0.1:6443"),
            ("https://[::1]:6443", "[::1]:6443"),
            ("https://localhost:7000", "127.0.0.1:7000"),
            ("https://127.0.0.1", "127.0.0.1:443"),
        ] {
            let (endpoint, credentials) = parse(kubeconfig(server).as_bytes()).expect(server);
            assert_eq!(endpoint.address.to_string(), address);
            assert_eq!(endpoint.ca_pem, b"ca");
            assert!(!format!("{credentials:?}").contains("geheim"));
        }
    }

    #[test]
    fn another_machine_is_refused() {
        for server in [
            "https://10.0.0.1:6443",
            "https://example.org:6443",
            "http://127.0.0.1:6443",
            "https://127.0.0.1.example.org",
        ] {
            let error = parse(kubeconfig(server).as_bytes()).unwrap_err();
            assert!(
                matches!(&error, ApiError::NotLoopback { server: named } if named == server),
                "{error:?}"
            );
        }
    }

    #[test]
    fn a_half_written_file_is_no_panic_and_no_leak() {
        let whole = kubeconfig("https://127.0.0.1:6443");
        for end in 0..whole.len() - 1 {
            if let Err(error) = parse(&whole.as_bytes()[..end]) {
                assert!(!error.to_string().contains("Z2Vo"), "{error}");
            }
        }
    }

    #[tokio::test]
    async fn the_ca_hash_is_that_of_the_body_of_cacerts() {
        let fake = canasta_host::fake::FakeHost::new("cp1");
        let host = fake.host();
        assert_eq!(ca_hash(&host).await.unwrap(), None);
        assert!(matches!(endpoint(&host).await, Err(ApiError::NoKubeconfig)));
        host.root
            .write(paths::SERVER_CA, "pem\n", 0o644)
            .await
            .unwrap();
        assert_eq!(ca_hash(&host).await.unwrap(), Some(owned::sha256(b"pem\n")));
    }
}
