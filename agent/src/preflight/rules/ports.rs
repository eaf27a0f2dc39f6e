//! Ports that k3s needs and somebody else has.

use std::net::IpAddr;

use canasta_host::machine::{Listener, Protocol};
use canasta_proto::pb::{Finding, K3sRole};

use super::super::Observed;
use super::{error, warning};
use crate::k3s::traces::Traces;

/// A port that k3s binds.
struct Port {
    number: u16,
    protocol: Protocol,
    /// Whether only loopback is bound: listeners on other addresses are no obstacle then.
    loopback: bool,
    server_only: bool,
    what: &'static str,
}

const fn port(
    number: u16,
    protocol: Protocol,
    loopback: bool,
    server_only: bool,
    what: &'static str,
) -> Port {
    Port {
        number,
        protocol,
        loopback,
        server_only,
        what,
    }
}

const PORTS: [Port; 11] = [
    port(6443, Protocol::Tcp, false, true, "the API server"),
    port(10250, Protocol::Tcp, false, false, "the kubelet"),
    port(
        8472,
        Protocol::Udp,
        false,
        false,
        "the overlay network (VXLAN)",
    ),
    port(
        6444,
        Protocol::Tcp,
        true,
        false,
        "the API server behind k3s",
    ),
    port(10010, Protocol::Tcp, true, false, "containerd"),
    port(10248, Protocol::Tcp, true, false, "the kubelet's health"),
    port(10249, Protocol::Tcp, true, false, "kube-proxy's metrics"),
    port(10256, Protocol::Tcp, true, false, "kube-proxy's health"),
    port(10257, Protocol::Tcp, true, true, "the controller manager"),
    port(
        10258,
        Protocol::Tcp,
        true,
        true,
        "the cloud controller manager",
    ),
    port(10259, Protocol::Tcp, true, true, "the scheduler"),
];

/// Ports of the cluster's web server. k3s doesn't bind them: its packet rules take them over.
const WEB: [u16; 2] = [80, 443];

/// Names of the processes of k3s; the listening ones may be children of the unit's main process.
const K3S_PROCESSES: [&str; 4] = ["k3s", "k3s-server", "k3s-agent", "containerd"];

pub(super) fn judge(seen: &Observed, role: K3sRole, findings: &mut Vec<Finding>) {
    let listeners = seen.listeners.as_deref().unwrap_or_default();
    for port in PORTS
        .iter()
        .filter(|port| role != K3sRole::Agent || !port.server_only)
    {
        let in_the_way = |listener: &&Listener| {
            listener.port == port.number
                && listener.protocol == port.protocol
                && (!port.loopback || reaches_loopback(listener.address))
                && !is_of_k3s(listener, seen.k3s.as_ref())
        };
        if let Some(listener) = listeners.iter().find(in_the_way) {
            findings.push(taken(port, listener));
        }
    }
    web(seen, listeners, findings);
}

/// A web server beside the cluster's. Where Docker is, the rule about Docker speaks of it; a cluster that is installed has
/// the ports already, and the first install has said so.
fn web(seen: &Observed, listeners: &[Listener], findings: &mut Vec<Finding>) {
    let docker = seen
        .presence
        .as_ref()
        .is_some_and(|found| found.docker.is_some());
    if docker || seen.k3s.as_ref().is_some_and(Traces::is_present) {
        return;
    }
    for number in WEB {
        let reached = |listener: &&Listener| {
            listener.port == number
                && listener.protocol == Protocol::Tcp
                && !listener.address.is_loopback()
        };
        if let Some(listener) = listeners.iter().find(reached) {
            findings.push(warning(
                "WEB_PORT_TAKEN",
                &format!("{number}/tcp"),
                format!(
                    "port {number}/tcp is in use {} at {}; the cluster's web server takes it over, and what is served there now is not reached any more",
                    holder(listener),
                    listener.address
                ),
                &format!("move that service to another machine or port; `ss -lntp sport = :{number}` shows it"),
            ));
        }
    }
}

fn reaches_loopback(address: IpAddr) -> bool {
    address.is_loopback() || address.is_unspecified()
}

/// Whether a k3s that is here has the port itself. A foreign one is a finding of its own; its ports needn't be.
fn is_of_k3s(listener: &Listener, k3s: Option<&Traces>) -> bool {
    let Some(unit) = k3s.and_then(Traces::unit) else {
        return false;
    };
    match (listener.pid, listener.process.as_deref()) {
        // flannel's socket is the kernel's own, and outlives k3s.
        (None, _) => listener.protocol == Protocol::Udp,
        (Some(pid), _) if unit.main_pid == Some(pid) => true,
        (Some(_), Some(process)) => unit.main_pid.is_some() && K3S_PROCESSES.contains(&process),
        (Some(_), None) => false,
    }
}

fn holder(listener: &Listener) -> String {
    match (&listener.process, listener.pid) {
        (Some(process), Some(pid)) => format!("by {process} (pid {pid})"),
        (None, Some(pid)) => format!("by the process {pid}"),
        _ => "by a process that can't be seen, or by the kernel".to_owned(),
    }
}

fn taken(port: &Port, listener: &Listener) -> Finding {
    let by = holder(listener);
    let subject = format!("{}/{}", port.number, port.protocol);
    let flag = if port.protocol == Protocol::Tcp {
        "t"
    } else {
        "u"
    };
    error(
        "PORT_TAKEN",
        &subject,
        format!(
            "port {subject}, which {} needs, is taken {by} at {}",
            port.what, listener.address
        ),
        &format!(
            "stop that program or give it another port; `ss -ln{flag}p sport = :{}` shows it",
            port.number
        ),
    )
}
