//! Every path of the CLI: where it finds the controller of this machine, and where it keeps what it knows.

use std::path::PathBuf;

/// The socket of the controller on this machine; `canasta-controller` makes it.
pub(crate) const CONTROLLER_SOCKET: &str = "/run/canasta/controller.sock";

/// The contexts with their client keys: `$XDG_CONFIG_HOME/canasta/contexts.toml`. None for a user without a home directory.
pub(crate) fn contexts() -> Option<PathBuf> {
    let directory = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| std::env::home_dir().map(|home| home.join(".config")))?;
    Some(directory.join("canasta/contexts.toml"))
}
