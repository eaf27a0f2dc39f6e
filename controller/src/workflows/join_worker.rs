//! `canasta install k8s-worker`: hosts join the cluster of a control plane, each by an operation of its own.
//!
//! All hosts are looked at together, then each is planned, probed and started by itself, so that one that can't join keeps no
//! other from it.

mod control_plane;
mod credential;
mod known;
mod membership;
mod plan;
mod probes;
mod steps;
#[cfg(test)]
mod tests;

use canasta_proto::name::HostName;
use canasta_proto::pb;
use canasta_steps::Plan;
use canasta_transport::status::Fault;
use futures_util::future::join_all;

use self::control_plane::ControlPlane;
use self::known::Known;
use self::plan::{CREDENTIAL, Planned, plan};
use super::choice::{self, Wish};
use super::launch::launch;
use super::{Context, Error, Refusal, gather, hold_host};
use crate::operations::locks::{Resource, Wanted};
use crate::operations::{Held, Operations, Workflow};

/// The kind of the operation.
pub const KIND: &str = "install-k8s-worker";

/// The most hosts that may be asked for in one call.
const MOST_HOSTS: usize = 100;
/// The most findings that may be ignored, and the longest code of one.
const MOST_IGNORED: usize = 32;
const LONGEST_CODE: usize = 64;

/// A join that was planned.
#[derive(Debug)]
pub(crate) struct JoinWorker {
    context: Context,
    planned: Planned,
}

impl JoinWorker {
    pub(super) fn new(context: Context, planned: Planned) -> Self {
        Self { context, planned }
    }
}

impl Workflow for JoinWorker {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn title(&self) -> String {
        let Planned {
            host,
            cluster,
            k3s_version,
            ..
        } = &self.planned;
        format!("join {host} to cluster {cluster} as a worker ({k3s_version})")
    }

    fn locks(&self) -> Wanted {
        Wanted {
            changes: vec![Resource::Host(self.planned.host.to_string())],
            // Shared, so that workers join at the same time, and none while its control plane goes away.
            consults: vec![
                Resource::Host(self.planned.control_plane.to_string()),
                Resource::Membership(self.planned.cluster.clone()),
            ],
        }
    }

    fn request(&self) -> serde_json::Value {
        serde_json::to_value(&self.planned).expect("a plan is JSON")
    }

    fn steps(&self, operation: &str) -> Plan {
        steps::steps(&self.context, &self.planned, operation)
    }
}

/// Plans the joins of hosts, and starts them unless it is a dry run. Each host has its own outcome.
///
/// # Errors
/// When the request is not sound, or nothing can be joined to the control plane as it stands.
pub async fn join(
    context: &Context,
    operations: &Operations,
    asked: &pb::JoinWorkersRequest,
    started_by: &str,
) -> Result<Vec<pb::WorkerJoin>, Error> {
    let hosts = check(asked)?;
    let target = control_plane::find(context, &asked.control_plane).await?;
    let (hosts, chosen) = if hosts.is_empty() {
        let (row, chosen) = choice::choose(context, "", Wish::Join).await?;
        (vec![row.name], chosen)
    } else {
        (hosts, false)
    };
    let call = Call {
        context,
        operations,
        target: &target,
        asked,
        started_by,
        chosen,
    };
    let looks = hosts.iter().map(|host| call.look(host));
    let (mut looked, held): (Vec<_>, Vec<_>) = join_all(looks).await.into_iter().unzip();
    known::find_twins(&hosts, &mut looked);
    let joins = hosts
        .iter()
        .zip(looked)
        .zip(held)
        .map(|((host, known), held)| call.one(host, known, held));
    Ok(join_all(joins).await)
}

/// One call, for each of its hosts.
struct Call<'a> {
    context: &'a Context,
    operations: &'a Operations,
    target: &'a ControlPlane,
    asked: &'a pb::JoinWorkersRequest,
    started_by: &'a str,
    chosen: bool,
}

impl Call<'_> {
    /// What is known of a host, which is held from now on unless it is a dry run.
    async fn look(&self, host: &HostName) -> (Result<Known, Error>, Option<Held>) {
        let held = async {
            self.context.fleet.host(host.as_str()).await?;
            hold_host(
                self.operations,
                host,
                KIND,
                self.started_by,
                self.asked.dry_run,
            )
        };
        match held.await {
            Ok(held) => (known::gather(self.context, host, self.target).await, held),
            Err(error) => (Err(error), None),
        }
    }

    async fn one(
        &self,
        host: &HostName,
        known: Result<Known, Error>,
        held: Option<Held>,
    ) -> pb::WorkerJoin {
        let mut join = pb::WorkerJoin {
            host: host.to_string(),
            ..pb::WorkerJoin::default()
        };
        if let Err(error) = self.plan_and_start(host, known, held, &mut join).await {
            join.error = Some(Fault::from(error).to_report());
        }
        join
    }

    async fn plan_and_start(
        &self,
        host: &HostName,
        known: Result<Known, Error>,
        held: Option<Held>,
        join: &mut pb::WorkerJoin,
    ) -> Result<(), Error> {
        let ignored = &self.asked.ignore_findings;
        let mut known = known?;
        let planned = plan(host, self.target, &known, ignored)?;
        let probed = probes::of_worker(self.context, host, &planned.node_ip, self.target).await?;
        known.findings.extend(probed);
        let findings = ignoring(known.findings, ignored);
        join.plan = Some(shown(&planned, findings.clone(), self.chosen));
        let errors: Vec<_> = gather::errors(&findings).collect();
        if !errors.is_empty() && !self.asked.dry_run {
            return Err(unfit(host, &errors).into());
        }
        let workflow = JoinWorker::new(self.context.clone(), planned);
        let launched = launch(self.operations, held, workflow).await?;
        join.operation_id = launched.operation_id;
        if let Some(plan) = &mut join.plan {
            plan.steps = launched.steps;
        }
        Ok(())
    }
}

/// The request, as far as it can be judged by itself.
fn check(asked: &pb::JoinWorkersRequest) -> Result<Vec<HostName>, Error> {
    let name = |field: &'static str, text: &str| {
        text.parse::<HostName>()
            .map_err(|rule| Error::Name { field, rule })
    };
    if asked.hosts.len() > MOST_HOSTS {
        return Err(Error::Field {
            field: "hosts",
            rule: "at most 100 hosts are joined by one call".to_owned(),
        });
    }
    let mut hosts = Vec::new();
    for text in &asked.hosts {
        let host = name("hosts", text)?;
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    name("control_plane", &asked.control_plane)?;
    let plain = |code: &String| {
        let known = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
        !code.is_empty() && code.len() <= LONGEST_CODE && code.bytes().all(known)
    };
    if asked.ignore_findings.len() > MOST_IGNORED || !asked.ignore_findings.iter().all(plain) {
        return Err(Error::Field {
            field: "ignore_findings",
            rule: "a finding is named by its code, upper case letters, digits and '_': NET_PORT_BLOCKED; at most 32 of them"
                .to_owned(),
        });
    }
    Ok(hosts)
}

/// What is not to stop a join is told as a warning.
fn ignoring(mut findings: Vec<pb::Finding>, ignored: &[String]) -> Vec<pb::Finding> {
    for finding in &mut findings {
        if finding.severity() == pb::Severity::Error && ignored.contains(&finding.code) {
            finding.set_severity(pb::Severity::Warning);
            finding.message.push_str(" (ignored, as was asked for)");
        }
    }
    findings
}

fn unfit(host: &HostName, errors: &[&pb::Finding]) -> Refusal {
    let mut codes: Vec<_> = errors.iter().map(|finding| finding.code.as_str()).collect();
    codes.dedup();
    let mut refusal = Refusal::new(
        "PREFLIGHT_FAILED",
        format!("host '{host}' can't join: {}", codes.join(", ")),
        "mend what is named, then run the command again; with --dry-run it shows all findings and changes nothing. An admin \
         goes on nevertheless with --ignore-findings CODE",
    )
    .about(host);
    refusal.points = errors
        .iter()
        .map(|finding| gather::shown(finding))
        .collect();
    refusal
}

fn shown(planned: &Planned, findings: Vec<pb::Finding>, chosen: bool) -> pb::InstallPlan {
    pb::InstallPlan {
        host: planned.host.to_string(),
        host_chosen: chosen,
        cluster: planned.cluster.clone(),
        k3s_version: planned.k3s_version.clone(),
        current_version: planned.current_version.clone(),
        node_ip: planned.node_ip.clone(),
        node_ip_source: planned.node_ip_source.clone(),
        node_name: planned.node_name.clone(),
        findings,
        control_plane: planned.control_plane.to_string(),
        server_url: planned.server_url.clone(),
        credential: CREDENTIAL.to_owned(),
        ..pb::InstallPlan::default()
    }
}
