//! What agent and controller tell each other before an uninstall: what will be refused, and where volumes lie.

use canasta_proto::pb;
use canasta_proto::pb::Severity;
use serde_json::json;

use super::{asked, begun, inspects};
use crate::workflows::Error;
use crate::workflows::bench::{Lab, member};

#[tokio::test]
async fn what_the_agent_will_refuse_is_told_at_once_and_force_is_not_offered() {
    let lab = Lab::new().await;
    lab.joined().await;
    let refusal = pb::Finding {
        code: "LOCAL_DATA_HIDDEN".to_owned(),
        severity: Severity::Error.into(),
        message: "volumes keep their data on this node: /var/lib/rancher/k3s/storage/pvc-1"
            .to_owned(),
        subject: "/var/lib/rancher/k3s/storage/pvc-1".to_owned(),
        mend: "move the data away".to_owned(),
    };
    inspects(&lab, |inspected| inspected.refusals.push(refusal));
    let dry = pb::UninstallK3sRequest {
        dry_run: true,
        ..asked("w1", false)
    };
    let (_, plan) = begun(&lab, dry).await.expect("planned");
    assert_eq!(plan.firm, ["LOCAL_DATA_HIDDEN"]);
    for force in [false, true] {
        let refused = begun(&lab, asked("w1", force))
            .await
            .expect_err("hidden data");
        let Error::Refused(refusal) = refused else {
            panic!("{refused:?}")
        };
        assert!(
            refusal.message.ends_with(": LOCAL_DATA_HIDDEN"),
            "{refusal:?}"
        );
        assert!(
            refusal.hint.contains("--force does not help"),
            "{refusal:?}"
        );
        let told = refusal.points.join("\n");
        assert!(
            told.contains("pvc-1") && told.contains("move the data away"),
            "{told}"
        );
    }
    assert_eq!(lab.api.changes(), [""; 0]);
    assert_eq!(*lab.agent.specs.lock().expect("specs"), []);
}

#[tokio::test]
async fn the_agent_is_asked_and_told_where_its_cluster_keeps_volumes_also_once_the_api_is_away() {
    let lab = Lab::new().await;
    lab.joined().await;
    lab.api.put(
        "/api/v1/namespaces/kube-system/configmaps/local-path-config",
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "local-path-config", "namespace": "kube-system"},
            "data": {"config.json": r#"{"nodePathMap":[{"node":"w1","paths":["/srv/v","/etc"]}]}"#},
        }),
    );
    inspects(&lab, |_| {});
    let refused = begun(&lab, asked("w1", false))
        .await
        .expect_err("an older agent");
    assert!(refused.to_string().contains("NOT_LOOKED_AT"), "{refused}");
    inspects(&lab, |inspected| {
        inspected.local_paths.push("/srv/v".to_owned());
    });
    let refused = begun(&lab, asked("w1", false)).await.expect_err("/etc");
    let Error::Refused(refusal) = refused else {
        panic!("{refused:?}")
    };
    assert!(
        refusal.points[0].contains("/etc: a directory of volumes is no directory of the system"),
        "{refusal:?}"
    );
    let (id, plan) = begun(&lab, asked("w1", true)).await.expect("forced");
    assert!(plan.losses[0].contains("/etc"), "{:?}", plan.losses);
    assert_eq!(lab.ended(&id).await.state(), pb::OperationState::Succeeded);
    let told = |spec: &pb::TaskSpec| match &spec.verb {
        Some(pb::task_spec::Verb::K3sUninstall(task)) => task.local_paths == ["/srv/v"],
        _ => false,
    };
    assert!(lab.agent.specs.lock().expect("specs").iter().all(told));
    let look = || {
        lab.agent
            .looked
            .lock()
            .expect("looked")
            .pop()
            .expect("a look")
    };
    assert_eq!(look().local_paths, ["/srv/v"]);

    // What this uninstall knew is still known when the next one finds no API.
    let store = &lab.context.store;
    let row = member("w1", "worker", "10.0.0.6");
    store.put_worker(&row, true).await.expect("stored");
    lab.bench.link.cut();
    begun(
        &lab,
        pb::UninstallK3sRequest {
            dry_run: true,
            ..asked("w1", false)
        },
    )
    .await
    .expect("planned");
    assert_eq!(look().local_paths, ["/srv/v"]);
}
