//! Which node a command means: the name of a Node or of its host, in a cluster that is named or the only one that has it.

use canasta_proto::name::ClusterName;

use super::{Context, Error, Refusal};
use crate::clusters::{ClusterApi, NodeError};
use crate::store::clusters::NodeRow;

/// The longest name of a Node.
const LONGEST: usize = 253;

/// A node of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) cluster: String,
    pub(crate) node_name: String,
    /// Empty for a node that is no host of the fleet.
    pub(crate) host: String,
}

/// Finds a node. `cluster` is empty where only one has such a node.
///
/// # Errors
/// When a name breaks a rule, or there is no such node, or several are meant.
pub(crate) async fn find(context: &Context, node: &str, cluster: &str) -> Result<Target, Error> {
    check_node_name(node)?;
    if !cluster.is_empty() {
        cluster.parse::<ClusterName>().map_err(|rule| Error::Name {
            field: "cluster",
            rule,
        })?;
    }
    let clusters = context.store.clusters().await?;
    let names: Vec<_> = clusters.into_iter().map(|cluster| cluster.name).collect();
    if !cluster.is_empty() && !names.iter().any(|name| name == cluster) {
        return Err(unknown_cluster(cluster).into());
    }
    let rows = context.store.cluster_nodes().await?;
    Ok(choose(node, cluster, &names, &rows)?)
}

/// The refusal of a cluster that is not known.
pub(crate) fn unknown_cluster(cluster: &str) -> Refusal {
    Refusal::new(
        "CLUSTER_NOT_FOUND",
        format!("cluster '{cluster}' is not known"),
        "`canasta cluster list` shows the clusters",
    )
}

fn check_node_name(node: &str) -> Result<(), Error> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let part = |part: &str| {
        let ends = |byte: Option<u8>| byte.is_some_and(|byte| byte != b'-');
        part.bytes().all(plain) && ends(part.bytes().next()) && ends(part.bytes().last())
    };
    if node.len() <= LONGEST && node.split('.').all(part) {
        return Ok(());
    }
    Err(Error::Field {
        field: "node",
        rule: "a node is named by lower case letters, digits, '-' and '.', beginning and ending with a letter or digit, at most 253 of them"
            .to_owned(),
    })
}

/// A pure function of what is recorded.
fn choose(
    node: &str,
    cluster: &str,
    clusters: &[String],
    rows: &[NodeRow],
) -> Result<Target, Refusal> {
    let meant: Vec<_> = rows
        .iter()
        .filter(|row| cluster.is_empty() || row.cluster == cluster)
        .filter(|row| row.node_name == node || row.host == node)
        .collect();
    match (meant.as_slice(), clusters) {
        ([one], _) => Ok(Target {
            cluster: one.cluster.clone(),
            node_name: one.node_name.clone(),
            host: one.host.clone(),
        }),
        // A node that is no host of the fleet: the API knows whether it is there.
        ([], _) if !cluster.is_empty() => Ok(unrecorded(node, cluster)),
        ([], [only]) => Ok(unrecorded(node, only)),
        ([], _) => Err(Refusal::new(
            "NODE_NOT_FOUND",
            format!("no host of the fleet is a node '{node}'"),
            "`canasta node list` shows the nodes; for one that is no host of the fleet, name its cluster: --cluster NAME",
        )),
        (several, _) => {
            let list: Vec<_> = several.iter().map(|row| row.cluster.as_str()).collect();
            Err(Refusal::new(
                "NODE_AMBIGUOUS",
                format!("several clusters have a node '{node}': {}", list.join(", ")),
                format!("name its cluster: --cluster {}", list[0]),
            ))
        }
    }
}

fn unrecorded(node: &str, cluster: &str) -> Target {
    Target {
        cluster: cluster.to_owned(),
        node_name: node.to_owned(),
        host: String::new(),
    }
}

/// Cordons a node in the name of a person. A cordon that an operation set becomes the person's, so that it stays. True when
/// it took new pods before.
pub(crate) async fn cordon(
    context: &Context,
    target: &Target,
    by: &str,
) -> Result<bool, NodeError> {
    use crate::clusters::nodes::Cordon;
    let api = context.clusters.api_of(&target.cluster).await?;
    match api.cordon(&target.node_name, by).await? {
        Cordon::Set => Ok(true),
        Cordon::Own => Ok(false),
        Cordon::Others(_) => {
            api.take_over_cordon(&target.node_name, by).await?;
            Ok(false)
        }
    }
}

/// Uncordons a node, whoever cordoned it. True when it took no new pods before.
pub(crate) async fn uncordon(context: &Context, target: &Target) -> Result<bool, NodeError> {
    let api: ClusterApi = context.clusters.api_of(&target.cluster).await?;
    api.uncordon(&target.node_name).await
}

#[cfg(test)]
mod tests {
    use super::{check_node_name, choose};
    use crate::store::clusters::NodeRow;

    fn row(host: &str, cluster: &str, node_name: &str) -> NodeRow {
        NodeRow {
            host: host.to_owned(),
            cluster: cluster.to_owned(),
            node_name: node_name.to_owned(),
            role: "worker".to_owned(),
            node_ip: String::new(),
            tls_sans: Vec::new(),
        }
    }

    #[test]
    fn a_node_is_found_by_its_own_name_or_its_hosts() {
        let clusters = ["a", "b"].map(str::to_owned);
        let rows = [
            row("w1", "a", "node-1"),
            row("w2", "a", "same"),
            row("w3", "b", "same"),
        ];
        for name in ["w1", "node-1"] {
            let target = choose(name, "", &clusters, &rows).expect("known");
            assert_eq!(
                (
                    target.cluster.as_str(),
                    target.node_name.as_str(),
                    target.host.as_str()
                ),
                ("a", "node-1", "w1")
            );
        }
        let several = choose("same", "", &clusters, &rows).expect_err("two");
        assert_eq!(several.reason, "NODE_AMBIGUOUS");
        assert!(several.hint.ends_with("--cluster a"), "{}", several.hint);
        assert_eq!(
            choose("same", "b", &clusters, &rows).expect("one").host,
            "w3"
        );
        assert_eq!(
            choose("x", "", &clusters, &rows).expect_err("none").reason,
            "NODE_NOT_FOUND"
        );
        assert_eq!(
            choose("x", "b", &clusters, &rows)
                .expect("asked later")
                .host,
            ""
        );
        assert_eq!(
            choose("x", "", &clusters[..1], &[])
                .expect("one cluster")
                .cluster,
            "a"
        );
    }

    #[test]
    fn a_name_of_a_node_is_checked() {
        for good in ["w1", "node-1.example.org"] {
            check_node_name(good).expect(good);
        }
        let long = "a".repeat(254);
        for bad in [
            "",
            "W1",
            "a b",
            "-a",
            "a-",
            "a..b",
            "../x",
            "a\nb",
            "a/b",
            "\u{202e}a",
            &long,
        ] {
            check_node_name(bad).expect_err(bad);
        }
    }
}
