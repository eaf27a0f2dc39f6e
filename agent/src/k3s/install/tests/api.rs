//! Waiting for the API server.

use canasta_host::fake::FakeHost;
use canasta_proto::pb::StepOutcome;

use super::*;
use crate::k3s::fake_api::FakeApi;

const LIST: &str = "[+]ping ok\n[-]etcd failed: reason withheld\nreadyz check failed\n";

async fn with_api(answers: &[(u16, &'static str)]) -> (FakeHost, FakeApi) {
    let fake = installed().await;
    let api = FakeApi::start(answers).await;
    fake.root
        .write(paths::KUBECONFIG, api.kubeconfig.clone(), 0o600)
        .await
        .unwrap();
    (fake, api)
}

#[tokio::test]
async fn it_waits_through_the_phases_of_a_start() {
    let (fake, api) = with_api(&[
        (503, "starting\n"),
        (401, ""),
        (500, LIST),
        (500, LIST),
        (200, "ok"),
    ])
    .await;
    let (result, events) = told(&fake, &spec(V1), Step::ApiReady, timings()).await;
    let done = result.unwrap();
    assert_eq!(done.outcome, StepOutcome::Changed);
    assert!(
        done.detail.starts_with("the API server is ready after"),
        "{}",
        done.detail
    );
    assert_eq!(messages(&events)[0], "API server answers 503, starting");
    assert_eq!(api.asked(), 5);
    assert_eq!(
        outcome(step(&fake, &spec(V1), Step::ApiReady).await),
        StepOutcome::Unchanged,
        "ready at the first question"
    );
}

#[tokio::test]
async fn a_kubeconfig_that_comes_late_is_waited_for() {
    let fake = installed().await;
    let api = FakeApi::start(&[(200, "ok")]).await;
    let root = fake.root.clone();
    let kubeconfig = api.kubeconfig.clone();
    let journal = Arc::<Told>::default();
    let write = async {
        journal.said("k3s.yaml", 1).await;
        root.write(paths::KUBECONFIG, kubeconfig, 0o600)
            .await
            .unwrap();
    };
    let one_spec = spec(V1);
    let waiting = told_to(&journal, &fake, &one_spec, Step::ApiReady, timings());
    let ((result, events), ()) = tokio::join!(waiting, write);
    assert_eq!(result.unwrap().outcome, StepOutcome::Changed);
    assert!(messages(&events)[0].contains("k3s.yaml"), "{events:?}");
}

#[tokio::test]
async fn ready_to_systemd_is_not_ready() {
    let (fake, _api) = with_api(&[(500, LIST)]).await;
    assert!(fake.host().systemd.unit(UNIT).await.unwrap().is_active());
    fake.journal.log(
        UNIT,
        r#"level=fatal msg="failed to find memory cgroup (v2)""#,
    );
    let short = Timings {
        ready: Duration::from_millis(200),
        ..timings()
    };
    let error = told(&fake, &spec(V1), Step::ApiReady, short)
        .await
        .0
        .unwrap_err();
    let report = error.report();
    assert_eq!(report.reason, "K3S_NOT_READY");
    assert!(
        report.causes[0].contains("1 checks not ready: etcd"),
        "{report:?}"
    );
    assert!(
        report.causes[1].contains("CGROUP_MEMORY_MISSING"),
        "{report:?}"
    );
    assert_eq!(report.evidence.len(), 1);
}

#[tokio::test]
async fn a_unit_that_fails_or_restarts_again_and_again_ends_the_wait_early() {
    let (fake, _api) = with_api(&[(503, "starting\n")]).await;
    let long = Timings {
        ready: Duration::from_secs(20),
        ..timings()
    };
    let systemd = fake.systemd.clone();
    let journal = Arc::<Told>::default();
    let fail = async {
        journal.said("503", 1).await;
        systemd.exit(UNIT, 1);
    };
    let one_spec = spec(V1);
    let waiting = told_to(&journal, &fake, &one_spec, Step::ApiReady, long);
    let ((result, _), ()) = tokio::join!(waiting, fail);
    assert_eq!(result.unwrap_err().reason(), "K3S_EXITED");

    assert_eq!(
        outcome(step(&fake, &spec(V1), Step::Start).await),
        StepOutcome::Changed
    );
    let systemd = fake.systemd.clone();
    let journal = Arc::<Told>::default();
    let restart = async {
        journal.said("503", 1).await;
        for _ in 0..3 {
            systemd.change(UNIT, |unit| {
                unit.active_state = "activating".to_owned();
                unit.sub_state = "auto-restart".to_owned();
                unit.n_restarts += 1;
            });
        }
    };
    let waiting = told_to(&journal, &fake, &one_spec, Step::ApiReady, long);
    let ((result, _), ()) = tokio::join!(waiting, restart);
    assert_eq!(result.unwrap_err().reason(), "K3S_EXITED");
}
