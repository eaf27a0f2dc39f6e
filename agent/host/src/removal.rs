//! Taking away mounts and trees of files, in the mount namespace of PID 1.
//!
//! The agent's unit has a mount namespace of its own, so this is done by a program in a transient unit ([`unit::InUnit`]): it sees
//! what PID 1 sees, it can be killed where a dead server holds it up, and the agent's own sandbox stays shut. [`perform`] is
//! what that program does. With the feature `fake`, `fake::FakeRemoval` does the same below the fake host's directory.
//!
//! A tree is never left across a mount: one that holds a mount anywhere is refused as a whole before anything is removed, and
//! every directory is checked once more when it is opened. Symbolic links are removed and never followed.

use std::fmt::Debug;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::files::{FileError, Root};
use crate::mounts::{self, Mount};
use crate::systemd::SystemdError;

mod tree;
pub mod unit;

#[cfg(test)]
mod tests;

/// The work couldn't be had done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemovalError {
    /// The request or the answer couldn't be written or read.
    #[error(transparent)]
    File(#[from] FileError),
    /// systemd didn't run the program.
    #[error("failed to work in the mount namespace of PID 1")]
    Unit(#[source] SystemdError),
    /// The program took too long and was killed.
    #[error("failed to finish within {} s: {doing}", limit.as_secs())]
    TimedOut {
        /// The time that it had.
        limit: Duration,
        /// What it was at.
        doing: String,
    },
    /// The program ended without an answer.
    #[error("failed to understand what was done in the mount namespace of PID 1: {doing}")]
    NoAnswer {
        /// What it was at.
        doing: String,
    },
}

/// A piece of work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Unmount what is mounted here, once.
    Unmount(PathBuf),
    /// Remove this file, link or directory with all that is in it.
    Remove(PathBuf),
    /// Remove this directory if nothing is in it.
    RemoveEmpty(PathBuf),
}

impl Order {
    fn path(&self) -> &Path {
        match self {
            Self::Unmount(path) | Self::Remove(path) | Self::RemoveEmpty(path) => path,
        }
    }

    fn in_words(&self) -> String {
        match self {
            Self::Unmount(path) => format!("unmounting {}", path.display()),
            Self::Remove(path) | Self::RemoveEmpty(path) => format!("removing {}", path.display()),
        }
    }
}

/// Something that is still there, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// Absolute path.
    pub path: PathBuf,
    /// Why it wasn't removed.
    pub why: String,
}

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// How many mounts were unmounted.
    pub unmounted: u64,
    /// How many files, links and directories were removed.
    pub removed: u64,
    /// What is still there.
    pub left: Vec<Left>,
}

/// Takes away mounts and trees.
#[async_trait]
pub trait Removal: Send + Sync + Debug {
    /// Does the orders one after the other, all of them also where one fails; what isn't there is done already.
    async fn run(&self, orders: &[Order], limit: Duration) -> Result<Report, RemovalError>;
}

/// Does the orders below a root, in the mount namespace of the caller. `told` hears what is begun.
pub fn perform(
    root: &Root,
    orders: &[Order],
    unmount: &dyn Fn(&Mount) -> io::Result<()>,
    mut told: impl FnMut(&str),
) -> Report {
    let mut report = Report::default();
    for order in orders {
        told(&order.in_words());
        let path = order.path();
        if let Err(why) = check(path) {
            report.left.push(Left {
                path: path.to_path_buf(),
                why: why.to_owned(),
            });
            continue;
        }
        match order {
            Order::Unmount(point) => take_mount(root, point, unmount, &mut report),
            Order::Remove(path) => take_tree(root, path, &mut report),
            Order::RemoveEmpty(path) => {
                if std::fs::remove_dir(root.path(path)).is_ok() {
                    report.removed += 1;
                }
            }
        }
    }
    report
}

/// No order may name a directory that the whole system lives in.
fn check(path: &Path) -> Result<(), &'static str> {
    let plain = path
        .components()
        .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !path.is_absolute() || !plain {
        return Err("not a plain absolute path");
    }
    if path.components().count() < 3 {
        return Err("a directory of the system itself");
    }
    Ok(())
}

/// The mount table of PID 1, read now.
fn table(root: &Root) -> io::Result<Vec<Mount>> {
    Ok(mounts::parse(&std::fs::read(root.path(mounts::TABLE))?))
}

fn take_mount(
    root: &Root,
    point: &Path,
    unmount: &dyn Fn(&Mount) -> io::Result<()>,
    report: &mut Report,
) {
    let done = match table(root) {
        // Of several on one point the last is the topmost.
        Ok(table) => match table.iter().rfind(|mount| mount.point == point) {
            Some(mount) => unmount(mount),
            None => return,
        },
        Err(error) => Err(error),
    };
    match done {
        Ok(()) => report.unmounted += 1,
        Err(error) => report.left.push(Left {
            path: point.to_path_buf(),
            why: format!("it can't be unmounted: {error}"),
        }),
    }
}

fn take_tree(root: &Root, path: &Path, report: &mut Report) {
    match table(root) {
        Ok(table) => {
            let below = mounts::at_or_below(&table, path);
            if !below.is_empty() {
                // As a whole: half a tree around somebody's data helps nobody.
                report.left.extend(below.into_iter().map(|mount| Left {
                    path: mount.point.clone(),
                    why: format!("{} is mounted there", mount.source),
                }));
                return;
            }
        }
        Err(error) => {
            report.left.push(Left {
                path: path.to_path_buf(),
                why: format!("the mount table can't be read: {error}"),
            });
            return;
        }
    }
    tree::remove(root, path, report);
}

/// Unmounts in this namespace: at once, also where a server is dead; where something holds the mount, it goes when that lets go.
///
/// Force ends what waits for the server of a network file system. Others may take it for leave to lose what is not written yet.
pub fn unmount(mount: &Mount) -> io::Result<()> {
    use nix::errno::Errno;
    use nix::mount::{MntFlags, umount2};
    let flags = MntFlags::UMOUNT_NOFOLLOW;
    let first = if mount.is_network() {
        flags | MntFlags::MNT_FORCE
    } else {
        flags
    };
    match umount2(&mount.point, first) {
        Ok(()) => Ok(()),
        Err(Errno::EBUSY) => Ok(umount2(&mount.point, flags | MntFlags::MNT_DETACH)?),
        Err(errno) => Err(errno.into()),
    }
}
