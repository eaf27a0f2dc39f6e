//! The steps of an uninstall, one function each; and a look at what they would do, which changes nothing.
//!
//! Only what this agent installed is taken away: what stands in its record, and what belongs to k3s by k3s's own documentation.
//! Whatever was there before the install, by the picture that was kept then, is not k3s's. Each step finds out anew what there
//! is to do, so it is safe to run twice, cut in half, and on a node where k3s never came up.

use std::time::Duration;

use canasta_host::Host;
use canasta_host::removal::{Order, RemovalError, Report};
use canasta_host::snapshot::Snapshot;
use canasta_proto::pb::{K3sUninstallStep, K3sUninstallTask, StepOutcome};
use canasta_steps::{Done, Reporter, StepError};

use super::record::{Origin, Record};
use super::traces::Traces;
use super::{Error, paths};
use crate::facts::with_causes;

mod compare;
mod data;
mod files;
mod guard;
mod inspect;
mod layout;
mod mounts;
mod network;
mod processes;
mod rules;
mod stop;

#[cfg(test)]
mod tests;

pub use inspect::inspect;

/// The steps that take something away, in order.
const REMOVING: [K3sUninstallStep; 4] = [
    K3sUninstallStep::Processes,
    K3sUninstallStep::Mounts,
    K3sUninstallStep::Network,
    K3sUninstallStep::Files,
];

/// How long things may take. Tests use shorter ones.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// A unit stops.
    pub stop: Duration,
    /// Processes end that were killed.
    pub end: Duration,
    /// Mounts and files go.
    pub removal: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // Longer than the 90 s after which systemd kills what doesn't end (`DefaultTimeoutStopSec=`): k3s's unit has no limit
            // of its own, and one that is killed has stopped all the same.
            stop: Duration::from_mins(2),
            end: Duration::from_secs(10),
            removal: Duration::from_mins(10),
        }
    }
}

/// One step of an uninstall on one node.
#[derive(Debug)]
struct Work<'a> {
    host: &'a Host,
    limits: Limits,
    record: Record,
    /// The node from before the install; `None` where no picture was kept.
    before: Option<Snapshot>,
    discard: &'a [String],
    /// Directories in which the cluster keeps local volumes, as the controller tells now and told at the join.
    told: Vec<String>,
}

/// Does a step, or finds that there is nothing to do.
///
/// # Errors
/// `FOREIGN_K3S` and `K3S_ADOPTED` for a k3s that is not the agent's; those of the guards and of the steps.
pub async fn run(
    host: &Host,
    task: &K3sUninstallTask,
    limits: Limits,
    reporter: &Reporter,
) -> Result<Done, StepError> {
    let step = task.step();
    let Some(record) = ours(host).await? else {
        if step == K3sUninstallStep::Compare {
            forget(host).await?;
        }
        return Ok(Done::unchanged(
            "already clean: canasta-agent has no k3s on this node",
        ));
    };
    let work = Work {
        host,
        limits,
        told: told(&task.local_paths, Some(&record)),
        record,
        before: before(host).await?,
        discard: &task.discard,
    };
    if step != K3sUninstallStep::Compare {
        work.guard(REMOVING.contains(&step)).await?;
    }
    if REMOVING.contains(&step) {
        work.stop_again(step, reporter).await?;
    }
    match step {
        K3sUninstallStep::Stop => work.stop(reporter).await,
        K3sUninstallStep::Compare => work.compare().await,
        _ => work.remove_part(step, reporter).await,
    }
}

/// The directories of local volumes that the cluster is known to use, the newest knowledge first. A record of an older agent has
/// none of the join.
fn told(asked: &[String], record: Option<&Record>) -> Vec<String> {
    let recorded = record.map_or(&[][..], |record| &record.local_paths);
    asked.iter().chain(recorded).cloned().collect()
}

/// The record of the k3s that the agent installed; `None` where it has none.
async fn ours(host: &Host) -> Result<Option<Record>, StepError> {
    let traces = Traces::look(host).await?;
    match &traces.record {
        Some(record) if record.origin == Origin::Adopted && traces.is_present() => {
            Err(StepError::new(
                "K3S_ADOPTED",
                "k3s on this node was installed by someone else and adopted; canasta-agent removes only what it installed",
            )
            .subject(paths::unit(record.role.into()))
            .hint(by_its_own_means(&traces)))
        }
        Some(record) if record.origin == Origin::Adopted => Ok(None),
        Some(record) if record.is_install() || !traces.is_present() => Ok(Some(record.clone())),
        None if !traces.is_present() => Ok(None),
        _ => Err(StepError::new(
            "FOREIGN_K3S",
            format!(
                "a k3s that canasta-agent did not install is on this node: {}",
                traces.in_words().join(", ")
            ),
        )
        .subject(traces.unit().map_or(paths::DATA_DIR, |unit| &unit.name))
        .hint(by_its_own_means(&traces))),
    }
}

fn by_its_own_means(traces: &Traces) -> String {
    match &traces.uninstall_script {
        Some(script) => format!("uninstall it with {script}, then run the command again"),
        None => format!(
            "uninstall it by the means that installed it (there is no {} and no {}), then run the command again",
            paths::UNINSTALL_SCRIPTS[0],
            paths::UNINSTALL_SCRIPTS[1]
        ),
    }
}

/// The picture from before the install. One that can't be read is an error: without it, what is k3s's is not sure.
async fn before(host: &Host) -> Result<Option<Snapshot>, StepError> {
    let Some(content) = host
        .root
        .read_optional(paths::SNAPSHOT)
        .await
        .map_err(Error::from)?
    else {
        return Ok(None);
    };
    serde_json::from_slice(&content)
        .map(Some)
        .map_err(|error| {
            StepError::new(
                "SNAPSHOT_UNREADABLE",
                format!("failed to read the picture of the node from before the install in {}", paths::SNAPSHOT),
            )
            .subject(paths::SNAPSHOT)
            .cause(error.to_string())
            .hint("restore it from a backup, or move it away: then everything that looks like k3s's is taken for k3s's")
        })
}

/// Forgets that k3s was ever installed here.
async fn forget(host: &Host) -> Result<(), Error> {
    host.root.remove_file(paths::RECORD).await?;
    host.root.remove_file(paths::SNAPSHOT).await?;
    Ok(())
}

impl Work<'_> {
    /// A step that takes something away.
    async fn remove_part(
        &self,
        step: K3sUninstallStep,
        reporter: &Reporter,
    ) -> Result<Done, StepError> {
        match step {
            K3sUninstallStep::Processes => self.processes(reporter).await,
            K3sUninstallStep::Mounts => self.mounts().await,
            K3sUninstallStep::Network => self.network().await,
            K3sUninstallStep::Files => self.files(reporter).await,
            _ => Err(StepError::new(
                "SPEC_INVALID",
                "the task names no step of an uninstall",
            )),
        }
    }

    /// Somebody may have started k3s since it was stopped, and an uninstall that goes on skips the steps that are done: it is
    /// stopped once more, and what came back with it goes before the step does its own. Volumes may have come back too.
    async fn stop_again(
        &self,
        step: K3sUninstallStep,
        reporter: &Reporter,
    ) -> Result<(), StepError> {
        if self.stop(reporter).await?.outcome != StepOutcome::Unchanged {
            for earlier in REMOVING.into_iter().take_while(|earlier| *earlier != step) {
                self.remove_part(earlier, reporter).await?;
            }
        }
        self.guard(true).await
    }

    /// Has orders done in the mount namespace of PID 1.
    async fn perform(&self, orders: &[Order], limit: Duration) -> Result<Report, StepError> {
        let removal = &self.host.removal;
        let done = removal.run(orders, limit).await;
        done.map_err(|error| removal_error(&error))
    }

    /// As [`Work::perform`]; all of them must succeed.
    async fn remove(&self, orders: &[Order], reason: &str) -> Result<Report, StepError> {
        let report = self.perform(orders, self.limits.removal).await?;
        if let Some(first) = report.unexpected.first() {
            let all: Vec<String> = report
                .unexpected
                .iter()
                .map(|path| path.display().to_string())
                .collect();
            return Err(guard::holds_data(&first.display().to_string(), &all));
        }
        let Some(first) = report.left.first() else {
            return Ok(report);
        };
        let path = first.path.display().to_string();
        let mut error = StepError::new(
            reason,
            format!(
                "{path} is still there, with {} more: {}",
                report.left.len() - 1,
                first.why
            ),
        );
        if report.left.len() == 1 {
            error = StepError::new(reason, format!("{path} is still there: {}", first.why));
        }
        for left in report.left.iter().skip(1).take(9) {
            error = error.cause(format!("{}: {}", left.path.display(), left.why));
        }
        Err(error.subject(path).hint(
            "mend what is named, then run the command again: it goes on from here and removes nothing twice",
        ))
    }
}

fn removal_error(error: &RemovalError) -> StepError {
    let report = |reason| StepError::from_source(reason, error);
    match error {
        RemovalError::TimedOut { .. } if !error.waited_for_a_server() => report("REMOVAL_TIMED_OUT").hint(
            "it was not finished, and much is left to remove or the disk is slow (`iostat`, `dmesg`); run the command again: it goes on from here",
        ),
        RemovalError::TimedOut { .. } => report("REMOVAL_TIMED_OUT").hint(
            "what it was at most likely waits for a server that is gone; bring that back or unmount it by hand (`umount -l PATH`), then run the command again",
        ),
        RemovalError::Busy { .. } => report("REMOVAL_BUSY").hint(
            "another task, or a look, has the agent remove or look at files on the node: `systemctl status canasta-agent-removal` there; run the command again when it has ended",
        ),
        RemovalError::Unit(_) => report("SYSTEMD_FAILED")
            .hint("look at `systemctl status canasta-agent-removal` on the node, then run the command again"),
        _ => report("REMOVAL_FAILED")
            .hint("look at `journalctl -u canasta-agent-removal` on the node, then run the command again"),
    }
}

/// A part that couldn't be looked at, as a remark.
fn unseen(what: &str, error: &dyn std::error::Error) -> String {
    format!("{what}: {}", with_causes(error))
}

/// "1 mount", "3 mounts".
fn count(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}
