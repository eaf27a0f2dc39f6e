//! `canasta install k8s-cp`: a k3s control plane on a host, or an installed one brought to what is asked.

mod detail;
mod plan;
mod steps;

use canasta_proto::address::Address;
use canasta_proto::pb;
use canasta_steps::Plan;
use serde::{Deserialize, Serialize};

use self::plan::{Planned, Request, plan};
use super::choice::{self, Wish};
use super::gather::{self, gather};
use super::{Begun, Context, Error, Refusal, begin, hold_host, refuse};
use crate::clusters::CONTROL_PLANE;
use crate::operations::locks::{Resource, Wanted};
use crate::operations::{Operations, Workflow};
use crate::store::clusters::{ClusterRow, NodeRow};

/// The kind of the operation.
pub const KIND: &str = "install-k8s-cp";

/// The most addresses that may be asked for.
const MOST_PUBLIC_IPS: usize = 16;

/// What was asked, as it is stored: the plan is made again from it before anything is changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Asked {
    public_ips: Vec<String>,
    k3s_version: String,
    cluster: String,
}

impl Asked {
    fn of(asked: &pb::InstallControlPlaneRequest) -> Self {
        Self {
            public_ips: asked.public_ips.clone(),
            k3s_version: asked.k3s_version.clone(),
            cluster: asked.cluster.clone(),
        }
    }

    fn request(&self) -> Result<Request, Error> {
        check(&pb::InstallControlPlaneRequest {
            public_ips: self.public_ips.clone(),
            k3s_version: self.k3s_version.clone(),
            cluster: self.cluster.clone(),
            ..pb::InstallControlPlaneRequest::default()
        })
    }
}

/// What is stored of an install, which is rebuilt from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Job {
    asked: Asked,
    #[serde(flatten)]
    planned: Planned,
}

/// An install that was planned.
#[derive(Debug)]
pub(crate) struct InstallControlPlane {
    context: Context,
    job: Job,
}

impl InstallControlPlane {
    pub(super) fn new(context: Context, job: Job) -> Self {
        Self { context, job }
    }
}

/// What an install that did not come to its end had recorded by its plan: the flags of its command are not forgotten.
pub(super) fn planned_before(request: &str) -> Option<(ClusterRow, NodeRow)> {
    let planned: Planned = serde_json::from_str(request).ok()?;
    let cluster = ClusterRow {
        name: planned.cluster.clone(),
        k3s_version: planned.k3s_version,
        ca_hash: String::new(),
        endpoint: String::new(),
        adopted: false,
        created_at: 0,
        public_ips: planned.public_ips,
    };
    let node = NodeRow {
        host: planned.host,
        cluster: planned.cluster,
        node_name: planned.node_name,
        role: CONTROL_PLANE.to_owned(),
        node_ip: planned.node_ip,
        tls_sans: planned.tls_sans,
    };
    Some((cluster, node))
}

impl Workflow for InstallControlPlane {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn title(&self) -> String {
        format!(
            "install a k3s control plane on {} (cluster {}, {})",
            self.job.planned.host, self.job.planned.cluster, self.job.planned.k3s_version
        )
    }

    fn locks(&self) -> Wanted {
        Wanted {
            changes: vec![
                Resource::Host(self.job.planned.host.clone()),
                Resource::Membership(self.job.planned.cluster.clone()),
            ],
            consults: Vec::new(),
        }
    }

    fn request(&self) -> serde_json::Value {
        serde_json::to_value(&self.job).expect("a plan is JSON")
    }

    fn steps(&self, operation: &str) -> Plan {
        steps::steps(&self.context, &self.job, operation)
    }
}

/// Plans an install, and starts it unless it is a dry run.
///
/// # Errors
/// When the request is not sound, the host can't be asked, or things stand in the way: all findings at once.
pub async fn install(
    context: &Context,
    operations: &Operations,
    asked: &pb::InstallControlPlaneRequest,
    started_by: &str,
) -> Result<Begun, Error> {
    let request = check(asked)?;
    let (row, host_chosen) = choice::choose(context, &asked.host, Wish::Install).await?;
    let host = row.name;
    let held = hold_host(operations, &host, KIND, started_by, asked.dry_run)?;
    let known = gather(context, &host).await?;
    let planned = match plan(&host, &request, &known, &context.k3s.version) {
        Ok(planned) => planned,
        Err(refusal) => return refuse(&host, host_chosen, known, refusal, asked.dry_run),
    };
    let errors: Vec<_> = gather::errors(&known.findings).collect();
    if !errors.is_empty() && !asked.dry_run {
        let refusal = Refusal::new(
            "PREFLIGHT_FAILED",
            format!("host '{host}' is not fit for k3s: {}", codes(&errors)),
            format!(
                "mend what is named, then run the command again; canasta install k8s-cp --host {host} --dry-run shows \
                 all findings and changes nothing"
            ),
        )
        .about(&host);
        return Err(refusal.with_findings(&known.findings).into());
    }
    let details = detail::details(&planned, &known);
    let shown = pb::InstallPlan {
        host: planned.host.clone(),
        host_chosen,
        cluster: planned.cluster.clone(),
        k3s_version: planned.k3s_version.clone(),
        current_version: planned.current_version.clone(),
        node_ip: planned.node_ip.clone(),
        node_ip_source: planned.node_ip_source.clone(),
        node_name: planned.node_name.clone(),
        tls_sans: planned.tls_sans.clone(),
        findings: known.findings,
        steps: Vec::new(),
        ..pb::InstallPlan::default()
    };
    let job = Job {
        asked: Asked::of(asked),
        planned,
    };
    let workflow = InstallControlPlane::new(context.clone(), job);
    begin(operations, held, workflow, shown, &details).await
}

fn codes(findings: &[&pb::Finding]) -> String {
    let codes: Vec<_> = findings
        .iter()
        .map(|finding| finding.code.as_str())
        .collect();
    codes.join(", ")
}

fn check(asked: &pb::InstallControlPlaneRequest) -> Result<Request, Error> {
    let optional = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let mut public_ips = Vec::new();
    if asked.public_ips.len() > MOST_PUBLIC_IPS {
        return Err(Error::PublicIp);
    }
    for text in &asked.public_ips {
        let address: Address = text.parse().map_err(|_| Error::PublicIp)?;
        if address.port().is_some() {
            return Err(Error::PublicIp);
        }
        if !public_ips.contains(&address.host()) {
            public_ips.push(address.host());
        }
    }
    let cluster = optional(&asked.cluster)
        .map(|name| name.parse())
        .transpose();
    Ok(Request {
        public_ips,
        k3s_version: optional(&asked.k3s_version)
            .map(|version| version.parse())
            .transpose()?,
        cluster: cluster.map_err(|rule| Error::Name {
            field: "cluster",
            rule,
        })?,
    })
}

#[cfg(test)]
mod tests;
