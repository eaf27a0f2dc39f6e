//! The host as a member: noted before anything is changed, cleared of an earlier life, and waited for until its own Node is
//! Ready.

use std::sync::Arc;

use async_trait::async_trait;
use canasta_steps::{Done, Reporter, Step, StepError};

use super::known::{self, Registered};
use super::steps::Shared;
use crate::clusters::Awaited;
use crate::store::debts::DebtKind;
use crate::workflows::ask;
use crate::workflows::record::database_failed;

/// Notes the host as a worker, so that nobody else gets its name and a later uninstall knows where it belonged.
pub(super) struct Reserve(pub(super) Arc<Shared>);

#[async_trait]
impl Step for Reserve {
    async fn run(&self, _: &Reporter) -> Result<Done, StepError> {
        let Shared {
            context, planned, ..
        } = &*self.0;
        let (store, row) = (&context.store, planned.row());
        let host = self.0.host().as_str();
        let known = store.cluster_node(host).await.map_err(database_failed)?;
        let marked = store.worker_mark(host).await.map_err(database_failed)?;
        let text = format!("worker of cluster {}", planned.cluster);
        let settled = marked.is_some_and(|mark| mark.settled);
        if known.as_ref() == Some(&row) && marked.is_some() && (!settled || !planned.fresh()) {
            return Ok(Done::unchanged(text));
        }
        let others = store.cluster_nodes().await.map_err(database_failed)?;
        let holder = others.iter().find(|other| {
            other.cluster == row.cluster && other.node_name == row.node_name && other.host != host
        });
        if let Some(holder) = holder {
            return Err(StepError::new(
                "NODE_NAME_TAKEN",
                format!("host '{}' has become the node '{}' of cluster '{}' meanwhile", holder.host, row.node_name, row.cluster),
            )
            .subject(format!("host {host}"))
            .hint("give the machine another name: hostnamectl set-hostname NAME, then run the command again"));
        }
        let stored = store.put_worker(&row, planned.fresh()).await;
        stored.map_err(database_failed)?;
        Ok(Done::changed(text))
    }
}

/// Clears the Node and the password of an earlier life of this host; what is another machine's is refused.
pub(super) struct ClearStale(pub(super) Arc<Shared>);

#[async_trait]
impl Step for ClearStale {
    async fn run(&self, _: &Reporter) -> Result<Done, StepError> {
        let Shared {
            context, planned, ..
        } = &*self.0;
        let (host, name) = (self.0.host(), planned.node_name.as_str());
        let marked = context.store.worker_mark(host.as_str()).await;
        if marked
            .map_err(database_failed)?
            .is_some_and(|mark| mark.settled)
        {
            return Ok(Done::unchanged(format!(
                "node {name} is of the k3s that is here"
            )));
        }
        let api = self.0.api().await?;
        let Some(node) = api.node(name).await? else {
            let password = api.delete_password(name).await?;
            self.0.forgive().await?;
            return Ok(if password {
                Done::changed(format!("the password of an earlier node {name} is deleted"))
            } else {
                Done::unchanged("there is nothing of that name")
            });
        };
        let facts = ask::facts(context, host).await?;
        if known::is_of_this_boot(&node, &facts) {
            // Registered by the k3s that runs here, in a run that did not come to its end.
            self.0.forgive().await?;
            return Ok(Done::unchanged(format!(
                "node {name} is of the k3s that is here"
            )));
        }
        let registered = Registered::of(&node);
        if registered.lives_elsewhere(&facts) {
            let (message, hint) = registered.taken(name, &facts);
            return Err(StepError::new("NODE_NAME_TAKEN", message)
                .subject(format!("host {host}"))
                .hint(hint));
        }
        api.delete_node(name).await?;
        api.delete_password(name).await?;
        self.0.forgive().await?;
        Ok(Done::changed(format!(
            "node {name} of an earlier life of this host is deleted, with its password"
        )))
    }
}

impl Shared {
    /// What was owed for the earlier node of this name is done.
    async fn forgive(&self) -> Result<(), StepError> {
        let Self {
            context, planned, ..
        } = self;
        let store = &context.store;
        let debt = store.debt(&planned.cluster, DebtKind::DeleteNode, &planned.node_name);
        match debt.await.map_err(database_failed)? {
            Some(debt) => store.settle_debt(&debt).await.map_err(database_failed),
            None => Ok(()),
        }
    }
}

/// Waits until the Node of this machine and this boot is Ready.
pub(super) struct WaitReady(pub(super) Arc<Shared>);

#[async_trait]
impl Step for WaitReady {
    async fn run(&self, reporter: &Reporter) -> Result<Done, StepError> {
        let Shared {
            context, planned, ..
        } = &*self.0;
        let awaited = Awaited {
            api: self.0.control_plane(),
            host: self.0.host(),
            node_name: &planned.node_name,
            version: &planned.k3s_version,
            own: true,
        };
        context.clusters.wait_ready(&awaited, reporter).await?;
        let marked = context.store.mark_ready(self.0.host().as_str()).await;
        marked.map_err(database_failed)?;
        Ok(Done::unchanged(format!(
            "node {} is Ready",
            planned.node_name
        )))
    }
}
