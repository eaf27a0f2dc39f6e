//! Large files that arrive in chunks: written beside their target, resumed after a break, verified, renamed into place.
//!
//! A staged file is named after its target and its announced SHA-256 (`.k3s.part-0123456789abcdef`), so that a resumed transfer
//! never continues another file. Opening one removes the staged files of other contents for the same target.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::task::JoinHandle;

use super::{Change, FileError, Root, hash_into, hex};

/// What stands between the target's name and the digest in the name of a staged file.
const PART: &str = ".part-";

/// How many digits of the digest are in the name.
const DIGITS: usize = 16;

/// After so many bytes the disk is set to work while more arrive: what is left for the end is short, and memory holds little
/// that is not on the disk.
const FLUSH_EVERY: u64 = 32 << 20;

/// A file that is being received. Dropping it keeps what has arrived, for a later resume.
#[derive(Debug)]
pub struct Staging {
    target: PathBuf,
    path: PathBuf,
    expected: Expected,
    /// `None` only while a chunk is being written, or after that work was interrupted.
    open: Option<Open>,
    offset: u64,
    /// Where the last flush was begun.
    flushed: u64,
    /// The flush that is under way. The kernel tells a write error to whoever asks first, so its answer must be heard.
    flush: Option<JoinHandle<std::io::Result<()>>>,
}

/// What the received file must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// SHA-256 in lower-case hexadecimal.
    pub sha256: String,
    /// Length in bytes; nothing beyond it is written.
    pub size: u64,
}

#[derive(Debug)]
struct Open {
    file: File,
    hasher: Sha256,
}

impl Root {
    /// Opens the staged file for `target`, new or as an earlier transfer left it. Missing directories are created.
    ///
    /// What is there already is hashed first, so this takes as long as reading it.
    pub async fn open_staging(
        &self,
        target: impl AsRef<Path>,
        expected: Expected,
    ) -> Result<Staging, FileError> {
        self.blocking(target, move |full| {
            let path = staged_path(full, &expected.sha256);
            if let Some(directory) = full.parent() {
                canasta_durable::create_dir_all(directory, 0o755)?;
            }
            sweep_others(full, Some(&path))?;
            let (open, offset) = resume(&path, expected.size)?;
            Ok(Staging {
                target: full.to_path_buf(),
                path,
                expected,
                open: Some(open),
                offset,
                flushed: offset,
                flush: None,
            })
        })
        .await
    }

    /// Removes all staged files for `target`, and returns how many there were.
    pub async fn sweep_staging(&self, target: impl AsRef<Path>) -> Result<usize, FileError> {
        self.blocking(target, |full| sweep_others(full, None)).await
    }
}

impl Staging {
    /// Bytes that are there: where the next chunk must begin.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Whether all announced bytes are there.
    pub fn is_complete(&self) -> bool {
        self.offset == self.expected.size
    }

    /// Appends a chunk that begins at `offset` and returns where the next one begins.
    pub async fn append(&mut self, offset: u64, chunk: Bytes) -> Result<u64, FileError> {
        if offset != self.offset {
            return Err(FileError::WrongOffset {
                path: self.target.clone(),
                expected: self.offset,
                offered: offset,
            });
        }
        let end = offset.saturating_add(chunk.len() as u64);
        if end > self.expected.size {
            return Err(FileError::TooLarge {
                path: self.target.clone(),
                limit: self.expected.size,
            });
        }
        self.with_open(move |open, path| {
            let written = open.file.write_all(&chunk);
            if written.is_err() {
                // A part of the chunk may be there; cut it off so that file and hash stay one.
                let _ = open
                    .file
                    .set_len(offset)
                    .and_then(|()| open.file.seek(SeekFrom::Start(offset)));
            }
            written.map_err(|source| FileError::io("write", path, source))?;
            open.hasher.update(&chunk);
            Ok(())
        })
        .await?;
        self.offset = end;
        if end - self.flushed >= FLUSH_EVERY {
            self.flush_behind().await?;
        }
        Ok(end)
    }

    /// Begins to bring to the disk what has arrived, beside the chunks to come. Waits for the flush before this one.
    async fn flush_behind(&mut self) -> Result<(), FileError> {
        self.flush_ended().await?;
        self.flushed = self.offset;
        let file = match &self.open {
            Some(open) => open.file.try_clone(),
            None => return Ok(()),
        };
        let file = file.map_err(|source| FileError::io("sync", &self.path, source))?;
        self.flush = Some(tokio::task::spawn_blocking(move || file.sync_data()));
        Ok(())
    }

    /// Waits for the flush that is under way.
    async fn flush_ended(&mut self) -> Result<(), FileError> {
        let Some(flush) = self.flush.take() else {
            return Ok(());
        };
        match flush.await {
            Ok(flushed) => flushed.map_err(|source| FileError::io("sync", &self.path, source)),
            Err(_) => Err(FileError::Interrupted {
                path: self.target.clone(),
            }),
        }
    }

    /// Flushes what has arrived to the disk, so that a resume after a power cut finds it.
    pub async fn sync(&mut self) -> Result<(), FileError> {
        self.flush_ended().await?;
        self.with_open(|open, path| {
            open.file
                .sync_data()
                .map_err(|source| FileError::io("sync", path, source))
        })
        .await
    }

    /// Checks length and SHA-256, sets `mode`, fsyncs and renames the file over its target. A file that isn't the announced one
    /// is deleted; one that is incomplete stays for a resume.
    pub async fn finish(mut self, mode: u32) -> Result<(), FileError> {
        self.flush_ended().await?;
        let (target, expected, offset) = (self.target.clone(), self.expected.clone(), self.offset);
        if offset != expected.size {
            return Err(FileError::Incomplete {
                path: target,
                length: offset,
                expected: expected.size,
            });
        }
        self.with_open(move |open, path| {
            let found = hex(&open.hasher.clone().finalize());
            if found != expected.sha256 {
                canasta_durable::remove(path)?;
                return Err(FileError::Checksum {
                    path: target,
                    expected: expected.sha256,
                    found,
                });
            }
            open.file
                .set_permissions(Permissions::from_mode(mode))
                .map_err(|source| FileError::io("set the mode of", path, source))?;
            Ok(canasta_durable::persist(path, &target)?)
        })
        .await
    }

    /// Deletes what has arrived.
    pub async fn discard(mut self) -> Result<Change, FileError> {
        self.with_open(|_, path| Ok(Change::from_bool(canasta_durable::remove(path)?)))
            .await
    }

    /// Runs `work` on the open file on a thread that may block.
    async fn with_open<T, F>(&mut self, work: F) -> Result<T, FileError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Open, &Path) -> Result<T, FileError> + Send + 'static,
    {
        let interrupted = || FileError::Interrupted {
            path: self.target.clone(),
        };
        let mut open = self.open.take().ok_or_else(interrupted)?;
        let path = self.path.clone();
        let done = tokio::task::spawn_blocking(move || {
            let answer = work(&mut open, &path);
            (open, answer)
        });
        let (open, answer) = done.await.map_err(|_| interrupted())?;
        self.open = Some(open);
        answer
    }
}

fn staged_path(target: &Path, sha256: &str) -> PathBuf {
    let digits: String = sha256
        .chars()
        .filter(char::is_ascii_hexdigit)
        .take(DIGITS)
        .collect();
    target.with_file_name(format!("{}{digits}", staged_prefix(target)))
}

fn staged_prefix(target: &Path) -> String {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    format!(".{name}{PART}")
}

/// Opens or creates the staged file and brings hasher and position to its end. One that is longer than announced starts afresh.
fn resume(path: &Path, size: u64) -> Result<(Open, u64), FileError> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        // A link that somebody put in its place is not followed.
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(path)
        .map_err(|source| FileError::io("open", path, source))?;
    let mut hasher = Sha256::new();
    let mut offset =
        hash_into(&mut hasher, &mut file).map_err(|source| FileError::io("read", path, source))?;
    if offset > size {
        file.set_len(0)
            .and_then(|()| file.seek(SeekFrom::Start(0)))
            .map_err(|source| FileError::io("empty", path, source))?;
        (hasher, offset) = (Sha256::new(), 0);
    }
    Ok((Open { file, hasher }, offset))
}

/// Removes the staged files for `target` other than `keep`.
fn sweep_others(target: &Path, keep: Option<&Path>) -> Result<usize, FileError> {
    let Some(directory) = target.parent().filter(|directory| directory.is_dir()) else {
        return Ok(0);
    };
    let prefix = staged_prefix(target);
    let mut swept = 0;
    for entry in
        std::fs::read_dir(directory).map_err(|source| FileError::io("list", directory, source))?
    {
        let entry = entry.map_err(|source| FileError::io("list", directory, source))?;
        let path = entry.path();
        let ours = entry.file_name().to_string_lossy().starts_with(&prefix);
        if ours && keep != Some(path.as_path()) && canasta_durable::remove(&path)? {
            swept += 1;
        }
    }
    Ok(swept)
}
