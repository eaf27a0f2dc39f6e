//! Every path of the agent's own files. All of them are paths of the host, below whatever root the host has.
//!
//! What belongs to k3s stands in [`crate::k3s::paths`].

use std::path::PathBuf;

use canasta_host::Root;

/// Settings of the service.
pub const CONFIG: &str = "/etc/canasta/agent.toml";
/// A join that was prepared before the first start, for images and cloud-init. Read once, then deleted.
pub const JOIN_FILE: &str = "/etc/canasta/join.toml";
/// What the agent keeps.
pub const STATE: &str = "/var/lib/canasta-agent";
/// Keys and certificates.
pub const IDENTITY: &str = "/var/lib/canasta-agent/identity";
/// Journals of tasks, one file each.
pub const TASKS: &str = "/var/lib/canasta-agent/tasks";
/// What the agent exports, and what it put on this node for that.
pub const STORAGE_RECORD: &str = "/var/lib/canasta-agent/owned/storage.json";
/// What lives as long as the machine is up.
pub const RUN: &str = "/run/canasta-agent";
/// The socket on which `canasta-agent join` and `canasta-agent status` ask the service.
pub const JOIN_SOCKET: &str = "/run/canasta-agent/join.sock";
/// The agent's own paths below a root.
#[derive(Debug, Clone)]
pub struct Paths {
    /// [`CONFIG`].
    pub config: PathBuf,
    /// [`JOIN_FILE`].
    pub join_file: PathBuf,
    /// [`IDENTITY`].
    pub identity: PathBuf,
    /// [`TASKS`].
    pub tasks: PathBuf,
    /// [`RUN`].
    pub run: PathBuf,
    /// [`JOIN_SOCKET`].
    pub join_socket: PathBuf,
}

impl Paths {
    /// The paths below this root.
    pub fn below(root: &Root) -> Self {
        Self {
            config: root.path(CONFIG),
            join_file: root.path(JOIN_FILE),
            identity: root.path(IDENTITY),
            tasks: root.path(TASKS),
            run: root.path(RUN),
            join_socket: root.path(JOIN_SOCKET),
        }
    }
}
