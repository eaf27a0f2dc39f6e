//! Shared storage: the questions what is exported and what could be, and what may come in with its tasks.

use std::collections::BTreeSet;

use canasta_proto::address::Address;
use canasta_proto::pb;
use canasta_proto::share::{ClientRange, MAX_CLIENTS, SharePath, check_path};

use super::check::broken;
use super::error::Error;
use super::join::refused;
use crate::agent::Core;
use crate::storage::server::Backend;
use crate::storage::{inspect, list};

/// How long the name of a probe may be.
const NONCE: std::ops::RangeInclusive<usize> = 8..=64;

/// What this node exports.
pub(super) async fn list(core: &Core) -> Result<pb::ListExportsResponse, Error> {
    list::list(&core.host).await.map_err(refused)
}

/// What an export would meet.
pub(super) async fn inspect(
    core: &Core,
    request: pb::InspectExportRequest,
) -> Result<pb::InspectExportResponse, Error> {
    backend("backend", request.backend)?;
    let asked = Backend::from_wire(request.backend());
    let share = request.path.parse::<SharePath>();
    let share = share.map_err(|rule| broken("path", rule))?;
    inspect::inspect(&core.host, asked, share)
        .await
        .map_err(refused)
}

/// An installation of a server.
pub(super) fn install(task: pb::NfsInstallTask) -> Result<(), Error> {
    backend("spec.nfs_install.backend", task.backend)
}

/// An export.
pub(super) fn ensure(task: &pb::ExportEnsureTask) -> Result<(), Error> {
    backend("spec.export_ensure.backend", task.backend)?;
    if let Err(rule) = task.path.parse::<SharePath>() {
        return Err(broken("spec.export_ensure.path", rule));
    }
    let field = "spec.export_ensure.clients";
    if task.clients.is_empty() || task.clients.len() > MAX_CLIENTS {
        let rule = format!("an export has 1 to {MAX_CLIENTS} clients");
        return Err(broken(field, rule));
    }
    let mut seen = BTreeSet::new();
    for client in &task.clients {
        let client: ClientRange = client.parse().map_err(|rule| broken(field, rule))?;
        if !seen.insert(client) {
            return Err(broken(field, "each client is named once"));
        }
    }
    Ok(())
}

/// The end of an export.
pub(super) fn remove(task: &pb::ExportRemoveTask) -> Result<(), Error> {
    let path = task.path.parse::<SharePath>();
    path.map(drop)
        .map_err(|rule| broken("spec.export_remove.path", rule))
}

/// A proof.
pub(super) fn proof(task: &pb::MountProofTask) -> Result<(), Error> {
    match task.server.parse::<Address>() {
        Ok(address) if address.port().is_none() => {}
        Ok(_) => {
            return Err(broken(
                "spec.mount_proof.server",
                "the port of NFS is 2049 and is not named",
            ));
        }
        Err(rule) => return Err(broken("spec.mount_proof.server", rule)),
    }
    if let Err(rule) = check_path(&task.path) {
        return Err(broken("spec.mount_proof.path", rule));
    }
    let known = pb::MountProofAction::try_from(task.action)
        .is_ok_and(|action| action != pb::MountProofAction::Unspecified);
    if !known {
        let rule = format!(
            "{} is nothing that this agent can do on a share",
            task.action
        );
        return Err(broken("spec.mount_proof.action", rule));
    }
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    if !NONCE.contains(&task.nonce.len()) || !task.nonce.bytes().all(plain) {
        let rule = format!(
            "a nonce has {} to {} characters of a-z and 0-9",
            NONCE.start(),
            NONCE.end()
        );
        return Err(broken("spec.mount_proof.nonce", rule));
    }
    Ok(())
}

fn backend(field: &str, backend: i32) -> Result<(), Error> {
    match pb::NfsBackend::try_from(backend) {
        Ok(_) => Ok(()),
        Err(_) => Err(broken(
            field,
            format!("{backend} is no NFS server that this agent knows"),
        )),
    }
}
