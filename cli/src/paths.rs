//! The absolute paths that the CLI uses.

/// The controller's socket; `canasta-controller` makes it.
pub(crate) const SOCKET: &str = "/run/canasta/controller.sock";
