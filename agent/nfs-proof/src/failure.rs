//! Why a proof failed, sorted by what a person can do about it.
//!
//! The pairs of error and meaning were seen with nfs-ganesha 4.3 and 6.5. NFS 4 answers the same for a share that isn't there and
//! for one that this client may not see.

use std::io::ErrorKind;

use canasta_host::nfs::{Failure, Reason};
use nfs_rs::{Nfs4ErrorCode as Status, NfsError};
use nix::errno::Errno;

/// What is being done when a share is opened.
pub(crate) const OPENING: &str = "opening the share";

/// A failure of the client's.
pub(crate) fn of(doing: &str, error: &NfsError) -> Failure {
    let reason = match sort(error) {
        // Some servers answer so to whom they don't know.
        Reason::AccessDenied if doing == OPENING => Reason::NotAClientOrNoShare,
        reason => reason,
    };
    Failure::new(doing, reason, error.to_string())
}

/// The meaning of the client's error.
fn sort(error: &NfsError) -> Reason {
    match error {
        NfsError::Nfs4(status) => of_status(*status),
        NfsError::ServerBusy(busy) => sort(&busy.source),
        NfsError::OperationOutcome(outcome) => sort(&outcome.source),
        NfsError::FileClose(failures) => failures
            .first()
            .map_or(Reason::Other, |failure| sort(&failure.error)),
        NfsError::Io(error) => of_system(error),
        NfsError::Unsupported(_) => Reason::Version,
        _ => Reason::Other,
    }
}

fn of_system(error: &std::io::Error) -> Reason {
    match error.kind() {
        ErrorKind::ConnectionRefused => Reason::Refused,
        // The client says of a connection and of an answer alike that it timed out, and means by one text the connection.
        ErrorKind::TimedOut if error.to_string().contains("connect") => Reason::PortBlocked,
        ErrorKind::TimedOut => Reason::ServerHangs,
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Reason::Unreachable,
        ErrorKind::AddrNotAvailable => Reason::WrongFamily,
        _ if error.raw_os_error() == Some(Errno::EAFNOSUPPORT as i32) => Reason::WrongFamily,
        ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::BrokenPipe
        | ErrorKind::NotConnected
        | ErrorKind::UnexpectedEof => Reason::ConnectionLost,
        _ => Reason::Other,
    }
}

fn of_status(status: Status) -> Reason {
    match status {
        Status::NFS4ERR_NOENT => Reason::NotAClientOrNoShare,
        Status::NFS4ERR_ACCESS | Status::NFS4ERR_PERM => Reason::AccessDenied,
        Status::NFS4ERR_ROFS => Reason::ReadOnly,
        Status::NFS4ERR_GRACE => Reason::InGrace,
        Status::NFS4ERR_NOSPC | Status::NFS4ERR_DQUOT => Reason::NoSpace,
        Status::NFS4ERR_STALE | Status::NFS4ERR_BADHANDLE | Status::NFS4ERR_FHEXPIRED => {
            Reason::Stale
        }
        Status::NFS4ERR_WRONGSEC => Reason::Security,
        Status::NFS4ERR_MINOR_VERS_MISMATCH => Reason::Version,
        _ => Reason::Other,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Error;

    use super::*;

    #[test]
    fn what_the_system_and_the_server_say_is_sorted() {
        for (error, reason) in [
            (Error::from(ErrorKind::ConnectionRefused), Reason::Refused),
            (Error::from(ErrorKind::HostUnreachable), Reason::Unreachable),
            (
                Error::new(ErrorKind::TimedOut, "RPC connect timeout"),
                Reason::PortBlocked,
            ),
            (
                Error::new(ErrorKind::TimedOut, "RPC response timeout"),
                Reason::ServerHangs,
            ),
            (Error::from_raw_os_error(97), Reason::WrongFamily),
            (
                Error::from(ErrorKind::ConnectionReset),
                Reason::ConnectionLost,
            ),
        ] {
            assert_eq!(sort(&NfsError::Io(error)), reason);
        }
        for (status, reason) in [
            (Status::NFS4ERR_NOENT, Reason::NotAClientOrNoShare),
            (Status::NFS4ERR_ROFS, Reason::ReadOnly),
            (Status::NFS4ERR_GRACE, Reason::InGrace),
            (Status::NFS4ERR_PERM, Reason::AccessDenied),
            (Status::NFS4ERR_NOSPC, Reason::NoSpace),
            (Status::NFS4ERR_WRONGSEC, Reason::Security),
            (Status::NFS4ERR_INVAL, Reason::Other),
        ] {
            assert_eq!(sort(&NfsError::Nfs4(status)), reason, "{status:?}");
        }
    }
}
