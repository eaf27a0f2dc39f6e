//! Installs the packages of an NFS server. Its settings are written first, since packages start what they bring.

use canasta_host::Host;
use canasta_host::outside::Ran;
use canasta_steps::{Done, Reporter, StepError};

use super::packages::{self, Family};
use super::record::Record;
use super::server::found::Found;
use super::server::{Backend, Limits};
use super::told::Told;
use super::{files, foreign, prepare};
use crate::k3s::Error;

/// Installs what is missing.
///
/// # Errors
/// Those of the choice of a server; `PACKAGE_MIRROR_UNREACHABLE`, `PACKAGE_MISSING` and `PACKAGES_FAILED` with the last lines of the
/// package manager.
pub(crate) async fn install(
    host: &Host,
    limits: Limits,
    asked: Option<Backend>,
    reporter: &Reporter,
) -> Result<Done, StepError> {
    let mut record = Record::load(host).await?;
    let found = Found::look(host).await?;
    let backend = found.decide(asked, &record)?;
    let state = found.of(backend);
    if state.installed && !record.installing {
        return Ok(Done::unchanged(format!(
            "{} is installed",
            backend.in_words()
        )));
    }
    let family = family(host, backend).await?;
    let names = packages::names(family, backend);
    let had_begun = !record.packages.is_empty();
    let look = foreign::look(host, &record).await?;
    prepare::adopt(host, limits, &mut record, state, &look).await?;
    let mut told = Told::default();
    // The main file of nfs-ganesha names the other one, which has to be there.
    let exports = record.numbered(None);
    prepare::write_exports(host, &mut record, backend, &exports, &look, &mut told).await?;
    prepare::write_settings(host, &mut record, backend, &mut told).await?;
    let mut masked = Vec::new();
    if record.owns_settings {
        masked = files::mask(host, &mut record, backend.server().needless_units()).await?;
    }
    record.installing = true;
    record.packages = names.iter().map(|&name| name.to_owned()).collect();
    record.save(host).await?;
    bring(host, limits, family, backend, reporter).await?;
    record.installing = false;
    record.save(host).await?;
    let mut detail = format!("installed {}", names.join(", "));
    if !masked.is_empty() {
        detail.push_str(&format!(
            "; version 4 does not need {}, which are kept from starting",
            masked.join(", ")
        ));
    }
    Ok(if had_begun {
        Done::repaired(detail)
    } else {
        Done::changed(detail)
    })
}

async fn family(host: &Host, backend: Backend) -> Result<Family, StepError> {
    let facts = host.machine.facts().await.map_err(|error| {
        StepError::from_source("FACTS_UNKNOWN", &error).hint("run the command again")
    })?;
    packages::family(&facts.os).ok_or_else(|| {
        StepError::new("DISTRIBUTION_UNKNOWN", packages::unknown(&facts.os)).hint(format!(
            "install {} by hand, then run the command again",
            backend.in_words()
        ))
    })
}

/// Has the package manager fetch and install the packages.
async fn bring(
    host: &Host,
    limits: Limits,
    family: Family,
    backend: Backend,
    reporter: &Reporter,
) -> Result<(), StepError> {
    let names = packages::names(family, backend);
    if let Some(program) = packages::mend(family) {
        // What a power failure left half done keeps every installation from beginning; the installation says so if it still does.
        let mended = host.outside.finish(program, limits.packages).await;
        mended.map_err(packages::outside)?;
    }
    reporter.message("refreshing the list of packages").await;
    let refresh = host
        .outside
        .finish(packages::refresh(family), limits.refresh);
    let refresh = refresh.await.map_err(packages::outside)?;
    reporter
        .message(format!("installing {}", names.join(", ")))
        .await;
    let program = packages::install(family, names);
    let words = program.in_words();
    let ran = host.outside.finish(program, limits.packages).await;
    let ran = ran.map_err(packages::outside)?;
    host.systemd.daemon_reload().await.map_err(Error::from)?;
    let is_there = backend.server().is_installed(host).await?;
    if ran.status == 0 && is_there {
        return Ok(());
    }
    let message = if ran.status == 0 {
        format!(
            "`{words}` ended well, and {} is not there",
            backend.in_words()
        )
    } else {
        format!("`{words}` ended with status {}", ran.status)
    };
    Err(failed(host, message, names, refresh, ran).await)
}

async fn failed(host: &Host, message: String, names: &[&str], refresh: Ran, ran: Ran) -> StepError {
    let refreshed = refresh.status == 0;
    let mut lines = if refreshed { Vec::new() } else { refresh.tail };
    lines.extend(ran.tail);
    let (reason, hint) = packages::failure(&lines, refreshed);
    let error = StepError::new(reason, message)
        .subject(names.join(", "))
        .hint(hint);
    packages::with_output(host, error, "the package manager", lines).await
}
