//! Processes that outlive the call that started them: known by pid *and* start time, so that a
//! number that the kernel gave to somebody else is never taken for ours.

use std::fs::{self, File};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// One process of this boot of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    /// Its number.
    pub pid: i32,
    /// When it was started, in clock ticks since the machine's boot.
    pub started: u64,
}

impl Process {
    /// The live process with this number; nothing if there is none or it is a zombie.
    pub(crate) fn find(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (state, started) = parse_stat(&stat)?;
        (!matches!(state, 'Z' | 'X')).then_some(Self { pid, started })
    }

    /// Whether it still runs.
    pub(crate) fn alive(self) -> bool {
        Self::find(self.pid) == Some(self)
    }

    /// Sends SIGKILL if it still runs.
    pub(crate) fn kill(self) {
        if self.alive() {
            // It may end by itself at this moment, which is as good.
            let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
        }
    }

    /// Its children.
    pub(crate) fn children(self) -> Vec<Self> {
        let pid = self.pid;
        fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
            .unwrap_or_default()
            .split_whitespace()
            .filter_map(|child| Self::find(child.parse().ok()?))
            .collect()
    }

    /// Whether it is the first process of a pid namespace below ours.
    pub(crate) fn is_init_of_namespace(self) -> bool {
        fs::read_to_string(format!("/proc/{}/status", self.pid))
            .ok()
            .and_then(|status| {
                let line = status
                    .lines()
                    .find(|line| line.starts_with("NSpid:"))?
                    .to_owned();
                let pids: Vec<_> = line.split_whitespace().skip(1).map(str::to_owned).collect();
                Some(pids.len() > 1 && pids.last().is_some_and(|last| last == "1"))
            })
            .unwrap_or(false)
    }

    /// Its arguments.
    pub(crate) fn arguments(self) -> Vec<String> {
        fs::read(format!("/proc/{}/cmdline", self.pid))
            .unwrap_or_default()
            .split(|byte| *byte == 0)
            .map(|argument| String::from_utf8_lossy(argument).into_owned())
            .collect()
    }

    /// Whether its root directory is an overlay whose upper directory is `upper`.
    pub(crate) fn lives_on(self, upper: &Path) -> bool {
        let wanted = format!("upperdir={}", upper.display());
        fs::read_to_string(format!("/proc/{}/mountinfo", self.pid))
            .unwrap_or_default()
            .lines()
            .any(|line| {
                line.split(' ').nth(4) == Some("/")
                    && line.split([' ', ',']).any(|option| option == wanted)
            })
    }

    /// The processes of the machine that can be seen.
    pub(crate) fn all() -> Vec<Self> {
        let Ok(entries) = fs::read_dir("/proc") else {
            return Vec::new();
        };
        entries
            .flatten()
            .filter_map(|entry| Self::find(entry.file_name().to_str()?.parse().ok()?))
            .collect()
    }
}

/// Waits for a lock that a process holds as long as it lives, at most so long, and tells whether it was had.
///
/// It belongs to the open file that the process has as one of its streams: the kernel gives it up with the last of them,
/// and there is no other event for the end of a process that is nobody's child.
pub(crate) fn locked_within(file: &File, limit: Duration) -> bool {
    if file.try_lock().is_ok() {
        return true;
    }
    let Ok(file) = file.try_clone() else {
        return false;
    };
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        if file.lock().is_ok() {
            // The one who waited may have given up.
            let _ = sender.send(());
        }
    });
    receiver.recv_timeout(limit).is_ok()
}

/// State letter and start time from `/proc/PID/stat`; the name in brackets may hold anything.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?.chars().next()?;
    let started = fields.nth(18)?.parse().ok()?;
    Some((state, started))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_confuse() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 777 8 9";
        assert_eq!(parse_stat(stat), Some(('S', 777)));
    }

    #[test]
    fn this_process_is_alive_and_another_start_time_is_not() {
        let own = Process::find(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(own.alive());
        assert!(
            !Process {
                started: own.started + 1,
                ..own
            }
            .alive()
        );
    }
}
