//! `canasta storage …`

use canasta_proto::pb::ListStorageRequest;
use canasta_proto::pb::storage_service_client::StorageServiceClient;

use crate::args::{Global, StorageCommand};
use crate::connect::connect;
use crate::error::Error;
use crate::output;
use crate::view::storage::StorageList;

pub(super) async fn run(global: &Global, command: StorageCommand) -> Result<(), Error> {
    let mut client = StorageServiceClient::new(connect(global).await?);
    match command {
        StorageCommand::List { cluster } => {
            let request = ListStorageRequest {
                cluster: cluster.unwrap_or_default(),
            };
            let answer = client.list_storage(request).await?.into_inner();
            output::print(
                global.output,
                &StorageList::from(answer),
                StorageList::table,
            )?;
        }
    }
    Ok(())
}
