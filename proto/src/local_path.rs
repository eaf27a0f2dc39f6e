//! Directories in which a cluster keeps local volumes of pods on its nodes, checked where they enter: the controller reads them
//! from the cluster, and the agent takes them from the controller.
//!
//! What lies directly in such a directory may be destroyed by an uninstall that names it, so a directory of the system is none.

use std::fmt;

/// The longest path, in bytes, as the kernel takes it.
const MAX_LENGTH: usize = 4096;

/// Directories that are the system's with all that is below them.
const SYSTEM_TREES: [&str; 19] = [
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
    "/var/lib/rpm",
    "/var/lib/systemd",
    "/var/run",
];

/// Where programs keep their state, and how the directories of this project's own programs begin there.
const STATE: &str = "/var/lib/";
const OWN: &str = "canasta-";

/// Directories whose entries are the system's, and below which anybody may have one of his own.
const SYSTEM_PLACES: [&str; 10] = [
    "/home",
    "/opt",
    "/root",
    "/tmp",
    "/var",
    "/var/lib",
    "/var/log",
    "/var/mail",
    "/var/spool",
    "/var/tmp",
];

/// The rule that a text broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LocalPathError {
    /// It has no beginning, or can be no path.
    #[error(
        "a directory of volumes is an absolute path of at most {MAX_LENGTH} bytes without control characters"
    )]
    NoPath,
    /// It can be written in another way.
    #[error(
        "a directory of volumes is written without '.', '..', doubled slashes and a slash at its end"
    )]
    NotPlain,
    /// Files of the system are in it.
    #[error("a directory of volumes is no directory of the system")]
    System,
}

/// A directory of local volumes: absolute, plain, and not the system's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LocalPath(String);

impl LocalPath {
    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for LocalPath {
    type Err = LocalPathError;

    fn from_str(text: &str) -> Result<Self, LocalPathError> {
        if !text.starts_with('/') || text.len() > MAX_LENGTH || text.chars().any(char::is_control) {
            return Err(LocalPathError::NoPath);
        }
        if text == "/" {
            return Err(LocalPathError::System);
        }
        let mut parts = text.split('/').skip(1);
        if parts.any(|part| matches!(part, "" | "." | "..")) {
            return Err(LocalPathError::NotPlain);
        }
        let is_in = |tree: &str| {
            let below = text.strip_prefix(tree);
            below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let state = text.strip_prefix(STATE);
        let is_own = state.is_some_and(|below| below.starts_with(OWN));
        if is_own || SYSTEM_PLACES.contains(&text) || SYSTEM_TREES.iter().any(|tree| is_in(tree)) {
            return Err(LocalPathError::System);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for LocalPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl From<LocalPath> for String {
    fn from(path: LocalPath) -> Self {
        path.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_of_volumes_is_absolute_plain_and_not_the_systems() {
        for good in [
            "/data",
            "/srv",
            "/mnt/disk/volumes",
            "/opt/volumes",
            "/var/lib/rancher/k3s/storage",
            "/var/lib/volumes",
            "/usrdata",
            "/srv/größe",
        ] {
            let parsed = good.parse::<LocalPath>();
            assert_eq!(parsed.as_ref().map(LocalPath::as_str), Ok(good));
        }
        let long = format!("/{}", "a".repeat(MAX_LENGTH));
        let own = format!("{STATE}{OWN}agent/owned");
        for (bad, rule) in [
            ("", LocalPathError::NoPath),
            ("srv/v", LocalPathError::NoPath),
            ("/srv/a\nb", LocalPathError::NoPath),
            (long.as_str(), LocalPathError::NoPath),
            ("/srv/", LocalPathError::NotPlain),
            ("//srv", LocalPathError::NotPlain),
            ("/srv/../etc", LocalPathError::NotPlain),
            ("/srv/./v", LocalPathError::NotPlain),
            ("/", LocalPathError::System),
            ("/etc", LocalPathError::System),
            ("/usr/local/v", LocalPathError::System),
            ("/var/lib", LocalPathError::System),
            (own.as_str(), LocalPathError::System),
        ] {
            assert_eq!(bad.parse::<LocalPath>(), Err(rule), "{bad}");
        }
    }
}
