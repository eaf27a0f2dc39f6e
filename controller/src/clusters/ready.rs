//! Waiting until a Node is Ready as the cluster's API says, and the reading of Node objects.

use std::time::Duration;

use canasta_proto::name::HostName;
use canasta_proto::pb;
use canasta_steps::{Reporter, StepError};
use futures_util::TryStreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Api;
use kube::runtime::{WatchStreamExt as _, watcher};
use tokio::time::Instant;

use super::{ApiError, Clusters, nodes};
use crate::operations::agent;

/// The pause before an API that could not be asked is asked again.
const PAUSE: Duration = Duration::from_secs(1);
const JOURNAL_LINES: u32 = 50;

/// The Ready condition of a Node.
pub(crate) fn ready_condition(node: &Node) -> Option<&NodeCondition> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions
        .iter()
        .find(|condition| condition.type_ == "Ready")
}

/// The kubelet's version.
pub(super) fn kubelet_version(node: &Node) -> Option<&str> {
    let info = node.status.as_ref()?.node_info.as_ref()?;
    Some(&info.kubelet_version)
}

/// Whether a condition was told by the kubelet that runs now. After a restart the API tells what the one before said last,
/// until the new one has registered. The API's times are whole seconds.
fn is_fresh(condition: &NodeCondition, started: Timestamp) -> bool {
    let second = |time: &Option<Time>| time.as_ref().map_or(i64::MIN, |time| time.0.as_second());
    second(&condition.last_heartbeat_time) > started.as_second()
        || second(&condition.last_transition_time) >= started.as_second()
}

/// A Node that is waited for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Awaited<'a> {
    /// The control plane whose API is asked.
    pub(crate) api: &'a HostName,
    /// The host whose Node it is.
    pub(crate) host: &'a HostName,
    /// The name of the Node.
    pub(crate) node_name: &'a str,
    /// What its kubelet runs.
    pub(crate) version: &'a str,
    /// Whether the Node must be of this machine and this boot: one of the same name may be left from an earlier life.
    pub(crate) own: bool,
}

/// What the agent on a host says of the k3s that runs there now.
#[derive(Debug, Clone, Default)]
struct Running {
    started: Option<Timestamp>,
    /// The machine and its boot; none where any will do.
    identity: Option<(String, String)>,
}

/// What keeps a Node from being the own one of a host; nothing when it is.
fn foreign(node: &Node, wanted: &(String, String)) -> Option<String> {
    let (machine, boot) = nodes::identity(node);
    if machine != wanted.0 {
        return Some(format!(
            "the API tells a node of this name with the machine id '{machine}', and the host has '{}'",
            wanted.0
        ));
    }
    (boot != wanted.1).then(|| "what the API tells is from before the last boot".to_owned())
}

/// What keeps a Node from being what is waited for; nothing when it is.
fn lacking(node: &Node, version: &str, started: Option<Timestamp>) -> Option<String> {
    let Some(condition) = ready_condition(node) else {
        return Some("it has no Ready condition yet".to_owned());
    };
    if condition.status != "True" {
        let reason = condition.reason.as_deref().unwrap_or("no reason given");
        let message = condition.message.as_deref().unwrap_or_default();
        return Some(format!(
            "Ready is {} ({reason}): {message}",
            condition.status
        ));
    }
    if started.is_some_and(|started| !is_fresh(condition, started)) {
        return Some("what the API tells is from before k3s was started".to_owned());
    }
    match kubelet_version(node) {
        // Until the new kubelet has registered, the API tells what the old one said last.
        Some(found) if found != version => Some(format!("its kubelet is still {found}")),
        _ => None,
    }
}

impl Clusters {
    /// Waits until the Node of a control plane is Ready with this version, as its own API says.
    ///
    /// # Errors
    /// As [`Clusters::wait_ready`].
    pub(crate) async fn wait_node_ready(
        &self,
        host: &HostName,
        node_name: &str,
        version: &str,
        reporter: &Reporter,
    ) -> Result<(), StepError> {
        let awaited = Awaited {
            api: host,
            host,
            node_name,
            version,
            own: false,
        };
        self.wait_ready(&awaited, reporter).await
    }

    /// Waits until a Node is Ready with its version, as the API says. Woken by the API's watch.
    ///
    /// # Errors
    /// `NODE_NOT_READY` with the condition's reason and message, and the end of the unit's journal.
    pub(crate) async fn wait_ready(
        &self,
        awaited: &Awaited<'_>,
        reporter: &Reporter,
    ) -> Result<(), StepError> {
        let deadline = Instant::now() + self.timings.node_ready;
        let (host, node_name) = (awaited.host, awaited.node_name);
        let mut last = format!("the API does not know the node '{node_name}' yet");
        loop {
            let watched = self.watch_ready(awaited, &mut last, reporter);
            match tokio::time::timeout_at(deadline, watched).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => last = error,
                Err(_elapsed) => return Err(self.not_ready(host, node_name, last).await),
            }
            reporter.message(last.clone()).await;
            // The API or the way to it broke; it is asked anew.
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn watch_ready(
        &self,
        awaited: &Awaited<'_>,
        last: &mut String,
        reporter: &Reporter,
    ) -> Result<(), String> {
        let node_name = awaited.node_name;
        let running = self.running(awaited).await?;
        let client = self.api(awaited.api).await.map_err(|error| shown(&error))?;
        let only = watcher::Config::default().fields(&format!("metadata.name={node_name}"));
        let watched = watcher(Api::<Node>::all(client), only).applied_objects();
        let mut nodes = std::pin::pin!(watched);
        while let Some(node) = nodes.try_next().await.map_err(|error| shown(&error))? {
            if node.metadata.name.as_deref() != Some(node_name) {
                continue;
            }
            let identity = running.identity.as_ref();
            let lack = identity
                .and_then(|wanted| foreign(&node, wanted))
                .or_else(|| lacking(&node, awaited.version, running.started));
            match lack {
                None => return Ok(()),
                Some(lack) => {
                    reporter.message(format!("node {node_name}: {lack}")).await;
                    *last = lack;
                }
            }
        }
        Err("the watch of the API ended".to_owned())
    }

    /// When the process of k3s was started and on which machine, as the agent on its host says. An agent that does not say
    /// when is no obstacle; one that does not say which machine is, where that matters.
    async fn running(&self, awaited: &Awaited<'_>) -> Result<Running, String> {
        let asked = async {
            let mut client = self.fleet.agent(awaited.host).await.ok()?;
            let answer = client.get_facts(pb::GetFactsRequest {}).await.ok()?;
            answer.into_inner().facts
        };
        let limit = self.timings.request;
        let facts = tokio::time::timeout(limit, asked).await.ok().flatten();
        let started = |facts: &pb::NodeFacts| {
            let at = facts.k3s.as_ref()?.unit_started_at?;
            Timestamp::new(at.seconds, at.nanos).ok()
        };
        match facts {
            Some(facts) => Ok(Running {
                started: started(&facts),
                identity: awaited.own.then_some((facts.machine_id, facts.boot_id)),
            }),
            None if awaited.own => Err(format!(
                "the agent on {} does not tell which machine it is on",
                awaited.host
            )),
            None => Ok(Running::default()),
        }
    }

    async fn not_ready(&self, host: &HostName, node_name: &str, last: String) -> StepError {
        let error = StepError::new(
            "NODE_NOT_READY",
            format!(
                "node '{node_name}' did not become Ready within {} s",
                self.timings.node_ready.as_secs()
            ),
        )
        .cause(last)
        .subject(format!("host {host}"))
        .hint(format!(
            "look at the journal below, and at `canasta cluster list`; when the cause is mended, run the command again. \
             On {host}: journalctl -u 'k3s*'"
        ));
        match self.journal(host).await {
            Ok(evidence) => error.evidence(evidence),
            Err(missing) => error.evidence(pb::Evidence {
                title: "journal of k3s".to_owned(),
                lines: vec![format!("not known: {missing}")],
                source: "controller".to_owned(),
                at: Some(crate::operations::stamp::now()),
            }),
        }
    }

    async fn journal(&self, host: &HostName) -> Result<pb::Evidence, String> {
        let asked = async {
            let mut client = self
                .fleet
                .agent(host)
                .await
                .map_err(|error| error.to_string())?;
            let request = pb::GetJournalRequest {
                unit: pb::JournalUnit::K3s.into(),
                lines: JOURNAL_LINES,
            };
            let answer = client.get_journal(request).await;
            let answer = answer.map_err(|status| status.message().to_owned())?;
            answer
                .into_inner()
                .evidence
                .ok_or_else(|| "the agent told nothing".to_owned())
        };
        tokio::time::timeout(self.timings.request, asked)
            .await
            .unwrap_or_else(|_| Err("the agent did not answer in time".to_owned()))
    }

    /// A client for the API server of a control-plane node.
    pub(crate) async fn api(&self, host: &HostName) -> Result<kube::Client, AskError> {
        let client: agent::Client = self.fleet.agent(host).await?;
        Ok(super::api::client(client, host.as_str()).await?)
    }
}

/// Why an API could not be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// The agent can't be asked.
    #[error(transparent)]
    Fleet(#[from] crate::fleet::FleetError),
    /// It gives no credentials.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// It does not answer.
    #[error("the agent did not answer within {seconds} s")]
    Late {
        /// How long it was waited for.
        seconds: u64,
    },
}

/// An error with its causes on one line.
pub(crate) fn shown(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    for cause in canasta_transport::status::chain(error) {
        // Some libraries repeat their source in their own text.
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Node;

    use super::*;

    fn node(status: &str, version: &str) -> Node {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "cp1"},
            "status": {
                "conditions": [
                    {"type": "MemoryPressure", "status": "False"},
                    {"type": "Ready", "status": status, "reason": "KubeletNotReady", "message": "PLEG is not healthy"},
                ],
                "nodeInfo": {
                    "architecture": "amd64", "bootID": "", "containerRuntimeVersion": "", "kernelVersion": "",
                    "kubeProxyVersion": version, "kubeletVersion": version, "machineID": "",
                    "operatingSystem": "linux", "osImage": "", "systemUUID": "",
                },
            },
        }))
        .expect("a node")
    }

    #[test]
    fn a_node_is_ready_when_its_new_kubelet_says_so() {
        let wanted = "v1.34.8+k3s1";
        assert_eq!(lacking(&node("True", wanted), wanted, None), None);
        assert_eq!(
            lacking(&node("False", wanted), wanted, None).as_deref(),
            Some("Ready is False (KubeletNotReady): PLEG is not healthy")
        );
        assert_eq!(
            lacking(&node("True", "v1.33.1+k3s1"), wanted, None).as_deref(),
            Some("its kubelet is still v1.33.1+k3s1")
        );
        assert!(lacking(&Node::default(), wanted, None).is_some());
    }

    fn condition(heartbeat: i64, transition: i64) -> NodeCondition {
        let time = |second| Some(Time(Timestamp::from_second(second).expect("a time")));
        NodeCondition {
            last_heartbeat_time: time(heartbeat),
            last_transition_time: time(transition),
            status: "True".to_owned(),
            type_: "Ready".to_owned(),
            ..NodeCondition::default()
        }
    }

    #[test]
    fn what_an_earlier_kubelet_said_is_not_believed() {
        let started = Timestamp::from_millisecond(100_700).expect("a time");
        let cases = [
            // The kubelet before: its last word, and one within the second of the restart.
            ((90, 10), false),
            ((100, 10), false),
            // The new one: a heartbeat later on, or a change in the second of the start.
            ((101, 10), true),
            ((100, 100), true),
        ];
        for ((heartbeat, transition), fresh) in cases {
            assert_eq!(
                is_fresh(&condition(heartbeat, transition), started),
                fresh,
                "{heartbeat} {transition}"
            );
        }
    }
}
