//! The two NFS servers behind one trait.

use std::time::Duration;

use async_trait::async_trait;
use canasta_host::Host;
use canasta_proto::pb;
use canasta_steps::StepError;
use serde::{Deserialize, Serialize};

use super::export::{Foreign, Numbered};
use super::files::Wanted;

pub(super) mod found;
mod ganesha;
mod kernel;

/// How long things may take. Tests use shorter ones.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Refreshing the list of packages, with the wait for a package manager that was left at work.
    pub(crate) refresh: Duration,
    /// Installing packages.
    pub(crate) packages: Duration,
    /// A program of the server, or a look at a directory.
    pub(crate) program: Duration,
    /// From the order to start until the server can be asked. One that waits for DNS takes 10 s.
    pub(crate) start: Duration,
    /// A unit stops.
    pub(crate) stop: Duration,
    /// The grace period: by default 90 s, ours 40 s, and a minute to spare.
    pub(crate) grace: Duration,
    /// Pause between two questions to a server that tells nothing by itself.
    pub(crate) pause: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            refresh: Duration::from_mins(15),
            packages: Duration::from_mins(15),
            program: Duration::from_secs(30),
            start: Duration::from_mins(1),
            stop: Duration::from_mins(2),
            grace: Duration::from_secs(150),
            pause: Duration::from_millis(500),
        }
    }
}

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Backend {
    /// That of the kernel.
    Kernel,
    /// nfs-ganesha.
    Ganesha,
}

impl Backend {
    /// All of them, the preferred one first.
    pub(super) const ALL: [Self; 2] = [Self::Kernel, Self::Ganesha];

    /// Its unit, the same on all distributions.
    pub(super) fn unit(self) -> &'static str {
        match self {
            Self::Kernel => "nfs-server.service",
            Self::Ganesha => "nfs-ganesha.service",
        }
    }

    /// For people.
    pub(super) fn in_words(self) -> &'static str {
        match self {
            Self::Kernel => "the kernel's NFS server",
            Self::Ganesha => "nfs-ganesha",
        }
    }

    /// From the wire; `None` leaves the choice to this node.
    pub(crate) fn from_wire(backend: pb::NfsBackend) -> Option<Self> {
        match backend {
            pb::NfsBackend::Kernel => Some(Self::Kernel),
            pb::NfsBackend::Ganesha => Some(Self::Ganesha),
            pb::NfsBackend::Unspecified => None,
        }
    }

    /// What speaks to it.
    pub(super) fn server(self) -> Box<dyn Server> {
        match self {
            Self::Kernel => Box::new(kernel::Kernel),
            Self::Ganesha => Box::new(ganesha::Ganesha),
        }
    }
}

impl From<Backend> for pb::NfsBackend {
    fn from(backend: Backend) -> Self {
        match backend {
            Backend::Kernel => Self::Kernel,
            Backend::Ganesha => Self::Ganesha,
        }
    }
}

/// An NFS server as the verbs use it.
#[async_trait]
pub(super) trait Server: Send + Sync {
    /// The files that say how it serves, for a node where that is ours to say.
    fn settings(&self) -> Vec<Wanted>;

    /// The one of them that others have reason to add to.
    fn shared_settings(&self) -> Option<&'static str>;

    /// The file of our exports.
    fn exports(&self, exports: &[Numbered]) -> Wanted;

    /// Whether how it serves is the agent's to say; asked before anything of ours is there, and again when others changed it.
    ///
    /// # Errors
    /// Where our exports can't be added to what others have it serve.
    async fn may_own_settings(&self, host: &Host, running: bool) -> Result<bool, StepError>;

    /// Units that its packages bring, and that open ports which version 4 doesn't need.
    fn needless_units(&self) -> &'static [&'static str];

    /// Why it can't work on this node, whatever is installed; `None` where it can.
    async fn hindrance(&self, host: &Host) -> Result<Option<String>, StepError>;

    /// Whether its packages are there.
    async fn is_installed(&self, host: &Host) -> Result<bool, StepError>;

    /// Whether the server that runs can be asked. A unit that is active may still be on its way.
    async fn is_ready(&self, host: &Host) -> Result<bool, StepError>;

    /// All that it exports as it runs, ours and others'; nothing where it doesn't run.
    async fn running(&self, host: &Host) -> Result<Vec<Foreign>, StepError>;

    /// Whether the running server has this export, with these clients and no others.
    async fn is_served(&self, host: &Host, export: &Numbered) -> Result<bool, StepError>;

    /// Has the running server take an export, new or changed; those of others are not touched.
    async fn serve(&self, host: &Host, limits: Limits, export: &Numbered) -> Result<(), StepError>;

    /// Has the running server end an export.
    async fn end(&self, host: &Host, limits: Limits, export: &Numbered) -> Result<(), StepError>;

    /// Whether it is in its grace period; `None` where that can't be told.
    async fn in_grace(&self, host: &Host) -> Option<bool>;
}
