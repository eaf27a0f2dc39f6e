//! `canasta node drain`: a node is cordoned and its pods are evicted, as their disruption budgets allow.
//!
//! `Cordoned` and `evict::evict_all` are used by the uninstall too.

mod cordon;
mod evict;
mod steps;
#[cfg(test)]
mod tests;

use std::time::Duration;

use canasta_steps::Plan;
use serde::{Deserialize, Serialize};

pub(super) use self::cordon::Cordoned;
pub(super) use self::evict::{Ended, Eviction, evict_all};
use super::launch::launch;
use super::node_target::{self, Target};
use super::{Context, Error};
use crate::operations::locks::{Resource, Wanted};
use crate::operations::{Operations, Workflow};

/// The kind of the operation.
pub const KIND: &str = "drain-node";

/// The longest that a drain may be asked to take, in seconds: a day.
const LONGEST: u32 = 24 * 60 * 60;

/// What a drain does. Stored with the operation, which is rebuilt from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Planned {
    cluster: String,
    node_name: String,
    /// Empty for a node that is no host of the fleet.
    host: String,
    timeout_seconds: u64,
}

/// A drain that was planned.
#[derive(Debug)]
pub(crate) struct DrainNode {
    context: Context,
    planned: Planned,
}

impl DrainNode {
    pub(super) fn new(context: Context, planned: Planned) -> Self {
        Self { context, planned }
    }
}

impl Workflow for DrainNode {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn title(&self) -> String {
        let Planned {
            cluster, node_name, ..
        } = &self.planned;
        format!("drain node {node_name} of cluster {cluster}")
    }

    fn locks(&self) -> Wanted {
        let Planned {
            cluster,
            node_name,
            host,
            ..
        } = &self.planned;
        // Under the node's own name, too: it need not be a host of the fleet.
        let node = format!("{node_name} of cluster {cluster}");
        let mut changes = vec![Resource::Node(node)];
        if !host.is_empty() {
            changes.push(Resource::Host(host.clone()));
        }
        Wanted {
            changes,
            consults: vec![Resource::Membership(cluster.clone())],
        }
    }

    fn request(&self) -> serde_json::Value {
        serde_json::to_value(&self.planned).expect("a plan is JSON")
    }

    fn steps(&self, operation: &str) -> Plan {
        steps::steps(&self.context, &self.planned, operation)
    }
}

/// Starts a drain, and tells the operation and the node.
///
/// # Errors
/// When the node is not known, its API can't be asked, or its host is being changed.
pub(crate) async fn drain(
    context: &Context,
    operations: &Operations,
    asked: &canasta_proto::pb::DrainNodeRequest,
    started_by: &str,
) -> Result<(String, Target), Error> {
    if asked.timeout_seconds > LONGEST {
        return Err(Error::Field {
            field: "timeout_seconds",
            rule: "a drain takes a day at most: 86400 seconds".to_owned(),
        });
    }
    let target = node_target::find(context, &asked.node, &asked.cluster).await?;
    let api = context.clusters.api_of(&target.cluster).await?;
    api.known_node(&target.node_name).await?;
    let timeout = match asked.timeout_seconds {
        0 => context.timings.evict,
        seconds => Duration::from_secs(seconds.into()),
    };
    let planned = Planned {
        cluster: target.cluster.clone(),
        node_name: target.node_name.clone(),
        host: target.host.clone(),
        timeout_seconds: timeout.as_secs().max(1),
    };
    let workflow = DrainNode::new(context.clone(), planned);
    let held = operations.hold(&workflow.locks(), KIND, started_by)?;
    let launched = launch(operations, Some(held), workflow).await?;
    Ok((launched.operation_id, target))
}
