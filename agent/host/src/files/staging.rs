//! Large files that arrive in chunks: written beside their target, resumed after a break, verified, renamed into place.
//!
//! A staged file is named after its target and its announced SHA-256 (`.k3s.part-0123456789abcdef`), so that a resumed transfer
//! never continues another file. Opening one removes the staged files of other contents for the same target.
//!
//! A transfer is the work of one thread from its first chunk to its last: handing every chunk to another thread and waiting
//! for the answer costs more than writing it.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use sha2::{Digest, Sha256};

use super::{Change, FileError, Root, hash_into, hex};

/// What stands between the target's name and the digest in the name of a staged file.
const PART: &str = ".part-";

/// How many digits of the digest are in the name.
const DIGITS: usize = 16;

/// After so many bytes the disk is set to work while more arrive: what is left for the end is short, and memory holds little
/// that is not on the disk.
const FLUSH_EVERY: u64 = 64 << 20;

/// A file that is being received. Dropping it keeps what has arrived, for a later resume. Its methods block.
#[derive(Debug)]
pub struct Staging {
    target: PathBuf,
    path: PathBuf,
    expected: Expected,
    file: File,
    hasher: Sha256,
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
            let (file, hasher, offset) = resume(&path, expected.size)?;
            Ok(Staging {
                target: full.to_path_buf(),
                path,
                expected,
                file,
                hasher,
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
    pub fn append(&mut self, offset: u64, chunk: &[u8]) -> Result<u64, FileError> {
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
        if let Err(source) = self.file.write_all(chunk) {
            // A part of the chunk may be there; cut it off so that file and hash stay one.
            let _ = self
                .file
                .set_len(offset)
                .and_then(|()| self.file.seek(SeekFrom::Start(offset)));
            return Err(FileError::io("write", &self.path, source));
        }
        self.hasher.update(chunk);
        self.offset = end;
        if end - self.flushed >= FLUSH_EVERY {
            self.flush_behind()?;
        }
        Ok(end)
    }

    /// Begins to bring to the disk what has arrived, beside the chunks to come. Waits for the flush before this one.
    fn flush_behind(&mut self) -> Result<(), FileError> {
        self.flush_ended()?;
        self.flushed = self.offset;
        let failed = |source| FileError::io("sync", &self.path, source);
        let file = self.file.try_clone().map_err(failed)?;
        let flush = std::thread::Builder::new()
            .name("flush".to_owned())
            .spawn(move || file.sync_data())
            .map_err(failed)?;
        self.flush = Some(flush);
        Ok(())
    }

    /// Waits for the flush that is under way.
    fn flush_ended(&mut self) -> Result<(), FileError> {
        let Some(flush) = self.flush.take() else {
            return Ok(());
        };
        match flush.join() {
            Ok(flushed) => flushed.map_err(|source| FileError::io("sync", &self.path, source)),
            Err(_) => Err(FileError::Interrupted {
                path: self.target.clone(),
            }),
        }
    }

    /// Flushes what has arrived to the disk, so that a resume after a power cut finds it.
    pub fn sync(&mut self) -> Result<(), FileError> {
        self.flush_ended()?;
        self.file
            .sync_data()
            .map_err(|source| FileError::io("sync", &self.path, source))
    }

    /// Checks length and SHA-256, sets `mode`, fsyncs and renames the file over its target. A file that isn't the announced one
    /// is deleted; one that is incomplete stays for a resume.
    pub fn finish(mut self, mode: u32) -> Result<(), FileError> {
        self.flush_ended()?;
        if !self.is_complete() {
            return Err(FileError::Incomplete {
                path: self.target,
                length: self.offset,
                expected: self.expected.size,
            });
        }
        let found = hex(&self.hasher.finalize());
        if found != self.expected.sha256 {
            canasta_durable::remove(&self.path)?;
            return Err(FileError::Checksum {
                path: self.target,
                expected: self.expected.sha256,
                found,
            });
        }
        self.file
            .set_permissions(Permissions::from_mode(mode))
            .map_err(|source| FileError::io("set the mode of", &self.path, source))?;
        Ok(canasta_durable::persist(&self.path, &self.target)?)
    }

    /// Deletes what has arrived.
    pub fn discard(self) -> Result<Change, FileError> {
        Ok(Change::from_bool(canasta_durable::remove(&self.path)?))
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
fn resume(path: &Path, size: u64) -> Result<(File, Sha256, u64), FileError> {
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
    Ok((file, hasher, offset))
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
