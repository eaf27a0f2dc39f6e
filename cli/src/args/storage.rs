//! Commands about the storage of clusters.

use clap::{Args, Subcommand};

/// `canasta storage …`
#[derive(Debug, Subcommand)]
pub(crate) enum StorageCommand {
    /// List the storage classes of all clusters, or of one, and the access modes that volumes of each can have.
    #[command(after_help = "Example: canasta storage list --cluster cp1")]
    List {
        /// Only those of this cluster.
        #[arg(long, value_name = "NAME")]
        cluster: Option<String>,
    },
    /// Give a cluster storage that the pods of several nodes can share.
    #[command(
        subcommand,
        after_help = "Example: canasta storage setup nfs --host cp1 --install-server --share /srv/nfs/canasta"
    )]
    Setup(SetupStorage),
    /// Take a storage class away again, and with `nfs` the export of a host behind it; the data stays.
    #[command(
        subcommand,
        after_help = "Example: canasta storage remove nfs --host cp1 --share /srv/nfs/canasta"
    )]
    Remove(RemoveStorage),
    /// Prove from every host of a cluster that the NFS shares behind its storage classes can be used.
    #[command(
        after_help = "Example: canasta storage check --cluster cp1\n\nEvery host writes a file and changes its owner, reads the file of another one, and removes its own. Exit code 1 when a host can't.\nCtrl-C leaves the command (exit code 130); the operation goes on."
    )]
    Check {
        /// The cluster; by default the only one.
        #[arg(long, value_name = "NAME")]
        cluster: Option<String>,
        /// Start it and return at once.
        #[arg(long)]
        detach: bool,
    },
}

/// `canasta storage setup …`
#[derive(Debug, Subcommand)]
pub(crate) enum SetupStorage {
    /// Export a directory of a host to the nodes of its cluster, or take an NFS server that exists; prove it from every host and make a storage class.
    #[command(
        after_help = "Examples:\n  canasta storage setup nfs --host cp1 --install-server --share /srv/nfs/canasta\n  canasta storage setup nfs --cluster prod --server 192.168.1.10 --share /exports/wiki\n\nA share that a host can't use gets no storage class. Ctrl-C leaves the command (exit code 130); the operation goes on."
    )]
    Nfs(SetupNfs),
}

/// `canasta storage setup nfs`
#[derive(Debug, Args)]
pub(crate) struct SetupNfs {
    /// The host that exports the share; with --server, a host of the cluster that is meant.
    #[arg(short = 'H', long, value_name = "HOST")]
    pub(crate) host: Option<String>,
    /// Have the host export the share, and install the NFS server there if it is missing.
    #[arg(long)]
    pub(crate) install_server: bool,
    /// An NFS server that exports the share already: name or address.
    #[arg(long, value_name = "ADDR")]
    pub(crate) server: Option<String>,
    /// The directory to export, or the path of the share on the server.
    #[arg(long, value_name = "PATH")]
    pub(crate) share: String,
    /// The name of the storage class.
    #[arg(long, value_name = "NAME", default_value = "nfs")]
    pub(crate) storage_class_name: String,
    /// The cluster; by default that of the host, or the only one.
    #[arg(long, value_name = "NAME")]
    pub(crate) cluster: Option<String>,
    /// An address or network beside the nodes that may mount the share; give it again for more. Replaces earlier ones.
    #[arg(long, value_name = "ADDR|CIDR")]
    pub(crate) clients: Vec<String>,
    /// The NFS server that the host runs.
    #[arg(long, value_enum, default_value_t = NfsBackend::Auto)]
    pub(crate) backend: NfsBackend,
    /// Only show what would be done.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Start it and return at once.
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) detach: bool,
}

/// An NFS server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum NfsBackend {
    /// The one that serves already, else that of the kernel where it can be had, else nfs-ganesha.
    Auto,
    /// The server of the kernel.
    Kernel,
    /// nfs-ganesha, a program.
    Ganesha,
}

/// `canasta storage remove …`
#[derive(Debug, Subcommand)]
pub(crate) enum RemoveStorage {
    /// End the export of a host and delete the storage classes on it.
    #[command(
        after_help = "Example: canasta storage remove nfs --host cp1 --share /srv/nfs/canasta"
    )]
    Nfs {
        /// The host that exports the share.
        #[arg(short = 'H', long, value_name = "HOST")]
        host: String,
        /// The directory that it exports.
        #[arg(long, value_name = "PATH")]
        share: String,
        #[command(flatten)]
        how: RemoveHow,
    },
    /// Delete a storage class.
    #[command(after_help = "Example: canasta storage remove class nfs --cluster prod")]
    Class {
        /// Its name.
        name: String,
        #[command(flatten)]
        how: RemoveHow,
    },
}

/// How storage is removed.
#[derive(Debug, Args)]
pub(crate) struct RemoveHow {
    /// The cluster; by default that of the host, or the only one.
    #[arg(long, value_name = "NAME")]
    pub(crate) cluster: Option<String>,
    /// Also where volumes use it; for admins. Their pods can't use them any more once the export has ended.
    #[arg(long)]
    pub(crate) force: bool,
    /// Start it and return at once.
    #[arg(long)]
    pub(crate) detach: bool,
}
