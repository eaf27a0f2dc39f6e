//! From the verbs of shared storage to the steps that do them.

use canasta_host::Host;
use canasta_host::nfs::Action;
use canasta_proto::pb;
use canasta_proto::pb::task_spec::Verb;
use canasta_proto::share::SharePath;
use canasta_steps::{Done, Reporter, Step, StepError};

use crate::storage::export::Export;
use crate::storage::server::Backend;
use crate::storage::{Limits, ensure, install, prove, remove};

/// The step for a verb of shared storage, with its id and title; `None` for another verb, and for one that was not checked.
pub(super) fn of(host: &Host, verb: Verb) -> Option<(&'static str, &'static str, Box<dyn Step>)> {
    let (id, title, what) = match verb {
        Verb::NfsInstall(task) => (
            "nfs-install",
            "install the NFS server",
            What::Install(Backend::from_wire(task.backend())),
        ),
        Verb::ExportEnsure(task) => {
            let backend = Backend::from_wire(task.backend());
            (
                "export-ensure",
                "export the directory",
                What::Ensure(backend, wanted(&task)?),
            )
        }
        Verb::ExportRemove(task) => (
            "export-remove",
            "end the export",
            What::Remove(task.path.parse().ok()?),
        ),
        Verb::MountProof(task) => (
            "mount-proof",
            "prove that the share can be used",
            What::Prove(action(task.action())?, task),
        ),
        _ => return None,
    };
    let step = Storage {
        host: host.clone(),
        what,
    };
    Some((id, title, Box::new(step)))
}

fn wanted(task: &pb::ExportEnsureTask) -> Option<Export> {
    let clients = task.clients.iter().map(|client| client.parse().ok());
    let clients: Option<Vec<_>> = clients.collect();
    Some(Export::new(task.path.parse().ok()?, clients?))
}

fn action(action: pb::MountProofAction) -> Option<Action> {
    match action {
        pb::MountProofAction::Unspecified => None,
        pb::MountProofAction::Write => Some(Action::Write),
        pb::MountProofAction::Read => Some(Action::Read),
        pb::MountProofAction::Remove => Some(Action::Remove),
    }
}

enum What {
    Install(Option<Backend>),
    Ensure(Option<Backend>, Export),
    Remove(SharePath),
    Prove(Action, pb::MountProofTask),
}

struct Storage {
    host: Host,
    what: What,
}

#[async_trait::async_trait]
impl Step for Storage {
    async fn run(&self, reporter: &Reporter) -> Result<Done, StepError> {
        let (host, limits) = (&self.host, Limits::default());
        match &self.what {
            What::Install(backend) => install(host, limits, *backend, reporter).await,
            What::Ensure(backend, export) => {
                ensure::run(host, limits, *backend, export.clone(), reporter).await
            }
            What::Remove(share) => remove::run(host, limits, share).await,
            What::Prove(action, task) => prove::run(host, *action, task, reporter).await,
        }
    }
}
