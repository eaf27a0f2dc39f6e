//! `canasta storage setup nfs`: a cluster gets a storage class on an NFS share.
//!
//! A host of the cluster exports a directory to its nodes, or a server does that exists. Every host proves that it can use the share;
//! then the driver is installed and the class is made. A share that a host can't use gets no class.

mod plan;
mod steps;

use canasta_proto::pb;
use canasta_steps::Plan;
use serde::{Deserialize, Serialize};

use super::check_storage::Planned as Proofs;
use super::exports::Export;
use super::host_text::HostText;
use super::launch::launch;
use super::{Context, Error};
use crate::operations::locks::{Resource, Wanted};
use crate::operations::{Operations, Workflow};
use crate::storage::Share;
use crate::store::shared_storage::SharedRow;

/// The kind of the operation.
pub(crate) const KIND: &str = "setup-nfs";

/// What a set-up makes. Stored with the operation, which is rebuilt from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Planned {
    cluster: String,
    class: String,
    /// The host that exports the share; none where a server does that exists.
    host: Option<HostText>,
    server: String,
    path: String,
    /// Who may mount it beside the nodes.
    clients: Vec<String>,
    /// As [`pb::NfsBackend`].
    backend: i32,
    /// Whether packages may be installed on the host.
    install: bool,
    /// Those who prove.
    proofs: Proofs,
}

impl Planned {
    fn row(&self) -> SharedRow {
        SharedRow {
            cluster: self.cluster.clone(),
            class: self.class.clone(),
            host: self.host.as_ref().map(ToString::to_string),
            server: self.server.clone(),
            path: self.path.clone(),
            clients: self.clients.clone(),
            made: false,
            is_default: false,
        }
    }

    fn share(&self) -> Share {
        Share {
            server: self.server.clone(),
            path: self.path.clone(),
            classes: vec![self.class.clone()],
        }
    }

    fn export(&self) -> Option<Export> {
        self.host.as_ref().map(|host| Export {
            host: (**host).clone(),
            path: self.path.clone(),
            class: self.class.clone(),
            named: self.clients.clone(),
        })
    }

    fn backend(&self) -> pb::NfsBackend {
        pb::NfsBackend::try_from(self.backend).unwrap_or_default()
    }
}

/// A set-up that was planned.
#[derive(Debug)]
pub(crate) struct SetupNfs {
    context: Context,
    planned: Planned,
}

impl SetupNfs {
    pub(super) fn new(context: Context, planned: Planned) -> Self {
        Self { context, planned }
    }
}

impl Workflow for SetupNfs {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn title(&self) -> String {
        let Planned { cluster, class, .. } = &self.planned;
        let share = self.planned.share();
        match &self.planned.host {
            Some(host) => {
                format!(
                    "export {} from {host} as storage class {class} of cluster {cluster}",
                    share.path
                )
            }
            None => format!("take {share} as storage class {class} of cluster {cluster}"),
        }
    }

    fn locks(&self) -> Wanted {
        let Planned { cluster, host, .. } = &self.planned;
        locks(cluster, host.as_ref().map(|host| host.as_str()))
    }

    fn request(&self) -> serde_json::Value {
        serde_json::to_value(&self.planned).expect("a plan is JSON")
    }

    fn steps(&self, operation: &str) -> Plan {
        steps::steps(&self.context, &self.planned, operation)
    }
}

/// What a set-up holds: the host that exports, and who is a node, since that says who may mount.
fn locks(cluster: &str, host: Option<&str>) -> Wanted {
    let mut changes = vec![
        Resource::Storage(cluster.to_owned()),
        Resource::Membership(cluster.to_owned()),
    ];
    changes.extend(host.map(|host| Resource::Host(host.to_owned())));
    Wanted {
        changes,
        consults: Vec::new(),
    }
}

/// Plans a set-up, and starts it unless only the plan is asked for.
///
/// # Errors
/// When the request breaks a rule, cluster or host are not known, the host can't export the share, or the class is somebody else's.
pub(crate) async fn setup(
    context: &Context,
    operations: &Operations,
    asked: pb::SetupNfsRequest,
    started_by: &str,
) -> Result<pb::SetupNfsResponse, Error> {
    let target = plan::target(context, &asked).await?;
    // Held before it is planned, so that nobody comes, goes or is set up in between.
    let held = if asked.dry_run {
        None
    } else {
        Some(operations.hold(&target.locks(), KIND, started_by)?)
    };
    let plan::Ready {
        planned,
        mut response,
    } = plan::plan(context, asked, target).await?;
    let workflow = SetupNfs::new(context.clone(), planned);
    let launched = launch(operations, held, workflow).await?;
    response.operation_id = launched.operation_id;
    response.steps = launched.steps;
    Ok(response)
}
