//! Pod disruption budgets: what they allow, computed from the pods that they select, and the status that says so.
//! Eviction asks here; the controllers keep the statuses.

use serde_json::{Value, json};

use super::Shared;
use super::answer::Status;
use super::query::selector_matches;
use super::resources::Resource;
use super::store::Key;
use super::{pods, store::StoreError};
use crate::clock::kubernetes_now;

/// How many pods of a budget are well, and how many have to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Health {
    healthy: i64,
    desired: i64,
    expected: i64,
}

impl Health {
    /// Weighs a budget against the pods that it selects.
    fn of(budget: &Value, pods: &[&Value]) -> Self {
        let count = |pods: usize| i64::try_from(pods).unwrap_or(i64::MAX);
        let expected = count(pods.iter().filter(|pod| !pods::is_over(pod)).count());
        let healthy = pods
            .iter()
            .filter(|pod| pods::is_ready(pod) && pod["metadata"]["deletionTimestamp"].is_null());
        let spec = &budget["spec"];
        let desired = if spec["maxUnavailable"].is_null() {
            share(&spec["minAvailable"], expected)
        } else {
            (expected - share(&spec["maxUnavailable"], expected)).max(0)
        };
        Self {
            healthy: count(healthy.count()),
            desired,
            expected,
        }
    }

    fn allowed(self) -> i64 {
        if self.expected == 0 {
            0
        } else {
            (self.healthy - self.desired).max(0)
        }
    }
}

// A number, or a percentage rounded up.
fn share(value: &Value, of: i64) -> i64 {
    let percent = value
        .as_str()
        .and_then(|text| text.strip_suffix('%'))
        .and_then(|text| text.parse::<i64>().ok());
    match percent {
        Some(percent) => (percent * of + 99) / 100,
        None => value.as_i64().unwrap_or(0),
    }
}

fn selects(budget: &Value, pod: &Value) -> bool {
    budget["metadata"]["namespace"] == pod["metadata"]["namespace"]
        && budget["spec"]["selector"].is_object()
        && selector_matches(&budget["spec"]["selector"], &pod["metadata"]["labels"])
}

fn resource(shared: &Shared) -> Option<&Resource> {
    shared
        .resources
        .find("policy", "v1", "poddisruptionbudgets")
}

/// Lets a pod go, or says which budget holds it.
pub(super) fn guard(shared: &Shared, pod: &Value) -> Result<(), Box<Status>> {
    let going = pod["metadata"]["deletionTimestamp"].is_string();
    if going || pods::is_over(pod) || pod["status"]["phase"] == "Pending" {
        return Ok(());
    }
    let Some(budgets) = resource(shared) else {
        return Ok(());
    };
    let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
    let all = shared.store.list(budgets, namespace).objects;
    let mut holding = all.iter().filter(|budget| selects(budget, pod));
    let Some(budget) = holding.next() else {
        return Ok(());
    };
    if holding.next().is_some() {
        return Err(Box::new(Status::two_budgets()));
    }
    let everyone = pods::list(shared, namespace);
    let selected: Vec<&Value> = everyone.iter().filter(|pod| selects(budget, pod)).collect();
    let health = Health::of(budget, &selected);
    let unready_and_enough =
        !pods::is_ready(pod) && health.desired > 0 && health.healthy >= health.desired;
    if health.allowed() > 0 || unready_and_enough {
        return Ok(());
    }
    let name = budget["metadata"]["name"].as_str().unwrap_or_default();
    Err(Box::new(Status::disruption(
        name,
        health.desired,
        health.healthy,
    )))
}

/// Writes the status of every budget that changed.
pub(super) fn reconcile(shared: &Shared) {
    let Some(budgets) = resource(shared) else {
        return;
    };
    let all = shared.store.list(budgets, "").objects;
    if all.is_empty() {
        return;
    }
    let everyone = pods::list(shared, "");
    for budget in all {
        let selected: Vec<&Value> = everyone
            .iter()
            .filter(|pod| selects(&budget, pod))
            .collect();
        let status = status(&budget, Health::of(&budget, &selected));
        let text = |field: &str| budget["metadata"][field].as_str().unwrap_or_default();
        let key = Key::new(budgets, text("namespace"), text("name"));
        let written: Result<Value, StoreError> = shared
            .store
            .update(&key, None, |budget| budget["status"] = status.clone());
        // Deleted at this moment, it needs no status.
        drop(written);
    }
}

fn status(budget: &Value, health: Health) -> Value {
    let generation = budget["metadata"]["generation"].as_u64().unwrap_or(1);
    let (state, reason) = if health.allowed() > 0 {
        ("True", "SufficientPods")
    } else {
        ("False", "InsufficientPods")
    };
    let old = &budget["status"]["conditions"][0];
    let since = if old["status"] == state {
        old["lastTransitionTime"].clone()
    } else {
        kubernetes_now().into()
    };
    json!({
        "observedGeneration": generation,
        "disruptionsAllowed": health.allowed(),
        "currentHealthy": health.healthy,
        "desiredHealthy": health.desired,
        "expectedPods": health.expected,
        "conditions": [{"type": "DisruptionAllowed", "status": state, "observedGeneration": generation,
            "lastTransitionTime": since, "reason": reason, "message": ""}],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(ready: &str) -> Value {
        json!({"metadata": {}, "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}})
    }

    fn weigh(spec: Value, pods: &[Value]) -> (i64, i64, i64) {
        let pods: Vec<&Value> = pods.iter().collect();
        let health = Health::of(&json!({"spec": spec}), &pods);
        (health.desired, health.healthy, health.allowed())
    }

    #[test]
    fn numbers_and_percentages() {
        let pods = [pod("True"), pod("True"), pod("False")];
        assert_eq!(weigh(json!({"minAvailable": 1}), &pods), (1, 2, 1));
        assert_eq!(weigh(json!({"minAvailable": "50%"}), &pods), (2, 2, 0));
        assert_eq!(weigh(json!({"maxUnavailable": 1}), &pods), (2, 2, 0));
        assert_eq!(weigh(json!({"maxUnavailable": "100%"}), &pods), (0, 2, 2));
        assert_eq!(weigh(json!({"minAvailable": 0}), &[]), (0, 0, 0));
    }

    #[test]
    fn one_that_is_going_is_not_healthy() {
        let mut going = pod("True");
        going["metadata"]["deletionTimestamp"] = "now".into();
        assert_eq!(
            weigh(json!({"minAvailable": 1}), &[going, pod("True")]),
            (1, 1, 0)
        );
    }
}
