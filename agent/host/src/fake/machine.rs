//! Hardware, kernel and distribution that are a struct.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use super::locked;
use crate::files::Root;
use crate::machine::cgroup::{Cgroup, Version};
use crate::machine::release::OsRelease;
use crate::machine::{Arch, DiskSpace, Facts, Listener, Machine, MachineError, Vitals, kernel};

const GIB: u64 = 1024 * 1024 * 1024;

/// What the machine answers.
#[derive(Debug, Clone)]
pub struct MachineState {
    /// Facts that hold until the next boot.
    pub facts: Facts,
    /// What changes from minute to minute.
    pub vitals: Vitals,
    /// Free bytes on the one disk.
    pub disk_free: u64,
    /// A directory whose files take room away from `disk_free`.
    pub disk_used_by: Option<PathBuf>,
    /// Size of the one disk in bytes.
    pub disk_total: u64,
    /// Who listens.
    pub listeners: Vec<Listener>,
    /// Kernel features by name.
    pub kernel_features: BTreeMap<String, Option<bool>>,
    /// How far the clock is ahead of the real one, in seconds; negative for behind.
    pub clock_offset_seconds: i64,
    /// Whether NTP keeps the clock.
    pub clock_synchronized: Option<bool>,
}

/// A machine whose facts a test sets.
#[derive(Debug)]
pub struct FakeMachine {
    state: Mutex<MachineState>,
}

impl FakeMachine {
    /// A machine with 4 GiB of memory and 40 GiB of disk, 30 GiB of them free, on which a preflight finds nothing.
    pub fn new(hostname: &str) -> Self {
        let features = kernel::FEATURES
            .iter()
            .map(|feature| (feature.name.to_owned(), Some(true)));
        let state = MachineState {
            facts: facts(hostname),
            vitals: Vitals {
                load: [0.1, 0.1, 0.1],
                uptime: Duration::from_hours(1),
                memory_available: 3 * GIB,
                swap_used: 0,
            },
            disk_free: 30 * GIB,
            disk_used_by: None,
            disk_total: 40 * GIB,
            listeners: Vec::new(),
            kernel_features: features.collect(),
            clock_offset_seconds: 0,
            clock_synchronized: Some(true),
        };
        Self {
            state: Mutex::new(state),
        }
    }

    /// Changes what the machine answers from now on.
    pub fn change(&self, change: impl FnOnce(&mut MachineState)) {
        change(&mut locked(&self.state));
    }

    /// Puts the ids of the machine and of its boot where programs look for them.
    pub(super) fn identify(&self, root: &Root) -> std::io::Result<()> {
        let Facts {
            machine_id,
            boot_id,
            ..
        } = self.state().facts;
        std::fs::create_dir_all(root.path("/proc/sys/kernel/random"))?;
        for (path, id) in [
            ("/etc/machine-id", machine_id),
            ("/proc/sys/kernel/random/boot_id", boot_id),
        ] {
            std::fs::write(root.path(path), id.unwrap_or_default() + "\n")?;
        }
        Ok(())
    }

    fn state(&self) -> MachineState {
        locked(&self.state).clone()
    }
}

fn facts(hostname: &str) -> Facts {
    Facts {
        uid: 0,
        hostname: hostname.to_owned(),
        os: OsRelease {
            id: "debian".to_owned(),
            version_id: "12".to_owned(),
            pretty_name: "Debian GNU/Linux 12 (bookworm)".to_owned(),
            id_like: String::new(),
        },
        kernel: "6.1.0-test".to_owned(),
        arch: Arch::from_name(std::env::consts::ARCH),
        machine_id: Some(format!("{:032x}", super::next_number())),
        boot_id: Some(format!("{:032x}", super::next_number())),
        init_is_systemd: true,
        cgroup: Cgroup {
            version: Version::V2,
            memory: Some(true),
        },
        memory_total: 4 * GIB,
        swap_total: 0,
        cpus: 2,
    }
}

#[async_trait]
impl Machine for FakeMachine {
    async fn facts(&self) -> Result<Facts, MachineError> {
        Ok(self.state().facts)
    }

    async fn vitals(&self) -> Result<Vitals, MachineError> {
        Ok(self.state().vitals)
    }

    async fn disk_space(&self, path: &Path) -> Result<DiskSpace, MachineError> {
        let state = self.state();
        let files = state.disk_used_by.and_then(|at| std::fs::read_dir(at).ok());
        let files = files.into_iter().flatten().flatten();
        let used = files
            .filter_map(|file| Some(file.metadata().ok()?.len()))
            .sum();
        Ok(DiskSpace {
            asked: path.to_path_buf(),
            mount_point: Some(PathBuf::from("/")),
            free: state.disk_free.saturating_sub(used),
            total: state.disk_total,
        })
    }

    async fn listeners(&self) -> Result<Vec<Listener>, MachineError> {
        Ok(self.state().listeners)
    }

    async fn kernel_features(&self) -> BTreeMap<String, Option<bool>> {
        self.state().kernel_features
    }

    fn now(&self) -> SystemTime {
        let offset = locked(&self.state).clock_offset_seconds;
        let distance = Duration::from_secs(offset.unsigned_abs());
        if offset < 0 {
            SystemTime::now() - distance
        } else {
            SystemTime::now() + distance
        }
    }

    async fn clock_synchronized(&self) -> Option<bool> {
        self.state().clock_synchronized
    }
}
