//! Hosts as they are printed.

use canasta_proto::pb;
use jiff::Timestamp;
use serde::Serialize;

use super::{Origin, age, size, time, word};
use crate::output;

/// `canasta host list`.
#[derive(Debug, Serialize)]
pub(crate) struct HostList {
    hosts: Vec<Host>,
}

/// `canasta host show`.
#[derive(Debug, Serialize)]
pub(crate) struct HostShown {
    host: Host,
}

/// `canasta host add` and `canasta host token`.
#[derive(Debug, Serialize)]
pub(crate) struct Joining {
    name: String,
    join: Join,
}

/// `canasta host add --ssh`.
#[derive(Debug, Serialize)]
pub(crate) struct BroughtIn {
    /// Whether it joined just now.
    joined: bool,
    /// The version of the agent's package that was installed just now.
    installed: Option<String>,
    /// What the machine said that it is; null when it was not asked.
    machine: Option<String>,
    host: Host,
}

#[derive(Debug, Serialize)]
struct Join {
    controller_address: String,
    token: String,
    expires_at: Option<Timestamp>,
    command: String,
}

#[derive(Debug, Serialize)]
struct Host {
    name: String,
    state: String,
    state_since: Option<Timestamp>,
    #[serde(skip_serializing_if = "String::is_empty")]
    state_reason: String,
    addresses: Vec<Address>,
    cluster: Option<String>,
    cluster_role: Option<String>,
    operation_id: Option<String>,
    added_at: Option<Timestamp>,
    certificate_expires_at: Option<Timestamp>,
    public_key_sha256: Option<String>,
    facts: Option<Facts>,
}

#[derive(Debug, Serialize)]
struct Address {
    address: String,
    source: String,
}

#[derive(Debug, Serialize)]
struct Facts {
    #[serde(flatten)]
    origin: Origin,
    agent_version: String,
    hostname: String,
    os: String,
    kernel: String,
    arch: String,
    uptime_seconds: u64,
    memory_bytes: u64,
    disk_free_bytes: u64,
    addresses: Vec<String>,
    node_ip: Option<String>,
    systemd_state: Option<String>,
    clock_synchronised: Option<bool>,
    k3s: Option<K3s>,
    unknown: Vec<String>,
}

/// k3s as an agent sees it.
#[derive(Debug, Serialize)]
pub(crate) struct K3s {
    present: bool,
    origin: String,
    pub(crate) role: String,
    binary_version: Option<String>,
    pub(crate) running_version: Option<String>,
    unit: Option<String>,
    pub(crate) unit_state: Option<String>,
    unit_restarts: u32,
    ca_hash: Option<String>,
    found: Vec<String>,
}

/// An empty text of the wire is something that is not known.
pub(crate) fn known(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

impl From<pb::K3sFacts> for K3s {
    fn from(k3s: pb::K3sFacts) -> Self {
        Self {
            present: k3s.present,
            origin: match k3s.origin() {
                pb::K3sOrigin::Unspecified => "none".to_owned(),
                origin => word(origin.as_str_name(), "K3S_ORIGIN_"),
            },
            role: match k3s.role() {
                pb::K3sRole::Unspecified => "none",
                pb::K3sRole::Server => "server",
                pb::K3sRole::Agent => "agent",
            }
            .to_owned(),
            unit_state: known(k3s.unit_active_state.clone()).map(|state| {
                match k3s.unit_sub_state.as_str() {
                    "" => state,
                    sub => format!("{state} ({sub})"),
                }
            }),
            unit_restarts: k3s.unit_restarts,
            binary_version: known(k3s.binary_version),
            running_version: known(k3s.running_version),
            unit: known(k3s.unit),
            ca_hash: known(k3s.ca_hash),
            found: k3s.found,
        }
    }
}

impl Facts {
    fn new(host: &str, facts: pb::NodeFacts) -> Self {
        Self {
            origin: Origin::new(format!("agent on {host}"), facts.observed_at, String::new()),
            agent_version: facts.agent_version,
            hostname: facts.hostname,
            os: facts.os,
            kernel: facts.kernel,
            arch: facts.arch,
            uptime_seconds: facts.uptime_seconds,
            memory_bytes: facts.memory_bytes,
            disk_free_bytes: facts.disk_free_bytes,
            addresses: facts.addresses,
            node_ip: known(facts.node_ip),
            systemd_state: known(facts.systemd_state),
            clock_synchronised: facts.clock_synchronised,
            k3s: facts.k3s.map(Into::into),
            unknown: facts.unknown,
        }
    }
}

impl From<pb::Host> for Host {
    fn from(host: pb::Host) -> Self {
        Self {
            state: word(host.state().as_str_name(), "HOST_STATE_"),
            state_since: time(host.state_since),
            state_reason: host.state_reason,
            addresses: host
                .addresses
                .into_iter()
                .map(|address| Address {
                    address: address.address,
                    source: address.source,
                })
                .collect(),
            cluster: known(host.cluster),
            cluster_role: known(host.cluster_role),
            operation_id: known(host.operation_id),
            added_at: time(host.added_at),
            certificate_expires_at: time(host.certificate_expires_at),
            public_key_sha256: known(host.public_key_sha256),
            facts: host.facts.map(|facts| Facts::new(&host.name, facts)),
            name: host.name,
        }
    }
}

impl Host {
    /// The state as people read it: *unreachable since* when it is.
    fn state_words(&self) -> String {
        match (self.state.as_str(), self.state_since) {
            ("unreachable", Some(since)) => {
                format!(
                    "unreachable since {}",
                    since.strftime("%Y-%m-%d %H:%M:%S UTC")
                )
            }
            (state, _) => state.to_owned(),
        }
    }
}

impl HostList {
    pub(crate) fn new(hosts: Vec<pb::Host>) -> Self {
        Self {
            hosts: hosts.into_iter().map(Into::into).collect(),
        }
    }

    pub(crate) fn table(&self) -> String {
        if self.hosts.is_empty() {
            return "no hosts yet; add one with `canasta host add --name cp1`\n".to_owned();
        }
        let mut text = output::table(
            [
                "NAME", "STATE", "ADDRESS", "CLUSTER", "K3S", "AGENT", "FACTS",
            ],
            self.hosts.iter().map(|host| {
                let facts = host.facts.as_ref();
                let k3s = facts.and_then(|facts| facts.k3s.as_ref());
                [
                    host.name.clone(),
                    host.state_words(),
                    host.addresses
                        .first()
                        .map_or_else(|| "-".to_owned(), |address| address.address.clone()),
                    host.cluster.clone().unwrap_or_else(|| "-".to_owned()),
                    k3s.and_then(|k3s| k3s.running_version.clone())
                        .unwrap_or_else(|| "-".to_owned()),
                    facts.map_or_else(|| "-".to_owned(), |facts| facts.agent_version.clone()),
                    facts.map_or_else(
                        || "never".to_owned(),
                        |facts| format!("{} old", age(facts.origin.observed_at)),
                    ),
                ]
            }),
        );
        for host in self
            .hosts
            .iter()
            .filter(|host| !host.state_reason.is_empty())
        {
            text.push_str(&format!("\n{}: {}\n", host.name, host.state_reason));
        }
        text
    }
}

impl HostShown {
    pub(crate) fn new(host: pb::Host) -> Self {
        Self { host: host.into() }
    }

    pub(crate) fn text(&self) -> String {
        let host = &self.host;
        let or_unknown =
            |text: &Option<String>| text.clone().unwrap_or_else(|| "unknown".to_owned());
        let mut rows = vec![
            ("name", host.name.clone()),
            ("state", host.state_words()),
            ("reason", host.state_reason.clone()),
            (
                "cluster",
                host.cluster.clone().unwrap_or_else(|| "none".to_owned()),
            ),
            ("role", host.cluster_role.clone().unwrap_or_default()),
            ("operation", host.operation_id.clone().unwrap_or_default()),
        ];
        rows.extend(host.addresses.iter().map(|address| {
            (
                "address",
                format!("{} ({})", address.address, address.source),
            )
        }));
        rows.push((
            "certificate",
            host.certificate_expires_at
                .map(|at| format!("ends {}", at.strftime("%Y-%m-%d %H:%M:%S UTC")))
                .unwrap_or_default(),
        ));
        match &host.facts {
            None => rows.push(("facts", "never told".to_owned())),
            Some(facts) => {
                rows.extend([
                    ("agent", facts.agent_version.clone()),
                    ("hostname", facts.hostname.clone()),
                    (
                        "system",
                        format!("{}, kernel {}, {}", facts.os, facts.kernel, facts.arch),
                    ),
                    ("systemd", or_unknown(&facts.systemd_state)),
                    ("memory", size(facts.memory_bytes)),
                    ("disk free", size(facts.disk_free_bytes)),
                    ("addresses", facts.addresses.join(", ")),
                    ("node address", or_unknown(&facts.node_ip)),
                    (
                        "clock",
                        match facts.clock_synchronised {
                            Some(true) => "synchronised",
                            Some(false) => "NOT synchronised",
                            None => "unknown whether it is synchronised",
                        }
                        .to_owned(),
                    ),
                ]);
                match &facts.k3s {
                    Some(k3s) if k3s.present => rows.push((
                        "k3s",
                        format!(
                            "{} {}, {}, unit {}",
                            k3s.role,
                            or_unknown(&k3s.running_version),
                            k3s.origin,
                            or_unknown(&k3s.unit_state)
                        ),
                    )),
                    _ => rows.push(("k3s", "not installed".to_owned())),
                }
                rows.extend(
                    facts
                        .unknown
                        .iter()
                        .map(|unknown| ("not known", unknown.clone())),
                );
                rows.push((
                    "told by",
                    format!(
                        "{}, {} ago",
                        facts.origin.source,
                        age(facts.origin.observed_at)
                    ),
                ));
            }
        }
        output::facts(rows)
    }
}

impl BroughtIn {
    pub(crate) fn new(
        host: pb::Host,
        machine: Option<String>,
        installed: Option<String>,
        joined: bool,
    ) -> Self {
        Self {
            joined,
            installed,
            machine,
            host: host.into(),
        }
    }

    pub(crate) fn text(&self) -> String {
        let (name, state) = (&self.host.name, self.host.state_words());
        if !self.joined {
            return format!("host '{name}' has joined already and is {state}: unchanged\n");
        }
        let installed = self.installed.as_ref().map_or_else(
            || "the agent was there".to_owned(),
            |version| format!("canasta-agent {version} was installed"),
        );
        let machine = self.machine.as_deref().unwrap_or("unknown");
        format!("host '{name}' has joined and is {state} ({machine}; {installed})\n")
    }
}

impl Joining {
    pub(crate) fn new(name: String, join: pb::JoinToken) -> Self {
        let command = format!(
            "canasta-agent join --controller {} --token {}",
            join.controller_address, join.token
        );
        Self {
            name,
            join: Join {
                controller_address: join.controller_address,
                token: join.token,
                expires_at: time(join.expires_at),
                command,
            },
        }
    }

    pub(crate) fn text(&self) -> String {
        let until = self.join.expires_at.map_or_else(
            || "in an hour".to_owned(),
            |at| format!("at {}", at.strftime("%H:%M:%S UTC")),
        );
        format!(
            "host '{}' is registered; run this on it, as root (the token is good for one use and ends {until}):\n\n  {}\n",
            self.name, self.join.command
        )
    }
}
