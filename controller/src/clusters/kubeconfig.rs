//! Credentials of an administrator for people: from the agent of a control plane, with the addresses at which its API may be
//! reached. Only what the API's certificate carries is an address that works.

use canasta_proto::address::Address;
use canasta_proto::name::{ClusterName, HostName};
use canasta_proto::pb;
use tonic::Status;

use super::{CONTROL_PLANE, Clusters};
use crate::fleet::FleetError;
use crate::store;
use crate::store::clusters::{ClusterRow, NodeRow};

/// The port of the API.
const PORT: u16 = 6443;

/// Why no credentials are given.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KubeconfigError {
    /// There is no such cluster.
    #[error("cluster '{0}' is not known")]
    Unknown(ClusterName),
    /// The cluster has no control plane that could give them.
    #[error("cluster '{0}' has no control plane that this fleet knows")]
    NoControlPlane(ClusterName),
    /// The server that was asked for is none.
    #[error(
        "a server is an IP address or a DNS name without a port: 203.0.113.5 or wiki.example.org"
    )]
    Server,
    /// The certificate does not carry it.
    #[error(
        "the certificate of cluster '{cluster}' does not carry '{server}', so no client could trust the API there"
    )]
    NotCarried {
        /// The cluster.
        cluster: ClusterName,
        /// What was asked for.
        server: String,
        /// The control plane.
        host: String,
        /// What it carries.
        carried: Vec<String>,
    },
    /// The agent can't be asked.
    #[error(transparent)]
    Fleet(#[from] FleetError),
    /// The database failed.
    #[error("failed to use the controller's database")]
    Store(#[from] store::Error),
}

/// Credentials with the addresses to use them at. Debug tells nothing of them.
#[derive(Debug)]
pub(crate) struct Kubeconfig {
    /// `https://203.0.113.7:6443`, the best first.
    pub(crate) servers: Vec<String>,
    pub(crate) credentials: pb::GetApiCredentialsResponse,
}

impl Clusters {
    /// The credentials of an administrator of a cluster. `server` is empty for all addresses.
    ///
    /// # Errors
    /// When the cluster or the server is not known, or the agent of its control plane can't be asked.
    pub(crate) async fn kubeconfig(
        &self,
        name: &ClusterName,
        server: &str,
    ) -> Result<Kubeconfig, KubeconfigError> {
        if !server.is_empty() {
            server_host(server)?;
        }
        let cluster = self.store.cluster(name.as_str()).await?;
        let cluster = cluster.ok_or_else(|| KubeconfigError::Unknown(name.clone()))?;
        let mut nodes = self.store.cluster_nodes().await?;
        nodes.retain(|node| node.cluster == cluster.name && node.role == CONTROL_PLANE);
        let mut last = KubeconfigError::NoControlPlane(name.clone());
        for node in nodes {
            let servers = servers(name, &cluster, &node, server)?;
            match self.credentials(&node.host).await {
                Ok(credentials) => {
                    return Ok(Kubeconfig {
                        servers,
                        credentials,
                    });
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn credentials(
        &self,
        host: &str,
    ) -> Result<pb::GetApiCredentialsResponse, KubeconfigError> {
        let host: HostName = host.parse().map_err(FleetError::Name)?;
        let mut client = self.fleet.agent(&host).await?;
        let asked = client.get_api_credentials(pb::GetApiCredentialsRequest {});
        let answer = tokio::time::timeout(self.timings.request, asked).await;
        let answer = answer
            .unwrap_or_else(|_elapsed| Err(Status::deadline_exceeded("it did not answer in time")));
        let answer = answer.map_err(|source| FleetError::Call {
            host,
            what: "the credentials of its API",
            source: Box::new(source),
        })?;
        Ok(answer.into_inner())
    }
}

/// Where the API may be reached: what was asked for if the certificate carries it, else all that it carries, public ones
/// first. A pure function.
fn servers(
    name: &ClusterName,
    cluster: &ClusterRow,
    node: &NodeRow,
    asked: &str,
) -> Result<Vec<String>, KubeconfigError> {
    let mut carried: Vec<String> = Vec::new();
    let own = [node.node_ip.clone()];
    for san in cluster.public_ips.iter().chain(&own).chain(&node.tls_sans) {
        if !san.is_empty() && !carried.contains(san) {
            carried.push(san.clone());
        }
    }
    if asked.is_empty() {
        return Ok(carried.iter().map(|server| url(server)).collect());
    }
    let server = server_host(asked)?;
    if carried.contains(&server) {
        return Ok(vec![url(&server)]);
    }
    Err(KubeconfigError::NotCarried {
        cluster: name.clone(),
        server,
        host: node.host.clone(),
        carried,
    })
}

/// A server as it was asked for: an address or a name, and no port.
fn server_host(asked: &str) -> Result<String, KubeconfigError> {
    let address: Address = asked.parse().map_err(|_| KubeconfigError::Server)?;
    if address.port().is_some() {
        return Err(KubeconfigError::Server);
    }
    Ok(address.host())
}

fn url(server: &str) -> String {
    if server.contains(':') {
        format!("https://[{server}]:{PORT}")
    } else {
        format!("https://{server}:{PORT}")
    }
}

#[cfg(test)]
mod tests {
    use super::{KubeconfigError, servers};
    use crate::store::clusters::{ClusterRow, NodeRow};

    #[test]
    fn only_what_the_certificate_carries_is_told_public_addresses_first() {
        let name = "c".parse().expect("name");
        let cluster = ClusterRow {
            name: "c".to_owned(),
            k3s_version: String::new(),
            ca_hash: String::new(),
            endpoint: String::new(),
            adopted: false,
            created_at: 0,
            public_ips: vec!["wiki.example.org".to_owned()],
        };
        let node = NodeRow {
            host: "cp1".to_owned(),
            cluster: "c".to_owned(),
            node_name: "cp1".to_owned(),
            role: "control-plane".to_owned(),
            node_ip: "10.0.0.5".to_owned(),
            tls_sans: ["10.0.0.5", "2001:db8::5", "wiki.example.org"]
                .map(str::to_owned)
                .to_vec(),
        };
        let told = |asked: &str| servers(&name, &cluster, &node, asked);
        assert_eq!(
            told("").expect("all"),
            [
                "https://wiki.example.org:6443",
                "https://10.0.0.5:6443",
                "https://[2001:db8::5]:6443"
            ]
        );
        assert_eq!(
            told("2001:db8::5").expect("carried"),
            ["https://[2001:db8::5]:6443"]
        );
        for bad in ["10.0.0.5:6443", "a b", "../x", "a\nb"] {
            assert!(matches!(told(bad), Err(KubeconfigError::Server)), "{bad:?}");
        }
        let Err(KubeconfigError::NotCarried { carried, host, .. }) = told("192.0.2.9") else {
            panic!("not carried")
        };
        assert_eq!((carried.len(), host.as_str()), (3, "cp1"));
    }
}
