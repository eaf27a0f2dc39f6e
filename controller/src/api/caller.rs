//! Who calls. The gate puts a [`Caller`] into the extensions of each request, and handlers read it with [`caller_of`].

use canasta_transport::roles::Role;
use canasta_transport::status::Fault;
use tonic::{Code, Request, Status};

use crate::store::AuditEntry;

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

/// The call for the audit trail, where its row is written together with the change: for callers without a certificate.
pub fn entry_of<T>(request: &Request<T>) -> AuditEntry {
    request.extensions().get().cloned().unwrap_or_else(|| {
        let Caller { who, from, .. } = caller_of(request);
        AuditEntry {
            who,
            from,
            what: String::new(),
        }
    })
}

/// The row of the audit trail was written together with the change: put into the extensions of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Audited;

/// What a call was about, such as `host cp1`: put into the extensions of a response, for the audit trail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditSubject(pub String);

/// The id of the operation that a call started: put into the extensions of a response, for the audit trail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperationStarted(pub String);

/// Refuses a flag that needs the role admin in a call that does not.
pub(super) fn check_admin(caller: &Caller, flag: &str) -> Result<(), Status> {
    if caller.role >= Role::Admin {
        return Ok(());
    }
    Err(Fault::new(
        Code::PermissionDenied,
        "ROLE_TOO_LOW",
        format!(
            "{flag} needs the role {}, and {} has the role {}",
            Role::Admin,
            caller.who,
            caller.role
        ),
    )
    .hint("ask an admin of the fleet")
    .into())
}

#[cfg(test)]
mod tests {
    use canasta_transport::roles::Role;
    use canasta_transport::status::Fault;

    use super::{Caller, check_admin};

    #[test]
    fn what_destroys_or_looks_away_needs_an_admin() {
        let caller = |role| Caller {
            who: "user anna".to_owned(),
            from: String::new(),
            role,
        };
        check_admin(&caller(Role::Admin), "force").expect("allowed");
        for role in [Role::Operator, Role::Viewer, Role::Anonymous] {
            let refused = check_admin(&caller(role), "force").expect_err("refused");
            assert_eq!(refused.code(), tonic::Code::PermissionDenied);
            let fault = Fault::from_status(&refused);
            assert_eq!(fault.reason, "ROLE_TOO_LOW");
            assert!(fault.message.contains("force needs the role admin"));
        }
    }
}
