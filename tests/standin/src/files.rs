//! Where k3s keeps its files, all below one root, and how they are written: modes as recorded, replaced whole. Used by
//! server, agent and kubectl.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// A file operation that failed.
#[derive(Debug, Error)]
#[error("failed to {action} {path}")]
pub struct FileError {
    action: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// The paths of one k3s.
#[derive(Clone, Debug)]
pub struct Paths {
    root: PathBuf,
    data: PathBuf,
}

impl Paths {
    /// Everything below `root`; `data_dir` replaces `/var/lib/rancher/k3s`.
    pub fn new(root: &Path, data_dir: Option<&str>) -> Self {
        let data_dir = data_dir.unwrap_or("/var/lib/rancher/k3s");
        Self {
            root: root.to_owned(),
            data: root.join(data_dir.trim_start_matches('/')),
        }
    }

    /// A path from the root, given without its first slash.
    pub fn root(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// A path in the data directory's `server`.
    pub fn server(&self, relative: &str) -> PathBuf {
        self.data.join("server").join(relative)
    }

    /// A path in the data directory's `agent`.
    pub fn agent(&self, relative: &str) -> PathBuf {
        self.data.join("agent").join(relative)
    }

    /// A path in the data directory's `data`, where the real program unpacks itself.
    pub fn unpacked(&self, relative: &str) -> PathBuf {
        self.data.join("data").join(relative)
    }

    /// The admin's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.root("etc/rancher/k3s/k3s.yaml")
    }

    /// The node's own password.
    pub fn node_password(&self) -> PathBuf {
        self.root("etc/rancher/node/password")
    }
}

/// Replaces a file with `bytes` in one step; missing directories are made with mode 0755.
pub fn write(path: &Path, mode: u32, bytes: impl AsRef<[u8]>) -> Result<(), FileError> {
    let failed = |source| FileError {
        action: "write",
        path: path.to_owned(),
        source,
    };
    if let Some(parent) = path.parent() {
        directory(parent, 0o755)?;
    }
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&temporary)
        .map_err(failed)?;
    file.write_all(bytes.as_ref()).map_err(failed)?;
    file.set_permissions(fs::Permissions::from_mode(mode))
        .map_err(failed)?;
    fs::rename(&temporary, path).map_err(failed)
}

/// Makes a directory, its parents with mode 0755; one that is there keeps its mode.
pub fn directory(path: &Path, mode: u32) -> Result<(), FileError> {
    let failed = |source| FileError {
        action: "make directory",
        path: path.to_owned(),
        source,
    };
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    match fs::DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map_err(failed),
    }
}

/// Points a symbolic link at `target`, replacing what was there.
pub fn link(path: &Path, target: &Path) -> Result<(), FileError> {
    let failed = |source| FileError {
        action: "link",
        path: path.to_owned(),
        source,
    };
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    std::os::unix::fs::symlink(target, path).map_err(failed)
}

/// Reads a text file.
pub fn read(path: &Path) -> Result<String, FileError> {
    fs::read_to_string(path).map_err(|source| FileError {
        action: "read",
        path: path.to_owned(),
        source,
    })
}

/// Reads a text file that may be absent.
pub fn read_optional(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
