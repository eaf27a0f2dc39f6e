//! The credential of a join: made on the control plane, kept on the worker until it has joined, and in no record of ours.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use canasta_proto::pb;
use canasta_proto::pb::{JoinCredentialKind, K3sInstallStep};
use canasta_steps::{Done, Reporter, Step, StepError};

use super::steps::Shared;
use crate::clusters::nodes::identity;
use crate::clusters::{ready_condition, token_mark};
use crate::operations::agent::AgentTask;
use crate::store::debts::{DebtKind, NewDebt};
use crate::workflows::ask::{ask, facts};
use crate::workflows::record::database_failed;

/// How long a bootstrap token is good, in seconds.
const LIFE: u32 = 600;
/// The same for one that is only made to see whether it can be made.
const TRIAL: u32 = 60;
/// The longest description that k3s keeps whole.
const LONGEST: usize = 100;
/// How long making one may take: k3s unpacks itself and asks its API.
const MAKE: Duration = Duration::from_mins(1);
/// The agent's word for a credential that is not in its file and that this version of k3s needs.
const FILE_MISSING: &str = "FILE_MISSING";

impl Shared {
    fn mark(&self) -> String {
        token_mark(self.host().as_str())
    }

    async fn make(&self, life: u32) -> Result<pb::CreateJoinCredentialResponse, StepError> {
        let mut description = format!("{}{}", self.mark(), self.operation);
        description.truncate(LONGEST);
        let request = pb::CreateJoinCredentialRequest {
            ttl_seconds: life,
            description,
        };
        ask(&self.context, self.control_plane(), MAKE, |mut client| {
            let request = request.clone();
            async move { client.create_join_credential(request).await }
        })
        .await
    }

    /// Refuses a cluster that has no credential for agents, before anything is changed.
    pub(super) async fn check_credential(&self) -> Result<(), StepError> {
        self.make(TRIAL).await?;
        self.delete_tokens().await?;
        Ok(())
    }

    async fn delete_tokens(&self) -> Result<usize, StepError> {
        let api = self.api().await?;
        let deleted = api.delete_bootstrap_tokens(&self.mark()).await?;
        let store = &self.context.store;
        let owed = store.debt(
            &self.planned.cluster,
            DebtKind::DeleteTokens,
            self.host().as_str(),
        );
        if let Some(owed) = owed.await.map_err(database_failed)? {
            store.settle_debt(&owed).await.map_err(database_failed)?;
        }
        Ok(deleted)
    }

    /// Tokens are owed before there is one: whatever ends this operation, they are deleted after it.
    async fn owe_tokens(&self) -> Result<(), StepError> {
        let debt = NewDebt {
            cluster: &self.planned.cluster,
            kind: DebtKind::DeleteTokens,
            node_name: self.host().as_str(),
            host: self.host().as_str(),
            machine: "",
            operation: &self.operation,
            last_error: "",
        };
        let owed = self.context.store.put_debt(&debt).await;
        owed.map_err(database_failed)
    }

    /// Makes a credential and has the worker keep it. Tokens that an earlier run left are deleted first.
    pub(super) async fn bring(&self) -> Result<JoinCredentialKind, StepError> {
        self.delete_tokens().await?;
        self.owe_tokens().await?;
        match self.make_and_store().await {
            // The step that fails is not undone itself.
            Err(error) => Err(match self.delete_tokens().await {
                Ok(_) => error,
                Err(undone) => error.cause(format!(
                    "a bootstrap token may be left, which ends by itself: {undone}"
                )),
            }),
            kind => kind,
        }
    }

    async fn make_and_store(&self) -> Result<JoinCredentialKind, StepError> {
        let made = self.make(LIFE).await?;
        let kind = made.kind();
        let limit = self.context.timings.request;
        ask(&self.context, self.host(), limit, |mut client| {
            let request = pb::StoreJoinCredentialRequest {
                token: made.token.clone(),
            };
            async move { client.store_join_credential(request).await }
        })
        .await?;
        Ok(kind)
    }

    /// Whether the host is a member already: its Node is Ready and of this machine, and its k3s runs.
    async fn is_member(&self) -> Result<bool, StepError> {
        let facts = facts(&self.context, self.host()).await?;
        let k3s = facts.k3s.unwrap_or_default();
        if k3s.role() != pb::K3sRole::Agent || k3s.unit_active_state != "active" {
            return Ok(false);
        }
        let node = self.api().await?.node(&self.planned.node_name).await?;
        Ok(node.is_some_and(|node| {
            let ready = ready_condition(&node).is_some_and(|ready| ready.status == "True");
            let machine = identity(&node).0;
            ready && !machine.is_empty() && machine == facts.machine_id
        }))
    }
}

/// Brings the credential, where the host is no member yet or has lost it: k3s does not start without one.
pub(super) struct BringCredential(KeepCredential);

impl BringCredential {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(KeepCredential {
            task: shared.task("join-credential"),
            shared,
        })
    }
}

#[async_trait]
impl Step for BringCredential {
    async fn run(&self, reporter: &Reporter) -> Result<Done, StepError> {
        if self.0.shared.is_member().await? {
            return self.0.run(reporter).await;
        }
        Ok(Done::changed(match self.0.shared.bring().await? {
            JoinCredentialKind::AgentToken => {
                "the cluster's own agent token, which is not the server's".to_owned()
            }
            _ => format!("a bootstrap token that is good for {} minutes", LIFE / 60),
        }))
    }

    /// A join that failed leaves no token that is still good.
    async fn undo(&self) -> Result<(), StepError> {
        self.0.shared.delete_tokens().await?;
        Ok(())
    }
}

/// Keeps the credential on the node for root alone: k3s asks for it at each start.
pub(super) struct KeepCredential {
    task: AgentTask,
    shared: Arc<Shared>,
}

impl KeepCredential {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            task: shared.task("keep-credential"),
            shared,
        }
    }
}

#[async_trait]
impl Step for KeepCredential {
    async fn run(&self, reporter: &Reporter) -> Result<Done, StepError> {
        let step = K3sInstallStep::KeepCredential;
        let spec = self.shared.install(step, reporter).await?;
        match self.task.run(spec.clone(), reporter).await {
            // Its next start would fail, though it runs now.
            Err(error) if error.reason() == FILE_MISSING => {
                self.shared.bring().await?;
                self.task.run(spec, reporter).await?;
                Ok(Done::repaired(
                    "the credential was missing, and k3s needs it at each start; it is back",
                ))
            }
            done => done,
        }
    }
}

/// Deletes the bootstrap token, which is of no use any more.
pub(super) struct DeleteTokens(pub(super) Arc<Shared>);

#[async_trait]
impl Step for DeleteTokens {
    async fn run(&self, _: &Reporter) -> Result<Done, StepError> {
        match self.0.delete_tokens().await {
            Ok(0) => Ok(Done::unchanged("there is none")),
            Ok(count) => Ok(Done::changed(format!("{count} deleted"))),
            // It ends by itself, so the join is as good as done.
            Err(error) => Ok(Done::warning(format!(
                "{error}; the controller deletes it once the API answers, and it ends by itself {} minutes after it was made",
                LIFE / 60
            ))),
        }
    }
}
