//! What each step of an install would do on this host, in words: the plan as `--dry-run` shows it. A pure function of the
//! plan and the facts; the steps themselves look again at what is there.

use canasta_proto::pb;

use super::plan::Planned;
use crate::artefacts::same_arch;
use crate::workflows::Details;
use crate::workflows::gather::{Gathered, has_program};

/// Says that a step finds its work done.
const UNCHANGED: &str = "unchanged";

/// What each step would do, by its id.
pub(super) fn details(planned: &Planned, known: &Gathered) -> Details {
    let facts = known.facts.k3s.clone().unwrap_or_default();
    let installed = has_program(&facts) && facts.origin() == pb::K3sOrigin::Installed;
    let node = Node {
        planned,
        known,
        facts,
        installed,
    };
    let (binary, config, unit) = (node.binary(), node.config(), node.unit());
    let changed = binary.is_some() || config.is_some() || unit.is_some();
    let start = node.start(changed);
    let waits = |until: &str| match &start {
        None => UNCHANGED.to_owned(),
        Some(_) => format!("until {until}"),
    };
    let first = |words: &str| {
        if installed {
            UNCHANGED.to_owned()
        } else {
            words.to_owned()
        }
    };
    let done = |change: Option<&String>| change.map_or(UNCHANGED, String::as_str).to_owned();
    Details::from([
        ("preflight", UNCHANGED.to_owned()),
        ("fetch-artefact", node.fetch()),
        (
            "push-artefact",
            match &binary {
                None => UNCHANGED.to_owned(),
                Some(_) => "what the node does not hold yet".to_owned(),
            },
        ),
        ("snapshot", first("once, for a later uninstall")),
        ("install-binary", done(binary.as_ref())),
        ("write-config", done(config.as_ref())),
        ("write-unit", done(unit.as_ref())),
        ("link-tools", first("where the names are free")),
        ("start-service", done(start.as_ref())),
        (
            "wait-api",
            waits("it says ready to a caller with credentials"),
        ),
        ("wait-node-ready", waits("the API says so")),
        ("record", node.record()),
    ])
}

/// The node under plan. Each method tells a change, or nothing where there is none.
struct Node<'a> {
    planned: &'a Planned,
    known: &'a Gathered,
    facts: pb::K3sFacts,
    /// A k3s of this fleet is there.
    installed: bool,
}

impl Node<'_> {
    /// The release, if the controller keeps it.
    fn kept(&self) -> Option<&pb::Artefact> {
        self.known.artefacts.iter().find(|artefact| {
            artefact.name == "k3s"
                && artefact.version == self.planned.k3s_version
                && same_arch(&artefact.arch, &self.planned.arch)
        })
    }

    fn fetch(&self) -> String {
        match self.kept() {
            Some(_) => UNCHANGED.to_owned(),
            None => "from the release source; the controller does not keep it yet".to_owned(),
        }
    }

    fn binary(&self) -> Option<String> {
        let (now, wanted) = (&self.facts.binary_version, &self.planned.k3s_version);
        if !self.installed || now.is_empty() {
            return Some(wanted.clone());
        }
        if now != wanted {
            return Some(format!("{now} -> {wanted}"));
        }
        let other = self
            .kept()
            .is_some_and(|kept| kept.sha256 != self.facts.binary_sha256);
        other.then(|| format!("{wanted} anew: the file there is not the one of the release"))
    }

    fn config(&self) -> Option<String> {
        let (facts, planned) = (&self.facts, self.planned);
        if !self.installed || facts.config_keys.is_empty() {
            return Some("written".to_owned());
        }
        let mut changes = Vec::new();
        for (key, now, wanted) in [
            ("node-name", &facts.node_name, &planned.node_name),
            ("node-ip", &facts.node_ip, &planned.node_ip),
        ] {
            if now != wanted {
                changes.push(format!("{key} {now} -> {wanted}"));
            }
        }
        if facts.tls_sans != planned.tls_sans {
            let missing = |from: &[String], of: &[String], sign: char| -> Vec<String> {
                let missing = of.iter().filter(|san| !from.contains(san));
                missing.map(|san| format!("{sign}{san}")).collect()
            };
            let mut sans = missing(&facts.tls_sans, &planned.tls_sans, '+');
            sans.extend(missing(&planned.tls_sans, &facts.tls_sans, '-'));
            if sans.is_empty() {
                sans.push("in another order".to_owned());
            }
            changes.push(format!("tls-san {}", sans.join(" ")));
        }
        (!changes.is_empty()).then(|| changes.join(", "))
    }

    fn unit(&self) -> Option<String> {
        let there = self.installed && !self.facts.unit.is_empty();
        (!there).then(|| "written".to_owned())
    }

    /// `changed`: binary, configuration or unit will be another one.
    fn start(&self, changed: bool) -> Option<String> {
        if !self.installed || self.facts.unit_active_state != "active" {
            return Some("started".to_owned());
        }
        let (now, wanted) = (&self.facts.running_version, &self.planned.k3s_version);
        if !now.is_empty() && now != wanted {
            return Some(format!("{now} -> {wanted}, one restart"));
        }
        changed.then(|| "one restart".to_owned())
    }

    fn record(&self) -> String {
        let planned = self.planned;
        let rows = self.known.cluster.as_ref().zip(self.known.node.as_ref());
        // What an install left that did not come to its end has no CA yet.
        let same = rows.is_some_and(|(cluster, node)| {
            !cluster.ca_hash.is_empty()
                && (&cluster.k3s_version, &cluster.public_ips)
                    == (&planned.k3s_version, &planned.public_ips)
                && (&node.node_name, &node.node_ip, &node.tls_sans)
                    == (&planned.node_name, &planned.node_ip, &planned.tls_sans)
        });
        if same {
            UNCHANGED.to_owned()
        } else {
            format!("with control plane {}", planned.host)
        }
    }
}
