//! What people type: `canasta-agent`, `canasta-agent join`, `canasta-agent status`. Data goes to stdout, all else to stderr.

mod join;
mod status;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::service;

/// Done.
pub(crate) const DONE: u8 = 0;
/// It failed, or a fault was found.
pub(crate) const FAILED: u8 = 1;
/// The command is not right.
pub(crate) const USAGE: u8 = 2;
/// The service can't be reached.
pub(crate) const UNREACHABLE: u8 = 3;
/// The caller may not do that.
pub(crate) const NOT_ALLOWED: u8 = 4;

/// Manages this node for the Canasta controller.
///
/// Without a command it runs the service, as systemd does.
#[derive(Debug, Parser)]
#[command(
    name = "canasta-agent",
    version,
    after_help = "Example:\n  sudo canasta-agent join --controller ctl:7440 --token-file token.txt"
)]
pub struct CommandLine {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the service until it is told to stop.
    #[command(after_help = "Example:\n  systemctl start canasta-agent     # the usual way")]
    Run,
    /// Makes this node a member of a fleet.
    ///
    /// The token comes from `canasta host add --name NAME` on the controller. It is good for one hour and one use.
    #[command(
        after_help = "Examples:\n  sudo canasta-agent join --controller ctl:7440 --token-file token.txt\n  ssh ctl canasta host token w1 | sudo canasta-agent join --controller ctl --token-file -"
    )]
    Join(JoinArgs),
    /// Tells what the agent on this node is doing.
    #[command(after_help = "Example:\n  sudo canasta-agent status --output json")]
    Status(StatusArgs),
    /// Takes away mounts and files for the service, in a unit of its own; nothing for people.
    #[command(name = canasta_host::removal::unit::COMMAND, hide = true, after_help = "Example:\n  the service calls it by itself")]
    Remove {
        /// Where the request lies.
        directory: PathBuf,
    },
    /// Works outside of the service's sandbox for it, in a unit of its own; nothing for people.
    #[command(name = canasta_host::outside::unit::COMMAND, hide = true, after_help = "Example:\n  the service calls it by itself")]
    Work {
        /// Where the request lies.
        directory: PathBuf,
    },
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Lines for people.
    Text,
    /// Lines of JSON for programs.
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct JoinArgs {
    /// The controller.
    #[arg(long, value_name = "ADDR[:PORT]")]
    controller: String,
    #[command(flatten)]
    token: TokenSource,
    /// Where the controller should dial this node, if not at the address that it comes from.
    #[arg(long, value_name = "ADDR[:PORT]")]
    advertise: Option<String>,
    /// The name that the token must be for.
    #[arg(long)]
    name: Option<String>,
    /// How to print.
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
pub(crate) struct TokenSource {
    /// The join token. Other users of this machine can see it in the list of processes; --token-file avoids that.
    #[arg(long)]
    token: Option<String>,
    /// A file with the join token; `-` is standard input.
    #[arg(long, value_name = "PATH|-")]
    token_file: Option<PathBuf>,
}

impl std::fmt::Debug for TokenSource {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("TokenSource")
            .field("token", &self.token.as_ref().map(|_| "redacted"))
            .field("token_file", &self.token_file)
            .finish()
    }
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// How to print.
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

impl CommandLine {
    /// Does what was typed, and answers with how the program should end.
    pub async fn run(self) -> ExitCode {
        let code = match self.command {
            None | Some(Command::Run) => match service::run().await {
                Ok(()) => DONE,
                Err(error) => {
                    tell_error(
                        &error.to_string(),
                        &canasta_transport::status::chain(&error),
                        &error.hint(),
                    );
                    FAILED
                }
            },
            Some(Command::Join(args)) => join::run(args).await,
            Some(Command::Status(args)) => status::run(&args).await,
            Some(Command::Remove { directory }) => {
                answered(&directory, canasta_host::removal::unit::serve(&directory))
            }
            Some(Command::Work { directory }) => answered(
                &directory,
                canasta_host::outside::unit::serve(&directory).await,
            ),
        };
        ExitCode::from(code)
    }
}

/// How the program ends that did what the service asked for in a directory.
fn answered(directory: &Path, done: std::io::Result<()>) -> u8 {
    let Err(error) = done else {
        return DONE;
    };
    tell_error(
        &format!("failed to do what is asked in {}", directory.display()),
        &[error.to_string()],
        "",
    );
    FAILED
}

/// Prints an error as every program of the project does.
#[expect(clippy::print_stderr, reason = "this is the command line")]
pub fn tell_error(message: &str, causes: &[String], hint: &str) {
    eprintln!("error: {message}");
    for cause in causes {
        eprintln!("  Caused by: {cause}");
    }
    if !hint.is_empty() {
        eprintln!("hint: {hint}");
    }
}

/// Prints data.
#[expect(clippy::print_stdout, reason = "this is the command line")]
pub(crate) fn print(line: &str) {
    println!("{line}");
}

/// Prints what is not data.
#[expect(clippy::print_stderr, reason = "this is the command line")]
pub(crate) fn remark(line: &str) {
    eprintln!("{line}");
}

/// Prints a value as a line of JSON.
pub(crate) fn print_json(value: &impl serde::Serialize) {
    print(&serde_json::to_string(value).expect("text and numbers alone"));
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::CommandLine;

    #[test]
    fn the_definition_is_sound_and_every_command_has_an_example() {
        let command = CommandLine::command();
        command.clone().debug_assert();
        for one in std::iter::once(&command).chain(command.get_subcommands()) {
            let help = one
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(help.starts_with("Example"), "{}", one.get_name());
        }
    }

    #[test]
    fn a_join_needs_one_source_of_the_token() {
        let parse = |arguments: &[&str]| {
            CommandLine::try_parse_from([&["canasta-agent", "join"], arguments].concat())
        };
        assert!(parse(&["--controller", "ctl"]).is_err());
        assert!(parse(&["--controller", "ctl", "--token", "x", "--token-file", "y"]).is_err());
        assert!(parse(&["--controller", "ctl", "--token-file", "-"]).is_ok());
        let shown = format!(
            "{:?}",
            parse(&["--controller", "ctl", "--token", "canasta-join.secret"]).expect("good")
        );
        assert!(!shown.contains("secret"), "{shown}");
    }
}
