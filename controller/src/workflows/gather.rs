//! What is known of a host before anything is planned: its facts and findings now, and what the controller recorded.

use std::time::{Duration, SystemTime};

use canasta_proto::name::HostName;
use canasta_proto::pb;
use canasta_proto::pb::Severity;
use tokio::time::timeout;

use super::{Context, Error, install_control_plane};
use crate::fleet::FleetError;
use crate::operations::stamp;
use crate::store::clusters::{ClusterRow, NodeRow};

/// How far the clocks of a node and the controller may be apart.
pub(super) const SKEW_LIMIT: Duration = Duration::from_secs(30);

/// What is known of a host.
#[derive(Debug, Clone, Default)]
pub(super) struct Gathered {
    /// What its agent says now.
    pub(super) facts: pb::NodeFacts,
    /// What its agent finds in the way of k3s, and what the controller finds.
    pub(super) findings: Vec<pb::Finding>,
    /// What the controller recorded of it as a node.
    pub(super) node: Option<NodeRow>,
    /// Its cluster.
    pub(super) cluster: Option<ClusterRow>,
    /// All clusters.
    pub(super) clusters: Vec<ClusterRow>,
    /// The releases that the controller keeps.
    pub(super) artefacts: Vec<pb::Artefact>,
}

impl Gathered {
    /// The name of the Node that this machine is already: as recorded, or as the k3s of this fleet on it is configured.
    pub(super) fn node_name(&self) -> Option<&str> {
        let recorded = self.node.as_ref().map(|node| node.node_name.as_str());
        let k3s = self.facts.k3s.as_ref();
        let configured = k3s
            .filter(|k3s| k3s.origin() == pb::K3sOrigin::Installed)
            .map(|k3s| k3s.node_name.as_str());
        recorded.or(configured).filter(|name| !name.is_empty())
    }
}

/// Asks the agent and the database.
pub(super) async fn gather(context: &Context, host: &HostName) -> Result<Gathered, Error> {
    let (mut findings, facts) = preflight(context, host, pb::K3sRole::Server).await?;
    context.store.set_facts(host, &facts).await?;
    let others = context.store.hosts().await?.into_iter().filter_map(|row| {
        let told = row.facts.map_or(row.hostname, |facts| facts.hostname);
        (row.name != *host).then(|| (row.name.to_string(), told))
    });
    findings.extend(hostname_findings(&facts.hostname, others));
    let node = context.store.cluster_node(host.as_str()).await?;
    let clusters = context.store.clusters().await?;
    let of_node = |cluster: &&ClusterRow| {
        node.as_ref()
            .is_some_and(|node| node.cluster == cluster.name)
    };
    let cluster = clusters.iter().find(of_node).cloned();
    let installed = facts
        .k3s
        .as_ref()
        .is_some_and(|k3s| k3s.origin() == pb::K3sOrigin::Installed);
    // An install that failed has recorded nothing but its own plan.
    let (cluster, node) = match (cluster, node) {
        (None, None) if installed => {
            let kind = install_control_plane::KIND;
            let request = context.store.last_request(kind, host.as_str()).await?;
            let planned = request
                .as_deref()
                .and_then(install_control_plane::planned_before);
            planned.map_or((None, None), |(cluster, node)| (Some(cluster), Some(node)))
        }
        found => found,
    };
    let artefacts = context.artefacts.list().await.map_err(Error::Artefacts)?;
    let mut known = Gathered {
        facts,
        findings,
        node,
        cluster,
        clusters,
        artefacts,
    };
    known.findings.extend(renamed_finding(&known));
    Ok(known)
}

/// Asks the agent what stands in the way of a role, and compares the clocks by that.
pub(super) async fn preflight(
    context: &Context,
    host: &HostName,
    role: pb::K3sRole,
) -> Result<(Vec<pb::Finding>, pb::NodeFacts), Error> {
    let mut client = context.fleet.agent(host).await?;
    let failed = |source: tonic::Status| FleetError::Call {
        host: host.clone(),
        what: "its preflight",
        source: Box::new(source),
    };
    let request = pb::PreflightRequest { role: role.into() };
    let answer = timeout(context.timings.request, client.preflight(request))
        .await
        .unwrap_or_else(|_| {
            Err(tonic::Status::deadline_exceeded(
                "it did not answer in time",
            ))
        })
        .map_err(failed)?
        .into_inner();
    let asked = SystemTime::now();
    let clock = client.get_facts(pb::GetFactsRequest {});
    let clock = timeout(context.timings.request, clock)
        .await
        .unwrap_or_else(|_| {
            Err(tonic::Status::deadline_exceeded(
                "it did not answer in time",
            ))
        })
        .map_err(failed)?
        .into_inner();
    let answered = SystemTime::now();
    let facts = clock.facts.or(answer.facts).unwrap_or_default();
    let mut findings = answer.findings;
    findings.extend(skew_finding(&facts, asked, answered));
    Ok((findings, facts))
}

/// Compares the node's time with the middle between question and answer.
fn skew_finding(
    facts: &pb::NodeFacts,
    asked: SystemTime,
    answered: SystemTime,
) -> Option<pb::Finding> {
    let told = SystemTime::try_from(facts.observed_at?).ok()?;
    let took = answered.duration_since(asked).unwrap_or_default();
    let middle = asked + took / 2;
    let (apart, ahead) = match told.duration_since(middle) {
        Ok(ahead) => (ahead, true),
        Err(behind) => (behind.duration(), false),
    };
    // What the answer took may lie on either side of the moment that it tells.
    if apart <= SKEW_LIMIT + took / 2 {
        return None;
    }
    Some(pb::Finding {
        code: "CLOCK_SKEW".to_owned(),
        severity: Severity::Error.into(),
        message: format!(
            "the node's clock is {} s {} the controller's; certificates and leases need them within {} s",
            apart.as_secs(),
            if ahead { "ahead of" } else { "behind" },
            SKEW_LIMIT.as_secs()
        ),
        subject: "clock".to_owned(),
        mend: "let both machines synchronise their clocks (systemd-timesyncd or chrony)".to_owned(),
    })
}

/// The machine's name becomes the Node's name, so no other host may have it.
fn hostname_findings(
    hostname: &str,
    others: impl Iterator<Item = (String, String)>,
) -> Vec<pb::Finding> {
    let wanted = node_name(hostname);
    others
        .filter(|(_, name)| !wanted.is_empty() && node_name(name) == wanted)
        .map(|(other, _)| pb::Finding {
            code: "HOSTNAME_TAKEN".to_owned(),
            severity: Severity::Error.into(),
            message: format!("host '{other}' has the hostname '{hostname}' too"),
            subject: hostname.to_owned(),
            mend: "give the machine another name: hostnamectl set-hostname NAME, then run the command again".to_owned(),
        })
        .collect()
}

/// The machine has another name than when it became a Node, which keeps its first one.
fn renamed_finding(known: &Gathered) -> Option<pb::Finding> {
    let kept = known.node_name()?;
    let hostname = &known.facts.hostname;
    if hostname.is_empty() || node_name(hostname) == kept {
        return None;
    }
    Some(pb::Finding {
        code: "HOSTNAME_CHANGED".to_owned(),
        severity: Severity::Warning.into(),
        message: format!(
            "the machine is called '{hostname}' now, and its Node keeps the name '{kept}' that it was installed with"
        ),
        subject: hostname.clone(),
        mend: format!(
            "give the machine its name back: hostnamectl set-hostname {kept}; the cluster runs on without that, too"
        ),
    })
}

/// True when k3s is installed, and not only its data was left behind.
pub(super) fn has_program(k3s: &pb::K3sFacts) -> bool {
    k3s.present && !(k3s.unit.is_empty() && k3s.binary_sha256.is_empty())
}

/// The Node's name: the hostname in lower case.
pub(super) fn node_name(hostname: &str) -> String {
    hostname.to_ascii_lowercase()
}

/// The findings that forbid the work.
pub(super) fn errors(findings: &[pb::Finding]) -> impl Iterator<Item = &pb::Finding> {
    findings
        .iter()
        .filter(|finding| finding.severity() == Severity::Error)
}

/// A finding on one line, with its mend, among others of any severity.
pub(super) fn shown(finding: &pb::Finding) -> String {
    let warning = match finding.severity() {
        Severity::Warning => "warning ",
        _ => "",
    };
    format!("{warning}{}", told(finding))
}

/// A finding on one line, with its mend, where its severity is told already.
pub(super) fn told(finding: &pb::Finding) -> String {
    format!(
        "{}: {} (mend: {})",
        finding.code, finding.message, finding.mend
    )
}

/// Findings as what was seen when a step failed.
pub(super) fn evidence(host: &HostName, findings: &[pb::Finding]) -> pb::Evidence {
    pb::Evidence {
        title: "findings of the preflight".to_owned(),
        lines: findings.iter().map(shown).collect(),
        source: format!("agent on {host}"),
        at: Some(stamp::now()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use canasta_proto::pb;

    use super::{Gathered, hostname_findings, renamed_finding, skew_finding};
    use crate::store::clusters::NodeRow;

    #[test]
    fn the_clocks_are_compared_with_the_middle_of_the_call() {
        let asked = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let answered = asked + Duration::from_secs(2);
        let facts = |second: i64| pb::NodeFacts {
            observed_at: Some(prost_types::Timestamp {
                seconds: second,
                nanos: 0,
            }),
            ..pb::NodeFacts::default()
        };
        for (second, skewed) in [
            (1_000_001, None),
            (1_000_032, None),
            (1_000_033, Some("32 s ahead of")),
            (999_970, None),
            (999_969, Some("32 s behind")),
        ] {
            let finding = skew_finding(&facts(second), asked, answered);
            match (finding, skewed) {
                (None, None) => {}
                (Some(finding), Some(part)) => {
                    assert!(finding.message.contains(part), "{finding:?}");
                }
                (finding, _) => panic!("{second}: {finding:?}"),
            }
        }
        // Not known is not skewed.
        assert_eq!(
            skew_finding(&pb::NodeFacts::default(), asked, answered),
            None
        );
    }

    #[test]
    fn a_machine_that_was_renamed_is_told_and_one_in_capitals_is_not() {
        let found = |hostname: &str, recorded: Option<&str>| {
            let known = Gathered {
                facts: pb::NodeFacts {
                    hostname: hostname.to_owned(),
                    ..pb::NodeFacts::default()
                },
                node: recorded.map(|name| NodeRow {
                    host: "cp1".to_owned(),
                    cluster: "c".to_owned(),
                    node_name: name.to_owned(),
                    role: "control-plane".to_owned(),
                    node_ip: String::new(),
                    tls_sans: Vec::new(),
                }),
                ..Gathered::default()
            };
            renamed_finding(&known)
        };
        assert_eq!(found("cp1", None), None);
        assert_eq!(found("CP1", Some("cp1")), None);
        // Not known is not renamed.
        assert_eq!(found("", Some("cp1")), None);
        let finding = found("new", Some("cp1")).expect("renamed");
        assert_eq!(finding.code, "HOSTNAME_CHANGED");
        assert_eq!(finding.severity(), pb::Severity::Warning);
        assert!(finding.mend.contains("set-hostname cp1"), "{finding:?}");
    }

    #[test]
    fn a_hostname_is_the_only_one() {
        let codes = |hostname: &str, others: &[(&str, &str)]| -> Vec<String> {
            let others = others
                .iter()
                .map(|(host, name)| ((*host).to_owned(), (*name).to_owned()));
            hostname_findings(hostname, others)
                .into_iter()
                .map(|finding| finding.code)
                .collect()
        };
        assert!(codes("Node-1.example.org", &[("w1", "w1"), ("w2", "")]).is_empty());
        assert_eq!(codes("CP", &[("w1", "cp")]), ["HOSTNAME_TAKEN"]);
        // Not known is not taken.
        assert!(codes("", &[("w1", "")]).is_empty());
    }
}
