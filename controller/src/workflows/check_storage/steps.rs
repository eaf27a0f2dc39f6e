//! The steps of a check: for each share and host three, of which those of one kind run at the same time, and a verdict.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use canasta_proto::name::HostName;
use canasta_proto::pb;
use canasta_proto::pb::MountProofAction;
use canasta_proto::pb::task_spec::Verb;
use canasta_steps::{Done, Plan, Reporter, Step, StepError, StepInfo};
use canasta_transport::facts::hex;
use sha2::{Digest as _, Sha256};

use super::Planned;
use crate::operations::agent::AgentTask;
use crate::storage::Share;
use crate::store::proofs::{ProofRow, ProofStep};
use crate::workflows::Context;
use crate::workflows::ask::step_error;

/// The step that fails when a host can't use a share.
pub(in crate::workflows) const VERDICT: &str = "verdict";
/// How long an agent that is away is waited for: one that is gone is an outcome, and one that is restarted is back by then.
const PATIENCE: Duration = Duration::from_secs(10);
/// Reasons of a failed write after which nothing can be on the share.
const NOTHING_WRITTEN: [&str; 9] = [
    "AGENT_UNREACHABLE",
    "NFS_NAME_UNKNOWN",
    "NFS_WRONG_FAMILY",
    "NFS_UNREACHABLE",
    "NFS_REFUSED",
    "NFS_PORT_BLOCKED",
    "NFS_NOT_A_CLIENT_OR_NO_SHARE",
    "NFS_VERSION",
    "NFS_SECURITY",
];
/// How many bytes of a digest name a file.
const NONCE: usize = 20;
/// Of how many earlier checks the files are removed.
const MOST_TIDIED: usize = 8;

struct Shared {
    context: Context,
    planned: Planned,
    operation: String,
}

/// Adds the steps to a plan, after one that is there if any is named; the last of them is [`VERDICT`].
pub(in crate::workflows) fn add(
    mut plan: Plan,
    after: Option<&str>,
    context: &Context,
    planned: &Planned,
    operation: &str,
) -> Plan {
    let shared = Arc::new(Shared {
        context: context.clone(),
        planned: planned.clone(),
        operation: operation.to_owned(),
    });
    // One share after the other: an agent does one task at a time.
    let mut before: Vec<String> = after.map(str::to_owned).into_iter().collect();
    for share in 0..planned.shares.len() {
        for (step, title) in [
            (ProofStep::Write, "write to"),
            (ProofStep::Read, "read what another host wrote to"),
            (ProofStep::Remove, "remove the file from"),
        ] {
            let mut ids = Vec::new();
            for (at, host) in planned.hosts.iter().enumerate() {
                let id = format!("{}-{}-{}", step.as_str(), share + 1, at + 1);
                let info = StepInfo {
                    id: id.clone(),
                    title: format!("{title} {}", planned.shares[share]),
                    host: host.to_string(),
                };
                let proof = Proof {
                    shared: Arc::clone(&shared),
                    share,
                    host: at,
                    step,
                    task: AgentTask::new(
                        context.fleet.clone(),
                        (**host).clone(),
                        operation,
                        &id,
                        PATIENCE,
                    ),
                };
                let before: Vec<&str> = before.iter().map(String::as_str).collect();
                plan = plan.after(&before, info, proof);
                ids.push(id);
            }
            before = ids;
        }
    }
    let info = StepInfo {
        id: VERDICT.to_owned(),
        title: format!("judge the shared storage of cluster {}", planned.cluster),
        host: String::new(),
    };
    let before: Vec<&str> = before.iter().map(String::as_str).collect();
    plan.after(&before, info, Verdict(shared))
}

impl Shared {
    fn host(&self, at: usize) -> &HostName {
        &self.planned.hosts[at]
    }

    async fn proofs(&self) -> Result<Vec<ProofRow>, StepError> {
        let Planned { cluster, .. } = &self.planned;
        let proofs = self.context.store.proofs(cluster, &self.operation).await;
        proofs.map_err(|error| step_error(error.into()))
    }
}

/// The name of a host's file on a share: the same in every attempt of an operation, and another in every other, so that nobody
/// takes an old file for the one that was just written.
fn nonce(operation: &str, share: &Share, host: &HostName) -> String {
    let digest = Sha256::digest(format!("{operation} {share} {host}"));
    hex(&digest[..NONCE])
}

/// One thing that one host does on one share.
struct Proof {
    shared: Arc<Shared>,
    share: usize,
    host: usize,
    step: ProofStep,
    task: AgentTask,
}

#[async_trait]
impl Step for Proof {
    async fn run(&self, reporter: &Reporter) -> Result<Done, StepError> {
        let Shared {
            context,
            planned,
            operation,
        } = &*self.shared;
        let share = &planned.shares[self.share];
        let mut row = ProofRow {
            server: share.server.clone(),
            path: share.path.clone(),
            host: self.shared.host(self.host).to_string(),
            step: self.step,
            reason: String::new(),
            message: String::new(),
            hint: String::new(),
        };
        if self.step == ProofStep::Write {
            self.tidy(&row, reporter).await?;
        }
        let proofs = self.shared.proofs().await?;
        if self.is_pointless(&proofs) {
            return Ok(Done::skipped("it can't write there"));
        }
        let done = match self.try_it(&proofs, reporter).await {
            // What is written is removed again, so nothing is changed in the end.
            Ok(done) => Done::unchanged(done.detail),
            Err(error) => {
                let report = error.report();
                row.reason.clone_from(&report.reason);
                row.message = whole(report);
                row.hint.clone_from(&report.hint);
                Done::warning(format!("{}: {}", row.reason, row.message))
            }
        };
        let stored = context.store.put_proof(&planned.cluster, operation, &row);
        stored.await.map_err(|error| step_error(error.into()))?;
        Ok(done)
    }
}

impl Proof {
    /// What the host can't do is the error.
    async fn try_it(&self, proofs: &[ProofRow], reporter: &Reporter) -> Result<Done, StepError> {
        let (action, file) = match self.step {
            ProofStep::Write => (MountProofAction::Write, self.host),
            ProofStep::Remove => (MountProofAction::Remove, self.host),
            ProofStep::Read => (MountProofAction::Read, self.writer(proofs)),
        };
        let spec = self.spec(action, &self.shared.operation, file);
        self.task.run(spec, reporter).await
    }

    /// What an agent is to do with the file that an operation gave to a host.
    fn spec(&self, action: MountProofAction, operation: &str, file: usize) -> pb::TaskSpec {
        let share = &self.shared.planned.shares[self.share];
        let task = pb::MountProofTask {
            server: share.server.clone(),
            path: share.path.clone(),
            action: action.into(),
            nonce: nonce(operation, share, self.shared.host(file)),
        };
        pb::TaskSpec {
            verb: Some(Verb::MountProof(task)),
        }
    }

    /// Removes the files of earlier checks that were cut short. What can't be removed is told by what comes next.
    async fn tidy(&self, row: &ProofRow, reporter: &Reporter) -> Result<(), StepError> {
        let Shared {
            context,
            planned,
            operation,
        } = &*self.shared;
        let left = context.store.unremoved(&planned.cluster, operation, row);
        let left = left.await.map_err(|error| step_error(error.into()))?;
        for earlier in left.iter().take(MOST_TIDIED) {
            let task = AgentTask::new(
                context.fleet.clone(),
                self.shared.host(self.host).clone(),
                operation,
                &format!("tidy-{}-{earlier}", self.share + 1),
                PATIENCE,
            );
            let spec = self.spec(MountProofAction::Remove, earlier, self.host);
            if task.run(spec, reporter).await.is_err() {
                break;
            }
            let removed = ProofRow {
                step: ProofStep::Remove,
                ..row.clone()
            };
            let noted = context.store.put_proof(&planned.cluster, earlier, &removed);
            noted.await.map_err(|error| step_error(error.into()))?;
        }
        Ok(())
    }

    /// What a host's write to this share came to: the reason why it can't be done, empty when it was done.
    fn written<'a>(&self, proofs: &'a [ProofRow], host: usize) -> Option<&'a str> {
        let share = &self.shared.planned.shares[self.share];
        let host = self.shared.host(host).as_str();
        let found = proofs.iter().find(|row| {
            (row.server.as_str(), row.path.as_str()) == (&share.server, &share.path)
                && row.host == host
                && row.step == ProofStep::Write
        });
        found.map(|row| row.reason.as_str())
    }

    /// Whether this is not to be tried, after what the host's write came to.
    fn is_pointless(&self, proofs: &[ProofRow]) -> bool {
        let reason = self.written(proofs, self.host).unwrap_or_default();
        match self.step {
            ProofStep::Write => false,
            ProofStep::Read => !reason.is_empty(),
            // A write that failed in its middle may have left a file.
            ProofStep::Remove => NOTHING_WRITTEN.contains(&reason),
        }
    }

    /// The host whose file is read: the nearest one before this in a ring of those that could write, this one last.
    fn writer(&self, proofs: &[ProofRow]) -> usize {
        let count = self.shared.planned.hosts.len();
        (1..count)
            .map(|back| (self.host + count - back) % count)
            .find(|&at| self.written(proofs, at) == Some(""))
            .unwrap_or(self.host)
    }
}

/// What went wrong with its causes, on one line.
fn whole(report: &pb::ErrorReport) -> String {
    let causes = report.causes.iter().map(String::as_str);
    std::iter::once(report.message.as_str())
        .chain(causes)
        .collect::<Vec<_>>()
        .join(": ")
}

/// Makes the check the one that counts, and fails when a host can't use a share.
struct Verdict(Arc<Shared>);

#[async_trait]
impl Step for Verdict {
    async fn run(&self, _: &Reporter) -> Result<Done, StepError> {
        let Shared {
            context,
            planned,
            operation,
        } = &*self.0;
        let unproved = &planned.unproved_nodes;
        for Share { server, path, .. } in &planned.shares {
            let share = (server.as_str(), path.as_str());
            let store = &context.store;
            let settled = store.settle_check(&planned.cluster, operation, share, unproved);
            settled.await.map_err(|error| step_error(error.into()))?;
        }
        let proofs = self.0.proofs().await?;
        verdict(planned, &proofs)
    }
}

/// A pure function of what the hosts could do.
fn verdict(planned: &Planned, proofs: &[ProofRow]) -> Result<Done, StepError> {
    let cluster = &planned.cluster;
    let mut unknown = planned.unusable.clone();
    if !planned.unproved_nodes.is_empty() {
        let nodes = planned.unproved_nodes.join(", ");
        unknown.push(format!("nothing is known of {nodes}: no agent is there"));
    }
    let mut first: Vec<&ProofRow> = Vec::new();
    for row in proofs.iter().filter(|row| !row.reason.is_empty()) {
        let same = |other: &&ProofRow| {
            (&other.host, &other.server, &other.path) == (&row.host, &row.server, &row.path)
        };
        // What fails on a host after its first fault says the same again.
        if !first.iter().any(same) {
            first.push(row);
        }
    }
    if first.is_empty() {
        let shares = super::counted(planned.shares.len(), "share");
        let proved = format!("every host with an agent can write to, read and change {shares}");
        if unknown.is_empty() {
            return Ok(Done::unchanged(proved));
        }
        return Ok(Done::warning(format!("{proved}; {}", unknown.join("; "))));
    }
    let mut hosts: Vec<&str> = first.iter().map(|row| row.host.as_str()).collect();
    hosts.sort_unstable();
    hosts.dedup();
    let mut error = StepError::new(
        "STORAGE_NOT_PROVEN",
        format!(
            "the shared storage of cluster '{cluster}' can't be used from {}",
            hosts.join(", ")
        ),
    )
    .subject(format!("cluster {cluster}"));
    for row in &first {
        let ProofRow {
            host,
            step,
            reason,
            message,
            ..
        } = row;
        error = error.cause(format!("{host}, {}: {reason}: {message}", step.as_str()));
    }
    for point in unknown {
        error = error.cause(point);
    }
    let hint = first[0].hint.as_str();
    Err(error.hint(format!(
        "{hint}{}then run `{}` again",
        if hint.is_empty() { "" } else { "; " },
        planned.command,
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_named_with_its_first_fault_alone() {
        let fine = [ProofStep::Write, ProofStep::Read, ProofStep::Remove]
            .map(|step| ProofRow::sample("w1", step, ""));
        let mut planned = Planned {
            cluster: "wiki".to_owned(),
            shares: Vec::new(),
            unusable: Vec::new(),
            hosts: Vec::new(),
            unproved_nodes: Vec::new(),
            command: "canasta storage check --cluster wiki".to_owned(),
        };
        let done = verdict(&planned, &fine).expect("proven");
        assert_eq!(done.outcome, pb::StepOutcome::Unchanged);
        planned.unproved_nodes.push("n3".to_owned());
        let done = verdict(&planned, &fine).expect("proven, as far as is known");
        assert_eq!(done.outcome, pb::StepOutcome::Warning);
        assert!(done.detail.contains("of n3: no agent"), "{}", done.detail);
        planned.unproved_nodes.clear();
        let mut proofs = fine.to_vec();
        proofs.extend([
            ProofRow::sample("w2", ProofStep::Write, "NFS_PORT_BLOCKED"),
            ProofRow::sample("w2", ProofStep::Read, "NFS_PORT_BLOCKED"),
            ProofRow::sample("w2", ProofStep::Remove, "NFS_PORT_BLOCKED"),
        ]);
        let error = verdict(&planned, &proofs).expect_err("w2 can't");
        let report = error.report();
        assert_eq!(report.reason, "STORAGE_NOT_PROVEN");
        assert!(report.message.ends_with("from w2"), "{report:?}");
        assert_eq!(
            report.causes,
            ["w2, write: NFS_PORT_BLOCKED: it does not answer"]
        );
        assert!(
            report.hint.starts_with("open TCP 2049; then run"),
            "{report:?}"
        );
    }
}
