//! Enables the unit, and starts or restarts it exactly when something that it reads has changed.
//!
//! `systemctl start` of k3s may block for ever, so the order is only queued and the unit is watched.

use std::time::{SystemTime, UNIX_EPOCH};

use canasta_host::systemd::Unit;
use canasta_steps::{Done, Reporter, StepError};
use tokio::time::{Instant, timeout_at};

use super::Work;
use crate::k3s::record::{Hashes, Record, Role, Started};
use crate::k3s::watch::{Follower, with_journal};
use crate::k3s::{Error, paths};

/// Why the unit has to be started, for the detail of the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// It has never run what is installed.
    First,
    /// It is down or ends again and again.
    Down,
    /// Files that it reads have changed: which.
    Changed(&'static str),
    /// It may have read a file while it was damaged.
    Damaged,
}

impl Work<'_> {
    pub(super) async fn start(
        &self,
        record: &mut Record,
        reporter: &Reporter,
    ) -> Result<Done, StepError> {
        let hashes = self.hashes().await?;
        let mut done = Vec::new();
        self.reload(record).await?;
        let systemd = &self.host.systemd;
        let unit = systemd.unit(self.unit).await.map_err(Error::from)?;
        if !unit.is_enabled() {
            if systemd
                .enable(self.unit)
                .await
                .map_err(Error::from)?
                .is_changed()
            {
                systemd.daemon_reload().await.map_err(Error::from)?;
            }
            done.push("enabled".to_owned());
        }
        take_over(record, &unit, &hashes);
        let Some(why) = why_to_start(record, &unit, &hashes) else {
            record.was_damaged = false;
            record.save(self.host).await?;
            return Ok(if done.is_empty() {
                Done::unchanged(format!("{} runs with what is installed", self.unit))
            } else {
                Done::changed(format!("{}; runs with what is installed", done.join("; ")))
            });
        };
        let since = self.host.machine.now();
        record.starting = Some(Started {
            hashes,
            version: self.spec.version.clone(),
            invocation: unit.invocation_id.clone(),
            at: since
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs(),
        });
        record.save(self.host).await?;
        let running = self.order(&unit, since, reporter).await?;
        record.started = record.starting.take().map(|started| Started {
            invocation: running.invocation_id.clone(),
            ..started
        });
        record.was_damaged = false;
        record.restart_needed = false;
        record.save(self.host).await?;
        done.push(in_words(why));
        Ok(match why {
            Why::Damaged => Done::repaired(done.join("; ")),
            _ => Done::changed(done.join("; ")),
        })
    }

    /// What a process that is started now would read.
    async fn hashes(&self) -> Result<Hashes, StepError> {
        let hash = async |path: &str, step: &str| {
            let found = self.host.root.sha256(path).await.map_err(Error::from)?;
            found.ok_or_else(|| {
                StepError::new(
                    "FILE_MISSING",
                    format!("{path} is not there, so {} can't be started", self.unit),
                )
                .subject(path)
                .hint(format!(
                    "the {step} step puts it there; run the command again"
                ))
            })
        };
        Ok(Hashes {
            binary: hash(paths::BINARY, "binary").await?,
            unit: hash(&paths::unit_file(self.unit), "unit").await?,
            env: hash(&paths::env_file(self.unit), "unit").await?,
            config: hash(paths::CONFIG, "config").await?,
        })
    }

    /// Has systemd read the unit files where one was written since it last did.
    async fn reload(&self, record: &mut Record) -> Result<(), Error> {
        let unit = self.host.systemd.unit(self.unit).await?;
        if !record.reload_needed && unit.is_loaded() {
            return Ok(());
        }
        self.host.systemd.daemon_reload().await?;
        record.reload_needed = false;
        record.save(self.host).await
    }

    /// Queues the start and waits for a main process that stays.
    async fn order(
        &self,
        before: &Unit,
        since: SystemTime,
        reporter: &Reporter,
    ) -> Result<Unit, StepError> {
        let systemd = &self.host.systemd;
        let mut follower = Follower::begin(self.host, self.unit)
            .await
            .map_err(Error::from)?;
        if before.is_failed() {
            systemd.reset_failed(self.unit).await.map_err(Error::from)?;
        }
        let is_up = matches!(
            before.active_state.as_str(),
            "active" | "activating" | "reloading"
        );
        let ordered = if is_up {
            systemd.restart_no_block(self.unit).await
        } else {
            systemd.start_no_block(self.unit).await
        };
        ordered.map_err(Error::from)?;
        reporter
            .message(format!("waiting for {} to start", self.unit))
            .await;
        let deadline = Instant::now() + self.timings.start;
        let mut settle = None;
        loop {
            let until = settle.unwrap_or(deadline);
            match timeout_at(until, follower.next()).await {
                Err(_elapsed) => match settle {
                    Some(_) => {
                        return systemd
                            .unit(self.unit)
                            .await
                            .map_err(|error| Error::from(error).into());
                    }
                    None => return Err(self.did_not_start(before, since).await),
                },
                Ok(unit) => {
                    let unit = unit.map_err(Error::from)?;
                    if unit.invocation_id == before.invocation_id {
                        continue;
                    }
                    match phase(&unit) {
                        Phase::Up => return Ok(unit),
                        Phase::Coming => {
                            settle.get_or_insert_with(|| Instant::now() + self.timings.settle);
                        }
                        Phase::Waiting => settle = None,
                        Phase::Ended => return Err(self.exited(&unit, since).await),
                    }
                }
            }
        }
    }

    async fn did_not_start(&self, before: &Unit, since: SystemTime) -> StepError {
        let limit = self.timings.start.as_secs();
        let error = StepError::new("K3S_START_TIMEOUT", format!("{} got no main process within {limit} s", self.unit))
            .subject(self.unit)
            .cause(format!("before the start it was {} ({})", before.active_state, before.sub_state))
            .hint("`systemctl list-jobs` on the node shows what it waits for; often that is network-online.target");
        with_journal(self.host, self.unit, since, error).await
    }

    /// k3s ended by itself.
    pub(super) async fn exited(&self, unit: &Unit, since: SystemTime) -> StepError {
        let error = StepError::new(
            "K3S_EXITED",
            format!("k3s ended by itself: {} is {} ({}), exit status {}", self.unit, unit.active_state, unit.sub_state, unit.exec_main_status),
        )
        .subject(self.unit)
        .hint(format!("the last lines of its journal are the evidence; all of it: `journalctl -u {}` on the node", self.unit));
        with_journal(self.host, self.unit, since, error).await
    }
}

/// A start that was ordered by an agent that crashed before it could note its end counts, if a new run came of it.
fn take_over(record: &mut Record, unit: &Unit, hashes: &Hashes) {
    let Some(starting) = record.starting.take() else {
        return;
    };
    let came_up = unit.main_pid.is_some()
        && unit.invocation_id.is_some()
        && unit.invocation_id != starting.invocation;
    if came_up && starting.hashes == *hashes {
        record.started = Some(Started {
            invocation: unit.invocation_id.clone(),
            ..starting
        });
        record.was_damaged = false;
    }
}

/// Whether there is a reason to start or restart.
fn why_to_start(record: &Record, unit: &Unit, hashes: &Hashes) -> Option<Why> {
    let Some(started) = &record.started else {
        return Some(Why::First);
    };
    if started.hashes != *hashes {
        return Some(Why::Changed(difference(&started.hashes, hashes)));
    }
    if !matches!(phase(unit), Phase::Up | Phase::Coming) {
        return Some(Why::Down);
    }
    if record.restart_needed {
        return Some(Why::Changed(match record.role {
            Role::Server => "the agent token",
            Role::Agent => "the credential of the join",
        }));
    }
    // The run that the agent started read the whole files; one that came later may have read the damaged ones.
    (record.was_damaged && unit.invocation_id != started.invocation).then_some(Why::Damaged)
}

fn difference(from: &Hashes, to: &Hashes) -> &'static str {
    let differs = (from.binary != to.binary, from.config != to.config);
    match differs {
        (true, true) => "the binary and the configuration",
        (true, false) => "the binary",
        (false, true) => "the configuration",
        (false, false) => "the unit",
    }
}

fn in_words(why: Why) -> String {
    match why {
        Why::First => "started".to_owned(),
        Why::Down => "was down, and is started again".to_owned(),
        Why::Changed(what) => format!("restarted once, because {what} changed"),
        Why::Damaged => "restarted once, because it may have read a damaged file".to_owned(),
    }
}

/// Where a unit is on its way up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// There is no main process yet.
    Waiting,
    /// There is one; it hasn't said READY.
    Coming,
    /// It has.
    Up,
    /// The main process has ended.
    Ended,
}

fn phase(unit: &Unit) -> Phase {
    match (unit.active_state.as_str(), unit.sub_state.as_str()) {
        ("failed" | "inactive", _) | (_, "auto-restart" | "auto-restart-queued") => Phase::Ended,
        ("active" | "reloading", _) => Phase::Up,
        ("activating", _) if unit.main_pid.is_some() => Phase::Coming,
        _ => Phase::Waiting,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(active: &str, sub: &str, pid: Option<u32>) -> Unit {
        Unit {
            active_state: active.to_owned(),
            sub_state: sub.to_owned(),
            main_pid: pid,
            ..Unit::default()
        }
    }

    #[test]
    fn phases_are_told_apart() {
        for (active, sub, pid, expected) in [
            ("inactive", "dead", None, Phase::Ended),
            ("failed", "failed", None, Phase::Ended),
            ("activating", "auto-restart", None, Phase::Ended),
            ("activating", "auto-restart-queued", None, Phase::Ended),
            ("activating", "start-pre", None, Phase::Waiting),
            ("activating", "start", Some(7), Phase::Coming),
            ("active", "running", Some(7), Phase::Up),
            ("deactivating", "stop-sigterm", Some(7), Phase::Waiting),
        ] {
            assert_eq!(phase(&unit(active, sub, pid)), expected, "{active} {sub}");
        }
    }
}
