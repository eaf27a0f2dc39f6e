//! A cordon that an operation sets and takes back unless it comes to its end.
//!
//! It is recorded as a debt before it is set, so that it is taken back whatever happens: by the undo of its step, or by who
//! pays debts once the operation has ended, also after a crash or while the API was away. Who keeps it settles the debt.

use async_trait::async_trait;
use canasta_steps::{Done, Reporter, Step, StepError};

use crate::clusters::ClusterApi;
use crate::clusters::nodes::Cordon;
use crate::store::debts::{DebtKind, DebtRow, NewDebt};
use crate::workflows::Context;
use crate::workflows::record::database_failed;

/// The cordon of an operation on a node.
#[derive(Debug, Clone)]
pub(in crate::workflows) struct Cordoned {
    pub(in crate::workflows) context: Context,
    pub(in crate::workflows) cluster: String,
    pub(in crate::workflows) node_name: String,
    pub(in crate::workflows) host: String,
    pub(in crate::workflows) operation: String,
}

/// Who an operation's cordon is told to be by.
pub(crate) fn by_operation(operation: &str) -> String {
    format!("operation {operation}")
}

impl Cordoned {
    /// Sets it, unless somebody else has.
    pub(in crate::workflows) async fn set(&self) -> Result<Done, StepError> {
        let api = self.context.clusters.api_of(&self.cluster).await?;
        self.inherit(&api).await?;
        let debt = NewDebt {
            cluster: &self.cluster,
            kind: DebtKind::Uncordon,
            node_name: &self.node_name,
            host: &self.host,
            machine: "",
            operation: &self.operation,
            last_error: "",
        };
        let store = &self.context.store;
        store.put_debt(&debt).await.map_err(database_failed)?;
        let by = by_operation(&self.operation);
        Ok(match api.cordon(&self.node_name, &by).await? {
            Cordon::Set => Done::changed("takes no new pods"),
            Cordon::Own => Done::unchanged("takes no new pods"),
            Cordon::Others(who) => {
                self.keep().await?;
                let who = if who.is_empty() {
                    "somebody else"
                } else {
                    &who
                };
                Done::unchanged(format!(
                    "was cordoned by {who}, and stays so whatever comes"
                ))
            }
        })
    }

    /// Takes over the cordon of an earlier operation that has not taken it back yet, so that it is not taken for a person's.
    async fn inherit(&self, api: &ClusterApi) -> Result<(), StepError> {
        let store = &self.context.store;
        let left = store.debt(&self.cluster, DebtKind::Uncordon, &self.node_name);
        let left = left.await.map_err(database_failed)?;
        let Some(left) = left.filter(|left| left.operation != self.operation) else {
            return Ok(());
        };
        let (from, by) = (by_operation(&left.operation), by_operation(&self.operation));
        api.take_over_cordon_of(&self.node_name, &from, &by).await?;
        Ok(())
    }

    /// Keeps it for good: it is not taken back any more.
    pub(in crate::workflows) async fn keep(&self) -> Result<(), StepError> {
        let store = &self.context.store;
        match self.owed().await? {
            Some(debt) => store.settle_debt(&debt).await.map_err(database_failed),
            None => Ok(()),
        }
    }

    /// The debt of this very operation.
    async fn owed(&self) -> Result<Option<DebtRow>, StepError> {
        let store = &self.context.store;
        let debt = store.debt(&self.cluster, DebtKind::Uncordon, &self.node_name);
        let debt = debt.await.map_err(database_failed)?;
        Ok(debt.filter(|debt| debt.operation == self.operation))
    }

    /// Takes it back, if this operation set it and has not kept it.
    pub(in crate::workflows) async fn take_back(&self) -> Result<(), StepError> {
        if self.owed().await?.is_none() {
            return Ok(());
        }
        let api = self.context.clusters.api_of(&self.cluster).await?;
        let by = by_operation(&self.operation);
        api.take_back_cordon(&self.node_name, &by).await?;
        self.keep().await
    }
}

/// The step that sets it.
#[derive(Debug)]
pub(in crate::workflows) struct SetCordon(pub(in crate::workflows) Cordoned);

#[async_trait]
impl Step for SetCordon {
    async fn run(&self, _: &Reporter) -> Result<Done, StepError> {
        self.0.set().await
    }

    async fn undo(&self) -> Result<(), StepError> {
        self.0.take_back().await
    }
}
