//! What this node has of NFS servers, and the choice between them.

use canasta_host::Host;
use canasta_host::machine::Protocol;
use canasta_steps::StepError;

use super::Backend;
use crate::k3s::Error;
use crate::storage::packages;
use crate::storage::record::Record;

/// The one port of NFS 4.
const PORT: u16 = 2049;
/// What listens on ports that version 4 doesn't need.
const PORTMAPPER: &str = "rpcbind.service";

/// A server on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::storage) struct State {
    /// Which.
    pub(in crate::storage) backend: Backend,
    /// Why it can't work here; `None` where it can.
    pub(in crate::storage) unavailable: Option<String>,
    /// Whether its packages are there.
    pub(in crate::storage) installed: bool,
    /// Whether its unit is up, or on its way there.
    pub(in crate::storage) running: bool,
}

/// What this node has of servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::storage) struct Found {
    /// Both servers.
    pub(in crate::storage) states: [State; 2],
    /// What listens on the port and is neither: its name and number.
    pub(in crate::storage) port_taken_by: Option<String>,
}

impl Found {
    /// Looks at this node.
    pub(in crate::storage) async fn look(host: &Host) -> Result<Self, StepError> {
        let states = [
            look(host, Backend::Kernel).await?,
            look(host, Backend::Ganesha).await?,
        ];
        let serves = states.iter().any(|state| state.running);
        let listeners = host.machine.listeners().await.map_err(|error| {
            StepError::from_source("LISTENERS_UNKNOWN", &error)
                .hint("look at `ss -ltn` on the node, then run the command again")
        })?;
        let holder = listeners
            .iter()
            .find(|one| one.protocol == Protocol::Tcp && one.port == PORT);
        let port_taken_by =
            holder
                .filter(|_| !serves)
                .map(|holder| match (&holder.process, holder.pid) {
                    (Some(name), Some(pid)) => format!("{name} (process {pid})"),
                    _ => {
                        "something that shows no process, as a server of the kernel does".to_owned()
                    }
                });
        Ok(Self {
            states,
            port_taken_by,
        })
    }

    /// One of the servers.
    pub(in crate::storage) fn of(&self, backend: Backend) -> &State {
        &self.states[usize::from(backend == Backend::Ganesha)]
    }

    /// The server that a task takes which leaves the choice open: the one that serves for us, else the one that runs, else the first
    /// that can work here.
    pub(in crate::storage) fn choice(&self, record: &Record) -> Option<Backend> {
        let first = |fits: fn(&State) -> bool| {
            self.states
                .iter()
                .find(|state| fits(state))
                .map(|state| state.backend)
        };
        record
            .serving()
            .or_else(|| first(|state| state.running))
            .or_else(|| first(|state| state.unavailable.is_none()))
    }

    /// The server for a task.
    ///
    /// # Errors
    /// Where it can't work here, another one serves, or the port is somebody else's.
    pub(in crate::storage) fn decide(
        &self,
        asked: Option<Backend>,
        record: &Record,
    ) -> Result<Backend, StepError> {
        let Some(backend) = asked.or_else(|| self.choice(record)) else {
            return Err(self.none());
        };
        let other = self
            .states
            .iter()
            .find(|state| state.backend != backend && state.running);
        let ours = record.serving().filter(|ours| *ours != backend);
        if let Some(other) = other.map(|state| state.backend).or(ours) {
            return Err(StepError::new(
                "NFS_SERVER_CONFLICT",
                format!("{} serves on this node, so {} can't: both use TCP {PORT}", other.in_words(), backend.in_words()),
            )
            .subject(other.unit())
            .hint("leave the choice of the server open with --backend auto, or remove what the other one exports first"));
        }
        if let Some(why) = &self.of(backend).unavailable {
            return Err(StepError::new(
                "NFS_SERVER_UNAVAILABLE",
                format!("{} can't be used on this node: {why}", backend.in_words()),
            )
            .subject(backend.unit())
            .hint("leave the choice of the server open with --backend auto, or export from another host"));
        }
        if let Some(holder) = &self.port_taken_by {
            return Err(StepError::new(
                "NFS_PORT_TAKEN",
                format!("TCP {PORT} is taken on this node by {holder}"),
            )
            .subject(PORT.to_string())
            .hint("stop what listens there, or export from another host"));
        }
        Ok(backend)
    }

    fn none(&self) -> StepError {
        let error = StepError::new(
            "NFS_SERVER_UNAVAILABLE",
            "no NFS server can be used on this node",
        );
        let reasons = self.states.iter().filter_map(|state| {
            Some(format!(
                "{}: {}",
                state.backend.in_words(),
                state.unavailable.as_ref()?
            ))
        });
        reasons
            .fold(error, StepError::cause)
            .hint("export from another host, or name a server that exists with --server")
    }
}

/// What else changes on this node when the server starts, or is open on it, a sentence each.
pub(in crate::storage) async fn notes(
    host: &Host,
    state: &State,
) -> Result<Vec<String>, StepError> {
    let mut notes = Vec::new();
    let server = state.backend.in_words();
    if state.running {
        notes.push(format!(
            "{server} runs on this node already and serves this share, too"
        ));
    } else {
        notes.push(format!(
            "{server} is started, listens on TCP {PORT} and comes up at boot"
        ));
    }
    let portmapper = host.systemd.unit(PORTMAPPER).await.map_err(Error::from)?;
    if portmapper.is_active() {
        notes.push(format!(
            "rpcbind runs on this node and listens on port 111: NFS 4 does not need it, and it is left as it is (`systemctl disable --now {PORTMAPPER} rpcbind.socket` if nobody else does)"
        ));
    }
    Ok(notes)
}

async fn look(host: &Host, backend: Backend) -> Result<State, StepError> {
    let server = backend.server();
    let installed = server.is_installed(host).await?;
    let unit = host
        .systemd
        .unit(backend.unit())
        .await
        .map_err(Error::from)?;
    let running = matches!(
        unit.active_state.as_str(),
        "active" | "activating" | "reloading"
    );
    let unavailable = if running {
        None
    } else {
        match server.hindrance(host).await? {
            None if !installed => uninstallable(host).await?,
            other => other,
        }
    };
    Ok(State {
        backend,
        unavailable,
        installed,
        running,
    })
}

/// Why nothing can be installed here.
async fn uninstallable(host: &Host) -> Result<Option<String>, StepError> {
    let facts = host.machine.facts().await.map_err(|error| {
        StepError::from_source("FACTS_UNKNOWN", &error).hint("run the command again")
    })?;
    let known = packages::family(&facts.os).is_some();
    Ok((!known).then(|| packages::unknown(&facts.os)))
}
