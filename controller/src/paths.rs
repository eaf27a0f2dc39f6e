//! The absolute paths that the controller uses when nothing else is set.

/// The configuration.
pub const CONFIG: &str = "/etc/canasta/controller.toml";
/// Database, CA and artefacts.
pub const STATE_DIR: &str = "/var/lib/canasta-controller";
/// The socket for callers on this machine.
pub const SOCKET: &str = "/run/canasta/controller.sock";
/// Packages of the agent that the controller's own package brings.
pub const AGENT_PACKAGES: &str = "/usr/share/canasta/agent-packages";
