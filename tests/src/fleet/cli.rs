//! `canasta` as a process of its own, with a configuration of its own: for what operators read and what scripts see.

#![expect(
    clippy::disallowed_types,
    reason = "tests start the CLI as operators do"
)]

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

use super::within;

/// A person's CLI.
#[derive(Debug)]
pub struct Cli {
    config: tempfile::TempDir,
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
}

/// A command that still runs. Killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
}

impl Running {
    /// Waits until this text has been printed on stderr.
    ///
    /// # Panics
    /// When the command ends before.
    pub async fn has_said(&mut self, text: &str) {
        let stderr = self.child.stderr.as_mut().expect("stderr is a pipe");
        let mut said = Vec::new();
        let listen = async {
            while !String::from_utf8_lossy(&said).contains(text) {
                let length = stderr
                    .read_buf(&mut said)
                    .await
                    .expect("stderr can be read");
                assert!(
                    length > 0,
                    "it ended after: {}",
                    String::from_utf8_lossy(&said)
                );
            }
        };
        within(text, listen).await;
    }

    /// Kills it with SIGKILL.
    ///
    /// # Panics
    /// When it can't be killed.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("it can be killed");
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
        let mut child = self.spawn(arguments).child;
        let mut stdin = child.stdin.take().expect("stdin is a pipe");
        // A command that reads nothing closes it.
        let _closed = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        let what = format!("`canasta {}` to end", arguments.join(" "));
        let output = within(&what, child.wait_with_output())
            .await
            .expect("it ends");
        Output {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Starts a command.
    ///
    /// # Panics
    /// When it can't be started.
    pub fn spawn(&self, arguments: &[&str]) -> Running {
        let child = Command::new(program())
            .args(arguments)
            .env_clear()
            .env("XDG_CONFIG_HOME", self.config.path())
            .env("NO_COLOR", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the CLI starts");
        Running { child }
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
