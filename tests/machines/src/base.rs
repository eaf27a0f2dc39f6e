//! The root file system that all nodes start from, made once with mmdebstrap from the machine's
//! own package sources. Called by [`crate::Lab::up`].
//!
//! The release is the machine's own as well: packages that are built here need its C library.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::apt;
use crate::packages::hex;
use crate::program::{Place, ProgramError, run};

/// To be raised when what is done to the tree below changes.
const VERSION: u32 = 1;

/// What a node has beside the essential packages.
const PACKAGES: &[&str] = &[
    "adduser",
    "ca-certificates",
    "curl",
    "dbus",
    "iproute2",
    "iptables",
    "iputils-ping",
    "kmod",
    "netbase",
    "nftables",
    "openssh-server",
    "openssl",
    "procps",
    "sudo",
    "systemd",
    "systemd-sysv",
    "udev",
];

/// Units that can't work in a container, or that would do work of their own while tests measure.
const MASKED: &[&str] = &[
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "console-getty.service",
    "dev-hugepages.mount",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty.target",
    // A test that needs it starts one of its own.
    "ssh.service",
    "ssh.socket",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-firstboot.service",
    "systemd-udev-settle.service",
    "systemd-udev-trigger.service",
    "systemd-udevd-control.socket",
    "systemd-udevd-kernel.socket",
    "systemd-udevd.service",
];

/// Files that a node does without.
const TRIMMED: &[&str] = &[
    "/usr/share/doc/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/man/*",
];

/// The first program of a node. On cgroup v1 nspawn hands the controllers over read-only, and
/// mounts made in a node must reach the programs of that node.
pub(crate) const INIT: &str = "/sbin/canasta-lab-init";

const INIT_TEXT: &str = "#!/bin/sh
# The first program of a lab node: makes room for a kubelet, then becomes systemd.
if [ ! -e /sys/fs/cgroup/cgroup.controllers ]; then
    for dir in /sys/fs/cgroup/*; do
        if mountpoint -q \"$dir\"; then mount -o remount,bind,rw \"$dir\"; fi
    done
fi
mount --make-rshared /
exec /lib/systemd/systemd
";

/// Why there is no root file system to start from.
#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    /// The machine is neither Debian nor Ubuntu.
    #[error(
        "failed to find the release of this machine in /etc/os-release: nodes are made from \
         Debian's or Ubuntu's packages, so run this on one of the two"
    )]
    NoRelease,
    /// None of the machine's package sources has the release itself.
    #[error(
        "failed to find a package source for {codename} in /etc/apt: apt on this machine must \
         be set up with its own release"
    )]
    NoMirror {
        /// The machine's release.
        codename: String,
    },
    /// mmdebstrap did not do it.
    #[error("failed to make a root file system from {mirrors}")]
    Bootstrap {
        /// The sources that were used.
        mirrors: String,
        /// What it said.
        #[source]
        source: ProgramError,
    },
    /// A file can't be written.
    #[error("failed to write {}", path.display())]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> BaseError {
    let path = path.to_owned();
    move |source| BaseError::Write { path, source }
}

/// The root file system below `bases`, made first if there is none for this list of packages.
/// `lock` keeps a second caller out meanwhile; `say` is told when it takes long.
pub(crate) fn ensure(bases: &Path, lock: &Path, say: &dyn Fn(&str)) -> Result<PathBuf, BaseError> {
    let codename = codename().ok_or(BaseError::NoRelease)?;
    let ready = bases.join(format!("{codename}-{}", key(&codename)));
    if ready.exists() {
        return Ok(ready);
    }
    fs::create_dir_all(bases).map_err(at(bases))?;
    let lock_file = File::create(lock).map_err(at(lock))?;
    lock_file.lock().map_err(at(lock))?;
    if ready.exists() {
        return Ok(ready);
    }
    let mirrors = apt::mirrors(Path::new("/etc/apt"), &codename);
    if mirrors.is_empty() {
        return Err(BaseError::NoMirror { codename });
    }
    say(&format!(
        "making a root file system of {codename} (once, about half a minute)"
    ));
    let partial = ready.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial).map_err(at(&partial))?;
    }
    bootstrap(&codename, &mirrors, &partial)?;
    adapt(&partial)?;
    fs::rename(&partial, &ready).map_err(at(&ready))?;
    Ok(ready)
}

fn codename() -> Option<String> {
    let text = fs::read_to_string("/etc/os-release").ok()?;
    text.lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .map(|value| value.trim_matches('"').to_owned())
        .filter(|value| !value.is_empty())
}

/// Names what a root file system was made from, so that a change makes a new one.
fn key(codename: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(format!(
        "{VERSION} {codename} {PACKAGES:?} {MASKED:?} {TRIMMED:?} {INIT_TEXT}"
    ));
    let mut key = hex(hash);
    key.truncate(12);
    key
}

fn bootstrap(codename: &str, mirrors: &[String], target: &Path) -> Result<(), BaseError> {
    let include = format!("--include={}", PACKAGES.join(","));
    let trims: Vec<_> = TRIMMED
        .iter()
        .map(|path| format!("--dpkgopt=path-exclude={path}"))
        .collect();
    let target = target.to_string_lossy();
    let mut argv = vec!["mmdebstrap", "--variant=minbase", "--quiet", &include];
    argv.extend(trims.iter().map(String::as_str));
    argv.extend([codename, &target]);
    argv.extend(mirrors.iter().map(String::as_str));
    match run(&Place::default(), &argv, b"") {
        Ok(_) => Ok(()),
        Err(source) => Err(BaseError::Bootstrap {
            mirrors: mirrors.join(", "),
            source,
        }),
    }
}

/// Makes a tree that packages were unpacked into one that boots as a node.
fn adapt(root: &Path) -> Result<(), BaseError> {
    let units = root.join("etc/systemd/system");
    for unit in MASKED {
        replace_link(&units.join(unit), "/dev/null")?;
    }
    for (target, unit) in [
        ("multi-user.target.wants", "systemd-networkd.service"),
        ("sockets.target.wants", "systemd-networkd.socket"),
        (
            "network-online.target.wants",
            "systemd-networkd-wait-online.service",
        ),
    ] {
        let wants = units.join(target);
        fs::create_dir_all(&wants).map_err(at(&wants))?;
        replace_link(&wants.join(unit), &format!("/lib/systemd/system/{unit}"))?;
    }
    replace_link(
        &units.join("default.target"),
        "/lib/systemd/system/multi-user.target",
    )?;
    write(&root.join("etc/machine-id"), "", 0o444)?;
    write(
        &root.join("etc/resolv.conf"),
        "# This lab has no name server: see /etc/hosts.\n",
        0o644,
    )?;
    write(&root.join(INIT.trim_start_matches('/')), INIT_TEXT, 0o755)
}

/// Puts a symbolic link where something else may be.
fn replace_link(path: &Path, target: &str) -> Result<(), BaseError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(path)(error)),
        _ => {}
    }
    symlink(target, path).map_err(at(path))
}

/// Writes a file of a root file system. What was there is replaced rather than written through,
/// so that a link of the tree never leads out of it.
pub(crate) fn write(path: &Path, text: &str, mode: u32) -> Result<(), BaseError> {
    let temporary = path.with_extension("lab-new");
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(at(parent))?;
    }
    fs::write(&temporary, text).map_err(at(&temporary))?;
    fs::set_permissions(&temporary, Permissions::from_mode(mode)).map_err(at(&temporary))?;
    fs::rename(&temporary, path).map_err(at(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_depends_on_the_release() {
        assert_eq!(key("bookworm"), key("bookworm"));
        assert_ne!(key("bookworm"), key("noble"));
        assert_eq!(key("bookworm").len(), 12);
    }

    #[test]
    fn a_file_is_replaced_and_a_link_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let outside = directory.path().join("outside");
        fs::write(&outside, "mine").unwrap();
        let link = directory.path().join("hosts");
        symlink(&outside, &link).unwrap();
        write(&link, "theirs", 0o644).unwrap();
        assert_eq!(fs::read_to_string(&outside).unwrap(), "mine");
        assert_eq!(fs::read_to_string(&link).unwrap(), "theirs");
    }
}
