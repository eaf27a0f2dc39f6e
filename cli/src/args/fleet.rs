//! Commands about who and what belongs to the fleet: hosts, artefacts, users, contexts.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// `canasta host …`
#[derive(Debug, Subcommand)]
pub(crate) enum HostCommand {
    /// Add a host: print the one command to run on it, or do all of it over ssh.
    #[command(
        after_help = "Examples:\n  canasta host add --name cp1 --address 10.0.0.5\n  canasta host add --name w3 --ssh root@10.0.0.7\n  \
                      canasta host add --name w4 --ssh admin@w4 --package ./canasta-agent_0.1.0-1_arm64.deb\n\n\
                      With --ssh the system's ssh is used once, with its configuration, its keys and its questions: the agent's\n\
                      package is installed, as root or with a sudo that asks for no password, and joins. Run it again to go on."
    )]
    Add(HostAdd),
    /// List the hosts.
    #[command(after_help = "Example: canasta host list --output json")]
    List,
    /// Show one host.
    #[command(after_help = "Example: canasta host show cp1 --refresh")]
    Show {
        #[command(flatten)]
        host: HostArgument,
        /// Ask its agent now instead of showing what it told last.
        #[arg(long)]
        refresh: bool,
    },
    /// Remove a host; its certificate ends at once.
    #[command(after_help = "Example: canasta host remove cp1")]
    Remove {
        #[command(flatten)]
        host: HostArgument,
        /// The machine is gone for good: take its node out of its cluster, too.
        #[arg(long)]
        force: bool,
    },
    /// Make a new join token for a known host.
    #[command(after_help = "Example: canasta host token cp1")]
    Token(HostArgument),
}

/// A host to add.
#[derive(Debug, Args)]
pub(crate) struct HostAdd {
    /// The host's name in the fleet.
    #[arg(long, value_name = "NAME")]
    pub(crate) name: String,
    /// Where the controller reaches it, ADDR or ADDR:PORT; by default what the host says when it joins.
    #[arg(long, value_name = "ADDR")]
    pub(crate) address: Option<String>,
    /// Install the agent there and have it join, in one session of ssh.
    #[arg(long, value_name = "USER@ADDR")]
    pub(crate) ssh: Option<String>,
    /// The agent's .deb or .rpm to install there; by default the one that the controller keeps for such a machine.
    #[arg(long, value_name = "FILE", requires = "ssh")]
    pub(crate) package: Option<PathBuf>,
}

/// A host by name: as a word, or as the old system's `--name`.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct HostArgument {
    /// The host's name.
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// The same as a flag.
    #[arg(long = "name", value_name = "NAME", hide = true)]
    flag: Option<String>,
}

impl HostArgument {
    /// The name that was given; clap sees to it that one is.
    pub(crate) fn into_name(self) -> String {
        self.name.or(self.flag).unwrap_or_default()
    }
}

/// `canasta artefact …`
#[derive(Debug, Subcommand)]
pub(crate) enum ArtefactCommand {
    /// List what the controller keeps.
    #[command(after_help = "Example: canasta artefact list")]
    List,
    /// Give the controller a file: a release of k3s, or a package of the agent.
    #[command(
        after_help = "Examples:\n  canasta artefact import k3s ./k3s --version v1.34.8+k3s1\n  canasta artefact import agent ./canasta-agent_0.1.0-1_arm64.deb"
    )]
    Import {
        /// What it is.
        #[arg(value_parser = ["k3s", "agent"])]
        name: String,
        /// The file.
        file: PathBuf,
        /// The version of k3s; a package of the agent says its own.
        #[arg(long, value_name = "V")]
        version: Option<String>,
    },
}

/// `canasta user …`
#[derive(Debug, Subcommand)]
pub(crate) enum UserCommand {
    /// Add a user, and print the one command to run on the user's machine.
    #[command(after_help = "Example: canasta user add anna --role operator")]
    Add {
        /// The name.
        name: String,
        /// What the user may do.
        #[arg(long, value_enum)]
        role: UserRole,
    },
    /// List the users.
    #[command(after_help = "Example: canasta user list")]
    List,
    /// Remove a user; the certificate ends at once.
    #[command(after_help = "Example: canasta user remove anna")]
    Remove {
        /// The name.
        name: String,
    },
}

/// What a user may do.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum UserRole {
    /// Read, without logs and secrets.
    Viewer,
    /// Also change what runs on the hosts.
    Operator,
    /// Also change who and what belongs to the fleet.
    Admin,
}

/// `canasta context …`
#[derive(Debug, Subcommand)]
pub(crate) enum ContextCommand {
    /// Add a controller, with the token that `canasta user add` printed there.
    #[command(
        after_help = "Example: canasta context add production --controller ctl.example.org --token-file ./token"
    )]
    Add {
        /// A name of your choice.
        name: String,
        /// Where the controller listens, ADDR or ADDR:PORT.
        #[arg(long, value_name = "ADDR")]
        controller: String,
        /// Refused with what to do instead: a list of processes shows arguments to everybody.
        #[arg(long, value_name = "TOKEN", hide = true)]
        token: Option<String>,
        /// A file that holds the one-use token; `-` is standard input, of which one line is read.
        #[arg(long, value_name = "PATH", required_unless_present = "token")]
        token_file: Option<PathBuf>,
    },
    /// List the contexts.
    #[command(after_help = "Example: canasta context list")]
    List,
    /// Make a context the current one.
    #[command(after_help = "Example: canasta context use production")]
    Use {
        /// Its name; `local` is this machine's own controller.
        name: String,
    },
}
