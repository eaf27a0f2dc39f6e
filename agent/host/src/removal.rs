//! Taking away mounts and trees of files, in the mount namespace of PID 1.
//!
//! The agent's unit has a mount namespace of its own, so this is done by a program in a transient unit ([`unit::InUnit`]): it sees
//! what PID 1 sees, it can be killed where a dead server holds it up, and the agent's own sandbox stays shut. [`perform`] is
//! what that program does. With the feature `fake`, `fake::FakeRemoval` does the same below the fake host's directory.
//!
//! A tree is never left across a mount: one that holds a mount anywhere is refused as a whole before anything is removed, and
//! every directory is checked once more when it is opened. Symbolic links are removed and never followed. What must not be in a
//! directory when the rest is removed is looked for here too ([`Order::HoldsOnly`]): the agent may see another directory there.

use std::ffi::{OsStr, OsString};
use std::fmt::Debug;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::files::{FileError, Root, is_absence};
use crate::mounts::{self, Mount};
use crate::systemd::SystemdError;

mod tree;
pub mod unit;
mod unmount;

#[cfg(test)]
mod tests;

pub use unmount::unmount;

/// What the words for an unmount and for a look into a directory begin with.
const UNMOUNTING: &str = "unmounting";
const LOOKING: &str = "looking into";
/// How many names are told of a directory that holds what it should not.
const MOST_UNEXPECTED: usize = 100;

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
    /// An earlier piece of work was not over in time.
    #[error(
        "failed to begin within {} s: an earlier removal, or a look of the agent's, is still at work in the unit {}", limit.as_secs(), unit::PLACE.unit
    )]
    Busy {
        /// How long it was waited for.
        limit: Duration,
    },
    /// The program ended without an answer.
    #[error("failed to understand what was done in the mount namespace of PID 1: {doing}")]
    NoAnswer {
        /// What it was at.
        doing: String,
    },
}

impl RemovalError {
    /// Whether it was killed at something that takes no time, an unmount or a look: then most likely a server doesn't answer. A
    /// removal may just have had much to do.
    pub fn waited_for_a_server(&self) -> bool {
        let Self::TimedOut { doing, .. } = self else {
            return false;
        };
        doing.starts_with(UNMOUNTING) || doing.starts_with(LOOKING)
    }
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
    /// Do what follows only if nothing but these names is in this directory, wherever links lead to it. One that isn't there
    /// holds nothing; one that can't be read may hold anything.
    HoldsOnly {
        /// The directory.
        directory: PathBuf,
        /// Names that may be in it.
        names: Vec<String>,
        /// Only names that begin like this count; all where it is empty.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        beginning: String,
    },
}

impl Order {
    fn path(&self) -> &Path {
        match self {
            Self::Unmount(path) | Self::Remove(path) | Self::RemoveEmpty(path) => path,
            Self::HoldsOnly { directory, .. } => directory,
        }
    }

    fn in_words(&self) -> String {
        match self {
            Self::Unmount(path) => format!("{UNMOUNTING} {}", path.display()),
            Self::Remove(path) | Self::RemoveEmpty(path) => format!("removing {}", path.display()),
            Self::HoldsOnly { directory, .. } => format!("{LOOKING} {}", directory.display()),
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
    /// What lies in a directory that should hold nothing else; what was to follow was not begun.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unexpected: Vec<PathBuf>,
}

/// Takes away mounts and trees.
#[async_trait]
pub trait Removal: Send + Sync + Debug {
    /// Waits at most `limit` for earlier work to end, and has done in what is left of it; whatever is begun goes on also where
    /// nobody waits for its end any more. Does the orders one after the other, all of them also where one fails; what isn't there is done already. Only a directory
    /// that holds more than it should ([`Order::HoldsOnly`]) ends the work.
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
        if let Order::HoldsOnly {
            directory,
            names,
            beginning,
        } = order
        {
            let counts = |name: &OsStr| {
                name.as_encoded_bytes().starts_with(beginning.as_bytes())
                    && !names.iter().any(|known| name == known.as_str())
            };
            if !holds_only(root, directory, counts, &mut report) {
                return report;
            }
            continue;
        }
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
            Order::HoldsOnly { .. } => {}
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

/// Whether a directory holds nothing that counts; tells what else it holds, or why that can't be known.
fn holds_only(
    root: &Root,
    directory: &Path,
    counts: impl Fn(&OsStr) -> bool,
    report: &mut Report,
) -> bool {
    let others = match others(&root.path(directory), counts) {
        Ok(others) => others,
        Err(error) if is_absence(&error) => return true,
        Err(error) => {
            report.left.push(Left {
                path: directory.to_path_buf(),
                why: format!("what lies in it can't be read, so nothing was removed: {error}"),
            });
            return false;
        }
    };
    let unexpected = others.into_iter().map(|name| directory.join(name));
    report.unexpected.extend(unexpected);
    report.unexpected.is_empty()
}

/// The names in a directory that count.
fn others(directory: &Path, counts: impl Fn(&OsStr) -> bool) -> io::Result<Vec<OsString>> {
    let mut others = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name();
        if counts(&name) {
            others.push(name);
        }
        if others.len() == MOST_UNEXPECTED {
            break;
        }
    }
    others.sort();
    Ok(others)
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
    match mounts_below(root, path) {
        Ok(below) if below.is_empty() => tree::remove(root, path, report),
        // As a whole: half a tree around somebody's data helps nobody.
        Ok(below) => report.left.extend(below.into_iter().map(|mount| Left {
            why: format!("{} is mounted there", mount.source),
            path: mount.point,
        })),
        Err(error) => report.left.push(Left {
            path: path.to_path_buf(),
            why: format!("whether something is mounted there can't be told: {error}"),
        }),
    }
}

/// What is mounted at a path or below it. The table has the places that links lead to, so the path is followed there first; a
/// link in its own last part is what goes, and isn't followed.
fn mounts_below(root: &Root, path: &Path) -> io::Result<Vec<Mount>> {
    let full = root.path(path);
    let (Some(above), Some(name)) = (full.parent(), full.file_name()) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    };
    let real = match above.canonicalize() {
        Ok(above) => above.join(name),
        Err(error) if is_absence(&error) => full.clone(),
        Err(error) => return Err(error),
    };
    let base = root.path("/").canonicalize()?;
    // What leads out of a directory that stands for `/` has no place in its table.
    let real = real
        .strip_prefix(&base)
        .map_or_else(|_out| path.to_path_buf(), |rest| Path::new("/").join(rest));
    let table = table(root)?;
    let below = mounts::at_or_below(&table, &real);
    Ok(below.into_iter().cloned().collect())
}
