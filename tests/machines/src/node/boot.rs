//! Starting a node under systemd-nspawn and waiting until it is up.

use std::fs::{self, OpenOptions};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use super::{Machine, NodeError, at};
use crate::base;
use crate::cgroup::{Group, Layout as CgroupLayout};
use crate::network;
use crate::packages::hex;
use crate::place::BRIDGE;
use crate::process::Process;
use crate::program::{Place, command, tail};

/// How long a node may take to boot.
const BOOT_LIMIT: Duration = Duration::from_secs(90);

/// System calls that a kubelet, a container runtime and a user-space NFS server need and that
/// nspawn would refuse.
const SYSTEM_CALLS: &str = "--system-call-filter=@keyring @privileged @mount @debug @resources \
    bpf add_key keyctl perf_event_open open_by_handle_at name_to_handle_at";

impl Machine<'_> {
    /// Boots the prepared node and waits until its systemd has started everything.
    pub(crate) fn boot(&self) -> Result<Process, NodeError> {
        let deadline = Instant::now() + BOOT_LIMIT;
        let notify = self.path("notify");
        if notify.exists() {
            fs::remove_file(&notify).map_err(at(&notify))?;
        }
        let socket = UnixDatagram::bind(&notify).map_err(at(&notify))?;
        let group = Group::of_node(self.layout.name(), self.name);
        let tasks = group.create().map_err(at(Path::new("/sys/fs/cgroup")))?;
        // An nspawn that was killed leaves the node's link on the bridge.
        network::remove_link(self.layout, &format!("vb-{}", self.machine_name()))
            .map_err(self.program_error())?;
        let place = Place {
            netns: Some(self.layout.netns()),
            tasks,
        };
        let mut child = place
            .spawn(&mut self.nspawn(&notify)?)
            .map_err(self.program_error())?;
        let pid = child.id();
        let nspawn = i32::try_from(pid).ok().and_then(Process::find);
        group.adopt(pid).map_err(at(Path::new("/sys/fs/cgroup")))?;
        let address = notify.clone();
        // Reaps the child of a caller that lives long, and tells of an early end.
        std::thread::spawn(move || {
            let told = match child.wait() {
                Ok(status) => format!("EXITED={status}"),
                Err(error) => format!("EXITED={error}"),
            };
            if let Ok(socket) = UnixDatagram::unbound() {
                // Nobody listens any more once the node is up.
                drop(socket.send_to(told.as_bytes(), address));
            }
        });
        let ready = wait_ready(&socket, deadline)
            .and_then(|()| nspawn.ok_or_else(|| "systemd-nspawn ended at once".to_owned()));
        drop(fs::remove_file(&notify));
        let nspawn = ready.map_err(|what| self.boot_error(what))?;
        self.settle(nspawn)?;
        Ok(nspawn)
    }

    /// The name for nspawn alone. It is of twelve characters and unique on this machine, so that
    /// the link that nspawn makes has a name that is known: nspawn shortens longer ones.
    fn machine_name(&self) -> String {
        let mut sum = Sha256::new();
        sum.update(self.root().as_os_str().as_encoded_bytes());
        let mut name = format!("lab{}", hex(sum));
        name.truncate(12);
        name
    }

    fn boot_error(&self, what: String) -> NodeError {
        let console = self.console();
        let text = fs::read(&console).unwrap_or_default();
        NodeError::Boot {
            node: self.name.to_owned(),
            what,
            tail: tail(&String::from_utf8_lossy(&text)),
            console,
        }
    }

    fn nspawn(&self, notify: &Path) -> Result<Command, NodeError> {
        let console = self.console();
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&console)
            .map_err(at(&console))?;
        file.set_len(0).map_err(at(&console))?;
        // The lock belongs to the open file, so it lasts exactly as long as nspawn, which has it
        // as standard output: whoever gets the lock later knows that the node is gone.
        file.lock().map_err(at(&console))?;
        let errors = file.try_clone().map_err(at(&console))?;

        let mut nspawn = command(&["setsid", "systemd-nspawn", "--quiet"]);
        nspawn.arg(format!("--directory={}", self.root().display()));
        nspawn.arg(format!("--machine={}", self.machine_name()));
        nspawn.arg(format!("--hostname={}", self.name));
        nspawn.arg(format!("--network-bridge={BRIDGE}"));
        nspawn.arg(format!("--bind={}:/var", self.var().display()));
        nspawn.args([
            "--register=no",
            "--notify-ready=yes",
            "--kill-signal=SIGRTMIN+3",
            "--capability=all",
            "--private-users=no",
            SYSTEM_CALLS,
            "--resolv-conf=off",
            "--timezone=off",
            "--link-journal=no",
            "--console=read-only",
        ]);
        if Path::new("/dev/kmsg").exists() {
            nspawn.arg("--bind=/dev/kmsg");
        }
        if CgroupLayout::of_machine() != CgroupLayout::UnifiedSystemd {
            nspawn.arg("--keep-unit");
        }
        nspawn.arg(base::INIT);
        nspawn
            .env("NOTIFY_SOCKET", notify)
            .env("SYSTEMD_NSPAWN_API_VFS_WRITABLE", "network")
            .env("SYSTEMD_NSPAWN_USE_CGNS", "1")
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(errors);
        Ok(nspawn)
    }

    /// Waits for what systemd calls ready without it: the address, and the last start jobs.
    fn settle(&self, nspawn: Process) -> Result<(), NodeError> {
        let online = "/lib/systemd/systemd-networkd-wait-online";
        let waits: [&[&str]; 2] = [
            &[online, "--interface=host0", "--timeout=30"],
            &["systemctl", "is-system-running", "--wait"],
        ];
        for argv in waits {
            let output = self.output(nspawn, argv, b"")?;
            // A degraded node is up, and which unit failed is a matter for who asks.
            if !output.status.success() && argv.contains(&online) {
                return Err(self.boot_error(format!(
                    "host0 got no address: {}",
                    output.error_text().trim()
                )));
            }
        }
        Ok(())
    }
}

/// Waits for nspawn's word that the node's systemd has finished its start.
fn wait_ready(socket: &UnixDatagram, deadline: Instant) -> Result<(), String> {
    let mut buffer = [0_u8; 4096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(format!("it was not ready after {} s", BOOT_LIMIT.as_secs()));
        }
        socket
            .set_read_timeout(Some(left))
            .map_err(|error| error.to_string())?;
        let Ok(length) = socket.recv(&mut buffer) else {
            continue;
        };
        let message =
            String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
        for line in message.lines() {
            if line == "READY=1" {
                return Ok(());
            }
            if let Some(status) = line.strip_prefix("EXITED=") {
                return Err(format!("systemd-nspawn ended with {status}"));
            }
        }
    }
}
