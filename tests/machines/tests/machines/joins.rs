//! Joins that must be refused before anything is changed, and second runs that have nothing to do.

use canasta_machines::Protocol;
use canasta_machines::fleet::{Fleet, Ran};

use super::{afterwards, closed};

/// What a join would change on a node.
fn picture(fleet: &Fleet, node: &str) -> String {
    let script = "find /etc/rancher /etc/systemd/system /usr/local/bin /var/lib/rancher -printf '%p %s %T@ %m\\n' 2>/dev/null | sort";
    fleet.run(node, &["sh", "-c", script]).ok()
}

/// Asserts a refusal with all of these words, which is told quickly and in one piece.
#[track_caller]
fn refused(ran: &Ran, words: &[&str]) {
    assert_eq!(ran.code, 1, "{}{}", ran.out, ran.err);
    for word in words {
        assert!(ran.err.contains(word), "no {word:?} in:\n{}", ran.err);
    }
    assert!(ran.err.contains("hint: "), "no hint in:\n{}", ran.err);
}

fn k3s_is_absent(fleet: &Fleet, node: &str) {
    let there = fleet.run(node, &["test", "-e", "/usr/local/bin/k3s"]);
    assert_ne!(there.code, 0, "k3s is on {node}");
}

#[test]
fn a_control_plane_that_can_t_be_joined_is_told_by_its_state() {
    let fleet = Fleet::cluster("port", &["port1"]);
    let _others = Fleet::up(&["port2", "port3"]);
    fleet.enrol("port2");
    fleet.enrol("port3");
    let before = picture(&fleet, "port2");

    let unknown = fleet.join("nowhere", &["port2"]);
    refused(
        &unknown,
        &[
            "error: host 'nowhere' is not registered",
            "canasta host add --name nowhere",
        ],
    );
    refused(
        &fleet.join("port3", &["port2"]),
        &["'port3' has no k3s", "canasta install k8s-cp --host port3"],
    );
    refused(
        &fleet.join("port1", &["port2"]),
        &["'port1' is a worker of cluster 'port'", "--cp-host"],
    );
    fleet.run("port", &["systemctl", "stop", "k3s"]).ok();
    refused(
        &fleet.join("port", &["port2"]),
        &[
            "k3s on host 'port' does not run",
            "k3s.service is",
            "systemctl start k3s",
        ],
    );
    fleet
        .run("port", &["systemctl", "stop", "canasta-agent"])
        .ok();
    fleet.until_state("port", "unreachable");
    let address = fleet.lab.address("port").expect("an address").to_string();
    refused(&fleet.join("port", &["port2"]), &["'port'", &address]);

    assert_eq!(picture(&fleet, "port2"), before);
    k3s_is_absent(&fleet, "port2");
    let clusters = fleet.asked(&["cluster", "list"]).to_string();
    assert!(!clusters.contains("port2"), "{clusters}");
}

#[test]
fn what_is_joined_stays_and_nothing_is_in_two_places() {
    let fleet = Fleet::cluster("home", &["home1"]);
    let starts = fleet.unit("home1", "k3s-agent.service", "InvocationID");
    fleet.join("home", &["home1"]).ok();
    for (step, outcome) in fleet.outcomes("home1") {
        assert!(
            outcome == "unchanged" || outcome == "skipped",
            "{step}: {outcome}"
        );
    }
    fleet.canasta(&["install", "k8s-cp", "--host", "home"]).ok();
    for (step, outcome) in fleet.outcomes("home") {
        assert_eq!(outcome, "unchanged", "{step}");
    }
    assert_eq!(
        fleet.unit("home1", "k3s-agent.service", "InvocationID"),
        starts
    );

    let other = Fleet::up(&["away"]);
    other.install("away");
    refused(
        &fleet.join("away", &["home1"]),
        &[
            "'home1' is a worker of cluster 'home'",
            "canasta uninstall k8s --host home1",
        ],
    );
    refused(
        &fleet.join("away", &["home"]),
        &["'home' is a control plane of cluster 'home'"],
    );
    refused(
        &fleet.canasta(&["install", "k8s-cp", "--host", "home1"]),
        &["'home1'", "worker"],
    );
    assert_eq!(
        fleet.unit("home1", "k3s-agent.service", "InvocationID"),
        starts
    );
}

#[test]
fn two_machines_of_one_name_or_one_id_are_refused_and_the_first_is_named() {
    let fleet = Fleet::cluster("twin", &["twin1"]);
    let _twins = Fleet::up(&["twin2", "twin3"]);
    for node in ["twin2", "twin3"] {
        fleet.enrol(node);
    }
    fleet.run("twin2", &["hostname", "twin1"]).ok();
    refused(
        &fleet.join("twin", &["twin2"]),
        &["is host 'twin1'", "hostnamectl set-hostname"],
    );
    fleet.run("twin2", &["hostname", "twin2"]).ok();

    let id = fleet.run("twin1", &["cat", "/etc/machine-id"]).ok();
    fleet
        .lab
        .write("twin3", "/etc/machine-id", id.as_bytes(), 0o444)
        .expect("written");
    refused(
        &fleet.join("twin", &["twin3"]),
        &["MACHINE_ID_TAKEN", "'twin1'", "systemd-machine-id-setup"],
    );
    for node in ["twin2", "twin3"] {
        k3s_is_absent(&fleet, node);
    }
}

#[test]
fn a_closed_port_is_found_before_the_join_with_its_direction_and_its_mend() {
    let fleet = Fleet::cluster("gate", &["gate1"]);
    let _late = Fleet::up(&["gate2"]);
    fleet.enrol("gate2");
    let _mended = afterwards(|| fleet.lab.mend().expect("mended"));
    for (from, to, protocol, port, code) in [
        ("gate2", "gate", Protocol::Tcp, 6443, "6443"),
        ("gate2", "gate", Protocol::Tcp, 10250, "10250"),
        ("gate", "gate2", Protocol::Tcp, 10250, "10250"),
        // Where flannel owns the port already, and where nobody listens yet.
        ("gate2", "gate", Protocol::Udp, 8472, "NET_VXLAN_BLOCKED"),
        ("gate", "gate2", Protocol::Udp, 8472, "NET_VXLAN_BLOCKED"),
        ("gate2", "gate1", Protocol::Udp, 8472, "NET_VXLAN_BLOCKED"),
    ] {
        fleet
            .lab
            .cut(closed(from, to, protocol, port))
            .expect("the port is closed");
        let ran = fleet.join("gate", &["gate2"]);
        let port = port.to_string();
        refused(&ran, &[code, &port, from, to, "firewall"]);
        k3s_is_absent(&fleet, "gate2");
        fleet.lab.mend().expect("mended");
    }

    fleet
        .lab
        .cut(closed("gate", "gate2", Protocol::Udp, 8472))
        .expect("the port is closed");
    let mut argv = vec![
        "install",
        "k8s-worker",
        "--host",
        "gate2",
        "--cp-host",
        "gate",
    ];
    argv.extend(["--ignore-findings", "NET_VXLAN_BLOCKED"]);
    let ignored = fleet.canasta(&argv);
    let told = format!("{}{}", ignored.out, ignored.err);
    assert!(told.contains("NET_VXLAN_BLOCKED"), "{told}");
    ignored.ok();
    assert_eq!(fleet.node_ready("gate", "gate2"), Some(true));
}
