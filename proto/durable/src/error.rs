//! What can go wrong with a file: the two causes that an operator mends (no space, read-only), and the rest.

use std::io;
use std::path::{Path, PathBuf};

/// A file operation that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file system (or the quota) is full.
    #[error("failed to {action} {}: the disk is full{}", path.display(), free_text(*free))]
    DiskFull {
        /// What was tried, as a verb: `write`, `sync`.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Bytes that were still available to this user right after the failure; `None` where that can't be told.
        free: Option<u64>,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The file system is mounted read-only.
    #[error("failed to {action} {}: the file system is read-only", path.display())]
    ReadOnly {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Anything else: permissions, a missing directory, a device error.
    #[error("failed to {action} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// Sorts a system error by what an operator has to do about it. `action` is a verb that reads well after "failed to".
    pub fn new(action: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                let free = free_near(&path);
                Self::DiskFull {
                    action,
                    path,
                    free,
                    source,
                }
            }
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly {
                action,
                path,
                source,
            },
            _ => Self::Io {
                action,
                path,
                source,
            },
        }
    }

    /// The file or directory that the error is about.
    pub fn path(&self) -> &Path {
        match self {
            Self::DiskFull { path, .. } | Self::ReadOnly { path, .. } | Self::Io { path, .. } => {
                path
            }
        }
    }
}

/// Bytes available to this user at the nearest existing directory of `path`.
fn free_near(path: &Path) -> Option<u64> {
    let found = path
        .ancestors()
        .find_map(|directory| nix::sys::statvfs::statvfs(directory).ok())?;
    found.blocks_available().checked_mul(found.fragment_size())
}

fn free_text(free: Option<u64>) -> String {
    free.map(|bytes| format!(" ({} KiB free)", bytes / 1024))
        .unwrap_or_default()
}
