//! Crashes, cuts and full disks on booted nodes. The same at every step is tested with the fleet in one process.

use std::io::{BufRead as _, BufReader};

use serde_json::Value;

use canasta_machines::fleet::Fleet;

/// Starts an install and returns its id when `step` has begun.
fn install_up_to(fleet: &Fleet, node: &str, step: &str) -> String {
    let mut cli = fleet.start(&["install", "k8s-cp", "--host", node, "--output", "json"]);
    let out = BufReader::new(cli.stdout.take().expect("a pipe"));
    let mut id = None;
    for line in out.lines() {
        let event: Value = serde_json::from_str(&line.expect("a line")).expect("JSON");
        if event["event"] == "started" && event["step"] == step {
            id = event["operation_id"].as_str().map(str::to_owned);
            break;
        }
    }
    // The CLI is killed on top of it all: the operation does not depend on it.
    cli.kill().expect("killed");
    cli.wait().expect("ended");
    id.unwrap_or_else(|| panic!("the step {step} never began"))
}

/// Waits for the end of the operation; runs the command again when it did not end well; then all must be whole.
fn ends_or_is_repaired(fleet: &Fleet, node: &str, id: &str) {
    let state = || {
        let shown = fleet.canasta(&["operation", "show", id, "--output", "json"]);
        if shown.code != 0 {
            return "unknown".to_owned();
        }
        shown.json()["operation"]["state"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    fleet.until("the operation ends", 180, || {
        matches!(state().as_str(), "succeeded" | "failed" | "interrupted")
    });
    if state() != "succeeded" {
        fleet.until_state(node, "connected");
        fleet.canasta(&["install", "k8s-cp", "--host", node]).ok();
    }
    let nodes = fleet.nodes(node);
    assert_eq!(nodes[0]["ready"], true, "{nodes:?}");
    // Nothing half done is left behind.
    let staged = fleet
        .run(node, &["find", "/usr/local/bin", "-name", "*canasta-k3s*"])
        .ok();
    assert_eq!(staged, "");
}

fn kill_unit(fleet: &Fleet, node: &str, unit: &str) {
    fleet
        .run(
            node,
            &[
                "systemctl",
                "kill",
                "--kill-who",
                "main",
                "--signal",
                "KILL",
                unit,
            ],
        )
        .ok();
}

#[test]
fn the_controller_is_killed_while_it_pushes() {
    let fleet = Fleet::up(&["luck1"]);
    fleet.enrol("luck1");
    let id = install_up_to(&fleet, "luck1", "push-artefact");
    kill_unit(&fleet, "ctl", "canasta-controller");
    ends_or_is_repaired(&fleet, "luck1", &id);
}

#[test]
fn the_controller_is_killed_while_the_node_gets_ready() {
    let fleet = Fleet::up(&["luck2"]);
    fleet.enrol("luck2");
    let id = install_up_to(&fleet, "luck2", "wait-node-ready");
    kill_unit(&fleet, "ctl", "canasta-controller");
    ends_or_is_repaired(&fleet, "luck2", &id);
}

#[test]
fn the_agent_is_killed_while_it_writes_the_configuration() {
    let fleet = Fleet::up(&["luck3"]);
    fleet.enrol("luck3");
    let id = install_up_to(&fleet, "luck3", "write-config");
    kill_unit(&fleet, "luck3", "canasta-agent");
    ends_or_is_repaired(&fleet, "luck3", &id);
}

#[test]
fn the_agent_is_killed_while_k3s_starts() {
    let fleet = Fleet::up(&["luck4"]);
    fleet.enrol("luck4");
    let id = install_up_to(&fleet, "luck4", "wait-api");
    kill_unit(&fleet, "luck4", "canasta-agent");
    ends_or_is_repaired(&fleet, "luck4", &id);
}

#[test]
fn the_node_loses_power_while_k3s_starts() {
    let fleet = Fleet::up(&["luck5"]);
    fleet.enrol("luck5");
    let id = install_up_to(&fleet, "luck5", "start-service");
    fleet.lab.kill("luck5").expect("a power cut");
    fleet.lab.start(&["luck5"]).expect("power");
    ends_or_is_repaired(&fleet, "luck5", &id);
}

#[test]
fn a_full_disk_is_told_with_path_and_space_and_repaired_by_a_second_run() {
    let fleet = Fleet::up(&["full"]);
    fleet.enrol("full");
    fleet
        .run(
            "full",
            &[
                "mount",
                "-t",
                "tmpfs",
                "-o",
                "size=64k",
                "tmpfs",
                "/usr/local/bin",
            ],
        )
        .ok();
    let failed = fleet.canasta(&["install", "k8s-cp", "--host", "full"]);
    assert_eq!(failed.code, 1, "{}", failed.err);
    assert!(failed.err.contains("/usr/local/bin"), "{}", failed.err);
    assert!(
        failed.err.contains("full") || failed.err.contains("space"),
        "{}",
        failed.err
    );
    fleet.run("full", &["umount", "/usr/local/bin"]).ok();
    fleet.canasta(&["install", "k8s-cp", "--host", "full"]).ok();
}

#[test]
fn a_full_disk_of_the_controller_is_told_with_path_and_space() {
    let fleet = Fleet::up(&["starved"]);
    fleet.enrol("starved");
    let artefacts = "/var/lib/canasta-controller/artefacts";
    fleet.run("ctl", &["mkdir", "-p", artefacts]).ok();
    fleet
        .run(
            "ctl",
            &[
                "mount",
                "-t",
                "tmpfs",
                "-o",
                "size=64k,mode=777",
                "tmpfs",
                artefacts,
            ],
        )
        .ok();
    // As the controller made it on the disk that it has.
    fleet
        .run(
            "ctl",
            &["mkdir", "--mode", "777", &format!("{artefacts}/partial")],
        )
        .ok();
    let failed = fleet.canasta(&["install", "k8s-cp", "--host", "starved"]);
    fleet.run("ctl", &["umount", artefacts]).ok();
    assert_eq!(failed.code, 1, "{}", failed.err);
    assert!(failed.err.contains(artefacts), "{}", failed.err);
    assert!(failed.err.contains("are free"), "{}", failed.err);
    fleet
        .canasta(&["install", "k8s-cp", "--host", "starved"])
        .ok();
}

#[test]
fn a_read_only_file_system_is_told_with_its_path() {
    let fleet = Fleet::up(&["readonly"]);
    fleet.enrol("readonly");
    fleet
        .run(
            "readonly",
            &[
                "mount",
                "-t",
                "tmpfs",
                "-o",
                "ro",
                "tmpfs",
                "/usr/local/bin",
            ],
        )
        .ok();
    let failed = fleet.canasta(&["install", "k8s-cp", "--host", "readonly"]);
    assert_eq!(failed.code, 1, "{}", failed.err);
    assert!(failed.err.contains("/usr/local/bin"), "{}", failed.err);
    assert!(failed.err.contains("read-only"), "{}", failed.err);
    fleet.run("readonly", &["umount", "/usr/local/bin"]).ok();
    fleet
        .canasta(&["install", "k8s-cp", "--host", "readonly"])
        .ok();
}

#[test]
fn a_taken_port_is_found_before_anything_is_changed_and_its_holder_named() {
    let fleet = Fleet::up(&["taken"]);
    fleet.enrol("taken");
    fleet
        .run(
            "taken",
            &[
                "systemd-run",
                "--unit",
                "squatter",
                "systemd-socket-activate",
                "--listen",
                "6443",
                "/bin/cat",
            ],
        )
        .ok();
    fleet.until("the port is taken", 10, || {
        !fleet
            .run("taken", &["ss", "-Hltn", "sport", "=", ":6443"])
            .ok()
            .is_empty()
    });
    let refused = fleet.canasta(&["install", "k8s-cp", "--host", "taken"]);
    assert_eq!(refused.code, 1, "{}", refused.err);
    assert!(refused.err.contains("6443"), "{}", refused.err);
    assert!(refused.err.contains("systemd-socket"), "{}", refused.err);
    assert_ne!(
        fleet
            .run("taken", &["test", "-e", "/usr/local/bin/k3s"])
            .code,
        0
    );
    fleet.run("taken", &["systemctl", "stop", "squatter"]).ok();
}

#[test]
fn a_damaged_database_is_refused_by_name_and_never_replaced() {
    let fleet = Fleet::up(&["cp1"]);
    let database = "/var/lib/canasta-controller/fleet.db";
    let log = || {
        fleet
            .run(
                "ctl",
                &[
                    "journalctl",
                    "-u",
                    "canasta-controller",
                    "-n",
                    "30",
                    "--no-pager",
                ],
            )
            .ok()
    };
    let stopped = |fleet: &Fleet| {
        fleet
            .run("ctl", &["systemctl", "stop", "canasta-controller"])
            .ok()
    };
    let started = |fleet: &Fleet| {
        fleet
            .run(
                "ctl",
                &["systemctl", "start", "--no-block", "canasta-controller"],
            )
            .ok()
    };
    stopped(&fleet);
    fleet
        .run("ctl", &["cp", "-a", database, "/root/fleet.db"])
        .ok();
    let cases: [&[&str]; 2] = [&["truncate", "-s", "1000", database], &["rm", database]];
    for damage in cases {
        fleet.run("ctl", damage).ok();
        started(&fleet);
        fleet.until("it refuses, and says which file", 20, || {
            log().contains("fleet.db")
        });
        assert_ne!(fleet.canasta(&["host", "list"]).code, 0);
        stopped(&fleet);
    }
    fleet
        .run("ctl", &["cp", "-a", "/root/fleet.db", database])
        .ok();
    started(&fleet);
    fleet.until("it runs again", 30, || {
        fleet.canasta(&["host", "list"]).code == 0
    });
}
