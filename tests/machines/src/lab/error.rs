//! What can go wrong with a lab.

use std::io;
use std::path::{Path, PathBuf};

use crate::base::BaseError;
use crate::node::NodeError;
use crate::packages::PackageError;
use crate::program::ProgramError;
use crate::release::ReleaseError;
use crate::repository::RepositoryError;
use crate::settings::SettingError;
use crate::state::StateError;

/// Why a lab does not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The caller is not root.
    #[error("failed to manage machines without root: run it with sudo")]
    NotRoot,
    /// A name can't be used.
    #[error(
        "failed to use {name:?} as the name of a {what}: it takes 1 to 24 lower-case letters, \
         digits and dashes, with a letter first"
    )]
    Name {
        /// What was to be named.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// The directory's name would be misread by the kernel's mount options.
    #[error(
        "failed to use {} for labs: CANASTA_LAB_DIR must be an absolute path without spaces, \
         commas, colons and backslashes", path.display()
    )]
    Directory {
        /// The directory.
        path: PathBuf,
    },
    /// Somebody else can write to the directory, and what lies there is run as root.
    #[error(
        "failed to use {} for labs: somebody other than root can write to it; look at what it holds \
         and remove it, or name another one with CANASTA_LAB_DIR", path.display()
    )]
    NotOwn {
        /// The directory.
        path: PathBuf,
    },
    /// There is no such node.
    #[error("failed to find node {node} in lab {lab}{}", known(nodes))]
    UnknownNode {
        /// The lab.
        lab: String,
        /// The name that was given.
        node: String,
        /// The nodes that there are.
        nodes: Vec<String>,
    },
    /// Every address is taken.
    #[error("failed to find a free address for node {node}: the lab's network is full")]
    NoAddress {
        /// The node.
        node: String,
    },
    /// A cut that means nothing.
    #[error("failed to cut {from} from {to}: {fault}")]
    Cut {
        /// One end.
        from: String,
        /// The other end.
        to: String,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// A file can't be used.
    #[error("failed to use {}", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The base can't go while labs stand on it.
    #[error(
        "failed to remove the root file systems: labs {} still use them; take each down with \
         `CANASTA_LAB=NAME ./dev machines down`", labs.join(", ")
    )]
    BaseInUse {
        /// Those labs.
        labs: Vec<String>,
    },
    /// A package can't be installed.
    #[error("failed to install packages on node {node}")]
    Install {
        /// The node.
        node: String,
        /// What dpkg said.
        #[source]
        source: ProgramError,
    },
    /// A file can't be carried to or from a node.
    #[error("failed to copy {path} on node {node}")]
    Copy {
        /// The node.
        node: String,
        /// The path in the node.
        path: String,
        /// Why not.
        #[source]
        source: ProgramError,
    },
    /// The network of the lab can't be changed.
    #[error("failed to set up the network of lab {lab}")]
    Network {
        /// The lab.
        lab: String,
        /// Why not.
        #[source]
        source: ProgramError,
    },
    /// The root file system can't be made.
    #[error(transparent)]
    Base(#[from] BaseError),
    /// The record of the lab can't be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// A node does not do its part.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// A package is missing.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// Releases can't be served.
    #[error(transparent)]
    Release(#[from] ReleaseError),
    /// Nothing serves what nodes are to fetch.
    #[error(
        "failed to serve an apt repository in lab {lab}: no release server runs there; bring a node up with one first"
    )]
    NoServer {
        /// The lab.
        lab: String,
    },
    /// There is no apt repository to serve.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// A setting of the machine can't be changed or put back.
    #[error(transparent)]
    Setting(#[from] SettingError),
}

fn known(nodes: &[String]) -> String {
    if nodes.is_empty() {
        ": it has no nodes; make some with `./dev machines up NAME…`".to_owned()
    } else {
        format!(", which has {}", nodes.join(", "))
    }
}

/// An error about the file `path`.
pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> LabError {
    let path = path.to_owned();
    move |source| LabError::File { path, source }
}
