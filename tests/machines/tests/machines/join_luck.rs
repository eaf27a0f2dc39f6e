//! Crashes in the middle of a join on booted nodes: of the controller at six points of one join, of the worker, and of
//! its control plane. What the join made for itself is gone afterwards.

use canasta_machines::fleet::Fleet;
use serde_json::Value;

use super::bad_luck::{ended_or_repaired, kill_daemon, next_event, up_to};

/// Where the controller is killed, each time as soon as the step is told to have begun.
const POINTS: [&str; 6] = [
    "push-artefact",
    "install-binary",
    "join-credential",
    "start-service",
    "wait-joined",
    "wait-node-ready",
];

/// The bootstrap tokens that the cluster has.
fn tokens(fleet: &Fleet, control_plane: &str) -> Vec<String> {
    let list = fleet
        .run(control_plane, &["/usr/local/bin/k3s", "token", "list"])
        .ok();
    let rows = list.lines().filter(|line| !line.starts_with("TOKEN"));
    rows.map(str::to_owned).collect()
}

/// A control plane with bootstrap tokens and a worker that has not joined, both slow.
fn prepared(control_plane: &str, worker: &str, scale: f64) -> Fleet {
    let fleet = Fleet::up(&[control_plane, worker]);
    for node in [control_plane, worker] {
        fleet.standin_behaves(node, &format!("profile: documented\nscale: {scale}\n"));
    }
    fleet.install(control_plane);
    fleet.enrol(worker);
    fleet
}

/// The command that joins a worker.
fn joining<'a>(control_plane: &'a str, worker: &'a str) -> [&'a str; 6] {
    [
        "install",
        "k8s-worker",
        "--host",
        worker,
        "--cp-host",
        control_plane,
    ]
}

/// The worker is Ready in the end, at once or after a second run; either way no token is left. Returns the operation.
fn ends_or_is_repaired(fleet: &Fleet, control_plane: &str, worker: &str, id: &str) -> Value {
    let again = joining(control_plane, worker);
    let ended = ended_or_repaired(fleet, id, &[control_plane, worker], &again);
    fleet.until_ready(control_plane, worker);
    assert_eq!(tokens(fleet, control_plane), Vec::<String>::new());
    ended
}

/// Strikes while the node is waited for that has begun to join.
fn struck(control_plane: &str, worker: &str, blow: impl FnOnce(&Fleet)) {
    let fleet = prepared(control_plane, worker, 0.3);
    let (id, _cli) = up_to(&fleet, &joining(control_plane, worker), "wait-joined");
    blow(&fleet);
    ends_or_is_repaired(&fleet, control_plane, worker, &id);
}

#[test]
fn the_controller_is_killed_at_six_points_of_one_join() {
    let fleet = prepared("six", "six1", 0.2);
    let (id, mut cli) = up_to(&fleet, &joining("six", "six1"), POINTS[0]);
    let mut left = POINTS[1..].to_vec();
    kill_daemon(&fleet, "ctl", "canasta-controller");
    // One command sees it all: it finds the controller again each time.
    while let Some(event) = next_event(&mut cli) {
        if event["event"] == "started"
            && let Some(at) = left.iter().position(|point| event["step"] == *point)
        {
            left.remove(at);
            kill_daemon(&fleet, "ctl", "canasta-controller");
        }
    }
    assert!(left.is_empty(), "never came to {left:?}");
    let operation = ends_or_is_repaired(&fleet, "six", "six1", &id);
    assert_eq!(operation["state"], "succeeded", "{operation}");
    assert_eq!(cli.child.wait().expect("ended").code(), Some(0));
}

#[test]
fn the_worker_loses_power_in_the_middle_of_its_join() {
    struck("mid", "mid1", |fleet| {
        fleet.lab.kill("mid1").expect("a power cut");
        fleet.lab.start(&["mid1"]).expect("power");
    });
}

#[test]
fn the_worker_is_rebooted_in_the_middle_of_its_join() {
    struck("orderly", "orderly1", |fleet| {
        fleet.lab.reboot("orderly1").expect("a reboot");
    });
}

#[test]
fn the_control_plane_is_rebooted_in_the_middle_of_a_join() {
    struck("top", "top1", |fleet| {
        fleet.lab.reboot("top").expect("a reboot");
    });
}
