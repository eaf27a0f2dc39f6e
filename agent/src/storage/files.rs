//! Files and links that shared storage puts on a node: intent first, then the write, then the record of it.

use canasta_host::Host;
use canasta_host::files::LinkOutcome;
use canasta_steps::StepError;

use super::record::Record;
use crate::k3s::Error;
use crate::k3s::owned::{Verdict, judge, sha256};
use crate::k3s::record::{Kind, Owned};

/// What all of them have.
const MODE: u32 = 0o644;
/// Where unit files and links in their place lie.
const UNITS: &str = "/etc/systemd/system";
/// What the link of a unit that is not to start holds.
const NOWHERE: &str = "/dev/null";

/// A file as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Absolute path.
    pub(super) path: &'static str,
    /// Whole content.
    pub(super) content: String,
}

/// What writing a file would be; no file of somebody else's.
pub(super) async fn look(
    host: &Host,
    record: &Record,
    file: &Wanted,
) -> Result<Verdict, StepError> {
    let found = host.root.sha256(file.path).await.map_err(Error::from)?;
    let mode = host.root.mode(file.path).await.map_err(Error::from)?;
    let verdict = judge(
        record.file(file.path),
        found.as_deref(),
        mode == Some(MODE),
        &sha256(file.content.as_bytes()),
    );
    if verdict == Verdict::NotOurs {
        let path = file.path.to_owned();
        return Err(Error::NotOurs { path }.into());
    }
    Ok(verdict)
}

/// Writes a file: the intent, the content, the record of it.
pub(super) async fn write(
    host: &Host,
    record: &mut Record,
    file: &Wanted,
) -> Result<(), StepError> {
    let entry = |created| Owned {
        path: file.path.to_owned(),
        kind: Kind::File,
        sha256: sha256(file.content.as_bytes()),
        created,
    };
    // A file that is ours keeps its entry until the new content is there: the entry says what was written last.
    if record.file(file.path).is_none() {
        record.put_file(entry(false));
        record.save(host).await?;
    }
    let write = host.root.write(file.path, file.content.clone(), MODE);
    write.await.map_err(Error::from)?;
    record.put_file(entry(true));
    record.save(host).await
}

/// Whether somebody wrote into a file of ours since we did.
pub(super) async fn is_changed(
    host: &Host,
    record: &Record,
    path: &str,
) -> Result<bool, StepError> {
    let Some(entry) = record.file(path) else {
        return Ok(false);
    };
    let found = host.root.sha256(path).await.map_err(Error::from)?;
    // Before the first write is known to have ended, whatever is there may be ours.
    Ok(entry.created && found.is_some_and(|found| found != entry.sha256))
}

/// Removes the files that are ours; those that stay, since somebody else wrote into them.
pub(super) async fn remove_all(host: &Host, record: &mut Record) -> Result<Vec<String>, StepError> {
    let mut kept = Vec::new();
    while let Some(path) = record.files.last().map(|entry| entry.path.clone()) {
        if is_changed(host, record, &path).await? {
            kept.push(path);
        } else {
            host.root.remove_file(&path).await.map_err(Error::from)?;
        }
        record.files.pop();
        record.save(host).await?;
    }
    Ok(kept)
}

/// Keeps units from starting that this node doesn't have yet, and tells which; one that is here is somebody's, and stays as it is.
pub(super) async fn mask(
    host: &Host,
    record: &mut Record,
    units: &[&str],
) -> Result<Vec<String>, StepError> {
    let mut masked = Vec::new();
    for unit in units {
        let known = host.systemd.unit(unit).await.map_err(Error::from)?;
        if known.load_state != "not-found" {
            continue;
        }
        if !record.masked.iter().any(|one| one == unit) {
            record.masked.push((*unit).to_owned());
            record.save(host).await?;
        }
        let path = format!("{UNITS}/{unit}");
        let made = host.root.symlink_if_free(&path, NOWHERE).await;
        if made.map_err(Error::from)? == LinkOutcome::Created {
            masked.push((*unit).to_owned());
        }
    }
    if !masked.is_empty() {
        host.systemd.daemon_reload().await.map_err(Error::from)?;
    }
    Ok(masked)
}

/// Lets those units start again.
pub(super) async fn unmask(host: &Host, record: &mut Record) -> Result<(), StepError> {
    let any = !record.masked.is_empty();
    while let Some(unit) = record.masked.last().cloned() {
        let path = format!("{UNITS}/{unit}");
        let ours = host.root.is_symlink_to(&path, NOWHERE).await;
        if ours.map_err(Error::from)? {
            host.root.remove_file(&path).await.map_err(Error::from)?;
        }
        record.masked.pop();
        record.save(host).await?;
    }
    if any {
        host.systemd.daemon_reload().await.map_err(Error::from)?;
    }
    Ok(())
}
