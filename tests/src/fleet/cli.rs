//! `canasta` as a process of its own, with a configuration of its own: for what operators read and what scripts see.

#![expect(
    clippy::disallowed_types,
    reason = "tests start the CLI as operators do"
)]

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

use super::terminal::{self, OnTerminal};
use super::within;

/// A person's CLI.
#[derive(Debug)]
pub struct Cli {
    config: tempfile::TempDir,
    /// Where it finds programs; nowhere if nothing else is said.
    path: PathBuf,
}

/// What a command left.
#[derive(Debug)]
pub struct Output {
    /// The exit code; -1 for a signal.
    pub code: i32,
    /// Data.
    pub stdout: String,
    /// Everything else.
    pub stderr: String,
}

impl Output {
    /// The data as JSON.
    ///
    /// # Panics
    /// When it is none, or the command failed.
    pub fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{self:?}");
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The cells of each line of a table, the header first.
    pub fn rows(&self) -> Vec<Vec<&str>> {
        self.stdout
            .lines()
            .map(|line| {
                let cells = line.split("  ").map(str::trim);
                cells.filter(|cell| !cell.is_empty()).collect()
            })
            .collect()
    }
}

/// A command that still runs. Killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

/// Reads until the text is there.
async fn read_until(source: &mut (impl AsyncRead + Unpin), read: &mut Vec<u8>, text: &str) {
    let listen = async {
        while !String::from_utf8_lossy(read).contains(text) {
            let length = source.read_buf(read).await.expect("it can be read");
            let so_far = String::from_utf8_lossy(read);
            assert!(length > 0, "it ended after: {so_far}");
        }
    };
    within(&format!("the command to say {text:?}"), listen).await;
}

impl Running {
    fn new(child: Child) -> Self {
        Self {
            child,
            stdout: Vec::new(),
            stderr: Vec::new(),
        }
    }

    /// Waits until this text has been printed on stderr.
    ///
    /// # Panics
    /// When the command ends before.
    pub async fn has_said(&mut self, text: &str) {
        let stderr = self.child.stderr.as_mut().expect("stderr is a pipe");
        read_until(stderr, &mut self.stderr, text).await;
    }

    /// Waits until this text has been printed on stdout.
    ///
    /// # Panics
    /// When the command ends before.
    pub async fn has_printed(&mut self, text: &str) {
        let stdout = self.child.stdout.as_mut().expect("stdout is a pipe");
        read_until(stdout, &mut self.stdout, text).await;
    }

    /// Its process id.
    ///
    /// # Panics
    /// When it has been waited for.
    pub fn id(&self) -> u32 {
        self.child.id().expect("it has not been waited for")
    }

    /// Waits for its end; the output is all of it, what was waited for before included.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn ended(mut self) -> Output {
        drop(self.child.stdin.take());
        let (stdout, stderr) = (self.child.stdout.take(), self.child.stderr.take());
        let rest = async {
            tokio::join!(
                read_rest(stdout, &mut self.stdout),
                read_rest(stderr, &mut self.stderr),
                self.child.wait()
            )
        };
        let ((), (), status) = within("the command to end", rest).await;
        Output {
            code: status.expect("it ends").code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&self.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&self.stderr).into_owned(),
        }
    }

    /// Kills it with SIGKILL.
    ///
    /// # Panics
    /// When it can't be killed.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("it can be killed");
    }
}

async fn read_rest(source: Option<impl AsyncRead + Unpin>, read: &mut Vec<u8>) {
    if let Some(mut source) = source {
        source.read_to_end(read).await.expect("it can be read");
    }
}

impl Cli {
    /// A CLI that knows no controller yet.
    ///
    /// # Panics
    /// When no directory can be made.
    pub fn new() -> Self {
        Self {
            config: tempfile::tempdir().expect("a directory"),
            path: PathBuf::new(),
        }
    }

    /// A CLI whose current context is this controller, with a fresh user token.
    ///
    /// # Panics
    /// When the token is not taken.
    pub async fn with_context(controller: std::net::SocketAddr, token: &str) -> Self {
        let cli = Self::new();
        let controller = controller.to_string();
        let arguments = [
            "context",
            "add",
            "test",
            "--controller",
            &controller,
            "--token-file",
            "-",
        ];
        let output = cli.run_with_input(&arguments, token).await;
        assert_eq!(output.code, 0, "{output:?}");
        cli
    }

    /// Has it find its programs in this directory alone.
    pub fn find_programs_in(&mut self, directory: PathBuf) {
        self.path = directory;
    }

    /// Runs a command to its end.
    ///
    /// # Panics
    /// When it can't be started or does not end.
    pub async fn run(&self, arguments: &[&str]) -> Output {
        self.run_with_input(arguments, "").await
    }

    /// The same with something on standard input.
    ///
    /// # Panics
    /// When it can't be started or does not end.
    pub async fn run_with_input(&self, arguments: &[&str], input: &str) -> Output {
        let mut running = self.spawn(arguments);
        let mut stdin = running.child.stdin.take().expect("stdin is a pipe");
        // A command that reads nothing closes it.
        let _closed = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        running.ended().await
    }

    /// Starts a command.
    ///
    /// # Panics
    /// When it can't be started.
    pub fn spawn(&self, arguments: &[&str]) -> Running {
        let child = self.command(arguments).spawn().expect("the CLI starts");
        Running::new(child)
    }

    /// Starts a command whose standard error is a terminal.
    ///
    /// # Panics
    /// When it can't be started.
    pub fn spawn_on_terminal(&self, arguments: &[&str]) -> OnTerminal {
        let (terminal, end) = terminal::open();
        let child = self
            .command(arguments)
            .env("TERM", "xterm")
            .stderr(end)
            .spawn()
            .expect("the CLI starts");
        OnTerminal::new(Running::new(child), terminal)
    }

    /// The file with its contexts.
    pub fn contexts(&self) -> PathBuf {
        self.config.path().join("canasta/contexts.toml")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        command
            .args(arguments)
            .env_clear()
            .env("XDG_CONFIG_HOME", self.config.path())
            .env("NO_COLOR", "1")
            .env("PATH", &self.path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }
}

impl Default for Cli {
    fn default() -> Self {
        Self::new()
    }
}

/// The CLI that was built beside this test: `target/PROFILE/canasta` where the test is `target/PROFILE/deps/…`.
fn program() -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    let program = test
        .ancestors()
        .skip(1)
        .take(2)
        .map(|directory| directory.join("canasta"))
        .find(|program| program.is_file());
    program.unwrap_or_else(|| {
        let beside = test.parent().and_then(Path::parent).unwrap_or(&test);
        panic!(
            "there is no {}/canasta: build it with `cargo build -p canasta-cli` and the profile of this test",
            beside.display()
        )
    })
}
