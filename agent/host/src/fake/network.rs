//! A network that is a struct.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Mutex;

use async_trait::async_trait;
use ipnet::{IpNet, Ipv4Net};

use super::locked;
use crate::network::rules::{PacketRules, Ruleset};
use crate::network::tables::{Tables, Tool};
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

    /// Whether one of the links has this address.
    pub fn has(&self, ip: IpAddr) -> bool {
        let state = locked(&self.state);
        state.addresses.iter().any(|address| address.ip() == ip)
    }

    fn state(&self) -> NetworkState {
        locked(&self.state).clone()
    }
}

impl Default for FakeNetwork {
    fn default() -> Self {
        let v4 = |a, b, c, d| std::net::Ipv4Addr::new(a, b, c, d);
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
                iptables: not_installed(),
                ip6tables: not_installed(),
                nft: not_installed(),
            },
        };
        Self {
            state: Mutex::new(state),
        }
    }
}

/// A tool that isn't there, other than one that says no.
fn not_installed() -> Ruleset {
    Ruleset::Missing("not installed".to_owned())
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

    async fn delete_link(&self, link: &Link) -> Result<(), NetworkError> {
        self.change(|state| {
            state
                .links
                .retain(|known| (known.index, &known.name) != (link.index, &link.name));
            state.addresses.retain(|address| address.link != link.name);
            for other in &mut state.links {
                if other.master.as_ref() == Some(&link.name) {
                    other.master = None;
                }
            }
        });
        Ok(())
    }

    async fn tables(&self, _own_programs: &Path) -> Vec<Tables> {
        let rules = self.state().rules;
        let known = [
            ("iptables", Family::V4, rules.iptables),
            ("ip6tables", Family::V6, rules.ip6tables),
        ];
        let tables = known.into_iter().map(|(name, family, rules)| Tables {
            tool: Tool {
                name: name.to_owned(),
                family,
                restore: format!("{name}-restore"),
            },
            rules,
        });
        tables
            .filter(|tables| tables.rules != not_installed())
            .collect()
    }

    async fn edit_tables(&self, tool: &Tool, lines: &str) -> Result<(), NetworkError> {
        self.change(|state| {
            let rules = match tool.family {
                Family::V4 => &mut state.rules.iptables,
                Family::V6 => &mut state.rules.ip6tables,
            };
            if let Ruleset::Text(text) = rules {
                *text = edited(text, lines);
            }
        });
        Ok(())
    }
}

/// What iptables-restore makes of a table's text: rules are deleted (`-D`), chains emptied (`-F`) and deleted (`-X`).
fn edited(text: &str, lines: &str) -> String {
    let mut kept: Vec<(String, String)> = Vec::new();
    let mut table = String::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            name.clone_into(&mut table);
        }
        kept.push((table.clone(), line.to_owned()));
    }
    for line in lines.lines() {
        if let Some(name) = line.strip_prefix('*') {
            name.clone_into(&mut table);
        } else if let Some(rule) = line.strip_prefix("-D ") {
            let rule = format!("-A {rule}");
            let at = kept
                .iter()
                .position(|kept| *kept == (table.clone(), rule.clone()));
            kept.remove(at.unwrap_or_else(|| panic!("no such rule in {table}: {rule}")));
        } else if let Some(chain) = line.strip_prefix("-F ") {
            let start = format!("-A {chain} ");
            kept.retain(|(own, kept)| *own != table || !kept.starts_with(&start));
        } else if let Some(chain) = line.strip_prefix("-X ") {
            let used = |kept: &str| kept.ends_with(&format!("-j {chain}"));
            assert!(
                !kept.iter().any(|(own, kept)| *own == table && used(kept)),
                "{chain} is in use"
            );
            let start = format!(":{chain} ");
            kept.retain(|(own, kept)| *own != table || !kept.starts_with(&start));
        }
    }
    kept.into_iter().map(|(_, line)| line + "\n").collect()
}
