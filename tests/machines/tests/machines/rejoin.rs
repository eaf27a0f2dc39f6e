//! Workers that come back: after a restart, after a reboot, and under the same name after an uninstall, a new operating
//! system, or the deletion of their Node by hand.

use canasta_machines::fleet::Fleet;

/// What a server logs of a Node whose password is not the one that it keeps.
const REJECTED: &str = "password rejected";

/// The worker comes back Ready by itself after a restart of k3s and after a reboot, whatever became of its credential.
fn comes_back(fleet: &Fleet, cluster: &str, worker: &str) {
    let kept = fleet.run(
        worker,
        &[
            "find",
            "/etc/rancher",
            "-name",
            "*token*",
            "-printf",
            "%m\\n",
        ],
    );
    assert!(kept.ok().lines().all(|mode| mode == "600"));
    let seen = |what: &str, before: &str| {
        fleet.until(
            &format!("a Node of {worker} that is Ready, {what}"),
            120,
            || {
                let run = fleet.unit(worker, "k3s-agent.service", "InvocationID");
                run != before && fleet.node_ready(cluster, worker) == Some(true)
            },
        );
    };
    let before = fleet.unit(worker, "k3s-agent.service", "InvocationID");
    fleet
        .run(worker, &["systemctl", "restart", "k3s-agent"])
        .ok();
    seen("after a restart", &before);
    let before = fleet.unit(worker, "k3s-agent.service", "InvocationID");
    fleet.lab.reboot(worker).expect("a reboot");
    fleet.until_state(worker, "connected");
    seen("after a reboot", &before);
}

#[test]
fn a_worker_with_the_cluster_s_agent_token_survives_a_restart_and_a_reboot() {
    let fleet = Fleet::cluster("back", &["back1"]);
    comes_back(&fleet, "back", "back1");
}

#[test]
fn a_worker_whose_bootstrap_token_is_gone_survives_a_restart_and_a_reboot() {
    let fleet = Fleet::up(&["boot", "boot1"]);
    for node in ["boot", "boot1"] {
        fleet.standin_behaves(node, "profile: documented\n");
    }
    fleet.install("boot");
    fleet.enrol("boot1");
    fleet.join("boot", &["boot1"]).ok();
    let tokens = fleet.run("boot", &["/usr/local/bin/k3s", "token", "list"]);
    let tokens = tokens.ok();
    assert!(
        tokens.lines().all(|line| line.starts_with("TOKEN")),
        "{tokens}"
    );
    comes_back(&fleet, "boot", "boot1");
}

/// Takes everything of a node as a new operating system does: only its name and address stay.
fn reinstall(fleet: &Fleet, node: &str) {
    let script = "set -e
        systemctl disable --now k3s-agent canasta-agent
        rm -rf /etc/rancher /var/lib/rancher /var/lib/kubelet /var/lib/cni /etc/cni /var/log/pods /var/log/containers
        rm -rf /usr/local/bin/k3s /usr/local/bin/kubectl /usr/local/bin/crictl /usr/local/bin/ctr
        rm -rf /etc/systemd/system/k3s-agent.service* /etc/systemd/network/*canasta* /var/lib/canasta-agent
        rm -f /etc/machine-id /var/lib/dbus/machine-id
        systemd-machine-id-setup
        systemctl enable canasta-agent";
    fleet.run(node, &["sh", "-c", script]).ok();
    fleet.lab.reboot(node).expect("a reboot");
}

#[test]
fn a_name_is_used_again_after_an_uninstall_a_new_system_and_a_deleted_node() {
    let fleet = Fleet::cluster("name", &["name1"]);

    fleet.uninstall("name1", &[]).ok();
    fleet.join("name", &["name1"]).ok();
    assert_eq!(fleet.node_ready("name", "name1"), Some(true));

    // Deleted by hand: k3s registers a Node when it starts, so the one that runs is restarted.
    let run = fleet.unit("name1", "k3s-agent.service", "InvocationID");
    fleet.kubectl("name", &["delete", "node", "name1"]).ok();
    fleet.join("name", &["name1"]).ok();
    assert_eq!(fleet.node_ready("name", "name1"), Some(true));
    assert_ne!(
        fleet.unit("name1", "k3s-agent.service", "InvocationID"),
        run
    );

    reinstall(&fleet, "name1");
    fleet.until_state("name1", "unreachable");
    fleet.enrol("name1");
    fleet.until("the Node of before is seen to be gone", 120, || {
        fleet.node_ready("name", "name1") != Some(true)
    });
    fleet.join("name", &["name1"]).ok();
    assert_eq!(fleet.node_ready("name", "name1"), Some(true));

    let journal = fleet.run("name", &["journalctl", "--no-pager", "-u", "k3s"]);
    let journal = journal.ok().to_lowercase();
    let rejected = journal.lines().find(|line| line.contains(REJECTED));
    assert_eq!(rejected, None);
}
