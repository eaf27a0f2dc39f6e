//! `canasta storage …`

use canasta_proto::pb::storage_service_client::StorageServiceClient;
use canasta_proto::pb::{CheckStorageRequest, CheckStorageResponse, ListStorageRequest};
use tonic::transport::Channel;

use super::{Started, for_people};
use crate::args::{Global, StorageCommand};
use crate::connect::connect;
use crate::error::{End, Error};
use crate::view::storage::StorageList;
use crate::{output, progress};

pub(super) async fn run(global: &Global, command: StorageCommand) -> Result<End, Error> {
    let channel = connect(global).await?;
    match command {
        StorageCommand::List { cluster } => {
            let list = list(&channel, cluster.unwrap_or_default()).await?;
            output::print(global.output, &list, StorageList::table)?;
            Ok(End::Done)
        }
        StorageCommand::Check { cluster, detach } => {
            let request = CheckStorageRequest {
                cluster: cluster.unwrap_or_default(),
            };
            let mut client = StorageServiceClient::new(channel.clone());
            let checked = client.check_storage(request).await?.into_inner();
            announce(global, &checked);
            if detach {
                return Started::print(global, checked.operation_id);
            }
            let (operation, cluster) = (checked.operation_id, checked.cluster);
            let ended = progress::follow(global, channel.clone(), operation.clone()).await;
            if for_people(global) && !matches!(ended, Ok(End::Detached)) {
                // How the check ended is told in any case.
                match list(&channel, cluster).await {
                    Ok(list) => output::write(&output::plain(&list.proofs(&operation)))?,
                    Err(error) => output::note(&format!("what was proved can't be shown: {error}")),
                }
            }
            ended
        }
    }
}

async fn list(channel: &Channel, cluster: String) -> Result<StorageList, Error> {
    let request = ListStorageRequest { cluster };
    let mut client = StorageServiceClient::new(channel.clone());
    Ok(client.list_storage(request).await?.into_inner().into())
}

/// What is being proved where, and where nobody can.
fn announce(global: &Global, checked: &CheckStorageResponse) {
    if !for_people(global) {
        return;
    }
    let CheckStorageResponse {
        cluster,
        hosts,
        shares,
        unproved_nodes,
        ..
    } = checked;
    output::note(&format!(
        "cluster '{cluster}': proving {} from {}",
        shares.join(", "),
        hosts.join(", ")
    ));
    if !unproved_nodes.is_empty() {
        output::note(&format!(
            "warning: nothing is proved from {}: no agent is there",
            unproved_nodes.join(", ")
        ));
    }
}
