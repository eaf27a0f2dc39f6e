//! What exporting a directory would meet, for a plan that is shown before anything is changed.

use canasta_host::Host;
use canasta_host::outside::place::What;
use canasta_proto::pb;
use canasta_proto::share::SharePath;
use canasta_steps::StepError;

use super::ensure::fits;
use super::export::Export;
use super::foreign;
use super::list::exported;
use super::packages;
use super::record::Record;
use super::server::found::{Found, notes};
use super::server::{Backend, Limits};

/// Looks.
///
/// # Errors
/// Where records, systemd or the sockets of this node can't be read; that the export would be refused is told in the answer.
pub(crate) async fn inspect(
    host: &Host,
    asked: Option<Backend>,
    share: SharePath,
) -> Result<pb::InspectExportResponse, StepError> {
    let record = Record::load(host).await?;
    let found = Found::look(host).await?;
    let mut told = pb::InspectExportResponse {
        export: record
            .export(share.as_str())
            .map(|known| exported(known, record.backend)),
        ..Default::default()
    };
    let backend = match found.decide(asked, &record) {
        Ok(backend) => backend,
        Err(refusal) => {
            told.refusal = Some(refusal.into());
            return Ok(told);
        }
    };
    told.set_backend(backend.into());
    let state = found.of(backend);
    let look = foreign::look(host, &record).await?;
    let limits = Limits::default();
    let export = Export::new(share, []);
    match fits(host, limits, &export, &record, &look).await {
        Ok(place) => told.directory_missing = place.what == What::Nothing,
        Err(refusal) => told.refusal = Some(refusal.into()),
    }
    if told.refusal.is_none() && record.backend != Some(backend) {
        let settings = backend.server().may_own_settings(host, state.running).await;
        told.refusal = settings.err().map(Into::into);
    }
    if !state.installed {
        let facts = host.machine.facts().await.map_err(|error| {
            StepError::from_source("FACTS_UNKNOWN", &error).hint("run the command again")
        })?;
        if let Some(family) = packages::family(&facts.os) {
            let names = packages::names(family, backend).iter();
            told.packages = names.map(|&name| name.to_owned()).collect();
        }
    }
    told.notes = notes(host, state).await?;
    Ok(told)
}
