//! What is said to be gone for good, and is not.

use canasta_proto::pb;
use canasta_proto::pb::OperationState;
use canasta_tests::fleet::Fleet;
use canasta_tests::fleet::client::fault;

#[tokio::test]
async fn a_worker_that_answers_stays_also_when_the_controller_has_just_been_started() {
    let (mut fleet, _control_plane, _worker) = Fleet::with_worker().await;
    let admin = fleet.admin().await;
    let join = admin.join_worker("w1", "cp1").await.unwrap();
    assert_eq!(admin.ended(&join).await.state(), OperationState::Succeeded);

    // Nobody has been dialled yet after a restart.
    fleet.crash().await;
    fleet.restart().await;
    let admin = fleet.admin().await;
    let forget = pb::ForgetClusterRequest {
        name: "cp1".to_owned(),
    };
    let alive = fault(admin.clusters().forget_cluster(forget).await.unwrap_err());
    assert_eq!(alive.reason, "CLUSTER_ALIVE", "{alive:?}");

    fleet.crash().await;
    fleet.restart().await;
    let admin = fleet.admin().await;
    let remove = pb::RemoveHostRequest {
        name: "w1".to_owned(),
        force: true,
    };
    let stays = fault(admin.hosts().remove_host(remove).await.unwrap_err());
    assert_eq!(stays.reason, "HOST_IN_CLUSTER", "{stays:?}");
    assert!(
        stays.hint.ends_with("canasta uninstall k8s --host w1"),
        "{stays:?}"
    );
}
