//! Plans of joins, and joins with agents that do as they are told.

mod plans;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use canasta_proto::pb;

use self::plans::{fresh, planned};
use super::control_plane::{ControlPlane, judge};
use super::known::{Known, Registered, Twin, find_twins};
use super::plan::{Planned, plan};
use super::steps::Shared;
use super::{check, join};
use crate::clusters::fake::{node, secret};
use crate::clusters::{CONTROL_PLANE, WORKER};
use crate::operations::Workflow as _;
use crate::operations::probes::EachTwice;
use crate::store::debts::DebtKind;
use crate::workflows::Refusal;
use crate::workflows::bench::{Lab, VERSION, cluster, facts, member, outcomes, running};

const TOKEN: &str = "bootstrap.kubernetes.io/token";

async fn target(lab: &Lab) -> ControlPlane {
    super::control_plane::find(&lab.context, "cp1")
        .await
        .expect("answers")
}

fn asked() -> pb::JoinWorkersRequest {
    pb::JoinWorkersRequest {
        hosts: vec!["w1".to_owned()],
        control_plane: "cp1".to_owned(),
        ..pb::JoinWorkersRequest::default()
    }
}

#[test]
fn a_request_is_checked_field_by_field() {
    let refused = |change: fn(&mut pb::JoinWorkersRequest)| {
        let mut request = asked();
        change(&mut request);
        check(&request).expect_err("refused").to_string()
    };
    assert!(refused(|request| request.hosts[0] = "a b".to_owned()).contains("host"));
    assert!(refused(|request| request.control_plane = "..".to_owned()).contains("host"));
    assert!(refused(|request| request.hosts = vec!["w1".to_owned(); 101]).contains("at most 100"));
    assert!(refused(|request| request.ignore_findings = vec!["net\n".to_owned()]).contains("code"));
    let mut twice = asked();
    twice.hosts.push("w1".to_owned());
    assert_eq!(check(&twice).expect("sound").len(), 1);
}

#[tokio::test]
async fn a_worker_joins_and_a_second_run_changes_nothing() {
    let lab = Lab::with_probe(Arc::new(EachTwice)).await;
    // Left by an earlier run that was cut off, and one of another host.
    let (own, token) = secret("bootstrap-token-old", TOKEN, "canasta join w1 0190");
    lab.api.put(&own, token);
    let (others, token) = secret("bootstrap-token-w11", TOKEN, "canasta join w11 0190");
    lab.api.put(&others, token);
    let joins = join(&lab.context, &lab.operations, &asked(), "user anna")
        .await
        .expect("planned");
    assert_eq!(joins[0].error, None);
    let plan = joins[0].plan.clone().expect("told");
    assert_eq!(
        (plan.control_plane.as_str(), plan.node_name.as_str()),
        ("cp1", "w1")
    );
    let operation = lab.ended(&joins[0].operation_id).await;
    assert_eq!(
        operation.state(),
        pb::OperationState::Succeeded,
        "{:?}",
        operation.error
    );
    assert_eq!(lab.api.get(&own), None);
    assert!(lab.api.get(&others).is_some());
    let mark = lab
        .context
        .store
        .worker_mark("w1")
        .await
        .expect("read")
        .expect("known");
    assert!(mark.settled && mark.ready_at.is_some());
    let row = lab.context.store.cluster_node("w1").await.expect("read");
    assert_eq!(row, Some(member("w1", WORKER, "10.0.0.6")));

    let made = lab.bench.agent.made.lock().expect("made").len();
    lab.agent.specs.lock().expect("specs").clear();
    let joins = join(&lab.context, &lab.operations, &asked(), "user anna")
        .await
        .expect("planned");
    let operation = lab.ended(&joins[0].operation_id).await;
    let changed: Vec<_> = outcomes(&operation)
        .into_iter()
        .filter(|(id, outcome)| *outcome != pb::StepOutcome::Unchanged && id != "push-artefact")
        .collect();
    assert_eq!(changed, []);
    assert_eq!(
        lab.bench.agent.made.lock().expect("made").len(),
        made,
        "no new credential"
    );
    let stops =
        |spec: &pb::TaskSpec| matches!(spec.verb, Some(pb::task_spec::Verb::K3sUninstall(_)));
    assert!(!lab.agent.specs.lock().expect("specs").iter().any(stops));
}

#[tokio::test]
async fn the_credential_is_in_no_record_and_goes_with_a_join_that_fails() {
    let lab = Lab::new().await;
    // Its Node never comes.
    lab.registers.store(false, Ordering::Relaxed);
    let joins = join(&lab.context, &lab.operations, &asked(), "user anna")
        .await
        .expect("planned");
    let id = &joins[0].operation_id;
    let (path, token) = secret("bootstrap-token-w1", TOKEN, "canasta join w1 0190");
    let made = async {
        while lab.bench.agent.made.lock().expect("made").is_empty() {
            tokio::task::yield_now().await;
        }
        lab.api.put(&path, token);
    };
    let (operation, ()) = tokio::join!(lab.ended(id), made);
    assert_eq!(
        operation.error.as_ref().expect("failed").reason,
        "NODE_NOT_READY"
    );
    assert_eq!(lab.api.get(&path), None);
    let owed = lab.context.store.due_debts().await.expect("read");
    assert_eq!(owed, [], "deleted by the join itself");
    assert_eq!(*lab.agent.kept.lock().expect("kept"), ["K10aa::geheim1"]);
    let made = lab.bench.agent.made.lock().expect("made").clone();
    assert!(
        made[0].starts_with("canasta join w1 0") && made[0].len() <= 100,
        "{made:?}"
    );
    let events = lab
        .context
        .store
        .operation_events(id, 0, 1000)
        .await
        .expect("read");
    let request = lab
        .context
        .store
        .last_request(super::KIND, "w1")
        .await
        .expect("read");
    assert!(!format!("{operation:?}{events:?}{request:?}{joins:?}").contains("geheim"));
    assert!(
        !lab.context
            .store
            .worker_mark("w1")
            .await
            .expect("read")
            .expect("known")
            .settled
    );
}

#[tokio::test]
async fn a_credential_that_can_not_be_kept_leaves_no_token() {
    let lab = Lab::new().await;
    let away = "w9".parse().expect("name");
    let now = jiff::Timestamp::now();
    let added = lab.context.store.add_host(&away, "", now).await;
    added.expect("added");
    let mut planned = planned(&target(&lab).await, &fresh()).expect("fit");
    planned.host = away.into();
    let shared = Shared {
        context: lab.context.clone(),
        planned,
        operation: "0190".to_owned(),
    };
    let (path, token) = secret("bootstrap-token-w9", TOKEN, "canasta join w9 0190");
    let made = async {
        while lab.bench.agent.made.lock().expect("made").is_empty() {
            tokio::task::yield_now().await;
        }
        lab.api.put(&path, token);
    };
    let (brought, ()) = tokio::join!(shared.bring(), made);
    brought.expect_err("the host is away");
    assert_eq!(lab.api.get(&path), None);
}

#[tokio::test]
async fn a_join_that_ended_in_whatever_way_leaves_no_token() {
    let lab = Lab::new().await;
    let shared = Shared {
        context: lab.context.clone(),
        planned: planned(&target(&lab).await, &fresh()).expect("fit"),
        operation: "0190".to_owned(),
    };
    shared.bring().await.expect("kept");
    // The controller is killed here, and the join is cancelled.
    let (path, token) = secret("bootstrap-token-w1", TOKEN, "canasta join w1 0190");
    lab.api.put(&path, token.clone());
    shared.bring().await.expect("kept");
    assert_eq!(lab.api.get(&path), None, "one at a time");
    lab.api.put(&path, token);
    let owed = lab.context.store.due_debts().await.expect("read");
    assert_eq!(owed[0].kind, DebtKind::DeleteTokens);
    assert_eq!(lab.context.clusters.pay().await.expect("read"), []);
    assert_eq!(lab.api.get(&path), None);
    assert_eq!(lab.context.store.due_debts().await.expect("read"), []);
}

#[tokio::test]
async fn a_member_keeps_its_credential_before_it_may_be_restarted() {
    let lab = Lab::new().await;
    lab.joined().await;
    let joins = join(&lab.context, &lab.operations, &asked(), "user anna")
        .await
        .expect("planned");
    lab.ended(&joins[0].operation_id).await;
    let specs = lab.agent.specs.lock().expect("specs");
    let steps: Vec<_> = specs
        .iter()
        .filter_map(|spec| match &spec.verb {
            Some(pb::task_spec::Verb::K3sInstall(task)) => Some(task.step()),
            _ => None,
        })
        .collect();
    let at = |wanted| steps.iter().position(|step| *step == wanted);
    let kept = at(pb::K3sInstallStep::KeepCredential).expect("kept");
    assert!(
        kept < at(pb::K3sInstallStep::Config).expect("written"),
        "{steps:?}"
    );
}

#[tokio::test]
async fn a_node_of_an_earlier_life_is_cleared_and_a_deleted_one_is_registered_anew() {
    let lab = Lab::new().await;
    lab.joined().await;
    lab.registers.store(false, Ordering::Relaxed);
    // The system was installed anew under the same name.
    *lab.agent.facts.lock().expect("facts") = Some(pb::NodeFacts {
        machine_id: "new".to_owned(),
        ..facts("w1", "10.0.0.6")
    });
    let (path, password) = secret("w1.node-password.k3s", "Opaque", "");
    lab.api.put(&path, password);
    let alive = join(&lab.context, &lab.operations, &asked(), "user anna")
        .await
        .expect("planned");
    assert_eq!(
        alive[0].error.clone().expect("Ready still").reason,
        "NODE_NAME_TAKEN"
    );
    let old = node("w1", "machine-w1", "boot-w1", "Unknown");
    lab.api.put("/api/v1/nodes/w1", old);
    let joins = join(&lab.context, &lab.operations, &asked(), "user anna")
        .await
        .expect("planned");
    let operation = lab.ended(&joins[0].operation_id).await;
    // The test's k3s registers nothing.
    assert_eq!(operation.error.expect("failed").reason, "NODE_NOT_READY");
    let deletes: Vec<_> = lab.api.changes();
    assert_eq!(
        deletes,
        [
            "DELETE /api/v1/nodes/w1".to_owned(),
            format!("DELETE {path}")
        ]
    );

    // Its k3s runs, and the API knows nothing of it.
    lab.worker_runs();
    *lab.agent.inspected.lock().expect("inspected") = Some(pb::InspectUninstallResponse::default());
    lab.agent.specs.lock().expect("specs").clear();
    let joins = join(&lab.context, &lab.operations, &asked(), "user anna")
        .await
        .expect("planned");
    let operation = lab.ended(&joins[0].operation_id).await;
    let stopped = outcomes(&operation)
        .into_iter()
        .find(|(id, _)| id == "stop-unregistered");
    assert_eq!(stopped.expect("a step").1, pb::StepOutcome::Repaired);
}

#[tokio::test]
async fn a_closed_port_stops_a_join_before_any_change_unless_it_is_ignored() {
    let lab = Lab::new().await;
    lab.agent.closed.lock().expect("closed").push(8472);
    // What the worker sends to is what the sender's list says.
    lab.agent
        .closed
        .lock()
        .expect("closed")
        .extend([6443, 10250]);
    let joins = join(&lab.context, &lab.operations, &asked(), "user anna")
        .await
        .expect("planned");
    let error = joins[0].error.clone().expect("refused");
    assert_eq!(error.reason, "PREFLIGHT_FAILED");
    assert!(
        error.message.contains("NET_PORT_BLOCKED") && error.message.contains("NET_VXLAN_BLOCKED"),
        "{}",
        error.message
    );
    for port in [6443, 10250] {
        let closed = format!("{port}/tcp is closed from w1 (10.0.0.6) to cp1 (10.0.0.5)");
        let mut causes = error.causes.iter();
        assert!(causes.any(|cause| cause.contains(&closed)), "{error:?}");
    }
    assert_eq!(joins[0].operation_id, "");
    assert_eq!(lab.api.changes(), [""; 0]);
    assert_eq!(
        lab.context.store.cluster_node("w1").await.expect("read"),
        None
    );

    let ignoring = pb::JoinWorkersRequest {
        ignore_findings: vec![
            "NET_PORT_BLOCKED".to_owned(),
            "NET_VXLAN_BLOCKED".to_owned(),
        ],
        dry_run: true,
        ..asked()
    };
    let joins = join(&lab.context, &lab.operations, &ignoring, "user anna")
        .await
        .expect("planned");
    assert_eq!(joins[0].error, None);
    let findings = joins[0].plan.clone().expect("told").findings;
    assert!(
        !findings.is_empty()
            && findings
                .iter()
                .all(|finding| finding.severity() == pb::Severity::Warning)
    );
}

#[tokio::test]
async fn a_kubelet_s_port_that_is_closed_either_way_is_told_with_the_way_and_the_mend() {
    for (worker_s, closed, mend) in [
        (
            true,
            "10250/tcp is closed from w1 (10.0.0.6) to cp1 (10.0.0.5)",
            "let cp1 accept 10250/tcp from 10.0.0.6",
        ),
        (
            false,
            "10250/tcp is closed from cp1 (10.0.0.5) to w1 (10.0.0.6)",
            "let w1 accept 10250/tcp from 10.0.0.5",
        ),
    ] {
        let lab = Lab::new().await;
        let sender = if worker_s {
            &lab.agent
        } else {
            &lab.bench.agent
        };
        sender.closed.lock().expect("closed").push(10250);
        let joins = join(&lab.context, &lab.operations, &asked(), "user anna").await;
        let error = joins.expect("planned")[0].error.clone().expect("refused");
        assert_eq!(error.reason, "PREFLIGHT_FAILED");
        assert!(error.message.ends_with(": NET_PORT_BLOCKED"), "{error:?}");
        assert_eq!(error.causes.len(), 1, "{error:?}");
        assert!(
            error.causes[0].contains(closed) && error.causes[0].contains(mend),
            "{error:?}"
        );
        assert_eq!(lab.api.changes(), [""; 0]);
    }
}

#[tokio::test]
async fn each_worker_has_its_own_outcome_and_the_control_plane_its_own_message() {
    let lab = Lab::new().await;
    lab.worker_ready();
    // Its control plane listens for other workers too.
    lab.bench.agent.busy.store(2, Ordering::Relaxed);
    let mut request = asked();
    request.hosts.push("w9".to_owned());
    request.dry_run = true;
    let joins = join(&lab.context, &lab.operations, &request, "user anna")
        .await
        .expect("planned");
    assert_eq!(joins[0].error, None);
    assert_eq!(
        joins[1].error.clone().expect("unknown").reason,
        "HOST_NOT_REGISTERED"
    );
    request.control_plane = "x".to_owned();
    let unknown = join(&lab.context, &lab.operations, &request, "user anna").await;
    assert_eq!(
        unknown.expect_err("unknown").to_string(),
        "host 'x' is not registered"
    );
    request.control_plane = "cp1".to_owned();
    lab.bench.link.cut();
    let away = join(&lab.context, &lab.operations, &request, "user anna").await;
    assert!(
        away.expect_err("away")
            .to_string()
            .contains("unreachable since")
    );
}

#[tokio::test]
async fn workers_join_at_the_same_time_and_not_while_their_control_plane_goes() {
    let lab = Lab::new().await;
    let planned = planned(&target(&lab).await, &fresh()).expect("fit");
    let one = super::JoinWorker::new(lab.context.clone(), planned.clone()).locks();
    assert_eq!(one.changed_hosts(), ["w1"]);
    assert_eq!(one.consults.len(), 2);
}

#[tokio::test]
async fn a_control_plane_that_is_away_for_a_moment_is_waited_for() {
    let mut lab = Lab::new().await;
    lab.context.timings.node_ready = Duration::from_secs(20);
    let registering = lab
        .agent
        .on_task
        .lock()
        .expect("on_task")
        .take()
        .expect("set");
    let server = Arc::clone(&lab.bench.agent);
    let api = server.api.lock().expect("api").clone();
    let away: crate::operations::agent::stub::OnTask = Arc::new(move |spec| {
        registering(spec);
        let Some(pb::task_spec::Verb::K3sInstall(install)) = &spec.verb else {
            return;
        };
        if install.step() == pb::K3sInstallStep::Binary {
            *server.api.lock().expect("api") = None;
            let (server, api) = (Arc::clone(&server), api.clone());
            tokio::spawn(async move {
                server.no_api.notified().await;
                *server.api.lock().expect("api") = api;
            });
        }
    });
    *lab.agent.on_task.lock().expect("on_task") = Some(away);
    let joins = join(&lab.context, &lab.operations, &asked(), "user anna")
        .await
        .expect("planned");
    let operation = lab.ended(&joins[0].operation_id).await;
    let back = lab.bench.agent.api.lock().expect("api").is_some();
    assert!(back, "it was never asked while it was away");
    assert_eq!(
        operation.state(),
        pb::OperationState::Succeeded,
        "{:?}",
        operation.error
    );
}
