//! k3s of a simulated node: a start of its unit runs the stand-in's server or agent in this process below the node's
//! directory, a stop ends it, and what it logs goes into the node's journal. What the node's `k3s token` does is done here too.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use canasta_host::Sockets as _;
use canasta_host::fake::{
    Exit, FakeHost, FakeJournal, FakeSockets, FakeSystemd, Offer, Printed, Run, Running,
};
use canasta_standin::log::Log;
use canasta_standin::server::{Server, StartError};
use canasta_standin::trailer::{Faults, Profile, Trailer};
use canasta_standin::{agent, bootstrap, server};
use tokio::sync::{OwnedMutexGuard, oneshot};

use super::place;

/// The unit of a control plane.
pub const UNIT: &str = "k3s.service";
/// The unit of a worker.
pub const AGENT_UNIT: &str = "k3s-agent.service";
/// Where the installed program lies.
pub const BINARY: &str = "/usr/local/bin/k3s";
/// The administrator's kubeconfig on a control plane.
pub const KUBECONFIG: &str = "/etc/rancher/k3s/k3s.yaml";

/// The port of a control plane's API.
const API: u16 = 6443;
/// The port of a worker's kubelet that tells its health.
const KUBELET: u16 = 10248;
/// How k3s ends when it doesn't know a command.
const UNKNOWN_COMMAND: i32 = 3;

/// How the next start behaves.
#[derive(Debug, Clone)]
struct Behaviour {
    faults: Faults,
    scale: f64,
    starts: u32,
    /// Where it is not that of the program.
    profile: Option<Profile>,
}

/// k3s on a node as a test sets it. All clones are the same.
#[derive(Debug, Clone)]
pub struct K3s {
    behaviour: Arc<Mutex<Behaviour>>,
    /// Held by what runs: the next one begins when it has saved its state.
    alone: Arc<tokio::sync::Mutex<()>>,
}

impl K3s {
    /// Makes the units and the program do their work on this host.
    pub fn set_up(host: &FakeHost) -> Self {
        let k3s = Self {
            behaviour: Arc::new(Mutex::new(Behaviour {
                faults: Faults::default(),
                scale: 0.005,
                starts: 0,
                profile: None,
            })),
            alone: Arc::default(),
        };
        for unit in [UNIT, AGENT_UNIT] {
            let (own, systemd, journal) = (k3s.clone(), host.systemd.clone(), host.journal.clone());
            let (sockets, root) = (host.sockets.clone(), host.directory().to_owned());
            host.systemd.on_start(unit, move |run| {
                let service = Service {
                    k3s: own.clone(),
                    systemd: systemd.clone(),
                    journal: journal.clone(),
                    sockets: sockets.clone(),
                    root: root.clone(),
                    run,
                };
                service.start()
            });
        }
        k3s.do_tokens(host);
        k3s
    }

    /// Has `k3s token …` be done as the profile knows it.
    fn do_tokens(&self, host: &FakeHost) {
        let (own, program) = (self.clone(), host.root.path(BINARY));
        let (file, kubeconfig) = (program.clone(), host.root.path(KUBECONFIG));
        host.processes.on_run(program, move |arguments| {
            let (own, file, kubeconfig) = (own.clone(), file.clone(), kubeconfig.clone());
            async move {
                let (command, rest) = arguments.split_first()?;
                if command != "token" {
                    return None;
                }
                let profile = own.profile(&Trailer::read(&file).ok()?);
                if profile == Profile::Recorded {
                    return Some(Printed {
                        stderr: "No help topic for 'token'\n".to_owned(),
                        status: UNKNOWN_COMMAND,
                        ..Printed::default()
                    });
                }
                let output = bootstrap::command::run(&kubeconfig, rest).await;
                Some(Printed {
                    stdout: output.stdout,
                    stderr: output.stderr,
                    status: output.code.into(),
                })
            }
        });
    }

    /// What goes wrong from the next start on.
    pub fn set_faults(&self, faults: Faults) {
        self.lock().faults = faults;
    }

    /// How many seconds a recorded second takes, from the next start on.
    pub fn set_scale(&self, scale: f64) {
        self.lock().scale = scale;
    }

    /// Behaves like another k3s than the one that its program is, from the next start on.
    pub fn set_profile(&self, profile: Profile) {
        self.lock().profile = Some(profile);
    }

    /// How often it was started.
    pub fn starts(&self) -> u32 {
        self.lock().starts
    }

    fn profile(&self, trailer: &Trailer) -> Profile {
        self.lock().profile.unwrap_or(trailer.profile)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Behaviour> {
        self.behaviour
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// One run of a unit.
struct Service {
    k3s: K3s,
    systemd: Arc<FakeSystemd>,
    journal: Arc<FakeJournal>,
    sockets: Arc<FakeSockets>,
    root: PathBuf,
    run: Run,
}

/// How a run is told that it says READY.
struct Readiness {
    notify: Arc<dyn Fn() + Send + Sync>,
    told: oneshot::Receiver<()>,
}

impl Readiness {
    fn new() -> Self {
        let (ready, told) = oneshot::channel();
        let ready = Mutex::new(Some(ready));
        let notify = Arc::new(move || {
            let ready = ready.lock().unwrap_or_else(PoisonError::into_inner).take();
            // The unit may have been stopped meanwhile.
            ready.map(|ready| ready.send(()));
        });
        Self { notify, told }
    }
}

impl Service {
    async fn start(self) -> Result<Running, Exit> {
        let behaviour = {
            let mut behaviour = self.k3s.lock();
            behaviour.starts += 1;
            behaviour.clone()
        };
        let alone = self.k3s.alone.clone().lock_owned().await;
        let program = self.root.join(BINARY.trim_start_matches('/'));
        let trailer = Trailer::read(&program).map_err(|error| self.fatal(&error.to_string()))?;
        match self.run.unit.as_str() {
            AGENT_UNIT => self.start_agent(behaviour, trailer, alone).await,
            _ => self.start_server(behaviour, trailer, alone).await,
        }
    }

    async fn start_server(
        self,
        behaviour: Behaviour,
        trailer: Trailer,
        alone: OwnedMutexGuard<()>,
    ) -> Result<Running, Exit> {
        let readiness = Readiness::new();
        let mut options = server::Options::new(&self.root);
        options.listen = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
        options.profile = behaviour.profile.unwrap_or(trailer.profile);
        options.version = trailer.version;
        options.scale = behaviour.scale;
        options.faults = behaviour.faults;
        options.log = self.log();
        options.on_ready_notify = readiness.notify;
        let mut server = match Server::start(options).await {
            Ok(server) => server,
            Err(StartError::Exit(exit)) => return Err(self.ended(&exit)),
            Err(error) => return Err(self.fatal(&error.to_string())),
        };
        let offer = self.sockets.offer(API, server.local_addr());
        tokio::select! {
            Ok(()) = readiness.told => {}
            exit = server.exited() => return Err(self.ended(&exit)),
        }
        let (held, dropped) = oneshot::channel::<()>();
        tokio::spawn(self.serve(server, dropped, (alone, offer)));
        Ok(Box::new(held))
    }

    /// Serves until the unit is stopped or the server ends by itself.
    async fn serve(
        self,
        mut server: server::Running,
        stopped: oneshot::Receiver<()>,
        _until_then: (OwnedMutexGuard<()>, Offer),
    ) {
        tokio::select! {
            _dropped = stopped => server.shutdown().await,
            exit = server.exited() => {
                let Exit(status) = self.ended(&exit);
                self.systemd.exit(UNIT, status);
            }
        }
    }

    async fn start_agent(
        self,
        behaviour: Behaviour,
        trailer: Trailer,
        alone: OwnedMutexGuard<()>,
    ) -> Result<Running, Exit> {
        let readiness = Readiness::new();
        let health = place::free();
        let sockets = self.sockets.clone();
        let mut options = agent::Options::new(&self.root);
        options.dial = Arc::new(move |server| {
            let sockets = sockets.clone();
            Box::pin(async move {
                let server = server.parse().map_err(std::io::Error::other)?;
                sockets.connect(server).await
            })
        });
        options.kubelet_health = Some(health);
        options.profile = behaviour.profile.unwrap_or(trailer.profile);
        options.version = trailer.version;
        options.scale = behaviour.scale;
        options.faults = behaviour.faults;
        options.log = self.log();
        options.on_ready_notify = readiness.notify;
        let started = agent::Agent::start(options).await;
        let agent = started.map_err(|error| self.fatal(&error.to_string()))?;
        let offer = self.sockets.offer(KUBELET, health);
        // Nobody else ends it, and one that can't join tries for ever.
        let _ready = readiness.told.await;
        Ok(Box::new((agent, alone, offer)))
    }

    /// Into the journal of the node, as lines of this run.
    fn log(&self) -> Log {
        let (journal, invocation) = (self.journal.clone(), self.run.invocation_id.clone());
        let unit = self.run.unit.clone();
        Log::lines(move |line| journal.log_in_run(&unit, &invocation, line))
    }

    fn ended(&self, exit: &server::Exit) -> Exit {
        self.log().fatal(&exit.message);
        Exit(exit.code.into())
    }

    fn fatal(&self, message: &str) -> Exit {
        self.log().fatal(message);
        Exit(1)
    }
}
