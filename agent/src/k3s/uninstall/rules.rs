//! Which packet rules are k3s's, as the lines that delete them. Pure.
//!
//! Chains are known by name, those of network plugins by the network that they are for, rules by leading into such a chain;
//! flannel's older versions put plain rules into the built-in chains, which are known by their exact form for the cluster's own
//! networks. What stood there before the install stays.

use canasta_host::network::tables::{Rule, Table};
use ipnet::IpNet;

use crate::k3s::paths;

/// Names of chains that only Kubernetes and flannel make.
const PREFIXES: [&str; 2] = ["KUBE-", "FLANNEL-"];
/// Names of chains of network plugins, which others than k3s use too.
const PLUGINS: &str = "CNI-";
/// How the plugins name the network that a rule is for, in its comment: k3s's.
const NETWORK: &str = "\"cbr0\"";
/// Chains that all networks share, each kind by the beginnings of the names. They go when no other network has a rule in them.
const SHARED: [&[&str]; 2] = [&["CNI-HOSTPORT-"], &["CNI-FORWARD", "CNI-ADMIN"]];
/// What is in a shared chain without any network: the chain, and where its rule leads.
const FIXED: [(&str, &str); 3] = [
    ("CNI-HOSTPORT-SETMARK", "MARK"),
    ("CNI-HOSTPORT-MASQ", "MASQUERADE"),
    ("CNI-FORWARD", "CNI-ADMIN"),
];
/// Packets to many at once aren't masqueraded by flannel.
const MULTICAST: [&str; 2] = ["224.0.0.0/4", "ff00::/8"];
/// What flannel says in its rules, where it says something.
const COMMENT: &str = "flanneld";

/// What is to be deleted of one set of tables.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Lines for iptables-restore; empty where there is nothing to delete.
    pub(super) lines: String,
    /// Chains that go.
    pub(super) chains: Vec<String>,
    /// Rules that go from chains that stay, as the tool prints them.
    pub(super) rules: Vec<String>,
}

/// Plans the deletion of what is k3s's in `now` and wasn't there `before`. `networks` are the cluster's.
pub(super) fn plan(now: &[Table], before: &[Table], networks: &[String]) -> Plan {
    let mut plan = Plan::default();
    for table in now {
        let earlier = before.iter().find(|earlier| earlier.name == table.name);
        plan.add(table, earlier, networks);
    }
    plan
}

impl Plan {
    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    fn add(&mut self, table: &Table, before: Option<&Table>, networks: &[String]) {
        let was_chain = |name: &str| {
            before.is_some_and(|before| before.chains.iter().any(|chain| chain.name == name))
        };
        let candidates: Vec<&str> = table
            .chains
            .iter()
            .filter(|chain| !chain.is_built_in)
            .map(|chain| chain.name.as_str())
            .filter(|name| !was_chain(name))
            .collect();
        let own = own_chains(table, &candidates);
        // Rules have no names: of several that look alike, as many stay as were there.
        let mut staying: Vec<&Rule> = before.iter().flat_map(|before| &before.rules).collect();
        let mut rules = Vec::new();
        for rule in &table.rules {
            let leads_in = rule.target().is_some_and(|target| own.contains(&target));
            if own.contains(&rule.chain.as_str()) || !(leads_in || is_flannels(rule, networks)) {
                continue;
            }
            match staying.iter().position(|known| *known == rule) {
                Some(at) if !leads_in => {
                    staying.swap_remove(at);
                }
                _ => rules.push(format!("{} {}", rule.chain, rule.spec)),
            }
        }
        if own.is_empty() && rules.is_empty() {
            return;
        }
        self.lines.push_str(&format!("*{}\n", table.name));
        for rule in &rules {
            self.lines.push_str(&format!("-D {rule}\n"));
        }
        // All are emptied before the first goes, for they lead into each other.
        for flag in ["-F", "-X"] {
            for chain in &own {
                self.lines.push_str(&format!("{flag} {chain}\n"));
            }
        }
        self.lines.push_str("COMMIT\n");
        self.chains.extend(own.into_iter().map(str::to_owned));
        self.rules.extend(rules);
    }
}

/// Which of these chains are k3s's.
fn own_chains<'a>(table: &Table, candidates: &[&'a str]) -> Vec<&'a str> {
    let shared = |kind: &[&str], name: &str| kind.iter().any(|start| name.starts_with(start));
    let is_own = |name: &str| {
        PREFIXES.iter().any(|prefix| name.starts_with(prefix))
            || name.starts_with(PLUGINS)
                && !SHARED.iter().any(|kind| shared(kind, name))
                && table.rules.iter().any(|rule| {
                    (rule.chain == name || rule.target() == Some(name))
                        && rule.words.iter().any(|word| word.contains(NETWORK))
                })
    };
    let (mut own, others): (Vec<&str>, Vec<&str>) =
        candidates.iter().partition(|name| is_own(name));
    for kind in SHARED {
        // Another network has a rule in one of them, or leads to one from a chain of its own.
        let is_used = table.rules.iter().any(|rule| {
            let target = rule.target().unwrap_or_default();
            let (from, to) = (rule.chain.as_str(), target);
            let is_fixed = FIXED.contains(&(from, to)) || own.contains(&from) || own.contains(&to);
            let is_of_plugin = from.starts_with(PLUGINS) && shared(kind, to);
            !is_fixed && (shared(kind, from) || is_of_plugin)
        });
        if !is_used {
            own.extend(others.iter().filter(|name| shared(kind, name)));
        }
    }
    own
}

/// Whether a rule in a built-in chain is one that flannel writes for one of these networks.
fn is_flannels(rule: &Rule, networks: &[String]) -> bool {
    let words = without_comment(&rule.words);
    let words: Vec<&str> = words.iter().map(|word| word.as_str()).collect();
    let own = |network: &str| networks.iter().any(|known| known == network);
    match (rule.chain.as_str(), words.as_slice()) {
        ("FORWARD", ["-s" | "-d", network, "-j", "ACCEPT"]) => own(network),
        ("POSTROUTING", ["-s", from, "-d", to, "-j", "RETURN"]) => own(from) && from == to,
        ("POSTROUTING", ["-s", from, "!", "-d", to, "-j", "MASQUERADE", rest @ ..]) => {
            own(from) && MULTICAST.contains(to) && is_random(rest)
        }
        // The part of the network that is this node's lies within it.
        ("POSTROUTING", ["!", "-s", from, "-d", part, "-j", "RETURN"]) => {
            own(from) && lies_within(part, from)
        }
        ("POSTROUTING", ["!", "-s", from, "-d", to, "-j", "MASQUERADE", rest @ ..]) => {
            own(from) && from == to && is_random(rest)
        }
        _ => false,
    }
}

fn is_random(rest: &[&str]) -> bool {
    matches!(rest, [] | ["--random-fully"])
}

/// Newer versions of flannel comment their rules.
fn without_comment(words: &[String]) -> Vec<&String> {
    let at = words.windows(4).position(|part| {
        part[0] == "-m"
            && part[1] == "comment"
            && part[2] == "--comment"
            && part[3].starts_with(COMMENT)
    });
    words
        .iter()
        .enumerate()
        .filter(|(index, _)| at.is_none_or(|at| !(at..at + 4).contains(index)))
        .map(|(_, word)| word)
        .collect()
}

fn lies_within(part: &str, whole: &str) -> bool {
    let (Ok(part), Ok(whole)) = (part.parse::<IpNet>(), whole.parse::<IpNet>()) else {
        return false;
    };
    whole.contains(&part)
}

/// The cluster's networks: as configured and as flannel was told. k3s's defaults count where none is configured: elsewhere they
/// may be somebody else's.
pub(super) fn networks(configured: &[String], subnet_env: &str) -> Vec<String> {
    let told = subnet_env.lines().filter_map(|line| {
        let (name, value) = line.split_once('=')?;
        matches!(name, "FLANNEL_NETWORK" | "FLANNEL_IPV6_NETWORK").then(|| value.trim().to_owned())
    });
    let mut networks: Vec<String> = configured.to_vec();
    networks.extend(told);
    if configured.is_empty() {
        networks.extend(paths::CLUSTER_NETWORKS.map(str::to_owned));
    }
    networks.retain(|network| network.parse::<IpNet>().is_ok());
    networks.sort();
    networks.dedup();
    networks
}

#[cfg(test)]
mod tests;
