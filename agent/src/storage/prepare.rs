//! What a server finds on this node and what is left when it has nothing more to serve for us: files, and units that stay down.
//! Called by the steps that install one, ensure an export and remove one.

use canasta_host::Host;
use canasta_steps::StepError;

use super::export::Numbered;
use super::files::{self, Wanted};
use super::foreign::{self, Look};
use super::record::Record;
use super::server::found::State;
use super::server::{Backend, Limits};
use super::told::Told;
use crate::k3s::Error;
use crate::k3s::owned::Verdict;

/// Notes which server is to serve, and what of it is ours to say. What there was for another one, which never came to serve for us,
/// goes.
///
/// # Errors
/// Where our exports can't be added to what others have it serve.
pub(super) async fn adopt(
    host: &Host,
    limits: Limits,
    record: &mut Record,
    state: &State,
    look: &Look,
) -> Result<(), StepError> {
    let (backend, server) = (state.backend, state.backend.server());
    if record.backend.is_some_and(|before| before != backend) {
        let _words = release(host, limits, record, look).await?;
        record.backend = None;
    }
    if record.backend.is_none() {
        record.owns_settings = server.may_own_settings(host, state.running).await?;
        record.brought_up = !state.running;
        record.backend = Some(backend);
        return record.save(host).await;
    }
    let Some(shared) = server.shared_settings() else {
        return Ok(());
    };
    if !record.owns_settings || files::is_changed(host, record, shared).await? {
        // Whoever wrote into it has it from now on, if our exports are still read.
        record.owns_settings = server.may_own_settings(host, state.running).await?;
        if !record.owns_settings {
            record.files.retain(|entry| entry.path != shared);
        }
        record.save(host).await?;
    }
    Ok(())
}

/// Writes the file of our exports.
///
/// # Errors
/// Where it is somebody else's, or somebody added exports to it.
pub(super) async fn write_exports(
    host: &Host,
    record: &mut Record,
    backend: Backend,
    exports: &[Numbered],
    look: &Look,
    told: &mut Told,
) -> Result<(), StepError> {
    let wanted = backend.server().exports(exports);
    foreign::none_in(wanted.path, look)?;
    let verdict = files::look(host, record, &wanted).await?;
    write(host, record, &wanted, verdict, told).await
}

/// Writes how the server serves, where that is ours to say. It reads that when it is started.
///
/// # Errors
/// Where a file is somebody else's.
pub(super) async fn write_settings(
    host: &Host,
    record: &mut Record,
    backend: Backend,
    told: &mut Told,
) -> Result<(), StepError> {
    if !record.owns_settings {
        return Ok(());
    }
    let mut changed = Vec::new();
    for file in backend.server().settings() {
        let verdict = files::look(host, record, &file).await?;
        if verdict != Verdict::Same {
            changed.push((file, verdict));
        }
    }
    if changed.is_empty() {
        return Ok(());
    }
    record.restart_needed = true;
    record.save(host).await?;
    for (file, verdict) in changed {
        write(host, record, &file, verdict, told).await?;
    }
    // Some of it belongs to units.
    host.systemd.daemon_reload().await.map_err(Error::from)?;
    Ok(())
}

async fn write(
    host: &Host,
    record: &mut Record,
    file: &Wanted,
    verdict: Verdict,
    told: &mut Told,
) -> Result<(), StepError> {
    match verdict {
        Verdict::Same | Verdict::NotOurs => return Ok(()),
        Verdict::Created | Verdict::Updated => told.changed(format!("{} written", file.path)),
        Verdict::Repaired => told.repaired(format!("{} repaired", file.path)),
    }
    files::write(host, record, file).await
}

/// Takes away what there was for exports of ours, and stops the server if it runs because of them alone; what was done, for the end
/// of a sentence. The caller stores the record.
pub(super) async fn release(
    host: &Host,
    limits: Limits,
    record: &mut Record,
    look: &Look,
) -> Result<String, StepError> {
    let Some(backend) = record.backend else {
        return Ok(String::new());
    };
    let words = backend.in_words();
    let others = look.by(backend);
    if !others.is_empty() {
        let others = others.join(", ");
        return Ok(format!(
            "; {words} goes on, since it exports {others} for someone else"
        ));
    }
    let unknown = look.unknown.iter().find(|(whose, _)| *whose == backend);
    if let Some((_, why)) = unknown {
        return Ok(format!(
            "; {words} goes on, since it can't be told whether it exports anything for someone else: {why}"
        ));
    }
    let mut text = String::new();
    if record.brought_up {
        let name = backend.unit();
        let stopped = host.systemd.stop(name, limits.stop).await;
        stopped.map_err(Error::from)?;
        let disabled = host.systemd.disable(name).await.map_err(Error::from)?;
        if disabled.is_changed() {
            host.systemd.daemon_reload().await.map_err(Error::from)?;
        }
        text = format!("; {words} has nothing left to serve and is stopped, its packages are kept");
    }
    if !record.owns_settings && backend.server().shared_settings().is_some() {
        // What others wrote has the server read our file, which is empty now and has to be there.
        return Ok(text);
    }
    files::unmask(host, record).await?;
    let kept = files::remove_all(host, record).await?;
    if !kept.is_empty() {
        let kept = kept.join(", ");
        text.push_str(&format!(
            "; {kept} is kept, since someone else wrote into it"
        ));
    }
    record.backend = None;
    record.owns_settings = false;
    record.brought_up = false;
    record.restart_needed = false;
    Ok(text)
}
