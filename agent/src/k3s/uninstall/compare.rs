//! Compares the node with the picture from before the install, tells what is left, and forgets the record.
//!
//! Kernel settings that k3s changed are told and not set back: since the install, others may have come to rely on them, and
//! they go with the next boot.

use canasta_host::snapshot::{self, Snapshot};
use canasta_steps::{Done, StepError};

use super::files::is_k3s_own;
use super::network::{self, own_links, plan_of};
use super::{Work, mounts};
use crate::k3s::install::scope;
use crate::k3s::{Error, paths};

/// Where systemd names mounts after their paths, those of k3s begin so.
const MOUNT_UNITS: [&str; 4] = [
    "run-k3s-",
    "run-netns-cni",
    "var-lib-kubelet-pods-",
    "var-lib-kubelet-plugins-",
];

impl Work<'_> {
    pub(super) async fn compare(&self) -> Result<Done, StepError> {
        let now = snapshot::take(self.host, &scope()).await;
        let networks = network::networks(self.host).await?;
        let kept = self.kept().await?;
        let left = left(self.before.as_ref(), &now, &networks);
        let mut text = match left.as_slice() {
            [] => "nothing left of k3s".to_owned(),
            left => format!("left of k3s: {}", left.join("; ")),
        };
        text.push_str(match &self.before {
            Some(_) => ", compared with the node from before the install",
            None => " (no picture of the node from before the install was kept)",
        });
        if !kept.is_empty() {
            text.push_str(&format!("; yours, and kept: {}", kept.join(", ")));
        }
        let settings = settings(self.before.as_ref(), &now);
        if !settings.is_empty() {
            text.push_str(&format!("; kernel settings that stay until the next boot, since others may rely on them: {}", settings.join(", ")));
        }
        super::forget(self.host).await?;
        Ok(if left.is_empty() {
            Done::changed(text)
        } else {
            Done::warning(text)
        })
    }
}

/// What of k3s is there now and was not before. Pure.
pub(super) fn left(before: Option<&Snapshot>, now: &Snapshot, networks: &[String]) -> Vec<String> {
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
        left.extend(mounts::in_words(&mounts::sort(table, &[], before).own));
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
    left.extend(
        earlier
            .iter()
            .filter(|path| !now.directories.contains(path) && !is_k3s_own(path))
            .map(|path| format!("{path} was there before and is gone")),
    );
    left
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

impl Work<'_> {
    /// As [`left`], looked up now.
    pub(super) async fn found(&self) -> Result<Vec<String>, Error> {
        let now = snapshot::take(self.host, &scope()).await;
        let networks = network::networks(self.host).await?;
        Ok(left(self.before.as_ref(), &now, &networks))
    }
}
