//! A part of a download on disk, which a later try or a later run goes on with. Used by the download.

use std::path::{Path, PathBuf};

use reqwest::header::{ETAG, HeaderMap, LAST_MODIFIED};
use serde::{Deserialize, Serialize};

use super::Error;
use super::file;
use crate::operations::stamp;

/// How long a part of a download is kept for a later run.
const KEPT: i64 = 24 * 60 * 60 * 1000;

/// What is remembered beside a part of a download.
#[derive(Debug, Serialize, Deserialize)]
struct Sidecar {
    url: String,
    /// A strong ETag, or the date of the last change: what `If-Range` takes.
    validator: String,
    begun_at: i64,
}

/// A download that may go on later.
#[derive(Debug)]
pub(super) struct Partial {
    pub(super) path: PathBuf,
}

impl Partial {
    fn sidecar(&self) -> PathBuf {
        self.path.with_added_extension("json")
    }

    /// How many bytes of this URL are there, with what they are compared by; nothing when it can't go on.
    pub(super) async fn kept(&self, url: &str) -> Result<Option<(u64, String)>, Error> {
        let (url, sidecar) = (url.to_owned(), self.sidecar());
        file::blocking(&self.path, move |path| {
            let size = file::look(path)?.map_or(0, |look| look.size);
            let text = canasta_durable::read_optional(&sidecar)?.unwrap_or_default();
            let sidecar: Option<Sidecar> = serde_json::from_slice(&text).ok();
            Ok(sidecar
                .filter(|sidecar| size > 0 && sidecar.url == url)
                .map(|sidecar| (size, sidecar.validator)))
        })
        .await
    }

    /// Writes down what a later try compares a part by.
    pub(super) async fn remember(&self, url: &str, headers: &HeaderMap) -> Result<(), Error> {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let strong = text(ETAG).filter(|tag| !tag.starts_with("W/"));
        let sidecar = strong
            .or_else(|| text(LAST_MODIFIED))
            .map(|validator| Sidecar {
                url: url.to_owned(),
                validator: validator.to_owned(),
                begun_at: stamp::now_millis(),
            });
        file::blocking(&self.sidecar(), move |path| match sidecar {
            Some(sidecar) => {
                let text = serde_json::to_vec(&sidecar).expect("a sidecar is JSON");
                canasta_durable::write(path, &text, 0o600).map(drop)
            }
            None => canasta_durable::remove(path).map(drop),
        })
        .await
    }

    /// Forgets what is there.
    pub(super) async fn discard(&self) -> Result<(), Error> {
        let sidecar = self.sidecar();
        file::blocking(&self.path, move |path| {
            canasta_durable::remove(path)?;
            canasta_durable::remove(&sidecar).map(drop)
        })
        .await
    }

    /// Gives the finished file its final name.
    pub(super) async fn publish(&self, to: &Path) -> Result<(), Error> {
        let (to, sidecar) = (to.to_owned(), self.sidecar());
        file::blocking(&self.path, move |path| {
            file::publish(path, &to)?;
            canasta_durable::remove(&sidecar).map(drop)
        })
        .await
    }
}

/// Removes what earlier runs left in the directory of partial downloads, but what can still go on.
pub(super) fn sweep(directory: &Path) -> Result<(), canasta_durable::Error> {
    let failed = |source| canasta_durable::Error::new("list", directory, source);
    canasta_durable::sweep(directory)?;
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let is_sidecar = path
            .extension()
            .is_some_and(|extension| extension == "json");
        let (part, sidecar) = if is_sidecar {
            (path.with_extension(""), path)
        } else {
            (path.clone(), path.with_added_extension("json"))
        };
        let text = canasta_durable::read_optional(&sidecar)?.unwrap_or_default();
        let fresh = serde_json::from_slice(&text)
            .is_ok_and(|kept: Sidecar| stamp::now_millis() - kept.begun_at < KEPT);
        if !fresh || !part.exists() {
            canasta_durable::remove(&part)?;
            canasta_durable::remove(&sidecar)?;
        }
    }
    Ok(())
}
