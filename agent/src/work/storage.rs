//! From the verb of shared storage to the step that does it.

use canasta_host::Host;
use canasta_host::nfs::Action;
use canasta_proto::pb;
use canasta_steps::{Done, Reporter, Step, StepError};

use crate::storage::prove;

/// The proof of a mount, with its id and title; `None` for one that was not checked.
pub(super) fn proof(
    host: &Host,
    task: pb::MountProofTask,
) -> Option<(&'static str, &'static str, Box<dyn Step>)> {
    let step = MountProof {
        host: host.clone(),
        action: action(task.action())?,
        task,
    };
    Some((
        "mount-proof",
        "prove that the share can be used",
        Box::new(step),
    ))
}

fn action(action: pb::MountProofAction) -> Option<Action> {
    match action {
        pb::MountProofAction::Unspecified => None,
        pb::MountProofAction::Write => Some(Action::Write),
        pb::MountProofAction::Read => Some(Action::Read),
        pb::MountProofAction::Remove => Some(Action::Remove),
    }
}

struct MountProof {
    host: Host,
    action: Action,
    task: pb::MountProofTask,
}

#[async_trait::async_trait]
impl Step for MountProof {
    async fn run(&self, reporter: &Reporter) -> Result<Done, StepError> {
        prove::run(&self.host, self.action, &self.task, reporter).await
    }
}
