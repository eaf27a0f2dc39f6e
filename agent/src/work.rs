//! From the verb of a task to the step that does it.

use canasta_host::Host;
use canasta_proto::pb;
use canasta_proto::pb::task_spec::Verb;
use canasta_steps::{Done, Reporter, Step, StepError, StepInfo};

use crate::k3s::install::Timings;
use crate::k3s::{adopt, install, uninstall};
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
        Verb::K3sUninstall(task) => {
            let (id, title) = uninstall_words(task.step());
            let host = host.clone();
            (id, title, Box::new(Uninstall { host, task }))
        }
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
        pb::K3sInstallStep::KeepCredential => (
            "k3s-keep-credential",
            "keep the credential of the join for root alone",
        ),
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

fn uninstall_words(step: pb::K3sUninstallStep) -> (&'static str, &'static str) {
    match step {
        pb::K3sUninstallStep::Unspecified => ("k3s-unspecified", "do nothing"),
        pb::K3sUninstallStep::Stop => ("k3s-stop", "stop and disable k3s"),
        pb::K3sUninstallStep::Processes => ("k3s-processes", "end what k3s left running"),
        pb::K3sUninstallStep::Mounts => ("k3s-mounts", "unmount what k3s mounted"),
        pb::K3sUninstallStep::Network => ("k3s-network", "remove links and packet rules of k3s"),
        pb::K3sUninstallStep::Files => ("k3s-files", "remove the files of k3s"),
        pb::K3sUninstallStep::Compare => {
            ("k3s-compare", "compare the node with before the install")
        }
    }
}

struct Uninstall {
    host: Host,
    task: pb::K3sUninstallTask,
}

#[async_trait::async_trait]
impl Step for Uninstall {
    async fn run(&self, reporter: &Reporter) -> Result<Done, StepError> {
        uninstall::run(
            &self.host,
            &self.task,
            uninstall::Limits::default(),
            reporter,
        )
        .await
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
