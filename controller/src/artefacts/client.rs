//! The HTTP client of downloads and whom it trusts. It is made for the first download, so that a controller that takes
//! its releases from a directory or from imports starts without any CA certificates. Used by the download.

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::tls::Version;
use reqwest::{Certificate, Client, ClientBuilder, redirect};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::sync::OnceCell;

use super::{Error, file};

const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Where most systems have their CA certificates: named when reading them breaks.
const SYSTEM: &str = "/etc/ssl/certs";

/// Makes the client when it is needed.
#[derive(Debug)]
pub(super) struct Clients {
    ca_file: Option<PathBuf>,
    made: OnceCell<Client>,
}

impl Clients {
    /// `ca_file` holds certificates (PEM) of authorities that are trusted besides those of the system.
    pub(super) fn new(ca_file: Option<PathBuf>) -> Self {
        Self {
            ca_file,
            made: OnceCell::new(),
        }
    }

    /// The client for a URL. One that could not be made is tried again the next time.
    ///
    /// # Errors
    /// When the URL needs TLS and there is nobody to trust.
    pub(super) async fn for_url(&self, url: &str) -> Result<Client, Error> {
        let made = self.made.get_or_try_init(|| self.make(url)).await;
        match made {
            Ok(client) => Ok(client.clone()),
            // A plain connection asks nobody for trust: what comes is judged by its pin.
            Err(_) if !is_https(url) => {
                builder()
                    .tls_certs_only([])
                    .build()
                    .map_err(|source| Error::Fetch {
                        url: url.to_owned(),
                        source,
                    })
            }
            Err(error) => Err(error),
        }
    }

    async fn make(&self, url: &str) -> Result<Client, Error> {
        let own = match &self.ca_file {
            Some(path) => certificates(path, url).await?,
            None => Vec::new(),
        };
        // The certificates of the system are read here.
        let build = move || builder().tls_certs_merge(own).build();
        let built = tokio::task::spawn_blocking(build).await;
        let path = self.ca_file.as_deref();
        built
            .map_err(|_stopped| Error::Task {
                path: path.unwrap_or(Path::new(SYSTEM)).to_owned(),
            })?
            .map_err(|source| match path {
                Some(path) => ca_file_error(path, url, source),
                None => Error::NobodyTrusted {
                    url: url.to_owned(),
                    source,
                },
            })
    }
}

pub(super) fn is_https(url: &str) -> bool {
    let scheme = "https://";
    url.get(..scheme.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(scheme))
}

fn builder() -> ClientBuilder {
    // Refused only when the process has a provider already, and all of them are ring.
    let _already = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .connect_timeout(CONNECT_LIMIT)
        // Within the fleet it is 1.3. A mirror is somebody else's server, perhaps an old one, and what it gives is
        // compared with its checksum.
        .tls_version_min(Version::TLS_1_2)
        .redirect(redirect::Policy::custom(follow))
}

async fn certificates(path: &Path, url: &str) -> Result<Vec<Certificate>, Error> {
    let text = file::blocking(path, canasta_durable::read_optional).await;
    let text = text
        .map_err(|error| ca_file_error(path, url, error))?
        .ok_or_else(|| ca_file_error(path, url, "there is no such file"))?;
    let certificates = CertificateDer::pem_slice_iter(&text)
        .map(|der| {
            Certificate::from_der(&der.map_err(|error| ca_file_error(path, url, error))?)
                .map_err(|error| ca_file_error(path, url, error))
        })
        .collect::<Result<Vec<_>, _>>()?;
    if certificates.is_empty() {
        return Err(ca_file_error(
            path,
            url,
            "it holds no certificate in PEM form",
        ));
    }
    Ok(certificates)
}

fn ca_file_error(
    path: &Path,
    url: &str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Error {
    Error::CaFile {
        url: url.to_owned(),
        path: path.to_owned(),
        source: source.into(),
    }
}

/// Follows redirects as usual, but never from https to something that anyone on the way could change.
fn follow(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let from_https = attempt
        .previous()
        .last()
        .is_some_and(|url| url.scheme() == "https");
    if from_https && attempt.url().scheme() != "https" {
        return attempt.error("a redirect from https to a plain connection was refused");
    }
    if attempt.previous().len() >= 10 {
        return attempt.error("too many redirects");
    }
    attempt.follow()
}
