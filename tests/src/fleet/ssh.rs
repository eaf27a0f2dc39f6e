//! The other side of `canasta host add --ssh`: a program named ssh that runs what it is given on a simulated node, whose
//! package manager and service manager are programs of a few lines.
//!
//! Paths below `/etc` and `/run` become paths of the node. Programs that a test does not change are this machine's own.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use canasta_agent::State;
use nix::sys::stat::Mode;

use super::node::Node;
use super::within;

/// What stands beside the programs: what was called and what is so.
#[derive(Debug)]
pub struct Ssh {
    directory: tempfile::TempDir,
}

/// Programs as a new Debian machine has them. `HERE` is the directory of this ssh.
const PROGRAMS: [(&str, &str); 6] = [
    ("id", "echo \"${USER_ID:-0}\""),
    ("dpkg", "echo amd64"),
    (
        "dpkg-query",
        "if [ -e HERE/installed ]; then printf 'installed %s' \"$(cat HERE/installed)\"; else exit 1; fi",
    ),
    (
        "apt-get",
        "for file; do :; done\ncp \"$file\" HERE/package; echo 9.9.9-1 >HERE/installed",
    ),
    (
        "canasta-agent",
        "case $1 in\njoin) printf '%s %s' \"$3\" \"$(cat \"$5\")\" >HERE/rejoin; echo x >HERE/restart; read -r _ <HERE/restarted ;;\n\
         *) cat HERE/status 2>/dev/null ;;\nesac",
    ),
    ("journalctl", "cat HERE/journal 2>/dev/null"),
];

impl Ssh {
    /// An ssh to this node, which is a Debian machine without the agent's package.
    ///
    /// # Panics
    /// When it can't be made.
    pub fn to(node: &Node) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let ssh = Self { directory };
        let root = node.host.directory().to_owned();
        for below in ["etc/canasta", "run/systemd/system"] {
            std::fs::create_dir_all(root.join(below)).expect("a directory");
        }
        let os = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\n";
        std::fs::write(root.join("etc/os-release"), os).expect("written");
        std::fs::create_dir(ssh.programs()).expect("a directory");
        let there = root.display();
        ssh.program(
            "ssh",
            &format!(
                "printf '%s\\n' \"$@\" >>HERE/called\nfor last; do :; done\n\
                 PATH=HERE/bin:/usr/bin:/bin:/usr/sbin:/sbin; export PATH\n\
                 exec sh -c \"$(printf %s \"$last\" | sed 's|/etc/|{there}/etc/|g; s|/run/|{there}/run/|g')\""
            ),
        );
        for (name, text) in PROGRAMS {
            ssh.program(name, text);
        }
        for fifo in ["restart", "restarted"] {
            nix::unistd::mkfifo(&ssh.path(fifo), Mode::S_IRWXU).expect("a pipe");
        }
        let join = root.join("etc/canasta/join.toml");
        ssh.program(
            "systemctl",
            &format!(
                "[ $1 = restart ] || exit 0\nstat -c '%a %U' {} >HERE/mode\necho x >HERE/restart; read -r _ <HERE/restarted",
                join.display()
            ),
        );
        ssh
    }

    /// The directory of its programs, for a search path.
    pub fn programs(&self) -> PathBuf {
        self.path("bin")
    }

    /// Puts a program there, in the place of another.
    ///
    /// # Panics
    /// When it can't be written.
    pub fn program(&self, name: &str, text: &str) {
        let at = self.directory.path().display().to_string();
        let path = self.programs().join(name);
        let text = format!("#!/bin/sh\n{}\n", text.replace("HERE", &at));
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("a program");
    }

    /// A file beside the programs; empty where there is none.
    pub fn file(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_default()
    }

    /// Writes a file beside the programs.
    ///
    /// # Panics
    /// When it can't be written.
    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("written");
    }

    /// How often ssh was called.
    pub fn sessions(&self) -> usize {
        let called = self.file("called");
        let called = String::from_utf8_lossy(&called);
        called.lines().filter(|argument| *argument == "--").count()
    }

    /// Does once what systemd does when the agent is told to restart, and lets the session go on when it has joined.
    ///
    /// # Panics
    /// When it is not told to, or does not join.
    pub async fn restart(&self, node: &mut Node) {
        self.told("the agent to be restarted").await;
        node.crash().await;
        node.restart().await;
        self.joined(node).await;
    }

    /// Does once what `canasta-agent join` does on a node that has joined before.
    ///
    /// # Panics
    /// When it is not called, or does not join.
    pub async fn rejoin(&self, node: &Node) {
        self.told("the agent to be told to join again").await;
        let asked = String::from_utf8(self.file("rejoin")).expect("text");
        let (controller, token) = asked.split_once(' ').expect("an address and a token");
        let controller = controller.parse().expect("an address");
        node.join(controller, token).await.expect("it joins again");
        self.joined(node).await;
    }

    async fn told(&self, what: &str) {
        let told = self.path("restart");
        within(what, elsewhere(move || std::fs::read(told))).await;
    }

    /// The session goes on when the node has joined.
    async fn joined(&self, node: &Node) {
        let restarted = self.path("restarted");
        let State::Joined { fleet_id, name, .. } = node.until_joined().await else {
            panic!("it has not joined");
        };
        self.write(
            "status",
            &format!("{{\"joined\":true,\"fleet_id\":\"{fleet_id}\",\"name\":\"{name}\"}}\n"),
        );
        let go_on = elsewhere(move || std::fs::write(restarted, "x\n"));
        within("the session to go on", go_on).await;
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

/// Opens a pipe, which lasts until its other end is opened, in a thread that nobody has to wait for.
async fn elsewhere<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> T {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || sender.send(work()));
    let done = receiver.await.expect("it ends");
    done.expect("the pipe can be used")
}
