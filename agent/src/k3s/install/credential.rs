//! The credential of a join in the life of an agent: in a file that its configuration names, for root alone.

use canasta_proto::pb::K3sRole;
use canasta_steps::{Done, StepError};

use super::Work;
use crate::k3s::record::Record;
use crate::k3s::render::Credential;
use crate::k3s::{Error, paths};

const SECRET: u32 = 0o600;

impl Work<'_> {
    /// Whether there is a credential that the configuration has to name. An agent's does even where the file is lost: without
    /// the line k3s would be restarted for the change and stay down, and with it a k3s that runs goes on.
    pub(super) fn credential(&self) -> Credential {
        match self.spec.role() {
            K3sRole::Agent => Credential::Named,
            _ => Credential::Absent,
        }
    }

    /// After a join: the credential stays, for root alone. k3s reads a token at every start and goes on only with one, though
    /// a member is known by its certificates and an ended bootstrap token does for it (k3s pkg/clientaccess/token.go: "token
    /// must not be empty"; k3s 1.21: "--token is required").
    pub(super) async fn keep_credential(&self, record: &Record) -> Result<Done, StepError> {
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
        // A file that this agent did not write is none of its credentials.
        let content = content.filter(|_| record.entry(paths::JOIN_TOKEN).is_some());
        let Some(content) = content else {
            return Err(StepError::new(
                "FILE_MISSING",
                format!(
                    "the credential of the join in {} is lost, and k3s {} does not start without it",
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
