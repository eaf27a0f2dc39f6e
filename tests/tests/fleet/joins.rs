//! Joins that can't work: each is told by its cause, within the time that it may take, and the next run mends it.

use std::time::Duration;

use canasta_proto::pb::{ErrorReport, OperationState};
use canasta_standin::kubectl;
use canasta_tests::fleet::node::Node;
use canasta_tests::fleet::trap::Moment;
use canasta_tests::fleet::{Fleet, k3s};
use http::Method;
use serde_json::json;

/// How long a join that can't work may take to say why.
const TOLD_WITHIN: Duration = Duration::from_secs(30);
const CREDENTIAL: &str = "/etc/rancher/k3s/join-token";

struct Scene {
    fleet: Fleet,
    control_plane: Node,
    worker: Node,
}

impl Scene {
    async fn new() -> Self {
        let (fleet, control_plane, worker) = Fleet::with_worker().await;
        Self {
            fleet,
            control_plane,
            worker,
        }
    }

    /// A join in which something is spoilt just before k3s is started, and what it then ends with.
    async fn spoilt(&self, spoil: impl AsyncFnOnce(&Self)) -> ErrorReport {
        let admin = self.fleet.admin().await;
        let mut held = self.fleet.probe.hold("start-service", Moment::Before);
        let id = admin.join_worker("w1", "cp1").await.unwrap();
        held.reached().await;
        spoil(self).await;
        held.release();
        let ended = tokio::time::timeout(TOLD_WITHIN, admin.ended(&id)).await;
        let ended = ended.expect("the cause is told in time");
        assert_eq!(ended.state(), OperationState::Failed, "{ended:#?}");
        ended.error.unwrap()
    }

    fn spoil_credential(&self, spoil: impl FnOnce(&str) -> String) {
        let credential = self.worker.read(CREDENTIAL);
        let path = self.worker.host.root.path(CREDENTIAL);
        std::fs::write(path, spoil(&credential)).unwrap();
    }

    async fn joins(&self) {
        let admin = self.fleet.admin().await;
        let id = admin.join_worker("w1", "cp1").await.unwrap();
        let ended = admin.ended(&id).await;
        assert_eq!(ended.state(), OperationState::Succeeded, "{ended:#?}");
    }
}

/// Told as this cause, about the worker or its server, with something to do next and lines of the journal.
fn assert_told(error: &ErrorReport, reason: &str) {
    assert_eq!(error.reason, reason, "{error:#?}");
    assert!(error.hint.contains("run the command again"), "{error:#?}");
    assert!(!error.evidence.is_empty(), "{error:#?}");
}

#[tokio::test]
async fn a_credential_that_is_wrong_is_told_and_the_next_run_brings_another() {
    let scene = Scene::new().await;
    let wrong_secret = scene
        .spoilt(async |scene| {
            scene.spoil_credential(|credential| {
                // Of the same form, with another last letter.
                let credential = credential.trim_end();
                let (most, last) = credential.split_at(credential.len() - 1);
                format!("{most}{}\n", if last == "a" { "b" } else { "a" })
            });
        })
        .await;
    assert_told(&wrong_secret, "JOIN_TOKEN_REJECTED");
    let wrong_ca = scene
        .spoilt(async |scene| {
            scene.spoil_credential(|credential| {
                let (_, secret) = credential.split_once("::").unwrap();
                format!("K10{}::{secret}", "0".repeat(64))
            });
        })
        .await;
    assert_told(&wrong_ca, "JOIN_CA_MISMATCH");
    scene.joins().await;
}

#[tokio::test]
async fn a_name_that_another_machine_has_taken_meanwhile_is_told() {
    let scene = Scene::new().await;
    let taken = scene
        .spoilt(async |scene| {
            let kubeconfig = scene.control_plane.host.root.path(k3s::KUBECONFIG);
            let (_, api) = kubectl::kubeconfig(&kubeconfig).unwrap();
            let password = json!({
                "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
                "metadata": {"name": "w1.node-password.k3s", "namespace": "kube-system"},
                "data": {"hash": "JDE6b3RoZXI="},
            });
            let path = "/api/v1/namespaces/kube-system/secrets";
            let headers = [("Content-Type", "application/json")];
            let put = api.send(Method::POST, path, &headers, password.to_string());
            assert_eq!(put.await.unwrap().status, 201);
        })
        .await;
    assert_told(&taken, "JOIN_NODE_PASSWORD_REJECTED");
}

#[tokio::test]
async fn a_server_that_went_away_is_told() {
    let mut scene = Scene::new().await;
    scene.worker.restart_waiting(TOLD_WITHIN / 2).await;
    let away = scene
        .spoilt(async |scene| {
            let systemd = scene.control_plane.host.host().systemd;
            let stopped = systemd.stop("k3s.service", TOLD_WITHIN).await;
            stopped.unwrap();
        })
        .await;
    assert_told(&away, "JOIN_SERVER_REFUSED");
}
