//! What every kind of operation has to stand, one case for each of its steps: each run twice, a failure before and after
//! its work, the controller killed there, the agent killed there. The steps are those of a run, so a new one is covered by
//! itself.

use canasta_standin::trailer::Profile;
use canasta_tests::fleet::Fleet;

#[path = "injected/cases.rs"]
mod cases;
#[path = "injected/kinds.rs"]
mod kinds;

use cases::{Wrong, stand, twice};
use kinds::{Ground, Kind};

/// A control plane comes, changes and goes.
const CONTROL_PLANE: [Kind; 3] = [Kind::Install, Kind::Change, Kind::RemoveControlPlane];
/// Shared storage comes and goes.
const STORAGE: [Kind; 2] = [Kind::SetupNfs, Kind::RemoveStorage];
/// A worker comes and goes.
const WORKER: [Kind; 2] = [Kind::Join, Kind::RemoveWorker];

#[tokio::test]
async fn no_kind_of_operation_is_left_out() {
    let fleet = Fleet::start().await;
    let mut known = fleet.kinds();
    let mut tested = kinds::ALL.map(Kind::name).to_vec();
    known.sort_unstable();
    tested.sort_unstable();
    tested.dedup();
    assert_eq!(known, tested);
}

#[tokio::test]
async fn each_step_of_an_install_and_of_its_removal_can_run_twice() {
    twice(&CONTROL_PLANE, Ground::alone().await).await;
}

#[tokio::test]
async fn each_step_of_an_adoption_can_run_twice() {
    twice(&[Kind::Adopt], Ground::alone().await).await;
}

#[tokio::test]
async fn each_step_of_a_worker_s_life_can_run_twice() {
    let kinds = [
        Kind::Join,
        Kind::CheckStorage,
        Kind::Drain,
        Kind::RemoveWorker,
    ];
    // With a token that can be made again; the other profile has none to make.
    twice(&kinds, Ground::with_worker(Profile::Documented).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_install_and_its_removal_stand_a_failure_at_each_step() {
    stand(&CONTROL_PLANE, &[Wrong::StepFails], 4, Ground::alone).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_install_and_its_removal_go_on_when_the_controller_is_killed_at_each_step() {
    stand(&CONTROL_PLANE, &[Wrong::ControllerKilled], 8, Ground::alone).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_install_and_its_removal_go_on_when_the_agent_is_killed_at_each_step_and_task() {
    let wrongs = [Wrong::AgentLost, Wrong::AgentKilled];
    stand(&CONTROL_PLANE, &wrongs, 8, Ground::alone).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_install_and_its_removal_stand_a_failure_of_each_task() {
    // The tasks of a change are those of an install.
    let kinds = [Kind::Install, Kind::RemoveControlPlane];
    stand(&kinds, &[Wrong::TaskFails], 6, Ground::alone).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_adoption_stands_whatever_goes_wrong() {
    let wrongs = [
        Wrong::StepFails,
        Wrong::ControllerKilled,
        Wrong::AgentLost,
        Wrong::AgentKilled,
        Wrong::TaskFails,
    ];
    stand(&[Kind::Adopt], &wrongs, 2, Ground::alone).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_and_its_removal_stand_a_failure_at_each_step_and_task() {
    let new = || Ground::with_worker(Profile::Documented);
    let wrongs = [Wrong::StepFails, Wrong::TaskFails];
    stand(&WORKER, &wrongs, 12, new).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_and_its_removal_go_on_when_the_controller_is_killed_at_each_step() {
    // Each profile of what a join leaves: the cluster's agent token, and tokens that are to be deleted.
    for profile in [Profile::Recorded, Profile::Documented] {
        let new = move || Ground::with_worker(profile);
        stand(&WORKER, &[Wrong::ControllerKilled], 24, new).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_and_its_removal_go_on_when_the_agent_is_killed_at_each_step_and_task() {
    let new = || Ground::with_worker(Profile::Documented);
    let wrongs = [Wrong::AgentLost, Wrong::AgentKilled];
    stand(&WORKER, &wrongs, 12, new).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_stands_a_failure_and_a_killed_controller_at_each_step() {
    let new = || Ground::with_member(Profile::Documented);
    let wrongs = [Wrong::StepFails, Wrong::ControllerKilled];
    stand(&[Kind::Drain], &wrongs, 3, new).await;
}

#[tokio::test]
async fn each_step_of_shared_storage_can_run_twice() {
    let ground = Ground::with_member(Profile::Documented).await;
    twice(&STORAGE, ground).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shared_storage_is_set_up_and_removed_whatever_goes_wrong() {
    let new = || Ground::with_member(Profile::Documented);
    let wrongs = [Wrong::StepFails, Wrong::ControllerKilled];
    stand(&STORAGE, &wrongs, 8, new).await;
    stand(&STORAGE, &[Wrong::AgentLost, Wrong::AgentKilled], 2, new).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_of_storage_leaves_nothing_whatever_goes_wrong() {
    let new = || Ground::with_member(Profile::Documented);
    let kinds = [Kind::CheckStorage];
    let wrongs = [Wrong::StepFails, Wrong::ControllerKilled];
    stand(&kinds, &wrongs, 4, new).await;
    // All its tasks are of one kind, and none is begun more often than three times.
    stand(&kinds, &[Wrong::AgentLost, Wrong::AgentKilled], 2, new).await;
}
