//! The steps of a drain.

use std::time::Duration;

use async_trait::async_trait;
use canasta_steps::{Done, Plan, Reporter, Step, StepError, StepInfo};

use super::Planned;
use super::cordon::{Cordoned, SetCordon};
use super::evict::{Ended, Eviction, evict_all};
use crate::workflows::Context;

/// The list of steps.
pub(super) fn steps(context: &Context, planned: &Planned, operation: &str) -> Plan {
    let cordoned = Cordoned {
        context: context.clone(),
        cluster: planned.cluster.clone(),
        node_name: planned.node_name.clone(),
        host: planned.host.clone(),
        operation: operation.to_owned(),
    };
    let eviction = Eviction {
        context: context.clone(),
        cluster: planned.cluster.clone(),
        node_name: planned.node_name.clone(),
        operation: operation.to_owned(),
        patience: Duration::from_secs(planned.timeout_seconds),
        until_gone: true,
    };
    let info = |id: &str, title: &str| StepInfo {
        id: id.to_owned(),
        title: format!("{title} node {}", planned.node_name),
        host: planned.host.clone(),
    };
    Plan::new()
        .then(info("cordon", "cordon"), SetCordon(cordoned.clone()))
        .then(
            info("evict", "evict the pods of"),
            Evict {
                cordoned: cordoned.clone(),
                eviction,
            },
        )
        .then(
            info("keep-cordon", "keep new pods off"),
            KeepCordon(cordoned),
        )
}

struct Evict {
    cordoned: Cordoned,
    eviction: Eviction,
}

#[async_trait]
impl Step for Evict {
    async fn run(&self, reporter: &Reporter) -> Result<Done, StepError> {
        match evict_all(&self.eviction, reporter).await {
            Ok(Ended::Empty(0)) => Ok(Done::unchanged("there was no pod to evict")),
            Ok(Ended::Empty(count)) => Ok(Done::changed(format!("{count} pods evicted"))),
            Ok(Ended::Cancelled(left)) => {
                // Nothing is begun after this step, so nobody else takes it back at once.
                self.cordoned.take_back().await?;
                Ok(Done::skipped(format!(
                    "cancelled with {left} pods left; the cordon is taken back"
                )))
            }
            Err(error) => {
                // The cordon may be of a run before a crash, which is not undone. What fails here is owed.
                if let Err(undone) = self.cordoned.take_back().await {
                    return Err(error.cause(format!(
                        "the cordon could not be taken back yet: {undone}; it will be once the API answers"
                    )));
                }
                Err(error)
            }
        }
    }
}

/// What was drained stays empty.
struct KeepCordon(Cordoned);

#[async_trait]
impl Step for KeepCordon {
    async fn run(&self, _: &Reporter) -> Result<Done, StepError> {
        self.0.keep().await?;
        Ok(Done::unchanged(format!(
            "`canasta node uncordon {}` lets it take pods again",
            self.0.node_name
        )))
    }
}
