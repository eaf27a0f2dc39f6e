//! The node's own network: flannel's link and its peers, the bridge of the pods, the firewall, and the settings of the
//! kernel. Each step looks first at what is there.

use super::flannel::{self, LINK, Peer, Table};
use super::{Host, HostError, ask, feed, firewall, run};
use crate::files;

const BRIDGE: &str = "cni0";

impl Host {
    /// Brings the overlay up for the node's subnet; answers the hardware address to publish.
    pub(crate) fn network_up(&self, subnet: &str, server: &str) -> Option<String> {
        for (name, value) in [
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv4/conf/all/forwarding", "1"),
            ("net/ipv4/conf/all/route_localnet", "1"),
        ] {
            let path = self.paths.root(&format!("proc/sys/{name}"));
            self.note(std::fs::write(&path, value).map_err(HostError::path("write", path)));
        }
        self.note(Self::firewall(&firewall::node(subnet, server)));
        self.note(self.overlay(subnet))
    }

    fn overlay(&self, subnet: &str) -> Result<String, HostError> {
        let found = ask("ip", &["-j", "-d", "link", "show", LINK]).unwrap_or_default();
        if !flannel::is_ours(&found[0], &self.address) {
            if found[0].is_object() {
                run("ip", &["link", "del", LINK])?;
            }
            let link = self.link.clone().or_else(|| self.own_link());
            let command = flannel::create(&flannel::random_mac(), &self.address, link.as_deref());
            run(&command[0], &command[1..])?;
        }
        run("ip", &["link", "set", LINK, "up"])?;
        Self::only_address(LINK, &format!("{}/32", flannel::network(subnet)), &[])?;
        let link = ask("ip", &["-j", "link", "show", LINK])?;
        let mac = link[0]["address"].as_str().unwrap_or_default().to_owned();
        Ok(mac)
    }

    // The link that has the node's address.
    fn own_link(&self) -> Option<String> {
        let links = ask("ip", &["-j", "-4", "addr", "show"]).ok()?;
        let links = links.as_array()?;
        let link = links.iter().find(|link| {
            let mut addresses = link["addr_info"].as_array().into_iter().flatten();
            addresses.any(|address| address["local"] == self.address)
        })?;
        link["ifname"].as_str().map(str::to_owned)
    }

    // Gives a link this address and no other.
    fn only_address(link: &str, address: &str, more: &[&str]) -> Result<(), HostError> {
        let shown = ask("ip", &["-j", "-4", "addr", "show", "dev", link])?;
        let addresses = shown[0]["addr_info"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let there: Vec<String> = addresses
            .iter()
            .map(|address| {
                let local = address["local"].as_str().unwrap_or_default();
                format!("{local}/{}", address["prefixlen"])
            })
            .collect();
        if there == [address] {
            return Ok(());
        }
        for old in &there {
            run("ip", &["addr", "del", old.as_str(), "dev", link])?;
        }
        let mut command = vec!["addr", "add", address, "dev", link];
        command.extend(more);
        run("ip", &command)?;
        Ok(())
    }

    /// Makes the overlay reach exactly these nodes.
    pub(crate) fn peers(&self, peers: &[Peer]) {
        let shown = || -> Result<Table, HostError> {
            let routes = ask("ip", &["-j", "route", "show", "dev", LINK])?;
            let neighbours = ask("ip", &["-j", "-4", "neigh", "show", "dev", LINK])?;
            let forwards = ask("bridge", &["-j", "fdb", "show", "dev", LINK])?;
            Ok(Table::read(&routes, &neighbours, &forwards))
        };
        let Some(table) = self.note(shown()) else {
            return;
        };
        for command in table.towards(peers) {
            self.note(run(&command[0], &command[1..]));
        }
    }

    /// Makes the bridge of the pods, which comes with the first of them.
    pub(super) fn bridge(subnet: &str) -> Result<(), HostError> {
        if ask("ip", &["-j", "link", "show", BRIDGE]).is_err() {
            let mac = flannel::random_mac();
            run(
                "ip",
                &[
                    "link", "add", BRIDGE, "address", &mac, "mtu", "1450", "type", "bridge",
                ],
            )?;
        }
        run("ip", &["link", "set", BRIDGE, "up"])?;
        let address = format!("{}/24", flannel::gateway(subnet));
        let broadcast = flannel::host(subnet, 255);
        Self::only_address(BRIDGE, &address, &["brd", &broadcast])
    }

    /// Plugs a namespace into the bridge.
    pub(super) fn plug(
        namespace: &str,
        veth: &str,
        subnet: &str,
        address: &str,
    ) -> Result<(), HostError> {
        if ask("ip", &["-j", "link", "show", veth]).is_ok() {
            return Ok(());
        }
        run(
            "ip",
            &[
                "link", "add", veth, "mtu", "1450", "type", "veth", "peer", "name", "eth0", "mtu",
                "1450", "netns", namespace,
            ],
        )?;
        run("ip", &["link", "set", veth, "master", BRIDGE, "up"])?;
        run(
            "ip",
            &["link", "set", veth, "type", "bridge_slave", "hairpin", "on"],
        )?;
        run("ip", &["-n", namespace, "link", "set", "lo", "up"])?;
        let broadcast = flannel::host(subnet, 255);
        let with_length = format!("{address}/24");
        run(
            "ip",
            &[
                "-n",
                namespace,
                "addr",
                "add",
                &with_length,
                "brd",
                &broadcast,
                "dev",
                "eth0",
            ],
        )?;
        run("ip", &["-n", namespace, "link", "set", "eth0", "up"])?;
        let gateway = flannel::gateway(subnet);
        run(
            "ip",
            &[
                "-n",
                namespace,
                "route",
                "add",
                "10.42.0.0/16",
                "via",
                &gateway,
            ],
        )?;
        run(
            "ip",
            &["-n", namespace, "route", "add", "default", "via", &gateway],
        )?;
        Ok(())
    }

    /// Adds the chains and rules that are missing.
    pub(super) fn firewall(wanted: &firewall::Wanted) -> Result<(), HostError> {
        for (family, rules) in [("iptables", &wanted.v4), ("ip6tables", &wanted.v6)] {
            let there = run(&format!("{family}-save"), &[] as &[&str])?;
            let missing = firewall::missing(&there, rules);
            if !missing.is_empty() {
                feed(&format!("{family}-restore"), &["--noflush"], &missing)?;
            }
        }
        Ok(())
    }

    /// Takes the chains and rules of one pod away.
    pub(super) fn firewall_without(uid: &str, sandbox: &str) -> Result<(), HostError> {
        let there = run("iptables-save", &[] as &[&str])?;
        let removal = firewall::removal(&there, &firewall::pod_chains(uid, sandbox));
        if !removal.is_empty() {
            feed("iptables-restore", &["--noflush"], &removal)?;
        }
        Ok(())
    }

    /// The node's subnet as flannel's file says, once its network is up.
    pub(super) fn subnet(&self) -> Option<String> {
        let lease = files::read(&self.paths.root("run/flannel/subnet.env")).ok()?;
        let subnet = lease
            .lines()
            .find_map(|line| line.strip_prefix("FLANNEL_SUBNET="))?;
        Some(subnet.replace(".1/24", ".0/24"))
    }
}
