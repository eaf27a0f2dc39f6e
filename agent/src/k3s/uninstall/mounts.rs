//! Which mounts are k3s's own, and their end.

use std::path::{Path, PathBuf};

use canasta_host::mounts::{self, Mount};
use canasta_host::removal::Order;
use canasta_host::snapshot::Snapshot;
use canasta_steps::{Done, StepError};

use super::layout::Layout;
use super::{Work, count};
use crate::k3s::{Error, paths};

/// Below these k3s and its containers mount things, and nobody else has any business.
const OWN: [&str; 2] = [paths::RUN_DIR, paths::KUBELET_PLUGINS];

/// What a look at the mount table showed.
#[derive(Debug, Default)]
pub(super) struct Sorted {
    /// Of k3s, in the order in which they can be unmounted.
    pub(super) own: Vec<Mount>,
    /// Not k3s's, at or below a directory that goes.
    pub(super) foreign: Vec<Mount>,
}

/// Sorts the table by the directories that would be removed. What was mounted before the install is not k3s's.
pub(super) fn sort(table: &[Mount], layout: &Layout, before: Option<&Snapshot>) -> Sorted {
    let earlier = before.and_then(|before| before.mounts.known());
    let was_there = |mount: &Mount| {
        earlier
            .into_iter()
            .flatten()
            .any(|known| known.point == mount.point && known.source == mount.source)
    };
    let mut sorted = Sorted::default();
    // Deepest first, and of those on one point the topmost first.
    for mount in mounts::at_or_below(table, Path::new("/")) {
        if is_own(&layout.named(&mount.point)) && !was_there(mount) {
            sorted.own.push(mount.clone());
        } else if layout.goes(&mount.point) {
            sorted.foreign.push(mount.clone());
        }
    }
    sorted
}

fn is_own(point: &Path) -> bool {
    let below = |directory: &str| point.starts_with(directory) && point != Path::new(directory);
    OWN.iter().any(|directory| below(directory))
        || point
            .strip_prefix(paths::KUBELET_PODS)
            .is_ok_and(is_of_a_pod)
        || point
            .strip_prefix(paths::NETNS_DIR)
            .is_ok_and(|rest| is_cni_netns(&rest.to_string_lossy()))
}

/// The kubelet names the directory of a pod by its uid; of a static pod by a hash.
fn is_of_a_pod(rest: &Path) -> bool {
    let mut parts = rest.components();
    let uid = parts.next().map(|part| part.as_os_str().to_string_lossy());
    let is_uid = uid.is_some_and(|uid| {
        matches!(uid.len(), 32 | 36)
            && uid
                .bytes()
                .all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
    });
    is_uid && parts.next().is_some()
}

/// Network namespaces of pods have these names.
pub(super) fn is_cni_netns(name: &str) -> bool {
    name.starts_with("cni-") && !name.contains('/')
}

/// Mounts in words.
pub(super) fn in_words(mounts: &[Mount]) -> Vec<String> {
    mounts
        .iter()
        .map(|mount| format!("mount {} ({})", mount.point.display(), mount.source))
        .collect()
}

impl Work<'_> {
    pub(super) async fn mounts(&self) -> Result<Done, StepError> {
        let own = self.sorted_mounts(&[]).await?.own;
        if own.is_empty() {
            return Ok(Done::unchanged("nothing of k3s is mounted"));
        }
        let orders: Vec<Order> = own
            .iter()
            .map(|mount| Order::Unmount(mount.point.clone()))
            .collect();
        self.remove(&orders, "MOUNTS_LEFT").await?;
        let left = self.sorted_mounts(&[]).await?.own;
        if let Some(mount) = left.first() {
            let point = mount.point.display().to_string();
            return Err(StepError::new(
                "MOUNTS_LEFT",
                format!("{} of k3s are still there: {}", count(left.len(), "mount"), in_words(&left).join(", ")),
            )
            .subject(point.as_str())
            .hint(format!("something mounts them again: `fuser -vm {point}` on the node shows who uses them; then run the command again")));
        }
        Ok(Done::changed(format!(
            "{} unmounted",
            count(own.len(), "mount")
        )))
    }

    /// Sorts the mounts of now; `others` would go besides k3s's own directories.
    pub(super) async fn sorted_mounts(&self, others: &[PathBuf]) -> Result<Sorted, StepError> {
        let table = mounts::read(&self.host.root).await.map_err(Error::from)?;
        let layout = Layout::look(self.host, &table, others).await;
        Ok(sort(
            &table,
            &layout.map_err(Error::from)?,
            self.before.as_ref(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_mounts_are_known_by_their_place() {
        for (point, own) in [
            (
                "/run/k3s/containerd/io.containerd.runtime.v2.task/k8s.io/90b3/rootfs",
                true,
            ),
            ("/run/netns/cni-48c06727-cdcf-d84e-4bb6-6e3dfc231bce", true),
            ("/run/netns/mine", false),
            ("/run/netns", false),
            (
                "/var/lib/kubelet/pods/1f3566e8-7b06-498e-8691-945178302f48/volumes/kubernetes.io~projected/kube-api-access-p87j4",
                true,
            ),
            (
                "/var/lib/kubelet/pods/1f3566e8-7b06-498e-8691-945178302f48",
                false,
            ),
            ("/var/lib/kubelet/pods/data", false),
            ("/var/lib/kubelet/pods/data/x", false),
            (
                "/var/lib/kubelet/plugins/kubernetes.io/csi/x/globalmount",
                true,
            ),
            ("/var/lib/kubelet", false),
            ("/var/lib/kubelet/mine", false),
            ("/var/lib/rancher/k3s/storage", false),
            ("/run/k3s", false),
            ("/run/k3s-other/x", false),
        ] {
            assert_eq!(is_own(Path::new(point)), own, "{point}");
        }
    }
}
