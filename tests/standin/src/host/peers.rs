//! Follows the cluster's Nodes and keeps the overlay's way to each of the others. Started by server and agent once their
//! own network is up.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt as _;
use serde_json::Value;

use super::Host;
use super::flannel::Peer;
use crate::client::Client;
use crate::clock::Clock;

/// How long changes are gathered before the tables are looked at.
const GATHER: Duration = Duration::from_millis(50);

/// Runs until dropped.
pub(crate) async fn follow(host: Arc<Host>, client: Client, own: String, clock: Clock) {
    loop {
        let version = refresh(&host, &client, &own).await;
        if let Some(version) = version {
            let path = format!("/api/v1/nodes?watch=true&resourceVersion={version}");
            if let Ok(response) = client.open(&path).await {
                let mut body = response.into_body();
                while let Some(Ok(_)) = body.frame().await {
                    tokio::time::sleep(GATHER).await;
                    refresh(&host, &client, &own).await;
                }
            }
        }
        clock.wait(1.0).await;
    }
}

// While the server is away everything stays as it is.
async fn refresh(host: &Arc<Host>, client: &Client, own: &str) -> Option<String> {
    let answer = client.get("/api/v1/nodes").await.ok()?;
    if !answer.status.is_success() {
        return None;
    }
    let list = answer.json();
    let peers = others(&list, own);
    let worker = Arc::clone(host);
    // A worker that panics has said so; the next change tries again.
    let _ = tokio::task::spawn_blocking(move || worker.peers(&peers)).await;
    list["metadata"]["resourceVersion"]
        .as_str()
        .map(str::to_owned)
}

fn others(list: &Value, own: &str) -> Vec<Peer> {
    let nodes = list["items"].as_array().into_iter().flatten();
    nodes
        .filter(|node| node["metadata"]["name"] != own)
        .filter_map(Peer::of)
        .collect()
}
