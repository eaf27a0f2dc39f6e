//! Paying debts: what could not be done in a cluster because its API did not answer, and cordons of operations that ended
//! without keeping them. One task of the controller does it, whenever an agent of a control plane connects, and regularly
//! while anything is owed.

use std::time::Duration;

use canasta_proto::name::HostName;
use canasta_proto::pb;
use futures_util::future::select_all;

use super::nodes::is_anothers;
use super::{CONTROL_PLANE, Clusters, NodeError, shown};
use crate::fleet::Phase;
use crate::operations::stamp;
use crate::store;
use crate::store::debts::{DebtKind, DebtRow};

/// How long nothing is looked for when nobody connects.
const IDLE: Duration = Duration::from_mins(1);

impl Clusters {
    /// Pays debts for as long as the controller runs.
    pub(crate) async fn keep_paying(self) {
        loop {
            let owed = self.pay().await.unwrap_or_else(|error| {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "debts could not be read"
                );
                Vec::new()
            });
            self.wait(&owed).await;
        }
    }

    /// Tries to pay all that is due, and tells what is left.
    ///
    /// # Errors
    /// When the database can't be read.
    pub(crate) async fn pay(&self) -> Result<Vec<DebtRow>, store::Error> {
        let mut left = Vec::new();
        for debt in self.store.due_debts().await? {
            if !self.settle(&debt).await? {
                left.push(debt);
            }
        }
        Ok(left)
    }

    /// Tries to pay one debt; false when it is still owed.
    ///
    /// # Errors
    /// When the database can't be read or written.
    pub(crate) async fn settle(&self, debt: &DebtRow) -> Result<bool, store::Error> {
        match self.pay_one(debt).await {
            Ok(false) => {}
            Ok(true) => {
                self.store.settle_debt(debt).await?;
                tracing::info!(cluster = debt.cluster, what = what(debt), "a debt is paid");
            }
            Err(error) => {
                let error = shown(&error);
                tracing::debug!(
                    cluster = debt.cluster,
                    what = what(debt),
                    error,
                    "a debt can't be paid yet"
                );
                self.store.debt_failed(debt.id, &error).await?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// False when it was not due any more.
    async fn pay_one(&self, debt: &DebtRow) -> Result<bool, NodeError> {
        let api = self.api_of(&debt.cluster).await?;
        match debt.kind {
            DebtKind::DeleteNode => {
                let name = debt.node_name.as_str();
                let node = api.node(name).await?;
                // The machine that has taken the name since keeps it, and the password is its own.
                if node
                    .as_ref()
                    .is_some_and(|node| is_anothers(node, &debt.machine))
                {
                    return Ok(true);
                }
                let node = node.map(|node| node.metadata.uid);
                let password = api.password_uid(name).await?;
                // Only after the uids: a host that joins from here on gets other ones.
                if !self.is_due(debt).await? {
                    return Ok(false);
                }
                if let Some(uid) = node {
                    api.delete_node_of(name, uid.as_deref()).await?;
                }
                if let Some(uid) = password {
                    api.delete_password_of(name, &uid).await?;
                }
            }
            DebtKind::Uncordon => {
                if !self.is_due(debt).await? {
                    return Ok(false);
                }
                let by = format!("operation {}", debt.operation);
                api.take_back_cordon(&debt.node_name, &by).await?;
            }
            DebtKind::DeleteTokens => {
                if !self.is_due(debt).await? {
                    return Ok(false);
                }
                api.delete_bootstrap_tokens(&token_mark(&debt.host)).await?;
            }
        }
        Ok(true)
    }

    /// Whether a debt that was read a while ago is still due: its host may have joined again meanwhile.
    async fn is_due(&self, debt: &DebtRow) -> Result<bool, store::Error> {
        let due = self.store.due_debts().await?;
        let same = |other: &DebtRow| other.id == debt.id && other.operation == debt.operation;
        Ok(due.iter().any(same))
    }

    /// Waits until paying may work out: a control plane of a debtor connects, or the time is up.
    async fn wait(&self, owed: &[DebtRow]) {
        let pause = if owed.is_empty() {
            IDLE
        } else {
            self.timings.pay_again
        };
        let nodes = self.store.cluster_nodes().await.unwrap_or_default();
        let owes = |cluster: &str| owed.iter().any(|debt| debt.cluster == cluster);
        let connects = nodes
            .iter()
            .filter(|node| node.role == CONTROL_PLANE && owes(&node.cluster))
            .filter_map(|node| self.fleet.watch(&node.host.parse::<HostName>().ok()?))
            .filter(|state| state.borrow().phase != Phase::Connected)
            .map(|mut state| {
                Box::pin(async move {
                    let connected = state.wait_for(|state| state.phase == Phase::Connected);
                    if connected.await.is_err() {
                        // The host was removed: nothing will come of it.
                        std::future::pending::<()>().await;
                    }
                })
            })
            .collect::<Vec<_>>();
        if connects.is_empty() {
            tokio::time::sleep(pause).await;
        } else {
            // Elapsed or connected: either way it is tried again.
            let _ = tokio::time::timeout(pause, select_all(connects)).await;
        }
    }
}

/// What the descriptions of all bootstrap tokens of a host begin with.
pub(crate) fn token_mark(host: &str) -> String {
    format!("canasta join {host} ")
}

/// What is to be done, in words.
fn what(debt: &DebtRow) -> String {
    let node = &debt.node_name;
    match debt.kind {
        DebtKind::DeleteNode => format!("delete node {node} and its password secret"),
        DebtKind::Uncordon => format!(
            "uncordon node {node}, which operation {} cordoned",
            debt.operation
        ),
        DebtKind::DeleteTokens => format!("delete the bootstrap tokens for host {}", debt.host),
    }
}

/// Debts as they are shown.
pub(super) fn told(debts: &[DebtRow], cluster: &str) -> Vec<pb::Debt> {
    let of_cluster = debts.iter().filter(|debt| debt.cluster == cluster);
    of_cluster
        .map(|debt| pb::Debt {
            what: what(debt),
            since: Some(stamp::from_millis(debt.since)),
            last_error: debt.last_error.clone(),
        })
        .collect()
}
