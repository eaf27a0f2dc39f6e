//! Shared storage from nothing to a class and away again, on a host of the fleet and on a server that exists.

use canasta_proto::pb;
use canasta_proto::pb::{OperationState, Role};
use canasta_tests::fleet::Fleet;
use canasta_tests::fleet::cli::{Cli, Output};
use canasta_tests::fleet::node::Node;
use canasta_tests::fleet::share::{PATH, SERVER, Share};
use http::Method;
use serde_json::{Value, json};

const CLASSES: &str = "/apis/storage.k8s.io/v1/storageclasses";
const CLASS: &str = "/apis/storage.k8s.io/v1/storageclasses/nfs";

/// A cluster of two with a driver for NFS, whose worker can export shares.
async fn ground() -> (Fleet, [Node; 2], Share) {
    let fleet = Fleet::start().await;
    let nodes = [fleet.joined("cp1").await, fleet.joined("w1").await];
    let share = Share::default();
    for node in &nodes {
        node.k3s.set_scale(0.01);
        share.give_to(node);
    }
    share.serve_from(&nodes[1]);
    fleet.cluster_of_two().await;
    Share::bring_driver(&nodes[0]).await;
    (fleet, nodes, share)
}

fn from_worker() -> pb::SetupNfsRequest {
    pb::SetupNfsRequest {
        host: "w1".to_owned(),
        share: PATH.to_owned(),
        install_server: true,
        ..pb::SetupNfsRequest::default()
    }
}

async fn get(node: &Node, path: &str) -> (u16, Value) {
    node.ask_api(Method::GET, path, &Value::Null).await
}

async fn run(cli: &Cli, words: &str) -> Output {
    let words: Vec<&str> = words.split(' ').collect();
    cli.run(&words).await
}

#[tokio::test]
async fn a_host_exports_to_the_nodes_of_its_cluster_and_the_class_comes_with_the_proof() {
    let (fleet, [control_plane, worker], share) = ground().await;
    let cli = fleet.cli("olga", Role::Operator).await;
    let plan = run(
        &cli,
        &format!("storage setup nfs --host w1 --install-server --share {PATH} --dry-run"),
    )
    .await;
    assert_eq!(plan.code, 0, "{plan:?}");
    for words in [
        &*format!("on {}:{PATH}", worker.ip),
        "NFS server: ganesha",
        "packages to install: nfs-ganesha, nfs-ganesha-vfs",
        "comes up at boot",
        "make storage class nfs",
    ] {
        assert!(plan.stdout.contains(words), "no {words}: {plan:#?}");
    }
    assert!(!worker.host.root.path("/srv/nfs").exists());
    assert!(share.clients(PATH).is_empty());

    let set_up = format!(
        "storage setup nfs --host w1 --install-server --share {PATH} --clients 10.9.0.0/24"
    );
    let done = run(&cli, &set_up).await;
    assert_eq!(done.code, 0, "{done:#?}");
    let mut nodes = [control_plane.ip, worker.ip];
    nodes.sort_unstable();
    let mut expected = vec!["10.9.0.0/24".to_owned()];
    expected.extend(nodes.iter().map(ToString::to_string));
    assert_eq!(share.clients(PATH), expected);
    let (status, class) = get(&control_plane, CLASS).await;
    assert_eq!(status, 200, "{class}");
    assert_eq!(class["parameters"]["server"], worker.ip.to_string());
    assert_eq!(class["parameters"]["share"], PATH);
    assert_eq!(class["mountOptions"], json!(["nfsvers=4.1"]));
    assert_eq!(class["reclaimPolicy"], "Delete");
    let listed = run(&cli, "storage list").await;
    let rows = listed.rows();
    let row = rows.iter().find(|row| row[1] == "nfs").expect("the class");
    assert_eq!(row[3], "instances", "{listed:#?}");
    assert!(row[8].starts_with("all 2 nodes"), "{listed:#?}");

    let again = run(&cli, &set_up).await;
    assert!(again.stderr.contains("\n0 changed, "), "{again:#?}");
    // Those that were named are kept where none is.
    let admin = fleet.admin().await;
    let kept = admin.setup_nfs(from_worker()).await.expect("planned");
    let kept = admin.ended(&kept.operation_id).await;
    assert_eq!(kept.state(), OperationState::Succeeded, "{kept:#?}");
    assert_eq!(share.clients(PATH), expected);

    // Nodes that come, at the same time too, can mount, and one that goes can't any more.
    let third = fleet.joined("w2").await;
    let fourth = fleet.joined("w3").await;
    let mut joins = Vec::new();
    for node in [&third, &fourth] {
        node.k3s.set_scale(0.01);
        share.give_to(node);
        joins.push(admin.join_worker(&node.name, "cp1").await.expect("planned"));
    }
    for join in joins {
        let joined = admin.ended(&join).await;
        assert_eq!(joined.state(), OperationState::Succeeded, "{joined:#?}");
    }
    for node in [&third, &fourth] {
        let clients = share.clients(PATH);
        assert!(clients.contains(&node.ip.to_string()), "{clients:?}");
    }
    let checked = run(&cli, "storage check").await;
    assert_eq!(checked.code, 0, "{checked:#?}");
    for name in ["w2", "w3"] {
        let (gone, _) = admin.uninstall(name, false).await.expect("planned");
        let gone = admin.ended(&gone).await;
        assert_eq!(gone.state(), OperationState::Succeeded, "{gone:#?}");
    }
    assert_eq!(share.clients(PATH), expected);

    let refused = admin.uninstall("w1", false).await.expect_err("it serves");
    assert!(
        format!("{refused:?}").contains("storage remove nfs --host w1"),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_share_that_a_host_can_not_use_gets_no_class_and_the_next_run_makes_it() {
    let (fleet, [control_plane, _worker], share) = ground().await;
    let cli = fleet.cli("olga", Role::Operator).await;
    share.block("cp1", true);
    let set_up = format!("storage setup nfs --host w1 --install-server --share {PATH}");
    let failed = run(&cli, &set_up).await;
    assert_eq!(failed.code, 1, "{failed:#?}");
    for words in [
        "can't be used from cp1",
        "NFS_PORT_BLOCKED",
        "storage setup nfs --host w1 --install-server",
    ] {
        assert!(failed.stderr.contains(words), "no {words}: {failed:#?}");
    }
    assert_eq!(get(&control_plane, CLASS).await.0, 404);
    share.block("cp1", false);
    let done = run(&cli, &set_up).await;
    assert_eq!(done.code, 0, "{done:#?}");
    assert_eq!(get(&control_plane, CLASS).await.0, 200);
}

#[tokio::test]
async fn a_server_that_exists_is_taken_and_a_moved_one_replaces_it() {
    let (fleet, [control_plane, worker], share) = ground().await;
    let cli = fleet.cli("olga", Role::Operator).await;
    let unreachable = run(
        &cli,
        &format!("storage setup nfs --server 10.77.0.8 --share {PATH}"),
    )
    .await;
    assert_eq!(unreachable.code, 1, "{unreachable:#?}");
    assert!(
        unreachable.stderr.contains("from cp1, w1")
            && unreachable.stderr.contains("NFS_NOT_A_CLIENT_OR_NO_SHARE"),
        "{unreachable:#?}"
    );
    let taken = run(
        &cli,
        &format!("storage setup nfs --server {SERVER} --share {PATH}"),
    )
    .await;
    assert_eq!(taken.code, 0, "{taken:#?}");
    let before = get(&control_plane, CLASS).await.1;
    assert_eq!(before["parameters"]["server"], SERVER);
    let moved = run(
        &cli,
        &format!("storage setup nfs --host w1 --install-server --share {PATH}"),
    )
    .await;
    assert_eq!(moved.code, 0, "{moved:#?}");
    let after = get(&control_plane, CLASS).await.1;
    assert_eq!(after["parameters"]["server"], worker.ip.to_string());
    assert_ne!(before["metadata"]["uid"], after["metadata"]["uid"]);
    drop(share);
}

#[tokio::test]
async fn what_breaks_a_rule_is_refused_with_the_next_step() {
    let (fleet, [control_plane, _worker], _share) = ground().await;
    let theirs = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {"name": "theirs"}, "provisioner": "example.org/own"});
    let (status, _) = control_plane.ask_api(Method::POST, CLASSES, &theirs).await;
    assert_eq!(status, 201);
    fleet.joined("lone").await;
    let cli = fleet.cli("olga", Role::Operator).await;
    let host = format!("--host w1 --install-server --share {PATH}");
    for (words, code, expected) in [
        (
            format!("--host w9 --install-server --share {PATH}"),
            1,
            "host 'w9' is not registered",
        ),
        (
            format!("--host lone --install-server --share {PATH}"),
            1,
            "is no node of any cluster",
        ),
        (
            format!("{host} --cluster other"),
            1,
            "cluster 'other' is not known",
        ),
        (
            format!("{host} --server {SERVER}"),
            2,
            "--server is for an NFS server that exists",
        ),
        (
            format!("--host w1 --share {PATH}"),
            2,
            "nothing says who exports the share",
        ),
        (
            format!("--server {SERVER} --share {PATH} --clients 10.9.0.1"),
            2,
            "who may mount the share",
        ),
        (format!("{host} --clients *"), 2, "IP address or a network"),
        (format!("{host} --clients 0.0.0.0/0"), 2, "too many"),
        (
            format!("{host} --storage-class-name theirs"),
            1,
            "was made by someone else",
        ),
        (
            format!("{host} --storage-class-name A_b"),
            2,
            "name of a storage class",
        ),
        (format!("{host} --backend kernel"), 1, "no NFS server"),
        (
            "--host w1 --install-server --share /srv/../etc".to_owned(),
            2,
            "without '.', '..'",
        ),
        (
            "--host w1 --install-server --share /srv/nfs/".to_owned(),
            2,
            "'/' at its end",
        ),
        (
            "--host w1 --install-server --share /srv/\"a\"".to_owned(),
            2,
            "letters, digits",
        ),
        (
            "--host w1 --install-server --share /etc".to_owned(),
            2,
            "directory of the system",
        ),
    ] {
        let told = run(&cli, &format!("storage setup nfs {words}")).await;
        assert_eq!(told.code, code, "{words}: {told:#?}");
        assert!(
            told.stderr.contains(expected),
            "{words}: no {expected}: {told:#?}"
        );
    }
    assert_eq!(get(&control_plane, CLASS).await.0, 404);
    let driver = "/apis/storage.k8s.io/v1/csidrivers/nfs.csi.k8s.io";
    let (status, _) = control_plane
        .ask_api(Method::DELETE, driver, &Value::Null)
        .await;
    assert_eq!(status, 200);
    let told = run(&cli, &format!("storage setup nfs {host}")).await;
    assert_eq!(told.code, 1, "{told:#?}");
    assert!(
        told.stderr.contains("has no driver nfs.csi.k8s.io")
            && told.stderr.contains("helm install"),
        "{told:#?}"
    );
}

#[tokio::test]
async fn a_class_goes_once_nothing_is_of_it_and_its_data_stays() {
    let (fleet, [control_plane, worker], share) = ground().await;
    let admin = fleet.admin().await;
    let begun = admin.setup_nfs(from_worker()).await.expect("planned");
    let ended = admin.ended(&begun.operation_id).await;
    assert_eq!(ended.state(), OperationState::Succeeded, "{ended:#?}");
    std::fs::write(worker.host.root.path(format!("{PATH}/precious")), "x").expect("written");
    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "pv1"},
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteMany"], "storageClassName": "nfs",
            "csi": {"driver": "nfs.csi.k8s.io", "volumeHandle": "h"}}});
    let volumes = "/api/v1/persistentvolumes";
    let (status, answer) = control_plane.ask_api(Method::POST, volumes, &volume).await;
    assert_eq!(status, 201, "{answer}");
    let cli = fleet.cli("olga", Role::Operator).await;
    let remove = format!("storage remove nfs --host w1 --share {PATH}");
    for words in [remove.clone(), "storage remove class nfs".to_owned()] {
        let refused = run(&cli, &words).await;
        assert_eq!(refused.code, 1, "{refused:#?}");
        assert!(
            refused.stderr.contains("pv1") && refused.stderr.contains("--force"),
            "{refused:#?}"
        );
    }
    let forced = run(&cli, &format!("{remove} --force")).await;
    assert_eq!(forced.code, 4, "{forced:#?}");
    let cli = fleet.cli("anna", Role::Admin).await;
    let forced = run(&cli, &format!("{remove} --force")).await;
    assert_eq!(forced.code, 0, "{forced:#?}");
    assert!(forced.stderr.contains("pv1"), "{forced:#?}");
    assert_eq!(get(&control_plane, CLASS).await.0, 404);
    assert!(share.clients(PATH).is_empty());
    assert!(worker.host.root.path(format!("{PATH}/precious")).exists());
    let again = run(&cli, &remove).await;
    assert!(again.stderr.contains("\n0 changed, "), "{again:#?}");
    let unknown = run(&cli, "storage remove class nfs").await;
    assert!(
        unknown.stderr.contains("no storage class 'nfs'"),
        "{unknown:#?}"
    );
}
