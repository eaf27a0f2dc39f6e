//! The firewall's chains and rules, with the names and shapes of the recordings: those of a node, those of a pod, and
//! those of a pod's host ports. Only what is missing is added, so that a new start changes nothing.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

const NODE_V4: &str = include_str!("firewall/node.v4");
const NODE_V6: &str = include_str!("firewall/node.v6");
const POD: &str = include_str!("firewall/pod.v4");
const PORT: &str = include_str!("firewall/port.v4");

/// Rules in the form of `iptables-save`, without the kernel's own chains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) v4: String,
    pub(super) v6: String,
}

/// The rules of a node with this subnet, whose API server is at this address and port.
pub(super) fn node(subnet: &str, server: &str) -> Wanted {
    let address = server
        .rsplit_once(':')
        .map_or(server, |(address, _)| address);
    let endpoint = hash(&format!("default/kubernetes:httpstcp{server}"));
    Wanted {
        v4: NODE_V4
            .replace("@SUBNET@", subnet)
            .replace("@SERVER@", server)
            .replace("@ADDRESS@", address)
            .replace("@SEP@", &endpoint),
        v6: NODE_V6.to_owned(),
    }
}

/// A pod as the rules name it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pod<'a> {
    pub(super) uid: &'a str,
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    pub(super) address: &'a str,
    pub(super) sandbox: &'a str,
}

/// A port of the node that leads to a pod.
#[derive(Clone, Debug)]
pub(super) struct HostPort {
    pub(super) protocol: String,
    pub(super) port: u64,
    pub(super) target: u64,
}

/// The rules of a pod.
pub(super) fn pod(pod: Pod<'_>, subnet: &str, ports: &[HostPort]) -> Wanted {
    let mut v4 = POD
        .replace("@POD@", &hash(pod.uid))
        .replace("@IP@", pod.address)
        .replace("@NAMESPACE@", pod.namespace)
        .replace("@NAME@", pod.name);
    for port in ports {
        let rules = PORT
            .replace("@DN@", &short(pod.sandbox))
            .replace("@ID@", pod.sandbox)
            .replace("@SUBNET@", subnet)
            .replace("@PROTOCOL@", &port.protocol.to_lowercase())
            .replace("@PORT@", &port.port.to_string())
            .replace("@IP@", pod.address)
            .replace("@TARGET@", &port.target.to_string());
        v4.push_str(&rules);
    }
    Wanted {
        v4,
        v6: String::new(),
    }
}

/// The chains that are a pod's own.
pub(super) fn pod_chains(uid: &str, sandbox: &str) -> [String; 2] {
    [
        format!("KUBE-POD-FW-{}", hash(uid)),
        format!("CNI-DN-{}", short(sandbox)),
    ]
}

// The last rule of kube-router's chains accepts: a pod's rules come before it.
const BEFORE_LAST: [&str; 3] = [
    "KUBE-ROUTER-FORWARD",
    "KUBE-ROUTER-INPUT",
    "KUBE-ROUTER-OUTPUT",
];

/// The input for `iptables-restore --noflush` that adds what `there` (of `iptables-save`) lacks.
pub(super) fn missing(there: &str, wanted: &str) -> String {
    let there = tables(there);
    let none = Vec::new();
    let mut text = String::new();
    for (table, lines) in tables(wanted) {
        let known = there.get(table).unwrap_or(&none);
        let chains: Vec<&str> = known.iter().filter_map(|line| chain(line)).collect();
        let mut add: Vec<String> = Vec::new();
        for line in &lines {
            // Two ports of one pod share chains and rules.
            if add.iter().any(|added| added == line) {
                continue;
            }
            match chain(line) {
                Some(name) if !chains.contains(&name) => add.push((*line).to_owned()),
                Some(_) => {}
                None if known.contains(line) => {}
                None => add.push(positioned(line)),
            }
        }
        if !add.is_empty() {
            text.push_str(&format!("*{table}\n{}\nCOMMIT\n", add.join("\n")));
        }
    }
    text
}

fn positioned(rule: &str) -> String {
    let first = rule
        .strip_prefix("-A ")
        .filter(|rest| {
            rest.contains("KUBE-POD-FW-") && BEFORE_LAST.iter().any(|chain| rest.starts_with(chain))
        })
        .map(|rest| format!("-I {rest}"));
    first.unwrap_or_else(|| rule.to_owned())
}

/// The input that takes chains away, with every rule that leads to them.
pub(super) fn removal(there: &str, chains: &[String]) -> String {
    let mut text = String::new();
    for (table, lines) in tables(there) {
        let present: Vec<&String> = chains
            .iter()
            .filter(|name| lines.iter().any(|line| chain(line) == Some(name.as_str())))
            .collect();
        if present.is_empty() {
            continue;
        }
        let mut steps = Vec::new();
        for line in &lines {
            let leads = present
                .iter()
                .any(|name| line.ends_with(&format!("-j {name}")));
            if let Some(rest) = line.strip_prefix("-A ").filter(|_| leads) {
                steps.push(format!("-D {rest}"));
            }
        }
        steps.extend(present.iter().map(|name| format!("-F {name}")));
        steps.extend(present.iter().map(|name| format!("-X {name}")));
        text.push_str(&format!("*{table}\n{}\nCOMMIT\n", steps.join("\n")));
    }
    text
}

// The lines of each table: chains and rules.
fn tables(save: &str) -> BTreeMap<&str, Vec<&str>> {
    let mut tables: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut current = "";
    for line in save.lines() {
        if let Some(table) = line.strip_prefix('*') {
            current = table;
        } else if line.starts_with(':') || line.starts_with("-A ") {
            tables.entry(current).or_default().push(line);
        }
    }
    tables
}

fn chain(line: &str) -> Option<&str> {
    line.strip_prefix(':')?.split_whitespace().next()
}

/// Kubernetes' names of chains: sixteen letters of the base 32 of a SHA-256.
fn hash(text: &str) -> String {
    const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let digest = Sha256::digest(text.as_bytes());
    let bits = digest
        .iter()
        .take(10)
        .fold(0_u128, |bits, byte| bits << 8 | u128::from(*byte));
    (0..16)
        .rev()
        .map(|index| {
            let five = usize::try_from(bits >> (5 * index) & 31).unwrap_or_default();
            char::from(LETTERS[five])
        })
        .collect()
}

// portmap's names are hexadecimal.
fn short(sandbox: &str) -> String {
    sandbox.chars().take(21).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD_OF_TEST: Pod<'_> = Pod {
        uid: "1f3566e8",
        namespace: "dro",
        name: "plain",
        address: "10.42.1.57",
        sandbox: "6450a8d518190a5b83c708af9254d9946de4e579d40974cbb01fbaad65cf937f",
    };

    #[test]
    fn the_chain_of_the_api_server_has_the_recorded_name() {
        assert_eq!(
            hash("default/kubernetes:httpstcp10.77.0.11:6443"),
            "CUXDEMDB7WOVHTOT"
        );
        assert_eq!(hash("default/kubernetes:httpstcp"), "NPX46M4PTMTKRN6Y");
        let rules = node("10.42.1.0/24", "10.77.0.11:6443").v4;
        assert!(rules.contains("-A FORWARD -s 10.42.0.0/16 -j ACCEPT\n"));
        assert!(rules.contains("-A POSTROUTING ! -s 10.42.0.0/16 -d 10.42.1.0/24 -j RETURN\n"));
        assert!(rules.contains("KUBE-SEP-CUXDEMDB7WOVHTOT -s 10.77.0.11/32"));
        assert!(!rules.contains('@'));
        assert!(!pod(POD_OF_TEST, "10.42.1.0/24", &[]).v4.contains('@'));
    }

    #[test]
    fn only_what_is_missing_is_added() {
        let wanted = node("10.42.1.0/24", "10.77.0.11:6443");
        assert_eq!(missing(&wanted.v4, &wanted.v4), "");
        let all = missing("", &wanted.v4);
        assert_eq!(all.matches("COMMIT").count(), 3);
        let there = "*filter\n:INPUT ACCEPT [12:34]\n:KUBE-FIREWALL - [0:0]\n-A INPUT -j KUBE-FIREWALL\nCOMMIT\n";
        let some = missing(there, &wanted.v4);
        assert!(!some.contains("-A INPUT -j KUBE-FIREWALL\n"));
        assert!(!some.contains(":KUBE-FIREWALL"));
        assert!(some.contains(":KUBE-FORWARD - [0:0]\n"));
    }

    #[test]
    fn a_pod_comes_before_the_last_rule_and_goes_whole() {
        let port = HostPort {
            protocol: "TCP".into(),
            port: 8080,
            target: 80,
        };
        let wanted = pod(POD_OF_TEST, "10.42.1.0/24", &[port]);
        let added = missing("", &wanted.v4);
        assert!(added.contains("-I KUBE-ROUTER-FORWARD -s 10.42.1.57/32"));
        assert!(added.contains("-A CNI-DN-6450a8d518190a5b83c70 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.42.1.57:80"));
        assert!(!added.contains('@'));
        let chains = pod_chains(POD_OF_TEST.uid, POD_OF_TEST.sandbox);
        let node = node("10.42.1.0/24", "10.77.0.11:6443").v4;
        let removed = removal(&format!("{}{}", node, wanted.v4), &chains);
        assert_eq!(removed.matches("-X ").count(), 2);
        assert_eq!(removed.matches("-D KUBE-ROUTER-FORWARD").count(), 4);
        assert_eq!(removed.matches("-D CNI-HOSTPORT-DNAT").count(), 1);
        assert!(!removed.contains("CNI-HOSTPORT-SETMARK"));
        assert_eq!(removal(&node, &chains), "");
    }
}
