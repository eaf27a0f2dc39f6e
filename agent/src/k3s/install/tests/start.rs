//! Starts and restarts: once, for a reason, and what happens when k3s ends.

use canasta_host::fake::{Exit, FakeHost, Order};
use canasta_proto::pb::{K3sSpec, StepOutcome};

use super::*;
use crate::k3s::record::{Origin, Role, Started};

async fn start(fake: &FakeHost, spec: &K3sSpec) -> Result<Done, StepError> {
    step(fake, spec, Step::Start).await
}

#[tokio::test]
async fn an_upgrade_and_a_changed_configuration_restart_exactly_once() {
    let fake = installed().await;
    let started = record(&fake).await.started.unwrap();
    assert_eq!(started.version, V1);
    stage(&fake, V2).await;
    let wider = K3sSpec {
        tls_sans: Vec::new(),
        ..spec(V2)
    };
    let ends = to_start(&fake, &wider).await;
    assert_eq!(fake.systemd.orders(), [Order::Restart(UNIT.to_owned())]);
    let (_, outcome, detail) = ends.last().unwrap();
    assert_eq!(*outcome, StepOutcome::Changed);
    assert_eq!(
        detail,
        "restarted once, because the binary and the configuration changed"
    );
    let again = record(&fake).await.started.unwrap();
    assert_eq!(again.version, V2);
    assert_ne!(again.invocation, started.invocation);
    assert_eq!(
        start(&fake, &wider).await.unwrap().outcome,
        StepOutcome::Unchanged
    );
    assert_eq!(starts(&fake), 1);
}

#[tokio::test]
async fn a_stopped_unit_is_started_and_a_disabled_one_enabled() {
    let fake = installed().await;
    fake.systemd.stops_with(UNIT, 1);
    fake.host()
        .systemd
        .stop(UNIT, Duration::from_secs(1))
        .await
        .unwrap();
    fake.systemd.clear_orders();
    let done = start(&fake, &spec(V1)).await.unwrap();
    assert_eq!(
        (done.outcome, done.detail.as_str()),
        (StepOutcome::Changed, "was down, and is started again")
    );
    assert_eq!(
        fake.systemd.orders(),
        [
            Order::ResetFailed(UNIT.to_owned()),
            Order::Start(UNIT.to_owned())
        ]
    );
    fake.host().systemd.disable(UNIT).await.unwrap();
    fake.systemd.clear_orders();
    assert_eq!(
        start(&fake, &spec(V1)).await.unwrap().outcome,
        StepOutcome::Changed
    );
    assert_eq!(starts(&fake), 0, "enabling needs no restart");
}

#[tokio::test]
async fn a_process_that_may_have_read_a_damaged_file_is_restarted() {
    let fake = installed().await;
    fake.root
        .write(paths::CONFIG, "tampered: true", 0o600)
        .await
        .unwrap();
    fake.reboot();
    fake.systemd.clear_orders();
    let ends = to_start(&fake, &spec(V1)).await;
    assert_eq!(ends.last().unwrap().1, StepOutcome::Repaired);
    assert_eq!(starts(&fake), 1);
    assert_eq!(
        start(&fake, &spec(V1)).await.unwrap().outcome,
        StepOutcome::Unchanged
    );
}

#[tokio::test]
async fn a_reboot_alone_is_no_reason_to_restart() {
    let fake = installed().await;
    fake.reboot();
    fake.systemd.clear_orders();
    assert_eq!(
        start(&fake, &spec(V1)).await.unwrap().outcome,
        StepOutcome::Unchanged
    );
    assert_eq!(fake.systemd.orders(), []);
}

#[tokio::test]
async fn a_crash_after_the_order_does_not_start_twice() {
    let fake = installed().await;
    let mut record = record(&fake).await;
    let started = record.started.take().unwrap();
    record.starting = Some(Started {
        invocation: None,
        ..started.clone()
    });
    record.save(&fake.host()).await.unwrap();
    assert_eq!(
        start(&fake, &spec(V1)).await.unwrap().outcome,
        StepOutcome::Unchanged
    );
    assert_eq!(starts(&fake), 0);
    assert_eq!(super::record(&fake).await.started, Some(started.clone()));

    // A crash before the order came through: the old run is still there.
    let mut record = super::record(&fake).await;
    record.started = None;
    record.starting = Some(started);
    record.save(&fake.host()).await.unwrap();
    assert_eq!(
        start(&fake, &spec(V1)).await.unwrap().outcome,
        StepOutcome::Changed
    );
    assert_eq!(starts(&fake), 1);
}

#[tokio::test]
async fn systemd_reads_unit_files_again_only_when_one_was_written() {
    let fake = installed().await;
    fake.root
        .write("/etc/systemd/system/k3s.service", "tampered", 0o644)
        .await
        .unwrap();
    assert_eq!(
        outcome(step(&fake, &spec(V1), Step::Unit).await),
        StepOutcome::Repaired
    );
    assert_eq!(
        start(&fake, &spec(V1)).await.unwrap().outcome,
        StepOutcome::Unchanged
    );
    assert_eq!(fake.systemd.orders(), [Order::DaemonReload]);
    fake.systemd.clear_orders();
    start(&fake, &spec(V1)).await.unwrap();
    assert_eq!(fake.systemd.orders(), []);
}

#[tokio::test]
async fn a_k3s_that_exits_is_told_with_journal_and_cause() {
    let fake = FakeHost::new("cp1");
    stage(&fake, V1).await;
    let journal = fake.journal.clone();
    fake.systemd.on_start(UNIT, move |run| {
        let journal = journal.clone();
        async move {
            let line =
                r#"time="x" level=fatal msg="listen tcp :6443: bind: address already in use""#;
            journal.log_in_run(UNIT, &run.invocation_id, line);
            Err(Exit(1))
        }
    });
    for which in &TO_START[..5] {
        step(&fake, &spec(V1), *which).await.unwrap();
    }
    let error = start(&fake, &spec(V1)).await.unwrap_err();
    let report = error.report();
    assert_eq!(
        (report.reason.as_str(), report.subject.as_str()),
        ("K3S_EXITED", UNIT)
    );
    assert!(
        report
            .causes
            .iter()
            .any(|cause| cause.contains("PORT_TAKEN")),
        "{report:?}"
    );
    assert!(report.hint.contains("ss -lntup"), "{report:?}");
    assert_eq!(report.evidence[0].title, "journal of k3s.service");
    assert!(
        report.evidence[0]
            .lines
            .iter()
            .any(|line| line.contains("address already in use"))
    );
    assert_eq!(report.evidence[0].source, "agent on cp1");

    fake.systemd.on_start(UNIT, |_| async {
        Ok(Box::new(()) as canasta_host::fake::Running)
    });
    assert_eq!(
        start(&fake, &spec(V1)).await.unwrap().outcome,
        StepOutcome::Changed
    );
}

#[tokio::test]
async fn a_start_that_hangs_without_a_process_ends_at_the_limit() {
    let fake = FakeHost::new("cp1");
    stage(&fake, V1).await;
    for which in &TO_START[..5] {
        step(&fake, &spec(V1), *which).await.unwrap();
    }
    let systemd = fake.systemd.clone();
    fake.systemd.on_start(UNIT, move |_| {
        systemd.change(UNIT, |unit| {
            unit.main_pid = None;
            unit.sub_state = "start-pre".to_owned();
        });
        std::future::pending()
    });
    let short = Timings {
        start: Duration::from_millis(300),
        ..timings()
    };
    let (result, events) = told(&fake, &spec(V1), Step::Start, short).await;
    assert_eq!(result.unwrap_err().reason(), "K3S_START_TIMEOUT");
    assert!(events.iter().any(|event| matches!(event, StepEvent::Progress(progress) if progress.message.contains("waiting"))));
}

#[tokio::test]
async fn a_process_that_comes_up_slowly_is_enough() {
    let fake = FakeHost::new("cp1");
    stage(&fake, V1).await;
    fake.systemd.on_start(UNIT, |_| std::future::pending());
    let ends = to_start(&fake, &spec(V1)).await;
    assert_eq!(ends.last().unwrap().1, StepOutcome::Changed);
    assert_eq!(
        fake.host().systemd.unit(UNIT).await.unwrap().active_state,
        "activating"
    );
    assert_eq!(
        start(&fake, &spec(V1)).await.unwrap().outcome,
        StepOutcome::Unchanged
    );
}

#[tokio::test]
async fn a_missing_file_is_named_rather_than_started() {
    let fake = installed().await;
    fake.root.remove_file(paths::CONFIG).await.unwrap();
    let error = start(&fake, &spec(V1)).await.unwrap_err();
    assert_eq!(
        (error.reason(), error.report().subject.as_str()),
        ("FILE_MISSING", paths::CONFIG)
    );
    assert_eq!(starts(&fake), 0);
}

#[tokio::test]
async fn a_new_agent_token_is_read_by_a_restart() {
    let fake = installed().await;
    fake.root.remove_file(paths::AGENT_TOKEN).await.unwrap();
    let ends = to_start(&fake, &spec(V1)).await;
    let (_, outcome, detail) = ends.last().unwrap();
    assert_eq!(
        (*outcome, detail.as_str()),
        (
            StepOutcome::Changed,
            "restarted once, because the agent token changed"
        )
    );
    to_start(&fake, &spec(V1)).await;
    assert_eq!(starts(&fake), 1);
}

#[tokio::test]
async fn an_adopted_k3s_that_was_removed_since_is_no_obstacle() {
    let fake = FakeHost::new("cp1");
    stage(&fake, V1).await;
    Record::new(Origin::Adopted, Role::Server)
        .save(&fake.host())
        .await
        .unwrap();
    to_start(&fake, &spec(V1)).await;
    assert_eq!(record(&fake).await.origin, Origin::Installed);
}

#[tokio::test]
async fn an_adopted_k3s_is_left_alone() {
    let fake = FakeHost::new("cp1");
    stage(&fake, V1).await;
    fake.root
        .write("/etc/systemd/system/k3s.service", "theirs", 0o644)
        .await
        .unwrap();
    Record::new(Origin::Adopted, Role::Server)
        .save(&fake.host())
        .await
        .unwrap();
    for which in TO_START {
        assert_eq!(
            step(&fake, &spec(V1), which).await.unwrap_err().reason(),
            "K3S_ADOPTED",
            "{which:?}"
        );
    }
    assert_eq!(fake.systemd.orders(), []);
}

#[tokio::test]
async fn a_bus_that_is_gone_is_an_error_of_its_own() {
    let fake = installed().await;
    fake.systemd.set_unreachable(true);
    assert_eq!(
        start(&fake, &spec(V1)).await.unwrap_err().reason(),
        "SYSTEMD_FAILED"
    );
}
