//! Proofs of shared storage: from every host, told host by host, and never by one alone.

use canasta_proto::pb;
use canasta_proto::pb::{OperationState, Role};
use canasta_tests::fleet::Fleet;
use canasta_tests::fleet::node::Node;
use canasta_tests::fleet::share::{OTHER, PATH, SERVER, Share, proved};

/// A cluster of two whose class is on a share.
async fn ground() -> (Fleet, [Node; 2], Share) {
    let fleet = Fleet::start().await;
    let nodes = [fleet.joined("cp1").await, fleet.joined("w1").await];
    let share = Share::default();
    for node in &nodes {
        node.k3s.set_scale(0.01);
        share.give_to(node);
    }
    fleet.cluster_of_two().await;
    (fleet, nodes, share)
}

async fn list(fleet: &Fleet) -> pb::ListStorageResponse {
    let request = pb::ListStorageRequest::default();
    let listed = fleet.admin().await.storage().list_storage(request).await;
    listed.expect("listed").into_inner()
}

#[tokio::test]
async fn each_host_proves_the_share_and_one_that_can_not_is_named_with_what_to_do() {
    let (fleet, [control_plane, worker], share) = ground().await;
    let admin = fleet.admin().await;
    let none = admin.check_storage("").await.expect_err("nothing to prove");
    assert_eq!(none.reason, "NO_SHARES", "{none:?}");
    let unknown = admin.check_storage("other").await.expect_err("unknown");
    assert_eq!(unknown.reason, "CLUSTER_NOT_FOUND", "{unknown:?}");
    Share::register(&control_plane, "nfs", PATH).await;
    assert_eq!(proved(&list(&fleet).await), []);

    let begun = admin.check_storage("").await.expect("begun");
    assert_eq!(begun.hosts, ["cp1", "w1"]);
    assert_eq!(begun.shares, [format!("{SERVER}:{PATH}")]);
    assert_eq!(begun.unproved_nodes, Vec::<String>::new());
    let ended = admin.ended(&begun.operation_id).await;
    assert_eq!(ended.state(), OperationState::Succeeded, "{ended:#?}");
    assert_eq!(share.files(), Vec::<String>::new());
    let crosswise =
        [("cp1", "w1"), ("w1", "cp1")].map(|(who, whose)| (who.to_owned(), whose.to_owned()));
    assert_eq!(share.take_reads(), crosswise);
    let both = |worker_can| vec![("cp1".to_owned(), true), ("w1".to_owned(), worker_can)];
    assert_eq!(proved(&list(&fleet).await), both(true));

    share.block("w1", true);
    let cli = fleet.cli("olga", Role::Operator).await;
    let told = cli.run(&["storage", "check"]).await;
    assert_eq!(told.code, 1, "{told:?}");
    for words in [
        "error: the shared storage of cluster 'cp1' can't be used from w1",
        "w1, write: NFS_PORT_BLOCKED",
        "open TCP 2049 from this node",
        "then run `canasta storage check --cluster cp1` again",
    ] {
        assert!(told.stderr.contains(words), "no {words}: {told:#?}");
    }
    let rows = told.rows();
    let own = ("cp1".to_owned(), "cp1".to_owned());
    assert_eq!(share.take_reads(), [own], "nobody else wrote a file");
    assert_eq!(rows[1][1..], ["cp1", "yes", "yes", "yes"]);
    assert_eq!(
        rows[2][1..],
        ["w1", "NFS_PORT_BLOCKED", "not tried", "not tried"]
    );
    assert_eq!(proved(&list(&fleet).await), both(false));

    share.block("w1", false);
    let told = cli.run(&["storage", "check", "--output", "json"]).await;
    assert_eq!(told.code, 0, "{told:?}");
    assert_eq!(proved(&list(&fleet).await), both(true));
    drop(worker);
}

#[tokio::test]
async fn a_host_whose_agent_is_away_is_an_outcome_and_no_obstacle_for_others() {
    let (fleet, [control_plane, mut worker], share) = ground().await;
    Share::register(&control_plane, "nfs", PATH).await;
    worker.crash().await;
    let admin = fleet.admin().await;
    let begun = admin.check_storage("cp1").await.expect("begun");
    let ended = admin.ended(&begun.operation_id).await;
    let error = ended.error.clone().unwrap_or_default();
    assert_eq!(error.reason, "STORAGE_NOT_PROVEN", "{ended:#?}");
    assert!(
        error.causes[0].starts_with("w1, write: AGENT_UNREACHABLE"),
        "{error:#?}"
    );
    assert_eq!(error.causes.len(), 1, "{error:#?}");
    let listed = proved(&list(&fleet).await);
    assert_eq!(listed, [("cp1".to_owned(), true), ("w1".to_owned(), false)]);
    assert_eq!(share.files(), Vec::<String>::new());
}

#[tokio::test]
async fn every_share_of_a_cluster_is_proved_and_one_that_is_written_wrongly_is_told() {
    let (fleet, [control_plane, _worker], share) = ground().await;
    for (class, path) in [
        ("nfs", PATH),
        ("same", PATH),
        ("other", OTHER),
        ("wrong", "/srv/a b"),
    ] {
        Share::register(&control_plane, class, path).await;
    }
    let admin = fleet.admin().await;
    let begun = admin.check_storage("").await.expect("begun");
    assert_eq!(
        begun.shares,
        [PATH, OTHER].map(|path| format!("{SERVER}:{path}"))
    );
    let ended = admin.ended(&begun.operation_id).await;
    assert_eq!(ended.state(), OperationState::Succeeded, "{ended:#?}");
    let verdict = ended.steps.last().expect("a verdict");
    assert_eq!(verdict.outcome(), pb::StepOutcome::Warning, "{verdict:#?}");
    assert!(verdict.detail.contains("class wrong"), "{verdict:#?}");
    // Of three classes that are on two shares.
    let both = [("cp1".to_owned(), true), ("w1".to_owned(), true)];
    assert_eq!(
        proved(&list(&fleet).await),
        [both.clone(), both.clone(), both].concat()
    );
    assert_eq!(share.files(), Vec::<String>::new());
}
