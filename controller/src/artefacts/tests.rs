//! Downloads, imports and the cache, with servers that misbehave.

mod download;
mod import;
mod packages;
mod server;
mod trust;

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use canasta_proto::version::K3sVersion;
use canasta_steps::StepError;
use canasta_transport::facts::hex;
use sha2::{Digest as _, Sha256};

use self::server::Server;
use super::{Artefact, Artefacts, Error, Limits, Tell};
use crate::config::{K3s, Pins};
use crate::store::{StateDir, Store};

const SIZE: usize = 300_000;

/// A program for amd64, as far as its head tells.
fn program() -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..SIZE)
        .map(|index| u8::try_from(index % 251).expect("small"))
        .collect();
    bytes[..20].copy_from_slice(&[
        0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 62, 0,
    ]);
    bytes
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Writes down what it is told.
#[derive(Default)]
struct Told(Mutex<Vec<String>>);

#[async_trait]
impl Tell for Told {
    async fn bytes(&self, _: u64, _: u64, _: &str) {}

    async fn retrying(&self, error: StepError, _: Duration) {
        self.0.lock().expect("told").push(error.reason().to_owned());
    }
}

struct Bench {
    dir: tempfile::TempDir,
    store: Store,
    config: K3s,
    limits: Limits,
    told: Told,
    _state: StateDir,
}

impl Bench {
    /// Takes releases from there, and nothing else than `pinned` where that is given.
    async fn new(release_url: String, pinned: Option<&str>) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let state = StateDir::take(dir.path()).expect("state");
        let mut sha256 = Pins::default();
        if let Some(pinned) = pinned {
            sha256.insert(version(), "amd64", pinned);
        }
        Self {
            store: Store::open(&state, "fleet").await.expect("database"),
            dir,
            config: K3s {
                release_url,
                sha256,
                ..K3s::default()
            },
            limits: Limits {
                stall: Duration::from_millis(300),
                total: Duration::from_secs(20),
                first_pause: Duration::from_millis(1),
                ..Limits::default()
            },
            told: Told::default(),
            _state: state,
        }
    }

    async fn on(server: &Server) -> Self {
        let url = format!("http://{}/{{version}}/{{asset}}", server.address);
        Self::new(url, Some(&sha256(&program()))).await
    }

    /// The part of the one release.
    fn part(&self) -> PathBuf {
        let partials = self.directory().join("partial");
        partials.join("k3s-v1.34.8+k3s1-amd64.part")
    }

    fn directory(&self) -> PathBuf {
        self.dir.path().join("artefacts")
    }

    async fn open(&self) -> Artefacts {
        Artefacts::open(
            self.store.clone(),
            self.directory(),
            self.config.clone(),
            self.limits.clone(),
        )
        .await
        .expect("artefacts")
    }

    async fn ensure(&self, artefacts: &Artefacts) -> Result<(Artefact, bool), Error> {
        artefacts.ensure_k3s(&version(), "x86_64", &self.told).await
    }

    fn told(&self) -> Vec<String> {
        self.told.0.lock().expect("told").clone()
    }

    /// Names of the files that are kept, without those on their way.
    fn kept(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.directory()).expect("directory");
        entries
            .map(|entry| {
                entry
                    .expect("entry")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .filter(|name| name != "partial")
            .collect()
    }

    fn partials(&self) -> usize {
        std::fs::read_dir(self.directory().join("partial"))
            .expect("directory")
            .count()
    }
}

fn version() -> K3sVersion {
    "v1.34.8+k3s1".parse().expect("version")
}
