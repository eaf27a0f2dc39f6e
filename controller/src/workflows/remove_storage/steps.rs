//! The steps of a removal: classes first, so that nothing new comes to the share; the controller's own record last.

use std::sync::Arc;

use async_trait::async_trait;
use canasta_proto::pb;
use canasta_proto::pb::task_spec::Verb;
use canasta_steps::{Done, Plan, Reporter, Step, StepError, StepInfo};

use super::{Planned, unused};
use crate::clusters::NodeError;
use crate::clusters::classes::is_ours;
use crate::operations::agent::AgentTask;
use crate::store::shared_storage::SharedRow;
use crate::workflows::Context;
use crate::workflows::ask::step_error;
use crate::workflows::record::database_failed;

struct Shared {
    context: Context,
    planned: Planned,
    operation: String,
}

/// The list of steps.
pub(super) fn steps(context: &Context, planned: &Planned, operation: &str) -> Plan {
    let shared = Arc::new(Shared {
        context: context.clone(),
        planned: planned.clone(),
        operation: operation.to_owned(),
    });
    let with = || Arc::clone(&shared);
    let info = |id: &str, title: String, host: &str| StepInfo {
        id: id.to_owned(),
        title,
        host: host.to_owned(),
    };
    let mut plan = Plan::new();
    if !planned.classes.is_empty() {
        let title = format!("delete storage class {}", planned.classes.join(", "));
        plan = plan.then(info("delete-class", title, ""), DeleteClasses(with()));
    }
    if let Some((host, path)) = &planned.export {
        let title = format!("end the export of {path}");
        let host = host.to_string();
        plan = plan.then(info("end-export", title, &host), EndExport(with()));
    }
    let title = "forget what was set up".to_owned();
    plan.then(info("forget", title, ""), Forget(with()))
}

/// Deletes the classes that are ours. The volumes are looked at once more: some may have come since.
struct DeleteClasses(Arc<Shared>);

#[async_trait]
impl Step for DeleteClasses {
    async fn run(&self, _: &Reporter) -> Result<Done, StepError> {
        let Shared {
            context, planned, ..
        } = &*self.0;
        let volumes = unused(context, planned).await.map_err(step_error)?;
        let (deleted, left) = match self.delete().await {
            Ok(done) => done,
            Err(error) if planned.force => {
                return Ok(Done::warning(format!(
                    "the API of cluster {} can't be asked, so the class is left there: {error}",
                    planned.cluster
                )));
            }
            Err(error) => return Err(error.into()),
        };
        let mut text = match deleted.as_slice() {
            [] => "it is gone already".to_owned(),
            _ => format!("{} deleted", deleted.join(", ")),
        };
        if !left.is_empty() {
            text.push_str(&format!(
                "; {} is someone else's by now and is left",
                left.join(", ")
            ));
        }
        if !volumes.is_empty() {
            return Ok(Done::warning(format!(
                "{text}; by force, of these volumes: {}; {}",
                volumes.join(", "),
                planned.loss()
            )));
        }
        Ok(if deleted.is_empty() {
            Done::unchanged(text)
        } else {
            Done::changed(text)
        })
    }
}

impl DeleteClasses {
    /// Those that were deleted, and those that are somebody else's.
    async fn delete(&self) -> Result<(Vec<&str>, Vec<&str>), NodeError> {
        let Shared {
            context, planned, ..
        } = &*self.0;
        let api = context.clusters.api_of(&planned.cluster).await?;
        let (mut deleted, mut left) = (Vec::new(), Vec::new());
        for class in &planned.classes {
            let Some(found) = api.storage_class(class).await? else {
                continue;
            };
            if !is_ours(&found) {
                left.push(class.as_str());
            } else if api.delete_class(&found).await? {
                deleted.push(class.as_str());
            }
        }
        Ok((deleted, left))
    }
}

/// Has the host end the export; its files stay.
struct EndExport(Arc<Shared>);

#[async_trait]
impl Step for EndExport {
    async fn run(&self, reporter: &Reporter) -> Result<Done, StepError> {
        let Shared {
            context,
            planned,
            operation,
        } = &*self.0;
        let Some((host, path)) = &planned.export else {
            return Ok(Done::skipped("there is none"));
        };
        let task = AgentTask::new(
            context.fleet.clone(),
            (**host).clone(),
            operation,
            "end-export",
            context.timings.agent_wait,
        );
        let verb = Verb::ExportRemove(pb::ExportRemoveTask { path: path.clone() });
        task.run(pb::TaskSpec { verb: Some(verb) }, reporter).await
    }
}

/// Forgets the classes.
struct Forget(Arc<Shared>);

#[async_trait]
impl Step for Forget {
    async fn run(&self, _: &Reporter) -> Result<Done, StepError> {
        let Shared {
            context, planned, ..
        } = &*self.0;
        let before = context.store.shared_storage().await;
        let before = before.map_err(database_failed)?;
        let mut forgotten = false;
        for class in &planned.classes {
            let is_it = |row: &&SharedRow| row.cluster == planned.cluster && row.class == *class;
            let Some(row) = before.iter().find(is_it) else {
                continue;
            };
            forgotten = true;
            let done = context.store.forget_shared_storage(row);
            done.await.map_err(database_failed)?;
        }
        let kept = "the data on the share is kept, and so is the driver";
        Ok(if forgotten {
            Done::changed(kept)
        } else {
            Done::unchanged(kept)
        })
    }
}
