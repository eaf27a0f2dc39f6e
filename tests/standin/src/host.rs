//! The kernel side of a node: flannel's link, the firewall's chains, pods with their namespaces, mounts and processes.
//! Only the program asks for it, with an option of its own; stopping leaves all of it behind, as the real one does, and
//! a new start finds it again.
#![expect(
    clippy::disallowed_types,
    reason = "a test program, which works on its node with the node's own tools"
)]

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use thiserror::Error;

use crate::files::{FileError, Paths};
use crate::log::Log;
use records::Records;

mod firewall;
mod flannel;
mod network;
pub(crate) mod peers;
mod records;
mod sandbox;
pub mod shim;

/// Work on the node that failed.
#[derive(Debug, Error)]
pub enum HostError {
    /// A tool of the node did not start.
    #[error("failed to run {program}")]
    Start {
        /// The tool.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A tool of the node refused.
    #[error("{command}: {message}")]
    Refused {
        /// The tool and its arguments.
        command: String,
        /// What it said.
        message: String,
    },
    /// A file could not be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A directory, mount or namespace could not be made.
    #[error("failed to {action} {path}")]
    Path {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl HostError {
    fn path<E: Into<io::Error>>(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(E) -> Self {
        let path = path.into();
        move |source| Self::Path {
            action,
            path,
            source: source.into(),
        }
    }
}

/// The node that the program runs on.
#[derive(Debug)]
pub(crate) struct Host {
    paths: Paths,
    log: Log,
    /// The node's address, and the link that flannel is told to use.
    address: String,
    link: Option<String>,
    records: Mutex<Records>,
    // Open for as long as this run lasts; its file stays.
    socket: Mutex<Option<std::os::unix::net::UnixListener>>,
}

impl Host {
    /// The node as an earlier run left it.
    pub(crate) fn open(
        paths: &Paths,
        log: &Log,
        address: &str,
        link: Option<&str>,
    ) -> Result<Arc<Self>, HostError> {
        let host = Self {
            paths: paths.clone(),
            log: log.clone(),
            address: address.to_owned(),
            link: link.map(str::to_owned),
            records: Mutex::new(Records::read(paths)),
            socket: Mutex::new(None),
        };
        host.skeleton()?;
        Ok(Arc::new(host))
    }

    fn records(&self) -> std::sync::MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // A failure that leaves the rest worth doing.
    fn note<T>(&self, outcome: Result<T, HostError>) -> Option<T> {
        match outcome {
            Ok(value) => Some(value),
            Err(error) => {
                let source = std::error::Error::source(&error)
                    .map(|source| format!(": {source}"))
                    .unwrap_or_default();
                self.log.error(format!("{error}{source}"));
                None
            }
        }
    }
}

/// Runs a tool of the node and answers what it prints.
fn run<S: AsRef<str>>(program: &str, arguments: &[S]) -> Result<String, HostError> {
    feed(program, arguments, "")
}

/// Runs a tool of the node with a text on stdin.
fn feed<S: AsRef<str>>(program: &str, arguments: &[S], input: &str) -> Result<String, HostError> {
    let words: Vec<&str> = arguments.iter().map(AsRef::as_ref).collect();
    let start = |source| HostError::Start {
        program: program.to_owned(),
        source,
    };
    let mut child = Command::new(program)
        .args(&words)
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(start)?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read its input says why below.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(start)?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(HostError::Refused {
            command: format!("{program} {}", words.join(" ")),
            message: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }
}

/// Runs a tool that prints JSON; nothing printed is null.
fn ask<S: AsRef<str>>(program: &str, arguments: &[S]) -> Result<Value, HostError> {
    run(program, arguments).map(|text| serde_json::from_str(&text).unwrap_or_default())
}
