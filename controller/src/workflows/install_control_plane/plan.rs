//! What an install would do, from what is asked and what is known. A pure function, tested as a table.

use std::net::IpAddr;

use canasta_proto::name::{ClusterName, HostName};
use canasta_proto::pb;
use canasta_proto::version::{Change, K3sVersion};
use serde::{Deserialize, Serialize};

use crate::workflows::Refusal;
use crate::workflows::gather::{self, Gathered, node_name};

/// The most names of a certificate before the node's own two; the agent takes 64 in all.
const MOST_SANS: usize = 62;

/// What is asked, checked.
#[derive(Debug, Clone, Default)]
pub(super) struct Request {
    pub(super) public_ips: Vec<String>,
    pub(super) k3s_version: Option<K3sVersion>,
    pub(super) cluster: Option<ClusterName>,
}

/// What an install does. Stored with the operation, which is rebuilt from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Planned {
    pub(super) host: String,
    pub(super) cluster: String,
    pub(super) k3s_version: String,
    /// Empty for a first install.
    pub(super) current_version: String,
    pub(super) arch: String,
    pub(super) node_ip: String,
    pub(super) node_ip_source: String,
    pub(super) flannel_link: String,
    pub(super) node_name: String,
    pub(super) public_ips: Vec<String>,
    pub(super) tls_sans: Vec<String>,
}

/// Plans an install. Findings are not judged here: a dry run shows them, a real one is refused for them.
pub(super) fn plan(
    host: &HostName,
    request: &Request,
    known: &Gathered,
    default_version: &K3sVersion,
) -> Result<Planned, Refusal> {
    let refused = |reason, message: String, hint: String| {
        Err(Refusal::new(reason, message, hint).about(host))
    };
    let k3s = known.facts.k3s.clone().unwrap_or_default();
    // Data without a program is a finding of the preflight, which tells how to mend it.
    match (gather::has_program(&k3s), k3s.origin()) {
        (true, pb::K3sOrigin::Foreign | pb::K3sOrigin::Unspecified) => {
            return refused(
                "FOREIGN_K3S",
                format!(
                    "host '{host}' has a k3s that this fleet did not install: {}",
                    k3s.found.join(", ")
                ),
                format!(
                    "take it over as it is: canasta install k8s-cp --host {host} --adopt; or remove it on the machine \
                     (k3s-uninstall.sh) and run the install again"
                ),
            );
        }
        (true, pb::K3sOrigin::Adopted) => {
            return refused(
                "ADOPTED_K3S",
                format!(
                    "host '{host}' has a k3s that was adopted; its files belong to whoever installed it"
                ),
                "change it the way it was installed; `canasta cluster list` shows it".to_owned(),
            );
        }
        (true, pb::K3sOrigin::Installed) if k3s.role() == pb::K3sRole::Agent => {
            return refused(
                "WRONG_ROLE",
                format!("host '{host}' is a worker and can't be a control plane at the same time"),
                "choose another host: canasta host list".to_owned(),
            );
        }
        _ => {}
    }
    let cluster = cluster(host, request, known)?;
    let (version, current) = version(host, request, known, default_version)?;
    let (node_ip, node_ip_source, flannel_link) = node_ip(host, known)?;
    // A Node can't be renamed: under today's hostname k3s would come up as a second one.
    let node_name = known
        .node_name()
        .map_or_else(|| node_name(&known.facts.hostname), str::to_owned);
    let public_ips = if request.public_ips.is_empty() {
        known
            .cluster
            .as_ref()
            .map(|cluster| cluster.public_ips.clone())
            .unwrap_or_default()
    } else {
        request.public_ips.clone()
    };
    Ok(Planned {
        host: host.to_string(),
        cluster,
        k3s_version: version.to_string(),
        current_version: current
            .map(|version| version.to_string())
            .unwrap_or_default(),
        arch: known.facts.arch.clone(),
        tls_sans: tls_sans(&public_ips, known, &node_ip, &node_name),
        node_ip,
        node_ip_source,
        flannel_link,
        node_name,
        public_ips,
    })
}

fn cluster(host: &HostName, request: &Request, known: &Gathered) -> Result<String, Refusal> {
    let asked = request.cluster.as_ref().map(ClusterName::as_str);
    if let Some(cluster) = &known.cluster {
        return match asked {
            Some(asked) if asked != cluster.name => Err(Refusal::new(
                "CLUSTER_FIXED",
                format!(
                    "host '{host}' belongs to cluster '{}', and the name of a cluster can't change",
                    cluster.name
                ),
                format!("leave --cluster out, or give --cluster {}", cluster.name),
            )
            .about(host)),
            _ => Ok(cluster.name.clone()),
        };
    }
    let name = asked.unwrap_or(host.as_str());
    if known.clusters.iter().any(|cluster| cluster.name == name) {
        return Err(Refusal::new(
            "CLUSTER_EXISTS",
            format!("a cluster '{name}' exists already, with another control plane"),
            "choose another name: --cluster NAME; `canasta cluster list` shows those that are taken",
        )
        .about(host));
    }
    Ok(name.to_owned())
}

/// The version that will run, and the one that is there.
fn version(
    host: &HostName,
    request: &Request,
    known: &Gathered,
    default_version: &K3sVersion,
) -> Result<(K3sVersion, Option<K3sVersion>), Refusal> {
    let parsed = |text: &str| text.parse::<K3sVersion>().ok();
    let recorded = known
        .cluster
        .as_ref()
        .and_then(|cluster| parsed(&cluster.k3s_version));
    let installed = known.facts.k3s.as_ref().filter(|k3s| k3s.present);
    let installed = installed.and_then(|k3s| parsed(&k3s.binary_version));
    let wanted = request
        .k3s_version
        .clone()
        .or_else(|| recorded.clone())
        .or_else(|| installed.clone())
        .unwrap_or_else(|| default_version.clone());
    let current = installed.or(recorded);
    let Some(current) = current else {
        return Ok((wanted, None));
    };
    match current.change_to(&wanted) {
        Change::None | Change::Upgrade => Ok((wanted, Some(current))),
        Change::Downgrade => Err(Refusal::new(
            "DOWNGRADE",
            format!("host '{host}' runs k3s {current}, and going back to {wanted} is not supported by Kubernetes"),
            format!("give --k3s-version {current} or a newer one, or leave it out to keep {current}"),
        )
        .about(host)),
        Change::SkipsMinor => Err(Refusal::new(
            "MINOR_SKIPPED",
            format!("host '{host}' runs k3s {current}, and {wanted} would skip a minor version, which is not supported by Kubernetes"),
            format!("install a release of {} first: --k3s-version {}.X+k3s1", current.next_minor(), current.next_minor()),
        )
        .about(host)),
    }
}

/// The node's address, where it comes from, and its link. What was recorded stays while the node has it.
fn node_ip(host: &HostName, known: &Gathered) -> Result<(String, String, String), Refusal> {
    let facts = &known.facts;
    let recorded = known
        .node
        .as_ref()
        .map(|node| node.node_ip.as_str())
        .unwrap_or_default();
    // A link with a name that no configuration should hold is left for flannel to find by the address.
    let own_link = Some(&facts.node_ip_link).filter(|name| is_plain_link(name));
    let link = |ip: &str| match own_link {
        Some(name) if ip == facts.node_ip => name.clone(),
        _ => String::new(),
    };
    if !recorded.is_empty() && own_addresses(facts).any(|address| address == recorded) {
        return Ok((
            recorded.to_owned(),
            "recorded by the first install".to_owned(),
            link(recorded),
        ));
    }
    if facts.node_ip.parse::<IpAddr>().is_ok() {
        let source = if facts.node_ip_link.is_empty() {
            "chosen by the agent".to_owned()
        } else {
            format!("link {}", facts.node_ip_link)
        };
        return Ok((facts.node_ip.clone(), source, link(&facts.node_ip)));
    }
    if gather::errors(&known.findings).next().is_some() {
        // The preflight is refused as a whole, and shows all that is in the way.
        return Ok(Default::default());
    }
    Err(Refusal::new(
        "NO_NODE_IP",
        format!("host '{host}' has no address that a cluster could use"),
        format!("give the machine an address that other nodes can reach; `canasta host show {host} --refresh` shows what it has"),
    )
    .about(host))
}

/// What the agent takes as the name of a link.
fn is_plain_link(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    name.bytes().all(plain) && !name.starts_with('.')
}

/// The node's addresses without their prefixes, but for those of the cluster's own networks and of single links.
fn own_addresses(facts: &pb::NodeFacts) -> impl Iterator<Item = &str> {
    facts.addresses.iter().filter_map(|address| {
        let address = address.split('/').next().unwrap_or(address);
        let lasting = match address.parse::<IpAddr>().ok()? {
            // Pods and services of k3s.
            IpAddr::V4(ip) => {
                !matches!(ip.octets(), [10, 42 | 43, ..])
                    && !ip.is_link_local()
                    && !ip.is_loopback()
            }
            IpAddr::V6(ip) => !ip.is_unicast_link_local() && !ip.is_loopback(),
        };
        lasting.then_some(address)
    })
}

/// Public addresses first, then the node's own. Its own are those of the first install: a link that comes and goes must
/// not restart the API.
fn tls_sans(
    public_ips: &[String],
    known: &Gathered,
    node_ip: &str,
    node_name: &str,
) -> Vec<String> {
    let own: Vec<String> = match (&known.node, &known.cluster) {
        (Some(node), Some(cluster)) => {
            let own = |san: &&String| !cluster.public_ips.contains(san);
            node.tls_sans.iter().filter(own).cloned().collect()
        }
        _ => own_addresses(&known.facts).map(str::to_owned).collect(),
    };
    let always = [node_ip.to_owned(), node_name.to_owned()];
    let wanted: Vec<&String> = public_ips.iter().chain(&own).chain(&always).collect();
    let mut sans: Vec<String> = Vec::new();
    for (place, san) in wanted.iter().enumerate() {
        // A node with very many addresses leaves out some of its own, never what was asked for.
        let room = sans.len() < MOST_SANS || place >= wanted.len() - always.len();
        if room && !san.is_empty() && !sans.contains(*san) {
            sans.push((*san).clone());
        }
    }
    sans
}
