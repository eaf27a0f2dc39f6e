//! Work that a program does in a transient unit: a request lies in a directory that only root may enter, the program is called
//! with that directory, and leaves its answer there. Called by removals, by work outside of the sandbox and by proofs of shares.

use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use tokio::time::timeout;

use super::bus::{BusSystemd, Rights};
use super::{Systemd as _, SystemdError};
use crate::files::{FileError, Root};

/// The file of the request.
const REQUEST: &str = "request.json";

/// How long systemd may take beyond the limit to say that it killed the program.
const GRACE: Duration = Duration::from_secs(15);

/// Where a kind of work is done. One piece at a time: whoever calls sees to that.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// The unit.
    pub(crate) unit: &'static str,
    /// The directory of request and answer.
    pub(crate) directory: &'static str,
    /// The file of the answer in it.
    pub(crate) answer: &'static str,
    /// What becomes of a program that an agent which was killed left at work.
    pub(crate) earlier: Earlier,
}

/// What becomes of an earlier program of a unit when there is another request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Earlier {
    /// It is stopped.
    Stopped,
    /// Its end is awaited: to kill it would leave things worse than either end. What it answers is not asked for.
    Awaited,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Ended {
    /// What the program left, which is nothing, a part or all.
    pub(crate) answer: Vec<u8>,
    /// Why that is not all, where it isn't.
    pub(crate) otherwise: Otherwise,
}

/// Why there is no whole answer.
#[derive(Debug)]
pub(crate) enum Otherwise {
    /// The program took so long that it was killed.
    TimedOut(Duration),
    /// It ended by itself.
    Silent,
    /// systemd didn't run it.
    NotRun(SystemdError),
}

impl Place {
    /// Has a program do what is requested, and kills it after `limit`. `program` is what stands before the directory in its
    /// arguments.
    ///
    /// # Errors
    /// When the request or the answer can't be written, read or removed.
    pub(crate) async fn send(
        &self,
        (root, systemd): (&Root, &BusSystemd),
        program: &[&str],
        request: Vec<u8>,
        rights: Rights,
        limit: Duration,
    ) -> Result<Ended, FileError> {
        let Self {
            unit, directory, ..
        } = *self;
        // An agent that was killed may have left one at work: it must end before there is another request for it to read.
        let over = match self.earlier {
            Earlier::Stopped => systemd.stop(unit, GRACE).await,
            Earlier::Awaited => over(systemd, unit, limit).await,
        };
        if let Err(error) = over {
            return Ok(Ended {
                answer: Vec::new(),
                otherwise: Otherwise::NotRun(error),
            });
        }
        root.create_dir_all(directory, 0o700).await?;
        let answer = format!("{directory}/{}", self.answer);
        root.remove_file(&answer).await?;
        root.write(format!("{directory}/{REQUEST}"), request, 0o600)
            .await?;
        let words = program.iter().copied().chain([directory]);
        let argv: Vec<String> = words.map(str::to_owned).collect();
        let begun = Instant::now();
        let ended = systemd.run_once(unit, &argv, rights, limit, limit + GRACE);
        let ended = ended.await;
        // systemd says of a program that it killed only that it failed.
        let otherwise = match ended {
            _ if begun.elapsed() >= limit => Otherwise::TimedOut(limit),
            Err(SystemdError::JobFailed { .. }) | Ok(()) => Otherwise::Silent,
            Err(error) => Otherwise::NotRun(error),
        };
        let text = root.read_optional(&answer).await?.unwrap_or_default();
        root.remove_file(&answer).await?;
        Ok(Ended {
            answer: text,
            otherwise,
        })
    }
}

/// Waits until a unit is neither at work nor on its way to be.
async fn over(systemd: &BusSystemd, unit: &str, limit: Duration) -> Result<(), SystemdError> {
    let mut states = systemd.watch(unit).await?;
    let awaited = async {
        while let Some(state) = states.next().await {
            if matches!(state?.active_state.as_str(), "inactive" | "failed") {
                break;
            }
        }
        Ok(())
    };
    match timeout(limit, awaited).await {
        Ok(over) => over,
        Err(_elapsed) => Err(SystemdError::TimedOut {
            action: "wait for the end of",
            unit: unit.to_owned(),
            limit,
        }),
    }
}

/// The file of this program. An upgrade of the package may have put a newer one in its place.
pub(crate) fn own_program() -> Result<String, FileError> {
    let program = std::env::current_exe().map_err(|source| {
        canasta_durable::Error::new("find", Path::new("/proc/self/exe"), source)
    })?;
    let program = program.display().to_string();
    let plain = program.strip_suffix(" (deleted)");
    Ok(plain.unwrap_or(&program).to_owned())
}

/// Leaves an answer in the directory that the program is called with.
///
/// # Errors
/// When it can't be written.
pub(crate) fn answer<T: serde::Serialize>(
    place: Place,
    directory: &Path,
    answer: &T,
) -> std::io::Result<()> {
    let text = serde_json::to_vec(answer)?;
    canasta_durable::write(&directory.join(place.answer), &text, 0o600)
        .map_err(std::io::Error::other)
}

/// The request, from the directory that the program is called with.
///
/// # Errors
/// When there is none or it can't be read.
pub(crate) fn asked<T: serde::de::DeserializeOwned>(directory: &Path) -> std::io::Result<T> {
    let request = std::fs::read(directory.join(REQUEST))?;
    Ok(serde_json::from_slice(&request)?)
}
