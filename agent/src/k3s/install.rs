//! The steps of an install, one function each. A task runs one of them; each looks at what is there and does what is missing.
//!
//! Only files that the record knows are ever replaced. What an operator reads of a step is its outcome and the list of what
//! changed.

use std::time::Duration;

use canasta_host::Host;
use canasta_proto::pb::{K3sInstallStep, K3sRole, K3sSpec};
use canasta_steps::{Done, Reporter, StepError};

use super::paths;
use super::record::{Origin, Record, Role};
use super::server_url::ServerUrl;
use super::traces::Traces;

mod api_ready;
mod binary;
mod config;
mod credential;
mod joined;
mod links;
mod snapshot;
mod start;
mod unit;

pub(crate) use snapshot::scope;

#[cfg(test)]
mod tests;

/// How long things may take. Tests use shorter ones.
#[derive(Debug, Clone, Copy)]
pub struct Timings {
    /// From the order to start until there is a main process. Waiting for the network counts.
    pub start: Duration,
    /// How long a new process is watched for an early end, unless it says READY before.
    pub settle: Duration,
    /// From the beginning of the step until the API server is ready.
    pub ready: Duration,
    /// One question to the API server.
    pub request: Duration,
    /// Pause before the second question; grows to [`Timings::longest_pause`].
    pub first_pause: Duration,
    /// The longest pause between two questions.
    pub longest_pause: Duration,
    /// How often systemd may restart k3s while its API is waited for.
    pub most_restarts: u32,
    /// How long a server that can't be reached is waited for before the join is given up with that cause.
    pub patience: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            start: Duration::from_mins(1),
            settle: Duration::from_millis(500),
            ready: Duration::from_mins(5),
            request: Duration::from_secs(5),
            first_pause: Duration::from_millis(200),
            longest_pause: Duration::from_secs(1),
            most_restarts: 3,
            patience: Duration::from_secs(20),
        }
    }
}

/// One step of an install on one node.
#[derive(Debug)]
struct Work<'a> {
    host: &'a Host,
    spec: &'a K3sSpec,
    timings: Timings,
    unit: &'static str,
}

/// Does a step, or finds that it is done.
///
/// # Errors
/// `SPEC_INVALID` for a specification that lacks something, `K3S_ADOPTED` where k3s is someone else's, and those of the steps.
pub async fn run(
    host: &Host,
    spec: &K3sSpec,
    step: K3sInstallStep,
    timings: Timings,
    reporter: &Reporter,
) -> Result<Done, StepError> {
    let work = Work {
        host,
        spec,
        timings,
        unit: paths::unit(spec.role()),
    };
    check(spec)?;
    match (step, spec.role()) {
        (K3sInstallStep::ApiReady, K3sRole::Server) => return work.api_ready(reporter).await,
        (K3sInstallStep::Joined, K3sRole::Agent) => return work.joined(reporter).await,
        (K3sInstallStep::ApiReady, _) => return Err(other_role("a server")),
        (K3sInstallStep::Joined | K3sInstallStep::KeepCredential, K3sRole::Server) => {
            return Err(other_role("an agent"));
        }
        _ => {}
    }
    let mut record = work.record().await?;
    match step {
        K3sInstallStep::Unspecified => Err(StepError::new(
            "SPEC_INVALID",
            "the task names no step of an install",
        )),
        K3sInstallStep::Snapshot => work.snapshot(&record).await,
        K3sInstallStep::Binary => work.binary(&mut record).await,
        K3sInstallStep::Config => work.config(&mut record).await,
        K3sInstallStep::Unit => work.unit(&mut record).await,
        K3sInstallStep::Links => work.links(&mut record).await,
        K3sInstallStep::Start => work.start(&mut record, reporter).await,
        K3sInstallStep::KeepCredential => work.keep_credential(&record).await,
        K3sInstallStep::ApiReady | K3sInstallStep::Joined => unreachable!("handled above"),
    }
}

fn other_role(whose: &str) -> StepError {
    StepError::new(
        "SPEC_INVALID",
        format!("the step is one of {whose}, and the specification is of another role"),
    )
}

/// The controller has checked the specification; what would do harm if it hadn't is checked once more.
fn check(spec: &K3sSpec) -> Result<(), StepError> {
    let invalid = |what: &str| {
        Err(StepError::new(
            "SPEC_INVALID",
            format!("the specification of k3s has {what}"),
        ))
    };
    let is_hex = |text: &str| {
        text.len() == 64
            && text
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    match spec {
        _ if spec.role() == K3sRole::Unspecified => invalid("no role"),
        _ if !is_hex(&spec.binary_sha256) => invalid("no SHA-256 of the binary"),
        _ if spec.version.is_empty() => invalid("no version"),
        _ if spec.node_name.is_empty() => invalid("no name of the node"),
        _ if spec.node_ip.is_empty() => invalid("no address of the node"),
        _ if spec.role() == K3sRole::Agent && spec.server_url.parse::<ServerUrl>().is_err() => {
            invalid("no server that the agent could join")
        }
        _ => Ok(()),
    }
}

impl Work<'_> {
    /// The record, or a new one that isn't stored yet. Refuses what belongs to someone else.
    async fn record(&self) -> Result<Record, StepError> {
        let wanted = match self.spec.role() {
            K3sRole::Agent => Role::Agent,
            K3sRole::Server | K3sRole::Unspecified => Role::Server,
        };
        ours(self.host, wanted).await
    }
}

/// The record of a k3s in this role that the agent has installed or may install; a new one isn't stored yet.
///
/// # Errors
/// `FOREIGN_K3S`, `K3S_ADOPTED` and `K3S_ROLE_CONFLICT`; errors of files and of systemd.
pub(crate) async fn ours(host: &Host, wanted: Role) -> Result<Record, StepError> {
    let record = match Record::load(host).await? {
        Some(record) if record.origin == Origin::Adopted || record.is_install() => record,
        begun => {
            // The preflight has said so before, but an answer may be minutes old, or was overruled.
            let traces = Traces::look(host).await?;
            if let Some(unit) = traces.unit() {
                return Err(foreign(&unit.name, &traces));
            }
            let record = begun.unwrap_or_else(|| Record::new(Origin::Installed, wanted));
            return Ok(Record {
                role: wanted,
                ..record
            });
        }
    };
    if record.origin == Origin::Adopted {
        if !Traces::look(host).await?.is_present() {
            // Whoever installed it has removed it.
            return Ok(Record::new(Origin::Installed, wanted));
        }
        return Err(StepError::new(
            "K3S_ADOPTED",
            "k3s on this node was installed by someone else and adopted; its files are not changed",
        )
        .subject(paths::unit(record.role.into()))
        .hint("change its version and configuration with the means that installed it"));
    }
    if record.role != wanted {
        let other = paths::unit(record.role.into());
        return Err(StepError::new(
            "K3S_ROLE_CONFLICT",
            format!("this node has k3s in another role: {other} is installed"),
        )
        .subject(other)
        .hint("uninstall it first, or use another machine"));
    }
    Ok(record)
}

/// A k3s whose unit is here and that the agent knows nothing of.
fn foreign(unit: &str, traces: &Traces) -> StepError {
    let found = traces.in_words().join(", ");
    StepError::new(
        "FOREIGN_K3S",
        format!("a k3s that canasta-agent did not install is on this node: {found}"),
    )
    .subject(unit)
    .hint("take it over as it is with --adopt, or uninstall it by the means that installed it, then run the command again")
}
