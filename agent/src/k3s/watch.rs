//! Follows a unit over a lost bus, and gathers what its journal says when it fails. Called by the steps that wait for k3s.

use std::time::{Duration, SystemTime};

use canasta_host::Host;
use canasta_host::journal::Since;
use canasta_host::systemd::{SystemdError, Unit, UnitStream};
use canasta_proto::pb::Evidence;
use canasta_steps::StepError;
use futures_util::StreamExt as _;

use super::cause::cause_of;

/// How many lines of the journal go into an error.
const LINES: usize = 40;
/// The longest line that goes over the wire, in bytes.
const LONGEST: usize = 4096;
/// How often in a row the bus may be lost.
const MOST_LOSSES: u32 = 5;
/// How long to wait before the bus is asked again.
const PAUSE: Duration = Duration::from_millis(500);
/// How far the journal may lag behind systemd's signals.
const JOURNAL_LAG: Duration = Duration::from_millis(250);

/// The states of one unit, watched again when the bus is lost. Safe to drop between two answers.
pub struct Follower {
    host: Host,
    unit: &'static str,
    stream: Option<UnitStream>,
    losses: u32,
}

impl std::fmt::Debug for Follower {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Follower")
            .field("unit", &self.unit)
            .finish_non_exhaustive()
    }
}

impl Follower {
    /// Begins to watch; nothing that happens from now on is missed.
    pub async fn begin(host: &Host, unit: &'static str) -> Result<Self, SystemdError> {
        let stream = host.systemd.watch(unit).await?;
        Ok(Self {
            host: host.clone(),
            unit,
            stream: Some(stream),
            losses: 0,
        })
    }

    /// The current state the first time, then the next one that differs.
    pub async fn next(&mut self) -> Result<Unit, SystemdError> {
        loop {
            if self.stream.is_none() {
                tokio::time::sleep(PAUSE).await;
                match self.host.systemd.watch(self.unit).await {
                    Ok(stream) => self.stream = Some(stream),
                    Err(error) => self.lost(error)?,
                }
            }
            let Some(stream) = self.stream.as_mut() else {
                continue;
            };
            match stream.next().await {
                Some(Ok(unit)) => {
                    self.losses = 0;
                    return Ok(unit);
                }
                Some(Err(error)) => self.lost(error)?,
                None => self.stream = None,
            }
        }
    }

    fn lost(&mut self, error: SystemdError) -> Result<(), SystemdError> {
        self.stream = None;
        self.losses += 1;
        if self.losses >= MOST_LOSSES {
            Err(error)
        } else {
            Ok(())
        }
    }
}

/// Adds the end of the unit's journal to an error, and the cause that it shows in place of the general reason's hint.
pub async fn with_journal(
    host: &Host,
    unit: &str,
    since: SystemTime,
    error: StepError,
) -> StepError {
    let mut lines = tail(host, unit, Since::Time(since)).await;
    let mut cause = cause_of(lines.iter().map(String::as_str));
    if cause.is_none() {
        // The last words of a process may reach the journal after the news of its end.
        tokio::time::sleep(JOURNAL_LAG).await;
        lines = tail(host, unit, Since::Time(since)).await;
        cause = cause_of(lines.iter().map(String::as_str));
    }
    let error = match cause {
        Some(cause) => error
            .cause(format!("{} ({})", cause.message, cause.reason))
            .hint(cause.hint),
        None => error,
    };
    error.evidence(as_evidence(host, unit, lines).await)
}

/// The end of the unit's journal as evidence.
pub async fn evidence(host: &Host, unit: &str, since: Since) -> Evidence {
    let lines = tail(host, unit, since).await;
    as_evidence(host, unit, lines).await
}

async fn as_evidence(host: &Host, unit: &str, lines: Vec<String>) -> Evidence {
    let hostname = host
        .machine
        .facts()
        .await
        .map(|facts| facts.hostname)
        .unwrap_or_default();
    Evidence {
        title: format!("journal of {unit}"),
        lines,
        source: format!("agent on {hostname}"),
        at: Some(host.machine.now().into()),
    }
}

/// The last lines; a line that says why where they can't be read.
async fn tail(host: &Host, unit: &str, since: Since) -> Vec<String> {
    match host.journal.tail(unit, LINES, since).await {
        Ok(lines) => lines.into_iter().map(|line| cut(line.message)).collect(),
        Err(error) => vec![format!(
            "(not known: {})",
            crate::facts::with_causes(&error)
        )],
    }
}

/// The line, at most as long as the wire takes it.
fn cut(mut line: String) -> String {
    if line.len() > LONGEST {
        let end = (0..=LONGEST)
            .rev()
            .find(|at| line.is_char_boundary(*at))
            .unwrap_or(0);
        line.truncate(end);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_cut_between_characters() {
        assert_eq!(cut("a".repeat(5000)).len(), LONGEST);
        assert_eq!(cut("ä".repeat(3000)).len(), LONGEST);
        assert_eq!(cut(format!("a{}", "ä".repeat(3000))).len(), LONGEST - 1);
        assert_eq!(cut("short".to_owned()), "short");
    }
}
