//! The facts of this node, looked up when they are asked for.
//!
//! The API makes one [`Collector`] and asks it for `GetFacts` and `Preflight`. What can't be found out is named in
//! `unknown` with the reason, and never guessed. The binary of k3s is hashed and run only when it has changed, so a question
//! takes a few milliseconds.

use canasta_host::Host;
use canasta_host::network::{NetworkError, Scope, choose_node_ip};
use canasta_proto::pb;

use crate::k3s::paths;
use crate::k3s::traces::Traces;

pub mod k3s;

use k3s::{BinaryCache, look};

/// Gathers facts, and remembers what is slow to find out.
#[derive(Debug)]
pub struct Collector {
    host: Host,
    agent_version: String,
    binary: BinaryCache,
}

impl Collector {
    /// For a machine and the version of this program.
    pub fn new(host: Host, agent_version: impl Into<String>) -> Self {
        Self {
            host,
            agent_version: agent_version.into(),
            binary: BinaryCache::default(),
        }
    }

    /// Looks now.
    pub async fn collect(&self) -> pb::NodeFacts {
        let mut facts = pb::NodeFacts {
            observed_at: Some(self.host.machine.now().into()),
            agent_version: self.agent_version.clone(),
            ..pb::NodeFacts::default()
        };
        // Most of the time goes in waiting for systemd, so what needs no systemd is looked up meanwhile.
        let here = async {
            self.machine(&mut facts).await;
            self.network(&mut facts).await;
        };
        let state = self.host.systemd.system_state();
        let ((), state, sight) = tokio::join!(here, state, self.k3s());
        match state {
            Ok(state) => facts.systemd_state = state,
            Err(error) => facts
                .unknown
                .push(format!("state of systemd: {}", with_causes(&error))),
        }
        match sight {
            Ok(sight) => {
                facts.k3s = Some(sight.k3s);
                facts.unknown.extend(sight.unknown);
            }
            Err(error) => facts.unknown.push(format!("k3s: {}", with_causes(&error))),
        }
        facts
    }

    async fn k3s(&self) -> Result<k3s::Sight, crate::k3s::Error> {
        let traces = Traces::look(&self.host).await?;
        Ok(look(&self.host, &traces, &self.binary).await)
    }

    async fn machine(&self, facts: &mut pb::NodeFacts) {
        let machine = &self.host.machine;
        match machine.facts().await {
            Ok(found) => {
                facts.hostname = found.hostname;
                facts.os = found.os.pretty_name;
                facts.kernel = found.kernel;
                facts.arch = found.arch.to_string();
                facts.boot_id = found.boot_id.unwrap_or_default();
                facts.machine_id = found.machine_id.unwrap_or_default();
                facts.memory_bytes = found.memory_total;
            }
            Err(error) => facts
                .unknown
                .push(format!("machine: {}", with_causes(&error))),
        }
        match machine.vitals().await {
            Ok(vitals) => facts.uptime_seconds = vitals.uptime.as_secs(),
            Err(error) => facts
                .unknown
                .push(format!("uptime: {}", with_causes(&error))),
        }
        match machine
            .disk_space(std::path::Path::new(paths::DATA_DIR))
            .await
        {
            Ok(space) => facts.disk_free_bytes = space.free,
            Err(error) => facts
                .unknown
                .push(format!("free disk: {}", with_causes(&error))),
        }
        facts.clock_synchronised = machine.clock_synchronized().await;
    }

    async fn network(&self, facts: &mut pb::NodeFacts) {
        match network(&self.host).await {
            Ok(found) => {
                facts.addresses = found.addresses;
                (facts.node_ip, facts.node_ip_link) = found.node_ip.unwrap_or_default();
            }
            Err(error) => facts
                .unknown
                .push(format!("network: {}", with_causes(&error))),
        }
    }
}

/// The node's addresses, and the one that a cluster would use with its link.
struct NetworkFacts {
    addresses: Vec<String>,
    node_ip: Option<(String, String)>,
}

async fn network(host: &Host) -> Result<NetworkFacts, NetworkError> {
    let addresses = host.network.addresses().await?;
    let routes = host.network.default_routes().await?;
    Ok(NetworkFacts {
        node_ip: choose_node_ip(&addresses, &routes).map(|(ip, link)| (ip.to_string(), link)),
        addresses: addresses
            .iter()
            .filter(|address| address.scope != Scope::Host && !address.ip().is_loopback())
            .map(|address| address.net.to_string())
            .collect(),
    })
}

/// An error with its causes on one line.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests;
