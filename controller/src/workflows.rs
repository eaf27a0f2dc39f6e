//! What the controller does across hosts: each workflow gathers facts, plans by a pure function, and then is a list of
//! steps that [`crate::operations`] runs. Started by the API.

pub mod adopt_control_plane;
mod ask;
#[cfg(test)]
mod bench;
pub(crate) mod check_storage;
pub(crate) mod choice;
pub mod drain_node;
mod exports;
pub(crate) mod forget_cluster;
mod gather;
mod host_text;
pub mod install_control_plane;
pub mod join_worker;
mod launch;
pub(crate) mod node_target;
mod record;
mod release;
pub(crate) mod remove_host;
pub(crate) mod remove_storage;
pub(crate) mod setup_nfs;
mod stale;
pub mod uninstall_k3s;

use std::collections::BTreeMap;
use std::fmt;

use canasta_proto::name::{HostName, NameError};
use canasta_proto::pb;
use canasta_proto::version::VersionError;

use crate::artefacts::{self, Artefacts};
use crate::clusters::{Clusters, NodeError};
use crate::config::{K3s, Timings};
use crate::fleet::{Fleet, FleetError};
use crate::operations::locks::Wanted;
use crate::operations::{self, Held, Kinds, Operations};
use crate::store::{self, Store};

use self::adopt_control_plane::AdoptControlPlane;
use self::check_storage::CheckStorage;
use self::choice::Candidate;
use self::drain_node::DrainNode;
use self::gather::Gathered;
use self::install_control_plane::InstallControlPlane;
use self::join_worker::JoinWorker;
use self::remove_storage::RemoveStorage;
use self::setup_nfs::SetupNfs;
use self::uninstall_k3s::UninstallK3s;

/// What workflows work with.
#[derive(Debug, Clone)]
pub struct Context {
    /// The database.
    pub store: Store,
    /// The agents.
    pub fleet: Fleet,
    /// Releases.
    pub artefacts: Artefacts,
    /// The APIs of clusters.
    pub clusters: Clusters,
    /// Times and limits.
    pub timings: Timings,
    /// The default version.
    pub k3s: K3s,
}

/// All kinds of operations, for [`Operations::new`].
pub fn kinds(context: &Context) -> Kinds {
    let (install, adopt) = (context.clone(), context.clone());
    let (join, drain, uninstall) = (context.clone(), context.clone(), context.clone());
    let (check, setup, remove) = (context.clone(), context.clone(), context.clone());
    Kinds::default()
        .with(install_control_plane::KIND, move |request| {
            Ok(InstallControlPlane::new(
                install.clone(),
                serde_json::from_str(request)?,
            ))
        })
        .with(adopt_control_plane::KIND, move |request| {
            Ok(AdoptControlPlane::new(
                adopt.clone(),
                serde_json::from_str(request)?,
            ))
        })
        .with(join_worker::KIND, move |request| {
            Ok(JoinWorker::new(
                join.clone(),
                serde_json::from_str(request)?,
            ))
        })
        .with(drain_node::KIND, move |request| {
            Ok(DrainNode::new(
                drain.clone(),
                serde_json::from_str(request)?,
            ))
        })
        .with(uninstall_k3s::KIND, move |request| {
            Ok(UninstallK3s::new(
                uninstall.clone(),
                serde_json::from_str(request)?,
            ))
        })
        .with(check_storage::KIND, move |request| {
            Ok(CheckStorage::new(
                check.clone(),
                serde_json::from_str(request)?,
            ))
        })
        .with(setup_nfs::KIND, move |request| {
            Ok(SetupNfs::new(setup.clone(), serde_json::from_str(request)?))
        })
        .with(remove_storage::KIND, move |request| {
            Ok(RemoveStorage::new(
                remove.clone(),
                serde_json::from_str(request)?,
            ))
        })
}

/// A request that can't be carried out as things stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Stable, upper case.
    pub reason: &'static str,
    /// What stands in the way.
    pub message: String,
    /// What it is about.
    pub subject: String,
    /// What to do next.
    pub hint: String,
    /// Single points, when there are several.
    pub points: Vec<String>,
}

impl Refusal {
    fn new(reason: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            subject: String::new(),
            hint: hint.into(),
            points: Vec::new(),
        }
    }

    fn about(mut self, host: impl fmt::Display) -> Self {
        self.subject = format!("host {host}");
        self
    }

    /// Tells all that was found besides: who mends one thing wants to know of the others.
    fn with_findings(mut self, findings: &[pb::Finding]) -> Self {
        let others = findings
            .iter()
            .filter(|finding| finding.code != self.reason);
        self.points.extend(others.map(gather::shown));
        self
    }

    /// The same as a finding, for a plan that is only shown.
    fn into_finding(self) -> pb::Finding {
        pb::Finding {
            code: self.reason.to_owned(),
            severity: pb::Severity::Error.into(),
            message: self.message,
            subject: self.subject,
            mend: self.hint,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Refusal {}

/// Why a workflow could not be planned or started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field of the request is no name.
    #[error("{rule}")]
    Name {
        /// The field.
        field: &'static str,
        /// The rule that it broke.
        rule: NameError,
    },
    /// A field of the request is no version.
    #[error(transparent)]
    Version(#[from] VersionError),
    /// `public_ips` holds something else.
    #[error(
        "a public address is an IP address or a DNS name without a port: 203.0.113.5 or wiki.example.org"
    )]
    PublicIp,
    /// The request names no host, and not exactly one fits.
    #[error("no host was named, and {}", choice::fitting(hosts))]
    HostRequired {
        /// What a host must be to fit.
        rule: &'static str,
        /// All hosts, each with why it fits or not.
        hosts: Vec<Candidate>,
    },
    /// The request names no cluster, and there is not exactly one.
    #[error("no cluster was named, and {}", if clusters.is_empty() { "none is known" } else { "there are several" })]
    ClusterRequired {
        /// All that are known.
        clusters: Vec<String>,
    },
    /// Another field of the request breaks a rule.
    #[error("{rule}")]
    Field {
        /// The field.
        field: &'static str,
        /// The rule that it broke.
        rule: String,
    },
    /// The request can't be carried out as things stand.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// An agent says why it can't be carried out.
    #[error("{}", .0.message)]
    Report(Box<pb::ErrorReport>),
    /// The API of the cluster can't be asked, or knows no such node.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The agent can't be asked.
    #[error(transparent)]
    Fleet(#[from] FleetError),
    /// The operation can't be started.
    #[error(transparent)]
    Operations(#[from] operations::Error),
    /// The releases that the controller keeps could not be listed.
    #[error(transparent)]
    Artefacts(artefacts::Error),
    /// The database could not be read.
    #[error("failed to use the controller's database")]
    Store(#[from] store::Error),
}

/// A workflow that was planned, and started unless only the plan was asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Begun {
    /// The operation; empty when only the plan was asked for.
    pub operation_id: String,
    /// What is or would be done.
    pub plan: pb::InstallPlan,
}

/// What each step would do, by its id.
type Details = BTreeMap<&'static str, String>;

/// What is answered when there is no plan: for a dry run all that is known, with the refusal as the first finding.
fn refuse(
    host: &HostName,
    host_chosen: bool,
    known: Gathered,
    refusal: Refusal,
    dry_run: bool,
) -> Result<Begun, Error> {
    if !dry_run {
        return Err(refusal.with_findings(&known.findings).into());
    }
    let k3s = known.facts.k3s.clone().unwrap_or_default();
    let mut findings = known.findings.clone();
    findings.retain(|finding| finding.code != refusal.reason);
    findings.insert(0, refusal.into_finding());
    let plan = pb::InstallPlan {
        host: host.to_string(),
        host_chosen,
        node_name: known
            .node_name()
            .map_or_else(|| gather::node_name(&known.facts.hostname), str::to_owned),
        cluster: known
            .cluster
            .map(|cluster| cluster.name)
            .unwrap_or_default(),
        current_version: k3s.binary_version,
        findings,
        ..pb::InstallPlan::default()
    };
    Ok(Begun {
        operation_id: String::new(),
        plan,
    })
}

/// Holds a host while something is planned for it, so that nobody removes or changes it meanwhile; a dry run holds nothing.
fn hold_host(
    operations: &Operations,
    host: &HostName,
    kind: &str,
    started_by: &str,
    dry_run: bool,
) -> Result<Option<Held>, Error> {
    if dry_run {
        return Ok(None);
    }
    let wanted = Wanted::change_of(host);
    Ok(Some(operations.hold(&wanted, kind, started_by)?))
}

/// Starts a workflow with what was held while it was planned, or only tells its plan when nothing was.
async fn begin(
    operations: &Operations,
    held: Option<Held>,
    workflow: impl operations::Workflow + 'static,
    mut plan: pb::InstallPlan,
    details: &Details,
) -> Result<Begun, Error> {
    let launch::Launched {
        operation_id,
        steps,
    } = launch::launch(operations, held, workflow).await?;
    plan.steps = steps;
    for step in &mut plan.steps {
        step.detail = details.get(step.id.as_str()).cloned().unwrap_or_default();
    }
    Ok(Begun { operation_id, plan })
}
