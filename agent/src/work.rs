//! From the verb of a task to the step that does it.

use canasta_host::Host;
use canasta_proto::pb;
use canasta_proto::pb::task_spec::Verb;
use canasta_steps::{Done, Reporter, Step, StepError, StepInfo};
use tokio_util::sync::CancellationToken;

use crate::k3s::install::Timings;
use crate::k3s::{adopt, install, uninstall};
use crate::tasks::Work;

mod storage;

/// The step for this task; `None` for a verb that this agent does not know. `stopping` is cancelled when the agent is to end.
pub(crate) fn of(
    host: &Host,
    stopping: CancellationToken,
    timings: Timings,
    spec: pb::TaskSpec,
) -> Option<Work> {
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
        verb @ (Verb::MountProof(_)
        | Verb::NfsInstall(_)
        | Verb::ExportEnsure(_)
        | Verb::ExportRemove(_)) => storage::of(host, verb)?,
    };
    let info = StepInfo {
        id: id.to_owned(),
        title: title.to_owned(),
        host: String::new(),
    };
    let cut = CancellationToken::new();
    let step = Box::new(WhileUp {
        host: host.clone(),
        stopping,
        cut: cut.clone(),
        step,
    });
    Some(Work {
        info,
        step,
        spec,
        cut,
    })
}

/// A step of a machine that may be rebooted in the middle of it. What fails while the machine or the agent goes down has not
/// failed: it comes to no end, so that the next start of the agent tells it as interrupted. The agent doesn't run it again by
/// itself; the controller does, once it hears of that.
struct WhileUp {
    host: Host,
    stopping: CancellationToken,
    /// Cancelled once the agent is to end and nothing more comes of the step, so that the end waits for nothing.
    cut: CancellationToken,
    step: Box<dyn Step>,
}

impl WhileUp {
    /// What goes down, in words; `None` where nothing does.
    async fn going_down(&self) -> Option<&'static str> {
        // A machine that goes down stops the agent too. Without an answer it counts as up: what failed is told.
        let state = self.host.systemd.system_state().await;
        if state.is_ok_and(|state| state == "stopping") {
            return Some("the machine goes down");
        }
        let is_stopping = self.stopping.is_cancelled();
        is_stopping.then_some("the agent is being stopped")
    }
}

#[async_trait::async_trait]
impl Step for WhileUp {
    async fn run(&self, reporter: &Reporter) -> Result<Done, StepError> {
        let error = match self.step.run(reporter).await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        let Some(what) = self.going_down().await else {
            return Err(error);
        };
        tracing::warn!(
            reason = error.reason(),
            error = &error as &dyn std::error::Error,
            "a step failed while {what}; at the next start it is told as interrupted, and the controller runs it again"
        );
        // A machine that goes down stops the agent too; until then no other task takes the place of this one.
        self.stopping.cancelled().await;
        self.cut.cancel();
        std::future::pending().await
    }

    async fn undo(&self) -> Result<(), StepError> {
        self.step.undo().await
    }
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use canasta_host::fake::FakeHost;
    use canasta_steps::{
        Done, End, Journal, JournalError, Plan, Reporter, Resume, Runner, Step, StepError,
        StepEvent, StepInfo,
    };
    use futures_util::FutureExt as _;
    use tokio_util::sync::CancellationToken;

    use super::WhileUp;

    struct Fails;

    #[async_trait::async_trait]
    impl Step for Fails {
        async fn run(&self, _: &Reporter) -> Result<Done, StepError> {
            Err(StepError::new("K3S_EXITED", "k3s has ended"))
        }
    }

    struct Deaf;

    #[async_trait::async_trait]
    impl Journal for Deaf {
        async fn record(&self, _: &str, _: StepEvent) -> Result<(), JournalError> {
            Ok(())
        }
    }

    /// Whether a step that fails comes to an end.
    fn ends(fake: &FakeHost, stopping: &CancellationToken) -> bool {
        let step = WhileUp {
            host: fake.host(),
            stopping: stopping.clone(),
            cut: CancellationToken::new(),
            step: Box::new(Fails),
        };
        let info = StepInfo {
            id: "one".to_owned(),
            title: String::new(),
            host: String::new(),
        };
        let plan = Plan::new().then(info, step);
        let runner = Runner::new(Arc::new(Deaf));
        let never = CancellationToken::new();
        let ended = runner.run(&plan, Resume::default(), &never).now_or_never();
        ended.is_some_and(|end| matches!(end, End::Failed(_)))
    }

    #[tokio::test]
    async fn what_goes_down_is_told_apart() {
        let (fake, stopping) = (FakeHost::new("cp1"), CancellationToken::new());
        let step = WhileUp {
            host: fake.host(),
            stopping: stopping.clone(),
            cut: CancellationToken::new(),
            step: Box::new(Fails),
        };
        assert_eq!(step.going_down().await, None);
        stopping.cancel();
        assert_eq!(step.going_down().await, Some("the agent is being stopped"));
        fake.systemd.set_system_state("stopping");
        assert_eq!(step.going_down().await, Some("the machine goes down"));
    }

    #[tokio::test]
    async fn a_failure_while_the_machine_or_the_agent_goes_down_is_no_end() {
        let (fake, stopping) = (FakeHost::new("cp1"), CancellationToken::new());
        assert!(ends(&fake, &stopping));
        fake.systemd.set_system_state("stopping");
        assert!(!ends(&fake, &stopping));
        fake.systemd.set_system_state("degraded");
        assert!(ends(&fake, &stopping));
        fake.systemd.set_unreachable(true);
        assert!(ends(&fake, &stopping));
        stopping.cancel();
        assert!(!ends(&fake, &stopping));
    }
}
