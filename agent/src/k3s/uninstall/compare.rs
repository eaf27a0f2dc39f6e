//! Compares the node with the picture from before the install, tells what is left, and forgets the record where nothing is.
//!
//! What couldn't be looked at counts as left: the record is what makes the k3s the agent's own, and without it a second run
//! would find a k3s of somebody else.
//!
//! Kernel settings that k3s changed are told and not set back: since the install, others may have come to rely on them, and
//! they go with the next boot.

use canasta_host::network::tables::Tables;
use canasta_host::snapshot::{self, Part, Snapshot};
use canasta_steps::{Done, StepError};

use super::files::{goes_when_empty, is_k3s_own};
use super::layout::Layout;
use super::network::{self, own_links, plan_of};
use super::{Work, mounts};
use crate::k3s::install::scope;
use crate::k3s::record::Kind;
use crate::k3s::{Error, paths};

/// Directories of network plugins, which k3s doesn't use and others may have made since.
const PLUGINS: [&str; 2] = ["/etc/cni", "/opt/cni"];

/// Where systemd names mounts after their paths, those of k3s begin so.
const MOUNT_UNITS: [&str; 4] = [
    "run-k3s-",
    "run-netns-cni",
    "var-lib-kubelet-pods-",
    "var-lib-kubelet-plugins-",
];

impl Work<'_> {
    pub(super) async fn compare(&self) -> Result<Done, StepError> {
        let before = self.before.as_ref();
        let Seen { now, left, unknown } = self.look().await?;
        let kept = self.kept().await?;
        let (shared, own): (Vec<_>, Vec<_>) =
            left.into_iter().partition(|left| self.is_shared(left));
        let is_finished = own.is_empty() && unknown.is_empty();
        let left = [own, shared, gone(before, &now)].concat();
        let is_clean = left.is_empty() && unknown.is_empty();
        let mut text = match left.as_slice() {
            [] if is_clean => "nothing left of k3s".to_owned(),
            [] => "nothing seen of k3s".to_owned(),
            left => format!("left of k3s: {}", left.join("; ")),
        };
        text.push_str(match before {
            Some(_) => ", compared with the node from before the install",
            None => " (no picture of the node from before the install was kept)",
        });
        if !unknown.is_empty() {
            text.push_str(&format!("; could not be read: {}", unknown.join(", ")));
        }
        if !kept.is_empty() {
            text.push_str(&format!("; yours, and kept: {}", kept.join(", ")));
        }
        let settings = settings(before, &now);
        if !settings.is_empty() {
            text.push_str(&format!("; kernel settings that stay until the next boot, since others may rely on them: {}", settings.join(", ")));
        }
        if is_finished {
            super::forget(self.host).await?;
        } else {
            text.push_str("; canasta-agent goes on to know this k3s as its own: mend what is named, then run the command again, and it finishes");
        }
        Ok(if is_clean {
            Done::changed(text)
        } else {
            Done::warning(text)
        })
    }

    /// Whether a path is a directory that k3s shares with others: it goes when it is empty, and whose things are in it stays
    /// theirs, however often an uninstall is run.
    fn is_shared(&self, path: &str) -> bool {
        goes_when_empty(path)
            || PLUGINS.contains(&path)
            || self
                .record
                .entry(path)
                .is_some_and(|entry| entry.kind == Kind::Directory)
    }

    /// What is there of k3s now, and what of it couldn't be looked at.
    pub(super) async fn found(&self) -> Result<(Vec<String>, Vec<String>), Error> {
        let Seen { left, unknown, .. } = self.look().await?;
        Ok((left, unknown))
    }

    async fn look(&self) -> Result<Seen, Error> {
        let now = snapshot::take(self.host, &scope()).await;
        let networks = network::networks(self.host).await?;
        let layout = match now.mounts.known() {
            Some(table) => Layout::look(self.host, table, &[]).await?,
            None => Layout::default(),
        };
        let before = self.before.as_ref();
        let mut unknown = unknown(before, &now);
        unknown.extend(self.unseen_paths().await);
        Ok(Seen {
            left: left(before, &now, &layout, &networks),
            unknown,
            now,
        })
    }

    /// Paths of the picture's scope that can't be looked at; the picture doesn't have them.
    async fn unseen_paths(&self) -> Vec<String> {
        let root = &self.host.root;
        let mut unseen = Vec::new();
        for path in scope().directories {
            if let Err(error) = root.exists(&path).await {
                unseen.push(super::unseen(&path, &error));
            }
        }
        if let Err(error) = root.list(paths::NETNS_DIR).await {
            unseen.push(super::unseen(paths::NETNS_DIR, &error));
        }
        unseen
    }
}

/// The node of now.
struct Seen {
    now: Snapshot,
    /// What of k3s is there.
    left: Vec<String>,
    /// What couldn't be looked at, with the reasons.
    unknown: Vec<String>,
}

/// What of the picture couldn't be looked at, so that something of k3s may be there unseen. Pure.
fn unknown(before: Option<&Snapshot>, now: &Snapshot) -> Vec<String> {
    let mut unknown: Vec<String> = [
        ("units", reason(&now.units)),
        ("processes", reason(&now.processes)),
        ("mounts", reason(&now.mounts)),
        ("links", reason(&now.links)),
    ]
    .into_iter()
    .filter_map(|(part, why)| Some(format!("{part}: {}", why?)))
    .collect();
    let unread = now.tables.iter();
    unknown.extend(
        unread
            .filter_map(|tables| network::unread(tables, before))
            .filter(|unread| !unread.never_was)
            .map(|unread| unread.words),
    );
    // Without any tool of its family nothing can be said of the rules that it read.
    let is_gone = |earlier: &&Tables| {
        let mut now = now.tables.iter();
        earlier.rules.text().is_some() && !now.any(|now| now.tool.family == earlier.tool.family)
    };
    let earlier = before.iter().flat_map(|before| &before.tables);
    unknown.extend(earlier.filter(is_gone).map(|earlier| {
        let name = &earlier.tool.name;
        format!("rules of {name}: {name} was there before the install and is not any more")
    }));
    unknown
}

fn reason<T>(part: &Part<T>) -> Option<&str> {
    match part {
        Part::Known(_) => None,
        Part::Unknown(why) => Some(why),
    }
}

/// What of k3s is there now and was not before. Pure.
fn left(
    before: Option<&Snapshot>,
    now: &Snapshot,
    layout: &Layout,
    networks: &[String],
) -> Vec<String> {
    let mut left = Vec::new();
    let earlier_units = before.and_then(|before| before.units.known());
    for unit in now.units.known().into_iter().flatten() {
        let was_there = earlier_units
            .into_iter()
            .flatten()
            .any(|known| known.name == unit.name);
        let is_own = unit.name == paths::SERVER_UNIT
            || unit.name == paths::AGENT_UNIT
            || MOUNT_UNITS.iter().any(|start| unit.name.starts_with(start));
        if is_own && !was_there {
            left.push(format!("unit {} ({})", unit.name, unit.active_state));
        }
    }
    left.extend(
        now.processes
            .known()
            .into_iter()
            .flatten()
            .map(|process| format!("process {process}")),
    );
    if let Some(table) = now.mounts.known() {
        left.extend(mounts::in_words(&mounts::sort(table, layout, before).own));
    }
    if let Some(links) = now.links.known() {
        let own = own_links(links, before);
        left.extend(own.into_iter().map(|link| format!("link {}", link.name)));
    }
    for tables in &now.tables {
        let plan = plan_of(tables, before, networks);
        let name = &tables.tool.name;
        left.extend(
            plan.chains
                .iter()
                .map(|chain| format!("{name} chain {chain}")),
        );
        left.extend(plan.rules.iter().map(|rule| format!("{name} rule {rule}")));
    }
    let is_new = |name: &&String| before.is_none_or(|before| !before.netns.contains(name));
    let netns = now.netns.iter().filter(|name| mounts::is_cni_netns(name));
    left.extend(
        netns
            .filter(is_new)
            .map(|name| format!("network namespace {name}")),
    );
    let earlier: &[String] = before.map_or(&[], |before| &before.directories);
    left.extend(
        now.directories
            .iter()
            .filter(|path| !earlier.contains(path) && !is_program_of_others(path))
            .cloned(),
    );
    left
}

/// What was there before and is gone, though it isn't k3s's. Pure.
fn gone(before: Option<&Snapshot>, now: &Snapshot) -> Vec<String> {
    let earlier: &[String] = before.map_or(&[], |before| &before.directories);
    earlier
        .iter()
        .filter(|path| !now.directories.contains(path) && !is_k3s_own(path))
        .map(|path| format!("{path} was there before and is gone"))
        .collect()
}

/// The agent's links under these names are gone by now: what has one is somebody's program.
fn is_program_of_others(path: &str) -> bool {
    paths::LINK_NAMES
        .iter()
        .any(|name| path == format!("{}/{name}", paths::BINARY_DIR))
}

/// Kernel settings that have another value than before.
fn settings(before: Option<&Snapshot>, now: &Snapshot) -> Vec<String> {
    let Some(before) = before else {
        return Vec::new();
    };
    now.sysctls
        .iter()
        .filter_map(|(name, value)| {
            let earlier = before.sysctls.get(name)?;
            (earlier != value).then(|| format!("{name}={value} (was {earlier})"))
        })
        .collect()
}
