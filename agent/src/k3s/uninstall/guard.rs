//! What keeps an uninstall from destroying what is not k3s's: checked before every step, and failing closed.

use std::path::{Path, PathBuf};

use canasta_host::mounts::{self, Mount};
use canasta_steps::StepError;

use super::{Work, data};
use crate::k3s::{Error, paths};

/// How many are named in one message.
const MOST_NAMED: usize = 10;

/// The directories that go with all that is in them.
pub(super) fn trees() -> Vec<PathBuf> {
    let fixed = [
        paths::CONFIG_DIR,
        paths::NODE_DIR,
        paths::DATA_DIR,
        paths::KUBELET_DIR,
        paths::RUN_DIR,
        paths::FLANNEL_DIR,
        paths::CNI_DIR,
        paths::POD_LOGS,
        paths::CONTAINER_LOGS,
        paths::RUNC_DIR,
    ];
    fixed.into_iter().map(PathBuf::from).collect()
}

impl Work<'_> {
    /// Refuses while a mount that is not k3s's lies below what would be removed, or data that the task doesn't name.
    pub(super) async fn guard(&self) -> Result<(), StepError> {
        let places = data::places(self.host).await?;
        let mut trees = trees();
        trees.extend(self.discard.iter().map(PathBuf::from));
        let mut foreign = self.sorted_mounts(&trees).await?.foreign;
        let table = mounts::read(&self.host.root).await.map_err(Error::from)?;
        // What can't be looked at without the danger of waiting for ever may hold anything.
        foreign.extend(
            places
                .iter()
                .filter_map(|place| remote(&table, place).cloned()),
        );
        if let Some(first) = foreign.first() {
            return Err(foreign_mount(first, &foreign));
        }
        for path in self.discard {
            if !is_directly_below(path, &places) {
                return Err(StepError::new(
                    "SPEC_INVALID",
                    format!("{path} is not in a directory in which k3s keeps volumes, so it can't be discarded"),
                )
                .subject(path)
                .hint(format!("volumes lie in {}", places.join(", "))));
            }
        }
        let mut kept = Vec::new();
        for place in &places {
            for path in data::entries(self.host, place).await? {
                if !self.discard.contains(&path) {
                    kept.push(path);
                }
            }
        }
        match kept.first() {
            Some(first) => Err(holds_data(first, &kept)),
            None => Ok(()),
        }
    }
}

/// The network file system that a directory lies on.
pub(super) fn remote<'a>(table: &'a [Mount], place: &str) -> Option<&'a Mount> {
    mounts::holding(table, Path::new(place)).filter(|mount| mount.is_network())
}

/// Whether a path is plain and names something in one of the directories itself.
fn is_directly_below(path: &str, places: &[String]) -> bool {
    let mut parts = path.split('/');
    let is_plain = parts.next() == Some("") && parts.all(|part| !matches!(part, "" | "." | ".."));
    let above = Path::new(path).parent();
    is_plain && places.iter().any(|place| above == Some(Path::new(place)))
}

fn foreign_mount(first: &Mount, all: &[Mount]) -> StepError {
    let named: Vec<String> = all
        .iter()
        .take(MOST_NAMED)
        .map(|mount| {
            format!(
                "{} ({} {})",
                mount.point.display(),
                mount.fs_type,
                mount.source
            )
        })
        .collect();
    let point = first.point.display().to_string();
    StepError::new(
        "FOREIGN_MOUNT",
        format!(
            "something that is not k3s's is mounted where k3s's files would be removed: {}",
            named.join(", ")
        ),
    )
    .subject(point.as_str())
    .hint(format!("nothing on it is touched; unmount it (`umount {point}`, and take it out of /etc/fstab), then run the command again"))
}

fn holds_data(first: &str, all: &[String]) -> StepError {
    let named: Vec<&str> = all.iter().take(MOST_NAMED).map(String::as_str).collect();
    let more = all.len() - named.len();
    let rest = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    StepError::new(
        "LOCAL_DATA",
        format!(
            "volumes keep their data on this node: {}{rest}",
            named.join(", ")
        ),
    )
    .subject(first)
    .hint("move the data away or delete the claims that it belongs to; `canasta uninstall k8s --force` destroys it, and says first what dies")
}

#[cfg(test)]
mod tests {
    use super::is_directly_below;

    #[test]
    fn only_what_lies_in_the_directory_itself_can_be_discarded() {
        let places = [
            "/var/lib/rancher/k3s/storage".to_owned(),
            "/srv/v".to_owned(),
        ];
        for (path, good) in [
            ("/srv/v/pvc-1", true),
            ("/var/lib/rancher/k3s/storage/pvc-1_default_db", true),
            ("/srv/v", false),
            ("/srv/v/", false),
            ("/srv/v/a/b", false),
            ("/srv/v/..", false),
            ("/srv/v/../x", false),
            ("/srv/v/./x", false),
            ("/srv/v//x", false),
            ("srv/v/x", false),
            ("/etc/passwd", false),
            ("", false),
        ] {
            assert_eq!(is_directly_below(path, &places), good, "{path}");
        }
    }
}
