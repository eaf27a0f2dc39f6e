//! Where a path leads once its symbolic links are followed, looked at step by step.
//!
//! The mount table holds the places that links lead to, so what is compared with it is followed first. Called by everything
//! that must not be blind for a mount because somebody has put a link above it. Never looks at a file of another machine: a
//! server that is gone would hold up the look.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use crate::files::{FileError, Root, is_absence};
use crate::mounts::{self, Mount};

/// As many as the kernel follows.
const MOST_LINKS: usize = 40;

/// Where a path leads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Led {
    /// The path without links. From the first part on that isn't there it goes on as it was named.
    pub path: PathBuf,
    /// The links that were followed, each with where it led.
    pub links: Vec<(PathBuf, PathBuf)>,
    /// The network file system that the look ended at.
    pub remote: Option<Mount>,
}

/// Follows a path on the machine.
///
/// # Errors
/// When a part of it can't be looked at for another reason than that it isn't there.
pub async fn follow(root: &Root, table: &[Mount], path: &Path) -> Result<Led, FileError> {
    let (root, table, path) = (root.clone(), table.to_vec(), path.to_path_buf());
    let named = path.clone();
    tokio::task::spawn_blocking(move || walk(&root, &table, &path))
        .await
        .unwrap_or(Err(FileError::Interrupted { path: named }))
}

fn walk(root: &Root, table: &[Mount], path: &Path) -> Result<Led, FileError> {
    let mut led = Led {
        path: PathBuf::from("/"),
        ..Led::default()
    };
    let mut waiting: VecDeque<OsString> = parts(path);
    let mut is_there = true;
    while let Some(part) = waiting.pop_front() {
        if part == ".." {
            led.path.pop();
            continue;
        }
        let here = led.path.join(&part);
        let remote = mounts::holding(table, &here).filter(|mount| mount.is_network());
        if led.remote.is_none() {
            led.remote = remote.cloned();
        }
        if !is_there || led.remote.is_some() {
            led.path = here;
            continue;
        }
        match target(&root.path(&here)) {
            Ok(Some(target)) => {
                if led.links.len() == MOST_LINKS {
                    let error = io::Error::from_raw_os_error(nix::libc::ELOOP);
                    return Err(FileError::io("follow", path, error));
                }
                if target.is_absolute() {
                    led.path = PathBuf::from("/");
                }
                for part in parts(&target).into_iter().rev() {
                    waiting.push_front(part);
                }
                led.links.push((here, target));
            }
            Ok(None) => led.path = here,
            Err(error) if is_absence(&error) => {
                is_there = false;
                led.path = here;
            }
            Err(error) => return Err(FileError::io("follow", &here, error)),
        }
    }
    Ok(led)
}

fn parts(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir))
        .map(|part| part.as_os_str().to_owned())
        .collect()
}

/// What a link holds; `None` for everything else.
fn target(full: &Path) -> io::Result<Option<PathBuf>> {
    if fs::symlink_metadata(full)?.is_symlink() {
        return fs::read_link(full).map(Some);
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn machine() -> (tempfile::TempDir, Root) {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::at(directory.path());
        fs::create_dir_all(root.path("/var/lib")).unwrap();
        fs::create_dir_all(root.path("/data/rancher/k3s")).unwrap();
        (directory, root)
    }

    fn led(root: &Root, path: &str) -> Led {
        walk(root, &[], Path::new(path)).unwrap()
    }

    #[test]
    fn links_are_followed_within_the_root_and_what_is_missing_goes_on_as_named() {
        let (_directory, root) = machine();
        symlink("/data/rancher", root.path("/var/lib/rancher")).unwrap();
        symlink("../../data/./gone", root.path("/var/lib/gone")).unwrap();
        let through = led(&root, "/var/lib/rancher/k3s/storage/x");
        assert_eq!(through.path, Path::new("/data/rancher/k3s/storage/x"));
        let link = ("/var/lib/rancher".into(), "/data/rancher".into());
        assert_eq!(through.links, [link]);
        assert_eq!(
            led(&root, "/var/lib/gone/x").path,
            Path::new("/data/gone/x")
        );
        let plain = led(&root, "/srv/volumes/x");
        assert_eq!(
            (plain.path, plain.links.len()),
            ("/srv/volumes/x".into(), 0)
        );
    }

    #[test]
    fn links_in_a_circle_are_an_error() {
        let (_directory, root) = machine();
        symlink("b", root.path("/var/lib/a")).unwrap();
        symlink("a", root.path("/var/lib/b")).unwrap();
        let error = walk(&root, &[], Path::new("/var/lib/a/x")).unwrap_err();
        assert!(error.to_string().contains("/var/lib/a/x"), "{error}");
    }

    #[test]
    fn nothing_is_looked_at_on_a_server_and_it_is_named() {
        let (_directory, root) = machine();
        let table = mounts::parse(b"40 27 0:50 / /data rw - nfs4 srv:/x rw\n");
        symlink("/data/rancher", root.path("/var/lib/rancher")).unwrap();
        symlink("/srv", root.path("/data/rancher/k3s/storage")).unwrap();
        let path = Path::new("/var/lib/rancher/k3s/storage/x");
        let led = walk(&root, &table, path).unwrap();
        assert_eq!(led.remote.unwrap().source, "srv:/x");
        assert_eq!(led.path, Path::new("/data/rancher/k3s/storage/x"));
    }
}
