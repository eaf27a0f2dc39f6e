//! `canasta storage …`

use canasta_proto::pb;
use canasta_proto::pb::operation_service_client::OperationServiceClient;
use canasta_proto::pb::storage_service_client::StorageServiceClient;
use canasta_proto::pb::{
    CheckStorageRequest, CheckStorageResponse, GetOperationRequest, ListStorageRequest,
    RemoveStorageRequest, SetupNfsRequest, StepOutcome,
};
use tonic::transport::Channel;

use super::{Started, for_people};
use crate::args::{Global, NfsBackend, RemoveStorage, SetupNfs, SetupStorage, StorageCommand};
use crate::connect::connect;
use crate::error::{End, Error};
use crate::view::setup::SetupPlan;
use crate::view::storage::StorageList;
use crate::{output, progress};

pub(super) async fn run(global: &Global, command: StorageCommand) -> Result<End, Error> {
    match command {
        StorageCommand::List { cluster } => {
            let channel = connect(global).await?;
            let list = list(&channel, cluster.unwrap_or_default()).await?;
            output::print(global.output, &list, StorageList::table)?;
            Ok(End::Done)
        }
        StorageCommand::Check { cluster, detach } => check(global, cluster, detach).await,
        StorageCommand::Setup(SetupStorage::Nfs(arguments)) => setup_nfs(global, arguments).await,
        StorageCommand::Remove(command) => remove(global, command).await,
    }
}

async fn check(global: &Global, cluster: Option<String>, detach: bool) -> Result<End, Error> {
    let channel = connect(global).await?;
    let request = CheckStorageRequest {
        cluster: cluster.unwrap_or_default(),
    };
    let mut client = StorageServiceClient::new(channel.clone());
    let checked = client.check_storage(request).await?.into_inner();
    announce(global, &checked);
    if detach {
        return Started::print(global, checked.operation_id);
    }
    follow(global, channel, checked.operation_id, checked.cluster).await
}

/// Follows an operation that proves shares, and shows what was proved.
async fn follow(
    global: &Global,
    channel: Channel,
    operation: String,
    cluster: String,
) -> Result<End, Error> {
    let ended = progress::follow(global, channel.clone(), operation.clone()).await;
    if for_people(global) && !matches!(ended, Ok(End::Detached)) {
        // How it ended is told in any case.
        match list(&channel, cluster).await {
            Ok(list) => output::write(&output::plain(&list.proofs(&operation)))?,
            Err(error) => output::note(&format!("what was proved can't be shown: {error}")),
        }
    }
    tally(global, channel, operation, &ended).await;
    ended
}

/// The last line of an operation that came to its end: what it had to do.
async fn tally(global: &Global, channel: Channel, id: String, ended: &Result<End, Error>) {
    if !for_people(global) || matches!(ended, Ok(End::Detached)) {
        return;
    }
    let mut client = OperationServiceClient::new(channel);
    let answer = client.get_operation(GetOperationRequest { id }).await;
    match answer.map(|answer| answer.into_inner().operation.unwrap_or_default()) {
        Ok(operation) => output::note(&tally_of(&operation)),
        Err(status) => output::note(&format!(
            "what was done can't be counted: {}",
            status.message()
        )),
    }
}

fn tally_of(operation: &pb::Operation) -> String {
    let count = |outcome| {
        let steps = operation.steps.iter();
        let of_outcome = |step: &&pb::Step| step.outcome() == outcome;
        steps.filter(of_outcome).count()
    };
    format!(
        "{} changed, {} unchanged, {} repaired",
        count(StepOutcome::Changed),
        count(StepOutcome::Unchanged),
        count(StepOutcome::Repaired)
    )
}

async fn setup_nfs(global: &Global, arguments: SetupNfs) -> Result<End, Error> {
    if arguments.server.is_some() == arguments.install_server {
        let what = if arguments.install_server {
            "--server is for an NFS server that exists, and --install-server for a host that becomes one"
        } else {
            "nothing says who exports the share"
        };
        return Err(Error::usage(
            what,
            format!(
                "give one of them: `canasta storage setup nfs --host HOST --install-server --share {share}`, or `canasta storage setup nfs --server ADDR --share {share}`",
                share = arguments.share
            ),
        ));
    }
    let (dry_run, detach) = (arguments.dry_run, arguments.detach);
    let channel = connect(global).await?;
    let mut client = StorageServiceClient::new(channel.clone());
    let begun = client.setup_nfs(request(arguments)).await?.into_inner();
    if dry_run {
        let plan = SetupPlan::from(begun);
        output::print(global.output, &plan, SetupPlan::text)?;
        return Ok(End::Done);
    }
    let (operation, cluster) = (begun.operation_id.clone(), begun.cluster.clone());
    if for_people(global) {
        for line in SetupPlan::from(begun).lines() {
            output::note(&line);
        }
    }
    if detach {
        return Started::print(global, operation);
    }
    follow(global, channel, operation, cluster).await
}

fn request(arguments: SetupNfs) -> SetupNfsRequest {
    let backend = match arguments.backend {
        NfsBackend::Auto => pb::NfsBackend::Unspecified,
        NfsBackend::Kernel => pb::NfsBackend::Kernel,
        NfsBackend::Ganesha => pb::NfsBackend::Ganesha,
    };
    SetupNfsRequest {
        cluster: arguments.cluster.unwrap_or_default(),
        host: arguments.host.unwrap_or_default(),
        server: arguments.server.unwrap_or_default(),
        share: arguments.share,
        storage_class: arguments.storage_class_name,
        clients: arguments.clients,
        backend: backend.into(),
        install_server: arguments.install_server,
        dry_run: arguments.dry_run,
    }
}

async fn remove(global: &Global, command: RemoveStorage) -> Result<End, Error> {
    let (host, share, storage_class, how) = match command {
        RemoveStorage::Nfs { host, share, how } => (host, share, String::new(), how),
        RemoveStorage::Class { name, how } => (String::new(), String::new(), name, how),
    };
    let request = RemoveStorageRequest {
        cluster: how.cluster.unwrap_or_default(),
        storage_class,
        host,
        share,
        force: how.force,
    };
    let channel = connect(global).await?;
    let mut client = StorageServiceClient::new(channel.clone());
    let begun = client.remove_storage(request).await?.into_inner();
    if for_people(global) && !begun.volumes.is_empty() {
        output::note(&format!(
            "warning: by force, although these volumes use it: {}",
            begun.volumes.join(", ")
        ));
    }
    if how.detach {
        return Started::print(global, begun.operation_id);
    }
    let operation = begun.operation_id;
    let ended = progress::follow(global, channel.clone(), operation.clone()).await;
    tally(global, channel, operation, &ended).await;
    ended
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
