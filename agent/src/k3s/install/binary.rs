//! Puts the pushed binary in place: checked again, durable, atomic.

use canasta_host::FileError;
use canasta_proto::version::{Change, K3sVersion};
use canasta_steps::{Done, StepError};

use super::Work;
use crate::k3s::owned::{self, Verdict};
use crate::k3s::record::{Kind, Owned, Record};
use crate::k3s::version::{self, VersionError};
use crate::k3s::{Error, paths};

const MODE: u32 = 0o755;

impl Work<'_> {
    pub(super) async fn binary(&self, record: &mut Record) -> Result<Done, StepError> {
        let root = &self.host.root;
        let wanted = self.spec.binary_sha256.as_str();
        let found = root.sha256(paths::BINARY).await.map_err(Error::from)?;
        let mode_is_right = root.mode(paths::BINARY).await.map_err(Error::from)? == Some(MODE);
        let verdict = owned::judge(
            record.entry(paths::BINARY),
            found.as_deref(),
            mode_is_right,
            wanted,
        );
        let staged = paths::staged_binary(wanted);
        match verdict {
            Verdict::NotOurs => {
                return Err(Error::NotOurs {
                    path: paths::BINARY.to_owned(),
                }
                .into());
            }
            Verdict::Same => {
                root.remove_file(&staged).await.map_err(Error::from)?;
                return Ok(Done::unchanged(format!(
                    "{} is {}",
                    paths::BINARY,
                    self.spec.version
                )));
            }
            Verdict::Created | Verdict::Updated | Verdict::Repaired => {}
        }
        self.check_upgrade(&record.version)?;
        let before = std::mem::replace(&mut record.version, self.spec.version.clone());
        // Only the mode or the record may be wrong: the content needs no artefact then.
        let source = if found.as_deref() == Some(wanted) {
            paths::BINARY
        } else {
            staged.as_str()
        };
        self.check_staged(source).await?;
        owned::intend(self.host, record, paths::BINARY, Kind::File, wanted).await?;
        record.was_damaged |= verdict == Verdict::Repaired;
        let intent = Record {
            version: before.clone(),
            ..record.clone()
        };
        intent.save(self.host).await?;
        self.move_into_place(source).await?;
        record.put(Owned {
            path: paths::BINARY.to_owned(),
            kind: Kind::File,
            sha256: wanted.to_owned(),
            created: true,
        });
        owned::mark_directories(record);
        record.save(self.host).await?;
        Ok(match verdict {
            Verdict::Repaired => Done::repaired(format!(
                "{} was damaged, missing or half done, and is {} again",
                paths::BINARY,
                record.version
            )),
            Verdict::Updated => Done::changed(format!(
                "{}: {before} replaced by {}",
                paths::BINARY,
                record.version
            )),
            _ => Done::changed(format!("{} is {}", paths::BINARY, record.version)),
        })
    }

    /// Kubernetes can't go back, nor skip a minor version; the controller has said so before.
    fn check_upgrade(&self, installed: &str) -> Result<(), StepError> {
        let wanted = &self.spec.version;
        let (Ok(from), Ok(to)) = (
            installed.parse::<K3sVersion>(),
            wanted.parse::<K3sVersion>(),
        ) else {
            return Ok(());
        };
        let refused = |reason, message: String, hint: String| {
            Err(StepError::new(reason, message)
                .subject(paths::BINARY)
                .hint(hint))
        };
        match from.change_to(&to) {
            Change::None | Change::Upgrade => Ok(()),
            Change::Downgrade => refused(
                "K3S_DOWNGRADE",
                format!("k3s {installed} can't be replaced by the older {wanted}"),
                "name the installed version or a later one".to_owned(),
            ),
            Change::SkipsMinor => refused(
                "K3S_SKIPS_MINOR",
                format!("going from k3s {installed} to {wanted} would skip a minor version"),
                format!("install a release of {} first", from.next_minor()),
            ),
        }
    }

    /// Checks content and version of the file that is to become the binary.
    async fn check_staged(&self, path: &str) -> Result<(), StepError> {
        let root = &self.host.root;
        let wanted = &self.spec.binary_sha256;
        let Some(found) = root.sha256(path).await.map_err(Error::from)? else {
            return Err(StepError::new(
                "ARTEFACT_MISSING",
                format!("the k3s binary with SHA-256 {wanted} is not staged on this node"),
            )
            .subject(path)
            .hint("run the command again: the controller pushes it anew"));
        };
        if found != *wanted {
            root.remove_file(path).await.map_err(Error::from)?;
            let error = FileError::Checksum {
                path: root.path(path),
                expected: wanted.clone(),
                found,
            };
            return Err(StepError::from_source("CHECKSUM_MISMATCH", &error)
                .subject(path)
                .hint(
                    "it has been deleted; run the command again: the controller pushes it anew",
                ));
        }
        set_mode(self.host, path).await?;
        let says = version::of(&root.path(path))
            .await
            .map_err(|error| version_error(&error, path))?;
        if says == self.spec.version {
            return Ok(());
        }
        Err(StepError::new("VERSION_MISMATCH", format!("the k3s binary says that it is {says}, not {}", self.spec.version))
            .subject(path)
            .hint("the artefact was imported or published under a wrong version; import the right file with `canasta artefact import`"))
    }

    async fn move_into_place(&self, source: &str) -> Result<(), StepError> {
        if source == paths::BINARY {
            return Ok(());
        }
        let (from, to) = (
            self.host.root.path(source),
            self.host.root.path(paths::BINARY),
        );
        let moved = tokio::task::spawn_blocking(move || canasta_durable::persist(&from, &to)).await;
        let interrupted = |_| FileError::Interrupted {
            path: self.host.root.path(paths::BINARY),
        };
        moved
            .map_err(interrupted)
            .and_then(|result| result.map_err(FileError::from))
            .map_err(Error::from)?;
        Ok(())
    }
}

/// Makes a staged file a program.
async fn set_mode(host: &canasta_host::Host, path: &str) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt as _;
    let full = host.root.path(path);
    let failed = |source| {
        FileError::from(canasta_durable::Error::new(
            "set the mode of",
            &full,
            source,
        ))
    };
    tokio::fs::set_permissions(&full, std::fs::Permissions::from_mode(MODE))
        .await
        .map_err(failed)?;
    Ok(())
}

fn version_error(error: &VersionError, path: &str) -> StepError {
    if error.is_wrong_architecture() {
        return StepError::from_source("WRONG_ARCHITECTURE", error)
            .subject(path)
            .hint(format!(
                "the binary is not for this machine ({}); import the one for it with `canasta artefact import`",
                std::env::consts::ARCH
            ));
    }
    StepError::from_source("BINARY_UNUSABLE", error)
        .subject(path)
        .hint("run it by hand on the node to see why; a file system that is mounted noexec is one reason")
}
