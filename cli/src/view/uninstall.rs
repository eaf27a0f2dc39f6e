//! The plan of an uninstall as it is printed: what dies comes before what is done.

use std::collections::BTreeMap;

use canasta_proto::pb;
use serde::Serialize;

use super::host::known;
use super::plan::{Finding, PlannedStep, steps_text};
use crate::output;

/// What `canasta uninstall k8s` does.
#[derive(Debug, Serialize)]
pub(crate) struct Uninstall {
    host: String,
    cluster: Option<String>,
    role: Option<String>,
    node_name: Option<String>,
    clean: bool,
    findings: Vec<Finding>,
    losses: Vec<String>,
    orphans: Vec<String>,
    found: Vec<String>,
    /// Codes of findings that force does not lift.
    firm: Vec<String>,
    steps: Vec<PlannedStep>,
}

impl Uninstall {
    pub(crate) fn new(plan: pb::UninstallPlan) -> Self {
        Self {
            host: plan.host,
            cluster: known(plan.cluster),
            role: known(plan.role),
            node_name: known(plan.node_name),
            clean: plan.clean,
            findings: plan.findings.into_iter().map(Into::into).collect(),
            losses: plan.losses,
            orphans: plan.orphans,
            found: plan.found,
            firm: plan.firm,
            steps: plan.steps.into_iter().map(Into::into).collect(),
        }
    }

    /// Whether nothing is to be done: nothing is on the host, and no cluster knows it.
    pub(crate) fn is_done(&self) -> bool {
        self.clean && self.steps.is_empty()
    }

    /// Whether a guard says no.
    pub(crate) fn is_refused(&self) -> bool {
        self.findings.iter().any(Finding::is_error)
    }

    /// What is said of a host where nothing is to be done.
    pub(crate) fn clean_words(&self) -> String {
        format!(
            "already clean: nothing of k3s is on '{}', and nothing was changed",
            self.host
        )
    }

    /// Why it is not done.
    pub(crate) fn refusal(&self, force: bool) -> pb::ErrorReport {
        let errors: Vec<&Finding> = self
            .findings
            .iter()
            .filter(|finding| finding.is_error())
            .collect();
        let mut codes: Vec<&str> = errors.iter().map(|finding| finding.code()).collect();
        codes.dedup();
        let is_firm = |code: &&str| self.firm.iter().any(|firm| firm == code);
        let hint = if force || codes.iter().any(is_firm) {
            "mend what is named, then run the command again; --force does not help here"
        } else {
            "save or move what is named, then run the command again; an admin destroys it with --force, and --force --dry-run \
             shows what dies"
        };
        let lost = self.losses.iter();
        let orphaned = self.orphans.iter();
        let causes = errors
            .iter()
            .map(|finding| finding.line())
            .chain(lost.map(|loss| format!("would be lost: {loss}")))
            .chain(
                orphaned.map(|worker| format!("would be left without a control plane: {worker}")),
            );
        pb::ErrorReport {
            reason: "UNINSTALL_REFUSED".to_owned(),
            message: format!(
                "k3s is not uninstalled from host '{}': {}",
                self.host,
                codes.join(", ")
            ),
            causes: causes.collect(),
            subject: format!("host {}", self.host),
            hint: hint.to_owned(),
            evidence: Vec::new(),
        }
    }

    /// What `--dry-run` shows.
    pub(crate) fn text(&self) -> String {
        let mut text = self.warning();
        text.push_str(&counted("On the host now", &without_rules(&self.found)));
        if self.steps.is_empty() {
            text.push_str("\nThere is no plan while this stands in the way.\n");
        } else {
            text.push_str(&steps_text(&self.steps));
        }
        text.push_str("\nNothing was changed.\n");
        text
    }

    /// What must be known before: where it is done, what was found, and what dies.
    pub(crate) fn warning(&self) -> String {
        let of = |fact: &Option<String>| fact.clone().unwrap_or_default();
        let mut text = output::facts([
            ("host", self.host.clone()),
            ("cluster", of(&self.cluster)),
            ("role", of(&self.role)),
            ("node name", of(&self.node_name)),
        ]);
        text.extend(self.findings.iter().map(Finding::text));
        // Each loss tells its own number.
        text.push_str(&listed("Lost for good", &self.losses));
        text.push_str(&counted("Left without a control plane", &self.orphans));
        text
    }
}

/// What was found, with chains and rules of packet filters counted: there are a hundred, and nobody knows them by name.
fn without_rules(found: &[String]) -> Vec<String> {
    let kind = |line: &str| {
        let mut words = line.split(' ');
        let (table, kind) = (words.next()?, words.next()?);
        let counted = table.contains("tables-") && ["chain", "rule"].contains(&kind);
        counted.then(|| format!("{kind}s of {table}"))
    };
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut told = Vec::new();
    for line in found {
        match kind(line) {
            Some(kind) => *counts.entry(kind).or_default() += 1,
            None => told.push(line.clone()),
        }
    }
    told.extend(
        counts
            .iter()
            .map(|(kind, count)| format!("{kind}: {count}")),
    );
    told
}

/// A list with its length; nothing for an empty one.
fn counted(title: &str, points: &[String]) -> String {
    listed(&format!("{title} ({})", points.len()), points)
}

/// A list; nothing for an empty one.
fn listed(title: &str, points: &[String]) -> String {
    if points.is_empty() {
        return String::new();
    }
    let lines = points.iter().map(|point| format!("  - {point}\n"));
    std::iter::once(format!("\n{title}:\n"))
        .chain(lines)
        .collect()
}

#[cfg(test)]
mod tests {
    use canasta_proto::pb;

    use super::Uninstall;

    fn plan(severity: pb::Severity) -> pb::UninstallPlan {
        pb::UninstallPlan {
            host: "cp1".to_owned(),
            cluster: "wiki".to_owned(),
            findings: vec![pb::Finding {
                code: "VOLUME_PINNED".to_owned(),
                severity: severity.into(),
                message: "pvc-1 (wiki/db) has its data on this host and nowhere else".to_owned(),
                subject: "pvc-1".to_owned(),
                mend: "move it".to_owned(),
            }],
            losses: vec!["1 volume: pvc-1 (wiki/db)".to_owned()],
            orphans: vec!["w1".to_owned(), "w2".to_owned()],
            found: [
                "link flannel.1",
                "iptables-nft chain KUBE-A",
                "iptables-nft chain KUBE-B",
                "ip6tables-nft rule INPUT -j KUBE-A",
            ]
            .map(str::to_owned)
            .into(),
            steps: vec![pb::PlannedStep {
                title: "stop k3s".to_owned(),
                ..pb::PlannedStep::default()
            }],
            ..pb::UninstallPlan::default()
        }
    }

    #[test]
    fn what_dies_is_told_in_numbers_and_names() {
        let plan = Uninstall::new(plan(pb::Severity::Warning));
        assert!(!plan.is_refused());
        for text in [plan.warning(), plan.text()] {
            for words in [
                "Lost for good:\n  - 1 volume: pvc-1 (wiki/db)\n",
                "Left without a control plane (2):\n  - w1\n  - w2\n",
                "warning VOLUME_PINNED",
            ] {
                assert!(text.contains(words), "{words}: {text}");
            }
        }
        for words in [
            "stop k3s",
            "On the host now (3):\n  - link flannel.1\n  - chains of iptables-nft: 2\n  - rules of ip6tables-nft: 1\n",
        ] {
            assert!(plan.text().contains(words), "{words}: {}", plan.text());
        }
    }

    #[test]
    fn a_guards_no_is_told_with_all_points_and_what_force_does() {
        let plan = Uninstall::new(plan(pb::Severity::Error));
        assert!(plan.is_refused());
        let report = plan.refusal(false);
        assert!(report.message.contains("'cp1': VOLUME_PINNED"));
        let causes = report.causes.join("\n");
        for words in ["pvc-1", "would be lost: 1 volume", "control plane: w2"] {
            assert!(causes.contains(words), "{words}: {causes}");
        }
        assert!(report.hint.contains("an admin destroys it with --force"));
        assert!(plan.refusal(true).hint.contains("--force does not help"));
    }

    #[test]
    fn force_is_not_offered_for_what_it_does_not_lift() {
        let mut firm = plan(pb::Severity::Error);
        firm.firm.push("VOLUME_PINNED".to_owned());
        let hint = Uninstall::new(firm).refusal(false).hint;
        assert!(hint.contains("--force does not help"), "{hint}");
    }

    #[test]
    fn clean_is_a_host_that_no_cluster_knows_either() {
        let mut clean = pb::UninstallPlan {
            clean: true,
            ..pb::UninstallPlan::default()
        };
        assert!(Uninstall::new(clean.clone()).is_done());
        clean.steps = plan(pb::Severity::Warning).steps;
        assert!(!Uninstall::new(clean).is_done());
        assert!(!Uninstall::new(pb::UninstallPlan::default()).is_done());
    }
}
