//! Makes kubectl, crictl and ctr lead to k3s, where nobody else has the name.

use canasta_host::files::LinkOutcome;
use canasta_steps::{Done, StepError};

use super::Work;
use crate::k3s::owned::{Summary, Verdict};
use crate::k3s::record::{Kind, Owned, Record};
use crate::k3s::{Error, paths};

impl Work<'_> {
    pub(super) async fn links(&self, record: &mut Record) -> Result<Done, StepError> {
        let mut summary = Summary::default();
        for name in paths::LINK_NAMES {
            match self.link(record, name).await? {
                Ok(verdict) => summary.add(name, verdict, ""),
                Err(taken_by) => {
                    summary.note(format!("{name}: left alone, {taken_by} has the name"));
                }
            }
        }
        Ok(summary.done())
    }

    /// Makes one link; the inner error is what has the name.
    async fn link(
        &self,
        record: &mut Record,
        name: &str,
    ) -> Result<Result<Verdict, String>, Error> {
        let root = &self.host.root;
        let path = format!("{}/{name}", paths::BINARY_DIR);
        let known = record.entry(&path).cloned();
        let points_to_k3s = root.is_symlink_to(&path, paths::LINK_TARGET).await?;
        match &known {
            Some(entry) if entry.created && points_to_k3s => return Ok(Ok(Verdict::Same)),
            Some(_) if points_to_k3s => {}
            Some(_) => {
                // The link is gone. Where somebody else has the name by now, a new one would hide theirs.
                if let Some(other) = self.holder(name).await? {
                    record.owned.retain(|entry| entry.path != path);
                    record.save(self.host).await?;
                    return Ok(Err(other));
                }
            }
            None => {
                if let Some(other) = self.holder(name).await? {
                    return Ok(Err(other));
                }
                record.put(Owned {
                    path: path.clone(),
                    kind: Kind::Link,
                    sha256: String::new(),
                    created: false,
                });
                record.save(self.host).await?;
            }
        }
        if matches!(
            root.symlink_if_free(&path, paths::LINK_TARGET).await?,
            LinkOutcome::Taken { .. }
        ) {
            // Someone replaced the link: it is theirs now.
            record.owned.retain(|entry| entry.path != path);
            record.save(self.host).await?;
            return Ok(Err(path));
        }
        record.put(Owned {
            path,
            kind: Kind::Link,
            sha256: String::new(),
            created: true,
        });
        record.save(self.host).await?;
        Ok(Ok(if known.is_some() {
            Verdict::Repaired
        } else {
            Verdict::Created
        }))
    }

    /// The program that a shell would find under this name.
    async fn holder(&self, name: &str) -> Result<Option<String>, Error> {
        for directory in paths::PROGRAM_DIRS {
            let path = format!("{directory}/{name}");
            if self.host.root.exists(&path).await? {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }
}
