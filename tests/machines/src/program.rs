//! Starting host programs as argument vectors, and starting them *in a place*: a network
//! namespace and cgroups other than the caller's. Every module of this crate that needs a
//! program comes through here.
//!
//! A place is entered by a thread of its own which then starts the program: a child inherits
//! namespaces and cgroups of the thread that made it, so no helper program and no code between
//! fork and exec is needed, and the caller itself never moves.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sched::{CloneFlags, setns};

/// The search path that programs of the machine and of nodes get.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How much of a failed program's output an error shows, in characters.
const TAIL: usize = 1500;

/// Why a program gave no good answer.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// The program can't be started.
    #[error("failed to start {program}{}", hint(source, program))]
    Start {
        /// What was to be started.
        program: String,
        /// Why it can't be.
        #[source]
        source: io::Error,
    },
    /// The program ran and reported a failure.
    #[error("failed to run `{line}`: {status}{}", indent(tail))]
    Failed {
        /// The program with its arguments.
        line: String,
        /// How it ended.
        status: ExitStatus,
        /// The last lines it printed.
        tail: String,
    },
    /// Talking to the running program failed.
    #[error("failed to exchange data with {program}")]
    Pipe {
        /// The program.
        program: String,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
}

fn hint(source: &io::Error, program: &str) -> String {
    if source.kind() == io::ErrorKind::NotFound {
        format!(": {program} is not installed; run `./dev setup`")
    } else {
        String::new()
    }
}

fn indent(tail: &str) -> String {
    let mut text = String::new();
    for line in tail.lines() {
        text.push_str("\n    ");
        text.push_str(line);
    }
    text
}

/// What a finished program left.
#[derive(Debug, Clone)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Everything it wrote to its standard output.
    pub stdout: Vec<u8>,
    /// Everything it wrote to its standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Standard output as text; bytes that are not UTF-8 are replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text; bytes that are not UTF-8 are replaced.
    pub fn error_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// The exit code as a shell would tell it: 128 plus the signal for a killed program.
    pub fn code(&self) -> i32 {
        exit_code(self.status)
    }
}

/// The exit code as a shell would tell it: 128 plus the signal for a killed program.
pub fn exit_code(status: ExitStatus) -> i32 {
    status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(1)
}

/// Where a program is started: everything that is not set stays as the caller has it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Place {
    /// The network namespace to be in, as a path such as `/run/netns/NAME`.
    pub netns: Option<PathBuf>,
    /// `tasks` files of cgroup v1 directories to be in.
    pub tasks: Vec<PathBuf>,
}

impl Place {
    fn enter(&self) -> io::Result<()> {
        for tasks in &self.tasks {
            std::fs::write(tasks, "0")
                .map_err(|error| io::Error::other(format!("{}: {error}", tasks.display())))?;
        }
        if let Some(path) = &self.netns {
            let file = File::open(path)
                .map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?;
            setns(file, CloneFlags::CLONE_NEWNET)?;
        }
        Ok(())
    }

    /// Runs `work` on a thread of its own that is in this place.
    pub(crate) fn with<T: Send>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send,
    ) -> io::Result<T> {
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.enter()?;
                    work()
                })
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the starting thread panicked")))
        })
    }

    /// Starts `command` in this place.
    pub(crate) fn spawn(&self, command: &mut Command) -> Result<Child, ProgramError> {
        let program = command.get_program().to_string_lossy().into_owned();
        self.with(|| command.spawn())
            .map_err(|source| ProgramError::Start { program, source })
    }

    /// Runs `command` in this place to its end, gives it `input` and takes what it prints.
    pub(crate) fn output(
        &self,
        command: &mut Command,
        input: &[u8],
    ) -> Result<Output, ProgramError> {
        let program = command.get_program().to_string_lossy().into_owned();
        command
            .stdin(if input.is_empty() {
                Stdio::null()
            } else {
                Stdio::piped()
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = self.spawn(command)?;
        let stdin = child.stdin.take();
        let pipe = |source| ProgramError::Pipe {
            program: program.clone(),
            source,
        };
        std::thread::scope(|scope| {
            let writer = scope.spawn(move || match stdin {
                // A program that ends without reading everything is judged by its exit alone.
                Some(mut stdin) => match stdin.write_all(input) {
                    Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
                    _ => Ok(()),
                },
                None => Ok(()),
            });
            let output = child.wait_with_output().map_err(&pipe)?;
            match writer.join() {
                Ok(result) => result.map_err(&pipe)?,
                Err(_) => return Err(pipe(io::Error::other("the writing thread panicked"))),
            }
            Ok(Output {
                status: output.status,
                stdout: output.stdout,
                stderr: output.stderr,
            })
        })
    }
}

/// A command of the machine itself with a known search path.
pub(crate) fn command(argv: &[&str]) -> Command {
    let mut command = Command::new(argv.first().copied().unwrap_or_default());
    command.args(argv.get(1..).unwrap_or_default());
    command.env("PATH", PATH).env("LC_ALL", "C.UTF-8");
    command
}

/// Runs a program of the machine; what it printed is returned, a failure is an error.
pub(crate) fn run(place: &Place, argv: &[&str], input: &[u8]) -> Result<String, ProgramError> {
    let output = place.output(&mut command(argv), input)?;
    checked(argv, output).map(|output| output.text())
}

/// Turns a non-zero exit into an error that shows the end of what was printed.
pub(crate) fn checked(argv: &[&str], output: Output) -> Result<Output, ProgramError> {
    if output.status.success() {
        return Ok(output);
    }
    let mut printed = output.text();
    printed.push_str(&output.error_text());
    Err(ProgramError::Failed {
        line: argv.join(" "),
        status: output.status,
        tail: tail(&printed),
    })
}

/// The end of a long text, cut at a character.
pub(crate) fn tail(text: &str) -> String {
    let skip = text.chars().count().saturating_sub(TAIL);
    text.trim_end().chars().skip(skip).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_names_the_way_to_get_it() {
        let error = run(&Place::default(), &["no-such-program-here"], b"").unwrap_err();
        assert!(error.to_string().contains("./dev setup"), "{error}");
    }

    #[test]
    fn input_goes_in_and_output_comes_out() {
        let text = run(&Place::default(), &["cat"], b"hello").unwrap();
        assert_eq!(text, "hello");
    }

    #[test]
    fn a_failure_shows_arguments_and_what_was_printed() {
        let error = run(&Place::default(), &["ls", "/no/such/directory"], b"").unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("ls /no/such/directory") && text.contains("No such file"),
            "{text}"
        );
    }
}
