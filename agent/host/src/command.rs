//! The one place of the agent that starts processes.
//!
//! Programs are started directly, with an argument vector, an empty stdin and an environment of `PATH` and `LANG` only. Each has a
//! time limit after which it and its children are killed, and a cap on the output that is kept.

#![expect(
    clippy::disallowed_types,
    reason = "this is the module that the ban points to"
)]

use std::ffi::{OsStr, OsString};
use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

#[cfg(test)]
mod tests;

/// Where programs are looked for; the agent's own environment doesn't matter.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How much of stderr goes into an error.
const STDERR_TAIL: usize = 2048;

/// A program that didn't do its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The program couldn't be started: not installed, not executable, out of processes.
    #[error("failed to start {program}")]
    NotStarted {
        /// The program as it was called.
        program: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The program ran and ended with something other than success.
    #[error("failed to run {program} {}: {status}{}", args.join(" "), stderr_text(stderr_tail))]
    Failed {
        /// The program as it was called.
        program: String,
        /// Its arguments.
        args: Vec<String>,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it wrote to stderr.
        stderr_tail: String,
    },
    /// The program was killed because it took too long.
    #[error("failed to run {program} {} within {} s, it was killed{}", args.join(" "), limit.as_secs_f32(), stderr_text(stderr_tail))]
    TimedOut {
        /// The program as it was called.
        program: String,
        /// Its arguments.
        args: Vec<String>,
        /// The time that it had.
        limit: Duration,
        /// The end of what it wrote to stderr until then.
        stderr_tail: String,
    },
    /// The program runs, but its output couldn't be read.
    #[error("failed to read the output of {program}")]
    Output {
        /// The program as it was called.
        program: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// Whether the reason is that no such program is installed.
    pub fn is_missing_program(&self) -> bool {
        matches!(self, Self::NotStarted { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// What a program that succeeded wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The beginning of stdout, up to the cap.
    pub stdout: Vec<u8>,
    /// The beginning of stderr, up to the cap.
    pub stderr: Vec<u8>,
    /// Whether stdout was longer than the cap.
    pub truncated: bool,
}

/// Runs a program to its end, at most `limit`, and keeps at most `cap` bytes of its stdout and of its stderr. Output beyond the cap
/// is read and thrown away, so the program isn't held up by it.
pub async fn run<I>(program: &str, args: I, limit: Duration, cap: usize) -> Result<Output, Error>
where
    I: IntoIterator,
    I::Item: AsRef<OsStr>,
{
    run_with_input(program, args, &[], limit, cap).await
}

/// As [`run`], with something to read on stdin.
pub async fn run_with_input<I>(
    program: &str,
    args: I,
    input: &[u8],
    limit: Duration,
    cap: usize,
) -> Result<Output, Error>
where
    I: IntoIterator,
    I::Item: AsRef<OsStr>,
{
    let args: Vec<OsString> = args
        .into_iter()
        .map(|arg| arg.as_ref().to_owned())
        .collect();
    let ended = run_to_end(program, &args, &[], input, limit, cap).await?;
    if ended.status.success() {
        return Ok(ended.output);
    }
    Err(Error::Failed {
        program: program.to_owned(),
        args: shown(&args),
        status: ended.status,
        stderr_tail: tail_text(&ended.output.stderr),
    })
}

/// A program that ran to its end, well or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote.
    pub output: Output,
}

/// As [`run_with_input`], with more in the environment than `PATH` and `LANG`; to end other than well is no error here, for
/// programs that tell on stdout what went wrong.
pub async fn run_to_end(
    program: &str,
    args: &[OsString],
    environment: &[(String, String)],
    input: &[u8],
    limit: Duration,
    cap: usize,
) -> Result<Ended, Error> {
    let mut child = Command::new(program)
        .args(args)
        .env_clear()
        .env("PATH", PATH)
        .env("LANG", "C")
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(if input.is_empty() {
            Stdio::null()
        } else {
            Stdio::piped()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| Error::NotStarted {
            program: program.to_owned(),
            source,
        })?;
    let mut group = Group::of(&child);
    let (mut stdout, mut stderr) = (Capture::new(cap), Capture::new(cap));
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let stdin = child.stdin.take();
    let work = async {
        tokio::try_join!(stdout.read(out), stderr.read(err), feed(stdin, input))?;
        child.wait().await
    };
    let ended = tokio::time::timeout(limit, work).await;
    match ended {
        Err(_) => Err(Error::TimedOut {
            program: program.to_owned(),
            args: shown(args),
            limit,
            stderr_tail: tail_text(&stderr.kept),
        }),
        Ok(Err(source)) => Err(Error::Output {
            program: program.to_owned(),
            source,
        }),
        Ok(Ok(status)) => {
            group.ended();
            let output = Output {
                stdout: stdout.kept,
                stderr: stderr.kept,
                truncated: stdout.cut,
            };
            Ok(Ended { status, output })
        }
    }
}

fn shown(args: &[OsString]) -> Vec<String> {
    args.iter()
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect()
}

/// Writes the input and closes it. A program that ends before it has read all says so by how it ends.
async fn feed(stdin: Option<tokio::process::ChildStdin>, input: &[u8]) -> io::Result<()> {
    if let Some(mut stdin) = stdin {
        match stdin.write_all(input).await {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// The process group of a child; killed when this is dropped before the child has ended.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &tokio::process::Child) -> Self {
        Self(
            child
                .id()
                .and_then(|pid| i32::try_from(pid).ok())
                .map(Pid::from_raw),
        )
    }

    /// The leader has been waited for; its number may belong to someone else from now on.
    fn ended(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            // A group that is gone already is what is wanted.
            let _ = killpg(pid, Signal::SIGKILL);
        }
    }
}

/// The first bytes of a stream.
struct Capture {
    kept: Vec<u8>,
    cap: usize,
    cut: bool,
}

impl Capture {
    fn new(cap: usize) -> Self {
        Self {
            kept: Vec::new(),
            cap,
            cut: false,
        }
    }

    async fn read(&mut self, stream: Option<impl AsyncRead + Unpin>) -> io::Result<()> {
        let Some(mut stream) = stream else {
            return Ok(());
        };
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let length = stream.read(&mut buffer).await?;
            if length == 0 {
                return Ok(());
            }
            let room = self.cap - self.kept.len();
            self.kept.extend_from_slice(&buffer[..length.min(room)]);
            self.cut |= length > room;
        }
    }
}

fn tail_text(stderr: &[u8]) -> String {
    let from = stderr.len().saturating_sub(STDERR_TAIL);
    String::from_utf8_lossy(&stderr[from..]).trim().to_owned()
}

fn stderr_text(tail: &str) -> String {
    if tail.is_empty() {
        String::new()
    } else {
        format!(": {tail}")
    }
}
