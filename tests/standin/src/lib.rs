//! A stand-in for k3s and the release server of the testbed.
//!
//! The machines under test install [`k3s-standin`](../k3s_standin/index.html) in k3s's place; it behaves as the
//! recordings of a real k3s show wherever this project looks. Tests of the fleet in one process start the same
//! [`server::Server`] below a temporary directory. [`release::ReleaseServer`] serves the program the way a release
//! page does, with faults on demand.

pub mod agent;
pub mod bootstrap;
pub mod client;
pub mod clock;
pub mod config;
pub mod files;
pub mod host;
pub mod kubectl;
pub mod kubelet;
pub mod log;
pub mod net;
pub mod node;
pub mod pki;
pub mod release;
pub mod server;
pub mod token;
pub mod trailer;
