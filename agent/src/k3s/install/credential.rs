//! The credential of a join in the life of an agent: named in its configuration while it is needed, removed when it is not.

use canasta_proto::version::K3sVersion;
use canasta_steps::{Done, StepError};

use super::Work;
use crate::k3s::owned::{self, Reader, Wanted, sha256};
use crate::k3s::record::Record;
use crate::k3s::render::Credential;
use crate::k3s::{Error, paths};

const SECRET: u32 = 0o600;

/// The first version whose agent is known to start without a token once it has the kubelet's certificate and key; 1.21 is
/// known not to.
const STARTS_WITHOUT: &str = "v1.28.0+k3s1";

impl Work<'_> {
    /// Whether there is a credential that the configuration has to name.
    pub(super) async fn credential(&self, record: &Record) -> Result<Credential, Error> {
        let kept = record.entry(paths::JOIN_TOKEN).is_some()
            && self.host.root.exists(paths::JOIN_TOKEN).await?;
        Ok(if kept {
            Credential::Named
        } else {
            Credential::Absent
        })
    }

    pub(super) async fn drop_credential(&self, record: &mut Record) -> Result<Done, StepError> {
        let root = &self.host.root;
        if record.entry(paths::JOIN_TOKEN).is_none() {
            return Ok(Done::unchanged("no credential of a join is kept"));
        }
        for path in paths::KUBELET_IDENTITY {
            if !root.exists(path).await.map_err(Error::from)? {
                return Err(StepError::new(
                    "NOT_JOINED",
                    format!("{path} is not there, so k3s still needs the credential of its join"),
                )
                .subject(path)
                .hint("run the command again: it joins the node first"));
            }
        }
        if !starts_without(&self.spec.version) {
            return self.keep_credential(record).await;
        }
        let without = self.rendered(Credential::Absent)?;
        // What runs was started with the setting, and needs no restart because it is gone.
        let with = sha256(self.rendered(Credential::Named)?.as_bytes());
        if let Some(started) = &mut record.started
            && started.hashes.config == with
        {
            started.hashes.config = sha256(without.as_bytes());
        }
        record.restart_needed = false;
        let wanted = Wanted::new(paths::CONFIG, without, SECRET).read_by(Reader::K3s);
        owned::apply(self.host, record, &[wanted]).await?;
        root.remove_file(paths::JOIN_TOKEN)
            .await
            .map_err(Error::from)?;
        record.owned.retain(|entry| entry.path != paths::JOIN_TOKEN);
        record.save(self.host).await?;
        Ok(Done::changed(format!(
            "{} and the setting that named it are removed; k3s starts without them from now on",
            paths::JOIN_TOKEN
        )))
    }

    /// The version asks for a token at every start.
    async fn keep_credential(&self, record: &Record) -> Result<Done, StepError> {
        let root = &self.host.root;
        let text = format!(
            "{} stays, readable by root alone: k3s {} asks for it at every start",
            paths::JOIN_TOKEN,
            record.version
        );
        let content = root
            .read_optional(paths::JOIN_TOKEN)
            .await
            .map_err(Error::from)?;
        let Some(content) = content else {
            return Err(StepError::new(
                "FILE_MISSING",
                format!(
                    "{} is not there, and k3s {} does not start without it",
                    paths::JOIN_TOKEN,
                    record.version
                ),
            )
            .subject(paths::JOIN_TOKEN)
            .hint("run the command again: it brings a new credential"));
        };
        let change = root
            .write(paths::JOIN_TOKEN, content, SECRET)
            .await
            .map_err(Error::from)?;
        Ok(if change.is_changed() {
            Done::repaired(text)
        } else {
            Done::unchanged(text)
        })
    }
}

/// Whether an agent of this version starts without a token. Of a version that can't be read nothing is known.
fn starts_without(version: &str) -> bool {
    let first: K3sVersion = STARTS_WITHOUT.parse().expect("the constant is a version");
    version
        .parse::<K3sVersion>()
        .is_ok_and(|version| version >= first)
}

#[cfg(test)]
mod tests {
    use super::starts_without;

    #[test]
    fn old_versions_need_their_token() {
        for (version, without) in [
            ("v1.21.3+k3s1", false),
            ("v1.27.16+k3s1", false),
            ("v1.28.0+k3s1", true),
            ("v1.34.8+k3s1", true),
            ("HEAD", false),
        ] {
            assert_eq!(starts_without(version), without, "{version}");
        }
    }
}
