//! An agent's part in the overlay: the node itself, its network, and its way to the other nodes.

use std::sync::Arc;

use tokio::task::JoinHandle;

use super::{Agent, disk};
use crate::client::Client;
use crate::host::{Host, peers};
use crate::net;

/// A task that ends with its owner.
pub(super) struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Agent {
    /// The node itself, once this node belongs to a cluster.
    pub(super) async fn open_host(&self) -> Option<Arc<Host>> {
        if !self.options.kernel {
            return None;
        }
        let (paths, log) = (self.paths.clone(), self.log.clone());
        let (address, link) = (self.node.address.clone(), self.link.clone());
        let opened = tokio::task::spawn_blocking(move || {
            Host::open(&paths, &log, &address, link.as_deref())
        })
        .await;
        match opened {
            Ok(Ok(host)) => Some(host),
            Ok(Err(error)) => {
                self.log.error(error.to_string());
                None
            }
            Err(_) => None,
        }
    }

    /// The overlay for the node's subnet; answers the hardware address to publish.
    pub(super) async fn network(&self, host: Option<&Arc<Host>>, subnet: &str) -> String {
        if let Err(error) = disk::subnet(&self.paths, subnet) {
            self.log.error(error.to_string());
        }
        let claimed = self.node.claimed_mac();
        let Some(host) = host else {
            return claimed;
        };
        let (host, subnet, server) = (Arc::clone(host), subnet.to_owned(), self.server.clone());
        let up =
            tokio::task::spawn_blocking(move || host.network_up(&subnet, &net::resolved(&server)))
                .await;
        up.ok().flatten().unwrap_or(claimed)
    }

    /// Keeps the way to every other node until the answer is dropped.
    pub(super) fn follow_peers(&self, host: &Arc<Host>, kubelet: &Client) -> AbortOnDrop {
        let (host, client) = (Arc::clone(host), kubelet.clone());
        let follow = peers::follow(host, client, self.node.name.clone(), self.clock);
        AbortOnDrop(tokio::spawn(follow))
    }
}
