//! Giving an artefact to a host: from where an earlier push stopped, a few hosts at a time, a few chunks in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use canasta_proto::name::HostName;
use canasta_proto::pb;
use canasta_proto::pb::push_artefact_request::Part;
use canasta_steps::StepError;
use canasta_transport::status::Fault;
use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{Artefact, Artefacts, Tell, file};
use crate::fleet::{Fleet, FleetError};
use crate::operations::agent::{self, ANSWER, answered_within, is_cut};

/// The size of a chunk. Smaller ones were measured: they cost more wake-ups than they save in the processor's cache.
const CHUNK: usize = 1024 * 1024;
/// How often a push that was cut is taken up again.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_secs(1);
/// How often it is told how far a push has come; the reporter thins it out further.
const TELL: Duration = Duration::from_millis(100);

/// What a push came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// The host had it already.
    There,
    /// So many bytes were sent.
    Sent(u64),
}

/// Reasons of the agent after which a push is begun again with what it holds then.
const AGAIN: [&str; 2] = ["ARTEFACT_OFFSET", "PUSH_SUPERSEDED"];

enum Failure {
    /// The connection broke; what came is kept on the host.
    Cut(Status),
    Step(StepError),
}

impl Artefacts {
    /// Gives an artefact to a host. Goes on after a cut when the agent is back within `patience`.
    ///
    /// # Errors
    /// When the agent refuses it or can't be reached, or the file can't be read.
    pub async fn push(
        &self,
        fleet: &Fleet,
        host: &HostName,
        artefact: &Artefact,
        tell: &dyn Tell,
        patience: Duration,
    ) -> Result<Pushed, StepError> {
        let mut sent = 0;
        for attempt in 1..=TRIES {
            let client = agent::connect(fleet, host, patience).await?;
            // A place is held while there is somebody to send to, and not while one is waited for.
            let turn = self.inner.pushes.acquire().await;
            let stall = self.inner.limits.push_stall;
            let pushed = push_once(client, host, artefact, tell, stall, &mut sent).await;
            drop(turn);
            match pushed {
                Ok(true) if sent == 0 => return Ok(Pushed::There),
                Ok(_) => return Ok(Pushed::Sent(sent)),
                Err(Failure::Step(error)) => return Err(error),
                Err(Failure::Cut(status)) => {
                    let error = call_error(host, "taking the artefact", status);
                    if attempt == TRIES {
                        return Err(
                            error.hint("run the command again: the push goes on where it stopped")
                        );
                    }
                    tell.retrying(error, PAUSE).await;
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        unreachable!("the last try returns")
    }
}

fn call_error(host: &HostName, what: &'static str, status: Status) -> StepError {
    let error = FleetError::Call {
        host: host.clone(),
        what,
        source: Box::new(status),
    };
    StepError::from(Fault::from(error).to_report())
}

/// The agent lives, or its connection would have broken, and takes nothing.
fn stalled(host: &HostName, artefact: &Artefact, done: u64, stall: Duration) -> StepError {
    StepError::new(
        "PUSH_STALLED",
        format!(
            "the agent on host '{host}' took nothing of k3s {} for {stall:?}, after {done} of {} bytes",
            artefact.version(),
            artefact.size()
        ),
    )
    .subject(format!("host {host}"))
    .hint(format!(
        "look at the disk of {host} (`dmesg`, `systemctl status canasta-agent`), then run the command again: the push goes on \
         where it stopped"
    ))
}

fn failure(host: &HostName, status: Status) -> Failure {
    let fault = Fault::from_status(&status);
    // After a cut, the earlier push may still be ending on the host.
    if is_cut(&status) || AGAIN.contains(&fault.reason.as_str()) {
        return Failure::Cut(status);
    }
    let mut report = fault.to_report();
    if report.subject.is_empty() {
        report.subject = format!("host {host}");
    }
    Failure::Step(report.into())
}

/// Sends what the host lacks. True when it lacked nothing.
async fn push_once(
    mut client: agent::Client,
    host: &HostName,
    artefact: &Artefact,
    tell: &dyn Tell,
    stall: Duration,
    sent: &mut u64,
) -> Result<bool, Failure> {
    let asked = pb::StatArtefactRequest {
        sha256: artefact.sha256().to_owned(),
        size: artefact.size(),
    };
    let there = answered_within(ANSWER.min(stall), client.stat_artefact(asked))
        .await
        .map_err(|status| failure(host, status))?
        .into_inner();
    if there.complete {
        return Ok(true);
    }
    let offset = there.offset.min(artefact.size());
    let (parts, outgoing) = mpsc::channel(2);
    let reached = Arc::new(AtomicU64::new(offset));
    let feeder = feed(artefact, offset, parts);
    // What the transport has taken, which is a few chunks ahead of what has arrived.
    let taken = Arc::clone(&reached);
    let outgoing = ReceiverStream::new(outgoing).inspect(move |part: &pb::PushArtefactRequest| {
        if let Some(Part::Chunk(chunk)) = &part.part {
            taken.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        }
    });
    let mut call = std::pin::pin!(client.push_artefact(outgoing));
    let mut feeder = std::pin::pin!(feeder);
    let mut fed = false;
    let mut tick = tokio::time::interval(TELL);
    let mut moved = (offset, Instant::now());
    let answer = loop {
        tokio::select! {
            answer = &mut call => break answer,
            result = &mut feeder, if !fed => {
                result.map_err(Failure::Step)?;
                fed = true;
            }
            _ = tick.tick() => {
                let done = reached.load(Ordering::Relaxed);
                tell.bytes(done, artefact.size(), artefact.version()).await;
                if done > moved.0 {
                    moved = (done, Instant::now());
                } else if moved.1.elapsed() >= stall {
                    return Err(Failure::Step(stalled(host, artefact, done, stall)));
                }
            }
        }
    };
    *sent += reached.load(Ordering::Relaxed) - offset;
    answer.map_err(|status| failure(host, status))?;
    tell.bytes(artefact.size(), artefact.size(), artefact.version())
        .await;
    Ok(false)
}

/// Reads the file into the call. Ends early when the call has ended, which then tells why.
async fn feed(
    artefact: &Artefact,
    offset: u64,
    parts: mpsc::Sender<pb::PushArtefactRequest>,
) -> Result<(), StepError> {
    let part = |part| pb::PushArtefactRequest { part: Some(part) };
    let header = pb::PushHeader {
        sha256: artefact.sha256().to_owned(),
        size: artefact.size(),
        offset,
    };
    if parts.send(part(Part::Header(header))).await.is_err() {
        return Ok(());
    }
    let mut chunks = file::read_chunks(&artefact.path, offset, CHUNK);
    while let Some(chunk) = chunks.recv().await {
        let chunk = chunk.map_err(|error| StepError::from(super::Error::from(error)))?;
        if parts.send(part(Part::Chunk(chunk))).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
