//! The testbed's release server: `/{version}/{asset}` over plain HTTP or TLS, as the pages that k3s is downloaded from.
//! It serves a real file for its one version, or the stand-in for any version, and misbehaves on demand. An apt repository
//! can be served beside, below `/apt/`.

use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::trailer::{Faults, Profile};

mod blob;
mod cut;
mod serve;
mod tls;

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
    /// The checksum file has a line for another file only.
    NoChecksum,
    /// 302 to the same path below this URL.
    Redirect {
        /// Scheme, host and port.
        to: String,
    },
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
pub enum ReleaseError {
    /// The address can't be had.
    #[error("failed to listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The certificate could not be made or used.
    #[error("failed to set up TLS: {0}")]
    Tls(String),
}

pub(crate) struct State {
    source: Source,
    controls: bool,
    fault: Mutex<Option<Fault>>,
    requests: Mutex<Vec<Request>>,
    repository: Mutex<Option<PathBuf>>,
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

    /// Where the file of this path lies that belongs to the apt repository, if one is served and the path leads into it.
    fn packaged(&self, path: &str) -> Option<PathBuf> {
        let inside = Path::new(path.strip_prefix("apt/")?);
        let downwards = |part| matches!(part, Component::Normal(_));
        let repository = self.repository.lock();
        let repository = repository.unwrap_or_else(PoisonError::into_inner);
        let file = repository.as_ref()?.join(inside);
        (inside.components().all(downwards) && file.is_file()).then_some(file)
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
    authority: Option<String>,
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
        Self::listen(address, source, controls, None).await
    }

    /// The same over TLS; [`Self::authority`] vouches for it.
    pub async fn start_tls(
        address: SocketAddr,
        source: Source,
        controls: bool,
    ) -> Result<Self, ReleaseError> {
        let tls = tls::acceptor(address.ip())?;
        Self::listen(address, source, controls, Some(tls)).await
    }

    async fn listen(
        address: SocketAddr,
        source: Source,
        controls: bool,
        tls: Option<(TlsAcceptor, String)>,
    ) -> Result<Self, ReleaseError> {
        let failed = |source| ReleaseError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let state = Arc::new(State {
            source,
            controls,
            fault: Mutex::new(None),
            requests: Mutex::new(Vec::new()),
            repository: Mutex::new(None),
            hashes: blob::Hashes::default(),
        });
        let (acceptor, authority) = tls.unzip();
        let task = tokio::spawn(run(listener, acceptor, Arc::clone(&state)));
        Ok(Self {
            address,
            authority,
            state,
            task,
        })
    }

    /// The address that it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The certificate of the authority that a client has to know, PEM; only over TLS.
    pub fn authority(&self) -> Option<&str> {
        self.authority.as_deref()
    }

    /// Scheme, host and port: `http://…`.
    pub fn base(&self) -> String {
        let scheme = self.authority.as_ref().map_or("http", |_| "https");
        format!("{scheme}://{}", self.address)
    }

    /// The template for a release source: `http://…/{version}/{asset}`.
    pub fn url_template(&self) -> String {
        format!("{}/{{version}}/{{asset}}", self.base())
    }

    /// Misbehaves from now on; `None` ends that.
    pub fn set_fault(&self, fault: Option<Fault>) {
        self.state.set_fault(fault);
    }

    /// Serves an apt repository below `/apt/`: what lies in this directory whenever it is asked for.
    pub fn serve_repository(&self, directory: PathBuf) {
        let mut repository = self
            .state
            .repository
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *repository = Some(directory);
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

async fn run(listener: TcpListener, acceptor: Option<TlsAcceptor>, state: Arc<State>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                let (state, acceptor) = (Arc::clone(&state), acceptor.clone());
                connections.spawn(async move {
                    match acceptor {
                        None => serve(stream, state).await,
                        Some(acceptor) => if let Ok(stream) = acceptor.accept(stream).await {
                            serve(stream, state).await;
                        }
                    }
                });
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, state: Arc<State>) {
    let scissors = cut::Scissors::default();
    let stream = cut::Breakable::new(stream, scissors.clone());
    let service =
        service_fn(move |request| serve::respond(Arc::clone(&state), scissors.clone(), request));
    // A connection that breaks is the client's business, or the fault that was asked for.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}
