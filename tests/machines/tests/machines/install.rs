//! The main job: a control plane on a booted node, from the packages.

use canasta_machines::fleet::Fleet;

#[test]
fn a_control_plane_is_installed_and_a_second_run_changes_nothing() {
    let fleet = Fleet::up(&["cp1"]);
    fleet.install("cp1");

    let nodes = fleet.nodes("cp1");
    assert_eq!(nodes.len(), 1, "{nodes:?}");
    assert_eq!(nodes[0]["name"], "cp1");
    assert_eq!(nodes[0]["role"], "control-plane");
    assert_eq!(nodes[0]["ready"], true);
    assert_eq!(nodes[0]["agent"]["source"], "agent on cp1");
    // As someone on the node sees it.
    let seen = fleet.run("cp1", &["kubectl", "get", "nodes"]).ok();
    assert!(
        seen.lines()
            .any(|line| line.starts_with("cp1 ") && line.contains(" Ready ")),
        "{seen}"
    );
    assert_eq!(fleet.unit("cp1", "k3s.service", "ActiveState"), "active");
    assert_eq!(fleet.unit("cp1", "k3s.service", "UnitFileState"), "enabled");

    let run = fleet.unit("cp1", "k3s.service", "InvocationID");
    fleet.canasta(&["install", "k8s-cp", "--host", "cp1"]).ok();
    assert_eq!(
        fleet.unit("cp1", "k3s.service", "InvocationID"),
        run,
        "k3s was restarted"
    );
    for (step, outcome) in fleet.outcomes("cp1") {
        assert_eq!(outcome, "unchanged", "{step}");
    }
}

#[test]
fn files_have_the_modes_that_they_need_and_secrets_stay_home() {
    let fleet = Fleet::up(&["cp1"]);
    fleet.install("cp1");
    let mode = |node: &str, path: &str| {
        fleet
            .run(node, &["stat", "-c", "%a %U:%G", path])
            .ok()
            .trim()
            .to_owned()
    };
    assert_eq!(mode("cp1", "/etc/rancher/k3s/config.yaml"), "600 root:root");
    assert_eq!(mode("cp1", "/etc/rancher/k3s/k3s.yaml"), "600 root:root");
    assert_eq!(
        mode("cp1", "/etc/systemd/system/k3s.service"),
        "644 root:root"
    );
    assert_eq!(mode("cp1", "/usr/local/bin/k3s"), "755 root:root");
    assert_eq!(mode("cp1", "/var/lib/canasta-agent"), "700 root:root");
    assert_eq!(
        mode("ctl", "/var/lib/canasta-controller"),
        "700 canasta-controller:canasta-controller"
    );
    assert_eq!(
        mode("ctl", "/run/canasta/controller.sock"),
        "660 canasta-controller:canasta"
    );

    // The server's token must stand in no journal, no record of the agent, and nowhere on the controller.
    let token = fleet
        .run("cp1", &["cat", "/var/lib/rancher/k3s/server/token"])
        .ok();
    let secret = token
        .trim()
        .rsplit(':')
        .next()
        .expect("a secret")
        .to_owned();
    for (node, argv) in [
        (
            "cp1",
            &["journalctl", "-u", "canasta-agent", "--no-pager"][..],
        ),
        (
            "ctl",
            &["journalctl", "-u", "canasta-controller", "--no-pager"][..],
        ),
    ] {
        assert!(!fleet.run(node, argv).ok().contains(&secret), "{node}");
    }
    for (node, directory) in [
        ("cp1", "/var/lib/canasta-agent"),
        ("ctl", "/var/lib/canasta-controller"),
    ] {
        let found = fleet.run(node, &["grep", "-rlaF", &secret, directory]);
        assert_eq!(found.code, 1, "{node}: {}{}", found.out, found.err);
    }
}

#[test]
fn what_was_deleted_is_repaired_and_only_that() {
    let fleet = Fleet::up(&["cp1"]);
    fleet.install("cp1");
    let run = fleet.unit("cp1", "k3s.service", "InvocationID");
    fleet.run("cp1", &["rm", "/usr/local/bin/kubectl"]).ok();
    fleet.canasta(&["install", "k8s-cp", "--host", "cp1"]).ok();
    fleet
        .run("cp1", &["test", "-L", "/usr/local/bin/kubectl"])
        .ok();
    for (step, outcome) in fleet.outcomes("cp1") {
        let expected = if step == "link-tools" {
            "repaired"
        } else {
            "unchanged"
        };
        assert_eq!(outcome, expected, "{step}");
    }
    assert_eq!(
        fleet.unit("cp1", "k3s.service", "InvocationID"),
        run,
        "k3s was restarted"
    );
}

#[test]
fn a_dry_run_changes_nothing() {
    let fleet = Fleet::up(&["dry"]);
    fleet.enrol("dry");
    // Also what is written anew with the same content shows, by its time.
    let listing = || {
        let script = "set -e; find \"$@\" -printf '%p %s %T@ %m\\n' | sort; \
            find \"$@\" -type f -exec sha256sum {} + | sort";
        let mut argv = vec!["sh", "-c", script, "sh"];
        argv.extend(["/etc", "/usr/local", "/var/lib/canasta-agent"]);
        fleet.run("dry", &argv).ok()
    };
    let before = listing();
    let plan = fleet.asked(&["install", "k8s-cp", "--host", "dry", "--dry-run"]);
    assert_eq!(plan["operation_id"], serde_json::Value::Null);
    assert_eq!(plan["cluster"], "dry");
    assert!(!plan["steps"].as_array().expect("steps").is_empty());
    assert_eq!(listing(), before);
    assert_ne!(
        fleet.run("dry", &["test", "-e", "/var/lib/rancher"]).code,
        0
    );
}

#[test]
fn a_reboot_is_survived() {
    let fleet = Fleet::up(&["cp1"]);
    fleet.install("cp1");
    fleet.lab.reboot("cp1").expect("a reboot");
    fleet.until_state("cp1", "connected");
    fleet.until("the node is ready again", 120, || {
        fleet
            .nodes("cp1")
            .first()
            .is_some_and(|node| node["ready"] == true)
    });
}
