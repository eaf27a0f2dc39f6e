//! Links, addresses and routes of the machine, its packet rules, and the choice of the address that a node is known by.
//!
//! [`netlink::Netlink`] asks the kernel; with the feature `fake`, `fake::FakeNetwork` holds settable answers.

use std::fmt::Debug;
use std::net::IpAddr;

use async_trait::async_trait;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub mod choice;
pub mod netlink;
pub mod rules;
pub mod tables;

pub use choice::choose_node_ip;

/// The kernel didn't tell about its network.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// No netlink socket.
    #[error("failed to open a netlink socket")]
    Socket(#[source] std::io::Error),
    /// A link can't be taken away.
    #[error("failed to delete the link {name}")]
    Delete {
        /// Its name.
        name: String,
        /// The answer.
        #[source]
        source: Box<rtnetlink::Error>,
    },
    /// Packet rules weren't changed.
    #[error("failed to change the packet rules with {program}")]
    Rules {
        /// The program that should have.
        program: String,
        /// What came of it.
        #[source]
        source: crate::command::Error,
    },
    /// A question was refused.
    #[error("failed to ask the kernel for its {what}")]
    Query {
        /// `links`, `addresses` or `routes`.
        what: &'static str,
        /// The answer. Boxed because it carries the whole message.
        #[source]
        source: Box<rtnetlink::Error>,
    },
    /// The kernel took too long.
    #[error("failed to ask the kernel for its {what} within {seconds} s")]
    TimedOut {
        /// `links`, `addresses` or `routes`.
        what: &'static str,
        /// How long it was waited for.
        seconds: u64,
    },
}

/// Address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub fn of(address: &IpAddr) -> Self {
        if address.is_ipv4() {
            Self::V4
        } else {
            Self::V6
        }
    }
}

/// A network link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The kernel's number for it.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Kind of a virtual link (`bridge`, `vxlan`, `veth`, `wireguard`); `None` for hardware and loopback.
    pub kind: Option<String>,
    /// Hardware address as `aa:bb:cc:dd:ee:ff`; `None` where the link has none.
    pub mac: Option<String>,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// Whether it is switched on.
    pub up: bool,
    /// The bridge or bond that it belongs to.
    pub master: Option<String>,
}

/// How far an address is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Everywhere (private networks and unique local addresses too).
    Global,
    /// This site; obsolete.
    Site,
    /// This link only.
    Link,
    /// This machine only.
    Host,
    /// Something newer.
    Other,
}

/// An address of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// Name of the link that has it.
    pub link: String,
    /// The address with the length of its network's prefix.
    pub net: IpNet,
    /// How far it is valid.
    pub scope: Scope,
    /// Whether it changes by itself (an IPv6 privacy address) or isn't usable yet or any more (tentative, deprecated).
    pub passing: bool,
}

impl Address {
    /// The address without its prefix length.
    pub fn ip(&self) -> IpAddr {
        self.net.addr()
    }

    /// IPv4 or IPv6.
    pub fn family(&self) -> Family {
        Family::of(&self.ip())
    }
}

/// A default route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The router; `None` for a link that needs none.
    pub gateway: Option<IpAddr>,
    /// Name of the link that it leads over.
    pub link: String,
    /// Lower wins.
    pub metric: u32,
    /// IPv4 or IPv6.
    pub family: Family,
    /// The address that the route wants packets to come from, where it names one.
    pub source: Option<IpAddr>,
}

/// The network as the kernel has it.
#[async_trait]
pub trait Network: Send + Sync + Debug {
    /// All links.
    async fn links(&self) -> Result<Vec<Link>, NetworkError>;

    /// All addresses of all links, each link's primary address first.
    async fn addresses(&self) -> Result<Vec<Address>, NetworkError>;

    /// The default routes of the main table.
    async fn default_routes(&self) -> Result<Vec<Route>, NetworkError>;

    /// The packet rules as text, by each tool that tells them.
    async fn packet_rules(&self) -> rules::PacketRules;

    /// Deletes a link, known by number and name. One that is gone is no error.
    async fn delete_link(&self, link: &Link) -> Result<(), NetworkError>;

    /// The rules of iptables and ip6tables by each kind of tables that the kernel may have: those of nftables and the old ones.
    /// `own_programs` is a directory in which the tools are looked for too where the machine has none.
    async fn tables(&self, own_programs: &std::path::Path) -> Vec<tables::Tables>;

    /// Changes rules by lines as `iptables-restore --noflush` takes them, all or none.
    async fn edit_tables(&self, tool: &tables::Tool, lines: &str) -> Result<(), NetworkError>;
}
