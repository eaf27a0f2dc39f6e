//! What a preflight looks at. A part that couldn't be seen is empty and named in [`Observed::unseen`].

use std::collections::BTreeMap;
use std::error::Error;

use canasta_host::Host;
use canasta_host::machine::{DiskSpace, Facts, Listener};
use canasta_host::network::choose_node_ip;
use canasta_host::network::rules::PacketRules;
use canasta_host::presence::{self, Presence};

use crate::facts::with_causes;
use crate::k3s::paths;
use crate::k3s::traces::Traces;

/// The node, as far as an install of k3s is concerned.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// Hardware, kernel, distribution.
    pub facts: Option<Facts>,
    /// Room at k3s's data directory.
    pub disk: Option<DiskSpace>,
    /// Who listens where.
    pub listeners: Option<Vec<Listener>>,
    /// Kernel features: there, missing, or not known.
    pub kernel_features: BTreeMap<String, Option<bool>>,
    /// The address that the cluster would use, and its link. The outer one is empty when the network couldn't be asked.
    pub node_ip: Option<Option<(String, String)>>,
    /// k3s on this node.
    pub k3s: Option<Traces>,
    /// Docker and other distributions.
    pub presence: Option<Presence>,
    /// Packet rules, looked at only where Docker runs.
    pub packet_rules: Option<PacketRules>,
    /// What couldn't be looked at, with the reason.
    pub unseen: Vec<String>,
}

impl Observed {
    /// Looks at everything.
    pub async fn gather(host: &Host) -> Self {
        let mut seen = Self {
            kernel_features: host.machine.kernel_features().await,
            ..Self::default()
        };
        let facts = host.machine.facts().await;
        seen.facts = seen.keep("facts of the machine", facts);
        let disk = host
            .machine
            .disk_space(std::path::Path::new(paths::DATA_DIR))
            .await;
        seen.disk = seen.keep("free disk space", disk);
        let listeners = host.machine.listeners().await;
        seen.listeners = seen.keep("listening ports", listeners);
        let addresses = host.network.addresses().await;
        let routes = host.network.default_routes().await;
        if let (Some(addresses), Some(routes)) = (
            seen.keep("addresses", addresses),
            seen.keep("default routes", routes),
        ) {
            seen.node_ip =
                Some(choose_node_ip(&addresses, &routes).map(|(ip, link)| (ip.to_string(), link)));
        }
        let init_is_systemd = seen
            .facts
            .as_ref()
            .is_none_or(|facts| facts.init_is_systemd);
        if init_is_systemd {
            let traces = Traces::look(host).await;
            seen.k3s = seen.keep("k3s", traces);
            let presence = presence::presence(&host.root, host.systemd.as_ref()).await;
            seen.presence = seen.keep("Docker and other Kubernetes", presence);
        }
        if seen
            .presence
            .as_ref()
            .is_some_and(|presence| presence.docker.is_some())
        {
            seen.packet_rules = Some(host.network.packet_rules().await);
        }
        seen
    }

    fn keep<T, E: Error>(&mut self, what: &str, answer: Result<T, E>) -> Option<T> {
        answer
            .map_err(|error| self.unseen.push(format!("{what}: {}", with_causes(&error))))
            .ok()
    }
}
