//! `canasta storage remove`: a storage class goes, and with `nfs` the export of a host behind it. The data stays.

mod steps;

use canasta_proto::name::{ClassName, ClusterName, HostName};
use canasta_proto::pb;
use canasta_proto::share::SharePath;
use canasta_steps::Plan;
use serde::{Deserialize, Serialize};

use super::check_storage::cluster;
use super::exports::addresses;
use super::host_text::HostText;
use super::launch::launch;
use super::{Context, Error, Refusal};
use crate::operations::locks::{Resource, Wanted};
use crate::operations::{Operations, Workflow};
use crate::store::shared_storage::SharedRow;

/// The kind of the operation.
pub(crate) const KIND: &str = "remove-storage";

/// What a removal takes away. Stored with the operation, which is rebuilt from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Planned {
    cluster: String,
    /// Names of classes.
    classes: Vec<String>,
    /// The export that ends: host and directory.
    export: Option<(HostText, String)>,
    force: bool,
}

impl Planned {
    /// What becomes of volumes by force.
    fn loss(&self) -> &'static str {
        if self.export.is_some() {
            "then their pods can't use them any more, and the data stays on the host"
        } else {
            "they stay as they are, and no new ones can be made"
        }
    }
}

/// A removal that was planned.
#[derive(Debug)]
pub(crate) struct RemoveStorage {
    context: Context,
    planned: Planned,
}

impl RemoveStorage {
    pub(super) fn new(context: Context, planned: Planned) -> Self {
        Self { context, planned }
    }
}

impl Workflow for RemoveStorage {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn title(&self) -> String {
        let Planned {
            cluster,
            classes,
            export,
            force,
        } = &self.planned;
        let mut parts = Vec::new();
        if !classes.is_empty() {
            let classes = classes.join(", ");
            parts.push(format!(
                "remove storage class {classes} of cluster {cluster}"
            ));
        }
        if let Some((host, path)) = export {
            parts.push(format!("end the export of {path} from {host}"));
        }
        let forced = if *force { ", by force" } else { "" };
        format!("{}{forced}", parts.join(" and "))
    }

    fn locks(&self) -> Wanted {
        let Planned {
            cluster, export, ..
        } = &self.planned;
        let mut changes = vec![
            Resource::Storage(cluster.clone()),
            // Whoever comes meanwhile would be told to the export that ends.
            Resource::Membership(cluster.clone()),
        ];
        let host = export.iter().map(|(host, _)| host.to_string());
        changes.extend(host.map(Resource::Host));
        Wanted {
            changes,
            consults: Vec::new(),
        }
    }

    fn request(&self) -> serde_json::Value {
        serde_json::to_value(&self.planned).expect("a plan is JSON")
    }

    fn steps(&self, operation: &str) -> Plan {
        steps::steps(&self.context, &self.planned, operation)
    }
}

/// Starts a removal.
///
/// # Errors
/// When the request breaks a rule, nothing of it is known, or volumes are in the way and it is not forced.
pub(crate) async fn remove(
    context: &Context,
    operations: &Operations,
    asked: &pb::RemoveStorageRequest,
    started_by: &str,
) -> Result<pb::RemoveStorageResponse, Error> {
    check(asked)?;
    let first = plan(context, asked).await?;
    let wanted = RemoveStorage::new(context.clone(), first).locks();
    let held = operations.hold(&wanted, KIND, started_by)?;
    // Again, since it may have changed before it was held.
    let workflow = RemoveStorage::new(context.clone(), plan(context, asked).await?);
    let planned = &workflow.planned;
    let mut response = pb::RemoveStorageResponse {
        clusters: vec![planned.cluster.clone()],
        storage_classes: planned.classes.clone(),
        ..Default::default()
    };
    response.volumes = unused(context, planned).await?;
    response.operation_id = launch(operations, Some(held), workflow).await?.operation_id;
    Ok(response)
}

async fn plan(context: &Context, asked: &pb::RemoveStorageRequest) -> Result<Planned, Error> {
    if asked.host.is_empty() {
        class(context, asked).await
    } else {
        export(context, asked).await
    }
}

/// The rules that need nobody to be asked.
fn check(asked: &pb::RemoveStorageRequest) -> Result<(), Error> {
    if !asked.cluster.is_empty()
        && let Err(rule) = asked.cluster.parse::<ClusterName>()
    {
        return Err(Error::Name {
            field: "cluster",
            rule,
        });
    }
    if !asked.host.is_empty()
        && let Err(rule) = asked.host.parse::<HostName>()
    {
        return Err(Error::Name {
            field: "host",
            rule,
        });
    }
    Ok(())
}

/// A class by its name.
async fn class(context: &Context, asked: &pb::RemoveStorageRequest) -> Result<Planned, Error> {
    let name: ClassName = asked.storage_class.parse().map_err(|rule| Error::Name {
        field: "storage_class",
        rule,
    })?;
    let cluster = cluster(context, &asked.cluster).await?;
    let rows = context.store.shared_storage().await?;
    let is_known = |row: &SharedRow| row.cluster == cluster && row.class == name.as_str();
    if !rows.iter().any(is_known) {
        return Err(Refusal::new(
            "CLASS_NOT_OURS",
            format!("no storage class '{name}' of cluster '{cluster}' was made by this controller"),
            format!("`canasta storage list --cluster {cluster}` shows the classes; one of somebody else's is removed by whoever made it"),
        )
        .into());
    }
    Ok(Planned {
        cluster,
        classes: vec![name.into()],
        export: None,
        force: asked.force,
    })
}

/// An export of a host, with the classes on it.
async fn export(context: &Context, asked: &pb::RemoveStorageRequest) -> Result<Planned, Error> {
    if !asked.storage_class.is_empty() {
        return Err(Error::Field {
            field: "storage_class",
            rule: "an export goes with all classes on it: name a host and a share, or a class"
                .to_owned(),
        });
    }
    let share: SharePath = match asked.share.parse() {
        Ok(share) => share,
        Err(rule) => {
            return Err(Error::Field {
                field: "share",
                rule: format!("{rule}"),
            });
        }
    };
    let host: HostName = context.fleet.host(&asked.host).await?.name;
    let mut rows = context.store.shared_storage().await?;
    rows.retain(|row| {
        let is_there = row.host.as_deref() == Some(host.as_str()) && row.path == share.as_str();
        is_there && (asked.cluster.is_empty() || row.cluster == asked.cluster)
    });
    let node = context.store.cluster_node(host.as_str()).await?;
    let of_rows = rows.first().map(|row| row.cluster.clone());
    let cluster = of_rows
        .or(node.map(|node| node.cluster))
        .unwrap_or_default();
    rows.retain(|row| row.cluster == cluster);
    if !asked.cluster.is_empty() && asked.cluster != cluster {
        return Err(Refusal::new(
            "HOST_NOT_IN_CLUSTER",
            format!("host '{host}' exports nothing for cluster '{}'", asked.cluster),
            "`canasta storage list` shows the classes with the hosts behind them; leave --cluster out",
        )
        .about(&host)
        .into());
    }
    Ok(Planned {
        cluster,
        classes: rows.into_iter().map(|row| row.class).collect(),
        export: Some((host.into(), share.to_string())),
        force: asked.force,
    })
}

/// The volumes that are of the classes or lie on the share that ends; refuses where there are any and it is not forced.
pub(super) async fn unused(context: &Context, planned: &Planned) -> Result<Vec<String>, Error> {
    if planned.cluster.is_empty() {
        return Ok(Vec::new());
    }
    let volumes = match using(context, planned).await {
        Ok(volumes) => volumes,
        // Nobody can tell, and nobody needs it: the operator says so.
        Err(Error::Node(_)) if planned.force => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    if volumes.is_empty() || planned.force {
        return Ok(volumes);
    }
    let what = match (&planned.export, planned.classes.as_slice()) {
        (Some((host, path)), _) => format!("lie on {path} of host '{host}'"),
        (None, classes) => format!("are of storage class {}", classes.join(", ")),
    };
    let mut refusal = Refusal::new(
        "CLASS_IN_USE",
        format!(
            "{} of cluster '{}' {what}",
            super::check_storage::counted(volumes.len(), "volume"),
            planned.cluster
        ),
        format!(
            "delete the claims that need no longer be; or add --force, as an admin: {}",
            planned.loss()
        ),
    );
    refusal.points = volumes;
    Err(refusal.into())
}

async fn using(context: &Context, planned: &Planned) -> Result<Vec<String>, Error> {
    let api = context.clusters.api_of(&planned.cluster).await?;
    let Some((host, path)) = &planned.export else {
        return Ok(api.volumes_using(&planned.classes, None).await?);
    };
    let rows = context.store.shared_storage().await?;
    let of_host = rows
        .iter()
        .filter(|row| row.host.as_deref() == Some(host.as_str()));
    let mut servers: Vec<String> = of_host.map(|row| row.server.clone()).collect();
    if let Some(node) = context.store.cluster_node(host.as_str()).await?
        && let Some(node) = api.node(&node.node_name).await?
    {
        servers.extend(addresses(&node).iter().map(ToString::to_string));
    }
    let share = Some((servers.as_slice(), path.as_str()));
    Ok(api.volumes_using(&planned.classes, share).await?)
}
