//! The agent's own record of shared storage on this node: what it exports, and what it put here for that.
//!
//! An entry is stored before its file is first written, so a crash leaves no file that nobody owns; and it goes after all that it
//! speaks of, so a removal that was cut short is found again.

use std::collections::BTreeMap;

use canasta_host::Host;
use canasta_steps::StepError;
use serde::{Deserialize, Serialize};

use super::export::{Export, Numbered};
use super::server::Backend;
use super::{foreign, ganesha};
use crate::k3s::Error;
use crate::k3s::paths::OWNED_DIR;
use crate::k3s::record::Owned;
use crate::paths::STORAGE_RECORD as RECORD;

/// The format that this agent writes, and the newest that it reads.
const FORMAT: u32 = 1;

/// An export as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Recorded {
    /// The directory.
    pub(super) path: String,
    /// Who can mount it, by the server's word; none before that was first given.
    pub(super) served: Option<Vec<String>>,
    /// Who is to, from the intent to that word.
    pub(super) wanted: Option<Vec<String>>,
    /// Where the file system of the directory was mounted when the server last took it; empty before that.
    #[serde(default)]
    pub(super) mount_point: String,
}

impl Recorded {
    /// Whether nothing was begun that was not brought to its end.
    pub(super) fn is_complete(&self) -> bool {
        self.wanted.is_none()
    }
}

/// The record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Format of the record.
    pub(super) format: u32,
    /// The server that was prepared, whether or not it came to serve.
    pub(super) backend: Option<Backend>,
    /// Whether packages were being installed when the agent was last heard of: what is there of them may not be configured.
    #[serde(default)]
    pub(super) installing: bool,
    /// Packages that the agent had installed.
    pub(super) packages: Vec<String>,
    /// Whether how the server serves is the agent's to say. Not where it served others before.
    pub(super) owns_settings: bool,
    /// Whether the server runs because of the agent: it did not before the agent came.
    pub(super) brought_up: bool,
    /// Whether the server has not read its settings since they were last written.
    pub(super) restart_needed: bool,
    /// Files.
    pub(super) files: Vec<Owned>,
    /// Units that are kept from starting by a link to nowhere.
    pub(super) masked: Vec<String>,
    /// Exports, in the order in which they were asked for.
    pub(super) exports: Vec<Recorded>,
    /// The number of every share that ever was. None is given twice, since clients may still hold handles with it.
    pub(super) numbers: BTreeMap<String, u16>,
}

impl Record {
    /// Reads the record; an empty one where the agent has never had to do with storage here.
    pub(super) async fn load(host: &Host) -> Result<Self, StepError> {
        let read = host.root.read_optional(RECORD).await;
        let Some(content) = read.map_err(Error::from)? else {
            return Ok(Self {
                format: FORMAT,
                ..Self::default()
            });
        };
        let record: Self = serde_json::from_slice(&content).map_err(|source| {
            StepError::new(
                "RECORD_UNREADABLE",
                format!("failed to read the record of shared storage in {RECORD}"),
            )
            .cause(source.to_string())
            .subject(RECORD)
            .hint("the record says which exports and files belong to the agent; restore it from a backup")
        })?;
        if record.format > FORMAT {
            return Err(StepError::new(
                "RECORD_TOO_NEW",
                format!(
                    "failed to read {RECORD}: its format is {}, this agent knows {FORMAT}",
                    record.format
                ),
            )
            .subject(RECORD)
            .hint("install the newer canasta-agent again"));
        }
        Ok(record)
    }

    /// Stores the record; it is on disk when this returns.
    pub(super) async fn save(&self, host: &Host) -> Result<(), StepError> {
        let mut content = serde_json::to_vec_pretty(self).expect("text and numbers alone");
        content.push(b'\n');
        let root = &host.root;
        root.create_dir_all(OWNED_DIR, 0o700)
            .await
            .map_err(Error::from)?;
        root.write(RECORD, content, 0o600)
            .await
            .map_err(Error::from)?;
        Ok(())
    }

    /// The server that serves for this agent, or did.
    pub(super) fn serving(&self) -> Option<Backend> {
        self.backend.filter(|_| !self.exports.is_empty())
    }

    /// The entry of a file.
    pub(super) fn file(&self, path: &str) -> Option<&Owned> {
        self.files.iter().find(|entry| entry.path == path)
    }

    /// Adds the entry of a file, or replaces the one of the same path.
    pub(super) fn put_file(&mut self, entry: Owned) {
        match self.files.iter_mut().find(|known| known.path == entry.path) {
            Some(known) => *known = entry,
            None => self.files.push(entry),
        }
    }

    /// The export of a directory.
    pub(super) fn export(&self, path: &str) -> Option<&Recorded> {
        self.exports.iter().find(|export| export.path == path)
    }

    fn export_mut(&mut self, path: &str) -> Option<&mut Recorded> {
        self.exports.iter_mut().find(|export| export.path == path)
    }

    /// Notes that a directory is to be exported; what was known of it before.
    pub(super) fn intend(&mut self, export: &Export) -> Option<Recorded> {
        let clients = Some(export.clients());
        if let Some(known) = self.export_mut(export.share.as_str()) {
            let before = known.clone();
            if known.wanted.is_some() || known.served != clients {
                known.wanted = clients;
            }
            return Some(before);
        }
        self.exports.push(Recorded {
            path: export.share.to_string(),
            served: None,
            wanted: clients,
            mount_point: String::new(),
        });
        None
    }

    /// Notes that the server has what was intended.
    pub(super) fn fulfil(&mut self, path: &str, mount_point: &str) {
        let Some(known) = self.export_mut(path) else {
            return;
        };
        mount_point.clone_into(&mut known.mount_point);
        if let Some(clients) = known.wanted.take() {
            known.served = Some(clients);
        }
    }

    /// Gives a share its number, for good.
    pub(super) async fn number(&mut self, host: &Host, export: &Export) -> Result<u16, StepError> {
        if let Some(number) = self.numbers.get(export.share.as_str()) {
            return Ok(*number);
        }
        let others = foreign::numbers(host).await?;
        let given: Vec<u16> = self.numbers.values().copied().collect();
        let taken = |number| given.contains(&number) || others.contains(&number);
        let number = ganesha::number(export.file_system(), taken).ok_or_else(|| {
            StepError::new(
                "EXPORT_NUMBERS_USED_UP",
                "all numbers for exports of this node are given away",
            )
            .subject(export.share.as_str())
            .hint("take a share that this node exported before, or another node")
        })?;
        self.numbers.insert(export.share.to_string(), number);
        Ok(number)
    }

    /// What the file of exports is to hold: what is served, and of `current` what is intended. An intent of another task that was
    /// never served is left out, so that a directory which can't be exported harms no other.
    pub(super) fn numbered(&self, current: Option<&str>) -> Vec<Numbered> {
        let numbered = self.exports.iter().filter_map(|recorded| {
            let is_current = current == Some(recorded.path.as_str());
            let wanted = recorded.wanted.as_ref().filter(|_| is_current);
            let clients = wanted.or(recorded.served.as_ref())?;
            let clients = clients.iter().filter_map(|client| client.parse().ok());
            Some(Numbered {
                // What was noted was checked before.
                export: Export::new(recorded.path.parse().ok()?, clients),
                number: *self.numbers.get(&recorded.path)?,
            })
        });
        numbered.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn export(path: &str, clients: &[&str]) -> Export {
        let clients = clients.iter().map(|one| one.parse().expect("a client"));
        Export::new(path.parse().expect("a share"), clients)
    }

    fn shown(record: &Record, current: Option<&str>) -> Vec<(String, Vec<String>)> {
        let numbered = record.numbered(current).into_iter();
        numbered
            .map(|one| (one.export.share.to_string(), one.export.clients()))
            .collect()
    }

    #[test]
    fn an_intent_counts_for_its_own_task_until_the_server_has_it() {
        let mut record = Record::default();
        for (number, path) in [(1, "/srv/nfs/a"), (2, "/srv/nfs/b")] {
            record.numbers.insert(path.to_owned(), number);
        }
        assert_eq!(record.intend(&export("/srv/nfs/a", &["10.0.0.5"])), None);
        assert_eq!(shown(&record, Some("/srv/nfs/b")), []);
        let a = |client: &str| ("/srv/nfs/a".to_owned(), vec![client.to_owned()]);
        assert_eq!(shown(&record, Some("/srv/nfs/a")), [a("10.0.0.5")]);
        record.fulfil("/srv/nfs/a", "/srv");
        assert_eq!(shown(&record, None), [a("10.0.0.5")]);
        // Other clients, of which the server did not get to know: a change that broke off takes nothing from those it has.
        let before = record.intend(&export("/srv/nfs/a", &["10.0.0.6"]));
        assert!(before.expect("known").is_complete());
        assert!(!record.export("/srv/nfs/a").expect("known").is_complete());
        assert_eq!(shown(&record, Some("/srv/nfs/b")), [a("10.0.0.5")]);
        assert_eq!(shown(&record, Some("/srv/nfs/a")), [a("10.0.0.6")]);
        record.fulfil("/srv/nfs/a", "/srv");
        assert_eq!(shown(&record, None), [a("10.0.0.6")]);
        let same = record.intend(&export("/srv/nfs/a", &["10.0.0.6"]));
        assert_eq!(same.as_ref(), record.export("/srv/nfs/a"));
    }
}
