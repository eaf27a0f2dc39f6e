//! The audit trail as it is shown. The gate writes it.

use canasta_proto::pb;
use canasta_proto::pb::audit_service_server::AuditService;
use tonic::{Request, Response};

use super::{Answer, invalid, wire};
use crate::store::{AuditRow, Store};

const USUAL: u32 = 100;
const MOST: u32 = 1000;

/// Shows the audit trail.
#[derive(Debug)]
pub(super) struct AuditApi {
    pub(super) store: Store,
}

#[tonic::async_trait]
impl AuditService for AuditApi {
    async fn list_audit(
        &self,
        request: Request<pb::ListAuditRequest>,
    ) -> Answer<pb::ListAuditResponse> {
        let limit = match request.into_inner().limit {
            0 => USUAL,
            limit if limit <= MOST => limit,
            _ => {
                let rule = format!("at most {MOST} rows are listed at once");
                return Err(invalid("limit", "INVALID_LIMIT", rule).into());
            }
        };
        let rows = self.store.audit(limit).await?;
        let rows = rows.into_iter().map(shown).collect();
        Ok(Response::new(pb::ListAuditResponse { rows }))
    }
}

fn shown(row: AuditRow) -> pb::AuditRow {
    let state = row
        .operation_state
        .and_then(|state| pb::OperationState::try_from(state).ok());
    let outcome = match state {
        Some(pb::OperationState::Running) => "running".to_owned(),
        Some(pb::OperationState::Cancelling) => "cancelling".to_owned(),
        Some(pb::OperationState::Succeeded) => "succeeded".to_owned(),
        Some(pb::OperationState::Failed) => "failed".to_owned(),
        Some(pb::OperationState::Cancelled) => "cancelled".to_owned(),
        Some(pb::OperationState::Interrupted) => "interrupted".to_owned(),
        // The controller stopped in the call, or it runs right now.
        None | Some(pb::OperationState::Unspecified) if row.outcome.is_empty() => {
            "unknown".to_owned()
        }
        None | Some(pb::OperationState::Unspecified) => row.outcome,
    };
    pb::AuditRow {
        id: u64::try_from(row.id).unwrap_or_default(),
        at: Some(wire::time(row.at)),
        who: row.entry.who,
        from: row.entry.from,
        what: row.entry.what,
        subject: row.subject,
        operation_id: row.operation_id,
        outcome,
    }
}
