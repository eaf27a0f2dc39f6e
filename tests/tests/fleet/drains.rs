//! Drains that a disruption budget holds: it is named while it is waited for, and whoever lets the pod go lets the drain go on.

use std::time::Duration;

use canasta_proto::pb;
use canasta_proto::pb::OperationState;
use canasta_proto::pb::operation_event::Event;
use canasta_tests::fleet::client::fault;
use canasta_tests::fleet::{Fleet, SMALL, within};
use http::Method;
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/default/pods";
const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
/// As the API server says it: recordings/04-api/eviction/429-blocked-by-pdb.json.
const HELD: &str = "The disruption budget one needs 1 healthy pods and has 1 currently";
/// How long the drain may try that is given up.
const SHORT: u32 = 1;
/// How long the one may try that is let go on.
const LONG: u32 = 60;

async fn drain(fleet: &Fleet, timeout_seconds: u32) -> String {
    let request = pb::DrainNodeRequest {
        node: "w1".to_owned(),
        timeout_seconds,
        ..pb::DrainNodeRequest::default()
    };
    let answer = fleet.admin().await.clusters().drain_node(request).await;
    answer
        .map_err(fault)
        .expect("planned")
        .into_inner()
        .operation_id
}

/// Waits until the progress of an operation says this.
async fn says(fleet: &Fleet, id: &str, words: &str) {
    let request = pb::WatchOperationRequest {
        id: id.to_owned(),
        after_seq: 0,
    };
    let watched = fleet
        .admin()
        .await
        .operations()
        .watch_operation(request)
        .await;
    let mut events = watched.expect("it is known").into_inner();
    let said = async {
        while let Some(event) = events.message().await.expect("followed") {
            let event = event.event.and_then(|event| event.event);
            if let Some(Event::Progress(progress)) = event
                && progress.message.contains(words)
            {
                return;
            }
        }
        panic!("the drain ended without a word of {words}");
    };
    within(words, said).await;
}

#[tokio::test]
async fn a_drain_that_a_budget_holds_names_it_gives_up_in_time_and_goes_on_once_it_is_let() {
    let fleet = Fleet::start_with(SMALL, |config| {
        config.timings.evict_again = Duration::from_millis(50);
    })
    .await;
    let (control_plane, worker) = (fleet.joined("cp1").await, fleet.joined("w1").await);
    // A worker that is not heard of for 33 of the server's seconds is lost, and on a busy machine it may be late.
    control_plane.k3s.set_scale(0.04);
    worker.k3s.set_scale(0.01);
    fleet.cluster_of_two().await;
    let admin = fleet.admin().await;

    let ask =
        async |method, path: &str, body: &Value| control_plane.ask_api(method, path, body).await;
    let labels = json!({"app": "one"});
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "one"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": labels}}});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one", "labels": labels},
        "spec": {"nodeName": "w1", "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "c", "image": "busybox:1.32.1"}]}});
    for (path, body) in [(BUDGETS, budget), (PODS, pod)] {
        let (status, answer) = ask(Method::POST, path, &body).await;
        assert_eq!(status, 201, "{answer}");
    }
    let (pod, budget) = (format!("{PODS}/one"), format!("{BUDGETS}/one"));
    let get = async |path: &str| ask(Method::GET, path, &Value::Null).await;
    let guarded = async || {
        let is_running = get(&pod).await.1["status"]["phase"] == "Running";
        let status = get(&budget).await.1["status"].clone();
        (is_running && status["currentHealthy"] == 1).then_some(())
    };
    fleet
        .until("the pod to run under its budget", guarded)
        .await;

    let id = drain(&fleet, SHORT).await;
    let error = admin.ended(&id).await.error.expect("given up");
    assert_eq!(error.reason, "DRAIN_BLOCKED", "{error:#?}");
    assert_eq!(error.causes, [format!("pod default/one: {HELD}")]);
    assert!(error.hint.contains("disruption budget"), "{error:#?}");
    assert_eq!(get(&pod).await.0, 200, "the pod stays");
    let (_, node) = get("/api/v1/nodes/w1").await;
    assert!(
        node["spec"]["unschedulable"].is_null(),
        "the cordon is taken back: {node:#}"
    );

    let id = drain(&fleet, LONG).await;
    says(&fleet, &id, HELD).await;
    let (status, answer) = ask(Method::DELETE, &budget, &Value::Null).await;
    assert_eq!(status, 200, "{answer}");
    let ended = admin.ended(&id).await;
    assert_eq!(ended.state(), OperationState::Succeeded, "{ended:#?}");
    assert_eq!(get(&pod).await.0, 404, "the pod is gone");
    let (_, node) = get("/api/v1/nodes/w1").await;
    assert_eq!(node["spec"]["unschedulable"], true, "{node:#}");
}
