//! The files of the CA: `ca/ca.key` (0600) and `ca/ca.crt` in the state directory, made at the first start.

use std::path::{Path, PathBuf};

use canasta_transport::authority::{Authority, AuthorityError};
use canasta_transport::keys::KeyError;
use jiff::Timestamp;

use super::IssueError;
use crate::store::{CA, StateDir};

const KEY: &str = "ca.key";
const CERTIFICATE: &str = "ca.crt";
/// Where the files are written before the directory gets its name, so that there is a whole CA or none.
const UNFINISHED: &str = "ca.unfinished";

/// Why there is no CA to issue with. Each message names the file.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A file is missing or can't be read.
    #[error("failed to read {}: restore all of the state directory from one backup", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The files are damaged.
    #[error("failed to use the CA in {}: restore all of the state directory from one backup", path.display())]
    Damaged {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        source: AuthorityError,
    },
    /// No CA could be made.
    #[error("failed to make the CA of a new fleet")]
    Make(#[source] AuthorityError),
    /// The new key can't be written as a file.
    #[error("failed to make the CA of a new fleet")]
    Key(#[source] KeyError),
    /// The files can't be written.
    #[error("failed to store the CA of a new fleet")]
    Write(#[source] canasta_durable::Error),
    /// The directory can't be put in place.
    #[error("failed to store the CA of a new fleet in {}", path.display())]
    Place {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The controller has no certificate of its own.
    #[error("failed to issue the controller's own certificate")]
    OwnLeaf(#[source] IssueError),
}

/// Reads the CA; at a first start that has none yet, makes it.
pub(super) fn open(state: &StateDir) -> Result<Authority, CaError> {
    let directory = state.path().join(CA);
    if state.is_first_start() && !directory.exists() {
        return make(state.path(), &directory);
    }
    let read = |name: &str| {
        let path = directory.join(name);
        std::fs::read(&path).map_err(|source| CaError::Read { path, source })
    };
    let key = read(KEY)?;
    // What is no text is no key either, and is told so.
    let key = std::str::from_utf8(&key).unwrap_or_default();
    Authority::load(key, &read(CERTIFICATE)?).map_err(|source| CaError::Damaged {
        path: directory,
        source,
    })
}

fn make(state: &Path, directory: &Path) -> Result<Authority, CaError> {
    let authority = Authority::create(Timestamp::now()).map_err(CaError::Make)?;
    let unfinished = state.join(UNFINISHED);
    let place = |source| CaError::Place {
        path: directory.to_owned(),
        source,
    };
    // From a first start that was cut off.
    match std::fs::remove_dir_all(&unfinished) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(place(error)),
        _ => {}
    }
    canasta_durable::create_dir_all(&unfinished, 0o700).map_err(CaError::Write)?;
    let key = authority.key().reveal_pem().map_err(CaError::Key)?;
    canasta_durable::write(&unfinished.join(KEY), key.as_bytes(), 0o600).map_err(CaError::Write)?;
    canasta_durable::write(
        &unfinished.join(CERTIFICATE),
        authority.certificate(),
        0o644,
    )
    .map_err(CaError::Write)?;
    std::fs::rename(&unfinished, directory).map_err(place)?;
    canasta_durable::sync_parent(directory).map_err(CaError::Write)?;
    Ok(authority)
}
