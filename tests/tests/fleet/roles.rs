//! Roles: what each may call, through real certificates; and what becomes of a user who is removed.

use canasta_controller::api::roles::TABLE;
use canasta_proto::pb;
use canasta_proto::pb::operation_event::Event;
use canasta_standin::trailer::Faults;
use canasta_tests::fleet::Fleet;
use canasta_tests::fleet::client::{fault, install_on};
use canasta_tests::fleet::people;
use canasta_tests::fleet::trap::Moment;
use canasta_tests::fleet::within;
use canasta_transport::roles::Role;
use http::uri::PathAndQuery;
use tonic::client::Grpc;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

/// Calls that viewers may make, by the design: they read, and show neither logs nor secrets.
const VIEWER: [&str; 9] = [
    "HostService/ListHosts",
    "HostService/GetHost",
    "ClusterService/ListClusters",
    "ClusterService/GetCluster",
    "OperationService/ListOperations",
    "OperationService/GetOperation",
    "OperationService/WatchOperation",
    "ArtefactService/ListArtefacts",
    "StorageService/ListStorage",
];
/// Calls that operators may make besides.
const OPERATOR: [&str; 10] = [
    "ClusterService/InstallControlPlane",
    "OperationService/CancelOperation",
    "ClusterService/JoinWorkers",
    "ClusterService/UninstallK3s",
    "ClusterService/CordonNode",
    "ClusterService/UncordonNode",
    "ClusterService/DrainNode",
    "StorageService/CheckStorage",
    "StorageService/SetupNfs",
    "StorageService/RemoveStorage",
];
/// Calls that only admins may make.
const ADMIN: [&str; 12] = [
    "HostService/AddHost",
    "HostService/RemoveHost",
    "HostService/CreateHostToken",
    "ClusterService/AdoptControlPlane",
    "ArtefactService/ImportArtefact",
    "UserService/AddUser",
    "UserService/ListUsers",
    "UserService/RemoveUser",
    "AuditService/ListAudit",
    "ClusterService/ForgetCluster",
    "ClusterService/GetKubeconfig",
    "ArtefactService/GetAgentPackage",
];

/// Makes a call with an empty message, whatever its kind.
async fn call(channel: Channel, method: &'static str) -> Result<(), Status> {
    let mut grpc = Grpc::new(channel);
    grpc.ready()
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?;
    let codec = ProstCodec::<(), ()>::default();
    let path = PathAndQuery::from_static(method);
    let mut answers = grpc
        .server_streaming(Request::new(()), path, codec)
        .await?
        .into_inner();
    answers.message().await.map(drop)
}

#[tokio::test]
async fn each_role_may_call_what_the_design_says() {
    let fleet = Fleet::start().await;
    let mut denied = Vec::new();
    for (role, name) in [
        (Role::Viewer, "vera"),
        (Role::Operator, "otto"),
        (Role::Admin, "anna"),
    ] {
        let user = fleet.user(name, role.into()).await;
        let controller = user.material.identity().fleet.controller();
        let channel = people::dial(fleet.address(), &user.material, controller)
            .await
            .unwrap()
            .channel;
        for rule in TABLE {
            let Err(status) = call(channel.clone(), rule.method).await else {
                assert!(role >= rule.least, "{name} may call {}", rule.method);
                continue;
            };
            let is_denied = matches!(
                status.code(),
                Code::PermissionDenied | Code::Unauthenticated
            ) && fault(status.clone()).reason == "ROLE_TOO_LOW";
            assert_eq!(
                is_denied,
                role < rule.least,
                "{name} calls {}: {status:?}",
                rule.method
            );
            assert_ne!(status.code(), Code::Unimplemented, "{}", rule.method);
            if is_denied {
                denied.push((role, rule.method.trim_start_matches("/canasta.fleet.v1.")));
            }
        }
    }
    let mut expected: Vec<_> = OPERATOR
        .iter()
        .chain(&ADMIN)
        .map(|method| (Role::Viewer, *method))
        .collect();
    expected.extend(ADMIN.map(|method| (Role::Operator, method)));
    denied.sort_unstable();
    expected.sort_unstable();
    assert_eq!(denied, expected);
    for method in VIEWER {
        assert!(
            TABLE.iter().any(|rule| rule.method.ends_with(method)),
            "{method}"
        );
    }
    // What was refused is in the audit trail, with who it was.
    let rows = fleet.admin().await.audit_rows().await;
    let refused = |row: &&pb::AuditRow| {
        row.who == "user vera" && row.outcome == "PERMISSION_DENIED ROLE_TOO_LOW"
    };
    assert_eq!(
        rows.iter().filter(refused).count(),
        OPERATOR.len() + ADMIN.len()
    );
}

#[tokio::test]
async fn the_open_stream_of_a_removed_user_is_closed() {
    let fleet = Fleet::start().await;
    let _node = fleet.joined("cp1").await;
    let admin = fleet.admin().await;
    let (_, plan) = admin
        .install(pb::InstallControlPlaneRequest {
            dry_run: true,
            ..install_on("cp1")
        })
        .await
        .unwrap();
    let mut held = fleet.probe.hold(&plan.steps[0].id, Moment::Before);
    let (operation, _) = admin.install(install_on("cp1")).await.unwrap();
    held.reached().await;

    let vera = fleet.user("vera", pb::Role::Viewer).await;
    let request = pb::WatchOperationRequest {
        id: operation.clone(),
        after_seq: 0,
    };
    let mut stream = vera
        .client
        .operations()
        .watch_operation(request)
        .await
        .unwrap()
        .into_inner();
    assert!(
        stream.message().await.unwrap().is_some(),
        "the plan comes at once"
    );
    let name = "vera".to_owned();
    admin
        .users()
        .remove_user(pb::RemoveUserRequest { name })
        .await
        .unwrap();
    let ended = async { while let Ok(Some(_)) = stream.message().await {} };
    within("the stream of the removed user to be closed", ended).await;
    held.release();
    assert_eq!(
        admin.ended(&operation).await.state(),
        pb::OperationState::Succeeded
    );
}

/// All lines that were seen when something failed.
fn lines<'a>(errors: impl IntoIterator<Item = &'a pb::ErrorReport>) -> Vec<String> {
    let evidence = errors.into_iter().flat_map(|error| &error.evidence);
    evidence
        .flat_map(|evidence| evidence.lines.clone())
        .collect()
}

fn of_events(events: &[pb::OperationEvent]) -> Vec<String> {
    let errors = events.iter().filter_map(|event| match &event.event {
        Some(Event::Failed(failed)) => failed.error.as_ref(),
        Some(Event::Ended(ended)) => ended.error.as_ref(),
        _ => None,
    });
    lines(errors)
}

fn of_operation(operation: &pb::Operation) -> Vec<String> {
    let steps = operation
        .steps
        .iter()
        .filter_map(|step| step.error.as_ref());
    lines(steps.chain(&operation.error))
}

#[tokio::test]
async fn logs_are_shown_to_operators_and_not_to_viewers() {
    let fleet = Fleet::start().await;
    let node = fleet.joined("cp1").await;
    node.k3s.set_faults(Faults {
        exit_after_ms: Some(1),
        exit_message: Some("no way to go on".to_owned()),
        ..Faults::default()
    });
    let failed = fleet.install(install_on("cp1")).await.unwrap();
    assert_eq!(failed.state(), pb::OperationState::Failed);

    let otto = fleet.user("otto", pb::Role::Operator).await.client;
    let shown = otto.operation(&failed.id).await.unwrap();
    let seen = of_operation(&shown);
    assert!(
        seen.iter().any(|line| line.contains("no way to go on")),
        "{seen:?}"
    );
    assert_eq!(of_events(&otto.events(&failed.id, 0).await.unwrap()), seen);

    let vera = fleet.user("vera", pb::Role::Viewer).await.client;
    let told = "not shown: logs need the role operator";
    let shown = vera.operation(&failed.id).await.unwrap();
    assert_eq!(of_operation(&shown), [told; 2]);
    assert_eq!(
        shown.error.as_ref().map(|error| &error.reason),
        failed.error.as_ref().map(|error| &error.reason)
    );
    let events = vera.events(&failed.id, 0).await.unwrap();
    assert_eq!(of_events(&events), [told; 2]);
    for client in [&otto, &vera] {
        let request = pb::ListOperationsRequest::default();
        let listed = client.operations().list_operations(request).await.unwrap();
        let operation = listed.into_inner().operations.remove(0);
        assert!(of_operation(&operation).is_empty(), "{operation:?}");
        assert!(operation.error.is_some());
    }
    let output = fleet
        .cli("vic", pb::Role::Viewer)
        .await
        .run(&["operation", "show", &failed.id])
        .await;
    assert!(output.stdout.contains(told), "{output:?}");
}

#[tokio::test]
async fn the_cli_says_which_role_is_needed_and_exits_with_4() {
    let fleet = Fleet::start().await;
    let _node = fleet.joined("cp1").await;
    let viewer = fleet.cli("vera", pb::Role::Viewer).await;
    let output = viewer.run(&["install", "k8s-cp", "--host", "cp1"]).await;
    assert_eq!(output.code, 4, "{output:?}");
    assert!(
        output
            .stderr
            .contains("needs the role operator, and user vera has the role viewer"),
        "{output:?}"
    );
    let operator = fleet.cli("otto", pb::Role::Operator).await;
    let output = operator
        .run(&["install", "k8s-cp", "--host", "cp1", "--adopt"])
        .await;
    assert_eq!(output.code, 4, "{output:?}");
    let output = operator.run(&["host", "list"]).await;
    assert_eq!(output.code, 0, "{output:?}");
}
