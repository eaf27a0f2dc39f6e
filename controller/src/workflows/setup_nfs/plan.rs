//! What a set-up would do, before anything is changed: the rules of the request, the state of the host and of the cluster.

use canasta_proto::address::Address;
use canasta_proto::name::{ClassName, ClusterName, HostName};
use canasta_proto::pb;
use canasta_proto::share::{ClientRange, MAX_CLIENTS, SharePath, check_path};
use k8s_openapi::api::core::v1::Node;

use super::{Planned, Proofs, locks};
use crate::clusters::ClusterApi;
use crate::clusters::classes::is_ours;
use crate::operations::agent::Client;
use crate::operations::locks::Wanted;
use crate::storage::{NFS, Share};
use crate::store::clusters::NodeRow;
use crate::workflows::ask::once;
use crate::workflows::check_storage::{Members, cluster};
use crate::workflows::exports::{self, Export};
use crate::workflows::{Context, Error, Refusal};

/// How long an agent may take to look at a directory.
const LOOK: std::time::Duration = std::time::Duration::from_mins(1);
/// Where the chart of the driver is published, and the release of it that was chosen; the address could not be tried where this was
/// written.
const CHARTS: &str =
    "https://raw.githubusercontent.com/kubernetes-csi/csi-driver-nfs/master/charts";
const CHART_VERSION: &str = "4.13.4";
/// The class where none is named.
const CLASS: &str = "nfs";

/// A set-up that can be begun.
pub(super) struct Ready {
    pub(super) planned: Planned,
    /// What is told of it, without the operation and its steps.
    pub(super) response: pb::SetupNfsResponse,
}

/// Where a set-up works.
pub(super) struct Target {
    pub(super) cluster: String,
    /// The host that exports, with its node; none for a server that exists.
    exporter: Option<(HostName, NodeRow)>,
}

impl Target {
    pub(super) fn locks(&self) -> Wanted {
        let host = self.exporter.as_ref().map(|(host, _)| host.as_str());
        locks(&self.cluster, host)
    }
}

/// Checks the request, and finds out where it works.
pub(super) async fn target(
    context: &Context,
    asked: &pb::SetupNfsRequest,
) -> Result<Target, Error> {
    check(asked)?;
    if asked.host.is_empty() {
        return Ok(Target {
            cluster: cluster(context, &asked.cluster).await?,
            exporter: None,
        });
    }
    let (host, node) = member(context, asked).await?;
    Ok(Target {
        cluster: node.cluster.clone(),
        // A host that is named beside a server tells the cluster, as in the old system.
        exporter: asked.server.is_empty().then_some((host, node)),
    })
}

/// Plans.
pub(super) async fn plan(
    context: &Context,
    asked: pb::SetupNfsRequest,
    target: Target,
) -> Result<Ready, Error> {
    let class = if asked.storage_class.is_empty() {
        CLASS.to_owned()
    } else {
        asked.storage_class.clone()
    };
    let api = context.clusters.api_of(&target.cluster).await?;
    free_class(context, &api, &class).await?;
    driver(&api).await?;
    match target.exporter {
        Some(exporter) => of_host(context, &api, asked, class, exporter).await,
        None => of_server(context, &api, asked, class).await,
    }
}

/// The rules that need nobody to be asked.
fn check(asked: &pb::SetupNfsRequest) -> Result<(), Error> {
    let field = |field, rule: String| Err(Error::Field { field, rule });
    if asked.host.is_empty() && asked.server.is_empty() {
        return field(
            "server",
            "a share is exported by a host of the fleet (--host HOST --install-server), or by a server that exists (--server ADDR): name one of the two"
                .to_owned(),
        );
    }
    if !asked.host.is_empty()
        && let Err(rule) = asked.host.parse::<HostName>()
    {
        return Err(Error::Name {
            field: "host",
            rule,
        });
    }
    if !asked.cluster.is_empty()
        && let Err(rule) = asked.cluster.parse::<ClusterName>()
    {
        return Err(Error::Name {
            field: "cluster",
            rule,
        });
    }
    let name = asked.storage_class.parse::<ClassName>();
    if !asked.storage_class.is_empty()
        && let Err(rule) = name
    {
        return Err(Error::Name {
            field: "storage_class",
            rule,
        });
    }
    if pb::NfsBackend::try_from(asked.backend).is_err() {
        return field(
            "backend",
            "no NFS server is known by this number".to_owned(),
        );
    }
    if asked.server.is_empty() {
        if let Err(rule) = asked.share.parse::<SharePath>() {
            return field("share", rule.to_string());
        }
    } else {
        if let Err(rule) = check_path(&asked.share) {
            return field("share", rule.to_string());
        }
        let fits = asked.server.parse::<Address>();
        if fits.map_or(true, |server| server.port().is_some()) {
            let rule = "a server is an IP address or a DNS name without a port: 192.168.1.10 or nas.example.org";
            return field("server", rule.to_owned());
        }
        if !asked.clients.is_empty() || asked.install_server || asked.backend != 0 {
            let rule = "clients, back end and packages are for a host that exports; who may mount the share of a server that exists is said there";
            return field("server", rule.to_owned());
        }
    }
    if asked.clients.len() > MAX_CLIENTS / 2 {
        return field(
            "clients",
            format!("at most {} clients are named", MAX_CLIENTS / 2),
        );
    }
    for (at, client) in asked.clients.iter().enumerate() {
        if let Err(rule) = client.parse::<ClientRange>() {
            let which = if asked.clients.len() > 1 {
                format!("number {} of the clients: ", at + 1)
            } else {
                String::new()
            };
            return field("clients", format!("{which}{rule}"));
        }
    }
    Ok(())
}

/// A share of a server that exists.
async fn of_server(
    context: &Context,
    api: &ClusterApi,
    asked: pb::SetupNfsRequest,
    class: String,
) -> Result<Ready, Error> {
    let cluster = api.cluster.clone();
    let share = Share {
        server: asked.server,
        path: asked.share,
        classes: vec![class.clone()],
    };
    unmoved(context, api, &class, &share).await?;
    let members = Members::of(context, api).await?;
    let command = format!(
        "canasta storage setup nfs --cluster {cluster} --server {} --share {} --storage-class-name {class}",
        share.server, share.path
    );
    let planned = planned(cluster, class, share, &members, command);
    let response = told(&planned);
    Ok(Ready { planned, response })
}

/// Refuses to move a class while volumes are of it: they would stay where they are, and nobody would know what the old share is for.
async fn unmoved(
    context: &Context,
    api: &ClusterApi,
    class: &str,
    share: &Share,
) -> Result<(), Error> {
    let rows = context.store.shared_storage().await?;
    let known = rows.iter().find(|row| {
        let is_it = row.cluster == api.cluster && row.class == class;
        is_it && (&row.server, &row.path) != (&share.server, &share.path)
    });
    let Some(known) = known else { return Ok(()) };
    let volumes = api.volumes_using(&[class.to_owned()], None).await?;
    if volumes.is_empty() {
        return Ok(());
    }
    let mut refusal = Refusal::new(
        "CLASS_IN_USE",
        format!(
            "storage class '{class}' is on {}:{}, and volumes are of it",
            known.server, known.path
        ),
        "give the other share a class of its own with --storage-class-name; or delete the claims of these volumes first",
    );
    refusal.points = volumes;
    Err(refusal.into())
}

/// A directory of a host.
async fn of_host(
    context: &Context,
    api: &ClusterApi,
    asked: pb::SetupNfsRequest,
    class: String,
    (host, node): (HostName, NodeRow),
) -> Result<Ready, Error> {
    let cluster = node.cluster;
    let object = api.known_node(&node.node_name).await?;
    let server = server_address(&host, &object)?;
    let found = inspect(context, &host, &asked).await?;
    if let Some(report) = found.refusal {
        return Err(Error::Report(Box::new(about_host(report, &host))));
    }
    if !found.packages.is_empty() && !asked.install_server {
        return Err(Refusal::new(
            "NFS_SERVER_MISSING",
            format!("no NFS server is installed on host '{host}'"),
            format!(
                "add --install-server, which installs {} there; or name a server that exists with --server",
                found.packages.join(" and ")
            ),
        )
        .about(&host)
        .into());
    }
    let command = format!(
        "canasta storage setup nfs --host {host} --install-server --share {} --storage-class-name {class} --cluster {cluster}",
        asked.share
    );
    let share = Share {
        server,
        path: asked.share.clone(),
        classes: vec![class.clone()],
    };
    unmoved(context, api, &class, &share).await?;
    let rows = context.store.shared_storage().await?;
    let of_another = rows.iter().find(|row| {
        let is_it = row.host.as_deref() == Some(host.as_str()) && row.path == asked.share;
        is_it && row.cluster != cluster
    });
    if let Some(row) = of_another {
        return Err(Refusal::new(
            "SHARE_OF_ANOTHER_CLUSTER",
            format!("host '{host}' exports {} for cluster '{}'", row.path, row.cluster),
            "take another directory; or take the share as it is with --server, with the nodes of this cluster among its --clients",
        )
        .about(&host)
        .into());
    }
    let members = Members::of(context, api).await?;
    let mut planned = planned(cluster, class, share, &members, command);
    planned.clients = named_clients(context, &planned, &asked.clients).await?;
    planned.backend = found.backend;
    planned.install = asked.install_server;
    planned.host = Some(host.into());
    let mut response = told(&planned);
    if let Some(export) = planned.export() {
        let export = merged(context, &planned, export).await?;
        response.clients = exports::current_clients(context, api, None, &export).await?;
    }
    response.backend = found.backend;
    response.packages = found.packages;
    response.notes = found.notes;
    if found.directory_missing {
        response
            .notes
            .push(format!("{} is made: it is not there yet", asked.share));
    }
    Ok(Ready { planned, response })
}

/// The host that is named, as a node of the cluster that is named, if one is.
async fn member(
    context: &Context,
    asked: &pb::SetupNfsRequest,
) -> Result<(HostName, NodeRow), Error> {
    let host = context.fleet.host(&asked.host).await?.name;
    let node = context.store.cluster_node(host.as_str()).await?;
    let node = node.filter(|node| asked.cluster.is_empty() || node.cluster == asked.cluster);
    if let Some(node) = node {
        return Ok((host, node));
    }
    // A cluster that is not known is told as such.
    let wanted = match asked.cluster.as_str() {
        "" => "any cluster".to_owned(),
        _ => format!("cluster '{}'", cluster(context, &asked.cluster).await?),
    };
    Err(Refusal::new(
        "HOST_NOT_IN_CLUSTER",
        format!("host '{host}' is no node of {wanted}"),
        "`canasta cluster list` shows which hosts are; a machine beside the cluster is taken with --server",
    )
    .about(&host)
    .into())
}

fn planned(
    cluster: String,
    class: String,
    share: Share,
    members: &Members,
    command: String,
) -> Planned {
    Planned {
        server: share.server.clone(),
        path: share.path.clone(),
        proofs: Proofs::of_share(&cluster, share, members, command),
        cluster,
        class,
        host: None,
        clients: Vec::new(),
        backend: 0,
        install: false,
    }
}

fn told(planned: &Planned) -> pb::SetupNfsResponse {
    pb::SetupNfsResponse {
        cluster: planned.cluster.clone(),
        share: planned.share().to_string(),
        storage_class: planned.class.clone(),
        ..pb::SetupNfsResponse::default()
    }
}

/// The export with what other classes on the same share want of it.
pub(super) async fn merged(
    context: &Context,
    planned: &Planned,
    mut export: Export,
) -> Result<Export, crate::store::Error> {
    let mut rows = context.store.shared_storage().await?;
    // What this set-up says counts for its own class.
    rows.retain(|row| row.class != planned.class);
    let others = exports::of_cluster(&rows, &planned.cluster);
    let same = |other: &Export| other.host == export.host && other.path == export.path;
    if let Some(other) = others.into_iter().find(same) {
        export.named.extend(other.named);
    }
    Ok(export)
}

/// Whom the operator named, now or in an earlier set-up of the class.
async fn named_clients(
    context: &Context,
    planned: &Planned,
    asked: &[String],
) -> Result<Vec<String>, Error> {
    if !asked.is_empty() {
        return Ok(asked.to_vec());
    }
    let rows = context.store.shared_storage().await?;
    let known = rows.into_iter().find(|row| {
        row.cluster == planned.cluster && row.class == planned.class && row.path == planned.path
    });
    Ok(known.map(|row| row.clients).unwrap_or_default())
}

/// Refuses a class that is somebody else's: there, and not made by this controller.
async fn free_class(context: &Context, api: &ClusterApi, class: &str) -> Result<(), Error> {
    let Some(found) = api.storage_class(class).await? else {
        return Ok(());
    };
    let rows = context.store.shared_storage().await?;
    let known = rows
        .iter()
        .any(|row| row.cluster == api.cluster && row.class == class);
    if known && is_ours(&found) {
        return Ok(());
    }
    let cluster = &api.cluster;
    Err(Refusal::new(
        "CLASS_TAKEN",
        format!(
            "storage class '{class}' of cluster '{cluster}' was made by someone else ({})",
            found.provisioner
        ),
        "take another name with --storage-class-name, or delete that class if nobody needs it",
    )
    .into())
}

/// Refuses a cluster that has nothing to make volumes of the class with: its claims would wait for ever.
pub(super) async fn driver(api: &ClusterApi) -> Result<(), Error> {
    if api.has_driver(NFS).await? {
        return Ok(());
    }
    let cluster = &api.cluster;
    let mut refusal = Refusal::new(
        "DRIVER_MISSING",
        format!("cluster '{cluster}' has no driver {NFS}, so no volume could be made on the share"),
        format!(
            "install it: `canasta kubeconfig merge --cluster {cluster}`, then \
             `helm install csi-driver-nfs csi-driver-nfs --repo {CHARTS} --version {CHART_VERSION} --namespace kube-system`; \
             then run the command again"
        ),
    );
    refusal.subject = format!("cluster {cluster}");
    Err(refusal.into())
}

/// The address by which nodes mount what a node exports.
fn server_address(host: &HostName, node: &Node) -> Result<String, Refusal> {
    let first = exports::addresses(node).first().map(ToString::to_string);
    first.ok_or_else(|| {
        Refusal::new(
            "NODE_WITHOUT_ADDRESS",
            format!("the Node object of host '{host}' has no address"),
            "look at `canasta cluster show` and at k3s on the host, then run the command again",
        )
        .about(host)
    })
}

/// What the agent says of the export.
async fn inspect(
    context: &Context,
    host: &HostName,
    asked: &pb::SetupNfsRequest,
) -> Result<pb::InspectExportResponse, Error> {
    let request = pb::InspectExportRequest {
        backend: asked.backend,
        path: asked.share.clone(),
    };
    let what = "what an export would meet";
    let look = |mut client: Client| async move { client.inspect_export(request).await };
    once(context, host, what, LOOK, look).await
}

/// A report of an agent with its host.
fn about_host(mut report: pb::ErrorReport, host: &HostName) -> pb::ErrorReport {
    report.message = format!("host '{host}': {}", report.message);
    report
}
