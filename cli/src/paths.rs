//! Every path of the CLI: where it finds the controller of this machine, and where it keeps what it knows.

use std::ffi::OsStr;
use std::path::PathBuf;

/// The socket of the controller on this machine; `canasta-controller` makes it.
pub(crate) const CONTROLLER_SOCKET: &str = "/run/canasta/controller.sock";

/// The terminal of whoever runs the command, where ssh asks for what it needs.
pub(crate) const TERMINAL: &str = "/dev/tty";

/// The contexts with their client keys: `$XDG_CONFIG_HOME/canasta/contexts.toml`. None for a user without a home directory.
pub(crate) fn contexts() -> Option<PathBuf> {
    let directory = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| std::env::home_dir().map(|home| home.join(".config")))?;
    Some(directory.join("canasta/contexts.toml"))
}

/// The kubeconfig that kubectl writes new entries to: the first of `$KUBECONFIG`, else `~/.kube/config`. None for a user
/// without a home directory.
pub(crate) fn kubeconfig() -> Option<PathBuf> {
    first_of(std::env::var_os("KUBECONFIG").as_deref())
        .or_else(|| std::env::home_dir().map(|home| home.join(".kube/config")))
}

/// The first path of a list as in `$PATH`; empty ones don't count.
fn first_of(list: Option<&OsStr>) -> Option<PathBuf> {
    std::env::split_paths(list?).find(|path| !path.as_os_str().is_empty())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::path::PathBuf;

    use super::first_of;

    #[test]
    fn the_first_path_counts_and_an_empty_one_is_none() {
        let first = |list: &str| first_of(Some(OsStr::new(list)));
        assert_eq!(first("/a:/b"), Some(PathBuf::from("/a")));
        assert_eq!(first(":/b"), Some(PathBuf::from("/b")));
        assert_eq!(first(""), None);
        assert_eq!(first_of(None), None);
    }
}
