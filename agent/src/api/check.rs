//! What may come in. Each check names the field and the rule that was broken.

use std::fmt::Display;
use std::net::IpAddr;

use bytes::Bytes;
use canasta_proto::address::Address;
use canasta_proto::local_path::{self, LocalPath};
use canasta_proto::pb;
use canasta_proto::pb::task_spec::Verb;
use canasta_proto::version::K3sVersion;
use canasta_transport::status::Fault;

use super::error::Error;
use super::storage;
use crate::agent::Core;
use crate::artefacts::{MAX_CHUNK, MAX_SIZE, Sha256Hex};
use crate::k3s::server_url::ServerUrl;
use crate::tasks::{TaskId, Work};
use crate::tunnel::MAX_DATA;
use crate::work;

/// The longest name of a link that the kernel takes.
const MAX_LINK: usize = 15;
/// The most names for the API's certificate.
const MAX_SANS: usize = 64;
/// The most directories that one task may discard, and the longest path.
const MAX_DISCARD: usize = 4096;
const MAX_PATH: usize = 4096;
/// The largest certificate, in bytes.
const MAX_CERTIFICATE: usize = 16 * 1024;
/// The most lines of a journal, and how many are sent when the caller leaves it open.
const MAX_LINES: u32 = 200;
const USUAL_LINES: u32 = 50;

/// A rule that the controller broke.
pub(super) fn broken(field: &str, rule: impl Display) -> Error {
    let fault = Fault::invalid(field, rule).hint(
        "the controller checks this before it asks, so the two don't fit together: compare the versions of controller and agent with `canasta host list`",
    );
    fault.into()
}

/// A role that is set and known.
pub(super) fn role(field: &str, role: i32) -> Result<pb::K3sRole, Error> {
    match pb::K3sRole::try_from(role) {
        Ok(role @ (pb::K3sRole::Server | pb::K3sRole::Agent)) => Ok(role),
        _ => Err(broken(field, "a role is server or agent")),
    }
}

/// The id of a task.
pub(super) fn task_id(text: &str) -> Result<TaskId, Error> {
    text.parse().map_err(|rule| broken("task_id", rule))
}

/// A task to start.
pub(super) fn task(core: &Core, request: pb::StartTaskRequest) -> Result<(TaskId, Work), Error> {
    let id = task_id(&request.task_id)?;
    let spec = request
        .spec
        .ok_or_else(|| broken("spec", "a task needs a specification"))?;
    match &spec.verb {
        Some(Verb::K3sInstall(task)) => {
            let known = pb::K3sInstallStep::try_from(task.step)
                .is_ok_and(|step| step != pb::K3sInstallStep::Unspecified);
            if !known {
                return Err(broken(
                    "spec.k3s_install.step",
                    format!(
                        "{} is no step of an install that this agent knows",
                        task.step
                    ),
                ));
            }
            let k3s = task
                .spec
                .as_ref()
                .ok_or_else(|| broken("spec.k3s_install.spec", "an install says what is wanted"))?;
            k3s_spec(k3s)?;
        }
        Some(Verb::K3sAdopt(_)) => {}
        Some(Verb::K3sUninstall(task)) => uninstall(task)?,
        Some(Verb::MountProof(task)) => storage::proof(task)?,
        Some(Verb::NfsInstall(task)) => storage::install(*task)?,
        Some(Verb::ExportEnsure(task)) => storage::ensure(task)?,
        Some(Verb::ExportRemove(task)) => storage::remove(task)?,
        None => {
            return Err(broken(
                "spec.verb",
                "a task has one of the verbs that this agent knows",
            ));
        }
    }
    let stopping = core.life.stopping.clone();
    let work = work::of(&core.host, stopping, core.timings.install, spec).ok_or_else(|| {
        broken(
            "spec.verb",
            "a task has one of the verbs that this agent knows",
        )
    })?;
    Ok((id, work))
}

/// An uninstall: which step, and plain paths of what may be destroyed.
fn uninstall(task: &pb::K3sUninstallTask) -> Result<(), Error> {
    let known = pb::K3sUninstallStep::try_from(task.step)
        .is_ok_and(|step| step != pb::K3sUninstallStep::Unspecified);
    if !known {
        return Err(broken(
            "spec.k3s_uninstall.step",
            format!(
                "{} is no step of an uninstall that this agent knows",
                task.step
            ),
        ));
    }
    local_paths("spec.k3s_uninstall.local_paths", &task.local_paths)?;
    let field = "spec.k3s_uninstall.discard";
    if task.discard.len() > MAX_DISCARD {
        return Err(broken(
            field,
            format!("at most {MAX_DISCARD} directories are discarded at once"),
        ));
    }
    let is_plain = |path: &String| {
        path.len() <= MAX_PATH
            && path.starts_with('/')
            && !path.contains('\0')
            && !path.split('/').any(|part| matches!(part, "." | ".."))
    };
    if !task.discard.iter().all(is_plain) {
        return Err(broken(
            field,
            format!("a directory is an absolute path of at most {MAX_PATH} bytes without . and .."),
        ));
    }
    Ok(())
}

/// Directories in which a cluster keeps local volumes. What lies in them may be destroyed, so none is the system's.
pub(super) fn local_paths(field: &str, paths: &[String]) -> Result<(), Error> {
    if paths.len() > local_path::MOST {
        return Err(broken(
            field,
            format!(
                "a cluster has at most {} directories of volumes",
                local_path::MOST
            ),
        ));
    }
    let mut checked = paths.iter().map(|path| path.parse::<LocalPath>());
    match checked.find_map(Result::err) {
        Some(rule) => Err(broken(field, rule)),
        None => Ok(()),
    }
}

/// What k3s should be.
fn k3s_spec(spec: &pb::K3sSpec) -> Result<(), Error> {
    const FIELD: &str = "spec.k3s_install.spec";
    let field = |name: &str| format!("{FIELD}.{name}");
    let role = role(&field("role"), spec.role)?;
    if let Err(rule) = spec.version.parse::<K3sVersion>() {
        return Err(broken(&field("version"), rule));
    }
    if let Err(rule) = spec.binary_sha256.parse::<Sha256Hex>() {
        return Err(broken(&field("binary_sha256"), rule));
    }
    let ip = spec.node_ip.parse::<IpAddr>();
    if !ip.is_ok_and(|ip| !ip.is_unspecified() && !ip.is_multicast()) {
        return Err(broken(
            &field("node_ip"),
            "an address of a node is one IP address: 10.0.0.5",
        ));
    }
    let link = &spec.flannel_link;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let link_is_good = link.len() <= MAX_LINK && link.bytes().all(plain) && !link.starts_with('.');
    if !link_is_good {
        return Err(broken(
            &field("flannel_link"),
            format!(
                "the name of a link has at most {MAX_LINK} letters, digits, '.', '_' and '-', and no '.' at the beginning"
            ),
        ));
    }
    if !is_node_name(&spec.node_name) {
        return Err(broken(
            &field("node_name"),
            "the name of a node is a DNS name in lower case, at most 253 characters",
        ));
    }
    match (role, spec.server_url.parse::<ServerUrl>()) {
        (pb::K3sRole::Agent, Err(rule)) => return Err(broken(&field("server_url"), rule)),
        (pb::K3sRole::Server, _) if !spec.server_url.is_empty() => {
            return Err(broken(&field("server_url"), "a server joins no other one"));
        }
        _ => {}
    }
    local_paths(&field("local_paths"), &spec.local_paths)?;
    if spec.tls_sans.len() > MAX_SANS {
        return Err(broken(
            &field("tls_sans"),
            format!("at most {MAX_SANS} names go into the certificate of the API"),
        ));
    }
    for san in &spec.tls_sans {
        match san.parse::<Address>() {
            Ok(address) if address.port().is_none() => {}
            Ok(_) => {
                return Err(broken(
                    &field("tls_sans"),
                    "a name in a certificate has no port",
                ));
            }
            Err(rule) => return Err(broken(&field("tls_sans"), rule)),
        }
    }
    Ok(())
}

fn is_node_name(text: &str) -> bool {
    text.parse::<Address>().is_ok_and(|address| {
        address.ip().is_none() && address.port().is_none() && address.host() == text
    })
}

/// An artefact's hash and size.
pub(super) fn artefact(sha256: &str, size: u64) -> Result<(Sha256Hex, u64), Error> {
    let sha256 = sha256.parse().map_err(|rule| broken("sha256", rule))?;
    if !(1..=MAX_SIZE).contains(&size) {
        return Err(broken(
            "size",
            format!("an artefact has 1 to {MAX_SIZE} bytes, this one has {size}"),
        ));
    }
    Ok((sha256, size))
}

/// A chunk of an artefact.
pub(super) fn chunk(chunk: Bytes) -> Result<Bytes, Error> {
    if chunk.is_empty() || chunk.len() > MAX_CHUNK {
        return Err(broken(
            "chunk",
            format!(
                "a chunk has 1 to {MAX_CHUNK} bytes, this one has {}",
                chunk.len()
            ),
        ));
    }
    Ok(chunk)
}

/// A part of what goes through the tunnel.
pub(super) fn tunnel_data(data: Bytes) -> Result<Bytes, Error> {
    if data.len() > MAX_DATA {
        return Err(broken(
            "data",
            format!(
                "a message has at most {MAX_DATA} bytes, this one has {}",
                data.len()
            ),
        ));
    }
    Ok(data)
}

/// Which journal, and how many lines of it.
pub(super) fn journal(request: pb::GetJournalRequest) -> Result<(pb::JournalUnit, usize), Error> {
    let Ok(unit @ (pb::JournalUnit::K3s | pb::JournalUnit::CanastaAgent)) =
        pb::JournalUnit::try_from(request.unit)
    else {
        return Err(broken("unit", "a journal is that of k3s or of the agent"));
    };
    let lines = match request.lines {
        0 => USUAL_LINES,
        lines @ 1..=MAX_LINES => lines,
        _ => {
            return Err(broken(
                "lines",
                format!("at most {MAX_LINES} lines are sent"),
            ));
        }
    };
    Ok((unit, lines as usize))
}

/// A certificate in DER.
pub(super) fn certificate(field: &str, der: &[u8]) -> Result<Vec<u8>, Error> {
    if der.is_empty() || der.len() > MAX_CERTIFICATE {
        return Err(broken(
            field,
            format!("a certificate has 1 to {MAX_CERTIFICATE} bytes"),
        ));
    }
    Ok(der.to_vec())
}
