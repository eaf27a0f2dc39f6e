//! Plans of installs and joins as they are printed; those of uninstalls in [`super::uninstall`].

use canasta_proto::pb;
use serde::Serialize;

use super::host::known;
use super::operation::Report;
use super::word;
use crate::output;

/// The plan of an install: what `--dry-run` shows.
#[derive(Debug, Serialize)]
pub(crate) struct Plan {
    operation_id: Option<String>,
    host: String,
    cluster: String,
    k3s_version: String,
    current_version: Option<String>,
    node_name: String,
    node_ip: String,
    node_ip_source: String,
    tls_sans: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    control_plane: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    credential: Option<String>,
    findings: Vec<Finding>,
    steps: Vec<PlannedStep>,
}

/// A finding of a check.
#[derive(Debug, Serialize)]
pub(crate) struct Finding {
    code: String,
    severity: String,
    subject: String,
    message: String,
    mend: String,
}

#[derive(Debug, Serialize)]
pub(super) struct PlannedStep {
    id: String,
    title: String,
    host: String,
    detail: String,
}

impl From<pb::Finding> for Finding {
    fn from(finding: pb::Finding) -> Self {
        Self {
            severity: word(finding.severity().as_str_name(), "SEVERITY_"),
            code: finding.code,
            subject: finding.subject,
            message: finding.message,
            mend: finding.mend,
        }
    }
}

impl From<pb::PlannedStep> for PlannedStep {
    fn from(step: pb::PlannedStep) -> Self {
        Self {
            id: step.id,
            title: step.title,
            host: step.host,
            detail: step.detail,
        }
    }
}

impl Plan {
    pub(crate) fn new(operation_id: String, plan: pb::InstallPlan) -> Self {
        Self {
            operation_id: known(operation_id),
            host: plan.host,
            cluster: plan.cluster,
            k3s_version: plan.k3s_version,
            current_version: known(plan.current_version),
            node_name: plan.node_name,
            node_ip: plan.node_ip,
            node_ip_source: plan.node_ip_source,
            tls_sans: plan.tls_sans,
            control_plane: known(plan.control_plane),
            server_url: known(plan.server_url),
            credential: known(plan.credential),
            findings: plan.findings.into_iter().map(Into::into).collect(),
            steps: plan.steps.into_iter().map(Into::into).collect(),
        }
    }

    /// Whether something stands in the way.
    pub(crate) fn is_refused(&self) -> bool {
        self.findings.iter().any(Finding::is_error)
    }

    pub(crate) fn text(&self) -> String {
        let mut text = output::facts([
            ("host", self.host.clone()),
            ("cluster", self.cluster.clone()),
            (
                "k3s",
                match &self.current_version {
                    Some(current) if self.k3s_version.is_empty() => format!("now {current}"),
                    Some(current) if *current != self.k3s_version => {
                        format!("{} (now {current})", self.k3s_version)
                    }
                    _ => self.k3s_version.clone(),
                },
            ),
            ("node name", self.node_name.clone()),
            (
                "node address",
                if self.node_ip.is_empty() {
                    String::new()
                } else {
                    format!("{} ({})", self.node_ip, self.node_ip_source)
                },
            ),
            ("in the certificate", self.tls_sans.join(", ")),
            ("joins", self.control_plane.clone().unwrap_or_default()),
            ("server", self.server_url.clone().unwrap_or_default()),
            ("credential", self.credential.clone().unwrap_or_default()),
        ]);
        text.push_str(&self.findings_text());
        if self.steps.is_empty() {
            text.push_str(
                "\nThere is no plan while this stands in the way. Nothing was changed.\n",
            );
            return text;
        }
        text.push_str(&steps_text(&self.steps));
        text.push_str("\nNothing was changed.\n");
        text
    }

    /// The findings, each with its mend.
    pub(crate) fn findings_text(&self) -> String {
        self.findings.iter().map(Finding::text).collect()
    }
}

impl Finding {
    pub(super) fn is_error(&self) -> bool {
        self.severity == "error"
    }

    /// Stable, for programs.
    pub(super) fn code(&self) -> &str {
        &self.code
    }

    /// In one line, with its mend.
    pub(super) fn line(&self) -> String {
        format!("{}: {} (mend: {})", self.code, self.message, self.mend)
    }

    pub(super) fn text(&self) -> String {
        let Self {
            code,
            severity,
            message,
            mend,
            ..
        } = self;
        format!("\n{severity} {code}: {message}\n  mend: {mend}\n")
    }
}

/// What the steps would do.
pub(super) fn steps_text(steps: &[PlannedStep]) -> String {
    let width = steps.iter().map(|step| step.title.chars().count()).max();
    let width = width.unwrap_or(0);
    // A step that has nothing to say about itself is a step all the same.
    let lines = steps.iter().map(|PlannedStep { title, detail, .. }| {
        let line = format!("  {title:width$}  {detail}");
        line.trim_end().to_owned() + "\n"
    });
    std::iter::once("\nWhat would be done:\n".to_owned())
        .chain(lines)
        .collect()
}

/// What became of several joins, each host with its own.
#[derive(Debug, Serialize)]
pub(crate) struct Joins {
    joins: Vec<Join>,
}

#[derive(Debug, Serialize)]
struct Join {
    host: String,
    operation_id: Option<String>,
    plan: Option<Plan>,
    error: Option<Report>,
}

impl Joins {
    pub(crate) fn new(joins: Vec<pb::WorkerJoin>) -> Self {
        let one = |join: pb::WorkerJoin| Join {
            host: join.host,
            plan: join
                .plan
                .map(|plan| Plan::new(join.operation_id.clone(), plan)),
            operation_id: known(join.operation_id),
            error: join.error.map(Into::into),
        };
        Self {
            joins: joins.into_iter().map(one).collect(),
        }
    }

    /// Whether something stands in the way of one.
    pub(crate) fn is_refused(&self) -> bool {
        self.joins
            .iter()
            .any(|join| join.error.is_some() || join.plan.as_ref().is_none_or(Plan::is_refused))
    }

    /// The plans, one below the other; why there is none is told as an error.
    pub(crate) fn plans_text(&self) -> String {
        let plans = self.joins.iter().filter_map(|join| {
            let refused = join.error.is_some();
            join.plan.as_ref().filter(|_| !refused).map(Plan::text)
        });
        plans.collect::<Vec<_>>().join("\n")
    }

    /// The operations that were started, a line each.
    pub(crate) fn started_text(&self) -> String {
        let started = self.joins.iter().filter_map(|join| {
            let id = join.operation_id.as_deref()?;
            Some(format!("{}  {id}\n", join.host))
        });
        started.collect()
    }
}

/// What programs read of each join before the events of the operations: which of them is of which host, and which host was
/// refused.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum JoinLine {
    /// Its operation runs.
    Joining {
        /// The host.
        host: String,
        /// The operation.
        operation_id: String,
    },
    /// There is no operation.
    Refused {
        /// The host.
        host: String,
        /// Why.
        error: Report,
    },
}

#[cfg(test)]
mod tests {
    use canasta_proto::pb;

    use super::{Joins, Plan};

    fn finding(severity: pb::Severity) -> pb::Finding {
        pb::Finding {
            code: "NET_PORT_BLOCKED".to_owned(),
            severity: severity.into(),
            message: "6443/tcp of cp1 is closed to w1".to_owned(),
            subject: "6443/tcp".to_owned(),
            mend: "open it".to_owned(),
        }
    }

    fn planned(host: &str, severity: pb::Severity) -> pb::WorkerJoin {
        pb::WorkerJoin {
            host: host.to_owned(),
            plan: Some(pb::InstallPlan {
                host: host.to_owned(),
                control_plane: "cp1".to_owned(),
                server_url: "https://10.0.0.5:6443".to_owned(),
                credential: "a bootstrap token of 10 minutes".to_owned(),
                findings: vec![finding(severity)],
                ..pb::InstallPlan::default()
            }),
            ..pb::WorkerJoin::default()
        }
    }

    #[test]
    fn a_join_is_refused_by_an_error_and_by_a_finding_that_is_one() {
        let refused = |joins| Joins::new(joins).is_refused();
        assert!(!refused(vec![planned("w1", pb::Severity::Warning)]));
        assert!(refused(vec![
            planned("w1", pb::Severity::Warning),
            planned("w2", pb::Severity::Error)
        ]));
        let unknown = pb::WorkerJoin {
            host: "w3".to_owned(),
            error: Some(pb::ErrorReport::default()),
            ..pb::WorkerJoin::default()
        };
        assert!(refused(vec![unknown]));
    }

    #[test]
    fn the_plan_of_a_worker_says_what_it_joins_and_with_what() {
        let joins = Joins::new(vec![
            planned("w1", pb::Severity::Warning),
            planned("w2", pb::Severity::Error),
        ]);
        let text = joins.plans_text();
        for words in [
            "w1",
            "w2",
            "https://10.0.0.5:6443",
            "a bootstrap token of 10 minutes",
            "error NET_PORT_BLOCKED",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
        let plan = serde_json::to_value(Plan::new(String::new(), pb::InstallPlan::default()));
        let plan = plan.expect("plain data");
        assert!(plan.get("server_url").is_none(), "{plan}");
    }
}
