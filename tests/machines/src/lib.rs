//! Systemd nodes in a network of their own, on one machine: for tests, the demo and people.
//!
//! A *lab* is a network namespace with a bridge and any number of *nodes*. A node is a Debian or
//! Ubuntu with systemd as its first process, run by systemd-nspawn, with everything that an agent
//! and a k3s need. Nothing outside the lab's directory, its namespace and its cgroups is touched,
//! and [`Lab::down`] removes all of it, whatever happened before. The one exception are three settings of the kernel that
//! a real k3s needs, which `down` puts back.
//!
//! The program `canasta-machines` (`./dev machines`) and the tests on machines call [`Lab`].
//! Everything here blocks, and needs root.

#![expect(
    clippy::disallowed_types,
    reason = "a lab is made of programs of the machine; no product code is in this crate"
)]

mod apt;
mod base;
mod cgroup;
mod cut;
pub mod fleet;
mod lab;
mod needs;
mod network;
mod node;
mod packages;
mod place;
mod process;
mod program;
mod release;
mod repository;
mod settings;
mod state;

pub use base::BaseError;
pub use cut::{Cut, Protocol};
pub use lab::{Lab, LabError, NodeStatus, Status, UpOptions};
pub use needs::{Need, needs};
pub use node::NodeError;
pub use packages::PackageError;
pub use place::{CONTROLLER_NODE, DEFAULT_DIRECTORY, DEFAULT_LAB};
pub use program::{Output, ProgramError, exit_code};
pub use release::{DEFAULT_VERSION, NEXT_MINOR, NEXT_PATCH, Payload, ReleaseError, Releases};
pub use repository::RepositoryError;
pub use settings::SettingError;
pub use state::StateError;
