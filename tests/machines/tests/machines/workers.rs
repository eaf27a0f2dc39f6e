//! The life of a cluster with workers: two join in one call, one is drained, uninstalled and joins again, and in the end
//! nothing is left. What an uninstall must not touch is planted before.

use canasta_machines::fleet::{Fleet, images};
use canasta_machines::needs;
use serde_json::{Value, json};

/// What an uninstall ends with where nothing is left.
const NOTHING_LEFT: &str = "nothing left";

/// A worker's own account of the cluster's secrets must be as short as its version allows.
fn assert_no_readable_credential(fleet: &Fleet, worker: &str) {
    let script = "find /etc/rancher /var/lib/rancher/k3s/agent /var/lib/canasta-agent -name '*token*' -printf '%p %m %U\\n'";
    let found = fleet.run(worker, &["sh", "-c", script]).ok();
    for line in found.lines() {
        assert!(line.ends_with(" 600 0"), "{worker}: {line}");
    }
    let config = fleet.run(worker, &["cat", "/etc/rancher/k3s/config.yaml"]);
    for line in config.ok().lines() {
        let inline = line.starts_with("token:") || line.starts_with("agent-token:");
        assert!(!inline, "{worker}: a secret in the configuration");
    }
}

/// A link, a chain with a rule in each family, a mount and files that are nobody's business.
fn plant(fleet: &Fleet, node: &str) {
    let script = "set -e
        ip link add vxlan77 type vxlan id 77 dstport 4790 dev host0
        ip link add kube-lookalike type bridge
        for family in iptables ip6tables; do
            $family -N MY-KUBE-RULES
            $family -A MY-KUBE-RULES -j RETURN
            $family -A FORWARD -j MY-KUBE-RULES
        done
        iptables -t nat -N CNI-OF-ANOTHER
        iptables -t nat -A POSTROUTING -s 192.0.2.0/24 -j RETURN
        mkdir -p /srv/data /srv/seen /var/lib/kubelet-notes /etc/rancher-notes
        echo keep >/srv/data/keep
        mount --bind /srv/data /srv/seen
        echo keep >/var/lib/kubelet-notes/keep
        echo keep >/etc/rancher-notes/keep
        ln -s /srv/data/keep /usr/local/bin/mine";
    fleet.run(node, &["sh", "-c", script]).ok();
}

/// What was planted, as it stands now.
fn planted(fleet: &Fleet, node: &str) -> String {
    let script = "set -e
        ip -o link show vxlan77 | cut -d: -f2
        ip -o link show kube-lookalike | cut -d: -f2
        for family in iptables ip6tables; do
            $family -S MY-KUBE-RULES
            $family -S FORWARD | grep MY-KUBE-RULES
        done
        iptables -t nat -S CNI-OF-ANOTHER
        iptables -t nat -S POSTROUTING | grep 192.0.2.0
        cat /srv/seen/keep /var/lib/kubelet-notes/keep /etc/rancher-notes/keep
        readlink /usr/local/bin/mine";
    fleet.run(node, &["sh", "-c", script]).ok()
}

/// The pods of a node, by name.
fn pods_on(fleet: &Fleet, control_plane: &str, node: &str) -> Vec<String> {
    let list = fleet
        .object(control_plane, "/api/v1/namespaces/default/pods")
        .expect("pods");
    let items = list["items"].as_array().expect("items");
    let here = items.iter().filter(|pod| pod["spec"]["nodeName"] == node);
    here.filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned))
        .collect()
}

/// A pod that is placed on this node and belongs to something that would make it anew.
fn run_pod(fleet: &Fleet, control_plane: &str, name: &str, node: &str) {
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "controller": true,
                "uid": "5d3b3f5e-6f0a-4a53-8d29-0c9a4f0a7a11",
            }],
        },
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "web", "image": "rancher/mirrored-pause:3.6"}],
        },
    });
    fleet.create(control_plane, "/api/v1/namespaces/default/pods", &pod);
}

fn ready_of(fleet: &Fleet, cluster: &str) -> Vec<(String, Value)> {
    let nodes = fleet.nodes(cluster);
    nodes
        .iter()
        .map(|node| {
            let name = node["name"].as_str().expect("a name").to_owned();
            (name, node["ready"].clone())
        })
        .collect()
}

/// A person's kubectl on some machine, with the kubeconfig that the controller gives.
fn assert_kubeconfig_works(fleet: &Fleet, control_plane: &str, elsewhere: &str) {
    let config = fleet
        .canasta(&["kubeconfig", "get", "--cluster", control_plane])
        .ok();
    assert!(!config.contains("127.0.0.1"), "an address of one machine");
    let keep = ["sh", "-c", "umask 077; cat >/root/kubeconfig"];
    fleet
        .run_with_input(elsewhere, &keep, config.as_bytes())
        .ok();
    let list = [
        "env",
        "KUBECONFIG=/root/kubeconfig",
        "k3s",
        "kubectl",
        "get",
        "nodes",
    ];
    let listed = fleet.run(elsewhere, &list).ok();
    assert!(listed.contains(control_plane), "{listed}");

    let merge = [
        "kubeconfig",
        "merge",
        "--cluster",
        control_plane,
        "--file",
        "/root/config",
    ];
    fleet.canasta(&merge).ok();
    fleet.canasta(&merge).ok();
    let merged = fleet.run("ctl", &["cat", "/root/config"]).ok();
    assert_eq!(
        merged.matches("client-key-data").count(),
        1,
        "its own entry, once"
    );
    let mode = fleet.run("ctl", &["stat", "-c", "%a", "/root/config"]).ok();
    assert_eq!(mode.trim(), "600");
}

/// A node takes no new pods, and takes them again, as a person says.
fn assert_cordons(fleet: &Fleet, node: &str) {
    let row = || {
        let nodes = fleet.asked(&["node", "list"]);
        let nodes = nodes["nodes"].as_array().expect("nodes").clone();
        let found = nodes.into_iter().find(|found| found["name"] == node);
        found.expect("the node is listed")
    };
    for (verb, cordoned) in [("cordon", true), ("uncordon", false)] {
        fleet.canasta(&["node", verb, node]).ok();
        assert_eq!(row()["cordoned"], cordoned, "{verb}");
        let again = fleet.canasta(&["node", verb, node]).said();
        assert!(again.contains("already"), "{again}");
    }
}

#[test]
fn two_workers_join_one_leaves_and_comes_back_and_in_the_end_nothing_is_left() {
    let fleet = Fleet::up(&["farm", "farm1", "farm2"]);
    for worker in ["farm1", "farm2"] {
        plant(&fleet, worker);
    }
    let before = planted(&fleet, "farm1");
    fleet.install("farm");
    fleet.enrol("farm1");
    fleet.enrol("farm2");
    fleet.join("farm", &["farm1", "farm2"]).ok();
    let mut ready = ready_of(&fleet, "farm");
    ready.sort_by(|one, other| one.0.cmp(&other.0));
    let all: Vec<_> = ["farm", "farm1", "farm2"]
        .map(|name| (name.to_owned(), Value::Bool(true)))
        .into();
    assert_eq!(ready, all);
    assert_no_readable_credential(&fleet, "farm1");
    assert_kubeconfig_works(&fleet, "farm", "farm2");
    assert_cordons(&fleet, "farm2");

    let test = "two_workers_join_one_leaves_and_comes_back_and_in_the_end_nothing_is_left";
    if needs(test, &[images()]) {
        run_pod(&fleet, "farm", "web-1", "farm1");
        fleet.until("the pod runs", 30, || {
            let path = "/api/v1/namespaces/default/pods/web-1";
            let pod = fleet.object("farm", path).expect("the pod");
            pod["status"]["phase"] == "Running"
        });
    }
    fleet.canasta(&["node", "drain", "farm1"]).ok();
    assert_eq!(pods_on(&fleet, "farm", "farm1"), Vec::<String>::new());

    let said = fleet.uninstall("farm1", &[]).said();
    assert!(said.contains(NOTHING_LEFT), "{said}");
    assert_eq!(fleet.object("farm", "/api/v1/nodes/farm1"), None);
    let secret = "/api/v1/namespaces/kube-system/secrets/farm1.node-password.k3s";
    assert_eq!(fleet.object("farm", secret), None);
    assert_eq!(planted(&fleet, "farm1"), before);

    // A second uninstall has nothing to do and says so.
    let again = fleet.uninstall("farm1", &[]).said();
    assert!(again.contains("already clean"), "{again}");

    fleet.join("farm", &["farm1"]).ok();
    assert_eq!(fleet.node_ready("farm", "farm1"), Some(true));

    for host in ["farm1", "farm2", "farm"] {
        let said = fleet.uninstall(host, &[]).said();
        assert!(said.contains(NOTHING_LEFT), "{host}: {said}");
    }
    assert_eq!(planted(&fleet, "farm1"), before);
    assert_eq!(planted(&fleet, "farm2"), before);
    let clusters = fleet.asked(&["cluster", "list"]);
    let left = clusters["clusters"].as_array().expect("a list");
    assert!(left.iter().all(|found| found["name"] != "farm"), "{left:?}");
}
