//! Local volumes on a worker whose cluster keeps them elsewhere than k3s does by itself: only the server's configuration names
//! the place, and an uninstall of the worker looks there all the same.

use std::time::Duration;

use canasta_proto::pb::{OperationState, Role};
use canasta_tests::fleet::node::Node;
use canasta_tests::fleet::{Fleet, k3s};

/// Below k3s's own directories: what lies there would go with them.
const BELOW: &str = "/var/lib/rancher/k3s/volumes";
/// Outside of them: what lies there would be overlooked.
const OUTSIDE: &str = "/srv/volumes";

/// What the operator of a server writes.
fn keep_volumes_in(server: &Node, place: &str) {
    let path = server
        .host
        .root
        .path("/etc/rancher/k3s/config.yaml.d/50-volumes.yaml");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, format!("default-local-storage-path: {place}\n")).unwrap();
}

fn put_volume(worker: &Node, volume: &str) {
    let path = worker.host.root.path(volume);
    std::fs::create_dir_all(&path).unwrap();
    std::fs::write(path.join("ibdata1"), "precious").unwrap();
}

/// The uninstall is refused for these reasons, and names what they are about.
async fn refused(fleet: &Fleet, codes: &str, named: &[&str]) {
    let admin = fleet.admin().await;
    let fault = admin.uninstall("w1", false).await.expect_err("refused");
    assert_eq!(fault.reason, "UNINSTALL_REFUSED", "{fault:?}");
    assert!(fault.message.ends_with(codes), "{fault:?}");
    let told = fault.causes.join("\n");
    for volume in named {
        assert!(told.contains(volume), "no {volume}: {told}");
    }
}

#[tokio::test]
async fn volumes_on_a_worker_are_found_where_its_cluster_keeps_them() {
    let fleet = Fleet::start().await;
    let (control_plane, worker) = (fleet.joined("cp1").await, fleet.joined("w1").await);
    for node in [&control_plane, &worker] {
        node.k3s.set_scale(0.01);
    }
    keep_volumes_in(&control_plane, OUTSIDE);
    fleet.cluster_of_two().await;
    let admin = fleet.admin().await;

    // The path is changed on the server later: what was written before stays where it was.
    let (old, new) = (
        format!("{OUTSIDE}/pvc-1f3566e8-7b06-498e-8691-945178302f48_n_db"),
        format!("{BELOW}/pvc-2_n_db"),
    );
    put_volume(&worker, &old);
    put_volume(&worker, &new);
    let theirs = format!("{OUTSIDE}/www");
    put_volume(&worker, &theirs);
    keep_volumes_in(&control_plane, BELOW);
    let systemd = control_plane.host.host().systemd;
    systemd
        .restart_no_block(k3s::UNIT)
        .await
        .expect("restarted");
    let knows_the_new_place = async || {
        let plan = admin.uninstall("w1", false).await.expect_err("refused");
        plan.causes
            .iter()
            .any(|cause| cause.contains(&new))
            .then_some(())
    };
    fleet
        .until("the cluster to tell of the new place", &knows_the_new_place)
        .await;
    refused(&fleet, ": LOCAL_DATA", &[&old, &new]).await;

    // Without the API, the place of the join is known to the agent.
    systemd
        .stop(k3s::UNIT, Duration::from_secs(20))
        .await
        .expect("stopped");
    refused(&fleet, ": CLUSTER_NOT_ASKED, LOCAL_DATA", &[&old]).await;

    systemd.start_no_block(k3s::UNIT).await.expect("started");
    fleet
        .until("the API to answer again", knows_the_new_place)
        .await;
    // What dies is told before it does, and without a yes nothing dies.
    let cli = fleet.cli("anna", Role::Admin).await;
    let asked = cli.run(&["uninstall", "k8s", "--host", "w1", "--force"]);
    let asked = asked.await;
    assert_eq!(asked.code, 2, "{asked:?}");
    let (told, refusal) = asked.stderr.split_once("error: ").expect("an error");
    let (_, lost) = told.split_once("Lost for good:").expect("the losses");
    assert!(lost.contains("2 directories"), "{asked:?}");
    assert!(lost.contains(&old) && lost.contains(&new), "{asked:?}");
    assert!(refusal.contains("without a confirmation"), "{asked:?}");

    let (id, plan) = admin.uninstall("w1", true).await.expect("begun");
    assert_eq!(plan.discard.len(), 2, "{plan:#?}");
    assert!(plan.discard.contains(&new), "{plan:#?}");
    let ended = admin.ended(&id).await;
    assert_eq!(ended.state(), OperationState::Succeeded, "{ended:#?}");
    for volume in [old, new] {
        assert!(!worker.host.root.path(&volume).exists(), "{volume}");
    }
    assert!(
        worker.host.root.path(theirs).exists(),
        "the place itself, and what else lies there, is not k3s's"
    );
}
