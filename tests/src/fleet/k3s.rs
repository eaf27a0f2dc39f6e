//! `k3s.service` of a simulated node: a start runs the stand-in's server in this process below the node's directory, a stop
//! ends it, and what it logs goes into the node's journal.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use canasta_host::fake::{Exit, FakeHost, FakeJournal, FakeSystemd, Run, Running};
use canasta_standin::log::Log;
use canasta_standin::server::{Options, Server, StartError};
use canasta_standin::trailer::{Faults, Trailer};
use tokio::sync::{OwnedMutexGuard, oneshot};

/// The unit.
pub const UNIT: &str = "k3s.service";
/// Where the installed program lies.
pub const BINARY: &str = "/usr/local/bin/k3s";

/// How the next start behaves.
#[derive(Debug, Clone)]
struct Behaviour {
    faults: Faults,
    scale: f64,
    starts: u32,
}

/// k3s on a node as a test sets it. All clones are the same.
#[derive(Debug, Clone)]
pub struct K3s {
    behaviour: Arc<Mutex<Behaviour>>,
    /// Held by the server that runs: the next one begins when it has saved its state.
    alone: Arc<tokio::sync::Mutex<()>>,
}

impl K3s {
    /// Makes the unit do its work on this host.
    pub fn set_up(host: &FakeHost) -> Self {
        let k3s = Self {
            behaviour: Arc::new(Mutex::new(Behaviour {
                faults: Faults::default(),
                scale: 0.005,
                starts: 0,
            })),
            alone: Arc::default(),
        };
        let (own, systemd, journal) = (k3s.clone(), host.systemd.clone(), host.journal.clone());
        let root = host.directory().to_owned();
        host.systemd.on_start(UNIT, move |run| {
            let service = Service {
                k3s: own.clone(),
                systemd: systemd.clone(),
                journal: journal.clone(),
                root: root.clone(),
                run,
            };
            service.start()
        });
        k3s
    }

    /// What goes wrong from the next start on.
    pub fn set_faults(&self, faults: Faults) {
        self.lock().faults = faults;
    }

    /// How many seconds a recorded second takes, from the next start on.
    pub fn set_scale(&self, scale: f64) {
        self.lock().scale = scale;
    }

    /// How often it was started.
    pub fn starts(&self) -> u32 {
        self.lock().starts
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Behaviour> {
        self.behaviour
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// One run of the unit.
struct Service {
    k3s: K3s,
    systemd: Arc<FakeSystemd>,
    journal: Arc<FakeJournal>,
    root: PathBuf,
    run: Run,
}

impl Service {
    async fn start(self) -> Result<Running, Exit> {
        let behaviour = {
            let mut behaviour = self.k3s.lock();
            behaviour.starts += 1;
            behaviour.clone()
        };
        let log = self.log();
        let alone = self.k3s.alone.clone().lock_owned().await;
        let program = self.root.join(BINARY.trim_start_matches('/'));
        let trailer = Trailer::read(&program).map_err(|error| self.fatal(&error.to_string()))?;
        let (ready, told) = oneshot::channel();
        let ready = Mutex::new(Some(ready));
        let mut options = Options::new(&self.root);
        options.listen = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
        options.version = trailer.version;
        options.profile = trailer.profile;
        options.scale = behaviour.scale;
        options.faults = behaviour.faults;
        options.log = log;
        options.on_ready_notify = Arc::new(move || {
            let ready = ready.lock().unwrap_or_else(PoisonError::into_inner).take();
            // The unit may have been stopped meanwhile.
            ready.map(|ready| ready.send(()));
        });
        let mut server = match Server::start(options).await {
            Ok(server) => server,
            Err(StartError::Exit(exit)) => return Err(self.ended(&exit)),
            Err(error) => return Err(self.fatal(&error.to_string())),
        };
        tokio::select! {
            Ok(()) = told => {}
            exit = server.exited() => return Err(self.ended(&exit)),
        }
        let (held, dropped) = oneshot::channel::<()>();
        tokio::spawn(self.serve(server, dropped, alone));
        Ok(Box::new(held))
    }

    /// Serves until the unit is stopped or the server ends by itself.
    async fn serve(
        self,
        mut server: canasta_standin::server::Running,
        stopped: oneshot::Receiver<()>,
        _alone: OwnedMutexGuard<()>,
    ) {
        tokio::select! {
            _dropped = stopped => server.shutdown().await,
            exit = server.exited() => {
                let Exit(status) = self.ended(&exit);
                self.systemd.exit(UNIT, status);
            }
        }
    }

    /// Into the journal of the node, as lines of this run.
    fn log(&self) -> Log {
        let (journal, invocation) = (self.journal.clone(), self.run.invocation_id.clone());
        Log::lines(move |line| journal.log_in_run(UNIT, &invocation, line))
    }

    fn ended(&self, exit: &canasta_standin::server::Exit) -> Exit {
        self.log().fatal(&exit.message);
        Exit(exit.code.into())
    }

    fn fatal(&self, message: &str) -> Exit {
        self.log().fatal(message);
        Exit(1)
    }
}
