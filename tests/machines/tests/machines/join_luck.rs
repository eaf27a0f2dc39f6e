//! Crashes in the middle of a join on booted nodes: of the controller at six points of one join, of the worker, and of
//! its control plane. What the join made for itself is gone afterwards.

use canasta_machines::fleet::Fleet;

use super::bad_luck::{kill_daemon, next_event, up_to};

/// Where the controller is killed, each time as soon as the step is told to have begun.
const POINTS: [&str; 6] = [
    "push-artefact",
    "install-binary",
    "join-credential",
    "start-service",
    "wait-joined",
    "wait-node-ready",
];

/// Has the stand-in behave as newer releases do, with bootstrap tokens, and take its time. A real k3s does both by itself.
fn newer_and_slow(fleet: &Fleet, node: &str, scale: f64) {
    let text = format!("profile: documented\nscale: {scale}\n");
    let path = "/etc/rancher/k3s/standin.yaml";
    let written = fleet.lab.write(node, path, text.as_bytes(), 0o644);
    written.expect("written");
}

/// The bootstrap tokens that the cluster has.
fn tokens(fleet: &Fleet, control_plane: &str) -> Vec<String> {
    let list = fleet
        .run(control_plane, &["/usr/local/bin/k3s", "token", "list"])
        .ok();
    let rows = list.lines().filter(|line| !line.starts_with("TOKEN"));
    rows.map(str::to_owned).collect()
}

/// A control plane with bootstrap tokens and a worker that has not joined.
fn prepared(control_plane: &str, worker: &str, scale: f64) -> Fleet {
    let fleet = Fleet::up(&[control_plane, worker]);
    for node in [control_plane, worker] {
        newer_and_slow(&fleet, node, scale);
    }
    fleet.install(control_plane);
    fleet.enrol(worker);
    fleet
}

/// The join ended well, or was told to have ended and a second run repairs; either way it leaves no token.
fn ends_or_is_repaired(fleet: &Fleet, control_plane: &str, worker: &str, id: &str) {
    for host in ["ctl", control_plane, worker] {
        if host == "ctl" {
            fleet.until("the controller answers", 60, || {
                fleet.canasta(&["host", "list"]).code == 0
            });
        } else {
            fleet.until_state(host, "connected");
        }
    }
    // It comes back at the end, however that is.
    fleet.canasta(&["operation", "watch", id]);
    let ended = fleet.operation(id);
    let state = ended["state"].as_str().unwrap_or_default();
    assert!(
        matches!(state, "succeeded" | "failed" | "interrupted"),
        "{ended}"
    );
    if state != "succeeded" {
        fleet.join(control_plane, &[worker]).ok();
    }
    fleet.until_ready(control_plane, worker);
    assert_eq!(tokens(fleet, control_plane), Vec::<String>::new());
}

#[test]
fn the_controller_is_killed_at_six_points_of_one_join() {
    let fleet = prepared("six", "six1", 0.2);
    let argv = [
        "install",
        "k8s-worker",
        "--host",
        "six1",
        "--cp-host",
        "six",
    ];
    let (id, mut cli) = up_to(&fleet, &argv, POINTS[0]);
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
    ends_or_is_repaired(&fleet, "six", "six1", &id);
    let operation = fleet.operation(&id);
    assert_eq!(operation["state"], "succeeded", "{operation}");
    assert_eq!(cli.child.wait().expect("ended").code(), Some(0));
}

#[test]
fn the_worker_loses_power_in_the_middle_of_its_join() {
    let fleet = prepared("mid", "mid1", 0.3);
    let argv = [
        "install",
        "k8s-worker",
        "--host",
        "mid1",
        "--cp-host",
        "mid",
    ];
    let (id, _cli) = up_to(&fleet, &argv, "wait-joined");
    // Without a word: an orderly end of k3s would be told as its failure, as it should.
    fleet.lab.kill("mid1").expect("a power cut");
    fleet.lab.start(&["mid1"]).expect("power");
    ends_or_is_repaired(&fleet, "mid", "mid1", &id);
}

#[test]
fn the_control_plane_is_rebooted_in_the_middle_of_a_join() {
    let fleet = prepared("top", "top1", 0.3);
    let argv = [
        "install",
        "k8s-worker",
        "--host",
        "top1",
        "--cp-host",
        "top",
    ];
    let (id, _cli) = up_to(&fleet, &argv, "wait-joined");
    fleet.lab.reboot("top").expect("a reboot");
    ends_or_is_repaired(&fleet, "top", "top1", &id);
}
