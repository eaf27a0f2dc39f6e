//! Downloading the files of a release, from a server or from a directory. The file is on disk when this ends; whether
//! it is the right one is judged by the caller.

use std::path::Path;

use super::client::Clients;
use super::fetch::Fetch;
use super::file::{self, Writer, Written};
use super::partial::Partial;
use super::source::Location;
use super::{Error, Limits, Tell};

const COPY: usize = 1024 * 1024;

/// Downloads with these bounds, telling of it.
pub(super) struct Download<'a> {
    pub(super) clients: &'a Clients,
    pub(super) limits: &'a Limits,
    pub(super) tell: &'a dyn Tell,
}

impl Download<'_> {
    /// Fetches a small text; a file that is not there is empty.
    pub(super) async fn text(&self, from: &Location) -> Result<String, Error> {
        match from {
            Location::Path(path) => {
                let read = |path: &Path| canasta_durable::read_optional(path);
                let bytes = file::blocking(path, read).await?.unwrap_or_default();
                Ok(String::from_utf8_lossy(&bytes).into_owned())
            }
            Location::Url(url) => self.fetch(url).await?.text().await,
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
                let written = self.fetch(url).await?.file(partial).await?;
                Ok((written, resumed))
            }
        }
    }

    async fn fetch<'a>(&'a self, url: &'a str) -> Result<Fetch<'a>, Error> {
        let client = self.clients.for_url(url).await?;
        Ok(Fetch::new(url, client, self.limits, self.tell))
    }

    async fn copy(&self, from: &Path, partial: &Partial) -> Result<Written, Error> {
        let Some(look) = file::blocking(from, file::look).await? else {
            return Err(Error::NoFile {
                path: from.to_owned(),
            });
        };
        let (size, shown) = (look.size, from.display().to_string());
        if size > self.limits.most {
            return Err(Error::TooLarge {
                url: shown,
                size: Some(size),
                most: self.limits.most,
            });
        }
        if let Some(directory) = partial.path.parent() {
            file::check_space(directory, size, self.limits.reserve)?;
        }
        let mut chunks = file::read_chunks(from, 0, COPY);
        let mut writer = Writer::open(&partial.path, 0);
        let mut done = 0;
        while let Some(chunk) = chunks.recv().await {
            let chunk = chunk?;
            done += chunk.len() as u64;
            writer.write(chunk).await?;
            self.tell.bytes(done, size, &shown).await;
        }
        writer.finish().await
    }
}
