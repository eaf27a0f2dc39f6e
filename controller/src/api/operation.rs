//! Operations: listing, showing, following and cancelling them.

use std::pin::Pin;

use canasta_proto::pb;
use canasta_proto::pb::operation_event::Event;
use canasta_proto::pb::operation_service_server::OperationService;
use canasta_transport::roles::Role;
use canasta_transport::status::Fault;
use futures_util::{Stream, StreamExt as _};
use tonic::{Code, Request, Response, Status};

use super::caller::{AuditSubject, caller_of};
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
        let mut operations = self.operations.list(limit, &request.host).await?;
        // A host that was removed keeps its history.
        if let Some(unknown) = unknown.filter(|_| operations.is_empty()) {
            return Err(unknown.into());
        }
        // A list is for finding one: with the ends of journals it would not fit into a message.
        for error in operations.iter_mut().flat_map(errors_of) {
            error.evidence.clear();
        }
        Ok(Response::new(pb::ListOperationsResponse { operations }))
    }

    async fn get_operation(
        &self,
        request: Request<pb::GetOperationRequest>,
    ) -> Answer<pb::GetOperationResponse> {
        let role = caller_of(&request).role;
        let mut operation = self.operations.get(&request.into_inner().id).await?;
        for error in errors_of(&mut operation) {
            withhold(role, error);
        }
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
        let role = caller_of(&request).role;
        let request = request.into_inner();
        let events = self
            .operations
            .watch(&request.id, request.after_seq)
            .await?;
        let events = events.map(move |event| match event {
            Ok(mut event) => {
                if let Some(error) = error_of(&mut event) {
                    withhold(role, error);
                }
                Ok(pb::WatchOperationResponse { event: Some(event) })
            }
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

/// The errors of an operation and its steps.
fn errors_of(operation: &mut pb::Operation) -> impl Iterator<Item = &mut pb::ErrorReport> {
    let of_steps = operation.steps.iter_mut().map(|step| &mut step.error);
    of_steps.chain([&mut operation.error]).flatten()
}

/// The error that an event tells of.
fn error_of(event: &mut pb::OperationEvent) -> Option<&mut pb::ErrorReport> {
    match event.event.as_mut()? {
        Event::Retrying(retrying) => retrying.error.as_mut(),
        Event::Failed(failed) => failed.error.as_mut(),
        Event::Ended(ended) => ended.error.as_mut(),
        Event::Planned(_) | Event::Started(_) | Event::Progress(_) | Event::Finished(_) => None,
    }
}

/// Leaves out what was seen when something failed, such as the end of a journal: logs are for operators.
fn withhold(role: Role, error: &mut pb::ErrorReport) {
    if role < Role::Operator && !error.evidence.is_empty() {
        error.evidence = vec![pb::Evidence {
            title: "logs".to_owned(),
            lines: vec!["not shown: logs need the role operator".to_owned()],
            source: "controller".to_owned(),
            at: None,
        }];
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let fault = |code, reason: &str| Fault::from_error(code, reason, &error);
        match error {
            Error::Busy(ref busy) => {
                let id = &busy.holder.id;
                let hint = if busy.holder.begun {
                    format!(
                        "wait for it with `canasta operation watch {id}`, or stop it with `canasta operation cancel {id}`"
                    )
                } else {
                    "run the command again in a moment; `canasta operation list` shows what has been started".to_owned()
                };
                let reason = match busy.resource {
                    crate::operations::locks::Resource::Host(_) => "HOST_BUSY",
                    crate::operations::locks::Resource::Membership(_) => "CLUSTER_BUSY",
                    crate::operations::locks::Resource::Storage(_) => "STORAGE_BUSY",
                    crate::operations::locks::Resource::Node(_) => "NODE_BUSY",
                };
                fault(Code::FailedPrecondition, reason)
                    .about(busy.resource.to_string())
                    .hint(hint)
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
