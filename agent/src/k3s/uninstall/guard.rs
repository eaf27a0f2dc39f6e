//! What keeps an uninstall from destroying what is not k3s's: checked before every step, and failing closed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use canasta_host::Host;
use canasta_host::mounts::{self, Mount};
use canasta_host::presence::{self, Found, PresenceError};
use canasta_host::removal::Order;
use canasta_proto::local_path::{VOLUME_PREFIX, is_volume};
use canasta_steps::StepError;

use super::Work;
use super::layout::Place;
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
    /// Refuses while another Kubernetes is here, while a mount that is not k3s's lies below what would be removed, or, before
    /// what `removes`, data that the task doesn't name: stopping k3s destroys none.
    pub(super) async fn guard(&self, removes: bool) -> Result<(), StepError> {
        self.alone().await?;
        let table = mounts::read(&self.host.root).await.map_err(Error::from)?;
        let places = Place::all(self.host, &table, &self.told).await?;
        let discarded: Vec<PathBuf> = self.discard.iter().map(PathBuf::from).collect();
        let mut foreign = self.sorted_mounts(&discarded).await?.foreign;
        // What can't be looked at without the danger of waiting for ever may hold anything.
        foreign.extend(places.iter().filter_map(Place::remote_in_the_way).cloned());
        if let Some(first) = foreign.first() {
            return Err(foreign_mount(first, &foreign));
        }
        self.only_volumes(&places)?;
        if !removes {
            return Ok(());
        }
        let mut kept = Vec::new();
        let (hidden, seen): (Vec<&Place>, Vec<&Place>) = places
            .iter()
            .filter(|place| place.can_be_looked_into())
            .partition(|place| place.is_hidden);
        for place in seen {
            let entries = place.entries(self.host).await?;
            self.only_directories(place, &entries).await?;
            for path in entries {
                if !self.discard.contains(&path) {
                    kept.push(path);
                }
            }
        }
        if let Some(first) = kept.first() {
            return Err(holds_data(first, &kept));
        }
        for place in hidden {
            self.hidden_place(place, self.limits.removal).await?;
        }
        Ok(())
    }

    /// What every Kubernetes has on a node, its kubelet's directory, its pods, its chains, can't be told apart.
    pub(super) async fn alone(&self) -> Result<(), StepError> {
        match another_kubernetes(self.host).await {
            Ok(found) if found.is_empty() => Ok(()),
            Ok(found) => Err(other_kubernetes(&found)),
            Err(error) => Err(StepError::from_source("OTHER_KUBERNETES_UNKNOWN", &error).hint(
                "whether another Kubernetes is on the node must be known before anything of k3s is removed; mend what is named, then run the command again",
            )),
        }
    }

    /// Whether what the task discards are volumes.
    fn only_volumes(&self, places: &[Place]) -> Result<(), StepError> {
        let paths: Vec<String> = places
            .iter()
            .filter(|place| place.can_be_looked_into())
            .map(|place| place.path.clone())
            .collect();
        let is_foreign = |path: &&String| {
            let mut places = places.iter().filter(|place| place.only_volumes);
            let name = |place: &Place| path.strip_prefix(&place.path)?.strip_prefix('/');
            places.any(|place| name(place).is_some_and(|name| !is_volume(name)))
        };
        let mut discarded = self.discard.iter();
        if let Some(path) = discarded.find(|path| !is_directly_below(path, &paths)) {
            return Err(StepError::new(
                "SPEC_INVALID",
                format!("{path} is not in a directory in which k3s keeps volumes, so it can't be discarded"),
            )
            .subject(path)
            .hint(format!("volumes lie in {}", paths.join(", "))));
        }
        match self.discard.iter().find(is_foreign) {
            None => Ok(()),
            Some(path) => Err(no_volume(
                path,
                "is not named as the provisioner names volumes",
            )),
        }
    }

    /// Whether what the task discards in a place that holds other things too are directories, as volumes are; `volumes` are those
    /// in it.
    async fn only_directories(&self, place: &Place, volumes: &[String]) -> Result<(), StepError> {
        if !place.only_volumes {
            return Ok(());
        }
        for path in self.discard {
            let is_in = Path::new(path).parent() == Some(Path::new(&place.path));
            if !is_in || volumes.contains(path) {
                continue;
            }
            if self.host.root.exists(path).await.map_err(Error::from)? {
                return Err(no_volume(path, "is no directory"));
            }
        }
        Ok(())
    }

    /// Looks where the removal will happen into a place that is hidden from the agent: seen from here, it is empty.
    pub(super) async fn hidden_place(
        &self,
        place: &Place,
        limit: Duration,
    ) -> Result<(), StepError> {
        let mut order = holds_only(&place.path, self.discard);
        if let Order::HoldsOnly { beginning, .. } = &mut order
            && place.only_volumes
        {
            VOLUME_PREFIX.clone_into(beginning);
        }
        let mut report = self.perform(&[order], limit).await?;
        if let Some(left) = report.left.first() {
            return Err(unseen_place(place, &left.why));
        }
        let name = |path: &Path| Some(path.file_name()?.to_str()?.to_owned());
        report
            .unexpected
            .retain(|path| !place.only_volumes || name(path).is_some_and(|name| is_volume(&name)));
        if !report.unexpected.is_empty() {
            return Err(holds_hidden_data(place, &report.unexpected));
        }
        Ok(())
    }
}

/// The order to go on only if a directory of volumes holds nothing but these.
pub(super) fn holds_only(place: &str, volumes: &[String]) -> Order {
    let names = volumes
        .iter()
        .filter_map(|path| path.strip_prefix(place)?.strip_prefix('/'))
        .map(str::to_owned);
    Order::HoldsOnly {
        directory: PathBuf::from(place),
        names: names.collect(),
        beginning: String::new(),
    }
}

/// The signs of another Kubernetes.
pub(super) async fn another_kubernetes(host: &Host) -> Result<Vec<Found>, PresenceError> {
    let presence = presence::presence(&host.root, host.systemd.as_ref()).await?;
    Ok(presence.kubernetes)
}

/// What was found of another Kubernetes, in words.
fn signs(found: &[Found]) -> String {
    let signs = found
        .iter()
        .map(|found| format!("{} ({})", found.name, found.evidence));
    signs.collect::<Vec<_>>().join(", ")
}

fn other_kubernetes(found: &[Found]) -> StepError {
    let subject = found.first().map_or("", |found| &found.name);
    StepError::new(
        "OTHER_KUBERNETES",
        format!(
            "another Kubernetes is on this node: {}; what is its and what is k3s's in {}, among the pods and in the packet rules can't be told apart, so nothing is removed",
            signs(found),
            paths::KUBELET_DIR
        ),
    )
    .subject(subject)
    .hint("uninstall the other one by its own means (if only its package is left, remove that), then run the command again; if it is to stay, remove k3s by hand: stop and disable its unit, then delete what is k3s's alone, as /var/lib/rancher/k3s and /etc/rancher/k3s")
}

fn no_volume(path: &str, why: &str) -> StepError {
    StepError::new(
        "SPEC_INVALID",
        format!(
            "{path} {why}, and lies outside of k3s's own directories, so it is not the cluster's and can't be discarded"
        ),
    )
    .subject(path)
    .hint("run the command again: it tells anew what would be destroyed; what volumes of another naming (pathPattern) hold stays, and is deleted by hand")
}

pub(super) fn unseen_place(place: &Place, why: &str) -> StepError {
    StepError::new(
        "LOCAL_DATA_UNKNOWN",
        format!(
            "whether volumes keep data in {} can't be told: {why}",
            place.in_words()
        ),
    )
    .subject(&place.path)
    .hint(format!(
        "look at it on the node (`ls -la {}`), mend what is named, then run the command again",
        place.path
    ))
}

fn holds_hidden_data(place: &Place, all: &[PathBuf]) -> StepError {
    let all: Vec<String> = all.iter().map(|path| path.display().to_string()).collect();
    StepError::new(
        "LOCAL_DATA_HIDDEN",
        format!(
            "volumes keep their data on this node, in a place that canasta-agent itself can't see, {}: {}",
            place.in_words(),
            some_of(&all)
        ),
    )
    .subject(&all[0])
    .hint(format!(
        "look at `ls -la {}` on the node, move the data away or delete it by hand (--force can't: what it would destroy is not seen beforehand), then run the command again",
        place.path
    ))
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

pub(super) fn holds_data(first: &str, all: &[String]) -> StepError {
    StepError::new(
        "LOCAL_DATA",
        format!("volumes keep their data on this node: {}", some_of(all)),
    )
    .subject(first)
    .hint("move the data away or delete the claims that it belongs to; `canasta uninstall k8s --force` destroys it, and says first what dies")
}

/// The first of them, and how many more there are.
fn some_of(all: &[String]) -> String {
    let named = all[..all.len().min(MOST_NAMED)].join(", ");
    match all.len().saturating_sub(MOST_NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::is_directly_below;

    /// What goes as a whole is no directory of volumes, whoever names it.
    #[test]
    fn none_of_k3s_own_trees_can_be_told_as_a_directory_of_volumes() {
        for tree in super::trees() {
            let text = tree.to_str().expect("text");
            assert!(
                text.parse::<canasta_proto::local_path::LocalPath>()
                    .is_err(),
                "{text}"
            );
        }
    }

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
