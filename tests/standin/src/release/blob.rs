//! What an asset consists of: a file, perhaps with a trailer behind it; read in parts, hashed once.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

use crate::token;

const PART: usize = 64 * 1024;

/// A file and the bytes behind its end.
#[derive(Clone, Debug)]
pub(super) struct Blob {
    file: PathBuf,
    file_length: u64,
    modified: SystemTime,
    tail: Bytes,
}

impl Blob {
    pub(super) fn open(file: &Path, tail: Vec<u8>) -> io::Result<Self> {
        let metadata = std::fs::metadata(file)?;
        Ok(Self {
            file: file.to_owned(),
            file_length: metadata.len(),
            modified: metadata.modified()?,
            tail: tail.into(),
        })
    }

    pub(super) fn length(&self) -> u64 {
        self.file_length + self.tail.len() as u64
    }

    /// Reads the bytes from `start` to before `end`, a part at a time.
    pub(super) async fn reader(&self, start: u64, end: u64) -> io::Result<Reader> {
        let mut file = tokio::fs::File::open(&self.file).await?;
        file.seek(SeekFrom::Start(start.min(self.file_length)))
            .await?;
        Ok(Reader {
            file,
            file_left: end.min(self.file_length).saturating_sub(start),
            tail: slice(
                &self.tail,
                start.saturating_sub(self.file_length),
                end.saturating_sub(self.file_length),
            ),
        })
    }

    fn digest(&self) -> io::Result<String> {
        let mut hasher = Sha256::new();
        let mut file = File::open(&self.file)?;
        let mut part = vec![0; PART];
        loop {
            let read = file.read(&mut part)?;
            if read == 0 {
                break;
            }
            hasher.update(&part[..read]);
        }
        hasher.update(&self.tail);
        Ok(token::hex(&hasher.finalize()))
    }
}

fn slice(tail: &Bytes, start: u64, end: u64) -> Bytes {
    let index = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(tail.len());
    tail.slice(index(start)..index(end).max(index(start)))
}

/// The rest of a blob that is being read.
pub(super) struct Reader {
    file: tokio::fs::File,
    file_left: u64,
    tail: Bytes,
}

impl Reader {
    /// The next part, at most `limit` bytes; `None` at the end.
    pub(super) async fn next(&mut self, limit: usize) -> io::Result<Option<Bytes>> {
        if self.file_left == 0 {
            let tail = self.tail.split_to(limit.min(self.tail.len()));
            return Ok((!tail.is_empty()).then_some(tail));
        }
        let want = usize::try_from(self.file_left)
            .unwrap_or(PART)
            .min(limit)
            .min(PART);
        let mut part = vec![0; want];
        let read = self.file.read(&mut part).await?;
        if read == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the file became shorter",
            ));
        }
        part.truncate(read);
        self.file_left -= read as u64;
        Ok(Some(part.into()))
    }
}

/// Hashes of the blobs that were asked for.
#[derive(Default)]
pub(super) struct Hashes(Mutex<HashMap<(PathBuf, u64, SystemTime, Bytes), String>>);

impl Hashes {
    pub(super) async fn of(&self, blob: &Blob) -> io::Result<String> {
        let key = (
            blob.file.clone(),
            blob.file_length,
            blob.modified,
            blob.tail.clone(),
        );
        let known = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&key)
            .cloned();
        if let Some(hash) = known {
            return Ok(hash);
        }
        let blob = blob.clone();
        let hash = tokio::task::spawn_blocking(move || blob.digest())
            .await
            .map_err(io::Error::other)??;
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key, hash.clone());
        Ok(hash)
    }
}
