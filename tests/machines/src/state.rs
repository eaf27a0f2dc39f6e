//! What a lab consists of, kept in `state.json` so that every later call, also after a crash of
//! an earlier one, finds all of it. Read and written by [`crate::Lab`] under its lock.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cut::Cut;
use crate::process::Process;

/// One lab.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    /// The nodes by name.
    pub nodes: BTreeMap<String, Node>,
    /// The cuts that are in force.
    pub cuts: Vec<Cut>,
    /// The release server, once one was started.
    pub release_server: Option<ReleaseServer>,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Node {
    /// Its address on `host0`.
    pub address: Ipv4Addr,
    /// The root file system it was made from.
    pub base: PathBuf,
    /// The nspawn process that runs it, or ran it last.
    pub nspawn: Option<Process>,
    /// The packages that were installed by the lab: file name and SHA-256.
    pub packages: BTreeMap<String, String>,
}

/// The program that serves releases of k3s on the lab's bridge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReleaseServer {
    /// The process, as it was started last.
    pub process: Process,
    /// Its arguments, so that it can be started again.
    pub argv: Vec<String>,
    /// Where it listens.
    pub address: SocketAddrV4,
}

/// Why the state can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file can't be read.
    #[error("failed to read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file is not what this program writes.
    #[error("failed to understand {}: run `./dev machines down` to start anew", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where it is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// The file can't be written.
    #[error("failed to store the state of the lab")]
    Write(#[source] canasta_durable::Error),
    /// The state can't be put into words.
    #[error("failed to encode the state of the lab")]
    Encode(#[source] serde_json::Error),
}

impl State {
    /// The state in `path`; an empty one if there is no such file.
    pub(crate) fn load(path: &Path) -> Result<Self, StateError> {
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => {
                return Err(StateError::Read {
                    path: path.to_owned(),
                    source,
                });
            }
        };
        serde_json::from_slice(&text).map_err(|source| StateError::Parse {
            path: path.to_owned(),
            source,
        })
    }

    /// Writes the state so that a crash leaves the old or the new one.
    pub(crate) fn save(&self, path: &Path) -> Result<(), StateError> {
        let mut text = serde_json::to_vec_pretty(self).map_err(StateError::Encode)?;
        text.push(b'\n');
        if let Some(parent) = path.parent() {
            canasta_durable::create_dir_all(parent, 0o755).map_err(StateError::Write)?;
        }
        canasta_durable::write(path, &text, 0o644).map_err(StateError::Write)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_loaded() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lab/state.json");
        assert_eq!(State::load(&path).unwrap(), State::default());
        let mut state = State::default();
        state.cuts.push(Cut {
            from: "a".to_owned(),
            to: "b".to_owned(),
            ..Cut::default()
        });
        state.nodes.insert(
            "a".to_owned(),
            Node {
                address: Ipv4Addr::new(10, 80, 0, 11),
                base: PathBuf::from("/base"),
                nspawn: Some(Process { pid: 7, started: 8 }),
                packages: BTreeMap::new(),
            },
        );
        state.save(&path).unwrap();
        assert_eq!(State::load(&path).unwrap(), state);
    }

    #[test]
    fn a_damaged_file_names_the_way_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        fs::write(&path, "{").unwrap();
        assert!(
            State::load(&path)
                .unwrap_err()
                .to_string()
                .contains("machines down")
        );
    }
}
