//! Why an artefact could not be had, stored or given to a host.

use std::path::PathBuf;
use std::time::Duration;

use canasta_steps::StepError;

use super::LEAST_RATE;
use crate::config::Pins;
use crate::store;

/// Why an artefact could not be had, stored or given to a host.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No release is made for this architecture.
    #[error("no release of {name} is known for the architecture '{arch}'")]
    Architecture {
        /// What it is: `k3s`.
        name: String,
        /// The architecture as the node says.
        arch: String,
    },
    /// The source has no TLS and no checksum is pinned.
    #[error("{url} can't be trusted: it is not https, and no checksum is pinned for {version}")]
    PinRequired {
        /// What would be fetched.
        url: String,
        /// The version that has no pin.
        version: String,
        /// The architecture that has none.
        arch: String,
    },
    /// The setting is neither a URL nor an absolute path.
    #[error("the release source '{template}' is neither a http or https URL nor an absolute path")]
    Template {
        /// The setting.
        template: String,
    },
    /// The server does not have it.
    #[error("{url} does not exist (the server says {status})")]
    Missing {
        /// What was asked for.
        url: String,
        /// 404, 403, 410.
        status: u16,
    },
    /// The directory of releases does not have it.
    #[error("{} does not exist on the controller", path.display())]
    NoFile {
        /// The file.
        path: PathBuf,
    },
    /// The file of CA certificates can't be used.
    #[error("failed to fetch {url}: the CA certificates in {} can't be used", path.display())]
    CaFile {
        /// What was to be fetched.
        url: String,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The machine knows no authority that could vouch for a server.
    #[error(
        "failed to fetch {url}: this machine has no CA certificates, so no server can be trusted"
    )]
    NobodyTrusted {
        /// What was to be fetched.
        url: String,
        /// What the client says.
        #[source]
        source: reqwest::Error,
    },
    /// The server's certificate is not to be trusted.
    #[error("failed to fetch {url}: the server's certificate is not to be trusted")]
    Untrusted {
        /// What was asked for.
        url: String,
        /// What the client says.
        #[source]
        source: reqwest::Error,
    },
    /// The server answered with something else than the file.
    #[error("{url} could not be fetched: the server says {status}")]
    Status {
        /// What was asked for.
        url: String,
        /// The status.
        status: u16,
    },
    /// The server could not be reached, or the connection broke.
    #[error("failed to fetch {url}")]
    Fetch {
        /// What was asked for.
        url: String,
        /// What the client says.
        #[source]
        source: reqwest::Error,
    },
    /// Nothing came for too long.
    #[error("failed to fetch {url}: nothing came for {} s", limit.as_secs_f64())]
    Stalled {
        /// What was asked for.
        url: String,
        /// How long was waited.
        limit: Duration,
    },
    /// Less came than is worth waiting for.
    #[error("failed to fetch {url}: less than {} KiB a second came over {:.0} s", LEAST_RATE / 1024, over.as_secs_f64())]
    Slow {
        /// What was asked for.
        url: String,
        /// How long that was so.
        over: Duration,
    },
    /// All tries together took too long.
    #[error("failed to fetch {url}: it was not done after {} s", limit.as_secs_f64())]
    TimeUp {
        /// What was asked for.
        url: String,
        /// The limit.
        limit: Duration,
    },
    /// It is larger than any release.
    #[error("{url} is too large: {}, and at most {most} are taken", size.map_or_else(|| "it has no end".to_owned(), |size| format!("it has {size} bytes")))]
    TooLarge {
        /// What was asked for.
        url: String,
        /// Its size, where that was told.
        size: Option<u64>,
        /// The limit in bytes.
        most: u64,
    },
    /// The answer ended too early.
    #[error("failed to fetch {url}: it ended after {got} of {expected} bytes")]
    Truncated {
        /// What was asked for.
        url: String,
        /// Bytes that came.
        got: u64,
        /// Bytes that were announced.
        expected: u64,
    },
    /// The checksum file has no line for the file, or is none.
    #[error("{url} names no SHA-256 of {asset}")]
    NoChecksum {
        /// The checksum file.
        url: String,
        /// The file that it should name.
        asset: String,
    },
    /// The file is not the one that was published or pinned.
    #[error(
        "{url} is damaged or not what it should be: its SHA-256 is {actual}, and {told_by} tells {expected}"
    )]
    Checksum {
        /// What was fetched.
        url: String,
        /// What it should be.
        expected: String,
        /// Who says so: the checksum file, or the settings.
        told_by: String,
        /// What it is.
        actual: String,
    },
    /// There is not enough room.
    #[error("failed to write {}: {needed} bytes are needed and {free} are free", path.display())]
    NoSpace {
        /// Where.
        path: PathBuf,
        /// Bytes that are needed.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] canasta_durable::Error),
    /// What is imported does not fit its header.
    #[error("the import was refused: {0}")]
    Import(String),
    /// Another file is stored under this name and version.
    #[error("{name} {version} for {arch} is stored already, with other content (SHA-256 {stored})")]
    Differs {
        /// What it is: `k3s`.
        name: String,
        /// Its version.
        version: String,
        /// Its architecture.
        arch: String,
        /// What is stored.
        stored: String,
    },
    /// There is no package of the agent for such a machine.
    #[error("no .{format} package of the agent for the architecture '{arch}' is kept")]
    NoPackage {
        /// `deb`, `rpm`.
        format: &'static str,
        /// `amd64`.
        arch: String,
    },
    /// The caller of an import went away.
    #[error("the import ended before all of the file was there")]
    ImportCut,
    /// The database could not be read or written.
    #[error("failed to use the controller's database")]
    Store(#[source] store::Error),
    /// A task of this program was stopped or broke.
    #[error("failed to work on {}: the controller is stopping or has a bug", path.display())]
    Task {
        /// The file that was worked on.
        path: PathBuf,
    },
}

impl Error {
    /// What a client says about a URL.
    pub(super) fn fetch(url: &str, source: reqwest::Error) -> Self {
        let url = url.to_owned();
        // The message names the URL already.
        let source = source.without_url();
        if is_distrust(&source) {
            Self::Untrusted { url, source }
        } else {
            Self::Fetch { url, source }
        }
    }

    /// Whether the same may work a moment later.
    pub(super) fn passes(&self) -> bool {
        match self {
            Self::Fetch { source, .. } => !source.is_builder() && !source.is_redirect(),
            Self::Status { status, .. } => *status >= 500 || *status == 408 || *status == 429,
            Self::Stalled { .. } | Self::Slow { .. } | Self::Truncated { .. } => true,
            _ => false,
        }
    }

    /// The stable reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Architecture { .. } => "ARTEFACT_ARCHITECTURE",
            Self::PinRequired { .. } => "ARTEFACT_PIN_REQUIRED",
            Self::Template { .. } => "ARTEFACT_SOURCE_INVALID",
            Self::Missing { .. } | Self::NoFile { .. } => "ARTEFACT_NOT_FOUND",
            Self::CaFile { .. } => "ARTEFACT_CA_FILE",
            Self::NobodyTrusted { .. } => "ARTEFACT_NOBODY_TRUSTED",
            Self::Untrusted { .. } => "ARTEFACT_SOURCE_UNTRUSTED",
            Self::Status { .. } | Self::Fetch { .. } => "ARTEFACT_DOWNLOAD_FAILED",
            Self::Stalled { .. } | Self::Slow { .. } | Self::TimeUp { .. } => {
                "ARTEFACT_DOWNLOAD_STALLED"
            }
            Self::TooLarge { .. } => "ARTEFACT_TOO_LARGE",
            Self::Truncated { .. } => "ARTEFACT_TRUNCATED",
            Self::NoChecksum { .. } => "ARTEFACT_CHECKSUM_MISSING",
            Self::Checksum { .. } => "ARTEFACT_CHECKSUM_MISMATCH",
            Self::NoSpace { .. } | Self::File(canasta_durable::Error::DiskFull { .. }) => {
                "DISK_FULL"
            }
            Self::File(canasta_durable::Error::ReadOnly { .. }) => "DISK_READ_ONLY",
            Self::File(_) => "FILE_FAILED",
            Self::Import(_) | Self::ImportCut => "ARTEFACT_IMPORT_INVALID",
            Self::Differs { .. } => "ARTEFACT_DIFFERS",
            Self::NoPackage { .. } => "AGENT_PACKAGE_MISSING",
            Self::Store(_) => "DATABASE_FAILED",
            Self::Task { .. } => "INTERNAL",
        }
    }

    /// What to do next.
    pub fn hint(&self) -> String {
        match self {
            Self::Architecture { .. } => {
                "k3s is released for amd64, arm64, arm and s390x".to_owned()
            }
            Self::PinRequired { version, arch, .. } => format!(
                "add below [k3s] in /etc/canasta/controller.toml, with the release's SHA-256: {}, and restart \
                 canasta-controller; or use an https:// source; or bring the file: canasta artefact import k3s FILE \
                 --version {version}",
                Pins::line(version, arch, "…")
            ),
            Self::Template { .. } => {
                "set [k3s] release_url in /etc/canasta/controller.toml to a template like \
                 https://mirror.example.org/{version}/{asset} or /srv/k3s/{version}/{asset}"
                    .to_owned()
            }
            Self::Missing { .. } => {
                "check that this version is released, and [k3s] release_url in /etc/canasta/controller.toml".to_owned()
            }
            Self::NoFile { .. } => {
                "put the release and its checksum file there, or check [k3s] release_url in \
                 /etc/canasta/controller.toml"
                    .to_owned()
            }
            Self::CaFile { path, .. } => format!(
                "check [k3s] ca_file in /etc/canasta/controller.toml: {} must hold certificates in PEM form and be \
                 readable for the user canasta-controller; then run the command again",
                path.display()
            ),
            Self::NobodyTrusted { .. } => {
                "install the package ca-certificates on the controller, or set [k3s] ca_file in \
                 /etc/canasta/controller.toml to the CA of your mirror; without a way to the source: \
                 canasta artefact import k3s FILE --version V"
                    .to_owned()
            }
            Self::Untrusted { .. } => {
                "if the server's certificate comes from a CA of your own, set [k3s] ca_file in \
                 /etc/canasta/controller.toml to that CA and restart canasta-controller; else check [k3s] release_url \
                 and the controller's clock"
                    .to_owned()
            }
            Self::Status { .. }
            | Self::Fetch { .. }
            | Self::Stalled { .. }
            | Self::Slow { .. }
            | Self::TimeUp { .. }
            | Self::Truncated { .. } => {
                "run the command again: the download goes on where it stopped; without a way to the source: \
                 canasta artefact import k3s FILE --version V"
                    .to_owned()
            }
            Self::TooLarge { .. } => {
                "this is no release of k3s; check [k3s] release_url in /etc/canasta/controller.toml".to_owned()
            }
            Self::NoChecksum { .. } => {
                "put the release's checksum file beside it, or pin the release with [k3s] sha256 in \
                 /etc/canasta/controller.toml"
                    .to_owned()
            }
            Self::Checksum { .. } => {
                "nothing was kept; check the source and [k3s] sha256 in /etc/canasta/controller.toml, then run the \
                 command again"
                    .to_owned()
            }
            Self::NoSpace { path, .. } | Self::File(canasta_durable::Error::DiskFull { path, .. }) => {
                format!("make room on the disk of {} on the controller, then run the command again", path.display())
            }
            Self::File(canasta_durable::Error::ReadOnly { path, .. }) => format!(
                "mount the file system of {} on the controller writable (see `dmesg` for why it is not), then run the \
                 command again",
                path.display()
            ),
            Self::File(error) => format!(
                "check {} on the controller: the user canasta-controller must be able to read and write there",
                error.path().display()
            ),
            Self::Import(_) => "check the file and the --version that was given".to_owned(),
            Self::ImportCut => "run the import again".to_owned(),
            Self::Differs { version, .. } => format!(
                "a version stands for one file; compare the file with the published SHA-256 of {version}"
            ),
            Self::NoPackage { .. } => "give it to the controller: canasta artefact import agent FILE; or name the file: --package FILE".to_owned(),
            Self::Store(_) => "look at the controller's log and the space on its disk".to_owned(),
            Self::Task { .. } => "run the command again".to_owned(),
        }
    }
}

impl From<&Error> for StepError {
    fn from(error: &Error) -> Self {
        Self::from_source(error.reason(), error).hint(error.hint())
    }
}

impl From<Error> for StepError {
    fn from(error: Error) -> Self {
        Self::from(&error)
    }
}

/// Whether the other end's certificate was refused. The layers of the client wrap that in I/O errors, whose content is
/// not among their sources.
fn is_distrust(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(rustls::Error::InvalidCertificate(_)) = error.downcast_ref() {
            return true;
        }
        let inside = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref);
        next = match inside {
            Some(inside) => Some(inside),
            None => error.source(),
        };
    }
    false
}
