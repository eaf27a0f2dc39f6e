//! The agent's own record of k3s on this node: what it put there, and what the running process was started with.
//!
//! An entry is stored before its file is first written, so a crash leaves no file that nobody owns. Written by
//! [`super::install`] and [`super::adopt`]; read by facts, preflight and, later, the uninstall.

use canasta_host::Host;
use canasta_proto::pb::{K3sOrigin, K3sRole};
use serde::{Deserialize, Serialize};

use super::{Error, paths};

/// The format that this agent writes, and the newest that it reads.
const FORMAT: u32 = 1;

/// Who installed k3s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// This agent.
    Installed,
    /// Someone else, and it was adopted.
    Adopted,
}

impl From<Origin> for K3sOrigin {
    fn from(origin: Origin) -> Self {
        match origin {
            Origin::Installed => Self::Installed,
            Origin::Adopted => Self::Adopted,
        }
    }
}

/// The part that the node plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// `k3s server`.
    Server,
    /// `k3s agent`.
    Agent,
}

impl From<Role> for K3sRole {
    fn from(role: Role) -> Self {
        match role {
            Role::Server => Self::Server,
            Role::Agent => Self::Agent,
        }
    }
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A file whose content the agent decides.
    File,
    /// A file with a secret: made once, and its content isn't recorded.
    Secret,
    /// A symbolic link to the binary.
    Link,
    /// A directory that wasn't there before.
    Directory,
}

/// Something that the agent put on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owned {
    /// Absolute path.
    pub path: String,
    /// What it is.
    pub kind: Kind,
    /// SHA-256 of the content, hex; empty for all but files.
    pub sha256: String,
    /// False between the intent and the end of the first write.
    pub created: bool,
}

/// What the process of k3s reads at its start: SHA-256, hex, of each file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hashes {
    /// The binary.
    pub binary: String,
    /// The unit file.
    pub unit: String,
    /// The environment file.
    pub env: String,
    /// `config.yaml`. Not the operator's drop-ins: a change there takes effect when the operator restarts k3s.
    pub config: String,
}

/// A start of k3s that the agent ordered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// What it was started with.
    pub hashes: Hashes,
    /// The version of the binary.
    pub version: String,
    /// systemd's name for the run: of the new one when it came up, of the old one in an order that isn't known to have ended.
    pub invocation: Option<String>,
    /// When it was ordered, in seconds since 1970 UTC.
    pub at: u64,
}

/// What was found when a k3s was adopted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adopted {
    /// SHA-256 of the cluster's CA, hex.
    pub ca_hash: String,
    /// The unit.
    pub unit: String,
    /// Arguments of the unit, secrets left out.
    pub arguments: Vec<String>,
    /// Names of the keys in the configuration, never values.
    pub config_keys: Vec<String>,
}

/// The record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Format of the record.
    pub format: u32,
    /// Who installed k3s.
    pub origin: Origin,
    /// What this node is.
    pub role: Role,
    /// The version on disk; empty while nothing is installed.
    pub version: String,
    /// The name of the Node object; empty when not known.
    pub node_name: String,
    /// What the agent put on this node, in the order in which it did. Empty for an adopted k3s.
    pub owned: Vec<Owned>,
    /// True from before a unit file is written until systemd has read it.
    #[serde(default)]
    pub reload_needed: bool,
    /// True when a file that k3s reads at its start was found damaged: a process that systemd started meanwhile may have read it.
    #[serde(default)]
    pub was_damaged: bool,
    /// True when the process of k3s has to read something anew whose hash isn't recorded: the agent token, the
    /// credential of a join.
    #[serde(default)]
    pub restart_needed: bool,
    /// A start that was ordered and isn't known to have ended.
    #[serde(default)]
    pub starting: Option<Started>,
    /// The last start that ended well.
    #[serde(default)]
    pub started: Option<Started>,
    /// What was found at the adoption.
    #[serde(default)]
    pub adopted: Option<Adopted>,
    /// Directories in which the cluster that was joined keeps local volumes, of all installs: an agent's configuration names none.
    #[serde(default)]
    pub local_paths: Vec<String>,
}

impl Record {
    /// An empty one.
    pub fn new(origin: Origin, role: Role) -> Self {
        Self {
            format: FORMAT,
            origin,
            role,
            version: String::new(),
            node_name: String::new(),
            owned: Vec::new(),
            reload_needed: false,
            was_damaged: false,
            restart_needed: false,
            starting: None,
            started: None,
            adopted: None,
            local_paths: Vec::new(),
        }
    }

    /// Reads the record; `None` when the agent has never had to do with k3s here.
    pub async fn load(host: &Host) -> Result<Option<Self>, Error> {
        let Some(content) = host.root.read_optional(paths::RECORD).await? else {
            return Ok(None);
        };
        let path = || host.root.path(paths::RECORD);
        let format: Format = serde_json::from_slice(&content).map_err(|source| Error::Record {
            path: path(),
            source,
        })?;
        if format.format > FORMAT {
            return Err(Error::RecordTooNew {
                path: path(),
                found: format.format,
                known: FORMAT,
            });
        }
        serde_json::from_slice(&content)
            .map(Some)
            .map_err(|source| Error::Record {
                path: path(),
                source,
            })
    }

    /// Stores the record; it is on disk when this returns.
    pub async fn save(&self, host: &Host) -> Result<(), Error> {
        let mut content = serde_json::to_vec_pretty(self).map_err(|source| Error::Record {
            path: host.root.path(paths::RECORD),
            source,
        })?;
        content.push(b'\n');
        host.root.create_dir_all(paths::OWNED_DIR, 0o700).await?;
        host.root.write(paths::RECORD, content, 0o600).await?;
        Ok(())
    }

    /// The entry of a path.
    pub fn entry(&self, path: &str) -> Option<&Owned> {
        self.owned.iter().find(|entry| entry.path == path)
    }

    /// Whether an install has begun. A credential that was stored for one is none yet.
    pub fn is_install(&self) -> bool {
        self.owned
            .iter()
            .any(|entry| entry.path != paths::JOIN_TOKEN && entry.kind != Kind::Directory)
    }

    /// Adds directories of local volumes. Those of earlier installs stay: data is left where it was written.
    pub fn add_local_paths(&mut self, told: &[String]) {
        for path in told {
            if !self.local_paths.contains(path) {
                self.local_paths.push(path.clone());
            }
        }
    }

    /// Adds an entry, or replaces the one of the same path.
    pub fn put(&mut self, entry: Owned) {
        match self.owned.iter_mut().find(|known| known.path == entry.path) {
            Some(known) => *known = entry,
            None => self.owned.push(entry),
        }
    }
}

/// The one field that all formats share.
#[derive(Deserialize)]
struct Format {
    format: u32,
}
