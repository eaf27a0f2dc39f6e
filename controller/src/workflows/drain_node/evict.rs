//! Evicting all pods of a node until none is left, its deadline is over, or the operation is cancelled.

use std::collections::BTreeMap;
use std::time::Duration;

use canasta_proto::pb;
use canasta_steps::{Reporter, StepError};
use tokio::time::Instant;

use crate::clusters::pods::{Evicted, Evictee};
use crate::clusters::{ClusterApi, NodeError};
use crate::operations::stamp;
use crate::workflows::Context;
use crate::workflows::record::database_failed;

/// How often pods that end are looked for.
const LOOK: Duration = Duration::from_secs(1);
/// The most pods that an error names.
const NAMED: usize = 20;

/// Which node is to be empty by when.
#[derive(Debug, Clone)]
pub(in crate::workflows) struct Eviction {
    pub(in crate::workflows) context: Context,
    pub(in crate::workflows) cluster: String,
    pub(in crate::workflows) node_name: String,
    pub(in crate::workflows) operation: String,
    /// How long evictions that are refused are tried again.
    pub(in crate::workflows) patience: Duration,
    /// False where no kubelet runs that could end a pod: being marked for its end is all that can be had.
    pub(in crate::workflows) until_gone: bool,
}

/// How it ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::workflows) enum Ended {
    /// No pod is left; so many were evicted.
    Empty(usize),
    /// The operation is cancelled; so many pods are left.
    Cancelled(usize),
}

/// Evicts all pods but those of DaemonSets and mirrors.
///
/// # Errors
/// `DRAIN_BLOCKED` with each pod that is left and what keeps it; `API_UNREACHABLE`.
pub(in crate::workflows) async fn evict_all(
    eviction: &Eviction,
    reporter: &Reporter,
) -> Result<Ended, StepError> {
    let deadline = Instant::now() + eviction.patience;
    let mut round = Round::default();
    loop {
        let next = match eviction.round(&mut round, reporter).await {
            Ok(0) => return Ok(Ended::Empty(round.evicted)),
            Ok(left) => {
                let cancelled = eviction.context.store.is_cancelling(&eviction.operation);
                if cancelled.await.map_err(database_failed)? {
                    return Ok(Ended::Cancelled(left));
                }
                None
            }
            // An API that is away may come back before the deadline.
            Err(error) => Some(error),
        };
        if Instant::now() >= deadline {
            return Err(next.map_or_else(|| eviction.blocked(&round), StepError::from));
        }
        if let Some(error) = next {
            reporter.message(error.to_string()).await;
        }
        tokio::time::sleep(LOOK.min(eviction.context.timings.evict_again)).await;
    }
}

/// What is known between two looks.
#[derive(Debug, Default)]
struct Round {
    evicted: usize,
    /// What keeps each pod that is left.
    left: BTreeMap<String, String>,
    /// When each pod whose eviction was refused is tried again.
    again: BTreeMap<String, Instant>,
    version: Option<String>,
}

impl Eviction {
    /// Looks once, evicts what is due, and tells how many are left.
    async fn round(&self, round: &mut Round, reporter: &Reporter) -> Result<usize, NodeError> {
        let clusters = &self.context.clusters;
        let api = clusters.api_of(&self.cluster).await?;
        if round.version.is_none() {
            round.version = Some(clusters.capabilities(&api).await?.eviction_version);
        }
        let mut pods = api.evictees(&self.node_name).await?;
        pods.retain(|pod| self.until_gone || !pod.ending);
        let before = std::mem::take(&mut round.left);
        for pod in &pods {
            let name = pod.to_string();
            let known = before.get(&name).map(String::as_str);
            let why = self.one(&api, pod, round, known).await?;
            round.left.insert(name, why);
        }
        if let Some((pod, why)) = round.left.first_key_value() {
            let message = format!("{} pods are left; {pod}: {why}", pods.len());
            let total = round.evicted.max(round.left.len());
            reporter
                .progress(pb::StepProgress {
                    message,
                    done: (total - round.left.len()) as u64,
                    total: total as u64,
                    ..pb::StepProgress::default()
                })
                .await;
        }
        Ok(pods.len())
    }

    /// Evicts a pod when it is due, and tells what keeps it; `known` is what did when it was tried last.
    async fn one(
        &self,
        api: &ClusterApi,
        pod: &Evictee,
        round: &mut Round,
        known: Option<&str>,
    ) -> Result<String, NodeError> {
        let name = pod.to_string();
        if pod.ending {
            return Ok("it is ending".to_owned());
        }
        let now = Instant::now();
        if round.again.get(&name).is_some_and(|again| now < *again) {
            return Ok(known.unwrap_or("its eviction was refused").to_owned());
        }
        let version = round.version.clone().unwrap_or_default();
        match api.evict(pod, &version).await? {
            Evicted::Yes => {
                round.evicted += 1;
                Ok("it is ending".to_owned())
            }
            Evicted::Blocked(why) => {
                let pause = self.context.timings.evict_again;
                round.again.insert(name, now + pause);
                Ok(why)
            }
        }
    }

    fn blocked(&self, round: &Round) -> StepError {
        let mut error = StepError::new(
            "DRAIN_BLOCKED",
            format!(
                "{} pods are still on node '{}' after {} s",
                round.left.len(),
                self.node_name,
                self.patience.as_secs()
            ),
        )
        .subject(format!("node {}", self.node_name))
        .hint("a disruption budget that allows no disruption needs more replicas of its pods on other nodes, or another \
               `minAvailable`; mend what is named, or give the drain more time, and run the command again");
        for (pod, why) in round.left.iter().take(NAMED) {
            error = error.cause(format!("{pod}: {why}"));
        }
        error.evidence(pb::Evidence {
            title: format!("pods that are left on node {}", self.node_name),
            lines: round
                .left
                .iter()
                .map(|(pod, why)| format!("{pod}: {why}"))
                .collect(),
            source: format!("API of cluster {}", self.cluster),
            at: Some(stamp::now()),
        })
    }
}
