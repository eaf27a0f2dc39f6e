//! One node: its root file system, its boot under systemd-nspawn, programs in it, its end.
//! Called by [`crate::Lab`], which keeps the record of what runs.
//!
//! `/` of a node is an overlay over the shared base, made in no time; `/var` is a plain directory
//! of the machine's file system, because container runtimes can't put their own overlays on one.

mod boot;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::base;
use crate::cgroup::{self, Group};
use crate::place::Layout;
use crate::process::{Process, locked_within};
use crate::program::{self, PATH, Place, ProgramError, command, run};
use crate::state;

/// How long the kernel and nspawn may take to clear away a node whose first process was killed.
const KILL_LIMIT: Duration = Duration::from_secs(20);

/// Why something can't be done with a node.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A file or directory of the node can't be used.
    #[error("failed to prepare {}", path.display())]
    Files {
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file of the node's root can't be written.
    #[error("failed to set up the root of node {node}")]
    Root {
        /// The node.
        node: String,
        /// Why not.
        #[source]
        source: base::BaseError,
    },
    /// The overlay can't be mounted.
    #[error(
        "failed to mount an overlay at {}: set CANASTA_LAB_DIR to a directory on ext4, xfs or \
         btrfs if this one is on another file system",
        path.display()
    )]
    Overlay {
        /// Where it belongs.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A program of the machine did not do its part.
    #[error("failed to work on node {node}")]
    Program {
        /// The node.
        node: String,
        /// Why not.
        #[source]
        source: ProgramError,
    },
    /// The node ended, or did not get ready in time.
    #[error("failed to boot node {node}: {what}; its console ({}) ends with:\n{tail}", console.display())]
    Boot {
        /// The node.
        node: String,
        /// What happened instead.
        what: String,
        /// Where everything is that it printed.
        console: PathBuf,
        /// The end of that.
        tail: String,
    },
    /// The node does not stop.
    #[error("failed to stop node {node}: it still runs after {} s", limit.as_secs())]
    Stop {
        /// The node.
        node: String,
        /// How long was waited.
        limit: Duration,
    },
    /// The node is not running.
    #[error(
        "failed to enter node {node}: it is not running; start it with `./dev machines start {node}`"
    )]
    NotRunning {
        /// The node.
        node: String,
    },
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> NodeError {
    let path = path.to_owned();
    move |source| NodeError::Files { path, source }
}

/// The files and the machinery of one node.
#[derive(Debug)]
pub(crate) struct Machine<'a> {
    layout: &'a Layout,
    name: &'a str,
}

impl<'a> Machine<'a> {
    /// The node `name` of a lab, whether it exists or not.
    pub(crate) fn new(layout: &'a Layout, name: &'a str) -> Self {
        Self { layout, name }
    }

    fn path(&self, part: &str) -> PathBuf {
        self.layout.node(self.name).join(part)
    }

    /// The node's `/`, as seen from the machine while it is mounted.
    pub(crate) fn root(&self) -> PathBuf {
        self.path("root")
    }

    /// The node's `/var`.
    pub(crate) fn var(&self) -> PathBuf {
        self.path("var")
    }

    /// Everything that the node printed while booting and stopping.
    pub(crate) fn console(&self) -> PathBuf {
        self.path("console.log")
    }

    fn program_error(&self) -> impl Fn(ProgramError) -> NodeError {
        let node = self.name.to_owned();
        move |source| NodeError::Program {
            node: node.clone(),
            source,
        }
    }

    /// Makes what is missing of the node's root file system and mounts it.
    pub(crate) fn prepare(&self, node: &state::Node) -> Result<(), NodeError> {
        for part in ["upper", "work", "root"] {
            fs::create_dir_all(self.path(part)).map_err(at(&self.path(part)))?;
        }
        if !self.var().exists() {
            let partial = self.path("var.partial");
            if partial.exists() {
                fs::remove_dir_all(&partial).map_err(at(&partial))?;
            }
            let from = node.base.join("var");
            let (from, to) = (from.to_string_lossy(), partial.to_string_lossy());
            let argv = [
                "cp",
                "-a",
                "--reflink=auto",
                "--no-target-directory",
                &from,
                &to,
            ];
            run(&Place::default(), &argv, b"").map_err(self.program_error())?;
            fs::rename(&partial, self.var()).map_err(at(&self.var()))?;
        }
        if !mounts_below(&self.root()).contains(&self.root()) {
            self.mount(&node.base)?;
        }
        self.write("etc/hostname", &format!("{}\n", self.name))?;
        let network = format!(
            "[Match]\nName=host0\n\n[Network]\nAddress={}/{}\nGateway={}\n\
             LinkLocalAddressing=no\nIPv6AcceptRA=no\n",
            node.address,
            self.layout.network().prefix_len(),
            self.layout.gateway()
        );
        self.write("etc/systemd/network/10-host0.network", &network)
    }

    /// Writes a file of the node's root, readable for all, whether the node runs or not.
    pub(crate) fn write(&self, path: &str, text: &str) -> Result<(), NodeError> {
        base::write(&self.root().join(path), text, 0o644).map_err(|source| NodeError::Root {
            node: self.name.to_owned(),
            source,
        })
    }

    /// Whether the node's root is mounted, so that [`Machine::write`] reaches the node.
    pub(crate) fn mounted(&self) -> bool {
        mounts_below(&self.root()).contains(&self.root())
    }

    fn mount(&self, lower: &Path) -> Result<(), NodeError> {
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            lower.display(),
            self.path("upper").display(),
            self.path("work").display()
        );
        mount(
            Some("overlay"),
            &self.root(),
            Some("overlay"),
            MsFlags::empty(),
            Some(options.as_str()),
        )
        .map_err(|errno| NodeError::Overlay {
            path: self.root(),
            source: errno.into(),
        })
    }

    /// The node's first process, seen from the machine.
    pub(crate) fn leader(&self, nspawn: Option<Process>) -> Result<Process, NodeError> {
        nspawn
            .filter(|process| process.alive())
            .and_then(|process| {
                process
                    .children()
                    .into_iter()
                    .find(|child| child.is_init_of_namespace())
            })
            .ok_or_else(|| NodeError::NotRunning {
                node: self.name.to_owned(),
            })
    }

    /// Starts a program in all namespaces and cgroups of the node, with an environment of its
    /// own; `prepare` may set its standard streams.
    pub(crate) fn spawn(
        &self,
        nspawn: Option<Process>,
        argv: &[&str],
        prepare: impl FnOnce(&mut Command),
    ) -> Result<Child, NodeError> {
        let (place, mut command, leader) = self.enter(nspawn, argv)?;
        prepare(&mut command);
        let child = place.spawn(&mut command).map_err(self.program_error())?;
        if let Some(procs) = cgroup::unified_procs_of(leader.pid) {
            // Only accounting depends on it; the program may have ended already.
            drop(fs::write(procs, child.id().to_string()));
        }
        Ok(child)
    }

    /// Runs a program in the node to its end.
    pub(crate) fn output(
        &self,
        nspawn: Process,
        argv: &[&str],
        input: &[u8],
    ) -> Result<program::Output, NodeError> {
        let (place, mut command, _) = self.enter(Some(nspawn), argv)?;
        place
            .output(&mut command, input)
            .map_err(self.program_error())
    }

    fn enter(
        &self,
        nspawn: Option<Process>,
        argv: &[&str],
    ) -> Result<(Place, Command, Process), NodeError> {
        let leader = self.leader(nspawn)?;
        let pid = leader.pid.to_string();
        let mut command = command(&["nsenter", "--target", &pid, "--all", "--"]);
        command.args(argv).env_clear().envs([
            ("PATH", PATH),
            ("HOME", "/root"),
            ("USER", "root"),
            ("LOGNAME", "root"),
            ("SHELL", "/bin/sh"),
            ("LANG", "C.UTF-8"),
        ]);
        command.env(
            "TERM",
            std::env::var_os("TERM").unwrap_or_else(|| "dumb".into()),
        );
        let place = Place {
            netns: None,
            tasks: cgroup::tasks_of(leader.pid),
        };
        Ok((place, command, leader))
    }

    /// Ends the node as a power cut does: all of its processes at once, without a word to them.
    /// What they had written stays, because the machine's own page cache is not lost.
    ///
    /// Processes are found by the node's files where `recorded` does not tell.
    pub(crate) fn kill(&self, recorded: Option<Process>) -> Result<(), NodeError> {
        let supervisors = match recorded.filter(|process| process.alive()) {
            Some(process) => vec![process],
            None => self.stray_supervisors(),
        };
        for nspawn in &supervisors {
            // The kernel takes everything in the node with its first process; nspawn then
            // removes the node's link and ends.
            match self.leader(Some(*nspawn)) {
                Ok(leader) => leader.kill(),
                Err(_) => nspawn.kill(),
            }
        }
        if !supervisors.is_empty() && !self.wait_gone(KILL_LIMIT) {
            for nspawn in &supervisors {
                nspawn.kill();
            }
        }
        self.kill_stray_leaders();
        if self.wait_gone(KILL_LIMIT) {
            Ok(())
        } else {
            Err(NodeError::Stop {
                node: self.name.to_owned(),
                limit: 2 * KILL_LIMIT,
            })
        }
    }

    /// Every nspawn that runs this node's directory.
    fn stray_supervisors(&self) -> Vec<Process> {
        let directory = format!("--directory={}", self.root().display());
        Process::all()
            .into_iter()
            .filter(|process| process.arguments().contains(&directory))
            .collect()
    }

    /// First processes of nodes on this node's files whose nspawn is gone.
    fn kill_stray_leaders(&self) {
        let upper = self.path("upper");
        for process in Process::all() {
            if process.is_init_of_namespace() && process.lives_on(&upper) {
                process.kill();
            }
        }
    }

    /// Waits until nspawn has ended, and tells whether it has.
    pub(crate) fn wait_gone(&self, limit: Duration) -> bool {
        File::open(self.console()).map_or(true, |file| locked_within(&file, limit))
    }

    /// Removes everything of a node that is not running.
    pub(crate) fn remove(&self) -> Result<(), NodeError> {
        Group::of_node(self.layout.name(), self.name)
            .remove()
            .map_err(at(Path::new("/sys/fs/cgroup")))?;
        let directory = self.layout.node(self.name);
        for path in mounts_below(&directory).iter().rev() {
            umount2(path, MntFlags::MNT_DETACH).map_err(|errno| at(path)(errno.into()))?;
        }
        match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(&directory)(error)),
            _ => Ok(()),
        }
    }
}

/// Mount points at or below `directory`, outer ones first.
fn mounts_below(directory: &Path) -> Vec<PathBuf> {
    fs::read_to_string("/proc/self/mountinfo")
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .filter(|path| path.starts_with(directory))
        .collect()
}
