//! A cgroup directory for each node, made on the machine. Called by [`crate::node`].
//!
//! With version 1 of cgroups a node gets a directory in each hierarchy, and its first process
//! starts there: that makes it the root of what the node sees. With version 2 under systemd,
//! nspawn asks systemd for a scope and nothing is made here.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Where the machine mounts its cgroup file systems.
const ROOT: &str = "/sys/fs/cgroup";

/// How a busy directory is waited for; the step is for version 1, which tells nobody when the last task is gone.
const BUSY_LIMIT: Duration = Duration::from_secs(5);
const BUSY_STEP: Duration = Duration::from_millis(10);

/// What the machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// A directory for each controller, perhaps with an empty unified one beside them.
    Separate,
    /// One hierarchy, managed by a systemd that gives out scopes.
    UnifiedSystemd,
    /// One hierarchy and no systemd.
    Unified,
}

impl Layout {
    /// Looks at the machine.
    pub(crate) fn of_machine() -> Self {
        if !Path::new(ROOT).join("cgroup.controllers").exists() {
            Self::Separate
        } else if Path::new("/run/systemd/system").exists() {
            Self::UnifiedSystemd
        } else {
            Self::Unified
        }
    }
}

/// A directory of our own, named relative to each hierarchy: `canasta-lab/LAB/NODE`.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    layout: Layout,
    path: PathBuf,
}

impl Group {
    /// The group of one node.
    pub(crate) fn of_node(lab: &str, node: &str) -> Self {
        Self {
            layout: Layout::of_machine(),
            path: Path::new("canasta-lab").join(lab).join(node),
        }
    }

    /// The group that holds all nodes of a lab.
    pub(crate) fn of_lab(lab: &str) -> Self {
        Self {
            layout: Layout::of_machine(),
            path: Path::new("canasta-lab").join(lab),
        }
    }

    fn hierarchies(&self) -> Vec<PathBuf> {
        match self.layout {
            Layout::Separate => fs::read_dir(ROOT)
                .into_iter()
                .flatten()
                .flatten()
                // Links such as `cpu -> cpu,cpuacct` name a hierarchy a second time.
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path())
                .filter(|path| path.join("cgroup.procs").exists())
                .collect(),
            Layout::Unified => vec![PathBuf::from(ROOT)],
            Layout::UnifiedSystemd => Vec::new(),
        }
    }

    /// Makes the directories and returns the files that a thread writes `0` to, to be in them.
    pub(crate) fn create(&self) -> io::Result<Vec<PathBuf>> {
        let mut tasks = Vec::new();
        for hierarchy in self.hierarchies() {
            let mut parent = hierarchy.clone();
            for part in &self.path {
                let directory = parent.join(part);
                match fs::create_dir(&directory) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                        return Err(at(&directory, &error));
                    }
                    _ => {}
                }
                inherit_cpuset(&parent, &directory)?;
                parent = directory;
            }
            let file = parent.join("tasks");
            if file.exists() {
                tasks.push(file);
            }
        }
        Ok(tasks)
    }

    /// Puts a process that was just started into the unified directory, which a thread can't
    /// enter by itself.
    pub(crate) fn adopt(&self, pid: u32) -> io::Result<()> {
        for hierarchy in self.hierarchies() {
            let directory = hierarchy.join(&self.path);
            if !directory.join("tasks").exists() {
                let procs = directory.join("cgroup.procs");
                fs::write(&procs, pid.to_string()).map_err(|error| at(&procs, &error))?;
            }
        }
        Ok(())
    }

    /// Removes the directories and everything below them. They must hold no process.
    pub(crate) fn remove(&self) -> io::Result<()> {
        for hierarchy in self.hierarchies() {
            remove_below(&hierarchy.join(&self.path))?;
            // The parent serves other labs too: it goes with the last one.
            drop(fs::remove_dir(hierarchy.join("canasta-lab")));
        }
        Ok(())
    }
}

/// The `tasks` files of the cgroups that process `pid` is in, for a thread that joins it.
pub(crate) fn tasks_of(pid: i32) -> Vec<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    parse_membership(&text)
        .into_iter()
        .map(|(hierarchy, path)| Path::new(ROOT).join(hierarchy).join(path).join("tasks"))
        .filter(|tasks| tasks.exists())
        .collect()
}

/// The `cgroup.procs` file of the unified cgroup of process `pid`, where that is the only layout.
pub(crate) fn unified_procs_of(pid: i32) -> Option<PathBuf> {
    if Layout::of_machine() == Layout::Separate {
        return None;
    }
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(Path::new(ROOT).join(path).join("cgroup.procs"))
}

/// Hierarchy directory and relative path of each version 1 line of `/proc/PID/cgroup`.
fn parse_membership(text: &str) -> Vec<(String, String)> {
    text.lines()
        .filter_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (_, hierarchy, path) = (parts.next()?, parts.next()?, parts.next()?);
            let hierarchy = hierarchy.strip_prefix("name=").unwrap_or(hierarchy);
            let path = path.strip_prefix('/')?;
            (!hierarchy.is_empty()).then(|| (hierarchy.to_owned(), path.to_owned()))
        })
        .collect()
}

/// A cpuset directory takes no task until it has processors and memory nodes.
fn inherit_cpuset(parent: &Path, directory: &Path) -> io::Result<()> {
    if !directory.join("cpuset.cpus").exists() || !directory.join("tasks").exists() {
        return Ok(());
    }
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let value = fs::read(parent.join(name)).map_err(|error| at(parent, &error))?;
        fs::write(directory.join(name), value).map_err(|error| at(directory, &error))?;
    }
    fs::write(directory.join("cgroup.clone_children"), "1").map_err(|error| at(directory, &error))
}

fn remove_below(directory: &Path) -> io::Result<()> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_below(&entry.path())?;
        }
    }
    let deadline = Instant::now() + BUSY_LIMIT;
    loop {
        match fs::remove_dir(directory) {
            Err(error)
                if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline =>
            {
                wait_for_last_task(directory, deadline);
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(at(directory, &error));
            }
            _ => return Ok(()),
        }
    }
}

/// Waits for the word of version 2 that no task is left at or below a directory; for a moment where nobody says so.
fn wait_for_last_task(directory: &Path, deadline: Instant) {
    let mut said = String::new();
    let events = File::open(directory.join("cgroup.events"))
        .and_then(|mut file| file.read_to_string(&mut said).map(|_| file));
    match events {
        Ok(file) if said.lines().any(|line| line == "populated 1") => {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            // What it ends with is found by the next attempt.
            let _ = poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLPRI)], left);
        }
        _ => std::thread::sleep(BUSY_STEP),
    }
}

fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn membership_names_hierarchy_and_path() {
        let text = "9:name=systemd:/canasta-lab/a/n/init.scope\n4:memory:/canasta-lab/a/n\n\
            2:cpu,cpuacct:/\n0::/x\n";
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(
            parse_membership(text),
            [
                pair("systemd", "canasta-lab/a/n/init.scope"),
                pair("memory", "canasta-lab/a/n"),
                pair("cpu,cpuacct", ""),
            ]
        );
    }
}
