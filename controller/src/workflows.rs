//! What the controller does across hosts: each workflow gathers facts, plans by a pure function, and then is a list of
//! steps that [`crate::operations`] runs. Started by the API.

pub mod adopt_control_plane;
mod choice;
mod gather;
pub mod install_control_plane;
mod record;
mod stale;

use std::fmt;

use canasta_proto::name::{HostName, NameError};
use canasta_proto::pb;
use canasta_proto::version::VersionError;

use crate::artefacts::Artefacts;
use crate::clusters::Clusters;
use crate::config::{K3s, Timings};
use crate::fleet::{Fleet, FleetError};
use crate::operations::locks::Wanted;
use crate::operations::{self, Held, Kinds, Operations};
use crate::store::{self, Store};

use self::adopt_control_plane::AdoptControlPlane;
use self::install_control_plane::InstallControlPlane;

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
    #[error("no host was named, and {}", if hosts.is_empty() { "none fits".to_owned() } else { format!("several fit: {}", hosts.join(", ")) })]
    HostRequired {
        /// The hosts that fit.
        hosts: Vec<String>,
    },
    /// The request can't be carried out as things stand.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The agent can't be asked.
    #[error(transparent)]
    Fleet(#[from] FleetError),
    /// The operation can't be started.
    #[error(transparent)]
    Operations(#[from] operations::Error),
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
) -> Result<Begun, Error> {
    plan.steps = workflow
        .steps("")
        .infos()
        .map(|info| pb::PlannedStep {
            id: info.id.clone(),
            title: info.title.clone(),
            host: info.host.clone(),
        })
        .collect();
    let operation_id = match held {
        Some(held) => {
            operations
                .start(held, std::sync::Arc::new(workflow))
                .await?
        }
        None => String::new(),
    };
    Ok(Begun { operation_id, plan })
}
