//! The only code that touches an operating system.
//!
//! The agent reaches files, processes, systemd, the journal, links and mounts through a [`Host`] and through nothing else. Files
//! stand below a [`Root`]; everything that isn't a file is behind a narrow trait: [`Systemd`], [`Journal`], [`Machine`],
//! [`Network`], [`Sockets`], [`Processes`], [`Removal`], [`nfs::Prover`], [`Outside`], [`Ganesha`]. [`Host::real`] is the machine
//! that the program runs on. With the feature `fake`, `fake::FakeHost` is a machine made of a directory and of settable facts, on
//! which the whole agent runs inside a test.
//!
//! Parsers are pure functions beside the code that reads their input. Nothing here knows k3s, fleets or the wire.

pub mod command;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
pub mod files;
pub mod ganesha;
pub mod journal;
pub mod links;
pub mod machine;
pub mod mounts;
pub mod network;
pub mod nfs;
pub mod outside;
pub mod packet;
pub mod presence;
pub mod process;
pub mod removal;
pub mod snapshot;
pub mod sockets;
pub mod systemd;

use std::sync::Arc;

pub use files::{Change, FileError, Root, hex, staging::Staging};
pub use ganesha::Ganesha;
pub use journal::Journal;
pub use machine::Machine;
pub use network::Network;
pub use outside::Outside;
pub use process::Processes;
pub use removal::Removal;
pub use sockets::Sockets;
pub use systemd::Systemd;

/// A machine: its files and the services that the agent asks about it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Host {
    /// The files.
    pub root: Root,
    /// The service manager.
    pub systemd: Arc<dyn Systemd>,
    /// The log.
    pub journal: Arc<dyn Journal>,
    /// Facts about hardware, kernel and distribution.
    pub machine: Arc<dyn Machine>,
    /// Links, addresses, routes and packet rules.
    pub network: Arc<dyn Network>,
    /// Connections and datagrams to other machines.
    pub sockets: Arc<dyn Sockets>,
    /// What runs.
    pub processes: Arc<dyn Processes>,
    /// Mounts and trees of files that go, in the mount namespace of PID 1.
    pub removal: Arc<dyn Removal>,
    /// Proofs that shares of NFS servers can be used.
    pub nfs: Arc<dyn nfs::Prover>,
    /// Programs of the system, and directories as PID 1 sees them.
    pub outside: Arc<dyn Outside>,
    /// The NFS server that is a program.
    pub ganesha: Arc<dyn Ganesha>,
}

impl Host {
    /// The machine that this program runs on. Opens nothing yet; the first question to systemd connects to the system bus.
    pub fn real() -> Self {
        let root = Root::real();
        let bus = systemd::bus::Bus::new();
        let systemd = systemd::bus::BusSystemd::new(bus.clone());
        Self {
            removal: Arc::new(removal::unit::InUnit::new(root.clone(), systemd.clone())),
            nfs: Arc::new(nfs::unit::InUnit::new(root.clone(), systemd.clone())),
            outside: Arc::new(outside::unit::InUnit::new(root.clone(), systemd.clone())),
            ganesha: Arc::new(ganesha::bus::BusGanesha::new(bus.clone())),
            processes: Arc::new(process::Proc::new(root.clone())),
            systemd: Arc::new(systemd),
            journal: Arc::new(journal::Journalctl),
            machine: Arc::new(machine::linux::LinuxMachine::new(root.clone(), bus)),
            network: Arc::new(network::netlink::Netlink),
            sockets: Arc::new(sockets::Kernel),
            root,
        }
    }
}
