//! `canasta node …`

use canasta_proto::pb::cluster_service_client::ClusterServiceClient;
use canasta_proto::pb::{
    CordonNodeRequest, DrainNodeRequest, GetClusterRequest, ListClustersRequest,
    UncordonNodeRequest,
};
use tonic::transport::Channel;

use super::{Started, for_people};
use crate::args::{Global, NodeArgument, NodeCommand};
use crate::connect::connect;
use crate::error::{End, Error};
use crate::view::node::{Cordon, NodeList};
use crate::{output, progress};

pub(super) async fn run(global: &Global, command: NodeCommand) -> Result<End, Error> {
    let channel = connect(global).await?;
    let mut client = ClusterServiceClient::new(channel.clone());
    match command {
        NodeCommand::List { cluster } => {
            let nodes = list(client, cluster).await?;
            output::print(global.output, &nodes, NodeList::table)?;
        }
        NodeCommand::Cordon(NodeArgument { name, cluster }) => {
            let request = CordonNodeRequest {
                node: name,
                cluster: cluster.unwrap_or_default(),
            };
            let answer = client.cordon_node(request).await?.into_inner();
            let cordon = Cordon::new(answer.node, answer.cluster, true, answer.changed);
            output::confirm(global.output, &cordon, &cordon.sentence())?;
        }
        NodeCommand::Uncordon(NodeArgument { name, cluster }) => {
            let request = UncordonNodeRequest {
                node: name,
                cluster: cluster.unwrap_or_default(),
            };
            let answer = client.uncordon_node(request).await?.into_inner();
            let cordon = Cordon::new(answer.node, answer.cluster, false, answer.changed);
            output::confirm(global.output, &cordon, &cordon.sentence())?;
        }
        NodeCommand::Drain {
            node: NodeArgument { name, cluster },
            timeout,
            detach,
        } => {
            let request = DrainNodeRequest {
                node: name,
                cluster: cluster.unwrap_or_default(),
                timeout_seconds: timeout.unwrap_or_default(),
            };
            let answer = client.drain_node(request).await?.into_inner();
            if for_people(global) {
                output::note(&format!(
                    "node '{}' of cluster '{}' is being drained",
                    answer.node, answer.cluster
                ));
            }
            if detach {
                return Started::print(global, answer.operation_id);
            }
            return progress::follow(global, channel, answer.operation_id).await;
        }
    }
    Ok(End::Done)
}

/// The nodes of all clusters, or of one, which then must be known.
async fn list(
    mut client: ClusterServiceClient<Channel>,
    cluster: Option<String>,
) -> Result<NodeList, Error> {
    let clusters = match cluster {
        None => {
            let answer = client.list_clusters(ListClustersRequest {}).await?;
            answer.into_inner().clusters
        }
        Some(name) => {
            let answer = client.get_cluster(GetClusterRequest { name }).await?;
            answer.into_inner().cluster.into_iter().collect()
        }
    };
    Ok(NodeList::new(clusters))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use crate::args::{Arguments, Command, NodeCommand};

    #[test]
    fn a_drain_has_a_time_of_whole_seconds() {
        let parse = |more: &[&str]| {
            Arguments::try_parse_from(["canasta", "node", "drain", "w1"].iter().chain(more))
        };
        let typed = parse(&["--cluster", "wiki", "--timeout", "600"]).expect("it parses");
        let Command::Node(NodeCommand::Drain { node, timeout, .. }) = typed.command else {
            panic!("{typed:?}")
        };
        assert_eq!((node.name.as_str(), timeout), ("w1", Some(600)));
        assert_eq!(node.cluster.as_deref(), Some("wiki"));
        // 0 would mean the controller's default on the wire.
        for wrong in ["0", "-1", "10m"] {
            parse(&["--timeout", wrong]).expect_err("refused");
        }
    }
}
