//! Ends an export of ours. The data stays, and so do the packages; after the last export nothing else of ours is left.

use canasta_host::Host;
use canasta_proto::share::SharePath;
use canasta_steps::{Done, StepError};

use super::export::Numbered;
use super::record::Record;
use super::server::Limits;
use super::told::Told;
use super::{foreign, prepare};
use crate::k3s::Error;

/// Ends an export.
///
/// # Errors
/// `EXPORT_FOREIGN` for one that someone else made; those of the server.
pub(crate) async fn run(host: &Host, limits: Limits, share: &SharePath) -> Result<Done, StepError> {
    let mut record = Record::load(host).await?;
    let look = foreign::look(host, &record).await?;
    let known = record.export(share.as_str()).is_some();
    let Some(backend) = record.backend.filter(|_| known) else {
        // To say that it is gone while someone else still exports it would be wrong.
        let mut others = look.exports.iter();
        if let Some(other) = others.find(|other| other.path == share.as_str()) {
            return Err(StepError::new(
                "EXPORT_FOREIGN",
                format!(
                    "{share} is exported by someone else, by {}, and not by the agent",
                    other.source
                ),
            )
            .subject(share.as_str())
            .hint(format!(
                "if nobody needs it, take it out of {} on the node",
                other.source
            )));
        }
        return Ok(Done::unchanged(format!("{share} is not exported")));
    };
    // It goes from the record last, so that a second try finds it.
    let is_it = |one: &Numbered| one.export.share == *share;
    let ended = record
        .numbered(Some(share.as_str()))
        .into_iter()
        .find(is_it);
    let mut rest = record.numbered(None);
    rest.retain(|one| !is_it(one));
    let mut told = Told::default();
    prepare::write_exports(host, &mut record, backend, &rest, &look, &mut told).await?;
    let unit = host.systemd.unit(backend.unit()).await;
    if unit.map_err(Error::from)?.is_active()
        && let Some(export) = ended
    {
        backend.server().end(host, limits, &export).await?;
    }
    let mut detail = format!("{share} is no longer exported; its files are kept");
    if record.exports.len() == 1 {
        detail.push_str(&prepare::release(host, limits, &mut record, &look).await?);
    }
    record
        .exports
        .retain(|export| export.path != share.as_str());
    record.save(host).await?;
    Ok(Done::changed(detail))
}
