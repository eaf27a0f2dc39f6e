//! What this node exports, and with which server it does or could.

use canasta_host::Host;
use canasta_proto::pb;
use canasta_steps::StepError;

use super::foreign;
use super::record::{Record, Recorded};
use super::server::Backend;
use super::server::found::{Found, State};

/// Looks.
///
/// # Errors
/// Where records, systemd or the sockets of this node can't be read.
pub(crate) async fn list(host: &Host) -> Result<pb::ListExportsResponse, StepError> {
    let record = Record::load(host).await?;
    let found = Found::look(host).await?;
    let mut backends = Vec::new();
    let mut unknown = Vec::new();
    for state in &found.states {
        backends.push(told(host, state, &mut unknown).await);
    }
    let foreign = match foreign::look(host, &record).await {
        Ok(look) => {
            unknown.extend(look.unknown.into_iter().map(|(_, why)| why));
            look.exports
        }
        Err(error) => {
            unknown.push(format!("exports of others: {error}"));
            Vec::new()
        }
    };
    let chosen = found.choice(&record).map(pb::NfsBackend::from);
    let ours = record.exports.iter();
    Ok(pb::ListExportsResponse {
        observed_at: Some(host.machine.now().into()),
        backends,
        chosen: chosen.unwrap_or_default().into(),
        exports: ours.map(|known| exported(known, record.backend)).collect(),
        foreign: foreign
            .into_iter()
            .map(|export| pb::ForeignExport {
                path: export.path,
                file: export.source,
            })
            .collect(),
        port_taken_by: found.port_taken_by.unwrap_or_default(),
        unknown,
    })
}

/// An export of ours, for the wire.
pub(super) fn exported(known: &Recorded, backend: Option<Backend>) -> pb::NfsExport {
    let clients = known.served.as_ref().or(known.wanted.as_ref());
    pb::NfsExport {
        path: known.path.clone(),
        clients: clients.cloned().unwrap_or_default(),
        backend: backend.map(pb::NfsBackend::from).unwrap_or_default().into(),
        complete: known.is_complete(),
    }
}

async fn told(host: &Host, state: &State, unknown: &mut Vec<String>) -> pb::NfsBackendState {
    let in_grace = if state.running {
        state.backend.server().in_grace(host).await
    } else {
        None
    };
    if state.running && in_grace.is_none() && state.backend == Backend::Ganesha {
        unknown.push("the grace period of nfs-ganesha: it does not answer over D-Bus".to_owned());
    }
    pb::NfsBackendState {
        backend: pb::NfsBackend::from(state.backend).into(),
        available: state.unavailable.is_none(),
        reason: state.unavailable.clone().unwrap_or_default(),
        installed: state.installed,
        running: state.running,
        in_grace,
    }
}
