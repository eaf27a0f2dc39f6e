//! The last act of planning: the steps are told, and the operation is started unless only the plan was asked for.

use std::sync::Arc;

use canasta_proto::pb;

use crate::operations::{self, Operations, Workflow};

/// A workflow that was planned, and started unless only the plan was asked for.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Launched {
    /// The operation; empty when only the plan was asked for.
    pub(super) operation_id: String,
    pub(super) steps: Vec<pb::PlannedStep>,
}

/// Tells the steps, and starts the operation unless it is a dry run.
pub(super) async fn launch(
    operations: &Operations,
    workflow: impl Workflow + 'static,
    dry_run: bool,
    started_by: &str,
) -> Result<Launched, operations::Error> {
    let steps = workflow
        .steps("")
        .infos()
        .map(|info| pb::PlannedStep {
            id: info.id.clone(),
            title: info.title.clone(),
            host: info.host.clone(),
        })
        .collect();
    let operation_id = if dry_run {
        String::new()
    } else {
        operations.start(Arc::new(workflow), started_by).await?
    };
    Ok(Launched {
        operation_id,
        steps,
    })
}
