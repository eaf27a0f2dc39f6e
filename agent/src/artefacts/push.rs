//! One push: chunks go through a short queue to a thread that hashes and writes them, while the next ones arrive.

use bytes::Bytes;
use canasta_host::Staging;
use tokio::sync::{OwnedMutexGuard, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::ArtefactError;
use crate::agent::Life;

/// Chunks between the network and the disk.
const IN_FLIGHT: usize = 2;
/// What is staged is a program.
const MODE: u32 = 0o755;

/// What the writing thread is told.
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
    outcome: oneshot::Receiver<Result<(), ArtefactError>>,
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
        afterwards: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        let (parts, arriving) = mpsc::channel(IN_FLIGHT);
        let (done, outcome) = oneshot::channel();
        life.spawn(async move {
            // Held until the last byte is written, so that a newer push finds the file at rest.
            let _place = place;
            let written = tokio::task::spawn_blocking(move || write(staging, arriving)).await;
            // Nobody listens any more when the connection broke.
            let _ = done.send(written.unwrap_or(Err(ArtefactError::Stopping)));
            afterwards.await;
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
            Ok(done) => done,
            Err(_) => Err(ArtefactError::Stopping),
        }
    }
}

fn write(mut staging: Staging, mut arriving: mpsc::Receiver<Part>) -> Result<(), ArtefactError> {
    while let Some(part) = arriving.blocking_recv() {
        match part {
            Part::Chunk(chunk) => {
                staging.append(staging.offset(), &chunk)?;
            }
            Part::End => return Ok(staging.finish(MODE)?),
        }
    }
    // The connection broke: what is there is worth keeping even over a power cut.
    Ok(staging.sync()?)
}
