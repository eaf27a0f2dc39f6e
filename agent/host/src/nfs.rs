//! The proof that a share can be used from this node: what is asked for, and what comes of it.
//!
//! Made by a program of the agent's package in a unit of its own ([`unit::InUnit`]): what hangs is killed with the process, its memory
//! goes with it, and the client of NFS that it is made of is no part of the agent. Called by the verb that proves mounts. With the
//! feature `fake`, `fake::FakeProver` answers what a test wants.

use std::fmt::Debug;
use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::files::FileError;
use crate::systemd::SystemdError;

pub mod unit;

/// Proves that shares can be used from this node.
#[async_trait]
pub trait Prover: Send + Sync + Debug {
    /// Makes a proof, and kills what makes it after `limit`.
    async fn prove(&self, proof: &Proof, limit: Duration) -> Result<Proven, ProofError>;
}

/// There is no proof.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProofError {
    /// The share can't be used.
    #[error("failed to use the share, {}: {}", .0.doing, .0.text)]
    Failed(Failure),
    /// It took too long and was killed.
    #[error("failed to use the share within {} s, the program that tried was killed", limit.as_secs())]
    TimedOut {
        /// The time that it had.
        limit: Duration,
    },
    /// The program ended without an answer, or wasn't there.
    #[error("failed to have {program} try the share: it ended without an answer")]
    NoAnswer {
        /// The program.
        program: &'static str,
    },
    /// The request or the answer couldn't be written or read.
    #[error(transparent)]
    File(#[from] FileError),
    /// systemd didn't run the program.
    #[error("failed to have systemd run the program that tries the share")]
    Unit(#[source] SystemdError),
}

/// What to do on a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Write the file, change its owner, read both back.
    Write,
    /// Read what another node wrote, and compare content and owner.
    Read,
    /// Remove the file.
    Remove,
}

/// A proof to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// Name or address of the server.
    pub server: String,
    /// Its port; 2049 but in tests.
    pub port: u16,
    /// The share.
    pub path: String,
    /// What to do.
    pub action: Action,
    /// Names the file, and is its content.
    pub nonce: String,
}

/// A proof that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proven {
    /// The address that was used.
    pub address: IpAddr,
    /// How long it took, in milliseconds.
    pub milliseconds: u64,
    /// The server's name for the file, hex; the same bytes after a reboot of the server. Empty after a removal.
    pub handle: String,
}

impl Proof {
    /// The name of the file.
    pub fn file(&self) -> String {
        format!(".canasta-probe-{}", self.nonce)
    }

    /// What is in the file.
    pub fn content(&self) -> String {
        format!("canasta {}\n", self.nonce)
    }
}

/// What kept a share from being used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The server's name has no address.
    NameUnknown,
    /// This node has no address of the family of the server's.
    WrongFamily,
    /// There is no way to the server.
    Unreachable,
    /// Nothing listens on the port.
    Refused,
    /// Nothing answers on the port: most likely a firewall drops it.
    PortBlocked,
    /// Something took the connection and does not answer.
    ServerHangs,
    /// The connection broke in the middle.
    ConnectionLost,
    /// The server has no such share, or this node is not in its list of clients.
    NotAClientOrNoShare,
    /// The share can't be written to.
    ReadOnly,
    /// The server refuses to do this for root: it takes root for somebody else.
    AccessDenied,
    /// The owner of a file is another one than was set.
    OwnerChanged,
    /// The disk or quota is full.
    NoSpace,
    /// The server was restarted and lets nobody open files yet.
    InGrace,
    /// The server does not speak NFS 4.1.
    Version,
    /// The server wants Kerberos.
    Security,
    /// The directory under the share is gone.
    Stale,
    /// The file that another node wrote is not there.
    ProbeMissing,
    /// The file has another content than the one that was written.
    ProbeDiffers,
    /// Something else; the text says what.
    Other,
}

/// A proof that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What was being done: `opening the share`.
    pub doing: String,
    /// What it means.
    pub reason: Reason,
    /// What server or system said.
    pub text: String,
}

impl Failure {
    /// A failure of this meaning.
    pub fn new(doing: &str, reason: Reason, text: impl Into<String>) -> Self {
        Self {
            doing: doing.to_owned(),
            reason,
            text: text.into(),
        }
    }
}
