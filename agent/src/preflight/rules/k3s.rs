//! What else runs containers here: another k3s, another Kubernetes, Docker.

use canasta_proto::pb::{Finding, K3sOrigin, K3sRole};

use super::super::Observed;
use super::{error, is_own, warning};
use crate::k3s::paths;
use crate::k3s::traces::Traces;

/// Ports of the web server, which Docker often has.
const WEB: [u16; 2] = [80, 443];

pub(super) fn judge(seen: &Observed, role: K3sRole, findings: &mut Vec<Finding>) {
    if let Some(k3s) = &seen.k3s {
        role_conflict(k3s, role, findings);
        foreign(k3s, role, findings);
    }
    let Some(presence) = &seen.presence else {
        return;
    };
    for other in &presence.kubernetes {
        findings.push(error(
            "OTHER_KUBERNETES",
            &other.name,
            format!("{} is on this node: {}", other.name, other.evidence),
            "uninstall it by its own means, or use another machine: two of them fight over ports, packet rules and control groups",
        ));
    }
    docker(seen, findings);
}

/// The unit of the other role is here.
fn role_conflict(k3s: &Traces, role: K3sRole, findings: &mut Vec<Finding>) {
    let (other, what) = match role {
        K3sRole::Agent => (&k3s.server_unit, "server"),
        K3sRole::Server | K3sRole::Unspecified => (&k3s.agent_unit, "agent"),
    };
    if let Some(unit) = other {
        findings.push(error(
            "K3S_ROLE_CONFLICT",
            &unit.name,
            format!(
                "this node is a k3s {what} already: {} is installed and {}",
                unit.name, unit.active_state
            ),
            "a machine has one role; uninstall k3s from it first, or use another machine",
        ));
    }
}

fn foreign(k3s: &Traces, role: K3sRole, findings: &mut Vec<Finding>) {
    if k3s.origin() != K3sOrigin::Foreign {
        return;
    }
    if k3s.unit().is_none() && k3s.binary.is_none() {
        findings.push(error(
            "DATA_LEFT_OVER",
            paths::SERVER_DIR,
            format!("{} holds the data of a k3s that is not installed any more; a new one would come up as that old cluster", paths::SERVER_DIR),
            "keep a copy if you may need it, then move the directory away",
        ));
        return;
    }
    let uninstall = match &k3s.uninstall_script {
        Some(script) => format!("uninstall it with {script}"),
        None => format!(
            "uninstall it with the means that installed it (there is no {})",
            paths::UNINSTALL_SCRIPTS.join(" and no ")
        ),
    };
    let subject = k3s.unit().map_or_else(
        || k3s.binary.clone().unwrap_or_default(),
        |unit| unit.name.clone(),
    );
    findings.push(error(
        "FOREIGN_K3S",
        &subject,
        format!("a k3s that canasta-agent did not install is on this node: {}", k3s.in_words().join(", ")),
        &match role {
            // Only control planes are adopted: a worker comes with its cluster.
            K3sRole::Agent => format!("{uninstall}, then join the node"),
            K3sRole::Server | K3sRole::Unspecified => format!(
                "take it over as it is with `canasta install k8s-cp --host HOST --adopt`, or {uninstall}"
            ),
        },
    ));
}

/// Docker beside k3s is well unless it holds the web server's ports or drops what is forwarded.
fn docker(seen: &Observed, findings: &mut Vec<Finding>) {
    let Some(docker) = seen
        .presence
        .as_ref()
        .and_then(|presence| presence.docker.as_ref())
    else {
        return;
    };
    if is_own(seen) {
        return;
    }
    let taken: Vec<String> = WEB
        .iter()
        .filter(|&&port| {
            seen.listeners
                .iter()
                .flatten()
                .any(|listener| listener.port == port && !listener.address.is_loopback())
        })
        .map(ToString::to_string)
        .collect();
    let rules = seen
        .packet_rules
        .as_ref()
        .and_then(|rules| rules.iptables.text());
    let drops =
        rules.is_some_and(|text| text.lines().any(|line| line.starts_with(":FORWARD DROP")));
    let mut why = Vec::new();
    if !taken.is_empty() {
        why.push(format!(
            "port {} is taken, so the cluster's web server would not be reached",
            taken.join(" and ")
        ));
    }
    if drops {
        why.push("it has iptables drop forwarded packets, also those of pods".to_owned());
    }
    if why.is_empty() {
        return;
    }
    findings.push(warning(
        "DOCKER_PRESENT",
        "docker.service",
        format!("Docker is in use ({}), and {}", docker.evidence, why.join("; ")),
        "move what Docker runs to another machine, or stop it: `systemctl disable --now docker.socket docker.service`",
    ));
}
