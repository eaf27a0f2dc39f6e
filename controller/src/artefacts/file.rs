//! Files of artefacts: written by one blocking task that hashes what it writes, so that memory stays the same however
//! big they are. Used by download and import.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use canasta_durable::Error as FileError;
use canasta_transport::facts::hex;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::Error;

/// How many chunks may wait for the disk.
const QUEUE: usize = 8;
/// Buffers of a file that is read: one being filled, those that wait, and those that the transport holds.
const RING: usize = 5;
/// How much is read at once for hashing.
const READ: usize = 256 * 1024;

/// What a finished file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) sha256: String,
    pub(super) size: u64,
}

/// Takes chunks for a file.
#[derive(Debug)]
pub(super) struct Writer {
    path: PathBuf,
    chunks: Option<mpsc::Sender<Bytes>>,
    task: JoinHandle<Result<Written, FileError>>,
}

impl Writer {
    /// Opens a file for appending after its first `keep` bytes, which are hashed first; 0 begins anew.
    pub(super) fn open(path: &Path, keep: u64) -> Self {
        let (chunks, waiting) = mpsc::channel(QUEUE);
        let path = path.to_owned();
        let task = tokio::task::spawn_blocking({
            let path = path.clone();
            move || write(&path, keep, waiting)
        });
        Self {
            path,
            chunks: Some(chunks),
            task,
        }
    }

    /// Hands over a chunk; waits while the disk is behind.
    pub(super) async fn write(&mut self, chunk: Bytes) -> Result<(), Error> {
        if let Some(chunks) = &self.chunks
            && chunks.send(chunk).await.is_ok()
        {
            return Ok(());
        }
        // The task has ended early, so it tells why.
        self.chunks = None;
        match (&mut self.task).await {
            Ok(Err(error)) => Err(error.into()),
            _ => Err(self.task_error()),
        }
    }

    /// Waits until all is on disk.
    pub(super) async fn finish(mut self) -> Result<Written, Error> {
        self.chunks = None;
        match (&mut self.task).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(self.task_error()),
        }
    }

    fn task_error(&self) -> Error {
        Error::Task {
            path: self.path.clone(),
        }
    }
}

fn write(path: &Path, keep: u64, mut chunks: mpsc::Receiver<Bytes>) -> Result<Written, FileError> {
    let failed = |action| move |source| FileError::new(action, path, source);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(keep == 0)
        .mode(0o600)
        .open(path)
        .map_err(failed("create"))?;
    file.set_len(keep).map_err(failed("write"))?;
    let mut hash = Sha256::new();
    let mut size = hash_file(&mut file, &mut hash).map_err(failed("read"))?;
    while let Some(chunk) = chunks.blocking_recv() {
        file.write_all(&chunk).map_err(failed("write"))?;
        hash.update(&chunk);
        size += chunk.len() as u64;
    }
    file.sync_all().map_err(failed("sync"))?;
    Ok(Written {
        sha256: hex(&hash.finalize()),
        size,
    })
}

fn hash_file(file: &mut File, hash: &mut Sha256) -> std::io::Result<u64> {
    let mut buffer = vec![0; READ];
    let mut size = 0;
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(size);
        }
        hash.update(&buffer[..count]);
        size += count as u64;
    }
}

/// What a file looks like from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) size: u64,
    /// When it was changed, nanoseconds since 1970.
    pub(super) modified: i64,
}

/// Looks at a file; `None` where there is none.
pub(super) fn look(path: &Path) -> Result<Option<Look>, FileError> {
    match std::fs::metadata(path) {
        Ok(found) => Ok(Some(Look {
            size: found.size(),
            modified: found
                .mtime()
                .saturating_mul(1_000_000_000)
                .saturating_add(found.mtime_nsec()),
        })),
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(FileError::new("look at", path, source)),
    }
}

/// Hashes a whole file on a blocking task.
pub(super) async fn hash(path: &Path) -> Result<String, Error> {
    let path = path.to_owned();
    let task = tokio::task::spawn_blocking({
        let path = path.clone();
        move || {
            let mut hash = Sha256::new();
            let mut file =
                File::open(&path).map_err(|source| FileError::new("read", &path, source))?;
            hash_file(&mut file, &mut hash)
                .map_err(|source| FileError::new("read", &path, source))?;
            Ok::<_, FileError>(hex(&hash.finalize()))
        }
    });
    match task.await {
        Ok(result) => Ok(result?),
        Err(_) => Err(Error::Task { path }),
    }
}

/// Runs file work that may be slow away from the runtime.
pub(super) async fn blocking<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce(&Path) -> Result<T, FileError> + Send + 'static,
) -> Result<T, Error> {
    let path = path.to_owned();
    let task = tokio::task::spawn_blocking({
        let path = path.clone();
        move || work(&path)
    });
    match task.await {
        Ok(result) => Ok(result?),
        Err(_) => Err(Error::Task { path }),
    }
}

/// Gives a finished file its final name, for good.
pub(super) fn publish(from: &Path, to: &Path) -> Result<(), FileError> {
    std::fs::rename(from, to).map_err(|source| FileError::new("replace", to, source))?;
    canasta_durable::sync_parent(to)
}

/// Refuses what would not fit on the disk of `directory`, or would leave less than `reserve` bytes of it free.
pub(super) fn check_space(directory: &Path, size: u64, reserve: u64) -> Result<(), Error> {
    // Where the free space can't be told, the write itself tells.
    let Ok(found) = nix::sys::statvfs::statvfs(directory) else {
        return Ok(());
    };
    let free = found
        .blocks_available()
        .saturating_mul(found.fragment_size());
    let needed = size.saturating_add(reserve);
    if free < needed {
        return Err(Error::NoSpace {
            path: directory.to_owned(),
            needed,
            free,
        });
    }
    Ok(())
}

/// Reads a file from an offset, a few chunks ahead of whoever takes them.
pub(super) fn read_chunks(
    path: &Path,
    offset: u64,
    chunk: usize,
) -> mpsc::Receiver<Result<Bytes, FileError>> {
    let (sender, chunks) = mpsc::channel(2);
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || {
        let mut file = match open_at(&path, offset) {
            Ok(file) => file,
            Err(source) => {
                let _nobody_waits =
                    sender.blocking_send(Err(FileError::new("read", &path, source)));
                return;
            }
        };
        // Used in turn, each again when its chunk is gone: fresh memory for each chunk would cost a page fault for every 4 KiB.
        let mut ring = VecDeque::from(vec![BytesMut::new(); RING]);
        loop {
            let mut buffer = ring.pop_front().unwrap_or_default();
            buffer.clear();
            if !buffer.try_reclaim(chunk) {
                buffer = BytesMut::with_capacity(chunk);
            }
            buffer.resize(chunk, 0);
            let item = match read_full(&mut file, &mut buffer) {
                Ok(0) => return,
                Ok(count) => Ok(buffer.split_to(count).freeze()),
                Err(source) => Err(FileError::new("read", &path, source)),
            };
            ring.push_back(buffer);
            let last = item.is_err();
            if sender.blocking_send(item).is_err() || last {
                return;
            }
        }
    });
    chunks
}

fn open_at(path: &Path, offset: u64) -> std::io::Result<File> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    Ok(file)
}

fn read_full(file: &mut File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}
