//! One push: chunks go through a short queue to a task that hashes and writes them, while the next ones arrive.

use bytes::Bytes;
use canasta_host::{FileError, Staging};
use tokio::sync::{OwnedMutexGuard, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::ArtefactError;
use crate::agent::Life;

/// Chunks between the network and the disk.
const IN_FLIGHT: usize = 2;
/// What is staged is a program.
const MODE: u32 = 0o755;

/// What the writing task is told.
enum Part {
    Chunk(Bytes),
    /// All has arrived: check it and give it its name.
    End,
}

/// A push that is under way. Dropping it keeps what has arrived, for a later resume.
#[derive(Debug)]
pub struct Push {
    size: u64,
    /// `None` when the artefact was there already.
    writer: Option<Writer>,
}

#[derive(Debug)]
struct Writer {
    parts: mpsc::Sender<Part>,
    outcome: oneshot::Receiver<Result<(), FileError>>,
    superseded: CancellationToken,
}

impl Push {
    pub(super) fn already_there(size: u64) -> Self {
        Self { size, writer: None }
    }

    pub(super) fn begin(
        life: &Life,
        staging: Staging,
        size: u64,
        place: OwnedMutexGuard<()>,
        superseded: CancellationToken,
    ) -> Self {
        let (parts, arriving) = mpsc::channel(IN_FLIGHT);
        let (done, outcome) = oneshot::channel();
        life.spawn(async move {
            // Held until the last byte is written, so that a newer push finds the file at rest.
            let _place = place;
            // Nobody listens any more when the connection broke.
            let _ = done.send(write(staging, arriving).await);
        });
        Self {
            size,
            writer: Some(Writer {
                parts,
                outcome,
                superseded,
            }),
        }
    }

    /// Resolves when a newer call wants the place of this push.
    pub async fn superseded(&self) {
        match &self.writer {
            Some(writer) => writer.superseded.cancelled().await,
            None => std::future::pending().await,
        }
    }

    /// Takes the next chunk. Waits while the disk is behind.
    ///
    /// # Errors
    /// What an earlier chunk met on the disk.
    pub async fn chunk(&mut self, chunk: Bytes) -> Result<(), ArtefactError> {
        let Some(writer) = &self.writer else {
            return Ok(());
        };
        if writer.parts.send(Part::Chunk(chunk)).await.is_ok() {
            return Ok(());
        }
        self.outcome().await
    }

    /// Checks the whole file, brings it to the disk and gives it its name. Answers with its size.
    ///
    /// # Errors
    /// When bytes are missing, the hash is another (the file is deleted then), or the disk fails.
    pub async fn finish(mut self) -> Result<u64, ArtefactError> {
        if let Some(writer) = &self.writer {
            // A task that has failed is asked for its reason below.
            let _ = writer.parts.send(Part::End).await;
        }
        self.outcome().await?;
        Ok(self.size)
    }

    async fn outcome(&mut self) -> Result<(), ArtefactError> {
        let Some(writer) = self.writer.take() else {
            return Ok(());
        };
        drop(writer.parts);
        match writer.outcome.await {
            Ok(done) => Ok(done?),
            Err(_) => Err(ArtefactError::Stopping),
        }
    }
}

async fn write(mut staging: Staging, mut arriving: mpsc::Receiver<Part>) -> Result<(), FileError> {
    while let Some(part) = arriving.recv().await {
        match part {
            Part::Chunk(chunk) => {
                let offset = staging.offset();
                staging.append(offset, chunk).await?;
            }
            Part::End => return staging.finish(MODE).await,
        }
    }
    // The connection broke: what is there is worth keeping even over a power cut.
    staging.sync().await
}
