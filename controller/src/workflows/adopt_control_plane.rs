//! `canasta install k8s-cp --adopt`: records a control plane that someone else installed, and changes nothing on it.

use std::sync::Arc;

use async_trait::async_trait;
use canasta_proto::name::{ClusterName, HostName};
use canasta_proto::pb;
use canasta_proto::pb::task_spec::Verb;
use canasta_steps::{Done, Plan, Reporter, Step, StepError, StepInfo};
use serde::{Deserialize, Serialize};

use super::ask::again;
use super::choice::{self, Wish};
use super::gather::{Gathered, gather, has_program, node_name};
use super::host_text::HostText;
use super::record::{Record, known_as, known_cluster};
use super::{Begun, Context, Details, Error, Refusal, begin, hold_host, refuse, stale};
use crate::operations::agent::AgentTask;
use crate::operations::locks::{Resource, Wanted};
use crate::operations::{Operations, Workflow};

/// The kind of the operation.
pub const KIND: &str = "adopt-k8s-cp";

/// What an adoption records. Stored with the operation, which is rebuilt from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Planned {
    host: HostText,
    cluster: String,
    k3s_version: String,
    node_name: String,
    node_ip: String,
    tls_sans: Vec<String>,
}

/// An adoption that was planned.
#[derive(Debug)]
pub(crate) struct AdoptControlPlane {
    context: Context,
    planned: Planned,
}

impl AdoptControlPlane {
    pub(super) fn new(context: Context, planned: Planned) -> Self {
        Self { context, planned }
    }
}

impl Workflow for AdoptControlPlane {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn title(&self) -> String {
        format!(
            "adopt the k3s control plane on {} (cluster {})",
            self.planned.host, self.planned.cluster
        )
    }

    fn locks(&self) -> Wanted {
        Wanted {
            changes: vec![
                Resource::Host(self.planned.host.to_string()),
                Resource::Membership(self.planned.cluster.clone()),
            ],
            consults: Vec::new(),
        }
    }

    fn request(&self) -> serde_json::Value {
        serde_json::to_value(&self.planned).expect("a plan is JSON")
    }

    fn steps(&self, operation: &str) -> Plan {
        let host = &*self.planned.host;
        let info = |id: &str, title: &str, host: &str| StepInfo {
            id: id.to_owned(),
            title: title.to_owned(),
            host: host.to_owned(),
        };
        let patience = self.context.timings.agent_wait;
        let task = AgentTask::new(
            self.context.fleet.clone(),
            host.clone(),
            operation,
            "adopt",
            patience,
        );
        let shared = Arc::new((self.context.clone(), self.planned.clone()));
        Plan::new()
            .then(
                info("preflight", "look at the k3s that is there", host.as_str()),
                Preflight(Arc::clone(&shared)),
            )
            .then(
                info("adopt", "record it on the node", host.as_str()),
                Adopt(task),
            )
            .then(
                info(
                    "record",
                    &format!("record cluster {}", self.planned.cluster),
                    "",
                ),
                RecordCluster(shared),
            )
    }
}

/// Plans an adoption, and starts it unless it is a dry run.
///
/// # Errors
/// When the request is not sound, the host can't be asked, or there is no foreign control plane on it.
pub async fn adopt(
    context: &Context,
    operations: &Operations,
    asked: &pb::AdoptControlPlaneRequest,
    started_by: &str,
) -> Result<Begun, Error> {
    let cluster = (!asked.cluster.is_empty()).then(|| asked.cluster.parse());
    let cluster: Option<ClusterName> = cluster.transpose().map_err(|rule| Error::Name {
        field: "cluster",
        rule,
    })?;
    let (row, host_chosen) = choice::choose(context, &asked.host, Wish::Adopt).await?;
    let host = row.name;
    let held = hold_host(operations, &host, KIND, started_by, asked.dry_run)?;
    let mut known = gather(context, &host).await?;
    known.findings = as_warnings(known.findings);
    let planned = match plan(&host, cluster.as_ref(), &known) {
        Ok(planned) => planned,
        Err(refusal) => return refuse(&host, host_chosen, known, refusal, asked.dry_run),
    };
    let details = details(&planned, &known);
    let shown = pb::InstallPlan {
        host: host.to_string(),
        host_chosen,
        cluster: planned.cluster.clone(),
        k3s_version: planned.k3s_version.clone(),
        current_version: planned.k3s_version.clone(),
        node_ip: planned.node_ip.clone(),
        node_ip_source: "as the k3s that is there has it".to_owned(),
        node_name: planned.node_name.clone(),
        tls_sans: planned.tls_sans.clone(),
        findings: known.findings,
        ..pb::InstallPlan::default()
    };
    let workflow = AdoptControlPlane::new(context.clone(), planned);
    begin(operations, held, workflow, shown, &details).await
}

/// An adoption changes nothing on the node, so nothing that was found there stands in its way; but it is told. That there
/// is a k3s of someone else is no news.
fn as_warnings(findings: Vec<pb::Finding>) -> Vec<pb::Finding> {
    findings
        .into_iter()
        .filter(|finding| finding.code != "FOREIGN_K3S")
        .map(|finding| pb::Finding {
            severity: pb::Severity::Warning.into(),
            ..finding
        })
        .collect()
}

/// What each step would do. A pure function.
fn details(planned: &Planned, known: &Gathered) -> Details {
    let k3s = known.facts.k3s.clone().unwrap_or_default();
    let unchanged = || "unchanged".to_owned();
    let adopt = match k3s.origin() {
        pb::K3sOrigin::Adopted => unchanged(),
        _ => format!(
            "k3s {} is noted as adopted; nothing on the node is changed or restarted",
            planned.k3s_version
        ),
    };
    let recorded = known.cluster.as_ref().zip(known.node.as_ref());
    let same = recorded.is_some_and(|(cluster, node)| {
        cluster.adopted
            && (&cluster.name, &cluster.k3s_version) == (&planned.cluster, &planned.k3s_version)
            && (&node.node_name, &node.node_ip, &node.tls_sans)
                == (&planned.node_name, &planned.node_ip, &planned.tls_sans)
    });
    let record = if same {
        unchanged()
    } else {
        format!("cluster {} as it is now", planned.cluster)
    };
    Details::from([
        ("preflight", unchanged()),
        ("adopt", adopt),
        ("record", record),
    ])
}

/// What would be recorded. A pure function.
fn plan(
    host: &HostName,
    cluster: Option<&ClusterName>,
    known: &Gathered,
) -> Result<Planned, Refusal> {
    let k3s = known.facts.k3s.clone().unwrap_or_default();
    let refused = |reason, message: String, hint: String| {
        Err(Refusal::new(reason, message, hint).about(host))
    };
    if !has_program(&k3s) {
        return refused(
            "NO_K3S",
            format!("host '{host}' has no k3s to adopt"),
            format!("install one: canasta install k8s-cp --host {host}"),
        );
    }
    if k3s.origin() == pb::K3sOrigin::Installed {
        return refused(
            "NOT_FOREIGN",
            format!(
                "the k3s on host '{host}' was installed by this fleet, so there is nothing to adopt"
            ),
            format!("run canasta install k8s-cp --host {host} without --adopt"),
        );
    }
    if k3s.role() != pb::K3sRole::Server {
        return refused(
            "WRONG_ROLE",
            format!(
                "the k3s on host '{host}' is no control plane: {}",
                k3s.found.join(", ")
            ),
            "adopt the control plane of its cluster instead".to_owned(),
        );
    }
    let recorded = known.cluster.as_ref().map(|cluster| cluster.name.as_str());
    let name = cluster
        .map(ClusterName::as_str)
        .or(recorded)
        .unwrap_or(host.as_str());
    if let Some(recorded) = recorded.filter(|recorded| *recorded != name) {
        return refused(
            "CLUSTER_FIXED",
            format!(
                "host '{host}' belongs to cluster '{recorded}', and the name of a cluster can't change"
            ),
            format!("leave --cluster out, or give --cluster {recorded}"),
        );
    }
    if recorded.is_none()
        && let Some(known) = known_as(&known.clusters, &k3s.ca_hash)
    {
        return Err(known_cluster(host, known));
    }
    if recorded.is_none() && known.clusters.iter().any(|cluster| cluster.name == name) {
        return refused(
            "CLUSTER_EXISTS",
            format!("a cluster '{name}' exists already, with another control plane"),
            "choose another name: --cluster NAME; `canasta cluster list` shows those that are taken".to_owned(),
        );
    }
    let first = |one: String, other: String| if one.is_empty() { other } else { one };
    Ok(Planned {
        host: host.clone().into(),
        cluster: name.to_owned(),
        k3s_version: first(k3s.running_version, k3s.binary_version),
        node_name: first(k3s.node_name, node_name(&known.facts.hostname)),
        node_ip: first(k3s.node_ip, known.facts.node_ip.clone()),
        tls_sans: k3s.tls_sans,
    })
}

struct Preflight(Arc<(Context, Planned)>);

#[async_trait]
impl Step for Preflight {
    async fn run(&self, _: &Reporter) -> Result<Done, StepError> {
        let (context, planned) = &*self.0;
        let host = &*planned.host;
        let known = again(context, host, || gather(context, host)).await?;
        let cluster = planned.cluster.parse().ok();
        stale::check(host, planned, plan(host, cluster.as_ref(), &known))?;
        Ok(Done::unchanged(format!(
            "k3s {} is there",
            planned.k3s_version
        )))
    }
}

struct Adopt(AgentTask);

#[async_trait]
impl Step for Adopt {
    async fn run(&self, reporter: &Reporter) -> Result<Done, StepError> {
        let spec = pb::TaskSpec {
            verb: Some(Verb::K3sAdopt(pb::K3sAdoptTask {})),
        };
        self.0.run(spec, reporter).await
    }
}

struct RecordCluster(Arc<(Context, Planned)>);

#[async_trait]
impl Step for RecordCluster {
    async fn run(&self, _: &Reporter) -> Result<Done, StepError> {
        let (context, planned) = &*self.0;
        let record = Record {
            host: (*planned.host).clone(),
            cluster: planned.cluster.clone(),
            k3s_version: planned.k3s_version.clone(),
            node_name: planned.node_name.clone(),
            node_ip: planned.node_ip.clone(),
            tls_sans: planned.tls_sans.clone(),
            public_ips: Vec::new(),
            adopted: true,
        };
        record.store(context).await
    }
}

#[cfg(test)]
mod tests {
    use canasta_proto::pb;

    use super::plan;
    use crate::store::clusters::ClusterRow;
    use crate::workflows::gather::Gathered;

    fn known(origin: pb::K3sOrigin, role: pb::K3sRole) -> Gathered {
        Gathered {
            facts: pb::NodeFacts {
                hostname: "Box".to_owned(),
                node_ip: "10.0.0.9".to_owned(),
                k3s: Some(pb::K3sFacts {
                    present: origin != pb::K3sOrigin::Unspecified,
                    origin: origin.into(),
                    role: role.into(),
                    binary_version: "v1.21.3+k3s1".to_owned(),
                    unit: "k3s.service".to_owned(),
                    ..pb::K3sFacts::default()
                }),
                ..pb::NodeFacts::default()
            },
            ..Gathered::default()
        }
    }

    fn cluster(name: &str, ca_hash: &str) -> ClusterRow {
        ClusterRow {
            name: name.to_owned(),
            k3s_version: String::new(),
            ca_hash: ca_hash.to_owned(),
            endpoint: String::new(),
            adopted: false,
            created_at: 0,
            public_ips: Vec::new(),
        }
    }

    #[test]
    fn only_a_foreign_control_plane_is_adopted() {
        use pb::K3sOrigin::{Adopted, Foreign, Installed, Unspecified};
        use pb::K3sRole::{Agent, Server};
        let host = "cp1".parse().expect("name");
        for (origin, role, reason) in [
            (Unspecified, Server, "NO_K3S"),
            (Installed, Server, "NOT_FOREIGN"),
            (Foreign, Agent, "WRONG_ROLE"),
        ] {
            let refusal = plan(&host, None, &known(origin, role)).expect_err(reason);
            assert_eq!(refusal.reason, reason);
            assert!(!refusal.hint.is_empty());
        }
        for origin in [Foreign, Adopted] {
            let planned = plan(&host, None, &known(origin, Server)).expect("a server");
            assert_eq!(
                (planned.cluster.as_str(), planned.node_name.as_str()),
                ("cp1", "box")
            );
            assert_eq!(
                (planned.k3s_version.as_str(), planned.node_ip.as_str()),
                ("v1.21.3+k3s1", "10.0.0.9")
            );
            let stored = serde_json::to_string(&planned).expect("JSON");
            assert_eq!(
                serde_json::from_str::<super::Planned>(&stored).expect("read back"),
                planned
            );
        }
        let mut second = known(Foreign, Server);
        second.facts.k3s.as_mut().expect("k3s").ca_hash = "ab".to_owned();
        second.clusters.push(cluster("wiki", "ab"));
        for name in [None, Some("other".parse().expect("name"))] {
            let refusal = plan(&host, name.as_ref(), &second).expect_err("of a known cluster");
            assert_eq!(refusal.reason, "CLUSTER_KNOWN");
            assert!(
                refusal.message.contains("cluster 'wiki'") && refusal.hint.contains("wiki"),
                "{refusal:?}"
            );
        }
        second.clusters[0].ca_hash = "cd".to_owned();
        plan(&host, None, &second).expect("another cluster");
        let mut taken = known(Foreign, Server);
        taken.clusters.push(cluster("cp1", ""));
        assert_eq!(
            plan(&host, None, &taken).expect_err("taken").reason,
            "CLUSTER_EXISTS"
        );
    }
}
