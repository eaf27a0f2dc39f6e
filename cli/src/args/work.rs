//! Commands about what runs on the hosts: install, clusters, operations.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `canasta install …`
#[derive(Debug, Args)]
pub(crate) struct InstallArguments {
    /// What to install: k8s-cp, or k8s-worker.
    #[arg(value_name = "PACKAGE")]
    pub(crate) packages: Vec<String>,
    /// The host to install it on; workers may be several, each with a --host of its own.
    #[arg(short = 'H', long = "host", value_name = "HOST")]
    pub(crate) hosts: Vec<String>,
    /// The control plane that a worker joins.
    #[arg(long, value_name = "HOST")]
    pub(crate) cp_host: Option<String>,
    /// An address or name that the cluster's API must be reachable by; give it again for more. Replaces earlier ones.
    #[arg(long = "public-ip", value_name = "ADDR")]
    pub(crate) public_ips: Vec<String>,
    /// The version of k3s; by default what runs already, or the controller's default.
    #[arg(long, value_name = "V")]
    pub(crate) k3s_version: Option<String>,
    /// The cluster's name; by default the host's.
    #[arg(long, value_name = "NAME")]
    pub(crate) cluster: Option<String>,
    /// Take over a k3s that someone else installed; nothing on the host is changed or restarted.
    #[arg(long, conflicts_with_all = ["public_ips", "k3s_version"])]
    pub(crate) adopt: bool,
    /// Only show what would be done.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Start it and return at once.
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) detach: bool,
    /// A finding that is not to keep a worker from joining; give it again for more. Only admins may.
    #[arg(long, value_name = "CODE", value_delimiter = ',')]
    pub(crate) ignore_findings: Vec<String>,
}

/// `canasta uninstall …`
#[derive(Debug, Args)]
pub(crate) struct UninstallArguments {
    /// What to uninstall: k8s.
    #[arg(value_name = "PACKAGE")]
    pub(crate) packages: Vec<String>,
    /// The host to uninstall it from.
    #[arg(short = 'H', long = "host", value_name = "HOST")]
    pub(crate) hosts: Vec<String>,
    /// Destroy what would keep it from being uninstalled, after it was named. Only admins may.
    #[arg(long)]
    pub(crate) force: bool,
    /// Don't ask for confirmation.
    #[arg(long)]
    pub(crate) yes: bool,
    /// Only show what would be done and lost.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Start it and return at once.
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) detach: bool,
    /// A flag of the old system that is not needed.
    #[arg(long, value_name = "HOST", hide = true)]
    pub(crate) cp_host: Option<String>,
}

/// `canasta cluster …`
#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// List the clusters with their nodes.
    #[command(after_help = "Example: canasta cluster list --output json")]
    List,
    /// Show one cluster: its nodes as its API sees them and as their agents see them.
    #[command(after_help = "Example: canasta cluster show cp1")]
    Show {
        /// The cluster's name.
        name: String,
    },
    /// Forget a cluster whose nodes are gone for good; nothing is changed on any host.
    #[command(after_help = "Example: canasta cluster forget cp1")]
    Forget {
        /// The cluster's name.
        name: String,
    },
}

/// `canasta node …`
#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// List the nodes of all clusters, or of one.
    #[command(after_help = "Example: canasta node list --cluster cp1")]
    List {
        /// Only those of this cluster.
        #[arg(long, value_name = "NAME")]
        cluster: Option<String>,
    },
    /// Let a node take no new pods; those on it stay.
    #[command(after_help = "Example: canasta node cordon w1")]
    Cordon(NodeArgument),
    /// Let a node take new pods again.
    #[command(after_help = "Example: canasta node uncordon w1")]
    Uncordon(NodeArgument),
    /// Cordon a node and move its pods away, as their disruption budgets allow.
    #[command(
        after_help = "Example: canasta node drain w1 --timeout 600\n\nCtrl-C leaves the command (exit code 130); the operation goes on."
    )]
    Drain {
        #[command(flatten)]
        node: NodeArgument,
        /// For how many seconds refused evictions are tried again; by default as long as the controller says.
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
        timeout: Option<u32>,
        /// Start it and return at once.
        #[arg(long)]
        detach: bool,
    },
}

/// `canasta kubeconfig …`
#[derive(Debug, Subcommand)]
pub(crate) enum KubeconfigCommand {
    /// Print a kubeconfig of one cluster; it holds an administrator's key.
    #[command(after_help = "Example: canasta kubeconfig get --cluster cp1")]
    Get(KubeconfigArguments),
    /// Put a cluster into your kubeconfig; the other entries stay as they are.
    #[command(after_help = "Example: canasta kubeconfig merge --cluster cp1 --server 203.0.113.7")]
    Merge {
        #[command(flatten)]
        of: KubeconfigArguments,
        /// The file; by default the first of $KUBECONFIG, or ~/.kube/config.
        #[arg(long, value_name = "PATH")]
        file: Option<PathBuf>,
    },
}

/// Which cluster's API, and where.
#[derive(Debug, Args)]
pub(crate) struct KubeconfigArguments {
    /// The cluster.
    #[arg(long, value_name = "NAME")]
    pub(crate) cluster: String,
    /// The address or name to reach its API at; by default the first of its own that answers from here.
    #[arg(long, value_name = "ADDR")]
    pub(crate) server: Option<String>,
}

/// A node by name.
#[derive(Debug, Args)]
pub(crate) struct NodeArgument {
    /// The name of the node, or of its host.
    #[arg(value_name = "NODE")]
    pub(crate) name: String,
    /// Its cluster; needed where several have such a node.
    #[arg(long, value_name = "NAME")]
    pub(crate) cluster: Option<String>,
}

/// `canasta operation …`
#[derive(Debug, Subcommand)]
pub(crate) enum OperationCommand {
    /// List operations, newest first.
    #[command(after_help = "Example: canasta operation list --host cp1")]
    List {
        /// Only those of this host.
        #[arg(short = 'H', long, value_name = "HOST")]
        host: Option<String>,
        /// How many, at most 500.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=500))]
        limit: u32,
    },
    /// Show one operation with its steps.
    #[command(after_help = "Example: canasta operation show 0199b2c4")]
    Show {
        /// Its id, or the beginning of it.
        id: String,
    },
    /// Follow an operation from its first event to its end.
    #[command(
        after_help = "Example: canasta operation watch 0199b2c4\n\nCtrl-C leaves the command (exit code 130); the operation goes on."
    )]
    Watch {
        /// Its id, or the beginning of it.
        id: String,
    },
    /// Stop an operation at the end of its running step.
    #[command(after_help = "Example: canasta operation cancel 0199b2c4")]
    Cancel {
        /// Its id, or the beginning of it.
        id: String,
    },
}
