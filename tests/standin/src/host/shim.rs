//! The processes that outlive the program: the shim of a pod, a copy of the program below the data directory, and what
//! runs in the pod's containers. [`role`] recognises them by how they were called.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// The name of the shim's file.
pub(super) const NAME: &str = "containerd-shim-runc-v2";
/// The variable that makes a process a container's; its value is the network namespace, or nothing for the node's own.
const CONTAINER: &str = "STANDIN_CONTAINER";
/// Where a shim finds its bundle, followed by the sandbox's id.
const BUNDLES: &str = "run/k3s/containerd/io.containerd.runtime.v2.task/k8s.io";

/// What a shim starts, as it stands in the bundle's `config.json`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Bundle {
    /// The network namespace, empty for the node's own.
    pub(super) netns: String,
    /// Program and first argument of each process.
    pub(super) processes: Vec<(PathBuf, String)>,
}

/// The directory of a sandbox's or a container's bundle, from the root.
pub(super) fn bundle(id: &str) -> String {
    format!("{BUNDLES}/{id}")
}

/// Plays the part that this process was started for; `None` if it is the program itself.
pub fn role() -> Option<ExitCode> {
    if let Some(netns) = std::env::var_os(CONTAINER) {
        if !netns.is_empty() {
            // Without its namespace the process is as good for being found and killed.
            let _ =
                fs::File::open(&netns).map(|namespace| setns(namespace, CloneFlags::CLONE_NEWNET));
        }
        rest();
    }
    let mut arguments = std::env::args();
    let called = arguments.next()?;
    if Path::new(&called).file_name()? != NAME {
        return None;
    }
    let id = arguments.skip_while(|argument| argument != "-id").nth(1)?;
    let text = fs::read_to_string(Path::new("/").join(bundle(&id)).join("config.json"));
    let bundle: Bundle = serde_json::from_str(&text.unwrap_or_default()).unwrap_or_default();
    let children: Vec<_> = bundle
        .processes
        .iter()
        .filter_map(|(program, name)| start(program, name, &bundle.netns))
        .collect();
    // A container that ends leaves its shim, as long as the pod is there.
    for mut child in children {
        let _ = child.wait();
    }
    rest()
}

#[expect(
    clippy::disallowed_types,
    reason = "a test program, which leaves processes behind on purpose"
)]
fn start(program: &Path, name: &str, netns: &str) -> Option<std::process::Child> {
    use std::os::unix::process::CommandExt as _;
    use std::process::{Command, Stdio};
    Command::new(program)
        .arg0(name)
        .env_clear()
        .env(CONTAINER, netns)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .ok()
}

fn rest() -> ! {
    loop {
        std::thread::park();
    }
}

/// The shim of a sandbox, if it runs: its file stands below the data directory, and its arguments name the sandbox.
pub(super) fn find(id: &str) -> Option<i32> {
    processes().find(|process| {
        let Ok(arguments) = fs::read(format!("/proc/{process}/cmdline")) else {
            return false;
        };
        let mut words = arguments.split(|byte| *byte == 0);
        words
            .next()
            .is_some_and(|first| first.ends_with(NAME.as_bytes()))
            && words.any(|word| word == id.as_bytes())
    })
}

/// Ends a shim and all that it started.
pub(super) fn end(shim: i32) {
    let mut ending = vec![shim];
    let mut next = 0;
    while let Some(parent) = ending.get(next).copied() {
        ending.extend(processes().filter(|process| parent_of(*process) == Some(parent)));
        next += 1;
    }
    for process in ending.into_iter().rev() {
        // One that ended by itself is as good.
        let _ = kill(Pid::from_raw(process), Signal::SIGKILL);
    }
}

fn processes() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

fn parent_of(process: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name before it may hold anything, in parentheses.
    let after = stat.rsplit_once(')')?.1;
    after.split_whitespace().nth(1)?.parse().ok()
}
