//! Fetching one URL: tried again where that may help, gone on with where it stopped, and bounded in size, rate and time.
//! Used by the download.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_RANGE, IF_RANGE, RANGE};
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use tokio::time::Instant;

use super::file::{self, Writer, Written};
use super::partial::Partial;
use super::{Error, LEAST_RATE, Limits, Tell};

/// How often the same is tried without getting any further.
const TRIES: u32 = 5;
/// The longest pause before another try.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A checksum file has a few lines.
const MOST_TEXT: usize = 64 * 1024;

/// One URL that is fetched.
pub(super) struct Fetch<'a> {
    url: &'a str,
    client: Client,
    limits: &'a Limits,
    tell: &'a dyn Tell,
    /// When all tries together have to be done.
    deadline: Instant,
    /// The most bytes that any try has come to.
    reached: AtomicU64,
}

impl<'a> Fetch<'a> {
    pub(super) fn new(
        url: &'a str,
        client: Client,
        limits: &'a Limits,
        tell: &'a dyn Tell,
    ) -> Self {
        Self {
            url,
            client,
            limits,
            tell,
            deadline: Instant::now() + limits.total,
            reached: AtomicU64::new(0),
        }
    }

    /// Fetches a small text.
    pub(super) async fn text(&self) -> Result<String, Error> {
        self.repeated(|| self.text_once()).await
    }

    /// Fetches a file into `partial`, going on from what is there.
    pub(super) async fn file(&self, partial: &Partial) -> Result<Written, Error> {
        self.repeated(|| self.file_once(partial)).await
    }

    /// Tries until it works, or fails for good, or gets no further. A try that came further than those before counts as
    /// a first one; one that trickled does not.
    async fn repeated<T, F: Future<Output = Result<T, Error>>>(
        &self,
        work: impl Fn() -> F,
    ) -> Result<T, Error> {
        let (mut pause, mut failed, mut furthest) = (self.limits.first_pause, 0, 0);
        loop {
            let error = match work().await {
                Err(error) if error.passes() => error,
                result => return result,
            };
            let reached = self.reached.load(Ordering::Relaxed);
            if reached > furthest && !matches!(error, Error::Slow { .. }) {
                (pause, failed) = (self.limits.first_pause, 0);
            }
            furthest = reached;
            failed += 1;
            if failed == TRIES || Instant::now() + pause >= self.deadline {
                return Err(error);
            }
            self.tell.retrying((&error).into(), pause).await;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn text_once(&self) -> Result<String, Error> {
        let mut body = self.body(self.good(self.send(self.client.get(self.url)).await?)?);
        let mut text = Vec::new();
        while let Some(chunk) = body.chunk().await? {
            text.extend_from_slice(&chunk);
            if text.len() > MOST_TEXT {
                text.truncate(MOST_TEXT);
                break;
            }
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    async fn file_once(&self, partial: &Partial) -> Result<Written, Error> {
        let (response, keep) = self.open(partial).await?;
        let total = response
            .content_length()
            .map(|rest| keep.saturating_add(rest));
        if let Some(size) = total.filter(|size| *size > self.limits.most) {
            partial.discard().await?;
            return Err(self.too_large(Some(size)));
        }
        if let Some(directory) = partial.path.parent() {
            let rest = total.unwrap_or(keep) - keep;
            file::check_space(directory, rest, self.limits.reserve)?;
        }
        if keep == 0 {
            partial.remember(self.url, response.headers()).await?;
        }
        let (written, ended) = self.write(response, partial, keep, total).await?;
        match (ended, total) {
            (Err(error @ Error::TooLarge { .. }), _) => {
                partial.discard().await?;
                Err(error)
            }
            (Ok(()) | Err(Error::Fetch { .. }), Some(expected)) if written.size != expected => {
                Err(Error::Truncated {
                    url: self.url.to_owned(),
                    got: written.size,
                    expected,
                })
            }
            (Err(error), _) => Err(error),
            (Ok(()), _) => Ok(written),
        }
    }

    /// Asks for a file, or for what is missing of it. Tells how many bytes of what is there stay.
    async fn open(&self, partial: &Partial) -> Result<(Response, u64), Error> {
        let whole = || self.send(self.client.get(self.url));
        let Some((size, validator)) = partial.kept(self.url).await? else {
            return Ok((self.good(whole().await?)?, 0));
        };
        let rest = self
            .client
            .get(self.url)
            .header(RANGE, format!("bytes={size}-"))
            .header(IF_RANGE, validator);
        let response = self.send(rest).await?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT if range_start(&response) == Some(size) => {
                Ok((response, size))
            }
            // The part does not fit what is there now, so it is fetched anew.
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                partial.discard().await?;
                Ok((self.good(whole().await?)?, 0))
            }
            _ => Ok((self.good(response)?, 0)),
        }
    }

    /// Writes a body behind the first `keep` bytes of a part. What came is on disk for the next try, however it ended.
    async fn write(
        &self,
        response: Response,
        partial: &Partial,
        keep: u64,
        total: Option<u64>,
    ) -> Result<(Written, Result<(), Error>), Error> {
        let mut writer = Writer::open(&partial.path, keep);
        let mut body = self.body(response);
        let mut done = keep;
        let ended = loop {
            match body.chunk().await {
                Ok(Some(chunk)) => {
                    done += chunk.len() as u64;
                    if done > self.limits.most {
                        break Err(self.too_large(None));
                    }
                    writer.write(chunk).await?;
                    self.reached.fetch_max(done, Ordering::Relaxed);
                    self.tell.bytes(done, total.unwrap_or(0), self.url).await;
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        Ok((writer.finish().await?, ended))
    }

    fn body(&self, response: Response) -> Body<'_> {
        Body {
            fetch: self,
            response,
            since: Instant::now(),
            came: 0,
        }
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, Error> {
        self.within(request.send()).await
    }

    /// Waits for something to come, but not for ever.
    async fn within<T>(
        &self,
        coming: impl Future<Output = reqwest::Result<T>>,
    ) -> Result<T, Error> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let url = || self.url.to_owned();
        match tokio::time::timeout(self.limits.stall.min(left), coming).await {
            Ok(came) => came.map_err(|source| Error::fetch(self.url, source)),
            Err(_) if left < self.limits.stall => Err(Error::TimeUp {
                url: url(),
                limit: self.limits.total,
            }),
            Err(_) => Err(Error::Stalled {
                url: url(),
                limit: self.limits.stall,
            }),
        }
    }

    fn good(&self, response: Response) -> Result<Response, Error> {
        let (url, status) = (self.url.to_owned(), response.status().as_u16());
        match response.status() {
            good if good.is_success() => Ok(response),
            StatusCode::NOT_FOUND | StatusCode::FORBIDDEN | StatusCode::GONE => {
                Err(Error::Missing { url, status })
            }
            _ => Err(Error::Status { url, status }),
        }
    }

    fn too_large(&self, size: Option<u64>) -> Error {
        Error::TooLarge {
            url: self.url.to_owned(),
            size,
            most: self.limits.most,
        }
    }
}

/// What follows the head of an answer.
struct Body<'a> {
    fetch: &'a Fetch<'a>,
    response: Response,
    /// Since when the rate is measured.
    since: Instant,
    /// Bytes that came since then.
    came: u64,
}

impl Body<'_> {
    async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        let chunk = self.fetch.within(self.response.chunk()).await?;
        let Some(chunk) = chunk else {
            return Ok(None);
        };
        self.came += chunk.len() as u64;
        let elapsed = self.since.elapsed();
        if elapsed >= self.fetch.limits.slow {
            if u128::from(self.came) * 1000 < u128::from(LEAST_RATE) * elapsed.as_millis() {
                return Err(Error::Slow {
                    url: self.fetch.url.to_owned(),
                    over: elapsed,
                });
            }
            (self.since, self.came) = (Instant::now(), 0);
        }
        Ok(Some(chunk))
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
