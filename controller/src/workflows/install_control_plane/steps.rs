//! The steps of an install, in order. What is done on the node is done by tasks of its agent.

use std::sync::Arc;

use async_trait::async_trait;
use canasta_proto::name::HostName;
use canasta_proto::pb;
use canasta_proto::pb::K3sInstallStep;
use canasta_proto::pb::task_spec::Verb;
use canasta_steps::{Done, Plan, Reporter, Step, StepError, StepInfo};

use super::plan::{Planned, plan};
use super::{Asked, Job};
use crate::artefacts::Artefact;
use crate::operations::agent::AgentTask;
use crate::workflows::ask::again;
use crate::workflows::record::{Record, judged};
use crate::workflows::release::{Fetch, Push, Release};
use crate::workflows::{Context, gather, stale};

/// Tasks of the agent: id, title, which step of the agent.
const TASKS: [(&str, &str, K3sInstallStep); 7] = [
    (
        "snapshot",
        "keep a picture of the node as it was",
        K3sInstallStep::Snapshot,
    ),
    (
        "install-binary",
        "put the k3s binary in place",
        K3sInstallStep::Binary,
    ),
    (
        "write-config",
        "write the configuration",
        K3sInstallStep::Config,
    ),
    ("write-unit", "write the systemd unit", K3sInstallStep::Unit),
    (
        "link-tools",
        "link kubectl, crictl and ctr",
        K3sInstallStep::Links,
    ),
    (
        "start-service",
        "enable and start k3s",
        K3sInstallStep::Start,
    ),
    (
        "wait-api",
        "wait for the API server",
        K3sInstallStep::ApiReady,
    ),
];

/// The list of steps.
pub(super) fn steps(context: &Context, job: &Job, operation: &str) -> Plan {
    let Job { asked, planned } = job;
    let shared = Arc::new(Shared {
        context: context.clone(),
        asked: asked.clone(),
        planned: planned.clone(),
    });
    let host = planned.host.as_str();
    let version = &planned.k3s_version;
    let mut plan = Plan::new()
        .then(
            info("preflight", "check the node", host),
            Preflight(Arc::clone(&shared)),
        )
        .then(
            info("fetch-artefact", &format!("fetch k3s {version}"), ""),
            Fetch(shared.release()),
        )
        .then(
            info(
                "push-artefact",
                &format!("send k3s {version} to the node"),
                host,
            ),
            Push(shared.release()),
        );
    for (id, title, step) in TASKS {
        let task = InstallTask::new(Arc::clone(&shared), operation, id, step);
        plan = plan.then(info(id, title, host), task);
    }
    plan.then(
        info(
            "wait-node-ready",
            &format!("wait until node {} is Ready", planned.node_name),
            "",
        ),
        WaitNodeReady(Arc::clone(&shared)),
    )
    .then(
        info("record", &format!("record cluster {}", planned.cluster), ""),
        RecordCluster(shared),
    )
}

fn info(id: &str, title: &str, host: &str) -> StepInfo {
    StepInfo {
        id: id.to_owned(),
        title: title.to_owned(),
        host: host.to_owned(),
    }
}

/// What all steps know.
struct Shared {
    context: Context,
    asked: Asked,
    planned: Planned,
}

impl Shared {
    fn host(&self) -> Result<HostName, StepError> {
        let host = self.planned.host.parse::<HostName>();
        host.map_err(|error| StepError::from_source("INTERNAL", &error))
    }

    fn release(&self) -> Release {
        Release {
            context: self.context.clone(),
            host: self.planned.host.clone(),
            version: self.planned.k3s_version.clone(),
            arch: self.planned.arch.clone(),
        }
    }

    fn spec(&self, artefact: &Artefact) -> pb::K3sSpec {
        let planned = &self.planned;
        pb::K3sSpec {
            role: pb::K3sRole::Server.into(),
            version: planned.k3s_version.clone(),
            binary_sha256: artefact.sha256().to_owned(),
            node_ip: planned.node_ip.clone(),
            flannel_link: planned.flannel_link.clone(),
            node_name: planned.node_name.clone(),
            tls_sans: planned.tls_sans.clone(),
            server_url: String::new(),
            local_paths: Vec::new(),
        }
    }
}

/// Checks again what was checked before the operation was started, and plans again: it may go on days later.
struct Preflight(Arc<Shared>);

#[async_trait]
impl Step for Preflight {
    async fn run(&self, _: &Reporter) -> Result<Done, StepError> {
        let host = self.0.host()?;
        let context = &self.0.context;
        let planned = &self.0.planned;
        let known = again(context, &host, || gather::gather(context, &host)).await?;
        let done = judged(&host, &known.findings, !planned.current_version.is_empty())?;
        let internal = |error: &dyn std::error::Error| StepError::from_source("INTERNAL", error);
        let asked = self.0.asked.request().map_err(|error| internal(&error))?;
        // What a first install takes when nothing was asked is settled by the plan, whatever the settings say by now.
        let version = planned.k3s_version.parse();
        let version = version.map_err(|error| internal(&error))?;
        stale::check(&host, planned, plan(&host, &asked, &known, &version))?;
        Ok(done)
    }
}

struct InstallTask {
    shared: Arc<Shared>,
    step: K3sInstallStep,
    task: Result<AgentTask, StepError>,
}

impl InstallTask {
    fn new(shared: Arc<Shared>, operation: &str, id: &str, step: K3sInstallStep) -> Self {
        let context = &shared.context;
        let task = shared.host().map(|host| {
            AgentTask::new(
                context.fleet.clone(),
                host,
                operation,
                id,
                context.timings.agent_wait,
            )
        });
        Self { shared, step, task }
    }
}

#[async_trait]
impl Step for InstallTask {
    async fn run(&self, reporter: &Reporter) -> Result<Done, StepError> {
        let task = self.task.as_ref().map_err(StepError::clone)?;
        let (artefact, _) = self.shared.release().artefact(reporter).await?;
        let install = pb::K3sInstallTask {
            spec: Some(self.shared.spec(&artefact)),
            step: self.step.into(),
        };
        let spec = pb::TaskSpec {
            verb: Some(Verb::K3sInstall(install)),
        };
        task.run(spec, reporter).await
    }
}

struct WaitNodeReady(Arc<Shared>);

#[async_trait]
impl Step for WaitNodeReady {
    async fn run(&self, reporter: &Reporter) -> Result<Done, StepError> {
        let planned = &self.0.planned;
        let clusters = &self.0.context.clusters;
        clusters
            .wait_node_ready(
                &self.0.host()?,
                &planned.node_name,
                &planned.k3s_version,
                reporter,
            )
            .await?;
        Ok(Done::unchanged(format!(
            "node {} is Ready",
            planned.node_name
        )))
    }
}

struct RecordCluster(Arc<Shared>);

#[async_trait]
impl Step for RecordCluster {
    async fn run(&self, _: &Reporter) -> Result<Done, StepError> {
        let planned = &self.0.planned;
        let record = Record {
            host: self.0.host()?,
            cluster: planned.cluster.clone(),
            k3s_version: planned.k3s_version.clone(),
            node_name: planned.node_name.clone(),
            node_ip: planned.node_ip.clone(),
            tls_sans: planned.tls_sans.clone(),
            public_ips: planned.public_ips.clone(),
            adopted: false,
        };
        record.store(&self.0.context).await
    }
}
