//! People at the CLI: what they type wrong, what becomes of their work when they leave, and two of them at once.

use std::time::{Duration, Instant};

use canasta_proto::pb;
use canasta_proto::pb::OperationState;
use canasta_tests::fleet::Fleet;
use canasta_tests::fleet::client::{check_events, fault, install_on};
use canasta_tests::fleet::node::Node;
use canasta_tests::fleet::trap::Moment;
use canasta_tests::fleet::wire::Wire;
use tokio::task::JoinSet;
use tonic::Code;

#[tokio::test]
async fn an_unknown_host_is_told_at_once_with_what_to_do() {
    let fleet = Fleet::start().await;
    let cli = fleet.cli("anna", pb::Role::Admin).await;
    for arguments in [
        vec!["host", "show", "x"],
        vec!["host", "token", "x"],
        vec!["host", "remove", "x"],
        vec!["operation", "list", "--host", "x"],
        vec!["install", "k8s-cp", "--host", "x"],
        vec!["install", "k8s-cp", "-H", "x", "--adopt"],
        vec!["install", "k8s-cp", "-H", "x", "--dry-run"],
        vec!["install", "k8s-worker", "--host", "w1", "--cp-host", "x"],
        vec!["uninstall", "k8s", "--host", "x"],
    ] {
        let output = cli.run(&arguments).await;
        assert_eq!(output.code, 1, "{arguments:?}: {output:?}");
        let mut lines = output.stderr.lines();
        assert_eq!(
            lines.next(),
            Some("error: host 'x' is not registered"),
            "{output:?}"
        );
        let hint = lines.find(|line| line.starts_with("hint: "));
        assert!(
            hint.is_some_and(|hint| hint.contains("canasta host add --name x")),
            "{output:?}"
        );
        assert_eq!(output.stdout, "", "{output:?}");
    }
    let admin = fleet.admin().await;
    let begun = Instant::now();
    let fault = admin.install(install_on("x")).await.unwrap_err();
    assert_eq!(
        (fault.code, fault.reason.as_str()),
        (Code::NotFound, "HOST_NOT_REGISTERED")
    );
    assert!(
        begun.elapsed() < Duration::from_millis(250),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn an_operation_goes_on_when_its_cli_is_killed_and_can_be_watched_without_a_gap() {
    let fleet = Fleet::start().await;
    let _node = fleet.joined("cp1").await;
    let cli = fleet.cli("otto", pb::Role::Operator).await;
    let mut held = fleet.probe.hold("write-config", Moment::After);
    let mut running = cli.spawn(&["install", "k8s-cp", "--host", "cp1"]);
    running.has_said("put the k3s binary in place").await;
    held.reached().await;
    running.kill().await;
    let admin = fleet.admin().await;
    let listed = admin
        .operations()
        .list_operations(pb::ListOperationsRequest::default())
        .await
        .unwrap();
    let operation = listed.into_inner().operations.remove(0);
    assert_eq!(operation.state(), OperationState::Running);
    assert_eq!(operation.started_by, "user otto");

    // One who was there from the first event, and one who comes later, see the same.
    let watching = tokio::spawn({
        let (admin, id) = (admin.clone(), operation.id.clone());
        async move { admin.events(&id, 0).await.unwrap() }
    });
    held.release();
    let live = watching.await.unwrap();
    check_events(&live);
    let later = admin.events(&operation.id, 0).await.unwrap();
    check_events(&later);
    let stored = |events: &[pb::OperationEvent]| -> Vec<pb::OperationEvent> {
        let is_stored = |event: &&pb::OperationEvent| {
            !matches!(event.event, Some(pb::operation_event::Event::Progress(_)))
        };
        events.iter().filter(is_stored).cloned().collect()
    };
    assert_eq!(stored(&live), stored(&later));
    let half = later[later.len() / 2].seq;
    let rest = admin.events(&operation.id, half).await.unwrap();
    assert_eq!(rest.first().map(|event| event.seq), Some(half + 1));
    assert_eq!(
        admin.operation(&operation.id).await.unwrap().state(),
        OperationState::Succeeded
    );

    let watched = cli
        .run(&["operation", "watch", &operation.id, "--output", "json"])
        .await;
    assert_eq!(watched.code, 0, "{watched:?}");
    assert_each_once(&watched.stdout, stored(&later).len());
}

/// Checks that the JSON lines are the stored events 1 to `last`, each once and in order.
fn assert_each_once(lines: &str, last: usize) {
    let events = lines.lines().map(|line| {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        (event["event"] != "progress").then(|| event["seq"].as_u64().unwrap())
    });
    let told: Vec<u64> = events.flatten().collect();
    let expected: Vec<u64> = (1..=last as u64).collect();
    assert_eq!(told, expected, "{lines}");
}

/// Has the CLI follow an install over an end of the controller and its next start.
async fn a_cli_watches_over(end: impl AsyncFnOnce(&mut Fleet)) {
    let mut fleet = Fleet::start().await;
    let _node = fleet.joined("cp1").await;
    let cli = fleet.cli("otto", pb::Role::Operator).await;
    let mut held = fleet.probe.hold("write-unit", Moment::Before);
    let (id, _) = fleet
        .admin()
        .await
        .install(install_on("cp1"))
        .await
        .unwrap();
    held.reached().await;
    let mut watching = cli.spawn(&["operation", "watch", &id, "--output", "json"]);
    watching.has_printed("\"step\":\"write-unit\"").await;
    end(&mut fleet).await;
    watching
        .has_said("the connection to the controller broke; the operation goes on")
        .await;
    fleet.restart().await;
    let watched = watching.ended().await;
    assert_eq!(watched.code, 0, "{watched:?}");
    let operation = fleet.admin().await.operation(&id).await.unwrap();
    assert_eq!(operation.state(), OperationState::Succeeded);
    assert_each_once(
        &watched.stdout,
        usize::try_from(operation.last_seq).unwrap(),
    );
}

#[tokio::test]
async fn a_cli_watches_on_when_the_controller_is_restarted() {
    a_cli_watches_over(Fleet::stop).await;
}

#[tokio::test]
async fn a_cli_watches_on_when_the_controller_is_killed() {
    a_cli_watches_over(Fleet::crash).await;
}

#[tokio::test]
async fn a_person_at_a_terminal_sees_steps_with_their_time_and_bytes() {
    let fleet = Fleet::start_with(3 << 20, |_| {}).await;
    let _node = fleet.joined("cp1").await;
    let cli = fleet.cli("otto", pb::Role::Operator).await;
    let mut held = fleet.probe.hold("push-artefact", Moment::After);
    let mut running = cli.spawn_on_terminal(&["install", "k8s-cp", "--host", "cp1"]);
    held.reached().await;
    let live = "cp1: send k3s v1.34.8+k3s1 to the node [";
    running.shows(live).await;
    running.shows("of 3.0 MiB").await;
    held.release();
    let output = running.ended().await;
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(output.stdout, "", "{output:?}");
    let screen = output.stderr;
    // How long it has taken moves while the step runs, and the line stays when it has ended.
    let elapsed = screen.split(live).nth(1).unwrap();
    assert!(elapsed.starts_with(|digit: char| digit.is_ascii_digit()));
    assert!(
        elapsed.split(']').next().unwrap().ends_with('s'),
        "{screen}"
    );
    for ended in [
        "\u{2713} cp1: check the node: ",
        "\u{2713} fetch k3s v1.34.8+k3s1: changed",
        "\u{2713} cp1: enable and start k3s: changed",
        "\u{2713} record cluster cp1: changed",
    ] {
        assert!(screen.contains(ended), "{ended}: {screen}");
    }
}

#[tokio::test]
async fn ctrl_c_leaves_the_command_and_not_the_operation() {
    let fleet = Fleet::start().await;
    let _node = fleet.joined("cp1").await;
    let cli = fleet.cli("otto", pb::Role::Operator).await;
    let mut held = fleet.probe.hold("write-config", Moment::Before);
    let mut running = cli.spawn_on_terminal(&["install", "k8s-cp", "--host", "cp1"]);
    running.shows("write the configuration").await;
    held.reached().await;
    running.interrupt();
    let output = running.ended().await;
    assert_eq!(output.code, 130, "{output:?}");
    let id = running_operation(&fleet).await;
    let again = format!("`canasta operation watch {id}`");
    assert!(output.stderr.contains(&again), "{output:?}");

    // One who only watches leaves in the same way.
    let mut watching = cli.spawn_on_terminal(&["operation", "watch", &id]);
    watching.shows("write the configuration").await;
    watching.interrupt();
    let output = watching.ended().await;
    assert_eq!(output.code, 130, "{output:?}");
    assert!(
        output.stderr.contains("the operation goes on"),
        "{output:?}"
    );

    held.release();
    let operation = fleet.admin().await.ended(&id).await;
    assert_eq!(operation.state(), OperationState::Succeeded);
}

/// The id of the only operation, which runs.
async fn running_operation(fleet: &Fleet) -> String {
    let request = pb::ListOperationsRequest::default();
    let admin = fleet.admin().await;
    let listed = admin.operations().list_operations(request).await.unwrap();
    let mut operations = listed.into_inner().operations;
    assert_eq!(operations.len(), 1);
    let operation = operations.remove(0);
    assert_eq!(operation.state(), OperationState::Running);
    operation.id
}

#[tokio::test]
async fn a_watch_survives_a_killed_controller() {
    let mut fleet = Fleet::start().await;
    let _node = fleet.joined("cp1").await;
    let mut held = fleet.probe.hold("write-unit", Moment::Before);
    let (id, _) = fleet
        .admin()
        .await
        .install(install_on("cp1"))
        .await
        .unwrap();
    held.reached().await;
    let before = fleet.admin().await.operation(&id).await.unwrap().last_seq;
    fleet.crash().await;
    fleet.restart().await;
    let rest = fleet.admin().await.events(&id, before).await.unwrap();
    assert_eq!(rest.first().map(|event| event.seq), Some(before + 1));
    check_events(&fleet.admin().await.events(&id, 0).await.unwrap());
}

#[tokio::test]
async fn the_second_operator_on_a_host_is_refused_at_once_with_the_firsts_operation() {
    let fleet = Fleet::start().await;
    let _node = fleet.joined("cp1").await;
    let first = fleet.user("otto", pb::Role::Operator).await.client;
    let mut held = fleet.probe.hold("fetch-artefact", Moment::Before);
    let (operation, _) = first.install(install_on("cp1")).await.unwrap();
    held.reached().await;

    let second = fleet.user("anna", pb::Role::Admin).await.client;
    let begun = Instant::now();
    let fault = second.install(install_on("cp1")).await.unwrap_err();
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(fault.code, Code::FailedPrecondition, "{fault:?}");
    assert!(
        fault.message.contains(&operation) && fault.message.contains("user otto"),
        "{fault:?}"
    );
    assert!(fault.hint.contains(&operation), "{fault:?}");
    let name = "cp1".to_owned();
    let removal = second
        .hosts()
        .remove_host(pb::RemoveHostRequest { name, force: false })
        .await
        .unwrap_err();
    assert!(removal.message().contains(&operation), "{removal:?}");
    // Another machine can't come under the name of one that is being changed.
    let fault = second.host_token("cp1").await.unwrap_err();
    assert_eq!(fault.reason, "HOST_BUSY", "{fault:?}");
    assert!(fault.message.contains(&operation), "{fault:?}");
    assert_eq!(
        second.host("cp1", false).await.unwrap().operation_id,
        operation
    );

    held.release();
    assert_eq!(
        second.ended(&operation).await.state(),
        OperationState::Succeeded
    );
    let (again, _) = second.install(install_on("cp1")).await.unwrap();
    assert_eq!(
        second.ended(&again).await.state(),
        OperationState::Succeeded
    );
}

#[tokio::test]
async fn a_token_made_before_an_install_lets_no_machine_in_while_it_runs() {
    let fleet = Fleet::start().await;
    let _node = fleet.joined("cp1").await;
    let admin = fleet.admin().await;
    let token = admin.host_token("cp1").await.unwrap();
    let mut held = fleet.probe.hold("fetch-artefact", Moment::Before);
    let (operation, _) = admin.install(install_on("cp1")).await.unwrap();
    held.reached().await;
    let other = Node::start("cp1").await;
    let failure = other.join(fleet.address(), &token).await.unwrap_err();
    assert_eq!(failure.reason, "HOST_BUSY", "{failure:?}");
    assert!(failure.message.contains(&operation), "{failure:?}");
    held.release();
    assert_eq!(
        admin.ended(&operation).await.state(),
        OperationState::Succeeded
    );
    // The token was not used up by that.
    other.join(fleet.address(), &token).await.unwrap();
}

#[tokio::test]
async fn a_host_is_not_removed_while_an_install_of_it_is_planned() {
    let fleet = Fleet::start().await;
    let mut node = Node::start("cp1").await;
    let wire = Wire::to(node.address).await;
    node.advertise = wire.address();
    fleet.join(&node).await;
    let admin = fleet.admin().await;
    // The node is asked what it is while the install is planned, and the question takes its time.
    wire.hold(true);
    // Of two at once one is refused, and from then on the other has the host.
    let mut planning = JoinSet::new();
    for _ in 0..2 {
        let admin = admin.clone();
        planning.spawn(async move { admin.install(install_on("cp1")).await });
    }
    let refused = planning.join_next().await.unwrap().unwrap().unwrap_err();
    assert_eq!(refused.reason, "HOST_BUSY", "{refused:?}");
    let token = admin.host_token("cp1").await.unwrap_err();
    assert_eq!(token.reason, "HOST_BUSY", "{token:?}");
    let request = pb::RemoveHostRequest {
        name: "cp1".to_owned(),
        force: false,
    };
    let removal = admin.hosts().remove_host(request).await.unwrap_err();
    let fault = fault(removal);
    assert_eq!(fault.reason, "HOST_BUSY", "{fault:?}");
    assert!(
        fault.message.contains("install-k8s-cp, which local ")
            && fault.message.contains("has just begun"),
        "{fault:?}"
    );
    wire.hold(false);
    let (operation, _) = planning.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!(
        admin.ended(&operation).await.state(),
        OperationState::Succeeded
    );
}

#[tokio::test]
async fn a_cancel_stops_at_the_end_of_the_step() {
    let fleet = Fleet::start().await;
    let node = fleet.joined("cp1").await;
    let admin = fleet.admin().await;
    let mut held = fleet.probe.hold("install-binary", Moment::Before);
    let (id, _) = admin.install(install_on("cp1")).await.unwrap();
    held.reached().await;
    let request = pb::CancelOperationRequest { id: id.clone() };
    let answer = admin
        .operations()
        .cancel_operation(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        answer.operation.unwrap().state(),
        OperationState::Cancelling
    );
    held.release();
    let operation = admin.ended(&id).await;
    assert_eq!(operation.state(), OperationState::Cancelled);
    let state = |id: &str| {
        operation
            .steps
            .iter()
            .find(|step| step.id == id)
            .unwrap()
            .state()
    };
    assert_eq!(
        (state("install-binary"), state("write-config")),
        (pb::StepState::Finished, pb::StepState::NotRun)
    );
    assert_eq!(node.k3s.starts(), 0);
    let again = fleet.install(install_on("cp1")).await.unwrap();
    assert_eq!(again.state(), OperationState::Succeeded);
}

#[tokio::test]
async fn what_was_done_is_in_the_audit_trail_with_its_end() {
    let fleet = Fleet::start().await;
    let _node = fleet.joined("cp1").await;
    let otto = fleet.user("otto", pb::Role::Operator).await.client;
    let (id, _) = otto.install(install_on("cp1")).await.unwrap();
    otto.ended(&id).await;
    let rows = fleet.admin().await.audit_rows().await;
    let row = rows
        .iter()
        .find(|row| row.operation_id == id)
        .expect("a row about the operation");
    assert_eq!(
        (row.who.as_str(), row.what.as_str(), row.subject.as_str()),
        (
            "user otto",
            "ClusterService/InstallControlPlane",
            "host cp1, cluster cp1"
        )
    );
    assert!(row.from.starts_with("127."), "{row:?}");
    assert!(row.outcome.to_lowercase().contains("succeeded"), "{row:?}");
    for (what, who) in [
        ("HostService/AddHost", "local "),
        ("EnrolmentService/EnrolHost", "unknown"),
        ("UserService/AddUser", "local "),
    ] {
        assert!(
            rows.iter()
                .any(|row| row.what == what && row.who.starts_with(who) && row.outcome == "ok"),
            "{what}: {rows:#?}"
        );
    }
    let ids: Vec<u64> = rows.iter().map(|row| row.id).collect();
    assert!(ids.windows(2).all(|pair| pair[0] > pair[1]), "{ids:?}");
}
