//! The testbed's release server: `/{version}/{asset}` over plain HTTP, as the pages that k3s is downloaded from. It
//! serves a real file for its one version, or the stand-in for any version, and misbehaves on demand.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::trailer::{Faults, Profile};

mod blob;
mod serve;

/// What is served.
#[derive(Clone, Debug)]
pub enum Source {
    /// This file, as it is, for this version alone.
    Real {
        /// The program.
        file: PathBuf,
        /// Its version, such as `v1.34.8+k3s1`.
        version: String,
    },
    /// The stand-in, which is told by its trailer which version to claim, for every version that is asked for.
    Standin {
        /// The program, without a trailer.
        file: PathBuf,
        /// The behaviour to show.
        profile: Profile,
        /// Misbehaviour of the installed program.
        faults: Faults,
    },
}

/// Misbehaviour of the server. Without `asset` it strikes every request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// What happens.
    #[serde(flatten)]
    pub kind: FaultKind,
    /// Only for this asset, such as `k3s`.
    #[serde(default)]
    pub asset: Option<String>,
}

/// The kinds of misbehaviour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "snake_case")]
pub enum FaultKind {
    /// 404.
    NotFound,
    /// 500, so many times.
    ServerError {
        /// How often.
        times: u32,
    },
    /// No answer, ever.
    Hang,
    /// The connection breaks after so many bytes of the body, so many times.
    TruncateAfter {
        /// Bytes that still arrive.
        bytes: u64,
        /// How often.
        times: u32,
    },
    /// The checksum file tells a wrong hash.
    BadChecksum,
    /// The body trickles.
    Slow {
        /// Bytes in a second.
        bytes_per_second: u64,
    },
}

/// A request that came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Request {
    /// The path as it was sent.
    pub path: String,
    /// The `Range` header, if there was one.
    pub range: Option<String>,
}

/// A release server that did not start.
#[derive(Debug, Error)]
#[error("failed to listen on {address}")]
pub struct ReleaseError {
    address: SocketAddr,
    #[source]
    source: std::io::Error,
}

pub(crate) struct State {
    source: Source,
    controls: bool,
    fault: Mutex<Option<Fault>>,
    requests: Mutex<Vec<Request>>,
    hashes: blob::Hashes,
}

impl State {
    fn set_fault(&self, fault: Option<Fault>) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    /// The fault that strikes a request for `asset`; one that is counted is used up by this.
    fn strike(&self, asset: &str) -> Option<FaultKind> {
        let mut fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        let current = fault.as_mut()?;
        if current.asset.as_deref().is_some_and(|only| only != asset) {
            return None;
        }
        if let FaultKind::ServerError { times } | FaultKind::TruncateAfter { times, .. } =
            &mut current.kind
        {
            if *times == 0 {
                return None;
            }
            *times -= 1;
        }
        Some(current.kind.clone())
    }

    fn requests(&self) -> Vec<Request> {
        self.requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// A running release server. Dropping it stops it.
pub struct ReleaseServer {
    address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

impl std::fmt::Debug for ReleaseServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReleaseServer")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl ReleaseServer {
    /// Listens on `address` (port 0 takes a free one). With `controls`, `/-/fault` and `/-/requests` are served too.
    pub async fn start(
        address: SocketAddr,
        source: Source,
        controls: bool,
    ) -> Result<Self, ReleaseError> {
        let failed = |source| ReleaseError { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let state = Arc::new(State {
            source,
            controls,
            fault: Mutex::new(None),
            requests: Mutex::new(Vec::new()),
            hashes: blob::Hashes::default(),
        });
        let task = tokio::spawn(run(listener, Arc::clone(&state)));
        Ok(Self {
            address,
            state,
            task,
        })
    }

    /// The address that it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The template for a release source: `http://…/{version}/{asset}`.
    pub fn url_template(&self) -> String {
        format!("http://{}/{{version}}/{{asset}}", self.address)
    }

    /// Misbehaves from now on; `None` ends that.
    pub fn set_fault(&self, fault: Option<Fault>) {
        self.state.set_fault(fault);
    }

    /// All requests so far, controls left out.
    pub fn requests(&self) -> Vec<Request> {
        self.state.requests()
    }

    /// Waits for ever: for a program that does nothing else.
    pub async fn wait(mut self) {
        // The loop ends only by being aborted.
        let _ = (&mut self.task).await;
    }
}

impl Drop for ReleaseServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(listener: TcpListener, state: Arc<State>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                let state = Arc::clone(&state);
                connections.spawn(async move {
                    let service = service_fn(move |request| serve::respond(Arc::clone(&state), request));
                    // A connection that breaks is the client's business, or the fault that was asked for.
                    let _ = hyper::server::conn::http1::Builder::new()
                        .timer(TokioTimer::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            },
            Some(_) = connections.join_next() => {}
        }
    }
}
