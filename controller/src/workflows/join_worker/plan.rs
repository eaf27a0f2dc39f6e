//! What a join would do, from what is known. A pure function, tested as a table.

use std::net::IpAddr;

use canasta_proto::name::HostName;
use canasta_proto::pb;
use canasta_proto::version::{Change, K3sVersion};
use serde::{Deserialize, Serialize};

use super::control_plane::ControlPlane;
use super::known::{Known, Registered};
use crate::clusters::{CONTROL_PLANE, WORKER};
use crate::store::clusters::{ClusterRow, NodeRow};
use crate::workflows::Refusal;
use crate::workflows::gather::has_program;
use crate::workflows::host_text::HostText;

/// What a worker joins with, in words.
pub(super) const CREDENTIAL: &str = "a bootstrap token that is good for 10 minutes; where this version of k3s makes none, the cluster's own agent token";

/// What a join does. Stored with the operation, which is rebuilt from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Planned {
    pub(super) host: HostText,
    pub(super) cluster: String,
    pub(super) control_plane: HostText,
    /// True when someone else installed the control plane.
    pub(super) adopted: bool,
    pub(super) k3s_version: String,
    /// Empty for a first install.
    pub(super) current_version: String,
    pub(super) arch: String,
    pub(super) node_ip: String,
    pub(super) node_ip_source: String,
    pub(super) flannel_link: String,
    pub(super) node_name: String,
    pub(super) server_url: String,
    /// Codes of findings that are not to stop it.
    pub(super) ignored: Vec<String>,
}

impl Planned {
    /// Whether k3s is installed for the first time, so that a Node of its name is of an earlier life.
    pub(super) fn fresh(&self) -> bool {
        self.current_version.is_empty()
    }

    /// The node as it is recorded.
    pub(super) fn row(&self) -> NodeRow {
        NodeRow {
            host: self.host.to_string(),
            cluster: self.cluster.clone(),
            node_name: self.node_name.clone(),
            role: WORKER.to_owned(),
            node_ip: self.node_ip.clone(),
            tls_sans: Vec::new(),
        }
    }

    /// Whether another plan joins the same node to the same cluster in the same way.
    pub(super) fn agrees_with(&self, other: &Self) -> bool {
        let decisive = |plan: &Self| Self {
            current_version: String::new(),
            node_ip_source: String::new(),
            ..plan.clone()
        };
        decisive(self) == decisive(other)
    }
}

/// Plans a join. Findings are not judged here: a dry run shows them, a real one is refused for them.
pub(super) fn plan(
    host: &HostName,
    target: &ControlPlane,
    known: &Known,
    ignored: &[String],
) -> Result<Planned, Refusal> {
    let cluster = &target.cluster;
    check_role(host, &target.host, known)?;
    check_cluster(host, cluster, known)?;
    check_name(host, target, known)?;
    let current = current_version(host, cluster, known)?;
    let (node_ip, node_ip_source, flannel_link) = node_ip(host, known)?;
    check_family(host, target, &node_ip)?;
    Ok(Planned {
        host: host.clone().into(),
        cluster: cluster.name.clone(),
        control_plane: target.host.clone().into(),
        adopted: cluster.adopted,
        k3s_version: cluster.k3s_version.clone(),
        current_version: current,
        arch: known.facts.arch.clone(),
        node_ip,
        node_ip_source,
        flannel_link,
        node_name: known.node_name(),
        server_url: cluster.endpoint.clone(),
        ignored: ignored.to_vec(),
    })
}

fn check_role(host: &HostName, target: &HostName, known: &Known) -> Result<(), Refusal> {
    let refused = |reason, message: String, hint: String| {
        Err(Refusal::new(reason, message, hint).about(host))
    };
    let k3s = known.facts.k3s.clone().unwrap_or_default();
    let installed = has_program(&k3s);
    let recorded = known
        .node
        .as_ref()
        .filter(|node| node.role == CONTROL_PLANE);
    let server = installed && k3s.role() == pb::K3sRole::Server;
    let ours = k3s.origin() == pb::K3sOrigin::Installed;
    if host == target || recorded.is_some() || (server && ours) {
        let of = recorded.map(|node| format!(" of cluster '{}'", node.cluster));
        return refused(
            "WRONG_ROLE",
            format!(
                "host '{host}' is a control plane{} and can't be a worker at the same time",
                of.unwrap_or_default()
            ),
            "choose another host: canasta host list; a control plane runs pods too".to_owned(),
        );
    }
    match (installed, k3s.origin()) {
        (true, pb::K3sOrigin::Adopted) => refused(
            "ADOPTED_K3S",
            format!("host '{host}' has a k3s that was adopted; its files belong to whoever installed it"),
            "change it the way it was installed; `canasta cluster list` shows it".to_owned(),
        ),
        (true, pb::K3sOrigin::Foreign | pb::K3sOrigin::Unspecified) => refused(
            "FOREIGN_K3S",
            format!(
                "host '{host}' has a k3s that this fleet did not install: {}",
                k3s.found.join(", ")
            ),
            "remove it on the machine (k3s-agent-uninstall.sh or k3s-uninstall.sh), then run the command again".to_owned(),
        ),
        _ => Ok(()),
    }
}

fn check_cluster(host: &HostName, cluster: &ClusterRow, known: &Known) -> Result<(), Refusal> {
    match &known.node {
        Some(node) if node.cluster != cluster.name => Err(Refusal::new(
            "OTHER_CLUSTER",
            format!(
                "host '{host}' is a worker of cluster '{}', and a host belongs to one cluster at most",
                node.cluster
            ),
            format!("take it out of that one first: canasta uninstall k8s --host {host}"),
        )
        .about(host)),
        _ => Ok(()),
    }
}

/// The name of the Node is free, or what stands under it is of an earlier life of this host.
fn check_name(host: &HostName, target: &ControlPlane, known: &Known) -> Result<(), Refusal> {
    let name = known.node_name();
    let holder = target
        .members
        .iter()
        .find(|member| member.node_name == name && member.host != host.as_str());
    if let Some(holder) = holder {
        return Err(Refusal::new(
            "NODE_NAME_TAKEN",
            format!("the node '{name}' of cluster '{}' is host '{}'", target.cluster.name, holder.host),
            "give the machine another name: hostnamectl set-hostname NAME, then run the command again",
        )
        .about(host));
    }
    if known.was_ours(&target.cluster.name) {
        let alive = |registered: &&Registered| registered.lives_elsewhere(&known.facts);
        if let Some(registered) = known.registered.as_ref().filter(alive) {
            let (message, hint) = registered.taken(&name, &known.facts);
            return Err(Refusal::new("NODE_NAME_TAKEN", message, hint).about(host));
        }
        return Ok(());
    }
    if let Some(registered) = &known.registered {
        return Err(Refusal::new(
            "NODE_NAME_TAKEN",
            format!(
                "cluster '{}' has a node '{name}' that is another machine (machine id '{}', this one has '{}')",
                target.cluster.name, registered.machine_id, known.facts.machine_id
            ),
            format!("give the machine another name: hostnamectl set-hostname NAME; or, if that node is gone for good, delete it on the control plane: kubectl delete node {name}"),
        )
        .about(host));
    }
    if known.password {
        return Err(Refusal::new(
            "NODE_PASSWORD_HELD",
            format!(
                "cluster '{}' keeps a password for a node '{name}' that it no longer has and that was not this host",
                target.cluster.name
            ),
            format!("give the machine another name: hostnamectl set-hostname NAME; or, if that node is gone for good, delete the secret on the control plane: kubectl -n kube-system delete secret {name}.node-password.k3s"),
        )
        .about(host));
    }
    Ok(())
}

/// The version that is there; the one of the cluster must not be older.
fn current_version(
    host: &HostName,
    cluster: &ClusterRow,
    known: &Known,
) -> Result<String, Refusal> {
    let parsed = |text: &str| text.parse::<K3sVersion>().ok();
    let k3s = known.facts.k3s.as_ref().filter(|k3s| has_program(k3s));
    let current = k3s.and_then(|k3s| parsed(&k3s.binary_version));
    let (Some(current), Some(wanted)) = (&current, parsed(&cluster.k3s_version)) else {
        return Ok(current
            .map(|version| version.to_string())
            .unwrap_or_default());
    };
    match current.change_to(&wanted) {
        Change::Downgrade => Err(Refusal::new(
            "DOWNGRADE",
            format!(
                "host '{host}' runs k3s {current}, and cluster '{}' has {wanted}: a node must not be newer than its control plane",
                cluster.name
            ),
            "upgrade the control plane first: canasta install k8s-cp --k3s-version",
        )
        .about(host)),
        // A kubelet may be some minors behind, and goes to the version of its cluster in one step.
        Change::None | Change::Upgrade | Change::SkipsMinor => Ok(current.to_string()),
    }
}

/// The node's address, where it comes from, and its link. What was recorded stays while the node has it.
fn node_ip(host: &HostName, known: &Known) -> Result<(String, String, String), Refusal> {
    let facts = &known.facts;
    let link = |ip: &str| {
        if ip == facts.node_ip {
            facts.node_ip_link.clone()
        } else {
            String::new()
        }
    };
    let has = |ip: &str| {
        let mut addresses = facts.addresses.iter();
        addresses.any(|address| address.split('/').next() == Some(ip))
    };
    let recorded = known.node.as_ref().map(|node| node.node_ip.as_str());
    if let Some(recorded) = recorded.filter(|ip| has(ip)) {
        return Ok((
            recorded.to_owned(),
            "recorded by an earlier join".to_owned(),
            link(recorded),
        ));
    }
    if facts.node_ip.parse::<IpAddr>().is_ok() {
        let source = match facts.node_ip_link.as_str() {
            "" => "chosen by the agent".to_owned(),
            link => format!("link {link}"),
        };
        return Ok((facts.node_ip.clone(), source, facts.node_ip_link.clone()));
    }
    Err(Refusal::new(
        "NO_NODE_IP",
        format!("host '{host}' has no address that a cluster could use"),
        format!("give the machine an address that other nodes can reach; `canasta host show {host} --refresh` shows what it has"),
    )
    .about(host))
}

/// Nodes of one cluster talk in one family of addresses.
fn check_family(host: &HostName, target: &ControlPlane, node_ip: &str) -> Result<(), Refusal> {
    let family = |text: &str| text.parse::<IpAddr>().ok().map(|ip| ip.is_ipv4());
    let (own, server) = (family(node_ip), family(&target.node.node_ip));
    if own.is_none() || server.is_none() || own == server {
        return Ok(());
    }
    Err(Refusal::new(
        "ADDRESS_FAMILY",
        format!(
            "host '{host}' would be the node {node_ip}, and its control plane is {}: they are of different families",
            target.node.node_ip
        ),
        format!("give {host} an address of the family of the cluster"),
    )
    .about(host))
}
