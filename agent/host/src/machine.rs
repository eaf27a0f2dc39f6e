//! Facts about the machine that a preflight judges and that health shows: who, what kernel, how much, who listens.
//!
//! [`linux::LinuxMachine`] reads `/proc`, `/sys` and `/etc`; with the feature `fake`, `fake::FakeMachine` holds settable facts.

use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::files::FileError;

pub mod cgroup;
pub mod kernel;
pub mod linux;
pub mod release;
pub mod sockets;

/// A fact couldn't be found out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MachineError {
    /// A file that holds the fact can't be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file system of a path can't be asked for its free space.
    #[error("failed to ask the file system of {} for its free space", path.display())]
    Space {
        /// The path that was asked about.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The kernel didn't tell about memory, load or its time since boot.
    #[error("failed to read the {what} of this machine")]
    Unreadable {
        /// `memory`, `load` or `uptime`.
        what: &'static str,
        /// Why not.
        #[source]
        source: sysinfo::Error,
    },
    /// The thread that gathered facts ended early.
    #[error("failed to finish gathering facts about this machine")]
    Interrupted,
}

/// Instruction set of the machine, as far as this project knows one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    /// 64-bit x86 (`amd64` in Debian and k3s).
    #[serde(rename = "x86_64")]
    X86_64,
    /// 64-bit ARM (`arm64`).
    Aarch64,
    /// 32-bit ARM (`armhf`).
    Arm,
    /// IBM Z.
    S390x,
    /// Something else, as the kernel calls it.
    Other(String),
}

impl Arch {
    /// From the compiler's or `uname`'s word.
    pub fn from_name(name: &str) -> Self {
        match name {
            "x86_64" => Self::X86_64,
            "aarch64" => Self::Aarch64,
            "arm" | "armv6l" | "armv7l" | "armv8l" => Self::Arm,
            "s390x" => Self::S390x,
            other => Self::Other(other.to_owned()),
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
            Self::Arm => "arm",
            Self::S390x => "s390x",
            Self::Other(name) => name,
        })
    }
}

/// Facts that change with a reboot at most, apart from the hostname.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Effective user id of this program; 0 is root.
    pub uid: u32,
    /// The kernel's hostname.
    pub hostname: String,
    /// The distribution.
    pub os: release::OsRelease,
    /// Kernel release, as `uname -r`.
    pub kernel: String,
    /// Instruction set.
    pub arch: Arch,
    /// `/etc/machine-id`: same for the life of an installation.
    pub machine_id: Option<String>,
    /// A new one at each boot.
    pub boot_id: Option<String>,
    /// Whether PID 1 is systemd (`/run/systemd/system` is there).
    pub init_is_systemd: bool,
    /// Control groups.
    pub cgroup: cgroup::Cgroup,
    /// Memory in bytes.
    pub memory_total: u64,
    /// Swap in bytes; 0 where there is none.
    pub swap_total: u64,
    /// Logical processors.
    pub cpus: u32,
}

/// What changes from minute to minute.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Vitals {
    /// Load averages over 1, 5 and 15 minutes.
    pub load: [f64; 3],
    /// Time since boot.
    pub uptime: Duration,
    /// Memory in bytes that programs could still get without swapping.
    pub memory_available: u64,
    /// Swap in use, in bytes.
    pub swap_used: u64,
}

/// Room on the file system of a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSpace {
    /// The nearest existing directory that was asked.
    pub asked: PathBuf,
    /// Where that file system is mounted; `None` where the mount table doesn't say.
    pub mount_point: Option<PathBuf>,
    /// Bytes that root may still use.
    pub free: u64,
    /// Size in bytes.
    pub total: u64,
}

/// Transport protocol of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP, in state listen.
    Tcp,
    /// UDP, bound and not connected.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A port that something listens on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Local address; unspecified for all.
    pub address: IpAddr,
    /// Local port.
    pub port: u16,
    /// Inode of the socket, which ties it to a process.
    pub inode: u64,
    /// The process that holds it, where this program may see that.
    pub pid: Option<u32>,
    /// Name of that process.
    pub process: Option<String>,
}

/// The machine under the operating system.
#[async_trait]
pub trait Machine: Send + Sync + Debug {
    /// Facts that hold until the next boot.
    async fn facts(&self) -> Result<Facts, MachineError>;

    /// What changes from minute to minute.
    async fn vitals(&self) -> Result<Vitals, MachineError>;

    /// Free space for `path` (an absolute path that need not exist), asked at its nearest existing parent.
    ///
    /// Don't ask about a path on a network file system: a dead server would keep a thread waiting.
    async fn disk_space(&self, path: &Path) -> Result<DiskSpace, MachineError>;

    /// All TCP listeners and bound UDP sockets, with their processes where this program may see them.
    async fn listeners(&self) -> Result<Vec<Listener>, MachineError>;

    /// For each of [`kernel::FEATURES`] by name: there, missing, or unknown (`None`).
    async fn kernel_features(&self) -> BTreeMap<String, Option<bool>>;

    /// The clock.
    fn now(&self) -> SystemTime;

    /// Whether the kernel's clock is kept in step by NTP; `None` where nobody can tell.
    async fn clock_synchronized(&self) -> Option<bool>;
}
