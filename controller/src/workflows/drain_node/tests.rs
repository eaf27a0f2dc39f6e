//! Drains against an API that keeps budgets.

use std::time::Duration;

use canasta_proto::pb;

use super::drain;
use crate::clusters::fake::pod;
use crate::store::debts::{DebtKind, NewDebt};
use crate::workflows::bench::{Lab, outcomes};
use crate::workflows::node_target;

const NODE: &str = "/api/v1/nodes/w1";
const CORDONED_BY: &str = "canasta.wiki/cordoned-by";

async fn started(lab: &Lab) -> String {
    started_for(lab, 0).await
}

/// Starts a drain that may take so many seconds; 0 for as long as the controller says.
async fn started_for(lab: &Lab, timeout_seconds: u32) -> String {
    let request = pb::DrainNodeRequest {
        node: "w1".to_owned(),
        timeout_seconds,
        ..pb::DrainNodeRequest::default()
    };
    let started = drain(&lab.context, &lab.operations, &request, "user anna").await;
    started.expect("started").0
}

fn cordoned(lab: &Lab) -> (bool, String) {
    let node = lab.api.get(NODE).expect("there");
    let by = node["metadata"]["annotations"][CORDONED_BY].as_str();
    (
        node["spec"]["unschedulable"] == true,
        by.unwrap_or_default().to_owned(),
    )
}

fn put(lab: &Lab, name: &str, owner: &str) -> String {
    let (path, object) = pod(name, "w1", owner);
    lab.api.put(&path, object);
    path
}

#[tokio::test]
async fn a_node_is_emptied_of_all_but_daemon_sets_and_stays_cordoned() {
    let lab = Lab::new().await;
    lab.joined().await;
    let leaves = put(&lab, "web", "ReplicaSet");
    let stays = put(&lab, "log", "DaemonSet");
    let (elsewhere, object) = pod("other", "cp1", "ReplicaSet");
    lab.api.put(&elsewhere, object);
    let id = started(&lab).await;
    let operation = lab.ended(&id).await;
    assert_eq!(
        operation.state(),
        pb::OperationState::Succeeded,
        "{:?}",
        operation.error
    );
    assert_eq!(lab.api.get(&leaves), None);
    assert!(lab.api.get(&stays).is_some() && lab.api.get(&elsewhere).is_some());
    assert_eq!(cordoned(&lab), (true, format!("operation {id}")));
    let kept = lab
        .context
        .store
        .debt("c", DebtKind::Uncordon, "w1")
        .await
        .expect("read");
    assert_eq!(kept, None);
    assert_eq!(
        lab.context
            .store
            .capabilities("c")
            .await
            .expect("read")
            .expect("kept")
            .eviction_version,
        "v1"
    );
    let shown = lab
        .context
        .clusters
        .get("c")
        .await
        .expect("read")
        .expect("known");
    let node = shown
        .nodes
        .iter()
        .find(|node| node.name == "w1")
        .expect("shown");
    assert!(node.cordoned && node.cordoned_by.starts_with("operation "));

    let target = node_target::find(&lab.context, "w1", "")
        .await
        .expect("known");
    assert!(
        node_target::uncordon(&lab.context, &target)
            .await
            .expect("asked")
    );
    assert_eq!(cordoned(&lab), (false, String::new()));
    assert!(
        !node_target::uncordon(&lab.context, &target)
            .await
            .expect("asked")
    );
}

#[tokio::test]
async fn a_budget_is_heeded_and_named_and_the_cordon_taken_back() {
    let lab = Lab::new().await;
    lab.joined().await;
    let path = put(&lab, "web", "ReplicaSet");
    let budget = "The disruption budget one needs 1 healthy pods and has 1 currently";
    lab.api.keep_pod(&path, budget);
    let id = started_for(&lab, 1).await;
    let error = lab.ended(&id).await.error.expect("failed");
    assert_eq!(error.reason, "DRAIN_BLOCKED");
    assert_eq!(error.causes, [format!("pod n/web: {budget}")]);
    assert_eq!(cordoned(&lab), (false, String::new()));
    assert!(lab.api.get(&path).is_some());
    let tries = |change: &&String| change.ends_with("/eviction");
    assert!(
        lab.api.changes().iter().filter(tries).count() > 1,
        "it tried again"
    );
}

#[tokio::test]
async fn what_keeps_a_pod_is_named_also_when_it_was_not_tried_in_the_last_look() {
    let mut lab = Lab::new().await;
    lab.context.timings.evict_again = Duration::from_mins(10);
    lab.joined().await;
    let path = put(&lab, "web", "ReplicaSet");
    lab.api.keep_pod(&path, "the budget");
    let id = started_for(&lab, 1).await;
    let error = lab.ended(&id).await.error.expect("failed");
    assert_eq!(error.causes, ["pod n/web: the budget"]);
    let tries = |change: &&String| change.ends_with("/eviction");
    assert_eq!(lab.api.changes().iter().filter(tries).count(), 1);
}

#[tokio::test]
async fn a_pod_whose_eviction_is_an_error_keeps_no_other_pod() {
    let lab = Lab::new().await;
    lab.joined().await;
    let refused = put(&lab, "a", "ReplicaSet");
    let leaves = put(&lab, "b", "ReplicaSet");
    lab.api.refuse_eviction(&refused, 500, "has two budgets");
    let id = started_for(&lab, 1).await;
    let error = lab.ended(&id).await.error.expect("failed");
    assert_eq!(error.reason, "DRAIN_BLOCKED");
    assert_eq!(
        error.causes,
        ["pod n/a: the API answers 500: has two budgets"]
    );
    assert_eq!(lab.api.get(&leaves), None);
}

#[tokio::test]
async fn a_node_that_is_no_host_is_drained_by_one_operation_at_a_time() {
    let lab = Lab::new().await;
    let (path, object) = pod("web", "guest", "ReplicaSet");
    lab.api.put(&path, object);
    lab.api.keep_pod(&path, "never");
    let guest = crate::clusters::fake::node("guest", "machine-g", "boot-g", "True");
    lab.api.put("/api/v1/nodes/guest", guest);
    let request = pb::DrainNodeRequest {
        node: "guest".to_owned(),
        timeout_seconds: 600,
        ..pb::DrainNodeRequest::default()
    };
    let begin = || drain(&lab.context, &lab.operations, &request, "user anna");
    let (id, _) = begin().await.expect("started");
    let busy = begin().await.expect_err("the first holds it");
    assert!(
        busy.to_string().contains("node guest of cluster c"),
        "{busy}"
    );
    lab.operations.cancel(&id).await.expect("running");
    lab.ended(&id).await;
}

#[tokio::test]
async fn a_budget_that_yields_in_time_lets_the_drain_end() {
    let lab = Lab::new().await;
    lab.joined().await;
    let path = put(&lab, "web", "ReplicaSet");
    lab.api.keep_pod(&path, "not yet");
    let id = started_for(&lab, 30).await;
    lab.api.keep_pod(&path, "");
    assert_eq!(lab.ended(&id).await.state(), pb::OperationState::Succeeded);
}

#[tokio::test]
async fn a_drain_that_is_cancelled_takes_its_cordon_back() {
    let lab = Lab::new().await;
    lab.joined().await;
    let path = put(&lab, "web", "ReplicaSet");
    lab.api.keep_pod(&path, "never");
    let id = started_for(&lab, 600).await;
    lab.comes_to(|| cordoned(&lab).0).await;
    lab.operations.cancel(&id).await.expect("running");
    assert_eq!(lab.ended(&id).await.state(), pb::OperationState::Cancelled);
    // Cancelled between two steps, nothing but its debt knows of the cordon.
    lab.context.clusters.pay().await.expect("read");
    assert_eq!(cordoned(&lab), (false, String::new()));
}

#[tokio::test]
async fn the_cordon_of_somebody_else_stays_whatever_comes() {
    let lab = Lab::new().await;
    lab.joined().await;
    let target = node_target::find(&lab.context, "w1", "c")
        .await
        .expect("known");
    assert!(
        node_target::cordon(&lab.context, &target, "user bert")
            .await
            .expect("asked")
    );
    assert!(
        !node_target::cordon(&lab.context, &target, "user bert")
            .await
            .expect("asked")
    );
    let path = put(&lab, "web", "ReplicaSet");
    lab.api.keep_pod(&path, "never");
    let id = started_for(&lab, 1).await;
    let operation = lab.ended(&id).await;
    assert_eq!(operation.state(), pb::OperationState::Failed);
    assert_eq!(cordoned(&lab), (true, "user bert".to_owned()));
    assert_eq!(outcomes(&operation)[0].1, pb::StepOutcome::Unchanged);
}

#[tokio::test]
async fn a_cordon_of_an_operation_that_is_gone_is_taken_back_once_the_api_answers() {
    let lab = Lab::new().await;
    lab.joined().await;
    let target = node_target::find(&lab.context, "w1", "c")
        .await
        .expect("known");
    node_target::cordon(&lab.context, &target, "operation gone")
        .await
        .expect("asked");
    let store = &lab.context.store;
    let debt = NewDebt {
        machine: "",
        cluster: "c",
        kind: DebtKind::Uncordon,
        node_name: "w1",
        host: "w1",
        operation: "gone",
        last_error: "",
    };
    store.put_debt(&debt).await.expect("stored");
    lab.bench.link.cut();
    let left = lab.context.clusters.pay().await.expect("read");
    assert_eq!(left.len(), 1);
    let shown = lab
        .context
        .clusters
        .get("c")
        .await
        .expect("read")
        .expect("known");
    assert_eq!(
        shown.debts[0].what,
        "uncordon node w1, which operation gone cordoned"
    );
    assert!(
        shown.debts[0].last_error.contains("unreachable"),
        "{}",
        shown.debts[0].last_error
    );
    let paying = tokio::spawn(lab.context.clusters.clone().keep_paying());
    lab.bench.reconnect();
    let paid = async {
        while !store.due_debts().await.expect("read").is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), paid)
        .await
        .expect("paid");
    assert_eq!(cordoned(&lab), (false, String::new()));
    paying.abort();
}

#[tokio::test]
async fn a_cordon_that_somebody_takes_over_in_between_stays() {
    let lab = Lab::new().await;
    lab.joined().await;
    let api = lab.context.clusters.api_of("c").await.expect("answers");
    api.cordon("w1", "operation gone").await.expect("asked");
    lab.api.meanwhile(serde_json::json!({
        "metadata": {"annotations": {CORDONED_BY: "user bert"}},
    }));
    let taken = api.take_back_cordon("w1", "operation gone").await;
    assert!(!taken.expect("asked"));
    assert_eq!(cordoned(&lab), (true, "user bert".to_owned()));
}

#[tokio::test]
async fn a_debt_that_another_operation_took_over_is_not_settled_by_the_first() {
    let lab = Lab::new().await;
    let store = &lab.context.store;
    let debt = NewDebt {
        machine: "",
        cluster: "c",
        kind: DebtKind::Uncordon,
        node_name: "w1",
        host: "w1",
        operation: "first",
        last_error: "",
    };
    store.put_debt(&debt).await.expect("stored");
    let first = store.due_debts().await.expect("read").remove(0);
    let second = NewDebt {
        machine: "",
        operation: "second",
        ..debt
    };
    store.put_debt(&second).await.expect("stored");
    store.settle_debt(&first).await.expect("read");
    let left = store.due_debts().await.expect("read");
    assert_eq!(left[0].operation, "second");
}

#[tokio::test]
async fn what_an_earlier_operation_left_is_taken_over_and_taken_back() {
    let lab = Lab::new().await;
    lab.joined().await;
    let target = node_target::find(&lab.context, "w1", "c")
        .await
        .expect("known");
    node_target::cordon(&lab.context, &target, "operation gone")
        .await
        .expect("asked");
    let debt = NewDebt {
        machine: "",
        cluster: "c",
        kind: DebtKind::Uncordon,
        node_name: "w1",
        host: "w1",
        operation: "gone",
        last_error: "",
    };
    lab.context.store.put_debt(&debt).await.expect("stored");
    let path = put(&lab, "web", "ReplicaSet");
    lab.api.keep_pod(&path, "never");
    let id = started_for(&lab, 1).await;
    assert_eq!(lab.ended(&id).await.state(), pb::OperationState::Failed);
    assert_eq!(cordoned(&lab), (false, String::new()));
}
