//! Where the directories of k3s really lie, and which of them this agent can't look into.
//!
//! Somebody may have put a link above them, to a larger disk. The mount table knows only the places that links lead to, and the
//! agent's own unit hides some places of the machine from it, where the removal of files would find what it didn't see.

use std::path::{Path, PathBuf};

use canasta_host::links::{self, Led};
use canasta_host::mounts::Mount;
use canasta_host::{FileError, Host};
use canasta_proto::local_path::LocalPath;

use super::{data, guard};
use crate::k3s::paths;

/// Below these k3s mounts things.
const WITH_MOUNTS: [&str; 4] = [
    paths::RUN_DIR,
    paths::KUBELET_PLUGINS,
    paths::KUBELET_PODS,
    paths::NETNS_DIR,
];

/// What the agent's unit shows it otherwise than it is (`ProtectHome=`, `PrivateTmp=`).
const HIDDEN: [&str; 5] = ["/home", "/root", "/run/user", "/tmp", "/var/tmp"];

/// Where directories really lie.
#[derive(Debug, Default)]
pub(super) struct Layout {
    /// Those that k3s mounts in: as it names them, and where they lie.
    with_mounts: Vec<(PathBuf, PathBuf)>,
    /// Those that go, by both names.
    trees: Vec<PathBuf>,
}

impl Layout {
    /// Looks; `others` go besides k3s's own.
    pub(super) async fn look(
        host: &Host,
        table: &[Mount],
        others: &[PathBuf],
    ) -> Result<Self, FileError> {
        let mut layout = Self::default();
        for named in WITH_MOUNTS.map(PathBuf::from) {
            let led = links::follow(&host.root, table, &named).await?;
            layout.with_mounts.push((named, led.path));
        }
        let mut trees = guard::trees();
        trees.extend_from_slice(others);
        for (named, real) in real(host, table, trees).await? {
            layout.trees.extend([named, real]);
        }
        Ok(layout)
    }

    /// How k3s names a mount point.
    pub(super) fn named(&self, point: &Path) -> PathBuf {
        let mut known = self.with_mounts.iter();
        known
            .find_map(|(named, real)| Some(named.join(point.strip_prefix(real).ok()?)))
            .unwrap_or_else(|| point.to_path_buf())
    }

    /// Whether a mount point lies at or below what goes.
    pub(super) fn goes(&self, point: &Path) -> bool {
        self.trees.iter().any(|tree| point.starts_with(tree))
    }
}

/// A directory in which volumes keep their data.
#[derive(Debug)]
pub(super) struct Place {
    /// Its name.
    pub(super) path: String,
    /// Where it leads.
    led: Led,
    /// Whether the agent can't see what is in it.
    pub(super) is_hidden: bool,
    /// Why it can be none, and is not looked into: it was told, and is, or leads to, a directory in which other things are kept.
    pub(super) unusable: Option<String>,
    /// Whether it was told, and lies where nothing goes by itself. Whoever may write the provisioner's settings may name any
    /// directory there, so only volumes count and may go ([`data::volumes`]); everything else in it is not k3s's.
    pub(super) only_volumes: bool,
    /// Whether it goes with k3s's own directories.
    goes: bool,
}

impl Place {
    /// All of them, the one in effect first; `told` is what the cluster is known to use.
    pub(super) async fn all(
        host: &Host,
        table: &[Mount],
        told: &[String],
    ) -> Result<Vec<Self>, crate::k3s::Error> {
        let hidden = hidden(host, table).await?;
        let trees = real(host, table, guard::trees()).await?;
        let mut places = Vec::new();
        for (path, is_told) in data::places(host, told).await? {
            let led = links::follow(&host.root, table, Path::new(&path)).await?;
            let below = |(named, real): &(PathBuf, PathBuf)| {
                let rest = led.path.strip_prefix(real).ok()?;
                Some(if rest == Path::new("") {
                    named.clone()
                } else {
                    named.join(rest)
                })
            };
            let named = trees.iter().find_map(below);
            let unusable = is_told
                .then(|| unusable(&path, named.as_deref().unwrap_or(&led.path)))
                .flatten();
            let is_below = |path: &Path| hidden.iter().any(|hidden| path.starts_with(hidden));
            let mut passed = led.links.iter().map(|(link, _)| link.as_path());
            let is_hidden = is_below(&led.path) || passed.any(is_below);
            places.push(Self {
                path,
                led,
                is_hidden,
                unusable,
                only_volumes: is_told && named.is_none(),
                goes: named.is_some(),
            });
        }
        Ok(places)
    }

    /// The network file system that it lies on: looking at it could wait for ever.
    pub(super) fn remote(&self) -> Option<&Mount> {
        self.led.remote.as_ref()
    }

    /// The network file system that it lies on, where the removal of k3s's own directories would come to it.
    pub(super) fn remote_in_the_way(&self) -> Option<&Mount> {
        self.remote().filter(|_| self.goes)
    }

    /// Whether it can be looked into, here or where the removal happens.
    pub(super) fn can_be_looked_into(&self) -> bool {
        self.unusable.is_none() && self.remote().is_none()
    }

    /// What in it is data of volumes.
    pub(super) async fn entries(&self, host: &Host) -> Result<Vec<String>, crate::k3s::Error> {
        if self.only_volumes {
            data::volumes(host, &self.path).await
        } else {
            data::entries(host, &self.path).await
        }
    }

    /// Its name, with the links that lead on from it.
    pub(super) fn in_words(&self) -> String {
        let links = self.led.links.iter();
        let links: Vec<String> = links
            .map(|(link, target)| format!("{} is a link to {}", link.display(), target.display()))
            .collect();
        if links.is_empty() {
            return self.path.clone();
        }
        format!("{} ({})", self.path, links.join(", "))
    }
}

/// Directories as they are named, and where they lie.
async fn real(
    host: &Host,
    table: &[Mount],
    directories: Vec<PathBuf>,
) -> Result<Vec<(PathBuf, PathBuf)>, FileError> {
    let mut found = Vec::new();
    for named in directories {
        let led = links::follow(&host.root, table, &named).await?;
        found.push((named, led.path));
    }
    Ok(found)
}

/// Why a told directory is none of volumes, by its name or by where it lies.
fn unusable(path: &str, lies: &Path) -> Option<String> {
    let text = lies.to_string_lossy();
    let rule = path.parse::<LocalPath>().err();
    if let Some(rule) = rule.or_else(|| text.parse::<LocalPath>().err()) {
        let lies = if text == path {
            String::new()
        } else {
            format!(" lies in {text}, and")
        };
        return Some(format!("{path}{lies} is not looked into: {rule}"));
    }
    None
}

/// The hidden directories, by their names and by where they lie.
async fn hidden(host: &Host, table: &[Mount]) -> Result<Vec<PathBuf>, FileError> {
    let mut hidden = Vec::new();
    for named in HIDDEN.map(PathBuf::from) {
        let led = links::follow(&host.root, table, &named).await?;
        hidden.extend([named, led.path]);
    }
    Ok(hidden)
}

#[cfg(test)]
mod tests {
    /// Settings of a unit by which it sees other files than the machine has.
    const HIDING: [&str; 7] = [
        "ProtectHome=",
        "PrivateTmp=",
        "InaccessiblePaths=",
        "TemporaryFileSystem=",
        "BindPaths=",
        "BindReadOnlyPaths=",
        "RootDirectory=",
    ];

    #[test]
    fn the_unit_hides_nothing_that_is_not_known_here_to_be_hidden() {
        let unit = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../packaging/systemd/canasta-agent.service"
        );
        let text = std::fs::read_to_string(unit).expect("the unit");
        let hides: Vec<_> = text
            .lines()
            .filter(|line| HIDING.iter().any(|key| line.starts_with(key)))
            .collect();
        assert_eq!(hides, ["ProtectHome=yes", "PrivateTmp=yes"]);
    }
}
