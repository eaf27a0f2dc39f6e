//! Ends what k3s left running: containerd and its shims by their programs, and what runs below them.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use canasta_host::process::{Process, ProcessError};
use canasta_steps::{Done, Reporter, StepError};
use tokio::time::{Instant, sleep};

use super::{Work, guard};
use crate::k3s::paths;

/// How often it is looked whether they have ended; the kernel tells only parents.
const PAUSE: Duration = Duration::from_millis(50);

/// Programs below k3s's data whose processes are k3s's: the last part of their path begins so.
const PROGRAMS: [&str; 2] = ["containerd-shim", "containerd"];

/// The control group of pods, in both ways in which it is written.
const PODS: [&str; 2] = ["kubepods", "kubepods.slice"];

/// The processes of k3s's containers: shims below k3s's data, all that descends from them, and what is left in the control
/// groups of pods. The groups count only where no other Kubernetes is on the machine.
///
/// A k3s in a container of somebody else (LXC, nspawn, Docker) has programs with the same paths, and pods of its own. Its
/// programs are in another mount namespace than PID 1, and its pods in control groups below the container's.
pub(super) fn own(processes: &[Process], groups_count: bool) -> Vec<Process> {
    let by_pid: BTreeMap<u32, &Process> = processes
        .iter()
        .map(|process| (process.pid, process))
        .collect();
    // Where PID 1's namespace can't be seen, nothing is known to be in it.
    let machine = by_pid.get(&1).and_then(|init| init.mounts.as_deref());
    let is_root = |process: &Process| {
        (is_of_k3s(process) && machine.is_some() && process.mounts.as_deref() == machine)
            || (groups_count && process.cgroups.iter().any(|group| is_of_pods(group)))
    };
    let descends = |process: &Process| {
        // A chain of parents is at most as long as the list, whatever the numbers say.
        let mut current = Some(process);
        for _ in 0..processes.len() {
            match current {
                Some(one) if is_root(one) => return true,
                Some(one) => current = by_pid.get(&one.parent).copied(),
                None => return false,
            }
        }
        false
    };
    processes
        .iter()
        .filter(|process| process.pid > 1 && !process.is_zombie && descends(process))
        .cloned()
        .collect()
}

fn is_of_k3s(process: &Process) -> bool {
    process.program.as_deref().is_some_and(|program| {
        let name = program.file_name().and_then(|name| name.to_str());
        program.starts_with(Path::new(paths::DATA_DIR).join("data"))
            && name.is_some_and(|name| PROGRAMS.iter().any(|own| name.starts_with(own)))
    })
}

/// The kubelet of the machine puts pods at the top. Where the machine is itself a container, with control groups of its own,
/// the kernel tells paths from there on, so it is the top too.
fn is_of_pods(group: &str) -> bool {
    let first = group
        .strip_prefix('/')
        .and_then(|rest| rest.split('/').next());
    first.is_some_and(|first| PODS.contains(&first))
}

/// Names of processes, each with its number.
pub(super) fn in_words(processes: &[Process]) -> Vec<String> {
    processes
        .iter()
        .map(|process| format!("process {} ({})", process.name, process.pid))
        .collect()
}

impl Work<'_> {
    pub(super) async fn processes(&self, reporter: &Reporter) -> Result<Done, StepError> {
        let first = self.own_processes().await?;
        if first.is_empty() {
            return Ok(Done::unchanged("nothing of k3s runs"));
        }
        reporter
            .message(format!(
                "ending what k3s left running: {}",
                in_words(&first).join(", ")
            ))
            .await;
        let deadline = Instant::now() + self.limits.end;
        let mut known = first.clone();
        let mut left = first;
        loop {
            for process in &left {
                self.host
                    .processes
                    .kill(process)
                    .await
                    .map_err(|error| failed(&error))?;
            }
            left = self.remaining(&mut known).await?;
            if left.is_empty() {
                let ended = known.len();
                let plural = if ended == 1 { "" } else { "es" };
                return Ok(Done::changed(format!("{ended} process{plural} ended")));
            }
            if Instant::now() >= deadline {
                return Err(stuck(&left));
            }
            sleep(PAUSE).await;
        }
    }

    async fn own_processes(&self) -> Result<Vec<Process>, StepError> {
        Ok(own(&self.running().await?, groups_count(self.host).await))
    }

    async fn running(&self) -> Result<Vec<Process>, StepError> {
        let running = self.host.processes.list().await;
        running.map_err(|error| failed(&error))
    }

    /// What of the known ones still runs, though its parent may have ended and nothing else shows whose it is; and what they
    /// have started between the look and their end, which becomes known.
    async fn remaining(&self, known: &mut Vec<Process>) -> Result<Vec<Process>, StepError> {
        let is_same =
            |one: &Process, other: &Process| (one.pid, one.started) == (other.pid, other.started);
        let running = self.running().await?;
        for process in own(&running, groups_count(self.host).await) {
            if !known.iter().any(|known| is_same(known, &process)) {
                known.push(process);
            }
        }
        Ok(running
            .into_iter()
            .filter(|process| {
                !process.is_zombie && known.iter().any(|known| is_same(known, process))
            })
            .collect())
    }
}

/// Whether the control groups of pods can only be k3s's. Where that can't be told they don't count.
pub(super) async fn groups_count(host: &canasta_host::Host) -> bool {
    guard::another_kubernetes(host)
        .await
        .is_ok_and(|found| found.is_empty())
}

fn failed(error: &ProcessError) -> StepError {
    StepError::from_source("PROCESSES_FAILED", error)
        .hint("look at `ps -ef` on the node, then run the command again")
}

fn stuck(left: &[Process]) -> StepError {
    let names = in_words(left).join(", ");
    StepError::new("PROCESS_STUCK", format!("what k3s left running does not end: {names}"))
        .subject(left[0].pid.to_string())
        .hint("a process that does not end waits for a disk or a server (`cat /proc/PID/stack`); mend that or reboot the node, then run the command again")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, parent: u32, program: &str, group: &str) -> Process {
        Process {
            pid,
            parent,
            program: Some(program.into()),
            cgroups: vec![group.to_owned()],
            mounts: Some("mnt:[1]".into()),
            ..Process::default()
        }
    }

    fn contained(process: Process) -> Process {
        Process {
            mounts: Some("mnt:[2]".into()),
            ..process
        }
    }

    /// As recorded, with others beside them.
    #[test]
    fn shims_and_what_runs_below_them_are_k3s_own_and_nothing_else() {
        let shim = "/var/lib/rancher/k3s/data/a32c/bin/containerd-shim-runc-v2";
        let unit = "/system.slice/k3s.service";
        let all = [
            process(1, 0, "/lib/systemd/systemd", "/init.scope"),
            process(694, 1, shim, unit),
            contained(process(713, 694, "/pause", "/kubepods/besteffort/pod1/c")),
            contained(process(747, 713, "/bin/sh", "/elsewhere")),
            contained(process(800, 1, "/bin/orphan", "/kubepods/burstable/pod2/c")),
            process(801, 1, "/usr/bin/dockerd", "/system.slice/docker.service"),
            process(
                802,
                1,
                "/usr/bin/containerd-shim-runc-v2",
                "/system.slice/docker.service",
            ),
            process(803, 802, "/bin/theirs", "/docker/1"),
            process(
                804,
                1,
                "/var/lib/rancher/k3s/data/a32c/bin/k3s",
                "/user.slice",
            ),
            process(
                805,
                1,
                "/var/lib/rancher/k3s-other/data/bin/containerd",
                "/x",
            ),
            process(806, 1, "/usr/bin/not-kubepods", "/not-kubepods/x"),
            process(807, 807, "/usr/bin/own-parent", "/x"),
            Process {
                is_zombie: true,
                ..process(808, 694, shim, unit)
            },
        ];
        let pids = |groups| {
            own(&all, groups)
                .iter()
                .map(|one| one.pid)
                .collect::<Vec<_>>()
        };
        assert_eq!(pids(true), [694, 713, 747, 800]);
        assert_eq!(pids(false), [694, 713, 747]);
    }

    #[test]
    fn a_k3s_in_a_container_of_somebody_else_is_left_alone() {
        let shim = "/var/lib/rancher/k3s/data/a32c/bin/containerd-shim-runc-v2";
        let init = process(1, 0, "/lib/systemd/systemd", "/init.scope");
        let mut all = vec![
            init,
            contained(process(
                10,
                1,
                shim,
                "/lxc.payload.w2/system.slice/k3s.service",
            )),
            contained(process(11, 10, "/pause", "/lxc.payload.w2/kubepods/pod1/c")),
            contained(process(
                12,
                1,
                "/pause",
                "/machine.slice/w3/kubepods.slice/kubepods-pod1.slice/c",
            )),
        ];
        assert_eq!(own(&all, true), []);
        // A namespace that nobody can see is no proof.
        for process in &mut all {
            process.mounts = None;
        }
        assert_eq!(own(&all, true), []);
    }
}
