//! Operations: listing, showing, following and cancelling them.

use std::pin::Pin;

use canasta_proto::pb;
use canasta_proto::pb::operation_service_server::OperationService;
use canasta_transport::status::Fault;
use futures_util::{Stream, StreamExt as _};
use tonic::{Code, Request, Response, Status};

use super::caller::AuditSubject;
use super::{Answer, invalid};
use crate::fleet::{Fleet, FleetError};
use crate::operations::{Error, Operations};

const USUAL: u32 = 50;
const MOST: u32 = 500;

/// Lists, shows, follows and cancels operations.
#[derive(Debug)]
pub(super) struct OperationApi {
    pub(super) operations: Operations,
    pub(super) fleet: Fleet,
}

#[tonic::async_trait]
impl OperationService for OperationApi {
    async fn list_operations(
        &self,
        request: Request<pb::ListOperationsRequest>,
    ) -> Answer<pb::ListOperationsResponse> {
        let request = request.into_inner();
        let limit = match request.limit {
            0 => USUAL,
            limit if limit <= MOST => limit,
            _ => {
                let rule = format!("at most {MOST} operations are listed at once");
                return Err(invalid("limit", "INVALID_LIMIT", rule).into());
            }
        };
        let unknown = match request.host.as_str() {
            "" => None,
            host => self.fleet.host(host).await.err(),
        };
        if let Some(FleetError::Name(rule)) = &unknown {
            return Err(invalid("host", "INVALID_NAME", rule).into());
        }
        let operations = self.operations.list(limit, &request.host).await?;
        // A host that was removed keeps its history.
        if let Some(unknown) = unknown.filter(|_| operations.is_empty()) {
            return Err(unknown.into());
        }
        Ok(Response::new(pb::ListOperationsResponse { operations }))
    }

    async fn get_operation(
        &self,
        request: Request<pb::GetOperationRequest>,
    ) -> Answer<pb::GetOperationResponse> {
        let operation = self.operations.get(&request.into_inner().id).await?;
        Ok(Response::new(pb::GetOperationResponse {
            operation: Some(operation),
        }))
    }

    type WatchOperationStream =
        Pin<Box<dyn Stream<Item = Result<pb::WatchOperationResponse, Status>> + Send>>;

    async fn watch_operation(
        &self,
        request: Request<pb::WatchOperationRequest>,
    ) -> Answer<Self::WatchOperationStream> {
        let request = request.into_inner();
        let events = self
            .operations
            .watch(&request.id, request.after_seq)
            .await?;
        let events = events.map(|event| match event {
            Ok(event) => Ok(pb::WatchOperationResponse { event: Some(event) }),
            Err(error) => Err(error.into()),
        });
        Ok(Response::new(Box::pin(events)))
    }

    async fn cancel_operation(
        &self,
        request: Request<pb::CancelOperationRequest>,
    ) -> Answer<pb::CancelOperationResponse> {
        let operation = self.operations.cancel(&request.into_inner().id).await?;
        let subject = AuditSubject(format!("operation {}", operation.id));
        let mut response = Response::new(pb::CancelOperationResponse {
            operation: Some(operation),
        });
        response.extensions_mut().insert(subject);
        Ok(response)
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let fault = |code, reason: &str| Fault::from_error(code, reason, &error);
        match error {
            Error::Busy(ref busy) => {
                let id = &busy.holder.operation;
                let reason = match busy.resource {
                    crate::operations::locks::Resource::Host(_) => "HOST_BUSY",
                    crate::operations::locks::Resource::Membership(_) => "CLUSTER_BUSY",
                };
                fault(Code::FailedPrecondition, reason)
                    .about(busy.resource.to_string())
                    .hint(format!(
                        "wait for it with `canasta operation watch {id}`, or stop it with `canasta operation cancel {id}`"
                    ))
            }
            Error::NotFound(ref id) => fault(Code::NotFound, "OPERATION_NOT_FOUND")
                .about(format!("operation {id}"))
                .hint("`canasta operation list` shows the operations"),
            Error::Prefix => {
                let rule = error.to_string();
                invalid("id", "INVALID_OPERATION_ID", rule)
                    .hint("`canasta operation list` shows the ids")
            }
            Error::Ambiguous { .. } => {
                let rule = error.to_string();
                invalid("id", "OPERATION_AMBIGUOUS", rule).hint("give more characters of the id")
            }
            Error::Ended(ref id) => fault(Code::FailedPrecondition, "OPERATION_ENDED")
                .about(format!("operation {id}"))
                .hint(format!("`canasta operation show {id}` tells how")),
            Error::Stopping => fault(Code::Unavailable, "CONTROLLER_STOPPING")
                .hint("run the command again in a moment"),
            Error::Plan(_) => fault(Code::Internal, "INTERNAL")
                .hint("report it with the log of this minute: `journalctl -u canasta-controller`"),
            Error::Store(source) => source.into(),
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        Fault::from(error).into()
    }
}
