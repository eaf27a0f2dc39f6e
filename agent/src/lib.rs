//! The small root service on every node.
//!
//! [`Agent`] is the whole daemon over a [`canasta_host::Host`]: the program gives it the real machine, tests give it a
//! fake one and run many in one process. Inside:
//!
//! * [`api`] serves `AgentService` to the fleet's controller and to nobody else; tonic's server types stay there;
//! * [`join`] gets the node its first certificate, [`identity`] keeps it and exchanges it while connections are open;
//! * [`tasks`] runs one change of the node at a time and keeps its journal, [`k3s`] and `storage` are what the changes are;
//! * [`artefacts`] takes large files, [`tunnel`] carries bytes to the local API server;
//! * [`facts`], [`preflight`] and [`status`] look and change nothing;
//! * [`service`] speaks with systemd, [`command_line`] with people.
//!
//! The agent knows nothing of fleets or clusters: it does what the controller asks of this one node.

pub mod agent;
pub mod api;
pub mod artefacts;
pub mod command_line;
pub mod config;
pub mod facts;
pub mod identity;
pub mod join;
pub mod k3s;
pub mod listener;
pub mod paths;
pub mod preflight;
mod probes;
pub mod service;
pub mod status;
mod storage;
pub mod tasks;
pub mod tunnel;
mod work;

pub use agent::{Agent, AgentError, AgentOptions, RunningAgent, State, Timings};
pub use config::Config;

/// The version of this program, as it is told to the controller.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
