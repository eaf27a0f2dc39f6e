//! Errors of the program as they go over the wire: code by meaning, stable reason, hint. One place for all services.

use canasta_proto::name::ClusterName;
use canasta_transport::status::Fault;
use tonic::{Code, Response, Status};

use crate::fleet::FleetError;
use crate::identity::{EnrolError, MakeError};
use crate::logging::line;
use crate::store;

/// What a handler returns.
pub type Answer<T> = Result<Response<T>, Status>;

impl From<&store::Error> for Fault {
    fn from(error: &store::Error) -> Self {
        let (code, reason, hint) = match error {
            store::Error::Full { .. } => (
                Code::ResourceExhausted,
                "STORE_FULL",
                "make room on the file system of the controller's state directory and try again",
            ),
            store::Error::ReadOnly { .. } => (
                Code::FailedPrecondition,
                "STORE_READ_ONLY",
                "make the controller's state directory writable and try again",
            ),
            store::Error::Busy { .. } => (
                Code::Unavailable,
                "STORE_BUSY",
                "try again in a moment; if it stays so, look for another program that holds the database (a backup, sqlite3)",
            ),
            store::Error::Query(_) => (
                Code::Internal,
                "STORE_FAILED",
                "see `journalctl -u canasta-controller` on the controller",
            ),
            store::Error::Damaged { .. } => (
                Code::DataLoss,
                "STORE_DAMAGED",
                "restore the controller's state directory from a backup",
            ),
        };
        tracing::error!(error = line(error), "the database failed");
        Fault::from_error(code, reason, error).hint(hint)
    }
}

impl From<store::Error> for Fault {
    fn from(error: store::Error) -> Self {
        Self::from(&error)
    }
}

impl From<store::Error> for Status {
    fn from(error: store::Error) -> Self {
        Fault::from(error).into()
    }
}

impl From<FleetError> for Fault {
    fn from(error: FleetError) -> Self {
        let about = |host: &canasta_proto::name::HostName| format!("host {host}");
        let fault = |code, reason: &str| Fault::from_error(code, reason, &error);
        match &error {
            FleetError::Name(rule) => invalid("name", "INVALID_NAME", rule),
            FleetError::NotRegistered { host } => fault(Code::NotFound, "HOST_NOT_REGISTERED")
                .about(about(host))
                .hint(format!("run `canasta host add --name {host}` first")),
            FleetError::NotJoined { host } => fault(Code::FailedPrecondition, "HOST_NOT_JOINED")
                .about(about(host))
                .hint(format!(
                    "run the join command on the machine; `canasta host token {host}` prints a new one"
                )),
            FleetError::NotDialled { host } => fault(Code::Unavailable, "AGENT_NOT_DIALLED")
                .about(about(host))
                .hint("run the command again in a moment"),
            FleetError::Unreachable { host, .. } => fault(Code::Unavailable, "AGENT_UNREACHABLE")
                .about(about(host))
                .hint(format!(
                    "check that the machine is up, that canasta-agent runs on it and that the controller can reach that port; then run `canasta host show {host} --refresh`"
                )),
            FleetError::NeedsRejoin { host, .. } => {
                fault(Code::FailedPrecondition, "HOST_NEEDS_REJOIN")
                    .about(about(host))
                    .hint(format!(
                        "run `canasta host token {host}` and join the machine again; its history is kept"
                    ))
            }
            FleetError::Call { host, source, .. } => {
                let code = match source.code() {
                    Code::DeadlineExceeded => Code::DeadlineExceeded,
                    Code::Unavailable | Code::Cancelled | Code::Unknown => Code::Unavailable,
                    _ => Code::Internal,
                };
                let inner = Fault::from_status(source);
                let mut causes = vec![inner.message];
                causes.extend(inner.causes);
                Fault::new(code, "AGENT_CALL_FAILED", error.to_string())
                    .caused_by(causes)
                    .about(about(host))
                    .hint(format!(
                        "see `journalctl -u canasta-agent` on {host}"
                    ))
            }
            FleetError::Store { source, .. } => source.into(),
        }
    }
}

impl From<FleetError> for Status {
    fn from(error: FleetError) -> Self {
        Fault::from(error).into()
    }
}

impl From<EnrolError> for Fault {
    fn from(error: EnrolError) -> Self {
        let fault = |code, reason: &str| Fault::from_error(code, reason, &error);
        let newer = |name: &str| {
            format!(
                "make a new one on the controller: `canasta host token {name}` for a host, `canasta user add {name}` for a user"
            )
        };
        match &error {
            EnrolError::TokenUnknown => fault(Code::PermissionDenied, "TOKEN_UNKNOWN").hint(
                "copy the whole token again, or make a new one on this controller: `canasta host token NAME` for a host, `canasta user add NAME` for a user",
            ),
            EnrolError::TokenExpired { name, .. } => {
                fault(Code::PermissionDenied, "TOKEN_EXPIRED").hint(newer(name))
            }
            EnrolError::TokenReplaced { name } => fault(Code::PermissionDenied, "TOKEN_REPLACED")
                .hint(format!("use the token that was made last, or {}", newer(name))),
            EnrolError::TokenUsed { name } => {
                fault(Code::PermissionDenied, "TOKEN_USED").hint(newer(name))
            }
            EnrolError::OtherHost { expected, .. } => {
                fault(Code::PermissionDenied, "TOKEN_OTHER_HOST").hint(format!(
                    "use a token for this machine: `canasta host token {expected}`"
                ))
            }
            EnrolError::Removed { name } => fault(Code::PermissionDenied, "TOKEN_REMOVED")
                .hint(format!("to take it in again: `canasta host add --name {name}` for a host, `canasta user add {name}` for a user")),
            EnrolError::UserGone { name } => super::user::user_not_known(name),
            EnrolError::NotDue { .. } => fault(Code::FailedPrecondition, "RENEWAL_NOT_DUE").hint(
                "go on with the certificate that you have; the CLI renews it when it is due",
            ),
            EnrolError::Request(_) => fault(Code::InvalidArgument, "INVALID_CSR").hint(
                "the certificate request must be PKCS#10 for an ECDSA P-256 key; use the canasta programs of this fleet's version",
            ),
            EnrolError::Issue(_) => fault(Code::Internal, "ISSUE_FAILED")
                .hint("see `journalctl -u canasta-controller` on the controller"),
            EnrolError::Store(source) => source.into(),
        }
    }
}

impl From<EnrolError> for Status {
    fn from(error: EnrolError) -> Self {
        Fault::from(error).into()
    }
}

impl From<MakeError> for Fault {
    fn from(error: MakeError) -> Self {
        match error {
            MakeError::Store(source) => source.into(),
            MakeError::HolderGone => Fault::from_error(Code::NotFound, "TOKEN_HOLDER_GONE", &error),
            MakeError::Random => Fault::from_error(Code::Internal, "TOKEN_FAILED", &error),
        }
    }
}

impl From<MakeError> for Status {
    fn from(error: MakeError) -> Self {
        Fault::from(error).into()
    }
}

/// The refusal of a cluster that is not known.
pub(super) fn cluster_not_found(name: &ClusterName) -> Fault {
    Fault::new(
        Code::NotFound,
        "CLUSTER_NOT_FOUND",
        format!("cluster '{name}' is not known"),
    )
    .about(format!("cluster {name}"))
    .hint("`canasta cluster list` shows the clusters")
}

/// A field that broke a rule: INVALID_ARGUMENT with a reason of its own. The rule never quotes the field's content.
pub fn invalid(field: &str, reason: &str, rule: impl std::fmt::Display) -> Fault {
    let mut fault = Fault::invalid(field, rule);
    reason.clone_into(&mut fault.reason);
    fault
}
