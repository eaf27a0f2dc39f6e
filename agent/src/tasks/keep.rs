//! Which journals stay: at a start those that a crash cut off are ended, and of the rest the newest are kept.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use canasta_proto::pb;
use canasta_proto::pb::watch_task_response::Event;

use super::TaskError;
use super::journal::{JournalFile, SUFFIX, changed_at};

/// How many journals are kept.
const KEPT: usize = 200;
/// How long they are kept.
const KEPT_FOR: Duration = Duration::from_hours(30 * 24);
/// What a journal that makes no sense is called from then on, for whoever looks into it.
const DAMAGED: &str = "damaged";

/// Ends the journals that a crash cut off, and prunes.
pub(super) fn take_up(directory: &Path, now: SystemTime) -> Result<(), TaskError> {
    canasta_durable::create_dir_all(directory, 0o700)?;
    canasta_durable::sweep(directory)?;
    for path in journals(directory)? {
        match JournalFile::reopen(&path) {
            Ok(None) => {}
            Ok(Some(mut journal)) => {
                // A full disk must not keep the agent from starting: a journal without an end counts as ended.
                if let Err(error) = journal.append(Event::Interrupted(pb::TaskInterrupted {}), now)
                {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "the end of a task could not be written"
                    );
                }
                tracing::warn!(journal = %path.display(), "a task was cut off by the end of the agent");
            }
            Err(error @ TaskError::Damaged { .. }) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "a journal was put aside"
                );
                if let Err(error) = fs::rename(&path, path.with_extension(DAMAGED)) {
                    tracing::error!(%error, journal = %path.display(), "it could not be put aside");
                }
            }
            Err(error) => return Err(error),
        }
    }
    if let Err(error) = prune(directory, now) {
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "old journals could not be removed"
        );
    }
    Ok(())
}

/// Removes the journals that are neither among the newest nor young. Called when no task runs.
pub(super) fn prune(directory: &Path, now: SystemTime) -> Result<(), TaskError> {
    let mut found = journals(directory)?
        .into_iter()
        .map(|path| Ok((changed_at(&path)?, path)))
        .collect::<Result<Vec<_>, TaskError>>()?;
    found.sort_unstable_by(|one, other| other.cmp(one));
    for (place, (changed, path)) in found.into_iter().enumerate() {
        let old = now.duration_since(changed).is_ok_and(|age| age > KEPT_FOR);
        if place >= KEPT || old {
            canasta_durable::remove(&path)?;
        }
    }
    Ok(())
}

fn journals(directory: &Path) -> Result<Vec<PathBuf>, TaskError> {
    let failed = |source| canasta_durable::Error::new("list", directory, source);
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name().to_string_lossy().ends_with(SUFFIX) {
            paths.push(entry.path());
        }
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_and_young_ones_stay() {
        let directory = tempfile::tempdir().expect("directory");
        let now = SystemTime::now();
        for number in 0..u64::try_from(KEPT).expect("small") + 10 {
            let path = directory.path().join(format!("t{number}{SUFFIX}"));
            let file = fs::File::create(&path).expect("create");
            file.set_modified(now - Duration::from_secs(number))
                .expect("time");
        }
        prune(directory.path(), now).expect("prune");
        assert_eq!(journals(directory.path()).expect("list").len(), KEPT);
        assert!(directory.path().join("t0.jsonl").exists());
        assert!(!directory.path().join("t205.jsonl").exists());
        prune(directory.path(), now + KEPT_FOR + Duration::from_secs(60)).expect("prune");
        assert_eq!(
            journals(directory.path()).expect("list"),
            Vec::<PathBuf>::new()
        );
    }

    #[test]
    fn damage_is_put_aside_and_does_not_stop_the_agent() {
        let directory = tempfile::tempdir().expect("directory");
        fs::write(directory.path().join("t1.jsonl"), b"").expect("write");
        take_up(directory.path(), SystemTime::now()).expect("take up");
        assert!(directory.path().join("t1.damaged").exists());
        assert!(!directory.path().join("t1.jsonl").exists());
    }
}
