//! Downloading one release file: resumed after a cut, tried again where that may help, given up with an error that names
//! the URL. The file is on disk when this ends; whether it is the right one is judged by the caller.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_RANGE, ETAG, HeaderMap, IF_RANGE, LAST_MODIFIED, RANGE};
use reqwest::{Client, Response, StatusCode};
use serde::{Deserialize, Serialize};

use super::file::{self, Writer, Written};
use super::source::Location;
use super::{Error, Tell, Timings};
use crate::operations::stamp;

/// How often the same is tried.
const TRIES: u32 = 5;
/// The longest pause before another try.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A checksum file has a few lines.
const MOST_TEXT: usize = 64 * 1024;
/// How long a part of a download is kept for a later run.
const KEPT: i64 = 24 * 60 * 60 * 1000;
const COPY: usize = 1024 * 1024;

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
    async fn kept(&self, url: &str) -> Result<Option<(u64, String)>, Error> {
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

    async fn remember(&self, url: &str, headers: &HeaderMap) -> Result<(), Error> {
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

/// Downloads with these bounds, telling of it.
pub(super) struct Download<'a> {
    pub(super) client: &'a Client,
    pub(super) timings: &'a Timings,
    pub(super) tell: &'a dyn Tell,
}

impl Download<'_> {
    /// Fetches a small text.
    pub(super) async fn text(&self, from: &Location) -> Result<String, Error> {
        match from {
            Location::Path(path) => {
                let read = |path: &Path| canasta_durable::read_optional(path);
                let bytes = file::blocking(path, read).await?.unwrap_or_default();
                Ok(String::from_utf8_lossy(&bytes).into_owned())
            }
            Location::Url(url) => self.repeated(|| self.text_once(url)).await,
        }
    }

    /// Fetches a file into `partial`, going on from what is there. Tells whether it went on from an earlier run's part.
    pub(super) async fn file(
        &self,
        from: &Location,
        partial: &Partial,
    ) -> Result<(Written, bool), Error> {
        match from {
            Location::Path(path) => Ok((self.copy(path, partial).await?, false)),
            Location::Url(url) => {
                let resumed = partial.kept(url).await?.is_some();
                let written = self.repeated(|| self.file_once(url, partial)).await?;
                Ok((written, resumed))
            }
        }
    }

    async fn repeated<T, F: Future<Output = Result<T, Error>>>(
        &self,
        work: impl Fn() -> F,
    ) -> Result<T, Error> {
        let mut pause = self.timings.first_pause;
        for _ in 1..TRIES {
            match work().await {
                Err(error) if error.passes() => {
                    self.tell.retrying((&error).into(), pause).await;
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                result => return result,
            }
        }
        work().await
    }

    async fn text_once(&self, url: &str) -> Result<String, Error> {
        let mut response = check(url, self.send(url, self.client.get(url)).await?)?;
        let mut text = Vec::new();
        while let Some(chunk) = self.chunk(url, &mut response).await? {
            text.extend_from_slice(&chunk);
            if text.len() > MOST_TEXT {
                text.truncate(MOST_TEXT);
                break;
            }
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    async fn file_once(&self, url: &str, partial: &Partial) -> Result<Written, Error> {
        let mut request = self.client.get(url);
        let kept = partial.kept(url).await?;
        if let Some((size, validator)) = &kept {
            request = request
                .header(RANGE, format!("bytes={size}-"))
                .header(IF_RANGE, validator);
        }
        let mut response = self.send(url, request).await?;
        let mut keep = 0;
        if let Some((size, _)) = kept {
            match response.status() {
                StatusCode::PARTIAL_CONTENT if range_start(&response) == Some(size) => keep = size,
                // The part does not fit what is there now, so it is fetched anew.
                StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                    partial.discard().await?;
                    response = self.send(url, self.client.get(url)).await?;
                }
                _ => {}
            }
        }
        let mut response = check(url, response)?;
        let total = response.content_length().map(|rest| keep + rest);
        if let Some(directory) = partial.path.parent() {
            file::check_space(directory, total.unwrap_or(0) - keep)?;
        }
        if keep == 0 {
            partial.remember(url, response.headers()).await?;
        }
        let mut writer = Writer::open(&partial.path, keep);
        let mut done = keep;
        let broken = loop {
            match self.chunk(url, &mut response).await {
                Ok(Some(chunk)) => {
                    done += chunk.len() as u64;
                    writer.write(chunk).await?;
                    self.tell.bytes(done, total.unwrap_or(0), url).await;
                }
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        // What came is kept on disk for the next try.
        let written = writer.finish().await?;
        match (broken, total) {
            (Some(Error::Fetch { .. }) | None, Some(expected)) if written.size != expected => {
                Err(Error::Truncated {
                    url: url.to_owned(),
                    got: written.size,
                    expected,
                })
            }
            (Some(error), _) => Err(error),
            (None, _) => Ok(written),
        }
    }

    async fn copy(&self, from: &Path, partial: &Partial) -> Result<Written, Error> {
        let size = match file::blocking(from, file::look).await? {
            Some(look) => look.size,
            None => {
                return Err(Error::Missing {
                    url: from.display().to_string(),
                    status: 404,
                });
            }
        };
        if let Some(directory) = partial.path.parent() {
            file::check_space(directory, size)?;
        }
        let mut chunks = file::read_chunks(from, 0, COPY);
        let mut writer = Writer::open(&partial.path, 0);
        let mut done = 0;
        while let Some(chunk) = chunks.recv().await {
            let chunk = chunk?;
            done += chunk.len() as u64;
            writer.write(chunk).await?;
            self.tell
                .bytes(done, size, &from.display().to_string())
                .await;
        }
        writer.finish().await
    }

    async fn send(&self, url: &str, request: reqwest::RequestBuilder) -> Result<Response, Error> {
        match tokio::time::timeout(self.timings.stall, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(source)) => Err(fetch_error(url, source)),
            Err(_) => Err(self.stalled(url)),
        }
    }

    async fn chunk(&self, url: &str, response: &mut Response) -> Result<Option<Bytes>, Error> {
        match tokio::time::timeout(self.timings.stall, response.chunk()).await {
            Ok(Ok(chunk)) => Ok(chunk),
            Ok(Err(source)) => Err(fetch_error(url, source)),
            Err(_) => Err(self.stalled(url)),
        }
    }

    fn stalled(&self, url: &str) -> Error {
        Error::Stalled {
            url: url.to_owned(),
            limit: self.timings.stall,
        }
    }
}

fn fetch_error(url: &str, source: reqwest::Error) -> Error {
    Error::Fetch {
        url: url.to_owned(),
        // The message names the URL already.
        source: source.without_url(),
    }
}

fn check(url: &str, response: Response) -> Result<Response, Error> {
    let (url, status) = (url.to_owned(), response.status().as_u16());
    match response.status() {
        good if good.is_success() => Ok(response),
        StatusCode::NOT_FOUND | StatusCode::FORBIDDEN | StatusCode::GONE => {
            Err(Error::Missing { url, status })
        }
        _ => Err(Error::Status { url, status }),
    }
}

/// Where a partial answer begins: `bytes 100-199/200`.
fn range_start(response: &Response) -> Option<u64> {
    let range = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    range
        .strip_prefix("bytes ")?
        .split('-')
        .next()?
        .parse()
        .ok()
}
