//! What can be typed. Types for clap and nothing else; [`crate::commands`] acts on them.

mod fleet;
mod storage;
mod work;

pub(crate) use fleet::{
    ArtefactCommand, ContextCommand, HostAdd, HostCommand, UserCommand, UserRole,
};
pub(crate) use storage::{NfsBackend, RemoveStorage, SetupNfs, SetupStorage, StorageCommand};
pub(crate) use work::{
    ClusterCommand, InstallArguments, KubeconfigArguments, KubeconfigCommand, NodeArgument,
    NodeCommand, OperationCommand, UninstallArguments,
};

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Manages the machines under multi-node Kubernetes for Canasta, without SSH.
#[derive(Debug, Parser)]
#[command(
    name = "canasta",
    version,
    max_term_width = 100,
    after_help = "Examples:\n  canasta host add --name cp1\n  canasta install k8s-cp --host cp1\n  canasta cluster list\n\n\
                  Exit codes: 0 done, 1 the operation failed or a check found a fault, 2 wrong usage, 3 the controller can't be reached, 4 not allowed, 130 left with Ctrl-C while the operation goes on"
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of every command.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// How to print: for people, or for programs.
    #[arg(long, global = true, value_enum, default_value_t = Format::Table, value_name = "FORMAT", help_heading = "Global options")]
    pub(crate) output: Format,

    /// The context to use instead of the current one.
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        help_heading = "Global options"
    )]
    pub(crate) context: Option<String>,
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Tables and sentences.
    Table,
    /// JSON; long work as one JSON object a line.
    Json,
    /// YAML; long work as one YAML document an event.
    Yaml,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Add, show and remove hosts.
    #[command(subcommand, after_help = "Example: canasta host add --name cp1")]
    Host(HostCommand),
    /// Install Kubernetes: a control plane on a host, or workers that join one.
    #[command(
        after_help = "Examples:\n  canasta install k8s-cp --host cp1\n  canasta install k8s-cp --host cp1 --public-ip 203.0.113.7 --dry-run\n  \
                      canasta install k8s-worker --host w1 --host w2 --cp-host cp1\n\n\
                      Ctrl-C leaves the command (exit code 130); the operation goes on, and `canasta operation watch ID` shows it again."
    )]
    Install(InstallArguments),
    /// Uninstall Kubernetes from a host, after showing what would be lost.
    #[command(
        after_help = "Examples:\n  canasta uninstall k8s --host w1 --dry-run\n  canasta uninstall k8s --host w1\n\n\
                      Ctrl-C leaves the command (exit code 130); the operation goes on, and `canasta operation watch ID` shows it again."
    )]
    Uninstall(UninstallArguments),
    /// Show clusters and their nodes, and forget clusters that are gone.
    #[command(subcommand, after_help = "Example: canasta cluster list")]
    Cluster(ClusterCommand),
    /// List nodes, and keep pods from them.
    #[command(subcommand, after_help = "Example: canasta node drain w1")]
    Node(NodeCommand),
    /// Show what volumes the clusters can have, and set up, prove and remove their shared storage.
    #[command(subcommand, after_help = "Example: canasta storage list")]
    Storage(StorageCommand),
    /// Get what kubectl needs to reach a cluster.
    #[command(
        subcommand,
        after_help = "Example: canasta kubeconfig merge --cluster cp1"
    )]
    Kubeconfig(KubeconfigCommand),
    /// Show, follow and cancel operations.
    #[command(subcommand, after_help = "Example: canasta operation list")]
    Operation(OperationCommand),
    /// Show and import the releases that the controller gives to its hosts.
    #[command(subcommand, after_help = "Example: canasta artefact list")]
    Artefact(ArtefactCommand),
    /// Add, list and remove the people who may use the controller.
    #[command(
        subcommand,
        after_help = "Example: canasta user add anna --role operator"
    )]
    User(UserCommand),
    /// Say which controller this CLI talks to.
    #[command(subcommand, after_help = "Example: canasta context list")]
    Context(ContextCommand),
    /// Show who did what.
    #[command(after_help = "Example: canasta audit --limit 20")]
    Audit {
        /// How many rows, newest first, at most 1000.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
    },
    /// Show the versions of this CLI and of the controller, and who you are to it.
    #[command(after_help = "Example: canasta version")]
    Version,
    /// Writes man page and completions, for packages.
    #[command(hide = true)]
    GenerateDocs {
        /// An existing directory.
        directory: std::path::PathBuf,
    },
}
