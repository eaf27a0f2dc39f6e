//! The last step of making or adopting a cluster: what the controller keeps of it.

use canasta_proto::name::HostName;
use canasta_proto::pb;
use canasta_steps::{Done, StepError};

use super::{Context, Refusal, ask};
use crate::clusters::CONTROL_PLANE;
use crate::operations::stamp;
use crate::store::clusters::{ClusterRow, NodeRow};

/// What is known of the cluster besides what the agent says.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) host: HostName,
    pub(super) cluster: String,
    pub(super) k3s_version: String,
    pub(super) node_name: String,
    pub(super) node_ip: String,
    pub(super) tls_sans: Vec<String>,
    pub(super) public_ips: Vec<String>,
    pub(super) adopted: bool,
}

impl Record {
    /// Stores the cluster and its node, with the hash of the CA that the agent sees.
    pub(super) async fn store(&self, context: &Context) -> Result<Done, StepError> {
        let facts = ask::facts(context, &self.host).await?;
        let k3s = facts.k3s.unwrap_or_default();
        if k3s.ca_hash.is_empty() {
            return Err(StepError::new(
                "CA_UNKNOWN",
                format!(
                    "the agent on host '{}' can't tell the CA of the cluster",
                    self.host
                ),
            )
            .subject(format!("host {}", self.host))
            .hint(format!(
                "see `journalctl -u k3s` on {}, then run the command again",
                self.host
            )));
        }
        let store = &context.store;
        let failed = database_failed;
        let old = store.cluster(&self.cluster).await.map_err(failed)?;
        let old_node = store
            .cluster_node(self.host.as_str())
            .await
            .map_err(failed)?;
        let clusters = store.clusters().await.map_err(failed)?;
        self.check_own(&clusters, old_node.as_ref(), &k3s.ca_hash)?;
        let cluster = ClusterRow {
            name: self.cluster.clone(),
            k3s_version: self.k3s_version.clone(),
            ca_hash: k3s.ca_hash,
            endpoint: endpoint(&self.node_ip),
            adopted: self.adopted,
            created_at: old
                .as_ref()
                .map_or_else(stamp::now_millis, |old| old.created_at),
            public_ips: self.public_ips.clone(),
        };
        let node = NodeRow {
            host: self.host.to_string(),
            cluster: self.cluster.clone(),
            node_name: self.node_name.clone(),
            role: CONTROL_PLANE.to_owned(),
            node_ip: self.node_ip.clone(),
            tls_sans: self.tls_sans.clone(),
        };
        let text = format!("cluster {} with control plane {}", self.cluster, self.host);
        if old.as_ref() == Some(&cluster) && old_node.as_ref() == Some(&node) {
            return Ok(Done::unchanged(text));
        }
        store
            .put_cluster_node(&cluster, &node)
            .await
            .map_err(failed)?;
        Ok(Done::changed(text))
    }

    /// Refuses a cluster that is another's. It was planned before its name was held: meanwhile another host may have become
    /// the cluster of this name, or of this CA.
    fn check_own(
        &self,
        clusters: &[ClusterRow],
        old_node: Option<&NodeRow>,
        ca_hash: &str,
    ) -> Result<(), StepError> {
        if old_node.is_some_and(|node| node.cluster == self.cluster) {
            return Ok(());
        }
        if let Some(known) = known_as(clusters, ca_hash) {
            return Err(refused(known_cluster(&self.host, known)));
        }
        if clusters.iter().any(|cluster| cluster.name == self.cluster) {
            return Err(StepError::new(
                "CLUSTER_EXISTS",
                format!(
                    "a cluster '{}' was recorded meanwhile, with another control plane",
                    self.cluster
                ),
            )
            .subject(format!("cluster {}", self.cluster))
            .hint(format!(
                "run the command again with another name: --host {} --cluster NAME",
                self.host
            )));
        }
        Ok(())
    }
}

/// The cluster that has this CA: two servers with one CA are one cluster.
pub(super) fn known_as<'a>(clusters: &'a [ClusterRow], ca_hash: &str) -> Option<&'a ClusterRow> {
    let same = |cluster: &&ClusterRow| !ca_hash.is_empty() && cluster.ca_hash == ca_hash;
    clusters.iter().find(same)
}

/// Why a second server of a known cluster makes no cluster of its own.
pub(super) fn known_cluster(host: &HostName, known: &ClusterRow) -> Refusal {
    Refusal::new(
        "CLUSTER_KNOWN",
        format!(
            "the k3s on host '{host}' is a server of cluster '{}', which this fleet has already",
            known.name
        ),
        format!(
            "there is nothing to adopt: a cluster is adopted through one of its servers, and `canasta cluster show {}` \
             shows all its nodes",
            known.name
        ),
    )
    .about(host)
}

/// A refusal as the error of a step.
pub(super) fn refused(refusal: Refusal) -> StepError {
    StepError::new(refusal.reason, refusal.message)
        .subject(refusal.subject)
        .hint(refusal.hint)
}

/// The database failed in a step.
pub(super) fn database_failed(error: crate::store::Error) -> StepError {
    StepError::from_source("DATABASE_FAILED", &error)
        .hint("look at the controller's log and the space on its disk, then run the command again")
}

fn endpoint(node_ip: &str) -> String {
    if node_ip.contains(':') {
        format!("https://[{node_ip}]:6443")
    } else {
        format!("https://{node_ip}:6443")
    }
}

/// Findings of a node as the outcome of its preflight step. Warnings about a node that runs k3s already were heeded or not
/// when it was installed: they are told, and the step is unchanged.
pub(super) fn judged(
    host: &HostName,
    findings: &[pb::Finding],
    installed: bool,
) -> Result<Done, StepError> {
    let errors: Vec<_> = super::gather::errors(findings).collect();
    if !errors.is_empty() {
        let mut error = StepError::new(
            "PREFLIGHT_FAILED",
            match errors.as_slice() {
                [one] => format!("host '{host}' is not fit for k3s: {}", one.code),
                all => format!("host '{host}' is not fit for k3s: {} findings", all.len()),
            },
        )
        .subject(format!("host {host}"))
        .hint("mend what the findings name, then run the command again")
        .evidence(super::gather::evidence(host, findings));
        for finding in errors {
            error = error.cause(super::gather::shown(finding));
        }
        return Err(error);
    }
    if findings.is_empty() {
        return Ok(Done::unchanged("nothing stands in the way"));
    }
    let texts: Vec<_> = findings.iter().map(super::gather::told).collect();
    let text = texts.join("; ");
    Ok(if installed {
        Done::unchanged(text)
    } else {
        Done::warning(text)
    })
}

#[cfg(test)]
mod tests {
    use super::Record;
    use crate::store::clusters::{ClusterRow, NodeRow};

    fn record() -> Record {
        Record {
            host: "cp2".parse().expect("name"),
            cluster: "wiki".to_owned(),
            k3s_version: "v1.34.8+k3s1".to_owned(),
            node_name: "cp2".to_owned(),
            node_ip: "10.0.0.6".to_owned(),
            tls_sans: Vec::new(),
            public_ips: Vec::new(),
            adopted: true,
        }
    }

    fn cluster(name: &str, ca_hash: &str) -> ClusterRow {
        ClusterRow {
            name: name.to_owned(),
            k3s_version: "v1.34.8+k3s1".to_owned(),
            ca_hash: ca_hash.to_owned(),
            endpoint: "https://10.0.0.5:6443".to_owned(),
            adopted: true,
            created_at: 0,
            public_ips: Vec::new(),
        }
    }

    #[test]
    fn a_cluster_that_another_host_has_become_meanwhile_is_not_written_over() {
        let record = record();
        let node = |cluster: &str| NodeRow {
            host: "cp2".to_owned(),
            cluster: cluster.to_owned(),
            node_name: "cp2".to_owned(),
            role: "control-plane".to_owned(),
            node_ip: "10.0.0.6".to_owned(),
            tls_sans: Vec::new(),
        };
        for (clusters, node, reason) in [
            (vec![], None, None),
            (vec![cluster("other", "cd")], None, None),
            // Its own, recorded by an earlier run.
            (vec![cluster("wiki", "ab")], Some(node("wiki")), None),
            (vec![cluster("wiki", "cd")], None, Some("CLUSTER_EXISTS")),
            (vec![cluster("other", "ab")], None, Some("CLUSTER_KNOWN")),
        ] {
            let checked = record.check_own(&clusters, node.as_ref(), "ab");
            let refused = checked.as_ref().err().map(canasta_steps::StepError::reason);
            assert_eq!(refused, reason, "{clusters:?}");
        }
    }
}
