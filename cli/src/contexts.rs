//! The controllers that this CLI knows: `$XDG_CONFIG_HOME/canasta/contexts.toml`, 0600 because client keys are in it.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use canasta_proto::pb::IssuedCertificate;
use canasta_transport::keys::PrivateKey;
use canasta_transport::material::{Material, MaterialError};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::paths;

/// The context that always is there: the controller on this machine, through its socket.
pub(crate) const LOCAL: &str = "local";

/// What the file holds.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Contexts {
    /// The one that is used when none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) current: Option<String>,
    /// By name.
    #[serde(default)]
    pub(crate) contexts: BTreeMap<String, Context>,
}

/// One controller and who this CLI is to it.
#[derive(Serialize, Deserialize, Clone)]
pub(crate) struct Context {
    /// `HOST:PORT`.
    pub(crate) controller: String,
    /// The fleet, as in its SPIFFE ids.
    pub(crate) fleet: String,
    /// The user's name.
    pub(crate) user: String,
    /// The fleet's CA certificate, DER in hex.
    pub(crate) ca_certificate: String,
    /// The client certificate and its key.
    #[serde(flatten)]
    pub(crate) leaf: Leaf,
    /// What takes its place once a controller has let it in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) next: Option<Leaf>,
}

/// A client certificate with its key.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq)]
pub(crate) struct Leaf {
    /// DER in hex.
    pub(crate) certificate: String,
    /// PEM.
    key: String,
}

impl Leaf {
    /// A certificate (DER) that was given for this key.
    pub(crate) fn new(key: &PrivateKey, certificate: &[u8]) -> Result<Self, Error> {
        let key = key.reveal_pem().map_err(|error| {
            Error::local(format!("the new key can't be kept: {error}"), "try again")
        })?;
        Ok(Self {
            certificate: to_hex(certificate),
            key,
        })
    }
}

impl Context {
    /// A controller that has given this user a certificate for this key.
    pub(crate) fn new(
        controller: &str,
        key: &PrivateKey,
        issued: IssuedCertificate,
    ) -> Result<Self, Error> {
        let leaf = Leaf::new(key, &issued.certificate)?;
        Ok(Self {
            controller: controller.to_owned(),
            fleet: issued.fleet_id,
            user: issued.name,
            ca_certificate: to_hex(&issued.ca_certificate),
            leaf,
            next: None,
        })
    }

    /// A certificate with its key, checked to belong together and to the fleet's CA.
    pub(crate) fn material(&self, leaf: &Leaf) -> Result<Material, MaterialError> {
        let key = PrivateKey::from_pem(&leaf.key).map_err(MaterialError::Key)?;
        // What is not hex is no certificate either.
        let der = |hex: &str| from_hex(hex).unwrap_or_default();
        Material::new(&der(&leaf.certificate), &key, &der(&self.ca_certificate))
    }
}

impl std::fmt::Debug for Leaf {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Leaf")
    }
}

impl std::fmt::Debug for Context {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Context")
            .field("controller", &self.controller)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

impl Contexts {
    fn path() -> Result<PathBuf, Error> {
        paths::contexts().ok_or_else(|| {
            Error::local(
                "this user has no home directory",
                "set XDG_CONFIG_HOME to a directory",
            )
        })
    }

    /// Changes the file, one command at a time: what another one writes meanwhile is not lost.
    ///
    /// # Errors
    /// When the file can't be read or written, or `change` fails; then nothing is written.
    pub(crate) fn update<T>(
        change: impl FnOnce(&mut Self) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let path = Self::path()?;
        if let Some(directory) = path.parent() {
            canasta_durable::create_dir_all(directory, 0o700)
                .map_err(|error| unwritten(&path, error))?;
        }
        let _alone = lock(&path)?;
        let mut known = Self::load()?;
        let value = change(&mut known)?;
        known.save(&path)?;
        Ok(value)
    }

    /// Reads the file; without one there are no contexts.
    pub(crate) fn load() -> Result<Self, Error> {
        let path = Self::path()?;
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(source) => return Err(Error::File { path, source }),
        };
        toml::from_str(&text).map_err(|error| {
            // The error's own text quotes the line, and the line may be one of a key.
            let before = error.span().and_then(|span| text.get(..span.start));
            let line = before.map_or(1, |before| before.matches('\n').count() + 1);
            Error::local(
                format!("failed to read {}, line {line}: it is not what `canasta context` writes", path.display()),
                "mend the line, or move the file away and add the contexts anew with `canasta context add`",
            )
        })
    }

    /// Writes the file so that a crash leaves the old or the new one.
    fn save(&self, path: &Path) -> Result<(), Error> {
        let text = toml::to_string_pretty(self).expect("contexts are plain data");
        canasta_durable::write(path, text.as_bytes(), 0o600).map_err(|error| unwritten(path, error))
    }
}

/// Waits until no other command changes the contexts. The lock is on a file of its own, as the other one is replaced by each
/// change; it ends with the file, also when the program is killed.
fn lock(contexts: &Path) -> Result<File, Error> {
    let path = contexts.with_extension("lock");
    let locked = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .and_then(|file| file.lock().map(|()| file));
    locked.map_err(|source| unwritten(&path, source))
}

fn unwritten(path: &Path, source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Local {
        message: format!("failed to write {}", path.display()),
        hint: "check the space and the owner of the directory".to_owned(),
        source: Some(Box::new(source)),
    }
}

/// Bytes as hex.
pub(crate) fn to_hex(bytes: &[u8]) -> String {
    canasta_transport::facts::hex(bytes)
}

/// Hex as bytes; nothing if it is not hex.
pub(crate) fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    digits
        .chunks(2)
        .map(|pair| {
            let high = char::from(pair[0]).to_digit(16)?;
            let low = char::from(pair[1]).to_digit(16)?;
            u8::try_from(high * 16 + low).ok()
        })
        .collect()
}
