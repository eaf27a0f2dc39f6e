//! A machine made of a directory and of settable facts, so that the whole agent runs inside a test.
//!
//! Files are real files below the directory. Units, journal, hardware and network are in memory: a test sets what they answer,
//! and asks afterwards what they were told to do. A [`FakeHost`] outlives the agent that runs on it, as a machine does: give a
//! restarted agent the same [`FakeHost::host`].

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{Host, Root};

mod ganesha;
mod glob;
mod journal;
mod machine;
pub mod needs;
mod network;
mod nfs;
mod outside;
mod process;
mod removal;
mod sockets;
mod systemd;

#[cfg(test)]
mod tests;

pub use ganesha::FakeGanesha;
pub use journal::FakeJournal;
pub use machine::{FakeMachine, MachineState};
pub use network::{FakeNetwork, NetworkState};
pub use nfs::FakeProver;
pub use outside::FakeOutside;
pub use process::{FakeProcesses, Printed};
pub use removal::FakeRemoval;
pub use sockets::{FakeSockets, Offer, Wire};
pub use systemd::{Exit, FakeSystemd, Order, Run, Running};

/// A machine for tests: 4 GiB of memory, 40 GiB of disk, Debian, one link `eth0`, nothing installed.
#[derive(Debug)]
pub struct FakeHost {
    /// Its files.
    pub root: Root,
    /// Its service manager.
    pub systemd: Arc<FakeSystemd>,
    /// Its log.
    pub journal: Arc<FakeJournal>,
    /// Its hardware, kernel and distribution.
    pub machine: Arc<FakeMachine>,
    /// Its links, addresses and routes.
    pub network: Arc<FakeNetwork>,
    /// How it reaches others, and they reach it.
    pub sockets: Arc<FakeSockets>,
    /// What runs on it.
    pub processes: Arc<FakeProcesses>,
    /// Takes away its mounts and files.
    pub removal: Arc<FakeRemoval>,
    /// Proves shares from it.
    pub nfs: Arc<FakeProver>,
    /// Runs its programs.
    pub outside: Arc<FakeOutside>,
    /// Its NFS server that is a program.
    pub ganesha: Arc<FakeGanesha>,
    directory: PathBuf,
    /// Removes the directory at the end, where this host made it.
    temporary: Option<tempfile::TempDir>,
}

impl FakeHost {
    /// A machine in a temporary directory of its own, which goes away with it.
    ///
    /// # Panics
    /// If no temporary directory can be made.
    pub fn new(hostname: &str) -> Self {
        let temporary = tempfile::tempdir().expect("a temporary directory can be made");
        let mut host = Self::at(temporary.path(), hostname);
        host.temporary = Some(temporary);
        host
    }

    /// A machine whose files are in an existing directory, which stays.
    ///
    /// # Panics
    /// If the directory can't be written to.
    pub fn at(directory: impl AsRef<Path>, hostname: &str) -> Self {
        let directory = directory.as_ref().to_path_buf();
        let root = Root::at(&directory);
        let machine = FakeMachine::new(hostname);
        lay_out(&root)
            .and_then(|()| machine.identify(&root))
            .expect("the directory can be written to");
        let network = Arc::<FakeNetwork>::default();
        let systemd = FakeSystemd::new(root.clone());
        Self {
            ganesha: Arc::new(FakeGanesha::new(root.clone(), systemd.clone())),
            outside: Arc::new(FakeOutside::new(root.clone())),
            systemd: Arc::new(systemd),
            journal: Arc::new(FakeJournal::default()),
            machine: Arc::new(machine),
            sockets: Arc::new(FakeSockets::new(Arc::clone(&network))),
            network,
            processes: Arc::new(FakeProcesses::default()),
            removal: Arc::new(FakeRemoval::new(root.clone())),
            nfs: Arc::default(),
            root,
            directory,
            temporary: None,
        }
    }

    /// The machine as the agent gets it.
    pub fn host(&self) -> Host {
        Host {
            root: self.root.clone(),
            systemd: self.systemd.clone(),
            journal: self.journal.clone(),
            machine: self.machine.clone(),
            network: self.network.clone(),
            sockets: self.sockets.clone(),
            processes: self.processes.clone(),
            removal: self.removal.clone(),
            nfs: self.nfs.clone(),
            outside: self.outside.clone(),
            ganesha: self.ganesha.clone(),
        }
    }

    /// Whether the directory goes away with this machine.
    pub fn is_temporary(&self) -> bool {
        self.temporary.is_some()
    }

    /// The directory that stands for `/`.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Loses power and comes up again: whatever ran is dropped, the boot id is a new one, enabled units are started.
    pub fn reboot(&self) {
        self.systemd.power_off();
        self.processes.clear();
        self.machine.change(|state| {
            state.facts.boot_id = Some(format!("{:032x}", next_number()));
        });
        let told = self.machine.identify(&self.root);
        told.expect("the directory can be written to");
        self.systemd.boot();
    }
}

/// The few files that every machine has and that the code reads.
fn lay_out(root: &Root) -> std::io::Result<()> {
    for directory in [
        "/etc/systemd/system/multi-user.target.wants",
        "/run/systemd/system",
        "/usr/local/bin",
        "/var/lib",
        "/proc/1",
    ] {
        std::fs::create_dir_all(root.path(directory))?;
    }
    let table = root.path("/proc/1/mountinfo");
    if table.exists() {
        return Ok(());
    }
    std::fs::write(
        table,
        "27 1 254:1 / / rw,relatime - ext4 /dev/vda1 rw\n22 27 0:21 / /proc rw - proc proc rw\n",
    )
}

/// A number that no other caller in this process gets.
fn next_number() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

/// Locks; a test that panicked while it held the lock is no reason for others to.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
