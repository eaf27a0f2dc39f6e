//! What nfs-ganesha is asked and told over D-Bus: exports that come, change and go while it serves.
//!
//! [`bus::BusGanesha`] speaks over the system bus, where only root may; with the feature `fake`, `fake::FakeGanesha` keeps exports
//! in memory. Called by the verbs of shared storage. Versions 4.3 and 6.5 were seen to be the same in all that is used here. A
//! signal to read its files again is never sent: with a mistake in any of them the server drops all exports and says nothing.

use std::fmt::Debug;

use async_trait::async_trait;

pub mod bus;

/// A question or an order that nfs-ganesha didn't fulfil.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GaneshaError {
    /// It doesn't run, or not yet: nobody has its name on the bus.
    #[error("failed to reach nfs-ganesha over the system bus")]
    NotRunning,
    /// There is no such export.
    #[error("failed to {action} export {number}: nfs-ganesha has none of this number")]
    NoSuchExport {
        /// What was tried, as a verb.
        action: &'static str,
        /// Its number.
        number: u16,
    },
    /// It refused.
    #[error("failed to {action} export {number}: {text}")]
    Refused {
        /// What was tried, as a verb.
        action: &'static str,
        /// Its number.
        number: u16,
        /// What it said.
        text: String,
    },
    /// The bus didn't carry the question.
    #[error("failed to ask nfs-ganesha over the system bus")]
    Bus(#[source] zbus::Error),
    /// It didn't answer in time.
    #[error("failed to {action} over the system bus within {seconds} s")]
    TimedOut {
        /// What was tried, as a verb with its object.
        action: &'static str,
        /// How long it was waited for.
        seconds: u64,
    },
}

/// An export as the server has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// The directory.
    pub path: String,
    /// Addresses and networks, as the server writes them.
    pub clients: Vec<String>,
}

/// An export as the server lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its number; 0 is the root that the server makes by itself.
    pub number: u16,
    /// The directory.
    pub path: String,
}

/// The running server.
#[async_trait]
pub trait Ganesha: Send + Sync + Debug {
    /// All exports, those from files that nobody here knows too.
    async fn exports(&self) -> Result<Vec<Listed>, GaneshaError>;

    /// The export of this number; `None` where there is none.
    async fn export(&self, number: u16) -> Result<Option<Served>, GaneshaError>;

    /// Takes the export of this number from a file: adds it, or changes it, for sessions that are open too.
    async fn update(&self, file: &str, number: u16) -> Result<(), GaneshaError>;

    /// Ends an export; one that isn't there is no error.
    async fn remove(&self, number: u16) -> Result<(), GaneshaError>;

    /// Whether it is in its grace period.
    async fn in_grace(&self) -> Result<bool, GaneshaError>;
}
