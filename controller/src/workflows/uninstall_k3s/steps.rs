//! The steps of an uninstall, in order. What is done on the host is done by tasks of its agent.

use std::sync::Arc;

use async_trait::async_trait;
use canasta_proto::pb;
use canasta_proto::pb::K3sUninstallStep;
use canasta_proto::pb::task_spec::Verb;
use canasta_steps::{Done, Plan, Reporter, Step, StepError, StepInfo};

use super::guards::judge;
use super::{Planned, known, plan, refused};
use crate::clusters::NodeError;
use crate::clusters::nodes::is_anothers;
use crate::operations::agent::AgentTask;
use crate::store::debts::{DebtKind, NewDebt};
use crate::workflows::Context;
use crate::workflows::ask::{again, facts, step_error};
use crate::workflows::drain_node::{Cordoned, Ended, Eviction, evict_all};
use crate::workflows::exports::{Leaving, follow_nodes};
use crate::workflows::gather;
use crate::workflows::record::database_failed;

/// The step from which on the host can do nothing new.
pub(super) const STOP_SERVICE: &str = "stop-service";

/// Tasks of the agent before files are touched: id, title, which step of the agent.
const STOPPING: [(&str, &str, K3sUninstallStep); 4] = [
    (STOP_SERVICE, "stop and disable k3s", K3sUninstallStep::Stop),
    (
        "end-processes",
        "end what k3s left running",
        K3sUninstallStep::Processes,
    ),
    (
        "remove-mounts",
        "take away the mounts of k3s",
        K3sUninstallStep::Mounts,
    ),
    (
        "remove-network",
        "take away links, namespaces and packet rules of k3s",
        K3sUninstallStep::Network,
    ),
];

/// What all steps know.
struct Shared {
    context: Context,
    planned: Planned,
    cordoned: Cordoned,
}

impl Shared {
    /// Why nothing is asked of the cluster about the node's pods; none when it is. A node that was not Ready when this was
    /// planned may be by now, and one of its name may be another machine.
    async fn no_drain(&self) -> Option<String> {
        let planned = &self.planned;
        if planned.cluster.is_empty() {
            return Some("the host belongs to no cluster".to_owned());
        }
        if planned.is_control_plane() {
            let why = "the cluster ends with its control plane: its pods have nowhere to go";
            return Some(why.to_owned());
        }
        match self.own_node().await {
            Ok(Some(Own::Another)) => Some(self.stays()),
            Ok(Some(Own::Yes(_))) => None,
            // Whoever asks next says that there is no such node, or no API.
            Ok(None) | Err(_) => planned
                .never_ready
                .then(|| "the node was never Ready, so no pod is on it".to_owned()),
        }
    }

    /// The Node of this name; none when there is none.
    async fn own_node(&self) -> Result<Option<Own>, NodeError> {
        let Planned {
            cluster,
            node_name,
            machine,
            ..
        } = &self.planned;
        let api = self.context.clusters.api_of(cluster).await?;
        Ok(api.node(node_name).await?.map(|node| {
            if is_anothers(&node, machine) {
                Own::Another
            } else {
                Own::Yes(node.metadata.uid)
            }
        }))
    }

    fn stays(&self) -> String {
        let Planned {
            cluster, node_name, ..
        } = &self.planned;
        format!("node {node_name} of cluster {cluster} is another machine's by now, and stays")
    }
}

/// Whose a Node is.
enum Own {
    /// This host's, or one that tells no machine, with its uid.
    Yes(Option<String>),
    /// Another machine has the name.
    Another,
}

/// The list of steps.
pub(super) fn steps(context: &Context, planned: &Planned, operation: &str) -> Plan {
    let cordoned = Cordoned {
        context: context.clone(),
        cluster: planned.cluster.clone(),
        node_name: planned.node_name.clone(),
        host: planned.host.to_string(),
        operation: operation.to_owned(),
    };
    let shared = Arc::new(Shared {
        context: context.clone(),
        planned: planned.clone(),
        cordoned,
    });
    let host = planned.host.as_str();
    let with = || Arc::clone(&shared);
    let info = |id: &str, title: &str, host: &str| StepInfo {
        id: id.to_owned(),
        title: title.to_owned(),
        host: host.to_owned(),
    };
    let task = |id: &str, step| UninstallTask {
        task: AgentTask::new(
            context.fleet.clone(),
            (*planned.host).clone(),
            operation,
            id,
            context.timings.agent_wait,
        ),
        discard: planned.discard.clone(),
        local_paths: planned.local_paths.clone(),
        step,
    };
    let mut plan = Plan::new()
        .then(
            info("cordon", "keep new pods off the node", host),
            Cordon(with()),
        )
        .then(info("check", "ask what would be lost", host), Check(with()))
        .then(
            info("drain", "evict the pods of the node", host),
            Drain(with()),
        )
        .then(
            info("check-again", "ask again what would be lost", host),
            Check(with()),
        );
    for (id, title, step) in STOPPING {
        plan = plan.then(info(id, title, host), task(id, step));
    }
    plan.then(
        info("remove-files", "remove the files of k3s", host),
        RemoveFiles {
            shared: with(),
            task: task("remove-files", K3sUninstallStep::Files),
        },
    )
    .then(
        info(
            "compare",
            "compare with the picture from before the install",
            host,
        ),
        task("compare", K3sUninstallStep::Compare),
    )
    .then(
        info("delete-node", "delete the node from its cluster", ""),
        DeleteNode(with()),
    )
    .then(
        info(
            "storage-clients",
            "take the node off the shared storage of its cluster",
            "",
        ),
        TakeOffStorage(with()),
    )
    .then(info("forget", "forget the node", ""), Forget(shared))
}

/// Cordons the node; taken back when a later step fails before files are touched.
struct Cordon(Arc<Shared>);

#[async_trait]
impl Step for Cordon {
    async fn run(&self, _: &Reporter) -> Result<Done, StepError> {
        if let Some(reason) = self.0.no_drain().await {
            return Ok(Done::skipped(reason));
        }
        match self.0.cordoned.set().await {
            Err(error) if self.0.planned.force => Ok(Done::skipped(format!("by force: {error}"))),
            // Gone already: there is nothing that could get pods.
            Err(error) if error.reason() == "NODE_NOT_FOUND" => {
                self.0.cordoned.keep().await?;
                Ok(Done::skipped(error.to_string()))
            }
            done => done,
        }
    }

    async fn undo(&self) -> Result<(), StepError> {
        self.0.cordoned.take_back().await
    }
}

/// Asks all guards.
struct Check(Arc<Shared>);

#[async_trait]
impl Step for Check {
    async fn run(&self, _: &Reporter) -> Result<Done, StepError> {
        let Shared {
            context, planned, ..
        } = &*self.0;
        let host = &*planned.host;
        let checked = async {
            let known = again(context, host, || known::gather(context, host)).await?;
            let now = plan(host, &known, planned.force);
            now.map_err(|refusal| step_error(refusal.into()))?;
            let judged = judge(&known, planned.force, &planned.discard);
            let errors: Vec<_> = gather::errors(&judged.findings).collect();
            if !errors.is_empty() {
                return Err(step_error(refused(host, &errors, &judged).into()));
            }
            Ok(judged)
        };
        match checked.await {
            Ok(judged) if judged.losses.is_empty() => Ok(Done::unchanged("nothing is lost")),
            Ok(judged) => Ok(Done::warning(format!(
                "is lost: {}",
                judged.losses.join("; ")
            ))),
            // Its cordon may be of a run before a crash, which is not undone.
            Err(error) => Err(self.0.taken_back(error).await),
        }
    }
}

/// What came of deleting a Node and its password.
enum Deleted {
    Node,
    Nothing,
    Anothers,
}

impl Shared {
    async fn delete_node(&self) -> Result<Deleted, NodeError> {
        let Planned {
            cluster, node_name, ..
        } = &self.planned;
        let own = self.own_node().await?;
        let api = self.context.clusters.api_of(cluster).await?;
        let node = match own {
            Some(Own::Another) => return Ok(Deleted::Anothers),
            Some(Own::Yes(uid)) => api.delete_node_of(node_name, uid.as_deref()).await?,
            None => false,
        };
        let password = api.delete_password(node_name).await?;
        Ok(if node || password {
            Deleted::Node
        } else {
            Deleted::Nothing
        })
    }

    /// The error, once the cordon is taken back; what fails of that is owed.
    async fn taken_back(&self, error: StepError) -> StepError {
        match self.cordoned.take_back().await {
            Ok(()) => error,
            Err(undone) => error.cause(format!(
                "the cordon could not be taken back yet: {undone}; it will be once the API answers"
            )),
        }
    }
}

/// Evicts the pods. Forced, it goes on where they don't leave.
struct Drain(Arc<Shared>);

#[async_trait]
impl Step for Drain {
    async fn run(&self, reporter: &Reporter) -> Result<Done, StepError> {
        if let Some(reason) = self.0.no_drain().await {
            return Ok(Done::skipped(reason));
        }
        let Shared {
            context,
            planned,
            cordoned,
        } = &*self.0;
        // What is known of an API does not prove that it answers; evictions would be tried again for minutes.
        if planned.force
            && let Err(error) = answers(context, &planned.cluster).await
        {
            return Ok(Done::skipped(format!("by force: {error}")));
        }
        let facts = facts(context, &planned.host).await?;
        let k3s = facts.k3s.unwrap_or_default();
        let eviction = Eviction {
            context: context.clone(),
            cluster: planned.cluster.clone(),
            node_name: planned.node_name.clone(),
            operation: cordoned.operation.clone(),
            patience: context.timings.evict,
            until_gone: k3s.unit_active_state == "active",
        };
        match evict_all(&eviction, reporter).await {
            Ok(Ended::Empty(0)) => Ok(Done::unchanged("there was no pod to evict")),
            Ok(Ended::Empty(count)) => Ok(Done::changed(format!("{count} pods evicted"))),
            Ok(Ended::Cancelled(left)) => {
                cordoned.take_back().await?;
                Ok(Done::skipped(format!("cancelled with {left} pods left")))
            }
            Err(error) if planned.force => {
                let causes = error.report().causes.join("; ");
                Ok(Done::warning(format!("by force: {error}: {causes}")))
            }
            Err(error) => Err(self.0.taken_back(error).await),
        }
    }
}

/// Whether the API of a cluster answers.
async fn answers(context: &Context, cluster: &str) -> Result<(), NodeError> {
    let api = context.clusters.api_of(cluster).await?;
    api.nodes().await.map(|_| ())
}

struct UninstallTask {
    task: AgentTask,
    discard: Vec<String>,
    local_paths: Vec<String>,
    step: K3sUninstallStep,
}

#[async_trait]
impl Step for UninstallTask {
    async fn run(&self, reporter: &Reporter) -> Result<Done, StepError> {
        let spec = pb::TaskSpec {
            verb: Some(Verb::K3sUninstall(pb::K3sUninstallTask {
                step: self.step.into(),
                discard: self.discard.clone(),
                local_paths: self.local_paths.clone(),
            })),
        };
        self.task.run(spec, reporter).await
    }
}

/// Removes files. From here on the node is no node any more, so it stays cordoned.
struct RemoveFiles {
    shared: Arc<Shared>,
    task: UninstallTask,
}

#[async_trait]
impl Step for RemoveFiles {
    async fn run(&self, reporter: &Reporter) -> Result<Done, StepError> {
        if !self.shared.planned.cluster.is_empty() {
            self.shared.cordoned.keep().await?;
        }
        self.task.run(reporter).await
    }
}

/// Deletes the Node and its password; an API that is away is owed it.
struct DeleteNode(Arc<Shared>);

#[async_trait]
impl Step for DeleteNode {
    async fn run(&self, _: &Reporter) -> Result<Done, StepError> {
        let Shared {
            context,
            planned,
            cordoned,
        } = &*self.0;
        if planned.cluster.is_empty() {
            return Ok(Done::skipped("the host belongs to no cluster"));
        }
        if planned.is_control_plane() {
            return Ok(Done::skipped("the API went with it"));
        }
        let node = planned.node_name.as_str();
        match self.0.delete_node().await {
            Ok(Deleted::Nothing) => Ok(Done::unchanged(format!("the cluster has no node {node}"))),
            Ok(Deleted::Anothers) => Ok(Done::unchanged(self.0.stays())),
            Ok(Deleted::Node) => Ok(Done::changed(format!(
                "node {node} and its password are deleted"
            ))),
            Err(error) => {
                let why = crate::clusters::shown(&error);
                let debt = NewDebt {
                    cluster: &planned.cluster,
                    kind: DebtKind::DeleteNode,
                    node_name: node,
                    host: planned.host.as_str(),
                    machine: &planned.machine,
                    operation: &cordoned.operation,
                    last_error: &why,
                };
                // A cluster that was forgotten meanwhile is owed nothing.
                if context
                    .store
                    .cluster(&planned.cluster)
                    .await
                    .map_err(database_failed)?
                    .is_some()
                {
                    context
                        .store
                        .put_debt(&debt)
                        .await
                        .map_err(database_failed)?;
                }
                Ok(Done::warning(format!(
                    "node {node} is still to be deleted: {why}; the controller does it once the API answers, and \
                     `canasta cluster show {}` shows it until then",
                    planned.cluster
                )))
            }
        }
    }
}

/// Takes the node from those that may mount what hosts export for the cluster. What can't be told now is told by the next node that
/// comes or goes.
struct TakeOffStorage(Arc<Shared>);

#[async_trait]
impl Step for TakeOffStorage {
    async fn run(&self, reporter: &Reporter) -> Result<Done, StepError> {
        let Shared {
            context,
            planned,
            cordoned,
        } = &*self.0;
        if planned.cluster.is_empty() || planned.is_control_plane() {
            return Ok(Done::skipped("no cluster is left that has shared storage"));
        }
        let followed = async {
            let api = context.clusters.api_of(&planned.cluster).await?;
            let leaving = Leaving {
                host: planned.host.as_str(),
                node: &planned.node_name,
            };
            follow_nodes(context, &api, &cordoned.operation, Some(leaving), reporter).await
        };
        // The node is gone whether or not an export knows.
        followed.await.or_else(|error| {
            let why = error.report().message.clone();
            Ok(Done::warning(format!(
                "whether exports still let {} mount can't be told: {why}",
                planned.node_name
            )))
        })
    }
}

/// Forgets the node, and the cluster with its last one.
struct Forget(Arc<Shared>);

#[async_trait]
impl Step for Forget {
    async fn run(&self, _: &Reporter) -> Result<Done, StepError> {
        let Shared {
            context, planned, ..
        } = &*self.0;
        let forgotten = context.store.forget_node(planned.host.as_str()).await;
        Ok(match forgotten.map_err(database_failed)? {
            (false, _) => Done::unchanged("nothing was recorded of it"),
            (true, false) => Done::changed(format!(
                "{} is no node of cluster {} any more",
                planned.host, planned.cluster
            )),
            (true, true) => Done::changed(format!(
                "cluster {} had no other node and is forgotten",
                planned.cluster
            )),
        })
    }
}
