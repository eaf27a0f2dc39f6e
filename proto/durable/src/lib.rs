//! Files that survive a crash.
//!
//! Both daemons and the CLI keep every file that matters through this crate: the content goes to a temporary name beside the
//! target, is fsynced, renamed over the target, and the directory is fsynced. A reader sees the old file or the new one, never
//! half of one, and what was written is still there after a power cut.
//!
//! All functions block; asynchronous callers run them on a blocking thread.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

mod error;

pub use error::Error;

/// What stands between the name of the target and the unique part in a temporary name.
const TEMPORARY: &str = ".tmp-";

/// Writes `content` to `path` with `mode` (permission bits such as `0o600`), replacing what was there.
///
/// The file has its mode before it has its content, whatever the umask, and the directory must exist. Where this fails, the old
/// file is untouched and the temporary one is removed again.
pub fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), Error> {
    let temporary = temporary_name(path)?;
    let written = fill(&temporary, content, mode).and_then(|()| rename(&temporary, path));
    if written.is_err() {
        // The error that is returned says more than a failure of the clean-up could; `sweep` finds what stays.
        let _ = fs::remove_file(&temporary);
    }
    written?;
    sync_parent(path)
}

/// Moves a finished file that was written elsewhere on the same file system to `target`: fsync, rename, fsync of the directory.
///
/// For large files that were streamed to a name of their own beside the target.
pub fn persist(temporary: &Path, target: &Path) -> Result<(), Error> {
    File::open(temporary)
        .and_then(|file| file.sync_all())
        .map_err(|source| Error::new("sync", temporary, source))?;
    rename(temporary, target)?;
    sync_parent(target)
}

/// Creates the directory `path` and those above it that are missing, each with `mode`; directories that exist stay as they are.
pub fn create_dir_all(path: &Path, mode: u32) -> Result<(), Error> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = parent_of(path) {
        create_dir_all(parent, mode)?;
    }
    match fs::DirBuilder::new().mode(mode).create(path) {
        Ok(()) => {}
        Err(source) if source.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {
            return Ok(());
        }
        Err(source) => return Err(Error::new("create directory", path, source)),
    }
    // The umask may have taken bits away.
    fs::set_permissions(path, Permissions::from_mode(mode))
        .map_err(|source| Error::new("set the mode of", path, source))?;
    sync_parent(path)
}

/// Removes the file or symbolic link `path`. Returns whether there was one.
pub fn remove(path: &Path) -> Result<bool, Error> {
    match fs::remove_file(path) {
        Ok(()) => sync_parent(path).map(|()| true),
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(Error::new("remove", path, source)),
    }
}

/// Reads a file, or `None` where there is none.
pub fn read_optional(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::new("read", path, source)),
    }
}

/// Removes temporary files (`.NAME.tmp-*`) that a crash left in `directory`, and returns how many there were.
///
/// Call it at start, before anything writes to that directory. A directory that doesn't exist holds no leftovers.
pub fn sweep(directory: &Path) -> Result<usize, Error> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(source) => return Err(Error::new("list", directory, source)),
    };
    let mut swept = 0;
    for entry in entries {
        let entry = entry.map_err(|source| Error::new("list", directory, source))?;
        let name = entry.file_name();
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if is_file && is_temporary(&name.to_string_lossy()) && remove(&entry.path())? {
            swept += 1;
        }
    }
    Ok(swept)
}

/// Flushes the directory that holds `path`, so that a rename, creation or removal in it survives a crash.
pub fn sync_parent(path: &Path) -> Result<(), Error> {
    let directory = parent_of(path).unwrap_or_else(|| Path::new("/"));
    File::open(directory)
        .and_then(|file| file.sync_all())
        .map_err(|source| Error::new("sync directory", directory, source))
}

/// The directory that holds `path`: `.` for a bare name, `None` for the root.
fn parent_of(path: &Path) -> Option<&Path> {
    path.parent().map(|parent| {
        if parent.as_os_str().is_empty() {
            Path::new(".")
        } else {
            parent
        }
    })
}

fn fill(temporary: &Path, content: &[u8], mode: u32) -> Result<(), Error> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode & 0o700)
        .open(temporary)
        .map_err(|source| Error::new("create", temporary, source))?;
    file.set_permissions(Permissions::from_mode(mode))
        .map_err(|source| Error::new("set the mode of", temporary, source))?;
    file.write_all(content)
        .map_err(|source| Error::new("write", temporary, source))?;
    file.sync_all()
        .map_err(|source| Error::new("sync", temporary, source))
}

fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    fs::rename(from, to).map_err(|source| Error::new("replace", to, source))
}

/// A name beside `path` that no other write of this or another process uses at the same time.
fn temporary_name(path: &Path) -> Result<PathBuf, Error> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().ok_or_else(|| {
        Error::new(
            "write",
            path,
            io::Error::from(io::ErrorKind::InvalidFilename),
        )
    })?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(
        "{TEMPORARY}{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    ));
    Ok(path.with_file_name(temporary))
}

fn is_temporary(name: &str) -> bool {
    name.starts_with('.') && name.find(TEMPORARY).is_some_and(|at| at > 1)
}

#[cfg(test)]
mod tests;
