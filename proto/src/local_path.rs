//! Directories in which a cluster keeps local volumes of pods on its nodes, checked where they enter: the controller reads them
//! from the cluster, and the agent takes them from the controller.
//!
//! Volumes that lie directly in such a directory may be destroyed by an uninstall that names them, so a directory of the system
//! is none, and only what is named as the provisioner names volumes ([`is_volume`]) is taken for one.

use std::fmt;

use crate::directories;

/// The longest path, in bytes, as the kernel takes it.
const MAX_LENGTH: usize = 4096;

/// The most directories that an agent is told of at once.
pub const MOST: usize = 64;

/// What names of volumes begin with.
pub const VOLUME_PREFIX: &str = "pvc-";

/// Directories whose entries are k3s's own. Beside those somebody may have one for volumes, as k3s itself has `storage`: it goes
/// with the rest, so it has to be looked into.
const K3S_PLACES: [&str; 2] = ["/var/lib/rancher", "/var/lib/rancher/k3s"];

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
    /// k3s keeps other things there.
    #[error("a directory of volumes is none in which k3s keeps other things")]
    K3s,
}

/// Whether something in a directory of volumes is named as the provisioner names a volume: `pvc-<uuid>_<namespace>_<claim>`, or
/// `pvc-<uuid>` as early ones did. Where another pattern is set (`pathPattern` of a storage class), volumes can't be told from
/// other directories: they are not taken for any, and stay where they are.
pub fn is_volume(name: &str) -> bool {
    let Some((uuid, rest)) = name
        .strip_prefix(VOLUME_PREFIX)
        .and_then(|rest| rest.split_at_checked(36))
    else {
        return false;
    };
    let is_uuid = uuid.bytes().enumerate().all(|(at, byte)| match at {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    });
    let is_label = |text: &str| {
        let is_good =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
        !text.is_empty() && text.bytes().all(is_good)
    };
    let owner = rest.strip_prefix('_').and_then(|rest| rest.split_once('_'));
    is_uuid
        && (rest.is_empty()
            || owner.is_some_and(|(namespace, claim)| is_label(namespace) && is_label(claim)))
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
        if SYSTEM_PLACES.contains(&text) || directories::of_the_system(text).is_some() {
            return Err(LocalPathError::System);
        }
        if K3S_PLACES.contains(&text) || directories::of_k3s(text).is_some() {
            return Err(LocalPathError::K3s);
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
            "/var/lib/rancher/k3s/volumes",
            "/var/lib/volumes",
            "/usrdata",
            "/srv/größe",
        ] {
            let parsed = good.parse::<LocalPath>();
            assert_eq!(parsed.as_ref().map(LocalPath::as_str), Ok(good));
        }
        let long = format!("/{}", "a".repeat(MAX_LENGTH));
        let own = format!("{}{}agent/owned", directories::STATE, directories::OWN);
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
            ("/var/lock/v", LocalPathError::System),
            ("/var/lib/kubelet", LocalPathError::K3s),
            ("/var/lib/kubelet/pods", LocalPathError::K3s),
            ("/var/lib/rancher/k3s", LocalPathError::K3s),
            ("/var/lib/rancher/k3s/server/db", LocalPathError::K3s),
            ("/var/log/pods", LocalPathError::K3s),
        ] {
            assert_eq!(bad.parse::<LocalPath>(), Err(rule), "{bad}");
        }
    }

    #[test]
    fn volumes_are_known_by_the_names_that_the_provisioner_gives_them() {
        const UUID: &str = "1f3566e8-7b06-498e-8691-945178302f48";
        for rest in ["", "_default_db", "_my-ns_data.db-0"] {
            assert!(is_volume(&format!("pvc-{UUID}{rest}")), "{rest}");
        }
        for name in [
            "",
            "pvc-",
            "pvc-1",
            "pvc-1_default_db",
            "www",
            "pvc-größe-ist-kein-uuid-und-lang-genug-dafür",
            UUID,
        ] {
            assert!(!is_volume(name), "{name}");
        }
        for rest in [
            "x", "_", "_a", "_a_", "__b", "_a_b_c", "_A_b", "_a_b/c", ".old",
        ] {
            assert!(!is_volume(&format!("pvc-{UUID}{rest}")), "{rest}");
        }
        assert!(!is_volume("pvc-1f3566e8x7b06-498e-8691-945178302f48"));
    }
}
