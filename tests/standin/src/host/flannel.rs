//! flannel: the VXLAN link, and for every other node one route, one neighbour and one forwarding entry. What has to be
//! done is planned here, from what is there and what the cluster's Nodes say.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::net::local_mac;

/// The link's name.
pub(super) const LINK: &str = "flannel.1";

/// Another node, as its Node object describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    /// Its subnet, such as `10.42.1.0/24`.
    pub(crate) subnet: String,
    /// Its address outside of the overlay.
    pub(crate) address: String,
    /// The hardware address of its VXLAN link.
    pub(crate) mac: String,
}

impl Peer {
    /// The peer of a Node whose network is up.
    pub(crate) fn of(node: &Value) -> Option<Self> {
        let annotation = |name: &str| {
            node["metadata"]["annotations"][format!("flannel.alpha.coreos.com/{name}")].as_str()
        };
        let data: Value = serde_json::from_str(annotation("backend-data")?).ok()?;
        Some(Self {
            subnet: node["spec"]["podCIDR"].as_str()?.to_owned(),
            address: annotation("public-ip")?.to_owned(),
            mac: data["VtepMAC"].as_str()?.to_lowercase(),
        })
    }

    fn gateway(&self) -> String {
        network(&self.subnet).to_owned()
    }
}

/// `10.42.1.0` of `10.42.1.0/24`.
pub(super) fn network(subnet: &str) -> &str {
    subnet.split('/').next().unwrap_or(subnet)
}

/// The bridge's address in a subnet, `10.42.1.1` of `10.42.1.0/24`.
pub(super) fn gateway(subnet: &str) -> String {
    host(subnet, 1)
}

/// An address in a subnet by its last byte.
pub(super) fn host(subnet: &str, last: u8) -> String {
    let network = network(subnet);
    let three = network.rsplit_once('.').map_or(network, |(three, _)| three);
    format!("{three}.{last}")
}

/// The kernel's tables of the link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    /// Gateway by subnet.
    pub(super) routes: BTreeMap<String, String>,
    /// Hardware address by address.
    pub(super) neighbours: BTreeMap<String, String>,
    /// Address by hardware address.
    pub(super) forwards: BTreeMap<String, String>,
}

impl Table {
    /// Reads what `ip -j route`, `ip -j neigh` and `bridge -j fdb` print of the link.
    pub(super) fn read(routes: &Value, neighbours: &Value, forwards: &Value) -> Self {
        let pairs = |list: &Value, from: &str, to: &str| {
            let entries = list.as_array().into_iter().flatten();
            entries
                .filter_map(|entry| {
                    Some((
                        entry[from].as_str()?.to_owned(),
                        entry[to].as_str()?.to_owned(),
                    ))
                })
                .collect()
        };
        Self {
            routes: pairs(routes, "dst", "gateway"),
            neighbours: pairs(neighbours, "dst", "lladdr"),
            forwards: pairs(forwards, "mac", "dst"),
        }
    }

    fn of(peers: &[Peer]) -> Self {
        let mut table = Self::default();
        for peer in peers {
            table.routes.insert(peer.subnet.clone(), peer.gateway());
            table.neighbours.insert(peer.gateway(), peer.mac.clone());
            table
                .forwards
                .insert(peer.mac.clone(), peer.address.clone());
        }
        table
    }

    /// The commands that turn this table into that of the peers: first what goes, then what comes.
    pub(super) fn towards(&self, peers: &[Peer]) -> Vec<Vec<String>> {
        let wanted = Self::of(peers);
        let mut commands = Vec::new();
        for subnet in gone(&self.routes, &wanted.routes) {
            commands.push(words(&["ip", "route", "del", subnet, "dev", LINK]));
        }
        for address in gone(&self.neighbours, &wanted.neighbours) {
            commands.push(words(&["ip", "neigh", "del", address, "dev", LINK]));
        }
        for mac in gone(&self.forwards, &wanted.forwards) {
            let to = self.forwards.get(mac).map_or("", String::as_str);
            commands.push(words(&[
                "bridge", "fdb", "del", mac, "dev", LINK, "dst", to,
            ]));
        }
        for (mac, to) in new(&self.forwards, &wanted.forwards) {
            commands.push(words(&[
                "bridge",
                "fdb",
                "replace",
                mac,
                "dev",
                LINK,
                "dst",
                to,
                "self",
                "permanent",
            ]));
        }
        for (address, mac) in new(&self.neighbours, &wanted.neighbours) {
            commands.push(words(&[
                "ip",
                "neigh",
                "replace",
                address,
                "lladdr",
                mac,
                "dev",
                LINK,
                "nud",
                "permanent",
            ]));
        }
        for (subnet, via) in new(&self.routes, &wanted.routes) {
            commands.push(words(&[
                "ip", "route", "replace", subnet, "via", via, "dev", LINK, "onlink",
            ]));
        }
        commands
    }
}

type Map = BTreeMap<String, String>;

fn gone<'a>(old: &'a Map, wanted: &Map) -> Vec<&'a str> {
    old.iter()
        .filter(|(key, value)| wanted.get(*key) != Some(value))
        .map(|(key, _)| key.as_str())
        .collect()
}

fn new<'a>(old: &Map, wanted: &'a Map) -> Vec<(&'a str, &'a str)> {
    wanted
        .iter()
        .filter(|(key, value)| old.get(*key) != Some(value))
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect()
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// The command that makes the link.
pub(super) fn create(mac: &str, address: &str, link: Option<&str>) -> Vec<String> {
    let mut command = words(&[
        "ip",
        "link",
        "add",
        LINK,
        "address",
        mac,
        "mtu",
        "1450",
        "type",
        "vxlan",
        "id",
        "1",
        "local",
        address,
        "dstport",
        "8472",
        "nolearning",
    ]);
    if let Some(link) = link {
        command.extend(words(&["dev", link]));
    }
    command
}

/// Whether a link that is there, as `ip -j -d link` describes it, is the one that would be made.
pub(super) fn is_ours(link: &Value, address: &str) -> bool {
    let data = &link["linkinfo"]["info_data"];
    data["id"] == 1 && data["port"] == 8472 && data["local"] == address
}

/// A new hardware address, locally administered.
pub(super) fn random_mac() -> String {
    let bytes = *uuid::Uuid::new_v4().as_bytes();
    local_mac(&bytes)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn peer(number: u8) -> Peer {
        Peer {
            subnet: format!("10.42.{number}.0/24"),
            address: format!("10.77.0.1{number}"),
            mac: format!("8e:8f:e6:b7:9d:a{number}"),
        }
    }

    #[test]
    fn a_peer_comes_as_recorded_and_goes() {
        let commands = |table: &Table, peers: &[Peer]| -> Vec<String> {
            let commands = table.towards(peers);
            commands.iter().map(|words| words.join(" ")).collect()
        };
        let empty = Table::default();
        assert_eq!(
            commands(&empty, &[peer(1)]),
            [
                "bridge fdb replace 8e:8f:e6:b7:9d:a1 dev flannel.1 dst 10.77.0.11 self permanent",
                "ip neigh replace 10.42.1.0 lladdr 8e:8f:e6:b7:9d:a1 dev flannel.1 nud permanent",
                "ip route replace 10.42.1.0/24 via 10.42.1.0 dev flannel.1 onlink",
            ]
        );
        // As the tools print it.
        let table = Table::read(
            &json!([{"dst": "10.42.1.0/24", "gateway": "10.42.1.0", "flags": ["onlink"]}]),
            &json!([{"dst": "10.42.1.0", "lladdr": "8e:8f:e6:b7:9d:a1", "state": ["PERMANENT"]}]),
            &json!([{"mac": "8e:8f:e6:b7:9d:a1", "dst": "10.77.0.11", "flags": ["self"], "state": "permanent"}]),
        );
        assert_eq!(table, Table::of(&[peer(1)]));
        assert_eq!(commands(&table, &[peer(1)]), Vec::<String>::new());
        assert_eq!(
            commands(&table, &[]),
            [
                "ip route del 10.42.1.0/24 dev flannel.1",
                "ip neigh del 10.42.1.0 dev flannel.1",
                "bridge fdb del 8e:8f:e6:b7:9d:a1 dev flannel.1 dst 10.77.0.11",
            ]
        );
        // The same node with another subnet.
        let moved = Peer {
            subnet: "10.42.4.0/24".into(),
            ..peer(1)
        };
        assert_eq!(commands(&table, &[moved]).len(), 4);
    }

    #[test]
    fn a_node_is_a_peer_once_its_network_is_up() {
        let mut node = json!({"metadata": {"annotations": {
            "flannel.alpha.coreos.com/backend-data": "{\"VNI\":1,\"VtepMAC\":\"8e:8f:e6:b7:9d:a1\"}",
            "flannel.alpha.coreos.com/public-ip": "10.77.0.11"}}, "spec": {"podCIDR": "10.42.1.0/24"}});
        assert_eq!(Peer::of(&node), Some(peer(1)));
        node["spec"] = json!({});
        assert_eq!(Peer::of(&node), None);
    }

    #[test]
    fn the_link_is_the_recorded_one() {
        let link = json!({"linkinfo": {"info_kind": "vxlan", "info_data": {"id": 1, "local": "10.77.0.12",
            "port": 8472, "learning": false}}});
        assert!(is_ours(&link, "10.77.0.12"));
        assert!(!is_ours(&link, "10.77.0.13"));
        let command = create("8e:8f:e6:b7:9d:a2", "10.77.0.12", Some("host0")).join(" ");
        assert_eq!(
            command,
            "ip link add flannel.1 address 8e:8f:e6:b7:9d:a2 mtu 1450 type vxlan id 1 local 10.77.0.12 dstport 8472 \
             nolearning dev host0"
        );
        assert_eq!(gateway("10.42.1.0/24"), "10.42.1.1");
    }
}
