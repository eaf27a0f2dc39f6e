//! Takes away the network of k3s: namespaces of pods, links and packet rules, each by its own name.

use std::path::PathBuf;

use canasta_host::network::rules::Ruleset;
use canasta_host::network::tables::{Tables, parse};
use canasta_host::network::{Family, Link};
use canasta_host::removal::Order;
use canasta_host::snapshot::Snapshot;
use canasta_steps::{Done, StepError};

use super::mounts::is_cni_netns;
use super::rules::{self, Plan};
use super::{Work, count, unseen};
use crate::k3s::{Error, config, paths};

/// How often the rules are read and deleted: other programs change them too.
const ROUNDS: usize = 3;

/// The bridge of the pods.
const BRIDGE: &str = "cni0";

/// Links of k3s, with the kind that they have.
const LINKS: [(&str, &str); 6] = [
    (BRIDGE, "bridge"),
    ("flannel.1", "vxlan"),
    ("flannel-v6.1", "vxlan"),
    ("flannel-wg", "wireguard"),
    ("flannel-wg-v6", "wireguard"),
    ("kube-ipvs0", "dummy"),
];

/// The links of k3s, what hangs on the bridge before the bridge. A link of such a name that is of another kind, or that was
/// there before the install, is somebody else's.
pub(super) fn own_links(links: &[Link], before: Option<&Snapshot>) -> Vec<Link> {
    let earlier = before.and_then(|before| before.links.known());
    let was_there = |link: &Link| {
        earlier
            .into_iter()
            .flatten()
            .any(|known| known.name == link.name && known.kind == link.kind)
    };
    let is_own = |link: &&Link| {
        !was_there(link)
            && LINKS
                .iter()
                .any(|(name, kind)| link.name == *name && link.kind.as_deref() == Some(*kind))
    };
    let named: Vec<Link> = links.iter().filter(is_own).cloned().collect();
    let has_bridge = named.iter().any(|link| link.name == BRIDGE);
    let mut own: Vec<Link> = links
        .iter()
        // Somebody may have put a card of the machine into the bridge.
        .filter(|link| link.kind.as_deref() == Some("veth"))
        .filter(|link| has_bridge && link.master.as_deref() == Some(BRIDGE) && !was_there(link))
        .cloned()
        .collect();
    own.extend(named);
    own
}

/// What is to be deleted of one set of tables, by the text of now and of before.
pub(super) fn plan_of(now: &Tables, before: Option<&Snapshot>, networks: &[String]) -> Plan {
    let earlier = before.and_then(|before| earlier(now, before));
    rules::plan(
        &parse(now.rules.text().unwrap_or_default()),
        &parse(earlier.unwrap_or_default()),
        networks,
    )
}

/// The text of the same tables before.
fn earlier<'a>(now: &Tables, before: &'a Snapshot) -> Option<&'a str> {
    rules_before(now, before).text()
}

/// The same tables before. An older picture has what the machine's own choice of tools told.
fn rules_before<'a>(now: &Tables, before: &'a Snapshot) -> &'a Ruleset {
    match before.tables.iter().find(|tables| tables.tool == now.tool) {
        Some(tables) => &tables.rules,
        None => match now.tool.family {
            Family::V4 => &before.rules.iptables,
            Family::V6 => &before.rules.ip6tables,
        },
    }
}

/// A set of tables that can't be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unread {
    /// Which, and why.
    pub(super) words: String,
    /// Whether it could be read before the install: so it should be readable now.
    was_read: bool,
    /// Whether its tool said no before the install already: no kernel has all kinds of tables.
    pub(super) never_was: bool,
}

/// Why a set of tables can't be read, where it can't.
pub(super) fn unread(now: &Tables, before: Option<&Snapshot>) -> Option<Unread> {
    let Ruleset::Missing(why) = &now.rules else {
        return None;
    };
    let told = |before: &Snapshot| before.tables.iter().any(|known| known.tool == now.tool);
    Some(Unread {
        words: format!("rules of {}: {why}", now.tool.name),
        was_read: before.is_some_and(|before| earlier(now, before).is_some()),
        never_was: before.is_some_and(|before| told(before) && earlier(now, before).is_none()),
    })
}

/// The networks of the cluster, as far as this node knows them.
pub(super) async fn networks(host: &canasta_host::Host) -> Result<Vec<String>, Error> {
    let configured = config::read(host).await?.cluster_cidrs;
    let told = host.root.read_text(paths::SUBNET_ENV).await?;
    Ok(rules::networks(&configured, &told.unwrap_or_default()))
}

/// Names of the network namespaces of pods.
pub(super) async fn own_netns(
    host: &canasta_host::Host,
    before: Option<&Snapshot>,
) -> Result<Vec<String>, Error> {
    let names = host.root.list(paths::NETNS_DIR).await?;
    let was_there = |name: &String| before.is_some_and(|before| before.netns.contains(name));
    Ok(names
        .into_iter()
        .filter(|name| is_cni_netns(name) && !was_there(name))
        .collect())
}

impl Work<'_> {
    pub(super) async fn network(&self) -> Result<Done, StepError> {
        let mut done = Vec::new();
        let netns = own_netns(self.host, self.before.as_ref()).await?;
        if !netns.is_empty() {
            let orders: Vec<Order> = netns
                .iter()
                .map(|name| Order::Remove(PathBuf::from(paths::NETNS_DIR).join(name)))
                .collect();
            self.remove(&orders, "NETNS_LEFT").await?;
            done.push(format!(
                "{} removed",
                count(netns.len(), "network namespace")
            ));
        }
        let links = self.links().await?;
        if !links.is_empty() {
            done.push(format!("links deleted: {}", links.join(", ")));
        }
        let (deleted, unread) = self.packet_rules().await?;
        done.extend(deleted);
        let is_changed = !done.is_empty();
        if !is_changed {
            done.push("no links and no packet rules of k3s are here".to_owned());
        }
        let is_seen = unread.iter().all(|unread| unread.never_was);
        done.extend(
            unread
                .into_iter()
                .map(|unread| format!("could not be read: {}", unread.words)),
        );
        let detail = done.join("; ");
        Ok(if !is_seen {
            Done::warning(detail)
        } else if is_changed {
            Done::changed(detail)
        } else {
            Done::unchanged(detail)
        })
    }

    /// Deletes the links; answers with their names.
    async fn links(&self) -> Result<Vec<String>, StepError> {
        let failed = |error| {
            StepError::from_source("NETWORK_FAILED", &error)
                .hint("look at `ip -d link` on the node, then run the command again")
        };
        let network = &self.host.network;
        let links = network.links().await.map_err(failed)?;
        let mut names = Vec::new();
        for link in own_links(&links, self.before.as_ref()) {
            network.delete_link(&link).await.map_err(failed)?;
            names.push(link.name);
        }
        Ok(names)
    }

    /// Deletes the rules; answers with what was done and with what couldn't be looked at. What could be before the install must
    /// be: the files that go next have k3s's own tools among them.
    async fn packet_rules(&self) -> Result<(Vec<String>, Vec<Unread>), StepError> {
        let network = &self.host.network;
        let programs = self.host.root.path(paths::BUNDLED_PROGRAMS);
        let networks = networks(self.host).await?;
        let mut done: Vec<String> = Vec::new();
        for round in 0..=ROUNDS {
            let (mut left, mut unread) = (Vec::new(), Vec::new());
            for tables in network.tables(&programs).await {
                if let Some(why) = self::unread(&tables, self.before.as_ref()) {
                    unread.push(why);
                    continue;
                }
                let plan = plan_of(&tables, self.before.as_ref(), &networks);
                if !plan.is_empty() {
                    left.push((tables.tool, plan));
                }
            }
            if left.is_empty() {
                return match unread.iter().find(|unread| unread.was_read) {
                    Some(lost) => Err(unreadable(lost)),
                    None => Ok((done, unread)),
                };
            }
            for (tool, plan) in left {
                match network.edit_tables(&tool, &plan.lines).await {
                    Ok(()) => done.push(format!(
                        "{}: {} and {} deleted",
                        tool.name,
                        count(plan.chains.len(), "chain"),
                        count(plan.rules.len(), "rule")
                    )),
                    // Another program changed a rule meanwhile: the next round reads them anew.
                    Err(error) if round < ROUNDS => {
                        tracing::info!("{}, trying again", self::unseen(&tool.name, &error));
                    }
                    Err(error) => {
                        return Err(StepError::from_source("RULES_LEFT", &error)
                            .subject(tool.name)
                            .hint("another firewall program may be changing rules all the time; look at `iptables-save` on the node, then run the command again"));
                    }
                }
            }
        }
        Err(StepError::new(
            "RULES_LEFT",
            "packet rules of k3s come back as they are deleted",
        )
        .hint("something on the node still writes them: look for a second Kubernetes (`ps -ef`), then run the command again"))
    }
}

fn unreadable(lost: &Unread) -> StepError {
    StepError::new(
        "RULES_UNREADABLE",
        format!(
            "packet rules that could be read before the install can't be read now, so k3s's may be among them: {}",
            lost.words
        ),
    )
    .hint("mend the tool on the node (run it by hand with `-save` at the end of its name), then run the command again")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str, kind: Option<&str>, master: Option<&str>) -> Link {
        Link {
            index,
            name: name.to_owned(),
            kind: kind.map(str::to_owned),
            mac: None,
            mtu: 1450,
            up: true,
            master: master.map(str::to_owned),
        }
    }

    #[test]
    fn links_are_known_by_name_and_kind_and_members_go_first() {
        let all = [
            link(1, "lo", None, None),
            link(2, "host0", Some("veth"), None),
            link(3, "flannel.1", Some("vxlan"), None),
            link(4, "cni0", Some("bridge"), None),
            link(5, "veth878bcb57", Some("veth"), Some("cni0")),
            link(6, "docker0", Some("bridge"), None),
            link(7, "veth1", Some("veth"), Some("docker0")),
            link(8, "flannel-wg", Some("dummy"), None),
            link(9, "eth1", None, Some("cni0")),
            link(10, "vlan7", Some("vlan"), Some("cni0")),
        ];
        let names = |links: &[Link]| -> Vec<String> {
            own_links(links, None)
                .into_iter()
                .map(|link| link.name)
                .collect()
        };
        assert_eq!(names(&all), ["veth878bcb57", "flannel.1", "cni0"]);
        // A bridge of that name that isn't one keeps its members.
        let other = [link(4, "cni0", Some("bond"), None), all[4].clone()];
        assert_eq!(names(&other), [""; 0]);
    }
}
