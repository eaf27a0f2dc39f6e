//! `canasta cluster …`

use canasta_proto::pb::cluster_service_client::ClusterServiceClient;
use canasta_proto::pb::{ForgetClusterRequest, GetClusterRequest, ListClustersRequest};

use crate::args::{ClusterCommand, Global};
use crate::connect::connect;
use crate::error::Error;
use crate::output;
use crate::view::cluster::{ClusterForgotten, ClusterList};

pub(super) async fn run(global: &Global, command: ClusterCommand) -> Result<(), Error> {
    let mut client = ClusterServiceClient::new(connect(global).await?);
    match command {
        ClusterCommand::List => {
            let clusters = client
                .list_clusters(ListClustersRequest {})
                .await?
                .into_inner()
                .clusters;
            output::print(
                global.output,
                &ClusterList::new(clusters),
                ClusterList::table,
            )
        }
        ClusterCommand::Show { name } => {
            let answer = client
                .get_cluster(GetClusterRequest { name })
                .await?
                .into_inner();
            let list = ClusterList::new(answer.cluster.into_iter().collect());
            output::print(global.output, &list, ClusterList::text)
        }
        ClusterCommand::Forget { name } => {
            let request = ForgetClusterRequest { name: name.clone() };
            let hosts = client.forget_cluster(request).await?.into_inner().hosts;
            let forgotten = ClusterForgotten::new(name, hosts);
            output::confirm(global.output, &forgotten, &forgotten.sentence())
        }
    }
}
