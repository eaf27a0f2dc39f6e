//! What keeps an uninstall from destroying what is still needed: a list of questions, each a pure function of what is known.
//!
//! All of them are asked, so that an operator sees everything at once. A question that can't be answered counts as a no. To
//! add one, write a function and put it into [`GUARDS`]; what it needs to know is gathered in [`super::known`].

use canasta_proto::pb;
use canasta_proto::pb::Severity;

use super::known::{Asked, Known, LOCAL_STORAGE};

/// What the guards say together.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Judged {
    /// An error forbids the uninstall.
    pub(super) findings: Vec<pb::Finding>,
    /// What would be lost for good, in numbers and names.
    pub(super) losses: Vec<String>,
    /// Workers that would be left without a control plane.
    pub(super) orphans: Vec<String>,
    /// Codes of what the agent refuses, whatever is ordered.
    firm: Vec<String>,
}

impl Judged {
    /// Whether a finding yields to force.
    pub(super) fn can_be_forced(&self, code: &str) -> bool {
        !NEVER.contains(&code) && !self.firm.iter().any(|firm| firm == code)
    }

    /// The codes among the findings that don't.
    pub(super) fn firm(&self) -> Vec<String> {
        let codes = self.findings.iter().map(|finding| &finding.code);
        let mut firm: Vec<String> = codes
            .filter(|code| !self.can_be_forced(code))
            .cloned()
            .collect();
        firm.sort();
        firm.dedup();
        firm
    }
}

/// One question. It adds what it finds.
type Guard = fn(&Known, &mut Judged);

/// All questions.
pub(super) const GUARDS: [Guard; 9] = [
    foreign_mounts,
    refusals,
    unseen_parts,
    unseen_places,
    unanswered_cluster,
    pinned_volumes,
    local_data,
    workers,
    exports,
];

/// What is never destroyed, by whatever order.
const NEVER: [&str; 2] = ["FOREIGN_MOUNT", "DATA_APPEARED"];

/// Asks all guards. `discard` names the directories whose content may be destroyed by force; what came since is not among
/// them.
pub(super) fn judge(known: &Known, force: bool, discard: &[String]) -> Judged {
    let mut judged = Judged::default();
    for guard in GUARDS {
        guard(known, &mut judged);
    }
    if !force {
        return judged;
    }
    let mut findings = std::mem::take(&mut judged.findings);
    for finding in &mut findings {
        if finding.severity() == Severity::Error && judged.can_be_forced(&finding.code) {
            finding.set_severity(Severity::Warning);
        }
    }
    judged.findings = findings;
    let new = known.inspected.stored.iter();
    for data in new.filter(|data| !discard.contains(&data.path)) {
        if !known.can_be_data(&data.path) {
            judged.findings.push(finding(
                "DATA_APPEARED",
                &data.path,
                format!(
                    "{} is not named as a volume, and lies in a directory outside of k3s's own that the ConfigMap local-path-config names: it may be anybody's, so it is not destroyed",
                    data.path
                ),
                "the agent on the host is an older one, which takes it for a volume: install the controller's version of canasta-agent there, then run the command again",
            ));
            continue;
        }
        judged.findings.push(finding(
            "DATA_APPEARED",
            &data.path,
            format!(
                "{} is not among what the uninstall may destroy: it was not there, or not told, when that was decided",
                data.path
            ),
            "look at it; run the command again to see all that would be destroyed",
        ));
    }
    judged
}

fn finding(code: &str, subject: &str, message: String, mend: &str) -> pb::Finding {
    pb::Finding {
        code: code.to_owned(),
        severity: Severity::Error.into(),
        message,
        subject: subject.to_owned(),
        mend: mend.to_owned(),
    }
}

/// A mount of somebody else below k3s's directories: what is behind it must survive.
fn foreign_mounts(known: &Known, judged: &mut Judged) {
    for mount in &known.inspected.foreign_mounts {
        judged.findings.push(finding(
            "FOREIGN_MOUNT",
            &mount.path,
            format!(
                "{} is a mount of {} ({}), which is not k3s's own",
                mount.path, mount.source, mount.fs_type
            ),
            &format!(
                "unmount it on the machine: umount {}; and take it out of /etc/fstab",
                mount.path
            ),
        ));
    }
}

/// What the agent will refuse each step for, whatever is ordered: to be told now, and not after pods are gone.
fn refusals(known: &Known, judged: &mut Judged) {
    for refusal in &known.inspected.refusals {
        judged.firm.push(refusal.code.clone());
        judged.findings.push(refusal.clone());
    }
}

/// What the agent could not look at may hold anything.
fn unseen_parts(known: &Known, judged: &mut Judged) {
    for unknown in &known.inspected.unknown {
        judged.findings.push(finding(
            "NOT_LOOKED_AT",
            "host",
            format!("a part of the host could not be looked at: {unknown}"),
            "mend what is named, so that it can be seen what would be lost",
        ));
    }
}

/// Directories in which the cluster keeps local volumes and that were not looked into.
fn unseen_places(known: &Known, judged: &mut Judged) {
    let inspected = &known.inspected;
    // An older agent names only the one in effect, and looks at k3s's own as well.
    let own = [inspected.local_path.as_str(), LOCAL_STORAGE];
    let is_looked =
        |path: &String| inspected.local_paths.contains(path) || own.contains(&path.as_str());
    let usable = known.local_paths.usable.iter();
    for path in usable.filter(|path| !is_looked(path)) {
        unseen_place(
            judged,
            path,
            &format!(
                "{path}: the agent on the host is an older one, which knows of no such directory"
            ),
            &format!(
                "install the controller's version of canasta-agent on the host, or look at it there (`ls -la {path}`); then run the command again"
            ),
        );
    }
    for why in &known.local_paths.unusable {
        unseen_place(
            judged,
            "local-path-config",
            why,
            "look on the host whether volumes have data there, and mend the provisioner's settings; then run the command again",
        );
    }
}

fn unseen_place(judged: &mut Judged, subject: &str, what: &str, mend: &str) {
    let message =
        format!("a place in which the cluster keeps local volumes was not looked at: {what}");
    judged.losses.push(format!(
        "what volumes have in a place that was not looked at: {what}"
    ));
    let finding = finding("NOT_LOOKED_AT", subject, message, mend);
    judged.findings.push(finding);
}

/// A cluster that does not answer may know of data on this host.
fn unanswered_cluster(known: &Known, judged: &mut Judged) {
    let Asked::Failed(why) = &known.cluster else {
        return;
    };
    let cluster = known.node.as_ref().map_or("", |node| node.cluster.as_str());
    judged.findings.push(finding(
        "CLUSTER_NOT_ASKED",
        &format!("cluster {cluster}"),
        format!("cluster '{cluster}' could not be asked which volumes have their data on this host: {why}"),
        &format!("mend the control plane (`canasta cluster show {cluster}`), then run the command again"),
    ));
    judged
        .losses
        .push("what volumes have on this host: the cluster could not be asked which".to_owned());
}

/// Volumes whose data is on this host and nowhere else.
fn pinned_volumes(known: &Known, judged: &mut Judged) {
    let Asked::Answered { volumes, .. } = &known.cluster else {
        return;
    };
    if volumes.is_empty() {
        return;
    }
    for volume in volumes {
        judged.findings.push(finding(
            "VOLUME_PINNED",
            &volume.name,
            format!("{volume} has its data on this host and nowhere else"),
            "move or save what is in it, then delete the claim and the volume",
        ));
    }
    judged
        .losses
        .push(counted(volumes.len(), "volume", "volumes", volumes));
}

/// Files below the local-path directory, whether a volume knows of them or not.
fn local_data(known: &Known, judged: &mut Judged) {
    let stored = &known.inspected.stored;
    if stored.is_empty() {
        return;
    }
    let told: Vec<String> = stored
        .iter()
        .map(|data| {
            let files = if data.files == 1 { "file" } else { "files" };
            let (path, count, bytes) = (&data.path, data.files, data.bytes);
            format!("{path} ({count} {files}, {bytes} bytes)")
        })
        .collect();
    for (data, told) in stored.iter().zip(&told) {
        judged.findings.push(finding(
            "LOCAL_DATA",
            &data.path,
            format!("{told} lies where local volumes are kept"),
            "save it elsewhere, or delete it on the machine",
        ));
    }
    judged.losses.push(counted(
        stored.len(),
        "directory or file of local volumes",
        "directories or files of local volumes",
        &told,
    ));
}

/// Workers can't live without their control plane.
fn workers(known: &Known, judged: &mut Judged) {
    if !known.is_control_plane() {
        return;
    }
    let mut left: Vec<String> = known.workers.iter().map(|(host, _)| host.clone()).collect();
    if let Asked::Answered { others, .. } = &known.cluster {
        // Nodes that are no hosts of the fleet lose it too.
        let known_as = |name: &&String| known.workers.iter().any(|(_, node)| node == *name);
        left.extend(others.iter().filter(|name| !known_as(name)).cloned());
    }
    let cluster = known.node.as_ref().map_or("", |node| node.cluster.as_str());
    if !left.is_empty() {
        judged.findings.push(finding(
            "HAS_WORKERS",
            &format!("cluster {cluster}"),
            format!(
                "it is the control plane of {}",
                counted(left.len(), "worker", "workers", &left)
            ),
            "uninstall the workers first: canasta uninstall k8s --host WORKER",
        ));
    }
    judged.losses.push(format!(
        "cluster '{cluster}' with all that is deployed in it"
    ));
    judged.orphans = left;
}

/// Storage classes whose volumes lie on this host.
fn exports(known: &Known, judged: &mut Judged) {
    for row in &known.exports {
        let (class, cluster, path) = (&row.class, &row.cluster, &row.path);
        let host = row.host.as_deref().unwrap_or_default();
        judged.findings.push(finding(
            "SERVES_STORAGE",
            &format!("storage class {class}"),
            format!(
                "the host exports {path}, on which the volumes of storage class '{class}' of cluster '{cluster}' lie"
            ),
            &format!(
                "move what is there, then end it: canasta storage remove nfs --host {host} --share {path}"
            ),
        ));
    }
}

/// `2 volumes: a, b`.
fn counted<T: ToString>(count: usize, one: &str, many: &str, names: &[T]) -> String {
    let names: Vec<_> = names.iter().map(ToString::to_string).collect();
    let word = if count == 1 { one } else { many };
    format!("{count} {word}: {}", names.join(", "))
}
