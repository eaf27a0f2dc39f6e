//! Guards and plans of uninstalls, and uninstalls with agents that do as they are told.

mod told;

use std::time::Duration;

use canasta_proto::pb;
use canasta_proto::pb::Severity;
use serde_json::json;

use super::guards::judge;
use super::known::{Asked, Known};
use super::{plan, uninstall};
use crate::clusters::CONTROL_PLANE;
use crate::clusters::fake::{pod, secret};
use crate::clusters::volumes::PinnedVolume;
use crate::store::debts::{DebtKind, NewDebt};
use crate::workflows::Error;
use crate::workflows::bench::{Lab, member, outcomes, running};
use crate::workflows::forget_cluster::forget;

fn installed(role: pb::K3sRole) -> pb::InspectUninstallResponse {
    pb::InspectUninstallResponse {
        k3s: Some(running(role)),
        local_path: "/var/lib/rancher/k3s/storage".to_owned(),
        ..pb::InspectUninstallResponse::default()
    }
}

fn data(path: &str) -> pb::StoredData {
    pb::StoredData {
        path: path.to_owned(),
        bytes: 4096,
        files: 2,
    }
}

fn answered(volumes: Vec<PinnedVolume>) -> Asked {
    Asked::Answered {
        volumes,
        others: Vec::new(),
    }
}

fn volume() -> PinnedVolume {
    PinnedVolume {
        name: "pvc-1".to_owned(),
        claim: "n/data".to_owned(),
        phase: "Released".to_owned(),
        capacity: "10Mi".to_owned(),
        path: "/data".to_owned(),
        tied: true,
    }
}

fn worker(change: impl FnOnce(&mut Known)) -> Known {
    let mut known = Known {
        inspected: installed(pb::K3sRole::Agent),
        node: Some(member("w1", "worker", "10.0.0.6")),
        cluster: answered(Vec::new()),
        ..Known::default()
    };
    change(&mut known);
    known
}

fn codes(known: &Known, force: bool, discard: &[String]) -> Vec<(String, Severity)> {
    let findings = judge(known, force, discard).findings;
    findings
        .iter()
        .map(|finding| (finding.code.clone(), finding.severity()))
        .collect()
}

#[test]
fn each_guard_says_no_and_all_but_mounts_yield_to_force() {
    let mount = pb::ForeignMount {
        path: "/var/lib/kubelet/data".to_owned(),
        source: "/dev/sdb1".to_owned(),
        fs_type: "ext4".to_owned(),
    };
    let other = pb::Finding {
        code: "OTHER_KUBERNETES".to_owned(),
        severity: Severity::Error.into(),
        message: "another Kubernetes is on this node: RKE2".to_owned(),
        subject: "RKE2".to_owned(),
        mend: "uninstall the other one".to_owned(),
    };
    let rows: [(&str, Known, bool); 9] = [
        (
            "OTHER_KUBERNETES",
            worker(|known| known.inspected.refusals.push(other)),
            false,
        ),
        (
            "NOT_LOOKED_AT",
            worker(|known| known.local_paths.usable.push("/srv/v".to_owned())),
            true,
        ),
        (
            "NOT_LOOKED_AT",
            worker(|known| {
                known
                    .local_paths
                    .unusable
                    .push("/etc: the system's".to_owned());
            }),
            true,
        ),
        (
            "FOREIGN_MOUNT",
            worker(|known| known.inspected.foreign_mounts.push(mount)),
            false,
        ),
        (
            "NOT_LOOKED_AT",
            worker(|known| known.inspected.unknown.push("mounts: denied".to_owned())),
            true,
        ),
        (
            "CLUSTER_NOT_ASKED",
            worker(|known| known.cluster = Asked::Failed("away".to_owned())),
            true,
        ),
        (
            "VOLUME_PINNED",
            worker(|known| known.cluster = answered(vec![volume()])),
            true,
        ),
        (
            "LOCAL_DATA",
            worker(|known| known.inspected.stored.push(data("/s/pvc-1"))),
            true,
        ),
        (
            "HAS_WORKERS",
            worker(|known| {
                known.node = Some(member("cp1", CONTROL_PLANE, "10.0.0.5"));
                known.workers = vec![("w1".to_owned(), "node-1".to_owned())];
            }),
            true,
        ),
    ];
    assert_eq!(codes(&worker(|_| {}), false, &[]), []);
    let looked = worker(|known| {
        known.local_paths.usable.push("/srv/v".to_owned());
        known.inspected.local_paths.push("/srv/v".to_owned());
    });
    assert_eq!(codes(&looked, false, &[]), []);
    // An older agent looks where k3s keeps volumes by itself, and where its configuration says, and names no list.
    let old = worker(|known| {
        known.inspected.local_path = "/srv/own".to_owned();
        let told = ["/var/lib/rancher/k3s/storage", "/srv/own"];
        known.local_paths.usable = told.map(str::to_owned).to_vec();
    });
    assert_eq!(codes(&old, false, &[]), []);
    let discard = ["/s/pvc-1".to_owned()];
    for (code, known, yields) in rows {
        assert_eq!(
            codes(&known, false, &[]),
            [(code.to_owned(), Severity::Error)]
        );
        let forced = if yields {
            Severity::Warning
        } else {
            Severity::Error
        };
        assert_eq!(codes(&known, true, &discard), [(code.to_owned(), forced)]);
    }
}

#[test]
fn what_dies_is_told_in_numbers_and_names_and_what_came_since_is_not_destroyed() {
    let known = worker(|known| {
        known.cluster = answered(vec![volume()]);
        known.inspected.stored = vec![data("/s/pvc-1"), data("/s/new")];
    });
    let judged = judge(&known, true, &["/s/pvc-1".to_owned()]);
    assert_eq!(
        judged.losses,
        [
            "1 volume: volume pvc-1 (Released, claim n/data, 10Mi, in /data)",
            "2 directories or files of local volumes: /s/pvc-1 (2 files, 4096 bytes), /s/new (2 files, 4096 bytes)",
        ]
    );
    let last = judged.findings.last().expect("found");
    assert_eq!(
        (last.code.as_str(), last.severity(), last.subject.as_str()),
        ("DATA_APPEARED", Severity::Error, "/s/new")
    );
    let planned = plan(&"w1".parse().expect("name"), &known, true).expect("ours");
    assert_eq!(planned.discard, ["/s/pvc-1", "/s/new"]);
    assert!(
        plan(&"w1".parse().expect("name"), &known, false)
            .expect("ours")
            .discard
            .is_empty()
    );
}

#[test]
fn in_a_directory_that_the_settings_name_only_volumes_are_destroyed_whatever_an_older_agent_tells()
{
    let volume = "/srv/v/pvc-1f3566e8-7b06-498e-8691-945178302f48_default_db";
    let own = "/var/lib/rancher/k3s/volumes/anything";
    let known = worker(|known| {
        let told = ["/srv/v", "/var/lib/rancher/k3s/volumes"].map(str::to_owned);
        known.local_paths.usable = told.to_vec();
        known.inspected.local_paths = told.to_vec();
        known.inspected.stored = [volume, own, "/srv/v/www"].map(data).to_vec();
    });
    let planned = plan(&"w1".parse().expect("name"), &known, true).expect("ours");
    assert_eq!(planned.discard, [volume, own]);
    let judged = judge(&known, true, &planned.discard);
    let last = judged.findings.last().expect("found");
    assert_eq!(
        (last.code.as_str(), last.subject.as_str()),
        ("DATA_APPEARED", "/srv/v/www")
    );
    assert!(last.mend.contains("canasta-agent"), "{last:?}");
}

#[test]
fn codes_that_do_not_yield_are_told_once_each() {
    let known = worker(|known| {
        for code in ["B", "A", "B"] {
            known.inspected.refusals.push(pb::Finding {
                code: code.to_owned(),
                ..pb::Finding::default()
            });
        }
    });
    assert_eq!(judge(&known, false, &[]).firm(), ["A", "B"]);
}

#[test]
fn what_somebody_else_installed_is_not_uninstalled() {
    for (origin, reason) in [
        (pb::K3sOrigin::Adopted, "ADOPTED_K3S"),
        (pb::K3sOrigin::Foreign, "FOREIGN_K3S"),
    ] {
        let known = worker(|known| {
            known
                .inspected
                .k3s
                .as_mut()
                .expect("set")
                .set_origin(origin);
        });
        let refusal = plan(&"w1".parse().expect("name"), &known, true).expect_err(reason);
        assert_eq!(refusal.reason, reason);
        assert!(refusal.hint.contains("k3s-uninstall.sh"));
    }
}

fn asked(host: &str, force: bool) -> pb::UninstallK3sRequest {
    pb::UninstallK3sRequest {
        host: host.to_owned(),
        force,
        dry_run: false,
        discard: Vec::new(),
    }
}

fn inspects(lab: &Lab, change: impl FnOnce(&mut pb::InspectUninstallResponse)) {
    let mut inspected = installed(pb::K3sRole::Agent);
    change(&mut inspected);
    *lab.agent.inspected.lock().expect("inspected") = Some(inspected);
}

async fn begun(
    lab: &Lab,
    request: pb::UninstallK3sRequest,
) -> Result<(String, pb::UninstallPlan), Error> {
    uninstall(&lab.context, &lab.operations, &request, "user anna").await
}

#[tokio::test]
async fn a_clean_host_needs_no_operation() {
    let lab = Lab::new().await;
    inspects(&lab, |inspected| {
        inspected.clean = true;
        inspected.k3s = None;
    });
    let (operation, plan) = begun(&lab, asked("w1", false)).await.expect("clean");
    assert!(plan.clean && operation.is_empty() && plan.steps.is_empty());
}

#[tokio::test]
async fn a_worker_is_drained_uninstalled_deleted_and_forgotten() {
    let lab = Lab::new().await;
    lab.joined().await;
    inspects(&lab, |_| {});
    let (web, object) = pod("web", "w1", "ReplicaSet");
    lab.api.put(&web, object);
    let (password, object) = secret("w1.node-password.k3s", "Opaque", "");
    lab.api.put(&password, object);
    let (id, plan) = begun(&lab, asked("w1", false)).await.expect("started");
    assert_eq!((plan.cluster.as_str(), plan.role.as_str()), ("c", "worker"));
    let operation = lab.ended(&id).await;
    assert_eq!(
        operation.state(),
        pb::OperationState::Succeeded,
        "{:?}",
        operation.error
    );
    for gone in [web.as_str(), password.as_str(), "/api/v1/nodes/w1"] {
        assert_eq!(lab.api.get(gone), None, "{gone}");
    }
    let steps: Vec<i32> = lab
        .agent
        .specs
        .lock()
        .expect("specs")
        .iter()
        .map(|spec| match &spec.verb {
            Some(pb::task_spec::Verb::K3sUninstall(task)) => task.step,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(steps, [1, 2, 3, 4, 5, 6]);
    let store = &lab.context.store;
    assert_eq!(store.cluster_node("w1").await.expect("read"), None);
    assert_eq!(store.worker_mark("w1").await.expect("read"), None);
    assert!(store.cluster("c").await.expect("read").is_some());
    assert_eq!(store.due_debts().await.expect("read"), []);
}

#[tokio::test]
async fn a_pinned_volume_refuses_it_and_so_does_a_cluster_that_is_away() {
    let lab = Lab::new().await;
    lab.joined().await;
    inspects(&lab, |_| {});
    lab.api.put("/api/v1/persistentvolumes/pv", json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "pv"},
        "spec": {"local": {"path": "/data"}, "nodeAffinity": {"required": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["w1"]}]},
        ]}}},
        "status": {"phase": "Released"},
    }));
    let refused = begun(&lab, asked("w1", false)).await.expect_err("pinned");
    let Error::Refused(refusal) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(refusal.reason, "UNINSTALL_REFUSED");
    assert!(
        refusal.message.contains("VOLUME_PINNED") && refusal.points[0].contains("volume pv"),
        "{refusal:?}"
    );
    assert!(refusal.hint.contains("--force"));
    lab.bench.link.cut();
    let refused = begun(&lab, asked("w1", false)).await.expect_err("away");
    assert!(
        refused.to_string().contains("CLUSTER_NOT_ASKED"),
        "{refused}"
    );
    assert_eq!(lab.api.changes(), [""; 0]);
}

#[tokio::test]
async fn by_force_a_dead_api_is_gone_past_and_what_is_left_is_owed_and_paid() {
    let lab = Lab::new().await;
    lab.joined().await;
    inspects(&lab, |inspected| inspected.stored.push(data("/s/pvc-1")));
    lab.bench.link.cut();
    let mut request = asked("w1", true);
    let untold = begun(&lab, request.clone()).await.expect_err("not told");
    assert!(untold.to_string().contains("DATA_APPEARED"), "{untold}");
    request.discard = vec!["/s/pvc-1".to_owned(), "/s/pvc-gone".to_owned()];
    let (id, plan) = begun(&lab, request).await.expect("forced");
    assert_eq!(plan.discard, ["/s/pvc-1"]);
    assert_eq!(plan.losses.len(), 2, "{:?}", plan.losses);
    let operation = lab.ended(&id).await;
    assert_eq!(
        operation.state(),
        pb::OperationState::Succeeded,
        "{:?}",
        operation.error
    );
    let discards = |spec: &pb::TaskSpec| match &spec.verb {
        Some(pb::task_spec::Verb::K3sUninstall(task)) => task.discard == ["/s/pvc-1"],
        _ => false,
    };
    assert!(lab.agent.specs.lock().expect("specs").iter().all(discards));
    let outcome = |wanted: &str| {
        outcomes(&operation)
            .into_iter()
            .find(|(id, _)| id == wanted)
            .expect("a step")
            .1
    };
    assert_eq!(outcome("drain"), pb::StepOutcome::Skipped);
    assert_eq!(outcome("delete-node"), pb::StepOutcome::Warning);
    let owed = lab.context.store.due_debts().await.expect("read");
    assert_eq!(
        (owed[0].kind, owed[0].host.as_str()),
        (DebtKind::DeleteNode, "w1")
    );
    lab.bench.reconnect();
    assert_eq!(lab.context.clusters.pay().await.expect("read"), []);
    assert_eq!(lab.api.get("/api/v1/nodes/w1"), None);
    assert_eq!(lab.context.store.due_debts().await.expect("read"), []);
}

/// What an operation that is over owes for the Node of this machine.
fn owed_by(machine: &str) -> NewDebt<'_> {
    NewDebt {
        machine,
        cluster: "c",
        kind: DebtKind::DeleteNode,
        node_name: "w1",
        host: "w1",
        operation: "gone",
        last_error: "",
    }
}

#[tokio::test]
async fn the_node_of_a_host_that_joined_again_is_not_deleted_for_an_old_debt() {
    let lab = Lab::new().await;
    lab.joined().await;
    let store = &lab.context.store;
    let debt = owed_by("");
    store.put_debt(&debt).await.expect("stored");
    assert_eq!(lab.context.clusters.pay().await.expect("read"), []);
    let api = lab.context.clusters.api_of("c").await.expect("answers");
    let later = api.delete_node_of("w1", Some("an earlier uid")).await;
    later.expect_err("another node");
    assert!(lab.api.get("/api/v1/nodes/w1").is_some());
    store.forget_node("w1").await.expect("forgotten");
    assert_eq!(lab.context.clusters.pay().await.expect("read"), []);
    assert_eq!(lab.api.get("/api/v1/nodes/w1"), None);
}

#[tokio::test]
async fn a_machine_that_has_taken_the_name_keeps_its_node_and_pods() {
    let lab = Lab::new().await;
    lab.joined().await;
    inspects(&lab, |_| {});
    let another = || crate::clusters::fake::node("w1", "machine-x", "boot-x", "True");
    lab.api.put("/api/v1/nodes/w1", another());
    let (web, object) = pod("web", "w1", "ReplicaSet");
    lab.api.put(&web, object);
    let (id, _) = begun(&lab, asked("w1", false)).await.expect("started");
    let operation = lab.ended(&id).await;
    assert_eq!(operation.state(), pb::OperationState::Succeeded);
    let steps = outcomes(&operation);
    let outcome = |wanted: &str| steps.iter().find(|(id, _)| id == wanted).expect("a step").1;
    assert_eq!(outcome("cordon"), pb::StepOutcome::Skipped);
    assert_eq!(outcome("delete-node"), pb::StepOutcome::Unchanged);
    assert!(lab.api.get(&web).is_some());
    assert_eq!(lab.api.changes(), [""; 0]);

    // Nor does a debt of the machine before delete it.
    let debt = owed_by("machine-w1");
    lab.context.store.put_debt(&debt).await.expect("stored");
    assert_eq!(lab.context.clusters.pay().await.expect("read"), []);
    assert!(lab.api.get("/api/v1/nodes/w1").is_some());
    // One that is left of an earlier life of the machine is not Ready.
    let earlier = crate::clusters::fake::node("w1", "machine-x", "boot-x", "Unknown");
    lab.api.put("/api/v1/nodes/w1", earlier);
    lab.context.store.put_debt(&debt).await.expect("stored");
    assert_eq!(lab.context.clusters.pay().await.expect("read"), []);
    assert_eq!(lab.api.get("/api/v1/nodes/w1"), None);
}

#[tokio::test]
async fn one_that_became_ready_after_its_join_ended_is_drained() {
    let lab = Lab::new().await;
    let row = member("w1", "worker", "10.0.0.6");
    let store = &lab.context.store;
    store.put_worker(&row, true).await.expect("stored");
    lab.worker_runs();
    lab.worker_ready();
    inspects(&lab, |_| {});
    let (web, object) = pod("web", "w1", "ReplicaSet");
    lab.api.put(&web, object);
    let (id, _) = begun(&lab, asked("w1", false)).await.expect("started");
    let operation = lab.ended(&id).await;
    let drained = outcomes(&operation)
        .into_iter()
        .find(|(id, _)| id == "drain");
    assert_eq!(drained.expect("a step").1, pb::StepOutcome::Changed);
}

#[tokio::test]
async fn one_that_never_joined_is_uninstalled_without_a_question() {
    let lab = Lab::new().await;
    let store = &lab.context.store;
    store
        .put_worker(&member("w1", "worker", "10.0.0.6"), true)
        .await
        .expect("stored");
    inspects(&lab, |_| {});
    lab.bench.link.cut();
    let (id, plan) = begun(&lab, asked("w1", false)).await.expect("never Ready");
    assert_eq!(plan.findings, []);
    assert_eq!(lab.ended(&id).await.state(), pb::OperationState::Succeeded);
    assert_eq!(store.cluster_node("w1").await.expect("read"), None);
    // With data of local volumes it is asked after all.
    store
        .put_worker(&member("w1", "worker", "10.0.0.6"), true)
        .await
        .expect("stored");
    inspects(&lab, |inspected| inspected.stored.push(data("/s/pvc-1")));
    let refused = begun(&lab, asked("w1", false)).await.expect_err("data");
    assert!(
        refused
            .to_string()
            .contains("CLUSTER_NOT_ASKED, LOCAL_DATA"),
        "{refused}"
    );
}

#[tokio::test]
async fn an_uninstall_that_fails_early_takes_its_cordon_back() {
    let mut lab = Lab::new().await;
    lab.context.timings.evict = Duration::from_millis(300);
    lab.joined().await;
    inspects(&lab, |_| {});
    let (web, object) = pod("web", "w1", "ReplicaSet");
    lab.api.put(&web, object);
    lab.api.keep_pod(&web, "never");
    let (id, _) = begun(&lab, asked("w1", false)).await.expect("started");
    let error = lab.ended(&id).await.error.expect("failed");
    assert_eq!(error.reason, "DRAIN_BLOCKED");
    let node = lab.api.get("/api/v1/nodes/w1").expect("there");
    assert!(node["spec"]["unschedulable"].is_null(), "{node}");
    assert!(lab.agent.specs.lock().expect("specs").is_empty());
}

#[tokio::test]
async fn a_control_plane_with_workers_stays_and_by_force_leaves_orphans() {
    let lab = Lab::new().await;
    lab.joined().await;
    *lab.bench.agent.inspected.lock().expect("inspected") = Some(installed(pb::K3sRole::Server));
    let refused = begun(&lab, asked("cp1", false)).await.expect_err("workers");
    assert!(refused.to_string().contains("HAS_WORKERS"), "{refused}");
    let (id, plan) = begun(&lab, asked("cp1", true)).await.expect("forced");
    assert_eq!(plan.orphans, ["w1"]);
    assert_eq!(lab.ended(&id).await.state(), pb::OperationState::Succeeded);
    let shown = lab
        .context
        .clusters
        .get("c")
        .await
        .expect("read")
        .expect("known");
    assert!(
        shown.nodes[0].orphaned && shown.nodes[0].host == "w1",
        "{shown:?}"
    );

    // Its worker still has k3s, so it is not gone.
    let alive = forget(&lab.context, &lab.operations, "c", "user anna")
        .await
        .expect_err("alive");
    assert!(alive.to_string().contains("k3s is still on w1"), "{alive}");
    lab.agent
        .facts
        .lock()
        .expect("facts")
        .as_mut()
        .expect("set")
        .k3s = None;
    assert_eq!(
        forget(&lab.context, &lab.operations, "c", "user anna")
            .await
            .expect("gone"),
        ["w1"]
    );
    assert!(
        lab.context
            .store
            .cluster("c")
            .await
            .expect("read")
            .is_none()
    );
    forget(&lab.context, &lab.operations, "c", "user anna")
        .await
        .expect_err("unknown");
}
