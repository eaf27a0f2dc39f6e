//! What goes wrong in a call, as the controller hears it: a code by meaning, a stable reason, and a hint for the operator.

use canasta_durable::Error as DurableError;
use canasta_host::FileError;
use canasta_host::journal::JournalError;
use canasta_transport::status::Fault;
use tonic::{Code, Status};

use crate::artefacts::ArtefactError;
use crate::identity::IdentityError;
use crate::k3s::api::ApiError;
use crate::k3s::paths::KUBECONFIG;
use crate::tasks::TaskError;
use crate::tunnel::TunnelError;

/// A call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was asked breaks a rule, or the call itself broke.
    #[error(transparent)]
    Fault(Box<Fault>),
    /// The call itself broke: the connection went away, or a message was too large.
    #[error("failed to read the call")]
    Call(#[source] Status),
    /// Credentials for the API server of k3s.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// A task.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// An artefact.
    #[error(transparent)]
    Artefact(#[from] ArtefactError),
    /// The tunnel.
    #[error(transparent)]
    Tunnel(#[from] TunnelError),
    /// The identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The journal of the machine.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        error.into_fault().into()
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        Self::Fault(Box::new(fault))
    }
}

impl Error {
    fn into_fault(self) -> Fault {
        match self {
            Self::Fault(fault) => *fault,
            Self::Call(status) => Fault::from_status(&status),
            Self::Api(error) => api(&error, "API_CREDENTIALS_MISSING"),
            Self::Task(error) => task(&error),
            Self::Artefact(error) => artefact(&error),
            Self::Tunnel(error) => tunnel(&error),
            Self::Identity(error) => identity(&error),
            Self::Journal(error) => {
                Fault::from_error(Code::Unavailable, "JOURNAL_UNREADABLE", &error)
                    .hint("look at `systemctl status systemd-journald` on the node")
            }
        }
    }
}

fn task(error: &TaskError) -> Fault {
    let fault = |code, reason: &str| Fault::from_error(code, reason, error);
    match error {
        TaskError::File(disk) => self::disk(error, disk),
        TaskError::Damaged { path, .. } => fault(Code::DataLoss, "JOURNAL_DAMAGED")
            .about(path.display().to_string())
            .hint(
                "run the command again: it starts a new task, and every step is safe to run again",
            ),
        TaskError::Busy { running } => fault(Code::FailedPrecondition, "TASK_RUNNING")
            .about(running.to_string())
            .hint("wait until it has ended: `canasta operation list` shows what runs"),
        TaskError::Stopping | TaskError::Interrupted => {
            fault(Code::Unavailable, "AGENT_STOPPING").hint("ask again when the agent is back")
        }
        TaskError::Unknown { id } => fault(Code::NotFound, "TASK_UNKNOWN")
            .about(id.to_string())
            .hint("start it again; journals are kept for 30 days, and for the last 200 tasks"),
    }
}

fn artefact(error: &ArtefactError) -> Fault {
    let fault = |code, reason: &str| Fault::from_error(code, reason, error);
    match error {
        ArtefactError::File(file) => self::file(error, file),
        ArtefactError::NoRoom { path, needed, .. } => fault(Code::ResourceExhausted, "DISK_FULL")
            .about(path.display().to_string())
            .hint(format!(
                "free at least {} MiB on the file system of {}, then run the command again",
                needed.div_ceil(1024 * 1024),
                path.display()
            )),
        ArtefactError::WrongOffset { path, .. } => {
            fault(Code::FailedPrecondition, "ARTEFACT_OFFSET")
                .about(path.display().to_string())
                .hint("ask with StatArtefact where the push goes on")
        }
        ArtefactError::Superseded => fault(Code::Aborted, "PUSH_SUPERSEDED")
            .hint("another push of this fleet's controller goes on; follow that one"),
        ArtefactError::Stopping => fault(Code::Unavailable, "AGENT_STOPPING")
            .hint("push again when the agent is back: it goes on from there"),
    }
}

fn file(error: &dyn std::error::Error, file: &FileError) -> Fault {
    let fault = |code, reason: &str| Fault::from_error(code, reason, error);
    match file {
        FileError::Disk(disk) => self::disk(error, disk),
        FileError::Checksum { path, .. } => fault(Code::DataLoss, "ARTEFACT_CORRUPT")
            .about(path.display().to_string())
            .hint("what arrived was deleted; run the command again, and if it happens again check the file that the controller keeps with `canasta artefact list`"),
        FileError::Incomplete { path, .. } => fault(Code::Aborted, "ARTEFACT_INCOMPLETE")
            .about(path.display().to_string())
            .hint("run the command again: the push goes on from there"),
        FileError::TooLarge { path, .. } | FileError::WrongOffset { path, .. } => {
            fault(Code::InvalidArgument, "ARTEFACT_TOO_LARGE")
                .about(path.display().to_string())
                .hint("run the command again; if it happens again, import the artefact anew on the controller")
        }
        FileError::Interrupted { .. } => {
            fault(Code::Unavailable, "AGENT_STOPPING").hint("ask again when the agent is back")
        }
        _ => fault(Code::Internal, "FILE_FAILED").hint("look at the agent's log: `journalctl -u canasta-agent`"),
    }
}

fn disk(error: &dyn std::error::Error, disk: &DurableError) -> Fault {
    let path = disk.path().display().to_string();
    let (code, reason, hint) = match disk {
        DurableError::DiskFull { .. } => (
            Code::ResourceExhausted,
            "DISK_FULL",
            format!(
                "make room on the file system of {path} on the node, then run the command again: it goes on from there"
            ),
        ),
        DurableError::ReadOnly { .. } => (
            Code::FailedPrecondition,
            "READ_ONLY",
            format!(
                "the file system of {path} is mounted read-only; look for disk errors with `dmesg`, mount it read-write, then run the command again"
            ),
        ),
        _ => (
            Code::Internal,
            "FILE_FAILED",
            format!("look at {path} on the node, then run the command again"),
        ),
    };
    Fault::from_error(code, reason, error)
        .about(path)
        .hint(hint)
}

/// What keeps the kubeconfig of k3s from being used; `missing` is the reason where there is none yet.
fn api(error: &ApiError, missing: &str) -> Fault {
    match error {
        ApiError::NoKubeconfig => Fault::from_error(Code::FailedPrecondition, missing, error)
            .about(KUBECONFIG)
            .hint("wait until k3s has started, or install a control plane on this host: `canasta install k8s-cp --host HOST`"),
        _ => Fault::from_error(Code::FailedPrecondition, "KUBECONFIG_UNUSABLE", error)
            .about(KUBECONFIG)
            .hint("k3s writes this file at each start: `systemctl restart k3s` on the node makes it anew"),
    }
}

fn tunnel(error: &TunnelError) -> Fault {
    let fault = |code, reason: &str| Fault::from_error(code, reason, error);
    match error {
        TunnelError::NoEndpoint(error) => api(error, "API_NOT_RUNNING"),
        TunnelError::Connect { address, .. } => fault(Code::Unavailable, "API_NOT_RUNNING")
            .about(address.to_string())
            .hint("k3s is down or still starting: look at `systemctl status k3s` and `journalctl -u k3s` on the node"),
        TunnelError::Caller(_) => fault(Code::InvalidArgument, "TUNNEL_INPUT")
            .hint("the controller's connection broke, or it sent what this agent does not take: try again"),
        TunnelError::Broken(_) => fault(Code::Unavailable, "TUNNEL_BROKEN")
            .hint("k3s closed the connection, most likely because it was restarted: try again"),
    }
}

fn identity(error: &IdentityError) -> Fault {
    let fault = |code, reason: &str| Fault::from_error(code, reason, error);
    match error {
        IdentityError::File(disk) => self::disk(error, disk),
        IdentityError::Expired { .. } => fault(Code::FailedPrecondition, "CERTIFICATE_EXPIRED")
            .hint("one of the clocks is wrong: compare `date` on this node and on the controller"),
        IdentityError::Unfit(_) | IdentityError::OtherIdentity { .. } | IdentityError::OtherCa => {
            fault(Code::InvalidArgument, "CERTIFICATE_UNFIT")
                .hint("ask for a new request with CreateCsr and sign that one")
        }
        IdentityError::NoRequest => fault(Code::FailedPrecondition, "NO_REQUEST")
            .hint("ask for a request with CreateCsr first"),
        IdentityError::NotJoined => fault(Code::FailedPrecondition, "NOT_JOINED")
            .hint("join the node with a token from `canasta host token`"),
        IdentityError::Damaged { path, .. }
        | IdentityError::DamagedKey { path, .. }
        | IdentityError::Missing { path } => fault(Code::Internal, "IDENTITY_DAMAGED")
            .about(path.display().to_string())
            .hint("join the node again with a token from `canasta host token`"),
        IdentityError::Key(_) => {
            fault(Code::Internal, "KEY_FAILED").hint("look at the kernel's log on the node")
        }
        IdentityError::Interrupted => {
            fault(Code::Unavailable, "AGENT_STOPPING").hint("ask again when the agent is back")
        }
    }
}
