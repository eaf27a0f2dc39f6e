//! Nodes that are not fit for k3s, and a k3s that does not come up, on booted nodes.

use canasta_machines::fleet::{Fleet, default_version, standin};
use canasta_machines::needs;

use super::afterwards;

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

/// Has k3s installed by hand, as its own installer leaves it.
fn install_by_hand(fleet: &Fleet, node: &str) {
    let url = fleet.lab.release_url(&default_version());
    let binary = "/usr/local/bin/k3s";
    fleet.run(node, &["curl", "-fsS", "-o", binary, &url]).ok();
    fleet.run(node, &["chmod", "755", binary]).ok();
    let unit = "[Service]\nType=notify\nExecStart=/usr/local/bin/k3s server\nKillMode=process\nDelegate=yes\n\
        TimeoutStartSec=0\n\n[Install]\nWantedBy=multi-user.target\n";
    let path = "/etc/systemd/system/k3s.service";
    fleet
        .lab
        .write(node, path, unit.as_bytes(), 0o644)
        .expect("written");
    fleet
        .run(node, &["systemctl", "enable", "--now", "k3s"])
        .ok();
}

#[test]
fn a_k3s_of_somebody_else_is_refused_and_can_be_adopted_as_it_is() {
    let fleet = Fleet::up(&["foreign"]);
    fleet.enrol("foreign");
    install_by_hand(&fleet, "foreign");
    let picture = || {
        let script = "find /etc/rancher /etc/systemd/system /usr/local/bin -printf '%p %s %T@ %m\\n' | sort; \
            sha256sum /usr/local/bin/k3s";
        let files = fleet.run("foreign", &["sh", "-c", script]).ok();
        (files, fleet.unit("foreign", "k3s.service", "InvocationID"))
    };
    // k3s writes some of its files after it is ready.
    fleet.until("k3s is up", 120, || {
        fleet
            .run(
                "foreign",
                &["/usr/local/bin/k3s", "kubectl", "get", "nodes"],
            )
            .out
            .contains(" Ready ")
    });
    let before = picture();
    let refused = fleet.canasta(&["install", "k8s-cp", "--host", "foreign"]);
    assert_eq!(refused.code, 1, "{}", refused.err);
    for part in [
        "a k3s that this fleet did not install",
        "k3s.service",
        "--adopt",
        "uninstall",
    ] {
        assert!(refused.err.contains(part), "{part}: {}", refused.err);
    }
    assert_eq!(picture(), before);

    fleet
        .canasta(&["install", "k8s-cp", "--host", "foreign", "--adopt"])
        .ok();
    assert_eq!(picture(), before, "adopting changed something");
    let shown = fleet.asked(&["cluster", "show", "foreign"]);
    assert_eq!(shown["clusters"][0]["adopted"], true, "{shown}");
    fleet.until("the cluster is seen through its API", 30, || {
        fleet
            .nodes("foreign")
            .first()
            .is_some_and(|node| node["ready"] == true)
    });
}

/// Tells the stand-in on a node to misbehave from its next start on.
fn misbehave(fleet: &Fleet, node: &str, faults: &str) {
    let path = "/etc/rancher/k3s/standin.yaml";
    let text = format!("faults:\n{faults}");
    fleet
        .lab
        .write(node, path, text.as_bytes(), 0o644)
        .expect("written");
}

fn behave(fleet: &Fleet, node: &str) {
    fleet
        .run(node, &["rm", "/etc/rancher/k3s/standin.yaml"])
        .ok();
}

#[test]
fn a_k3s_that_never_gets_ready_is_told_with_its_journal_and_a_second_run_repairs() {
    let test = "a_k3s_that_never_gets_ready_is_told_with_its_journal_and_a_second_run_repairs";
    if !needs(test, &[standin()]) {
        return;
    }
    let fleet = Fleet::up(&["unready"]);
    fleet.enrol("unready");
    let settings = "/etc/canasta/controller.toml";
    let own = fleet.lab.read("ctl", settings).expect("settings");
    let restart = || fleet.run("ctl", &["systemctl", "restart", "canasta-controller"]);
    let restored = afterwards(|| {
        drop(fleet.lab.write("ctl", settings, &own, 0o644));
        restart();
    });
    let mut impatient = own.clone();
    impatient.extend_from_slice(b"\n[timings]\nnode_ready_seconds = 5\n");
    fleet
        .lab
        .write("ctl", settings, &impatient, 0o644)
        .expect("written");
    restart().ok();
    fleet.until_state("unready", "connected");

    misbehave(&fleet, "unready", "  node_never_ready: true\n");
    let failed = fleet.canasta(&["install", "k8s-cp", "--host", "unready"]);
    assert_eq!(failed.code, 1, "{}", failed.err);
    for part in [
        "did not become Ready within 5 s",
        "KubeletNotReady",
        "Starting k3s",
    ] {
        assert!(failed.err.contains(part), "{part}: {}", failed.err);
    }
    drop(restored);
    behave(&fleet, "unready");
    fleet.run("unready", &["systemctl", "restart", "k3s"]).ok();
    fleet.until_state("unready", "connected");
    fleet
        .canasta(&["install", "k8s-cp", "--host", "unready"])
        .ok();
}

#[test]
fn a_k3s_that_exits_is_told_with_its_journal_and_the_cause_and_a_second_run_repairs() {
    let test = "a_k3s_that_exits_is_told_with_its_journal_and_the_cause_and_a_second_run_repairs";
    if !needs(test, &[standin()]) {
        return;
    }
    let fleet = Fleet::up(&["exits"]);
    fleet.enrol("exits");
    misbehave(
        &fleet,
        "exits",
        "  exit_after_ms: 1\n  exit_message: 'starting kubernetes: preparing server: init cluster datastore and \
         https: listen tcp :6443: bind: address already in use'\n",
    );
    let failed = fleet.canasta(&["install", "k8s-cp", "--host", "exits"]);
    assert_eq!(failed.code, 1, "{}", failed.err);
    for part in ["k3s.service", "bind: address already in use", "PORT_TAKEN"] {
        assert!(failed.err.contains(part), "{part}: {}", failed.err);
    }
    behave(&fleet, "exits");
    fleet
        .canasta(&["install", "k8s-cp", "--host", "exits"])
        .ok();
}
