//! Artefacts: releases that the controller downloads or is given once, keeps by their hash, and gives to its hosts.
//!
//! Files lie in `artefacts/` of the state directory, named by their SHA-256; a file gets that name only when the hash was
//! compared. What is on its way lies in `artefacts/partial/`. Called by workflows and by the API.

mod client;
mod download;
mod error;
mod fetch;
mod file;
mod import;
mod packages;
mod partial;
mod push;
mod source;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use canasta_proto::artefact::MAX_SIZE;
pub(crate) use canasta_proto::package::Format;
use canasta_proto::pb;
use canasta_proto::version::K3sVersion;
use canasta_steps::{Reporter, StepError};
use tokio::sync::Semaphore;

use self::client::Clients;
use self::download::Download;
pub use self::error::Error;
pub(crate) use self::import::Cut;
use self::partial::Partial;
pub use self::push::Pushed;
pub(crate) use self::source::Architecture;
use self::source::{Release, read_checksum};
use crate::config;
use crate::operations::stamp;
use crate::store::Store;
use crate::store::artefacts::ArtefactRow;

/// What a k3s release is called among artefacts.
pub(crate) const K3S: &str = "k3s";
/// How many hosts get an artefact at the same time.
const PUSHES: usize = 4;
/// The beginning of the source of an imported artefact.
const IMPORTED: &str = "imported by ";
/// The least that a download must bring, in bytes a second, on average over [`Limits::slow`].
const LEAST_RATE: u64 = 10 * 1024;

/// Bounds of downloads and pushes, and of what they take of the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// How long nothing may come.
    pub stall: Duration,
    /// How long less than 10 KiB a second may come.
    pub slow: Duration,
    /// How long all tries together may take.
    pub total: Duration,
    /// The pause before the second try; it doubles with each.
    pub first_pause: Duration,
    /// The largest file, in bytes.
    pub most: u64,
    /// Bytes of the disk that stay free, since the database lies there too.
    pub reserve: u64,
    /// How long an agent may take nothing of what is pushed to it.
    pub push_stall: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            stall: Duration::from_secs(30),
            slow: Duration::from_mins(1),
            total: Duration::from_hours(1),
            first_pause: Duration::from_secs(1),
            most: MAX_SIZE,
            reserve: 32 * 1024 * 1024,
            push_stall: Duration::from_secs(60),
        }
    }
}

/// Who is told how work on an artefact goes.
#[async_trait]
pub trait Tell: Send + Sync {
    /// So many bytes are done; `total` is 0 when it is not known. `what` is a URL or a path.
    async fn bytes(&self, done: u64, total: u64, what: &str);

    /// Something did not work and is tried again after `delay`.
    async fn retrying(&self, error: StepError, delay: Duration);
}

#[async_trait]
impl Tell for Reporter {
    async fn bytes(&self, done: u64, total: u64, what: &str) {
        self.progress(pb::StepProgress {
            done,
            total,
            unit: "bytes".to_owned(),
            message: what.to_owned(),
        })
        .await;
    }

    async fn retrying(&self, error: StepError, delay: Duration) {
        Self::retrying(self, error, delay).await;
    }
}

/// An artefact that is kept, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artefact {
    row: ArtefactRow,
    path: PathBuf,
}

impl Artefact {
    /// Its version.
    pub fn version(&self) -> &str {
        &self.row.version
    }

    /// Its architecture: `amd64`.
    pub fn arch(&self) -> &str {
        &self.row.arch
    }

    /// SHA-256, hex.
    pub fn sha256(&self) -> &str {
        &self.row.sha256
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.row.size
    }

    /// Where it came from: a URL, a path, or `imported by NAME`.
    pub fn source(&self) -> &str {
        &self.row.source
    }

    /// As it is told on the wire.
    pub fn to_pb(&self) -> pb::Artefact {
        to_pb(&self.row)
    }
}

/// Whether two names, of a release or of a kernel, mean the same architecture.
pub(crate) fn same_arch(one: &str, other: &str) -> bool {
    let name = |text: &str| Architecture::find(text).ok().map(|arch| arch.name);
    name(one).is_some_and(|one| name(other) == Some(one))
}

/// All artefacts.
#[derive(Clone)]
pub struct Artefacts {
    inner: Arc<Inner>,
}

/// Name, version, architecture.
type Key = (String, String, String);

struct Inner {
    store: Store,
    directory: PathBuf,
    config: config::K3s,
    limits: Limits,
    clients: Clients,
    /// Held while an artefact is fetched or stored, so that others wait for it instead of fetching it too.
    busy: Mutex<HashMap<Key, Arc<tokio::sync::Mutex<()>>>>,
    pushes: Semaphore,
}

impl Artefacts {
    /// Artefacts in `directory`, which is made and cleared of what earlier runs left half done.
    ///
    /// # Errors
    /// When the directory can't be used or the database can't be read.
    pub async fn open(
        store: Store,
        directory: PathBuf,
        config: config::K3s,
        limits: Limits,
    ) -> Result<Self, Error> {
        let rows = store.artefacts().await.map_err(Error::Store)?;
        let kept: HashSet<String> = rows.into_iter().map(|row| row.sha256).collect();
        file::blocking(&directory, move |directory| prepare(directory, &kept)).await?;
        let clients = Clients::new(config.ca_file.clone());
        Ok(Self {
            inner: Arc::new(Inner {
                store,
                directory,
                config,
                limits,
                clients,
                busy: Mutex::default(),
                pushes: Semaphore::new(PUSHES),
            }),
        })
    }

    /// All artefacts that are kept, by name, version and architecture.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn list(&self) -> Result<Vec<pb::Artefact>, Error> {
        let rows = self.inner.store.artefacts().await.map_err(Error::Store)?;
        Ok(rows.iter().map(to_pb).collect())
    }

    /// The k3s of a version for an architecture (`amd64` or `x86_64`): what is kept, else downloaded. The second value
    /// tells whether it was downloaded now.
    ///
    /// # Errors
    /// When it is not kept and can't be downloaded; the message names the URL.
    pub async fn ensure_k3s(
        &self,
        version: &K3sVersion,
        arch: &str,
        tell: &dyn Tell,
    ) -> Result<(Artefact, bool), Error> {
        let arch = Architecture::find(arch)?;
        let key = key(version, arch);
        let lock = self.inner.lock_of(&key);
        let _alone = lock.lock().await;
        if let Some(artefact) = self.inner.kept(&key).await? {
            return Ok((artefact, false));
        }
        let artefact = self.inner.download(&key, version, arch, tell).await?;
        Ok((artefact, true))
    }
}

impl Inner {
    fn lock_of(&self, key: &Key) -> Arc<tokio::sync::Mutex<()>> {
        let mut busy = self.busy.lock().expect("no holder panics");
        // Those that nobody holds or waits for are dropped on the way.
        busy.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(busy.entry(key.clone()).or_default())
    }

    fn partials(&self) -> PathBuf {
        self.directory.join("partial")
    }

    /// What is kept under a name, if its file is still what was stored.
    async fn kept(&self, (name, version, arch): &Key) -> Result<Option<Artefact>, Error> {
        let found = self.store.artefact(name, version, arch).await;
        let Some(mut row) = found.map_err(Error::Store)? else {
            return Ok(None);
        };
        let pin = version.parse().ok();
        let pin = pin.and_then(|version| self.config.sha256.get(&version, arch));
        if pin.is_some_and(|pin| pin != row.sha256) && !row.source.starts_with(IMPORTED) {
            return Ok(None);
        }
        let path = self.directory.join(&row.sha256);
        let Some(look) = file::blocking(&path, file::look).await? else {
            return Ok(None);
        };
        if (look.size, look.modified) != (row.size, row.modified) {
            if look.size != row.size || file::hash(&path).await? != row.sha256 {
                tracing::warn!(path = %path.display(), "a kept artefact was damaged and is thrown away");
                file::blocking(&path, |path| canasta_durable::remove(path).map(drop)).await?;
                self.store
                    .delete_artefact(&row)
                    .await
                    .map_err(Error::Store)?;
                return Ok(None);
            }
            row.modified = look.modified;
            self.store.put_artefact(&row).await.map_err(Error::Store)?;
        }
        Ok(Some(Artefact { row, path }))
    }

    async fn download(
        &self,
        key: &Key,
        version: &K3sVersion,
        arch: &Architecture,
        tell: &dyn Tell,
    ) -> Result<Artefact, Error> {
        let pin = self.config.sha256.get(version, arch.name);
        let release = Release::locate(&self.config.release_url, pin, version, arch)?;
        let download = Download {
            clients: &self.clients,
            limits: &self.limits,
            tell,
        };
        let (expected, told_by) = if let Some(pin) = &release.pin {
            (pin.clone(), "[k3s] sha256 in controller.toml".to_owned())
        } else {
            let text = download.text(&release.checksums).await?;
            let found = read_checksum(&text, release.asset);
            let url = release.checksums.shown();
            let Some(found) = found else {
                return Err(Error::NoChecksum {
                    url,
                    asset: release.asset.to_owned(),
                });
            };
            (found, url)
        };
        let partial = Partial {
            path: self
                .partials()
                .join(format!("{}-{}-{}.part", key.0, key.1, key.2)),
        };
        let (mut written, resumed) = download.file(&release.file, &partial).await?;
        if written.sha256 != expected {
            partial.discard().await?;
            // A part that an earlier run left may be what is wrong, so it is fetched once more without it.
            if resumed {
                (written, _) = download.file(&release.file, &partial).await?;
            }
        }
        if written.sha256 != expected {
            partial.discard().await?;
            return Err(Error::Checksum {
                url: release.file.shown(),
                expected,
                told_by,
                actual: written.sha256,
            });
        }
        let path = self.directory.join(&written.sha256);
        partial.publish(&path).await?;
        self.record(key, &written, release.file.shown(), path).await
    }

    async fn record(
        &self,
        (name, version, arch): &Key,
        written: &file::Written,
        source: String,
        path: PathBuf,
    ) -> Result<Artefact, Error> {
        let look = file::blocking(&path, file::look).await?;
        let row = ArtefactRow {
            name: name.clone(),
            version: version.clone(),
            arch: arch.clone(),
            sha256: written.sha256.clone(),
            size: written.size,
            source,
            stored_at: stamp::now_millis(),
            modified: look.map_or(0, |look| look.modified),
        };
        self.store.put_artefact(&row).await.map_err(Error::Store)?;
        Ok(Artefact { row, path })
    }
}

fn key(version: &K3sVersion, arch: &Architecture) -> Key {
    (K3S.to_owned(), version.to_string(), arch.name.to_owned())
}

fn to_pb(row: &ArtefactRow) -> pb::Artefact {
    pb::Artefact {
        name: row.name.clone(),
        version: row.version.clone(),
        arch: row.arch.clone(),
        sha256: row.sha256.clone(),
        size: row.size,
        source: row.source.clone(),
        stored_at: Some(stamp::from_millis(row.stored_at)),
    }
}

/// Makes the directories, and removes what a crash left: files that no row names, imports, parts that can't go on.
fn prepare(directory: &Path, kept: &HashSet<String>) -> Result<(), canasta_durable::Error> {
    canasta_durable::create_dir_all(directory, 0o700)?;
    let partials = directory.join("partial");
    canasta_durable::create_dir_all(&partials, 0o700)?;
    partial::sweep(&partials)?;
    let failed = |source| canasta_durable::Error::new("list", directory, source);
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if is_file && !kept.contains(&*entry.file_name().to_string_lossy()) {
            canasta_durable::remove(&entry.path())?;
        }
    }
    Ok(())
}

impl fmt::Debug for Artefacts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Artefacts")
            .field("directory", &self.inner.directory)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
