//! Directories that are the system's or k3s's own: none of them is shared ([`crate::share`]) or holds volumes
//! ([`crate::local_path`]). Paths are normalised where they come here.

/// The system's with all that is below them.
const SYSTEM_TREES: [&str; 21] = [
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/proc",
    "/run",
    "/sbin",
    "/sys",
    "/usr",
    "/var/cache",
    "/var/lib/apt",
    "/var/lib/dpkg",
    "/var/lib/nfs",
    "/var/lib/rpm",
    "/var/lib/systemd",
    "/var/lock",
    "/var/run",
];

/// k3s's own with all that is below them.
const K3S_TREES: [&str; 7] = [
    "/var/lib/cni",
    "/var/lib/kubelet",
    "/var/lib/rancher/k3s/agent",
    "/var/lib/rancher/k3s/data",
    "/var/lib/rancher/k3s/server",
    "/var/log/containers",
    "/var/log/pods",
];

/// Where programs keep their state, and how the directories of this project's own programs begin there.
pub(crate) const STATE: &str = "/var/lib/";
pub(crate) const OWN: &str = "canasta-";

/// Whether a path is `directory` or below it.
pub fn is_within(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || directory == "/")
}

/// The directory of `these` that a path is or is below.
pub(crate) fn within<'a>(path: &str, these: &[&'a str]) -> Option<&'a str> {
    these
        .iter()
        .copied()
        .find(|directory| is_within(path, directory))
}

/// The directory of the system's, or of this project's own programs, that a path is or is below.
pub(crate) fn of_the_system(path: &str) -> Option<&str> {
    if path == "/" {
        return Some("/");
    }
    let is_own = |path: &str| {
        path.strip_prefix(STATE)
            .is_some_and(|name| name.starts_with(OWN))
    };
    within(path, &SYSTEM_TREES).or_else(|| is_own(path).then_some(path))
}

/// The directory of k3s's that a path is or is below.
pub(crate) fn of_k3s(path: &str) -> Option<&'static str> {
    within(path, &K3S_TREES)
}
