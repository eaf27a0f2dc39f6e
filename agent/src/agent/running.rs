//! A handle on an agent that runs in this process: for tests of the whole fleet.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;

use super::{AgentError, AgentOptions, Core, State};
use crate::paths::Paths;

/// An agent that runs on the current runtime. Dropping the handle ends it as a crash, a moment later.
#[derive(Debug)]
pub struct RunningAgent {
    core: Arc<Core>,
    state: watch::Receiver<State>,
    join_socket: PathBuf,
}

impl RunningAgent {
    pub(super) async fn start(options: AgentOptions) -> Result<Self, AgentError> {
        let (sender, state) = watch::channel(State::Starting);
        let join_socket = Paths::below(&options.host.root).join_socket;
        let core = Core::open(options, sender).await?;
        Ok(Self {
            core,
            state,
            join_socket,
        })
    }

    /// Where it listens; `None` before it has joined.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.core.listening()
    }

    /// What it is doing, and when that changes.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// The socket that takes joins; see [`crate::join::client`].
    pub fn join_socket(&self) -> &Path {
        &self.join_socket
    }

    /// Ends it as systemd would: nothing new is begun, open work gets its time to end.
    pub async fn shutdown(self) {
        self.core.shut_down().await;
    }

    /// Ends it as a crash would: its work is dropped where it stands and all connections break. What had been written
    /// is all that is left. Resolves when nothing of it runs any more.
    pub async fn abort(self) {
        self.core.crash().await;
    }
}

impl Drop for RunningAgent {
    fn drop(&mut self) {
        self.core.let_go();
    }
}
