//! Who calls. The gate puts a [`Caller`] into the extensions of each request, and handlers read it with [`caller_of`].

use canasta_transport::roles::Role;
use tonic::Request;

/// Who calls, from where, and what it may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// `user alice`, `local root`, `unknown`: for the audit trail and for who started an operation.
    pub who: String,
    /// `ADDRESS:PORT`, or `unix socket`.
    pub from: String,
    /// What it may do.
    pub role: Role,
}

/// Who calls. A request that did not pass the gate is an unknown caller's, who may do nothing.
pub fn caller_of<T>(request: &Request<T>) -> Caller {
    request.extensions().get().cloned().unwrap_or(Caller {
        who: "unknown".to_owned(),
        from: String::new(),
        role: Role::Anonymous,
    })
}

/// What a call was about, such as `host cp1`: put into the extensions of a response, for the audit trail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditSubject(pub String);

/// The id of the operation that a call started: put into the extensions of a response, for the audit trail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperationStarted(pub String);
