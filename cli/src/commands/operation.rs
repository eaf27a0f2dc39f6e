//! `canasta operation …`

use canasta_proto::pb::operation_service_client::OperationServiceClient;
use canasta_proto::pb::{CancelOperationRequest, GetOperationRequest, ListOperationsRequest};

use super::for_people;
use crate::args::{Global, OperationCommand};
use crate::connect::connect;
use crate::error::{End, Error};
use crate::view::operation::{OperationList, OperationShown};
use crate::{output, progress};

pub(super) async fn run(global: &Global, command: OperationCommand) -> Result<End, Error> {
    let channel = connect(global).await?;
    let mut client = OperationServiceClient::new(channel.clone());
    match command {
        OperationCommand::List { host, limit } => {
            let request = ListOperationsRequest {
                limit,
                host: host.unwrap_or_default(),
            };
            let operations = client
                .list_operations(request)
                .await?
                .into_inner()
                .operations;
            output::print(
                global.output,
                &OperationList::new(operations),
                OperationList::table,
            )?;
        }
        OperationCommand::Show { id } => {
            let answer = client
                .get_operation(GetOperationRequest { id })
                .await?
                .into_inner();
            let shown = OperationShown::new(answer.operation.unwrap_or_default());
            output::print(global.output, &shown, OperationShown::text)?;
        }
        OperationCommand::Watch { id } => {
            return progress::follow(global, channel, id).await;
        }
        OperationCommand::Cancel { id } => {
            let answer = client
                .cancel_operation(CancelOperationRequest { id })
                .await?
                .into_inner();
            let operation = answer.operation.unwrap_or_default();
            if for_people(global) {
                output::note("the operation stops at the end of its running step");
            }
            output::print(
                global.output,
                &OperationShown::new(operation),
                OperationShown::text,
            )?;
        }
    }
    Ok(End::Done)
}
