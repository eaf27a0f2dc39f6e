//! The steps of a join, in order. What is done on the node is done by tasks of its agent.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use canasta_proto::name::HostName;
use canasta_proto::pb;
use canasta_proto::pb::task_spec::Verb;
use canasta_proto::pb::{K3sInstallStep, K3sUninstallStep};
use canasta_steps::{Done, Plan, Reporter, Step, StepError, StepInfo};
use tokio::time::Instant;

use super::credential::{BringCredential, DeleteTokens, KeepCredential};
use super::membership::{ClearStale, Reserve, WaitReady};
use super::plan::{Planned, plan};
use super::{control_plane, ignoring, known, probes};
use crate::clusters::local_paths::LocalPaths;
use crate::clusters::{ClusterApi, NodeError};
use crate::operations::agent::{AgentTask, connect};
use crate::workflows::Context;
use crate::workflows::ask::{again, ask, facts, step_error};
use crate::workflows::exports::follow_nodes;
use crate::workflows::record::judged;
use crate::workflows::release::{Fetch, Push, Release};

/// The pause before an API that does not answer is asked again.
const API_PAUSE: Duration = Duration::from_secs(1);
/// How long an agent may take to look at what k3s keeps.
const LOOK: Duration = Duration::from_mins(1);

/// What all steps know.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) context: Context,
    pub(super) planned: Planned,
    pub(super) operation: String,
}

impl Shared {
    pub(super) fn host(&self) -> &HostName {
        &self.planned.host
    }

    pub(super) fn control_plane(&self) -> &HostName {
        &self.planned.control_plane
    }

    /// The API of the cluster, through the control plane that is joined. One that does not answer is waited for: a control
    /// plane may be rebooted in the middle of a join.
    pub(super) async fn api(&self) -> Result<ClusterApi, StepError> {
        let Context {
            clusters, timings, ..
        } = &self.context;
        let deadline = Instant::now() + timings.node_ready;
        loop {
            let answered = async {
                let api = clusters
                    .api_through(&self.planned.cluster, self.control_plane())
                    .await?;
                api.nodes().await?;
                Ok::<_, NodeError>(api)
            };
            match answered.await {
                Err(_) if Instant::now() < deadline => tokio::time::sleep(API_PAUSE).await,
                answer => return Ok(answer?),
            }
        }
    }

    fn release(&self) -> Release {
        Release {
            context: self.context.clone(),
            host: self.host().to_string(),
            version: self.planned.k3s_version.clone(),
            arch: self.planned.arch.clone(),
        }
    }

    pub(super) fn task(&self, id: &str) -> AgentTask {
        AgentTask::new(
            self.context.fleet.clone(),
            self.host().clone(),
            &self.operation,
            id,
            self.context.timings.agent_wait,
        )
    }

    /// What a step of the agent is to do.
    pub(super) async fn install(
        &self,
        step: K3sInstallStep,
        reporter: &Reporter,
    ) -> Result<pb::TaskSpec, StepError> {
        self.install_with(step, Vec::new(), reporter).await
    }

    /// As [`Shared::install`]; `local_paths` is where the cluster keeps local volumes.
    async fn install_with(
        &self,
        step: K3sInstallStep,
        local_paths: Vec<String>,
        reporter: &Reporter,
    ) -> Result<pb::TaskSpec, StepError> {
        let (artefact, _) = self.release().artefact(reporter).await?;
        let planned = &self.planned;
        let spec = pb::K3sSpec {
            role: pb::K3sRole::Agent.into(),
            version: planned.k3s_version.clone(),
            binary_sha256: artefact.sha256().to_owned(),
            node_ip: planned.node_ip.clone(),
            flannel_link: planned.flannel_link.clone(),
            node_name: planned.node_name.clone(),
            tls_sans: Vec::new(),
            server_url: planned.server_url.clone(),
            local_paths,
        };
        Ok(pb::TaskSpec {
            verb: Some(Verb::K3sInstall(pb::K3sInstallTask {
                spec: Some(spec),
                step: step.into(),
            })),
        })
    }
}

/// The list of steps.
pub(super) fn steps(context: &Context, planned: &Planned, operation: &str) -> Plan {
    let shared = Arc::new(Shared {
        context: context.clone(),
        planned: planned.clone(),
        operation: operation.to_owned(),
    });
    let (version, cluster, node) = (&planned.k3s_version, &planned.cluster, &planned.node_name);
    let with = || Arc::clone(&shared);
    List::new(with())
        .on_host(
            "preflight",
            "check the node, the control plane and the ports between them",
            Preflight(with()),
        )
        .here(
            "reserve",
            format!("note the host as a worker of cluster {cluster}"),
            Reserve(with()),
        )
        .here(
            "fetch-artefact",
            format!("fetch k3s {version}"),
            Fetch(shared.release()),
        )
        .on_host(
            "push-artefact",
            format!("send k3s {version} to the node"),
            Push(shared.release()),
        )
        .task(
            "snapshot",
            "keep a picture of the node as it was",
            K3sInstallStep::Snapshot,
        )
        .task(
            "install-binary",
            "put the k3s binary in place",
            K3sInstallStep::Binary,
        )
        .on_host(
            "join-credential",
            "bring the credential of the join",
            BringCredential::new(with()),
        )
        .task(
            "write-config",
            "write the configuration",
            K3sInstallStep::Config,
        )
        .task("write-unit", "write the systemd unit", K3sInstallStep::Unit)
        .task(
            "link-tools",
            "link kubectl, crictl and ctr",
            K3sInstallStep::Links,
        )
        .here(
            "clear-stale",
            format!("clear what is left of an earlier node {node}"),
            ClearStale(with()),
        )
        .on_host(
            "stop-unregistered",
            "stop a k3s whose node was deleted",
            StopUnregistered::new(with()),
        )
        .here(
            "storage-clients",
            "let the node mount the shared storage of the cluster",
            LetMount(with()),
        )
        .task(
            "start-service",
            "enable and start k3s",
            K3sInstallStep::Start,
        )
        .task(
            "wait-joined",
            "wait until the node has joined",
            K3sInstallStep::Joined,
        )
        .here(
            "wait-node-ready",
            format!("wait until node {node} is Ready"),
            WaitReady(with()),
        )
        .on_host(
            "keep-credential",
            "keep the credential of the join for root alone",
            KeepCredential::new(with()),
        )
        .here(
            "delete-token",
            "delete the bootstrap token from the cluster",
            DeleteTokens(with()),
        )
        .plan
}

/// The list as it grows.
struct List {
    shared: Arc<Shared>,
    plan: Plan,
}

impl List {
    fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            plan: Plan::new(),
        }
    }

    /// A step that works on the host.
    fn on_host(self, id: &str, title: impl Into<String>, step: impl Step + 'static) -> Self {
        let host = self.shared.host().to_string();
        self.then(id, title, host, step)
    }

    /// A step of the controller itself.
    fn here(self, id: &str, title: impl Into<String>, step: impl Step + 'static) -> Self {
        self.then(id, title, String::new(), step)
    }

    /// A step that a task of the agent does.
    fn task(self, id: &str, title: &str, step: K3sInstallStep) -> Self {
        let task = InstallTask {
            task: self.shared.task(id),
            shared: Arc::clone(&self.shared),
            step,
        };
        self.on_host(id, title, task)
    }

    fn then(
        self,
        id: &str,
        title: impl Into<String>,
        host: String,
        step: impl Step + 'static,
    ) -> Self {
        let info = StepInfo {
            id: id.to_owned(),
            title: title.into(),
            host,
        };
        Self {
            plan: self.plan.then(info, step),
            ..self
        }
    }
}

/// Adds the node to those that may mount what hosts export for the cluster, before its first pod can want to.
struct LetMount(Arc<Shared>);

#[async_trait]
impl Step for LetMount {
    async fn run(&self, reporter: &Reporter) -> Result<Done, StepError> {
        let Shared {
            context, operation, ..
        } = &*self.0;
        let api = self.0.api().await?;
        follow_nodes(context, &api, operation, None, reporter).await
    }
}

/// Checks again what was checked before the operation was started: it may go on days later.
struct Preflight(Arc<Shared>);

#[async_trait]
impl Step for Preflight {
    async fn run(&self, _: &Reporter) -> Result<Done, StepError> {
        let Shared {
            context, planned, ..
        } = &*self.0;
        let host = self.0.host();
        let control_plane = self.0.control_plane();
        for needed in [host, control_plane] {
            connect(&context.fleet, needed, context.timings.agent_wait).await?;
        }
        self.0.api().await?;
        let find = || control_plane::find(context, control_plane.as_str());
        let target = again(context, control_plane, find).await?;
        let known = again(context, host, || known::gather(context, host, &target)).await?;
        let mut looked = [Ok(known)];
        known::find_twins(std::slice::from_ref(host), &mut looked);
        let [Ok(mut known)] = looked else {
            return Err(StepError::new("INTERNAL", "what was known is lost"));
        };
        let now = plan(host, &target, &known, &planned.ignored);
        let now = now.map_err(|refusal| step_error(refusal.into()))?;
        if !now.agrees_with(planned) {
            return Err(StepError::new(
                "PLAN_STALE",
                format!("things have changed on or about host '{host}' since this was planned"),
            )
            .subject(format!("host {host}"))
            .hint("nothing was changed; run the command again: it plans from what is there now"));
        }
        let probe = || probes::of_worker(context, host, &planned.node_ip, &target);
        known.findings.extend(again(context, host, probe).await?);
        let findings = ignoring(known.findings, &planned.ignored);
        let done = judged(host, &findings, !planned.fresh())?;
        if planned.adopted {
            self.0.check_credential().await?;
        }
        Ok(done)
    }
}

struct InstallTask {
    task: AgentTask,
    shared: Arc<Shared>,
    step: K3sInstallStep,
}

#[async_trait]
impl Step for InstallTask {
    async fn run(&self, reporter: &Reporter) -> Result<Done, StepError> {
        let shared = &self.shared;
        // An agent's own configuration does not say where volumes lie, and an uninstall may find no API to be asked.
        let LocalPaths { usable, unusable } = match self.step {
            K3sInstallStep::Config => {
                let api = shared.api().await?;
                api.local_paths(&shared.planned.node_name).await?
            }
            _ => LocalPaths::default(),
        };
        let spec = shared.install_with(self.step, usable, reporter).await?;
        let done = self.task.run(spec, reporter).await?;
        if unusable.is_empty() {
            return Ok(done);
        }
        Ok(Done::warning(format!(
            "{}; but the cluster keeps local volumes where canasta-agent can't look, so an uninstall of this node could \
             overlook them: {}; mend the settings of its local-path provisioner",
            done.detail,
            unusable.join("; ")
        )))
    }
}

/// A k3s that runs on after its Node was deleted does not register it again: it has to be started anew.
struct StopUnregistered {
    task: AgentTask,
    shared: Arc<Shared>,
}

impl StopUnregistered {
    fn new(shared: Arc<Shared>) -> Self {
        Self {
            task: shared.task("stop-unregistered"),
            shared,
        }
    }
}

#[async_trait]
impl Step for StopUnregistered {
    async fn run(&self, reporter: &Reporter) -> Result<Done, StepError> {
        let Shared {
            context, planned, ..
        } = &*self.shared;
        let api = self.shared.api().await?;
        if api.node(&planned.node_name).await?.is_some() {
            return Ok(Done::unchanged(format!(
                "the API knows node {}",
                planned.node_name
            )));
        }
        let facts = facts(context, self.shared.host()).await?;
        let k3s = facts.k3s.unwrap_or_default();
        if k3s.unit_started_at.is_none() {
            return Ok(Done::unchanged("k3s does not run"));
        }
        // An older agent guards this step too, which destroys nothing: volumes stay where they are.
        let inspected = ask(context, self.shared.host(), LOOK, |mut client| async move {
            client
                .inspect_uninstall(pb::InspectUninstallRequest::default())
                .await
        })
        .await?;
        let stop = pb::K3sUninstallTask {
            step: K3sUninstallStep::Stop.into(),
            discard: inspected.stored.into_iter().map(|data| data.path).collect(),
            local_paths: Vec::new(),
        };
        let spec = pb::TaskSpec {
            verb: Some(Verb::K3sUninstall(stop)),
        };
        let (unit, node) = (k3s.unit, &planned.node_name);
        match self.task.run(spec, reporter).await {
            Ok(_) => Ok(Done::repaired(format!(
                "{unit} ran without its node {node} in the API; it is stopped, and started again next"
            ))),
            // A new credential restarts it as well.
            Err(error) if error.reason() == "FOREIGN_MOUNT" => Ok(Done::warning(format!(
                "{unit} runs without its node {node} in the API and could not be stopped: {error}; if the node does not \
                 come, restart it on the machine: systemctl restart {unit}"
            ))),
            Err(error) => Err(error),
        }
    }
}
