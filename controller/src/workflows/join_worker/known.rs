//! What is known of a host before its join is planned: from its agent, from the records, and from the API of the cluster.

use canasta_proto::name::HostName;
use canasta_proto::pb;
use canasta_proto::pb::Severity;
use k8s_openapi::api::core::v1::Node;

use super::control_plane::ControlPlane;
use crate::clusters::nodes::identity;
use crate::clusters::ready_condition;
use crate::store::clusters::NodeRow;
use crate::store::debts::DebtKind;
use crate::workflows::gather::{node_name, preflight};
use crate::workflows::{Context, Error};

/// What is known of a host that is to join.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    pub(super) facts: pb::NodeFacts,
    pub(super) findings: Vec<pb::Finding>,
    /// What the controller recorded of it as a node.
    pub(super) node: Option<NodeRow>,
    /// What the API of the cluster tells of a Node of its name.
    pub(super) registered: Option<Registered>,
    /// Whether the server keeps a password for its name.
    pub(super) password: bool,
    /// Whether the controller still owes the cluster the deletion of this host's Node.
    pub(super) owed: bool,
    /// Hosts that are nodes of any cluster, with what they told last: name, hostname, machine id.
    pub(super) nodes: Vec<Twin>,
}

/// A Node object of the name that a host would have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Registered {
    pub(super) machine_id: String,
    pub(super) ready: bool,
}

impl Registered {
    pub(super) fn of(node: &Node) -> Self {
        Self {
            machine_id: identity(node).0.to_owned(),
            ready: ready_condition(node).is_some_and(|ready| ready.status == "True"),
        }
    }

    /// Whether another machine lives under this name: a Node that is Ready is no leftover.
    pub(super) fn lives_elsewhere(&self, facts: &pb::NodeFacts) -> bool {
        self.ready && !self.machine_id.is_empty() && self.machine_id != facts.machine_id
    }

    /// Why such a name can't be had, and what to do about it.
    pub(super) fn taken(&self, name: &str, facts: &pb::NodeFacts) -> (String, &'static str) {
        (
            format!(
                "node '{name}' is Ready on another machine (machine id '{}', this one has '{}')",
                self.machine_id, facts.machine_id
            ),
            "give the machine another name: hostnamectl set-hostname NAME; if this host was installed anew, its old node \
             turns NotReady after about 40 s: then run the command again",
        )
    }
}

/// A host that another one may be taken for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Twin {
    pub(super) host: String,
    pub(super) hostname: String,
    pub(super) machine_id: String,
}

impl Known {
    /// The name that its Node has or would have.
    pub(super) fn node_name(&self) -> String {
        let recorded = self.node.as_ref().map(|node| node.node_name.clone());
        recorded.unwrap_or_else(|| node_name(&self.facts.hostname))
    }

    /// Whether a Node or a password of its name is of an earlier life of this host, and not of another machine.
    pub(super) fn was_ours(&self, cluster: &str) -> bool {
        let recorded = self
            .node
            .as_ref()
            .is_some_and(|node| node.cluster == cluster);
        let same = self.registered.as_ref().is_some_and(|registered| {
            !registered.machine_id.is_empty() && registered.machine_id == self.facts.machine_id
        });
        recorded || same || self.owed
    }
}

/// Asks the agent, the database and the API.
pub(super) async fn gather(
    context: &Context,
    host: &HostName,
    target: &ControlPlane,
) -> Result<Known, Error> {
    let (findings, facts) = preflight(context, host, pb::K3sRole::Agent).await?;
    let store = &context.store;
    store.set_facts(host, &facts).await?;
    let members = store.cluster_nodes().await?;
    let is_node = |name: &str| members.iter().any(|member| member.host == name);
    let nodes = store
        .hosts()
        .await?
        .into_iter()
        .filter(|row| row.name != *host && is_node(row.name.as_str()))
        .map(|row| {
            let (hostname, machine_id) = row.facts.map_or((row.hostname, String::new()), |facts| {
                (facts.hostname, facts.machine_id)
            });
            Twin {
                host: row.name.into(),
                hostname,
                machine_id,
            }
        })
        .collect();
    let mut known = Known {
        facts,
        findings,
        node: store.cluster_node(host.as_str()).await?,
        nodes,
        ..Known::default()
    };
    let name = known.node_name();
    let owed = store
        .debt(&target.cluster.name, DebtKind::DeleteNode, &name)
        .await?;
    known.owed = owed.is_some_and(|debt| debt.host == host.as_str());
    known.registered = target.api.node(&name).await?.as_ref().map(Registered::of);
    known.password = target.api.has_password(&name).await?;
    Ok(known)
}

/// Whether a Node was registered by the k3s that runs on this machine since its last boot.
pub(super) fn is_of_this_boot(node: &Node, facts: &pb::NodeFacts) -> bool {
    let (machine, boot) = identity(node);
    let runs = facts
        .k3s
        .as_ref()
        .is_some_and(|k3s| k3s.unit_started_at.is_some());
    runs && !machine.is_empty() && machine == facts.machine_id && boot == facts.boot_id
}

/// Adds a finding to each host that has the hostname or the machine id of a node, or of a host before it in the call.
pub(super) fn find_twins(hosts: &[HostName], looked: &mut [Result<Known, Error>]) {
    let mut before: Vec<Twin> = Vec::new();
    for (host, known) in hosts.iter().zip(looked) {
        let Ok(known) = known else { continue };
        let own = Twin {
            host: host.to_string(),
            hostname: known.facts.hostname.clone(),
            machine_id: known.facts.machine_id.clone(),
        };
        let others = known.nodes.iter().chain(&before);
        let found: Vec<_> = others.flat_map(|other| confusions(&own, other)).collect();
        known.findings.extend(found);
        before.push(own);
    }
}

/// Why two hosts can't be nodes at the same time.
fn confusions(own: &Twin, other: &Twin) -> Vec<pb::Finding> {
    let mut findings = Vec::new();
    let same = |one: &str, other: &str| !one.is_empty() && one == other;
    if own.host == other.host {
        return findings;
    }
    if same(&node_name(&own.hostname), &node_name(&other.hostname)) {
        findings.push(pb::Finding {
            code: "HOSTNAME_TAKEN".to_owned(),
            severity: Severity::Error.into(),
            message: format!("host '{}' has the hostname '{}' too", other.host, own.hostname),
            subject: own.hostname.clone(),
            mend: "give the machine another name: hostnamectl set-hostname NAME, then run the command again".to_owned(),
        });
    }
    if same(&own.machine_id, &other.machine_id) {
        findings.push(pb::Finding {
            code: "MACHINE_ID_TAKEN".to_owned(),
            severity: Severity::Error.into(),
            message: format!(
                "host '{}' has the machine id {} too, as a copy of the same disk has",
                other.host, own.machine_id
            ),
            subject: "/etc/machine-id".to_owned(),
            mend: "give the copy its own id: rm /etc/machine-id /var/lib/dbus/machine-id; systemd-machine-id-setup; reboot, then run the command again".to_owned(),
        });
    }
    findings
}
