//! `canasta uninstall k8s`: k3s is taken off a host, after the cluster and the host were asked what would be lost.
//!
//! What may keep an uninstall from being done stands in one list, `guards::GUARDS`. It is asked when the uninstall is
//! planned, again once nothing new is placed on the node, and again when the node is drained.

mod guards;
mod known;
mod steps;
#[cfg(test)]
mod tests;

use canasta_proto::name::HostName;
use canasta_proto::pb;
use canasta_steps::Plan;
use serde::{Deserialize, Serialize};

use self::guards::{Judged, judge};
use self::known::Known;
use super::gather::{self, has_program};
use super::host_text::HostText;
use super::launch::launch;
use super::{Context, Error, Refusal, hold_host};
use crate::clusters::CONTROL_PLANE;
use crate::operations::locks::{Resource, Wanted};
use crate::operations::{Operations, Workflow};

/// The kind of the operation.
pub const KIND: &str = "uninstall-k8s";

/// The longest path that may be named, in bytes, and the most of them.
const LONGEST_PATH: usize = 4096;
const MOST_PATHS: usize = 10_000;

/// What an uninstall does. Stored with the operation, which is rebuilt from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Planned {
    host: HostText,
    /// Empty when it belongs to none.
    cluster: String,
    /// As recorded; empty when nothing is.
    role: String,
    node_name: String,
    /// The id of its machine; a Node of this name with another one is not its own.
    #[serde(default)]
    machine: String,
    /// True when its Node was never seen Ready.
    never_ready: bool,
    force: bool,
    /// Directories whose content may be destroyed, as they were told.
    discard: Vec<String>,
    /// Directories in which the cluster keeps local volumes on the host, as far as it could be asked.
    #[serde(default)]
    local_paths: Vec<String>,
}

impl Planned {
    fn is_control_plane(&self) -> bool {
        self.role == CONTROL_PLANE
    }
}

/// An uninstall that was planned.
#[derive(Debug)]
pub(crate) struct UninstallK3s {
    context: Context,
    planned: Planned,
}

impl UninstallK3s {
    pub(super) fn new(context: Context, planned: Planned) -> Self {
        Self { context, planned }
    }
}

impl Workflow for UninstallK3s {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn title(&self) -> String {
        let Planned {
            host,
            cluster,
            role,
            force,
            ..
        } = &self.planned;
        let of = if cluster.is_empty() {
            String::new()
        } else {
            format!(" ({role} of cluster {cluster})")
        };
        let forced = if *force { ", by force" } else { "" };
        format!("uninstall k3s from {host}{of}{forced}")
    }

    fn locks(&self) -> Wanted {
        let mut wanted = Wanted {
            changes: vec![Resource::Host(self.planned.host.to_string())],
            consults: Vec::new(),
        };
        let membership = Resource::Membership(self.planned.cluster.clone());
        match (
            self.planned.cluster.as_str(),
            self.planned.is_control_plane(),
        ) {
            ("", _) => {}
            // Nothing joins what is going away.
            (_, true) => wanted.changes.push(membership),
            (_, false) => wanted.consults.push(membership),
        }
        wanted
    }

    fn request(&self) -> serde_json::Value {
        serde_json::to_value(&self.planned).expect("a plan is JSON")
    }

    fn steps(&self, operation: &str) -> Plan {
        steps::steps(&self.context, &self.planned, operation)
    }
}

/// Plans an uninstall, and starts it unless it is a dry run or nothing is to be done. The first value is the operation's id.
///
/// # Errors
/// When the host can't be asked, its k3s is someone else's, or a guard says no and it is not forced.
pub(crate) async fn uninstall(
    context: &Context,
    operations: &Operations,
    asked: &pb::UninstallK3sRequest,
    started_by: &str,
) -> Result<(String, pb::UninstallPlan), Error> {
    let host = asked.host.parse::<HostName>();
    let host = host.map_err(|rule| Error::Name {
        field: "host",
        rule,
    })?;
    check_paths(&asked.discard)?;
    context.fleet.host(host.as_str()).await?;
    let held = hold_host(operations, &host, KIND, started_by, asked.dry_run)?;
    let known = known::gather(context, &host).await?;
    let mut planned = plan(&host, &known, asked.force)?;
    if !asked.dry_run {
        // What came since somebody read the plan is not among them, and is not destroyed.
        planned.discard.retain(|path| asked.discard.contains(path));
    }
    let judged = judge(&known, planned.force, &planned.discard);
    let mut shown = shown(&planned, &known, &judged);
    if shown.clean && known.node.is_none() {
        return Ok((String::new(), shown));
    }
    let errors: Vec<_> = gather::errors(&judged.findings).collect();
    if !errors.is_empty() && !asked.dry_run {
        return Err(refused(&host, &errors, &judged).into());
    }
    let workflow = UninstallK3s::new(context.clone(), planned);
    let launched = launch(operations, held, workflow).await?;
    shown.steps = launched.steps;
    Ok((launched.operation_id, shown))
}

/// What an uninstall would do. A pure function; the guards are not asked here.
fn plan(host: &HostName, known: &Known, force: bool) -> Result<Planned, Refusal> {
    let k3s = known.inspected.k3s.clone().unwrap_or_default();
    let found = k3s.found.join(", ");
    match (has_program(&k3s), k3s.origin()) {
        (true, pb::K3sOrigin::Adopted) => {
            return Err(Refusal::new(
                "ADOPTED_K3S",
                format!("the k3s on host '{host}' was adopted; its files belong to whoever installed it: {found}"),
                "uninstall it the way it was installed (k3s-uninstall.sh on the machine), then `canasta cluster forget NAME`",
            )
            .about(host));
        }
        (true, pb::K3sOrigin::Foreign | pb::K3sOrigin::Unspecified) => {
            return Err(Refusal::new(
                "FOREIGN_K3S",
                format!("host '{host}' has a k3s that this fleet did not install: {found}"),
                "uninstall it the way it was installed: k3s-uninstall.sh or k3s-agent-uninstall.sh on the machine",
            )
            .about(host));
        }
        _ => {}
    }
    let node = known.node.clone();
    let of_node = |part: fn(crate::store::clusters::NodeRow) -> String| {
        node.clone().map(part).unwrap_or_default()
    };
    Ok(Planned {
        host: host.clone().into(),
        cluster: of_node(|node| node.cluster),
        role: of_node(|node| node.role),
        node_name: of_node(|node| node.node_name),
        machine: known.machine.clone(),
        never_ready: known.never_ready,
        force,
        discard: if force {
            stored(known).collect()
        } else {
            Vec::new()
        },
        local_paths: known.local_paths.usable.clone(),
    })
}

fn shown(planned: &Planned, known: &Known, judged: &Judged) -> pb::UninstallPlan {
    pb::UninstallPlan {
        host: planned.host.to_string(),
        cluster: planned.cluster.clone(),
        role: planned.role.clone(),
        node_name: planned.node_name.clone(),
        clean: known.inspected.clean,
        findings: judged.findings.clone(),
        losses: judged.losses.clone(),
        orphans: judged.orphans.clone(),
        steps: Vec::new(),
        found: known.inspected.found.clone(),
        discard: stored(known).collect(),
        firm: judged.firm(),
    }
}

/// The paths of what lies where local volumes are kept, as far as it may be destroyed.
fn stored(known: &Known) -> impl Iterator<Item = String> {
    let paths = known.inspected.stored.iter().map(|data| &data.path);
    paths.filter(|path| known.can_be_data(path)).cloned()
}

/// Refuses what can be no path of a directory.
fn check_paths(paths: &[String]) -> Result<(), Error> {
    let is_path = |path: &String| {
        path.starts_with('/') && path.len() <= LONGEST_PATH && !path.chars().any(char::is_control)
    };
    if paths.len() <= MOST_PATHS && paths.iter().all(is_path) {
        return Ok(());
    }
    Err(Error::Field {
        field: "discard",
        rule: format!(
            "paths are absolute, have no control characters and at most {LONGEST_PATH} bytes, and are at most {MOST_PATHS}"
        ),
    })
}

/// All that the guards say, at once.
fn refused(host: &HostName, errors: &[&pb::Finding], judged: &Judged) -> Refusal {
    let mut codes: Vec<_> = errors.iter().map(|finding| finding.code.as_str()).collect();
    codes.dedup();
    let hint = if errors
        .iter()
        .all(|finding| judged.can_be_forced(&finding.code))
    {
        "save or move what is named, then run the command again; an admin destroys it with --force, and --force --dry-run \
         shows what dies"
    } else {
        "mend what is named, then run the command again; --force does not help here"
    };
    let mut refusal = Refusal::new(
        "UNINSTALL_REFUSED",
        format!(
            "k3s is not uninstalled from host '{host}': {}",
            codes.join(", ")
        ),
        hint,
    )
    .about(host);
    refusal.points = errors
        .iter()
        .map(|finding| gather::shown(finding))
        .collect();
    refusal.points.extend(
        judged
            .losses
            .iter()
            .map(|loss| format!("would be lost: {loss}")),
    );
    refusal
}
