//! From the verb of a task to the step that does it.

use canasta_host::Host;
use canasta_proto::pb;
use canasta_proto::pb::task_spec::Verb;
use canasta_steps::{Done, Reporter, Step, StepError, StepInfo};

use crate::k3s::install::Timings;
use crate::k3s::{adopt, install};
use crate::tasks::Work;

/// The step for this task; `None` for a verb that this agent does not know.
pub(crate) fn of(host: &Host, timings: Timings, spec: pb::TaskSpec) -> Option<Work> {
    let (id, title, step): (_, _, Box<dyn Step>) = match spec.verb.clone()? {
        Verb::K3sInstall(task) => {
            let step = task.step();
            let (id, title) = words(step);
            let install = Install {
                host: host.clone(),
                timings,
                spec: task.spec?,
                step,
            };
            (id, title, Box::new(install))
        }
        Verb::K3sUninstall(_) => return None,
        Verb::K3sAdopt(pb::K3sAdoptTask {}) => (
            "k3s-adopt",
            "record the k3s that is here",
            Box::new(Adopt { host: host.clone() }),
        ),
    };
    let info = StepInfo {
        id: id.to_owned(),
        title: title.to_owned(),
        host: String::new(),
    };
    Some(Work { info, step, spec })
}

fn words(step: pb::K3sInstallStep) -> (&'static str, &'static str) {
    match step {
        pb::K3sInstallStep::Unspecified => ("k3s-unspecified", "do nothing"),
        pb::K3sInstallStep::Snapshot => ("k3s-snapshot", "keep a picture of the node from before"),
        pb::K3sInstallStep::Binary => ("k3s-binary", "put the k3s binary in place"),
        pb::K3sInstallStep::Config => ("k3s-config", "write the configuration of k3s"),
        pb::K3sInstallStep::Unit => ("k3s-unit", "write the unit of k3s"),
        pb::K3sInstallStep::Links => ("k3s-links", "link kubectl, crictl and ctr"),
        pb::K3sInstallStep::Start => ("k3s-start", "start k3s"),
        pb::K3sInstallStep::ApiReady => ("k3s-api-ready", "wait until the API server is ready"),
        pb::K3sInstallStep::Joined => ("k3s-joined", "wait until k3s has joined the cluster"),
        pb::K3sInstallStep::DropCredential => {
            ("k3s-drop-credential", "remove the credential of the join")
        }
    }
}

struct Install {
    host: Host,
    timings: Timings,
    spec: pb::K3sSpec,
    step: pb::K3sInstallStep,
}

#[async_trait::async_trait]
impl Step for Install {
    async fn run(&self, reporter: &Reporter) -> Result<Done, StepError> {
        install::run(&self.host, &self.spec, self.step, self.timings, reporter).await
    }
}

struct Adopt {
    host: Host,
}

#[async_trait::async_trait]
impl Step for Adopt {
    async fn run(&self, _reporter: &Reporter) -> Result<Done, StepError> {
        adopt::run(&self.host).await
    }
}
