//! A lab as a whole: bringing nodes up, breaking and mending them, and taking all of it away.
//! Called by this crate's program and by the tests on machines.

mod error;
mod programs;
mod repository;
mod status;
mod up;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use crate::cgroup::Group;
use crate::cut::{self, Cut};
use crate::network;
use crate::node::{Machine, NodeError};
use crate::place::{DEFAULT_DIRECTORY, DEFAULT_LAB, Layout, valid_name};
use crate::program::{ProgramError, run};
use crate::release;
use crate::settings::Settings;
use crate::state::{self, State};

pub use self::error::LabError;
use self::error::at;
pub use self::status::{NodeStatus, Status};
pub use self::up::UpOptions;

/// How long an orderly stop may take; a kubelet's pods are slow to go.
const POWEROFF_LIMIT: Duration = Duration::from_mins(3);

/// The name that stands for the machine itself, on the lab's bridge.
const MACHINE: &str = "lab";

/// One lab. Several processes may hold the same one: each call reads the record anew, and calls
/// that change something take turns.
pub struct Lab {
    layout: Layout,
    say: Box<dyn Fn(&str) + Send + Sync>,
}

impl std::fmt::Debug for Lab {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Lab").field(&self.layout).finish()
    }
}

impl Lab {
    /// The lab `name` in `$CANASTA_LAB_DIR` or [`DEFAULT_DIRECTORY`]; it need not exist yet.
    pub fn open(name: &str) -> Result<Self, LabError> {
        let root = std::env::var_os("CANASTA_LAB_DIR");
        Self::open_in(
            Path::new(root.as_deref().unwrap_or(DEFAULT_DIRECTORY.as_ref())),
            name,
        )
    }

    /// The lab that `$CANASTA_LAB` names, or [`DEFAULT_LAB`].
    pub fn from_environment() -> Result<Self, LabError> {
        let name = std::env::var("CANASTA_LAB").unwrap_or_else(|_| DEFAULT_LAB.to_owned());
        Self::open(&name)
    }

    /// The lab `name` below the directory `root`.
    pub fn open_in(root: &Path, name: &str) -> Result<Self, LabError> {
        if !valid_name(name) {
            return Err(LabError::Name {
                what: "lab",
                name: name.to_owned(),
            });
        }
        let text = root.to_string_lossy();
        if !root.is_absolute() || text.contains(|char| " \t\n,:\\".contains(char)) {
            return Err(LabError::Directory {
                path: root.to_owned(),
            });
        }
        // Links are resolved because the kernel tells mounts by their real path.
        let root = root.canonicalize().unwrap_or_else(|_| root.to_owned());
        Ok(Self {
            layout: Layout::new(&root, name),
            say: Box::new(|_| {}),
        })
    }

    /// The same lab, telling `say` what it is doing.
    pub fn with_progress(mut self, say: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.say = Box::new(say);
        self
    }

    /// The lab's name.
    pub fn name(&self) -> &str {
        self.layout.name()
    }

    /// The path of the lab's network namespace.
    pub fn netns(&self) -> PathBuf {
        self.layout.netns()
    }

    /// The machine's own address in the lab's network.
    pub fn gateway(&self) -> Ipv4Addr {
        self.layout.gateway()
    }

    /// The root directory of a node as this machine sees it, while the node is mounted, running or not.
    pub fn root(&self, node: &str) -> PathBuf {
        Machine::new(&self.layout, node).root()
    }

    /// Where a program in the lab gets k3s in this version from, while releases are served.
    pub fn release_url(&self, version: &str) -> String {
        release::url(&self.layout, version)
    }

    fn lock(&self) -> Result<File, LabError> {
        if !nix::unistd::geteuid().is_root() {
            return Err(LabError::NotRoot);
        }
        let locks = self.layout.locks();
        fs::create_dir_all(&locks).map_err(at(&locks))?;
        // The default lies where anybody can make a directory of that name first.
        let root = self.layout.root();
        let found = fs::symlink_metadata(root).map_err(at(root))?;
        if found.uid() != 0 || found.mode() & 0o022 != 0 {
            return Err(LabError::NotOwn {
                path: root.to_owned(),
            });
        }
        let path = locks.join(format!("{}.lock", self.name()));
        let file = File::create(&path).map_err(at(&path))?;
        if file.try_lock().is_err() {
            (self.say)("waiting for another call that works on this lab");
            file.lock().map_err(at(&path))?;
        }
        Ok(file)
    }

    fn load(&self) -> Result<State, LabError> {
        Ok(State::load(&self.layout.state())?)
    }

    fn save(&self, state: &State) -> Result<(), LabError> {
        Ok(state.save(&self.layout.state())?)
    }

    fn node<'a>(&self, state: &'a State, node: &str) -> Result<&'a state::Node, LabError> {
        state.nodes.get(node).ok_or_else(|| LabError::UnknownNode {
            lab: self.name().to_owned(),
            node: node.to_owned(),
            nodes: state.nodes.keys().cloned().collect(),
        })
    }

    fn network_error(&self) -> impl FnOnce(ProgramError) -> LabError {
        let lab = self.name().to_owned();
        move |source| LabError::Network { lab, source }
    }

    /// Drops traffic between two nodes until [`Lab::mend`]; cuts add up. An end called `lab` is
    /// the machine itself.
    pub fn cut(&self, cut: Cut) -> Result<(), LabError> {
        let _lock = self.lock()?;
        let mut state = self.load()?;
        for end in [&cut.from, &cut.to] {
            if end != MACHINE {
                self.node(&state, end)?;
            }
        }
        if let Some(fault) = cut.fault() {
            return Err(LabError::Cut {
                from: cut.from,
                to: cut.to,
                fault,
            });
        }
        if !state.cuts.contains(&cut) {
            state.cuts.push(cut);
        }
        self.apply_cuts(&state)?;
        self.save(&state)
    }

    /// Takes all cuts back.
    pub fn mend(&self) -> Result<(), LabError> {
        let _lock = self.lock()?;
        let mut state = self.load()?;
        state.cuts.clear();
        if self.netns().exists() {
            self.apply_cuts(&state)?;
        }
        self.save(&state)
    }

    fn apply_cuts(&self, state: &State) -> Result<(), LabError> {
        let mut addresses: BTreeMap<_, _> = state
            .nodes
            .iter()
            .map(|(name, node)| (name.clone(), node.address))
            .collect();
        addresses.insert(MACHINE.to_owned(), self.gateway());
        let rules = cut::render(&state.cuts, &addresses);
        run(
            &network::place(&self.layout),
            &["nft", "-f", "-"],
            rules.as_bytes(),
        )
        .map(drop)
        .map_err(self.network_error())
    }

    /// Boots nodes that were stopped or killed, and whatever else of the lab the machine's own
    /// reboot took away. Nodes that run are left alone.
    pub fn start(&self, names: &[&str]) -> Result<(), LabError> {
        let _lock = self.lock()?;
        let mut state = self.load()?;
        for name in names {
            self.node(&state, name)?;
        }
        self.start_nodes(&mut state, names)?;
        self.apply_cuts(&state)?;
        match state.release_server.clone() {
            Some(server) if !server.process.alive() => self.serve(&mut state, server.argv),
            _ => Ok(()),
        }
    }

    /// Ends a node as a power cut does: every process at once, without a word to any of them.
    pub fn kill(&self, node: &str) -> Result<(), LabError> {
        let _lock = self.lock()?;
        let state = self.load()?;
        let record = self.node(&state, node)?;
        Ok(Machine::new(&self.layout, node).kill(record.nspawn)?)
    }

    /// Stops a node in order and boots it again.
    pub fn reboot(&self, node: &str) -> Result<(), LabError> {
        let _lock = self.lock()?;
        let mut state = self.load()?;
        let nspawn = self.node(&state, node)?.nspawn;
        let machine = Machine::new(&self.layout, node);
        machine.leader(nspawn)?;
        (self.say)(&format!("stopping {node}"));
        // Its answer may be cut off by the very stop that it asks for.
        let asked = machine.spawn(nspawn, &["systemctl", "poweroff"], |command| {
            command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
        });
        let mut child = asked?;
        let stopped = machine.wait_gone(POWEROFF_LIMIT);
        drop(child.wait());
        if !stopped {
            return Err(NodeError::Stop {
                node: node.to_owned(),
                limit: POWEROFF_LIMIT,
            }
            .into());
        }
        self.start_nodes(&mut state, &[node])
    }

    /// Removes everything of this lab, also what a crashed call left half made. `all` removes
    /// the root file systems that nodes start from, and apt repositories for them, as well.
    pub fn down(&self, all: bool) -> Result<(), LabError> {
        let _lock = self.lock()?;
        // A record that can't be read must not keep anything alive: nodes are found by their files.
        let state = self.load().unwrap_or_default();
        let mut names: Vec<String> = state.nodes.keys().cloned().collect();
        for entry in fs::read_dir(self.layout.nodes())
            .into_iter()
            .flatten()
            .flatten()
        {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        names.dedup();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        for server in release::running(&self.layout) {
            server.kill();
        }
        let results = in_parallel(&names, |name| {
            let machine = Machine::new(&self.layout, name);
            let recorded = state.nodes.get(name).and_then(|node| node.nspawn);
            machine.kill(recorded).and_then(|()| machine.remove())
        });
        for (_, result) in results {
            result?;
        }
        Group::of_lab(self.name())
            .remove()
            .map_err(at(Path::new("/sys/fs/cgroup")))?;
        network::remove(&self.layout).map_err(self.network_error())?;
        Settings::of(&self.layout).restore(self.name())?;
        remove_tree(&self.layout.lab())?;
        if all {
            let labs: Vec<String> = fs::read_dir(self.layout.labs())
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .collect();
            if !labs.is_empty() {
                return Err(LabError::BaseInUse { labs });
            }
            remove_tree(&self.layout.repositories())?;
            remove_tree(&self.layout.bases())?;
        }
        Ok(())
    }
}

fn remove_tree(path: &Path) -> Result<(), LabError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(path)(error)),
        _ => Ok(()),
    }
}

/// Does `work` for each name on a thread of its own and returns the results in order.
fn in_parallel<'a, T: Send, E: Send>(
    names: &[&'a str],
    work: impl Fn(&'a str) -> Result<T, E> + Sync,
) -> Vec<(&'a str, Result<T, E>)> {
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = names
            .iter()
            .map(|name| (*name, scope.spawn(move || work(name))))
            .collect();
        threads
            .into_iter()
            .map(|(name, thread)| match thread.join() {
                Ok(result) => (name, result),
                Err(panic) => std::panic::resume_unwind(panic),
            })
            .collect()
    })
}
