//! Removes files: what this agent wrote, and what belongs to k3s by its documentation. The binary goes last, so that a node whose
//! uninstall was cut short still shows that it has k3s.

use std::path::{Path, PathBuf};

use canasta_host::removal::{Order, Report};
use canasta_steps::{Done, Reporter, StepError};

use super::guard::holds_only;
use super::layout::Place;
use super::processes::groups_count;
use super::{Work, count, data, mounts};
use crate::k3s::record::Kind;
use crate::k3s::{Error, paths};

/// Trees that k3s makes and nobody else.
const TREES: [&str; 4] = [
    paths::RUN_DIR,
    paths::FLANNEL_DIR,
    paths::NODE_DIR,
    paths::DATA_DIR,
];

/// Trees that every Kubernetes makes: k3s's where it is the only one, or where it made them.
const OF_ANY_KUBERNETES: [&str; 3] = [paths::KUBELET_DIR, paths::POD_LOGS, paths::RUNC_DIR];

/// What flannel and its plugins keep in [`paths::CNI_DIR`], which other programs use too.
const OF_FLANNEL: [&str; 2] = ["/var/lib/cni/networks/cbr0", "/var/lib/cni/flannel"];

/// Directories that k3s shares with others, inner before outer: they go when nothing is in them and they weren't there before.
const SHARED: [&str; 9] = [
    paths::CONTAINER_LOGS,
    paths::SHIM_SOCKETS,
    "/run/containerd/runc",
    "/run/containerd",
    paths::NETNS_DIR,
    paths::CONFIG_DROP_INS,
    paths::CONFIG_DIR,
    "/etc/rancher",
    "/var/lib/rancher",
];

/// Where the machine tells which sockets are in use.
const SOCKETS: &str = "/proc/net/unix";

/// Whether a path may go although it was there before the install.
pub(super) fn is_k3s_own(path: &str) -> bool {
    TREES
        .iter()
        .chain(&OF_ANY_KUBERNETES)
        .any(|tree| Path::new(path).starts_with(tree))
}

/// Whether a directory is one that k3s shares with others, and goes only when nothing is in it.
pub(super) fn goes_when_empty(path: &str) -> bool {
    SHARED.contains(&path)
}

impl Work<'_> {
    pub(super) async fn files(&self, reporter: &Reporter) -> Result<Done, StepError> {
        let mounted = self.sorted_mounts(&[]).await?.own;
        if let Some(first) = mounted.first() {
            return Err(StepError::new(
                "MOUNTS_LEFT",
                format!(
                    "something of k3s is still mounted: {}",
                    mounts::in_words(&mounted).join(", ")
                ),
            )
            .subject(first.point.display().to_string())
            .hint("run the command again: it unmounts that first"));
        }
        reporter.message("removing the files of k3s").await;
        // Data that the task names may lie outside of k3s's own directories, and takes its time to go. What appears beside it
        // meanwhile is not named, so it is looked once more before the directories go with all that is in them.
        // Each time in the same breath as the removal, and where that happens: what the agent sees may be something else.
        // Where nothing goes by itself, there is nothing to look for.
        let table = canasta_host::mounts::read(&self.host.root).await;
        let table = table.map_err(Error::from)?;
        let mut places = Place::all(self.host, &table, &self.told).await?;
        places.retain(|place| place.can_be_looked_into() && !place.only_volumes);
        let places: Vec<String> = places.into_iter().map(|place| place.path).collect();
        let discarded = self.remove_volumes(&places).await?;
        self.guard(true).await?;
        let mut orders: Vec<Order> = places.iter().map(|place| holds_only(place, &[])).collect();
        orders.extend(self.orders().await?);
        let report = self.remove(&orders, "FILES_LEFT").await?;
        let removed = usize::try_from(discarded.removed + report.removed).unwrap_or(usize::MAX);
        // Also where nothing was left to remove: an agent that was killed after it removed the unit files hasn't told systemd,
        // which would go on to show a unit of k3s that nobody owns.
        let systemd = &self.host.systemd;
        systemd.daemon_reload().await.map_err(Error::from)?;
        let mut last = Vec::new();
        if self.record.entry(paths::BINARY).is_some() {
            last.push(Order::Remove(paths::BINARY.into()));
        }
        let binary = self.remove(&last, "FILES_LEFT").await?;
        let mut done = Vec::new();
        let total = removed + usize::try_from(binary.removed).unwrap_or(usize::MAX);
        done.push(match total {
            0 => "no files of k3s are here".to_owned(),
            total => format!("{} removed", count(total, "file")),
        });
        let kept = self.kept().await?;
        if !kept.is_empty() {
            done.push(format!(
                "left, because canasta-agent did not write it: {}",
                kept.join(", ")
            ));
        }
        Ok(if total == 0 {
            Done::unchanged(done.join("; "))
        } else {
            Done::changed(done.join("; "))
        })
    }

    /// Removes the volumes that the task names.
    async fn remove_volumes(&self, places: &[String]) -> Result<Report, StepError> {
        if self.discard.is_empty() {
            return Ok(Report::default());
        }
        let looks = places.iter().map(|place| holds_only(place, self.discard));
        let removals = self.discard.iter().map(|path| Order::Remove(path.into()));
        let orders: Vec<Order> = looks.chain(removals).collect();
        self.remove(&orders, "FILES_LEFT").await
    }

    /// Everything but the binary and what the task names, in order.
    async fn orders(&self) -> Result<Vec<Order>, StepError> {
        let root = &self.host.root;
        let mut orders: Vec<Order> = Vec::new();
        let is_alone = groups_count(self.host).await;
        let of_any = OF_ANY_KUBERNETES
            .iter()
            .filter(|tree| is_alone || !self.was_there(tree));
        let of_cni: &[&str] = if self.was_there(paths::CNI_DIR) {
            &OF_FLANNEL
        } else {
            &[paths::CNI_DIR]
        };
        let trees = of_any.chain(of_cni).chain(&TREES);
        orders.extend(trees.map(|tree| Order::Remove(tree.into())));
        orders.push(Order::Remove(paths::KUBECONFIG.into()));
        orders.extend(self.dead_links().await?);
        orders.extend(self.dead_sockets().await?);
        for entry in &self.record.owned {
            let path = PathBuf::from(&entry.path);
            let is_ours = match entry.kind {
                Kind::File | Kind::Secret => entry.path != paths::BINARY,
                // Somebody may have put something of his own in its place.
                Kind::Link => root
                    .is_symlink_to(&entry.path, paths::LINK_TARGET)
                    .await
                    .map_err(Error::from)?,
                Kind::Directory => false,
            };
            if is_ours {
                orders.push(Order::Remove(path));
            }
        }
        for name in root.list(paths::BINARY_DIR).await.map_err(Error::from)? {
            if name.starts_with(paths::STAGED_PREFIX) {
                orders.push(Order::Remove(Path::new(paths::BINARY_DIR).join(name)));
            }
        }
        // Inner directories were recorded after the outer ones.
        let own_directories = self.record.owned.iter().rev();
        orders.extend(
            own_directories
                .filter(|entry| entry.kind == Kind::Directory)
                .map(|entry| Order::RemoveEmpty(PathBuf::from(&entry.path))),
        );
        orders.extend(
            SHARED
                .iter()
                .filter(|directory| !self.was_there(directory))
                .map(|directory| Order::RemoveEmpty(directory.into())),
        );
        Ok(orders)
    }

    /// Whether a path of the picture's scope was there before the install.
    fn was_there(&self, path: &str) -> bool {
        self.before
            .as_ref()
            .is_some_and(|before| before.directories.iter().any(|known| known == path))
    }

    /// Links to logs of pods: they are dead once the logs are gone.
    async fn dead_links(&self) -> Result<Vec<Order>, Error> {
        let root = &self.host.root;
        let mut dead = Vec::new();
        for name in root.list(paths::CONTAINER_LOGS).await? {
            let path = Path::new(paths::CONTAINER_LOGS).join(name);
            let target = tokio::fs::read_link(root.path(&path)).await;
            if target.is_ok_and(|target| target.starts_with(paths::POD_LOGS)) {
                dead.push(Order::Remove(path));
            }
        }
        Ok(dead)
    }

    /// Sockets of shims that have ended. Another containerd has its own in the same directory, and those are in use.
    async fn dead_sockets(&self) -> Result<Vec<Order>, Error> {
        let root = &self.host.root;
        let names = root.list(paths::SHIM_SOCKETS).await?;
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let Some(used) = root.read_text(SOCKETS).await? else {
            return Ok(Vec::new());
        };
        let used: Vec<&str> = used
            .lines()
            .filter_map(|line| line.split_whitespace().nth(7))
            .collect();
        let paths = names
            .into_iter()
            .map(|name| format!("{}/{name}", paths::SHIM_SOCKETS));
        Ok(paths
            .filter(|path| !used.contains(&path.as_str()))
            .map(|path| Order::Remove(path.into()))
            .collect())
    }

    /// What lies beside k3s's settings and is not the agent's: drop-ins and files of the operator.
    pub(super) async fn kept(&self) -> Result<Vec<String>, Error> {
        let root = &self.host.root;
        let mut kept = Vec::new();
        let units = [paths::SERVER_UNIT, paths::AGENT_UNIT]
            .map(|unit| format!("{}.d", paths::unit_file(unit)));
        for directory in [paths::CONFIG_DIR, paths::CONFIG_DROP_INS]
            .into_iter()
            .chain(units.iter().map(String::as_str))
        {
            for path in data::entries(self.host, directory).await? {
                if path != paths::CONFIG_DROP_INS || !root.list(&path).await?.is_empty() {
                    kept.push(path);
                }
            }
        }
        kept.retain(|path| path != paths::CONFIG_DROP_INS);
        Ok(kept)
    }
}
