//! The last act of planning: the steps are told, and the operation is started unless only the plan was asked for.

use std::sync::Arc;

use canasta_proto::pb;

use crate::operations::{self, Held, Operations, Workflow};

/// A workflow that was planned, and started unless only the plan was asked for.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Launched {
    /// The operation; empty when only the plan was asked for.
    pub(super) operation_id: String,
    pub(super) steps: Vec<pb::PlannedStep>,
}

/// Tells the steps, and starts the operation with what was held while it was planned; nothing was for a dry run.
pub(super) async fn launch(
    operations: &Operations,
    held: Option<Held>,
    workflow: impl Workflow + 'static,
) -> Result<Launched, operations::Error> {
    let steps = workflow
        .steps("")
        .infos()
        .map(|info| pb::PlannedStep {
            id: info.id.clone(),
            title: info.title.clone(),
            host: info.host.clone(),
            detail: String::new(),
        })
        .collect();
    let operation_id = match held {
        Some(held) => operations.start(held, Arc::new(workflow)).await?,
        None => String::new(),
    };
    Ok(Launched {
        operation_id,
        steps,
    })
}
