//! One session over the system's ssh, in which a new host gets the agent and its join. Called by
//! `canasta host add --ssh`, and the only place of the CLI that starts a process.
//!
//! The other side is the fixed program `ssh/remote.sh`, given to ssh as its command. It tells what the machine is, then takes
//! the package and the join over its standard input, each behind a line with its length: nothing that anybody typed and no
//! secret stands in a command. ssh itself asks for what it needs (the key of a host, a password) on the terminal.

#![expect(
    clippy::disallowed_types,
    reason = "the system's ssh is started here, with its configuration, its agent and its prompts"
)]

mod facts;
mod said;
mod target;
#[cfg(test)]
mod tests;

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use canasta_proto::name::HostName;
use canasta_proto::package::Format;
use canasta_proto::pb::{ErrorReport, Evidence};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Take};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

pub(crate) use self::facts::{AgentStatus, Facts};
use self::said::Said;
pub(crate) use self::target::Target;
use crate::error::Error;
use crate::paths;

/// The other side. It does without single quotes, so that it is one word for the shell that ssh gives it to.
const REMOTE: &str = include_str!("ssh/remote.sh");
/// Begins each line that the other side means; all else was printed by somebody's login.
const MARK: &str = "canasta-ssh: ";
/// The most that the other side may tell.
const MOST_TOLD: u64 = 1024 * 1024;
/// How long ssh may take to end when all was said.
const ENDING: Duration = Duration::from_secs(10);
/// The exit code with which ssh tells of itself.
const OWN_FAILURE: i32 = 255;

/// What ssh is told beside the address. The user's configuration stands, but for what would get in the way of one session
/// without a terminal on the other side.
const OPTIONS: &[&str] = &[
    "-T",
    "-a",
    "-x",
    "-oClearAllForwardings=yes",
    "-oRemoteCommand=none",
    "-oConnectTimeout=30",
    "-oServerAliveInterval=15",
    "-oServerAliveCountMax=4",
];

/// A session. ssh ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Session {
    host: HostName,
    target: Target,
    child: Child,
    /// Gone when the other side no longer reads.
    stdin: Option<ChildStdin>,
    stdout: BufReader<Take<ChildStdout>>,
    said: Said,
}

/// What came of a join.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// What the agent says of itself afterwards.
    pub(crate) agent: Option<AgentStatus>,
    /// Whether it goes on trying.
    pub(crate) trying: bool,
    /// The end of its journal.
    pub(crate) journal: Vec<String>,
}

impl Session {
    /// Starts ssh and hears what the machine is.
    ///
    /// # Errors
    /// When ssh can't be started or does not get there.
    pub(crate) async fn open(target: Target, host: HostName) -> Result<(Self, Facts), Error> {
        // Without a terminal there is nobody to ask.
        let interactive = std::fs::File::open(paths::TERMINAL).is_ok();
        let mut command = Command::new("ssh");
        command.args(OPTIONS);
        if !interactive {
            command.arg("-oBatchMode=yes");
        }
        command
            .args(["--", target.as_str()])
            .arg(remote_command())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().map_err(|source| Error::Local {
            message: "failed to start ssh".to_owned(),
            hint: format!(
                "install it (Debian, Ubuntu: openssh-client; Fedora, SUSE: openssh-clients); or do without: {}",
                by_hand(&host)
            ),
            source: Some(Box::new(source)),
        })?;
        let (Some(stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(Error::local("ssh was started without pipes", ""));
        };
        let mut session = Self {
            host,
            target,
            child,
            stdin: Some(stdin),
            stdout: BufReader::new(stdout.take(MOST_TOLD)),
            said: Said::listen(stderr, interactive),
        };
        let mut facts = Facts::default();
        loop {
            let line = session.line().await?;
            // Prompts are over: what comes on its standard error now is kept for the end.
            session.said.keep();
            match split(&line) {
                ("ready", _) => return Ok((session, facts)),
                (word, rest) => facts.take(word, rest),
            }
        }
    }

    /// Hands over a package and has it installed.
    ///
    /// # Errors
    /// When the package manager refuses it or the session ends.
    pub(crate) async fn install(&mut self, format: Format, package: &[u8]) -> Result<(), Error> {
        let (install, size) = (format.ending(), package.len());
        self.send(&format!("install {install} {size}\n"), package)
            .await;
        let mut log = Vec::new();
        loop {
            let line = self.line().await?;
            match split(&line) {
                ("ok", _) => return Ok(()),
                ("log", rest) => log.push(rest.to_owned()),
                ("failed", _) => {
                    let message =
                        format!("failed to install the agent's package on '{}'", self.host);
                    let mut report = self.report("AGENT_PACKAGE_FAILED", message);
                    report.hint = format!(
                        "mend it on {} and run this again; the host is not registered by this",
                        self.host
                    );
                    report.evidence = evidence("output of the package manager", &self.host, log);
                    return Err(Error::Failed(report));
                }
                _ => {}
            }
        }
    }

    /// Hands over a join and waits until the agent has used it, or has not within half a minute.
    ///
    /// # Errors
    /// When it can't be handed over or the session ends.
    pub(crate) async fn join(&mut self, file: &str) -> Result<Outcome, Error> {
        self.send(&format!("join toml {}\n", file.len()), file.as_bytes())
            .await;
        self.outcome("hand the join over to").await
    }

    /// Has an agent that is a member already join again, with a new token.
    ///
    /// # Errors
    /// When it does not, with what it said, or the session ends.
    pub(crate) async fn rejoin(&mut self, controller: &str, token: &str) -> Result<Outcome, Error> {
        let line = format!("rejoin {controller} {}\n", token.len());
        self.send(&line, token.as_bytes()).await;
        self.outcome("have the agent join again on").await
    }

    /// What a join came to; `done` is what the session was to do.
    async fn outcome(&mut self, done: &str) -> Result<Outcome, Error> {
        let mut outcome = Outcome::default();
        loop {
            let line = self.line().await?;
            match split(&line) {
                ("ok", _) => return Ok(outcome),
                ("status", rest) => outcome.agent = serde_json::from_str(rest).ok(),
                ("trying", _) => outcome.trying = true,
                ("log", rest) => outcome.journal.push(rest.to_owned()),
                ("failed", _) => {
                    let message = format!("failed to {done} '{}'", self.host);
                    let mut report = self.report("JOIN_FAILED", message);
                    report.evidence = evidence("what the host said", &self.host, outcome.journal);
                    return Err(Error::Failed(report));
                }
                _ => {}
            }
        }
    }

    /// Ends the session; the other side clears up what it made.
    pub(crate) async fn close(mut self) {
        self.send("end\n", b"").await;
        drop(self.stdin.take());
        self.end().await;
    }

    async fn send(&mut self, line: &str, bytes: &[u8]) {
        let Some(stdin) = &mut self.stdin else {
            return;
        };
        let sent = async {
            stdin.write_all(line.as_bytes()).await?;
            stdin.write_all(bytes).await?;
            stdin.flush().await
        };
        if sent.await.is_err() {
            // The other side has gone away. What it said last tells why.
            self.stdin = None;
        }
    }

    /// The next line that the other side means.
    async fn line(&mut self) -> Result<String, Error> {
        loop {
            let mut line = Vec::new();
            match self.stdout.read_until(b'\n', &mut line).await {
                Ok(0) | Err(_) => return Err(self.broken().await),
                Ok(_) => {}
            }
            let line = String::from_utf8_lossy(&line);
            // A login may have printed something without an end of line before it.
            if let Some((_, meant)) = line.split_once(MARK) {
                return Ok(meant.trim_end().to_owned());
            }
        }
    }

    async fn end(&mut self) -> Option<ExitStatus> {
        tokio::time::timeout(ENDING, self.child.wait())
            .await
            .ok()?
            .ok()
    }

    /// The session ended before all was said.
    async fn broken(&mut self) -> Error {
        drop(self.stdin.take());
        let ended = self.end().await;
        let code = ended.and_then(|status| status.code());
        let message = if code == Some(OWN_FAILURE) {
            format!("failed to reach '{}' by ssh to {}", self.host, self.target)
        } else {
            let how = ended.map_or_else(|| "did not end".to_owned(), |status| status.to_string());
            format!(
                "the session with '{}' by ssh to {} ended early ({how})",
                self.host, self.target
            )
        };
        let mut report = self.report("SSH_FAILED", message);
        report.causes = self.said.last().await;
        report.hint = format!(
            "see that `ssh {} true` works; or do without ssh: {}",
            self.target,
            by_hand(&self.host)
        );
        Error::Failed(report)
    }

    fn report(&self, reason: &str, message: String) -> Box<ErrorReport> {
        Box::new(ErrorReport {
            reason: reason.to_owned(),
            message,
            subject: format!("host {}", self.host),
            ..ErrorReport::default()
        })
    }
}

/// The other way in.
pub(crate) fn by_hand(host: &HostName) -> String {
    format!(
        "install the package canasta-agent there, run `canasta host add --name {host}`, and on the host the command that it prints"
    )
}

/// Lines of the other side for an error; nothing where there are none.
pub(crate) fn evidence(title: &str, host: &HostName, lines: Vec<String>) -> Vec<Evidence> {
    if lines.is_empty() {
        return Vec::new();
    }
    vec![Evidence {
        title: title.to_owned(),
        source: format!("ssh to {host}"),
        lines,
        at: None,
    }]
}

/// The command that ssh hands over: the same for all. The program is its own argument too, so that it can run once more as
/// root.
fn remote_command() -> String {
    format!("exec sh -c 'eval \"$1\"' sh '{REMOTE}'")
}

/// A line's first word and the rest.
fn split(line: &str) -> (&str, &str) {
    line.split_once(' ').unwrap_or((line, ""))
}
