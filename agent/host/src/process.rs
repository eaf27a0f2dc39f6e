//! The processes of the machine, the end of one of them, and programs that are run to their end.
//!
//! [`Proc`] reads `/proc`; with the feature `fake`, `fake::FakeProcesses` is a list. Called by the uninstallation, which ends what
//! k3s left running and nothing else: a process is named by its number and by when it was started, so that a number which was
//! given to another program meanwhile is never hit. What runs a program that a test may have to stand in for, runs it here too.

use std::fmt::Debug;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::command;
use crate::files::Root;

#[cfg(test)]
mod tests;

/// Processes couldn't be looked at or ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// The list can't be read.
    #[error("failed to list the processes in {}", path.display())]
    List {
        /// `/proc`.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The kernel doesn't end it.
    #[error("failed to end the process {pid} ({name})")]
    Kill {
        /// Its number.
        pid: u32,
        /// Its name.
        name: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The thread that did the work ended early.
    #[error("failed to finish looking at processes")]
    Interrupted,
}

/// A process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// The number of its parent.
    pub parent: u32,
    /// When it was started, in ticks since boot: with the number, this names one process and no other.
    pub started: u64,
    /// Its name, at most 15 characters.
    pub name: String,
    /// Whether it has ended and only waits to be asked about.
    pub is_zombie: bool,
    /// Its program; `None` for the kernel's own, and where this can't be seen. A program that was deleted keeps its path.
    pub program: Option<PathBuf>,
    /// The control groups that it is in.
    pub cgroups: Vec<String>,
    /// Its mount namespace, as the kernel names it; `None` where this can't be seen. That of a process in a container is not
    /// PID 1's, though its paths may read the same.
    pub mounts: Option<PathBuf>,
}

/// The processes of the machine.
#[async_trait]
pub trait Processes: Send + Sync + Debug {
    /// All of them.
    async fn list(&self) -> Result<Vec<Process>, ProcessError>;

    /// Ends one at once (SIGKILL). One that has ended already is no error.
    async fn kill(&self, process: &Process) -> Result<(), ProcessError>;

    /// Runs a program to its end, as [`command::run`].
    async fn run(
        &self,
        program: &Path,
        arguments: &[&str],
        limit: Duration,
        cap: usize,
    ) -> Result<command::Output, command::Error> {
        command::run(&program.display().to_string(), arguments, limit, cap).await
    }
}

/// The processes that `/proc` shows.
#[derive(Debug, Clone)]
pub struct Proc {
    root: Root,
}

impl Proc {
    /// Reads below this root.
    pub fn new(root: Root) -> Self {
        Self { root }
    }
}

#[async_trait]
impl Processes for Proc {
    async fn list(&self) -> Result<Vec<Process>, ProcessError> {
        let proc = self.root.path("/proc");
        tokio::task::spawn_blocking(move || list(&proc))
            .await
            .map_err(|_| ProcessError::Interrupted)?
    }

    async fn kill(&self, process: &Process) -> Result<(), ProcessError> {
        let proc = self.root.path("/proc");
        let process = process.clone();
        tokio::task::spawn_blocking(move || end(&proc, &process))
            .await
            .map_err(|_| ProcessError::Interrupted)?
    }
}

fn list(proc: &Path) -> Result<Vec<Process>, ProcessError> {
    let failed = |source| ProcessError::List {
        path: proc.to_path_buf(),
        source,
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(proc).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        // Processes end while they are looked at.
        found.extend(read(&entry.path()));
    }
    found.sort_by_key(|process: &Process| process.pid);
    Ok(found)
}

fn read(directory: &Path) -> Option<Process> {
    let pid = directory.file_name()?.to_str()?.parse().ok()?;
    let stat = fs::read(directory.join("stat")).ok()?;
    let mut process = parse(pid, &String::from_utf8_lossy(&stat))?;
    process.program = fs::read_link(directory.join("exe"))
        .ok()
        .map(|path| without_mark(&path));
    process.mounts = fs::read_link(directory.join("ns/mnt")).ok();
    process.cgroups = fs::read_to_string(directory.join("cgroup"))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| Some(line.splitn(3, ':').nth(2)?.to_owned()))
        .collect();
    Some(process)
}

/// `7 (a name) S 1 …`: the name may hold anything, so the last `)` ends it. The start is field 22.
fn parse(pid: u32, stat: &str) -> Option<Process> {
    let (before, after) = stat.rsplit_once(')')?;
    let (_, name) = before.split_once('(')?;
    let fields: Vec<&str> = after.split_whitespace().collect();
    Some(Process {
        pid,
        parent: fields.get(1)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
        name: name.to_owned(),
        is_zombie: matches!(*fields.first()?, "Z" | "X"),
        program: None,
        cgroups: Vec::new(),
        mounts: None,
    })
}

/// The kernel marks a program whose file is gone.
fn without_mark(path: &Path) -> PathBuf {
    let text = path.as_os_str().to_string_lossy();
    match text.strip_suffix(" (deleted)") {
        Some(plain) => PathBuf::from(plain),
        None => path.to_path_buf(),
    }
}

fn end(proc: &Path, process: &Process) -> Result<(), ProcessError> {
    let failed = |source| ProcessError::Kill {
        pid: process.pid,
        name: process.name.clone(),
        source,
    };
    let now = read(&proc.join(process.pid.to_string()));
    if now.is_none_or(|now| now.started != process.started) {
        return Ok(());
    }
    let pid = i32::try_from(process.pid)
        .ok()
        .filter(|pid| *pid > 1)
        .ok_or_else(|| failed(io::Error::from(io::ErrorKind::InvalidInput)))?;
    match kill(Pid::from_raw(pid), Signal::SIGKILL) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(errno) => Err(failed(errno.into())),
    }
}
