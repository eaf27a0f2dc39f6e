//! Large files from the controller: staged beside their place, checked while they arrive, resumed where a push stopped.
//!
//! [`crate::api`] feeds one push at a time; the step that puts the k3s binary in place takes the staged file from
//! [`staged_path`]. Memory does not depend on a file's size: a few chunks wait between the network and the task that
//! hashes and writes.

mod digest;
mod push;
mod sweep;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use canasta_host::files::staging::Expected;
use canasta_host::{FileError, Host, Staging};
use tokio::sync::OwnedMutexGuard;
use tokio_util::sync::CancellationToken;

pub use canasta_proto::artefact::MAX_SIZE;
pub use digest::{Sha256Hex, Sha256HexError};
pub use push::Push;

use crate::agent::Life;
use crate::k3s::paths::{self, staged_binary};

/// The largest chunk, in bytes.
pub const MAX_CHUNK: usize = 1024 * 1024;
/// The most artefacts that stay staged, whole or in part. One more is there from the beginning of a push to the removal after
/// it, where there is room.
const MOST_STAGED: usize = 2;

/// An artefact can't be taken.
#[derive(Debug, thiserror::Error)]
pub enum ArtefactError {
    /// The file can't be read or written, or is not what was announced.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is less room than the rest of the file needs.
    #[error("failed to stage {}: {needed} more bytes are needed and {free} are free", path.display())]
    NoRoom {
        /// The staged file.
        path: PathBuf,
        /// Bytes that are missing.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// The push begins elsewhere than the staged part ends.
    #[error("failed to go on with {}: the push begins at {offered}, and {expected} bytes are staged", path.display())]
    WrongOffset {
        /// The staged file.
        path: PathBuf,
        /// Bytes that are staged.
        expected: u64,
        /// Where the push began.
        offered: u64,
    },
    /// A newer call for an artefact took the place of this one.
    #[error("failed to finish the push: a newer one has taken its place")]
    Superseded,
    /// The agent is shutting down.
    #[error("failed to finish the push: the agent is shutting down")]
    Stopping,
}

/// What the node holds of an artefact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// All of it is there and was checked, or the installed binary is it.
    pub complete: bool,
    /// Bytes that are staged.
    pub offset: u64,
}

/// Where the artefact with this SHA-256 (hex) is staged once it is whole: the path below the host's root.
pub fn staged_path(host: &Host, sha256: &str) -> PathBuf {
    host.root.path(staged_binary(sha256))
}

/// The artefacts of this node. All clones are the same.
#[derive(Debug, Clone)]
pub struct Artefacts {
    host: Host,
    life: Life,
    /// Held by the one push, or look, at a time.
    place: Arc<tokio::sync::Mutex<()>>,
    /// Tells the holder of the place that a newer call wants it: the connection of the older one is most likely dead.
    holder: Arc<Mutex<CancellationToken>>,
}

impl Artefacts {
    /// The artefacts of this host.
    pub fn new(host: Host, life: Life) -> Self {
        Self {
            host,
            life,
            place: Arc::default(),
            holder: Arc::default(),
        }
    }

    /// Tells what is there. A push that is under way gives way.
    ///
    /// # Errors
    /// When a file can't be read.
    pub async fn stat(&self, sha256: &Sha256Hex, size: u64) -> Result<Held, ArtefactError> {
        let (_place, _) = self.take_place().await;
        if self.is_complete(sha256).await? {
            return Ok(Held {
                complete: true,
                offset: size,
            });
        }
        let staging = self.open(sha256, size).await?;
        let offset = staging.offset();
        if offset == 0 {
            self.blocking(move |_| staging.discard()).await?;
        }
        Ok(Held {
            complete: false,
            offset,
        })
    }

    /// Begins or resumes a push at `offset`. Of other artefacts only the newest stays staged: the rest goes after the push, or
    /// before it where the room is needed.
    ///
    /// # Errors
    /// When the offset is not where the staged part ends, when there is no room, or the disk fails.
    pub async fn begin(
        &self,
        sha256: &Sha256Hex,
        size: u64,
        offset: u64,
    ) -> Result<Push, ArtefactError> {
        let (place, superseded) = self.take_place().await;
        if self.is_complete(sha256).await? {
            // The answer to an earlier push was lost.
            return Ok(Push::already_there(size));
        }
        let staging = self.open(sha256, size).await?;
        if staging.offset() != offset {
            return Err(ArtefactError::WrongOffset {
                path: staged_path(&self.host, sha256.as_str()),
                expected: staging.offset(),
                offered: offset,
            });
        }
        let missing = size - offset;
        if self.room_for(sha256, missing).await.is_err() {
            self.keep_newest(Some(sha256), MOST_STAGED - 1).await?;
            self.room_for(sha256, missing).await?;
        }
        // Deleting a large file takes a third of the time of sending one, so nobody is made to wait for it without need.
        let (artefacts, wanted) = (self.clone(), sha256.clone());
        let afterwards = async move { artefacts.sweep_but(Some(&wanted), MOST_STAGED - 1).await };
        Ok(Push::begin(
            &self.life, staging, size, place, superseded, afterwards,
        ))
    }

    /// Removes what is staged beyond the newest. What can't be removed is logged. Called at the agent's start.
    pub async fn sweep(&self) {
        self.sweep_but(None, MOST_STAGED).await;
    }

    async fn sweep_but(&self, wanted: Option<&Sha256Hex>, most: usize) {
        if let Err(error) = self.keep_newest(wanted, most).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "staged files of earlier pushes stay"
            );
        }
    }

    async fn take_place(&self) -> (OwnedMutexGuard<()>, CancellationToken) {
        let superseded = CancellationToken::new();
        let before = std::mem::replace(
            &mut *self.holder.lock().expect("no holder panics"),
            superseded.clone(),
        );
        before.cancel();
        (Arc::clone(&self.place).lock_owned().await, superseded)
    }

    async fn is_complete(&self, sha256: &Sha256Hex) -> Result<bool, FileError> {
        let root = &self.host.root;
        // What has its final name was checked before it got it.
        Ok(root.exists(staged_binary(sha256.as_str())).await?
            || root.sha256(paths::BINARY).await?.as_deref() == Some(sha256.as_str()))
    }

    async fn open(&self, sha256: &Sha256Hex, size: u64) -> Result<Staging, FileError> {
        let expected = Expected {
            sha256: sha256.as_str().to_owned(),
            size,
        };
        self.host
            .root
            .open_staging(staged_binary(sha256.as_str()), expected)
            .await
    }

    async fn room_for(&self, sha256: &Sha256Hex, needed: u64) -> Result<(), ArtefactError> {
        let space = self
            .host
            .machine
            .disk_space(Path::new(paths::BINARY_DIR))
            .await;
        match space {
            Ok(space) if space.free < needed => Err(ArtefactError::NoRoom {
                path: staged_path(&self.host, sha256.as_str()),
                needed,
                free: space.free,
            }),
            // Where nobody can tell, writing will.
            _ => Ok(()),
        }
    }

    async fn keep_newest(&self, wanted: Option<&Sha256Hex>, most: usize) -> Result<(), FileError> {
        let wanted = wanted.cloned();
        self.blocking(move |directory| Ok(sweep::keep_newest(directory, wanted.as_ref(), most)?))
            .await
    }

    /// Runs work on the directory of staged files on a thread that may block.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Path) -> Result<T, FileError> + Send + 'static,
    ) -> Result<T, FileError> {
        let directory = self.host.root.path(paths::BINARY_DIR);
        let named = directory.clone();
        tokio::task::spawn_blocking(move || work(&directory))
            .await
            .map_err(|_| FileError::Interrupted { path: named })?
    }
}
