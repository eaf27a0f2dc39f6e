//! What the agent asks of systemd and has it do.
//!
//! [`bus::BusSystemd`] speaks D-Bus to the manager; with the feature `fake`, `fake::FakeSystemd` keeps units in memory.

use std::fmt::Debug;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use serde::{Deserialize, Serialize};

pub mod bus;
pub(crate) mod errand;

use crate::files::Change;

/// A question or an order that systemd didn't fulfil.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SystemdError {
    /// There is no way to the manager: no system bus, or the bus went away.
    #[error("failed to reach systemd over the system bus")]
    Unreachable {
        /// What the bus said.
        #[source]
        source: zbus::Error,
    },
    /// No unit has this name.
    #[error("failed to {action} {unit}: systemd knows no such unit")]
    NoSuchUnit {
        /// What was tried, as a verb.
        action: &'static str,
        /// The unit.
        unit: String,
    },
    /// The manager refused.
    #[error("failed to {action} {unit}")]
    Refused {
        /// What was tried, as a verb.
        action: &'static str,
        /// The unit, or `systemd` for an order to the manager.
        unit: String,
        /// What the manager said.
        #[source]
        source: zbus::Error,
    },
    /// A job ended, but not well.
    #[error("failed to {action} {unit}: the job ended as {result}")]
    JobFailed {
        /// What was tried, as a verb.
        action: &'static str,
        /// The unit.
        unit: String,
        /// systemd's word for how the job ended: `failed`, `timeout`, `canceled`, `dependency`, `skipped`.
        result: String,
    },
    /// systemd didn't finish in time. A job that was started goes on.
    #[error("failed to {action} {unit} within {} s", limit.as_secs())]
    TimedOut {
        /// What was tried, as a verb.
        action: &'static str,
        /// The unit, or `systemd` for an order to the manager.
        unit: String,
        /// How long it was waited for.
        limit: Duration,
    },
}

/// A unit as systemd sees it at one moment. The words are systemd's own; words of a newer systemd are kept as they are.
///
/// What only services have is empty or zero for other kinds of unit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// Full name: `k3s.service`.
    pub name: String,
    /// `loaded`, `not-found`, `masked`, `error`, `bad-setting`.
    pub load_state: String,
    /// `active`, `reloading`, `inactive`, `failed`, `activating`, `deactivating`.
    pub active_state: String,
    /// Finer than the active state and different for each kind of unit: `running`, `auto-restart`, `dead`.
    pub sub_state: String,
    /// How the last run of a service ended: `success`, `exit-code`, `signal`, `timeout`, `oom-kill`, `start-limit-hit`.
    pub result: String,
    /// `enabled`, `disabled`, `static`, `masked`; empty where there is no unit file.
    pub unit_file_state: String,
    /// Start-up type of a service: `notify`, `exec`, `simple`, `oneshot`.
    #[serde(rename = "type")]
    pub type_: String,
    /// The main process, while there is one.
    pub main_pid: Option<u32>,
    /// How often systemd restarted the service by itself since it was last started by hand.
    pub n_restarts: u32,
    /// Exit status or signal number of the last main process.
    pub exec_main_status: i32,
    /// When the last main process was executed.
    pub exec_main_start: Option<SystemTime>,
    /// Identifies this run of the unit, in the journal too; 32 hexadecimal digits.
    pub invocation_id: Option<String>,
    /// The unit file.
    pub fragment_path: Option<PathBuf>,
}

impl Unit {
    /// Whether systemd has a usable unit file (or made the unit itself).
    pub fn is_loaded(&self) -> bool {
        self.load_state == "loaded"
    }

    /// Whether the unit is up.
    pub fn is_active(&self) -> bool {
        self.active_state == "active"
    }

    /// Whether the unit is down because something went wrong, or because a stop was answered with an exit status.
    pub fn is_failed(&self) -> bool {
        self.active_state == "failed"
    }

    /// Whether the unit comes up at boot.
    pub fn is_enabled(&self) -> bool {
        self.unit_file_state == "enabled"
    }
}

/// A line of systemd's list of units.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ListedUnit {
    /// Full name.
    pub name: String,
    /// As [`Unit::load_state`].
    pub load_state: String,
    /// As [`Unit::active_state`].
    pub active_state: String,
    /// As [`Unit::sub_state`].
    pub sub_state: String,
}

/// The states of one unit over time, beginning with the current one. Ends after an error; watch again then.
pub type UnitStream = BoxStream<'static, Result<Unit, SystemdError>>;

/// The service manager. Unit names are full names (`k3s.service`).
#[async_trait]
pub trait Systemd: Send + Sync + Debug {
    /// The state of the whole system: `running`, `degraded`, `starting`, `initializing`, `maintenance`, `stopping`.
    async fn system_state(&self) -> Result<String, SystemdError>;

    /// A unit's state. A name that systemd doesn't know is no error: its load state is `not-found`.
    async fn unit(&self, name: &str) -> Result<Unit, SystemdError>;

    /// The units in memory whose names match one of these shell patterns (`k3s*`, `*.mount`), sorted by name.
    async fn list_units(&self, patterns: &[&str]) -> Result<Vec<ListedUnit>, SystemdError>;

    /// Reads all unit files again.
    async fn daemon_reload(&self) -> Result<(), SystemdError>;

    /// Has the unit come up at boot. Call [`Systemd::daemon_reload`] afterwards if it says changed.
    async fn enable(&self, name: &str) -> Result<Change, SystemdError>;

    /// Has the unit stay down at boot; a unit without a file is no error.
    async fn disable(&self, name: &str) -> Result<Change, SystemdError>;

    /// Queues a start and returns; [`Systemd::watch`] tells what comes of it.
    async fn start_no_block(&self, name: &str) -> Result<(), SystemdError>;

    /// Queues a restart and returns. A unit that is down is started.
    async fn restart_no_block(&self, name: &str) -> Result<(), SystemdError>;

    /// Stops a unit and waits for the job, at most `limit`. A unit that doesn't exist is stopped already.
    async fn stop(&self, name: &str, limit: Duration) -> Result<(), SystemdError>;

    /// Forgets that a unit failed, and its restart counter.
    async fn reset_failed(&self, name: &str) -> Result<(), SystemdError>;

    /// Follows a unit by systemd's signals.
    async fn watch(&self, name: &str) -> Result<UnitStream, SystemdError>;
}
