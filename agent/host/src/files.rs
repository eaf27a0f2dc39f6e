//! Files below a root directory: the verbs that installers need, each atomic, durable and off the asynchronous threads.
//!
//! Called by every step that writes to a node, and by the collectors that read `/proc`, `/sys` and `/etc`.

use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use canasta_durable::Error as DurableError;
use sha2::{Digest, Sha256};

pub mod staging;

#[cfg(test)]
mod tests;

/// How much of a file is held in memory while it is hashed.
const HASH_BUFFER: usize = 256 * 1024;

/// A file operation on the host that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The file system said no; the variants of the inner error tell a full disk and a read-only one from the rest.
    #[error(transparent)]
    Disk(#[from] DurableError),
    /// More bytes were offered than the file was announced to have.
    #[error("failed to write {}: more than the announced {limit} bytes arrived", path.display())]
    TooLarge {
        /// The file that was being received.
        path: PathBuf,
        /// Bytes that were announced.
        limit: u64,
    },
    /// A chunk doesn't continue where the staged file ends.
    #[error("failed to write {}: a chunk for offset {offered} arrived, the file ends at {expected}", path.display())]
    WrongOffset {
        /// The file that was being received.
        path: PathBuf,
        /// Where the next chunk must begin.
        expected: u64,
        /// Where the chunk said that it begins.
        offered: u64,
    },
    /// A received file is shorter than it was announced.
    #[error("failed to complete {}: {length} of {expected} bytes arrived", path.display())]
    Incomplete {
        /// The file that was being received.
        path: PathBuf,
        /// Bytes that are there.
        length: u64,
        /// Bytes that were announced.
        expected: u64,
    },
    /// A received file isn't the one that was announced. It has been deleted.
    #[error("failed to verify {}: its SHA-256 is {found}, expected {expected}", path.display())]
    Checksum {
        /// The file that was being received.
        path: PathBuf,
        /// The announced SHA-256, in hexadecimal.
        expected: String,
        /// The SHA-256 of what arrived, in hexadecimal.
        found: String,
    },
    /// The thread that did the work ended early: the program is shutting down, or has a bug.
    #[error("failed to finish the work on {}", path.display())]
    Interrupted {
        /// The file that was worked on.
        path: PathBuf,
    },
}

impl FileError {
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Disk(DurableError::new(action, path, source))
    }
}

/// Whether a verb had anything to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The host was changed.
    Changed,
    /// The host was already as asked.
    Unchanged,
}

impl Change {
    /// `Changed` for true.
    pub fn from_bool(changed: bool) -> Self {
        if changed {
            Self::Changed
        } else {
            Self::Unchanged
        }
    }

    /// Whether the host was changed.
    pub fn is_changed(self) -> bool {
        self == Self::Changed
    }
}

/// What became of a wish for a symbolic link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkOutcome {
    /// The link was made.
    Created,
    /// The link was there and points where it should.
    AlreadyThere,
    /// Something else has the name and was left alone.
    Taken {
        /// The other target, where the name is a symbolic link; `None` for a file or directory.
        points_to: Option<PathBuf>,
    },
}

/// A directory that stands for `/`. All paths given to its methods are absolute paths of the host. Cheap to clone.
#[derive(Clone)]
pub struct Root(Arc<Path>);

impl fmt::Debug for Root {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Root").field(&self.0).finish()
    }
}

impl Root {
    /// The machine's own `/`.
    pub fn real() -> Self {
        Self::at("/")
    }

    /// A directory in the place of `/`.
    pub fn at(directory: impl AsRef<Path>) -> Self {
        Self(Arc::from(directory.as_ref()))
    }

    /// Where the host's `path` lies. `..` and `.` are dropped, so the answer is below the root in any case.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let mut full = self.0.to_path_buf();
        full.extend(
            path.as_ref()
                .components()
                .filter(|part| matches!(part, Component::Normal(_))),
        );
        full
    }

    /// Reads a file, or `None` where there is none.
    pub async fn read_optional(
        &self,
        path: impl AsRef<Path>,
    ) -> Result<Option<Vec<u8>>, FileError> {
        self.blocking(path, |full| Ok(canasta_durable::read_optional(full)?))
            .await
    }

    /// Reads a text file, or `None` where there is none. Bytes that aren't UTF-8 are replaced.
    pub async fn read_text(&self, path: impl AsRef<Path>) -> Result<Option<String>, FileError> {
        let content = self.read_optional(path).await?;
        Ok(content.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Makes `path` a file with this content and mode (permission bits); missing directories are created with mode 0755.
    /// Nothing is written where both are right already.
    pub async fn write(
        &self,
        path: impl AsRef<Path>,
        content: impl Into<Vec<u8>>,
        mode: u32,
    ) -> Result<Change, FileError> {
        let content = content.into();
        self.blocking(path, move |full| write_if_different(full, &content, mode))
            .await
    }

    /// Creates a directory and those above it that are missing, each with `mode`. One that exists stays as it is.
    pub async fn create_dir_all(
        &self,
        path: impl AsRef<Path>,
        mode: u32,
    ) -> Result<Change, FileError> {
        self.blocking(path, move |full| {
            let missing = !full.is_dir();
            canasta_durable::create_dir_all(full, mode)?;
            Ok(Change::from_bool(missing))
        })
        .await
    }

    /// The SHA-256 of a file in lower-case hexadecimal, or `None` where there is no file. Memory doesn't depend on its size.
    pub async fn sha256(&self, path: impl AsRef<Path>) -> Result<Option<String>, FileError> {
        self.blocking(path, |full| {
            let mut file = match fs::File::open(full) {
                Ok(file) => file,
                Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(source) => return Err(FileError::io("open", full, source)),
            };
            let mut hasher = Sha256::new();
            hash_into(&mut hasher, &mut file)
                .map_err(|source| FileError::io("read", full, source))?;
            Ok(Some(hex(&hasher.finalize())))
        })
        .await
    }

    /// Makes the symbolic link `path` → `target` (stored as given) if nothing has that name.
    pub async fn symlink_if_free(
        &self,
        path: impl AsRef<Path>,
        target: impl AsRef<Path>,
    ) -> Result<LinkOutcome, FileError> {
        let target = target.as_ref().to_path_buf();
        self.blocking(path, move |full| link_if_free(full, &target))
            .await
    }

    /// Whether `path` is a symbolic link that holds exactly `target`.
    pub async fn is_symlink_to(
        &self,
        path: impl AsRef<Path>,
        target: impl AsRef<Path>,
    ) -> Result<bool, FileError> {
        let target = target.as_ref().to_path_buf();
        self.blocking(path, move |full| {
            Ok(fs::read_link(full).is_ok_and(|found| found == target))
        })
        .await
    }

    /// Removes a file or symbolic link; one that isn't there is no error.
    pub async fn remove_file(&self, path: impl AsRef<Path>) -> Result<Change, FileError> {
        self.blocking(path, |full| {
            Ok(Change::from_bool(canasta_durable::remove(full)?))
        })
        .await
    }

    /// Removes a directory if it is there and empty.
    pub async fn remove_dir_if_empty(&self, path: impl AsRef<Path>) -> Result<Change, FileError> {
        self.blocking(path, |full| match fs::remove_dir(full) {
            Ok(()) => {
                canasta_durable::sync_parent(full)?;
                Ok(Change::Changed)
            }
            Err(source)
                if matches!(
                    source.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty
                ) =>
            {
                Ok(Change::Unchanged)
            }
            Err(source) => Err(FileError::io("remove directory", full, source)),
        })
        .await
    }

    /// Whether anything has this name; a symbolic link counts even where its target is missing.
    pub async fn exists(&self, path: impl AsRef<Path>) -> Result<bool, FileError> {
        self.blocking(path, |full| match fs::symlink_metadata(full) {
            Ok(_) => Ok(true),
            Err(source) if is_absence(&source) => Ok(false),
            Err(source) => Err(FileError::io("look at", full, source)),
        })
        .await
    }

    /// The permission bits of a file or directory, or `None` where there is none.
    pub async fn mode(&self, path: impl AsRef<Path>) -> Result<Option<u32>, FileError> {
        self.blocking(path, mode_of).await
    }

    /// The names in a directory, sorted; empty where there is no such directory.
    pub async fn list(&self, path: impl AsRef<Path>) -> Result<Vec<String>, FileError> {
        self.blocking(path, |full| names_in(full, |_| Ok(true)))
            .await
    }

    /// As [`Root::list`], of directories only; a link to one is none. The file system's own list tells which are: a mount of a
    /// dead server does not hold it up.
    pub async fn list_directories(&self, path: impl AsRef<Path>) -> Result<Vec<String>, FileError> {
        let is_directory = |entry: &fs::DirEntry| Ok(entry.file_type()?.is_dir());
        self.blocking(path, move |full| names_in(full, is_directory))
            .await
    }

    /// Runs `work` on the full path of `path`, on a thread that may block.
    async fn blocking<T, F>(&self, path: impl AsRef<Path>, work: F) -> Result<T, FileError>
    where
        T: Send + 'static,
        F: FnOnce(&Path) -> Result<T, FileError> + Send + 'static,
    {
        let full = self.path(path);
        let named = full.clone();
        tokio::task::spawn_blocking(move || work(&full))
            .await
            .unwrap_or(Err(FileError::Interrupted { path: named }))
    }
}

/// The names in a directory that are wanted, sorted; none where there is no such directory.
fn names_in(
    full: &Path,
    is_wanted: impl Fn(&fs::DirEntry) -> io::Result<bool>,
) -> Result<Vec<String>, FileError> {
    let failed = |source| FileError::io("list", full, source);
    let entries = match fs::read_dir(full) {
        Ok(entries) => entries,
        Err(source) if is_absence(&source) => return Ok(Vec::new()),
        Err(source) => return Err(failed(source)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        match is_wanted(&entry) {
            Ok(true) => names.push(entry.file_name().to_string_lossy().into_owned()),
            Ok(false) => {}
            // It vanished meanwhile.
            Err(source) if is_absence(&source) => {}
            Err(source) => return Err(failed(source)),
        }
    }
    names.sort();
    Ok(names)
}

fn write_if_different(full: &Path, content: &[u8], mode: u32) -> Result<Change, FileError> {
    let is_file = fs::symlink_metadata(full).is_ok_and(|found| found.is_file());
    let same_content = is_file && canasta_durable::read_optional(full)?.as_deref() == Some(content);
    if same_content && mode_of(full)? == Some(mode) {
        return Ok(Change::Unchanged);
    }
    if let Some(directory) = full.parent() {
        canasta_durable::create_dir_all(directory, 0o755)?;
    }
    canasta_durable::write(full, content, mode)?;
    Ok(Change::Changed)
}

fn link_if_free(full: &Path, target: &Path) -> Result<LinkOutcome, FileError> {
    if let Some(directory) = full.parent() {
        canasta_durable::create_dir_all(directory, 0o755)?;
    }
    match std::os::unix::fs::symlink(target, full) {
        Ok(()) => {
            canasta_durable::sync_parent(full)?;
            Ok(LinkOutcome::Created)
        }
        Err(source) if source.kind() == io::ErrorKind::AlreadyExists => {
            Ok(match fs::read_link(full).ok() {
                Some(found) if found == target => LinkOutcome::AlreadyThere,
                points_to => LinkOutcome::Taken { points_to },
            })
        }
        Err(source) => Err(FileError::io("link", full, source)),
    }
}

fn mode_of(full: &Path) -> Result<Option<u32>, FileError> {
    match fs::metadata(full) {
        Ok(found) => Ok(Some(found.permissions().mode() & 0o7777)),
        Err(source) if is_absence(&source) => Ok(None),
        Err(source) => Err(FileError::io("look at", full, source)),
    }
}

/// There is no such file: the name is missing, or something above it is a file.
pub(crate) fn is_absence(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// Feeds the rest of `from` to the hasher and returns how many bytes that were.
fn hash_into(hasher: &mut Sha256, from: &mut impl Read) -> io::Result<u64> {
    let mut buffer = vec![0; HASH_BUFFER];
    let mut total = 0;
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(length) => {
                hasher.update(&buffer[..length]);
                total += length as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Bytes as lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing to a string can't fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}
