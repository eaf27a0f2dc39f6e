//! A network that is a struct.

use std::sync::Mutex;

use async_trait::async_trait;
use ipnet::{IpNet, Ipv4Net};

use super::locked;
use crate::network::rules::{PacketRules, Ruleset};
use crate::network::{Address, Family, Link, Network, NetworkError, Route, Scope};

/// What the network answers.
#[derive(Debug, Clone)]
pub struct NetworkState {
    /// All links.
    pub links: Vec<Link>,
    /// All addresses.
    pub addresses: Vec<Address>,
    /// Default routes.
    pub default_routes: Vec<Route>,
    /// Packet rules by tool.
    pub rules: PacketRules,
}

/// A network whose links and addresses a test sets. In the beginning: `lo`, and `eth0` with 192.0.2.10/24 and a router.
#[derive(Debug)]
pub struct FakeNetwork {
    state: Mutex<NetworkState>,
}

impl FakeNetwork {
    /// Changes what the network answers from now on.
    pub fn change(&self, change: impl FnOnce(&mut NetworkState)) {
        change(&mut locked(&self.state));
    }

    /// Gives `eth0` this address and no other.
    pub fn set_address(&self, net: IpNet) {
        self.change(|state| {
            state.addresses.retain(|address| address.link != "eth0");
            state.addresses.push(address("eth0", net, Scope::Global));
        });
    }

    fn state(&self) -> NetworkState {
        locked(&self.state).clone()
    }
}

impl Default for FakeNetwork {
    fn default() -> Self {
        let v4 = |a, b, c, d| std::net::Ipv4Addr::new(a, b, c, d);
        let missing = || Ruleset::Missing("not installed".to_owned());
        let state = NetworkState {
            links: vec![
                link(1, "lo", 65536, None),
                link(2, "eth0", 1500, Some("02:00:00:00:00:0a")),
            ],
            addresses: vec![
                address(
                    "lo",
                    IpNet::V4(Ipv4Net::new_assert(v4(127, 0, 0, 1), 8)),
                    Scope::Host,
                ),
                address(
                    "eth0",
                    IpNet::V4(Ipv4Net::new_assert(v4(192, 0, 2, 10), 24)),
                    Scope::Global,
                ),
            ],
            default_routes: vec![Route {
                gateway: Some(v4(192, 0, 2, 1).into()),
                link: "eth0".to_owned(),
                metric: 100,
                family: Family::V4,
                source: None,
            }],
            rules: PacketRules {
                iptables: missing(),
                ip6tables: missing(),
                nft: missing(),
            },
        };
        Self {
            state: Mutex::new(state),
        }
    }
}

fn link(index: u32, name: &str, mtu: u32, mac: Option<&str>) -> Link {
    Link {
        index,
        name: name.to_owned(),
        kind: None,
        mac: mac.map(str::to_owned),
        mtu,
        up: true,
        master: None,
    }
}

fn address(link: &str, net: IpNet, scope: Scope) -> Address {
    Address {
        link: link.to_owned(),
        net,
        scope,
        passing: false,
    }
}

#[async_trait]
impl Network for FakeNetwork {
    async fn links(&self) -> Result<Vec<Link>, NetworkError> {
        Ok(self.state().links)
    }

    async fn addresses(&self) -> Result<Vec<Address>, NetworkError> {
        Ok(self.state().addresses)
    }

    async fn default_routes(&self) -> Result<Vec<Route>, NetworkError> {
        Ok(self.state().default_routes)
    }

    async fn packet_rules(&self) -> PacketRules {
        self.state().rules
    }
}
