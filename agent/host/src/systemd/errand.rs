//! Work that a program does in a transient unit: a request lies in a directory that only root may enter, the program is called
//! with that directory, and leaves its answer there. Called by removals and by proofs of shares.

use std::path::Path;
use std::time::{Duration, Instant};

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
        if let Err(error) = systemd.stop(unit, GRACE).await {
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

/// The request, from the directory that the program is called with.
///
/// # Errors
/// When there is none or it can't be read.
pub(crate) fn asked<T: serde::de::DeserializeOwned>(directory: &Path) -> std::io::Result<T> {
    let request = std::fs::read(directory.join(REQUEST))?;
    Ok(serde_json::from_slice(&request)?)
}
