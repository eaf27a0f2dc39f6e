//! Shared storage from nothing: a host installs a real NFS server from the packages of its distribution and exports a directory,
//! which real clients on every host of the cluster use. The kernels of the lab have no NFS server, so it is nfs-ganesha here.

use canasta_machines::fleet::{Fleet, apt};
use canasta_machines::{Protocol, needs};
use serde_json::Value;

use super::{afterwards, closed};

const PACKAGES: &[&str] = &["nfs-ganesha", "nfs-ganesha-vfs"];
/// Below what is a file system of its own in a node: its root is an overlay, which can't be exported.
const SHARE: &str = "/var/nfs/canasta";
/// Read by k3s, and made an object of the API.
const MANIFEST: &str = "/var/lib/rancher/k3s/server/manifests/driver.yaml";
const DRIVER: &str = "apiVersion: storage.k8s.io/v1\nkind: CSIDriver\nmetadata:\n  name: nfs.csi.k8s.io\n\
    spec:\n  attachRequired: false\n  fsGroupPolicy: File\n";
/// Makes one proof, as the agent has it made in a unit of its own.
const PROVER: &str = "/usr/libexec/canasta-agent/nfs-proof";

/// What a proof by hand on a node answers.
fn prove(fleet: &Fleet, node: &str, server: &str, action: &str) -> Value {
    let directory = "/run/proof-by-hand";
    let request = serde_json::json!({"server": server, "port": 2049, "path": SHARE, "action": action,
        "nonce": "0123456789abcdef"});
    fleet.run(node, &["mkdir", "-p", directory]).ok();
    let file = format!("{directory}/request.json");
    let written = fleet
        .lab
        .write(node, &file, request.to_string().as_bytes(), 0o600);
    written.expect("written");
    fleet.run(node, &[PROVER, directory]).ok();
    let answer = fleet.lab.read(node, &format!("{directory}/answer.json"));
    serde_json::from_slice(&answer.expect("an answer")).expect("JSON")
}

/// What listens on a node for others, by port.
fn open_ports(fleet: &Fleet, node: &str) -> Vec<String> {
    let list = fleet.run(node, &["ss", "-Htuln"]).ok();
    let local = list
        .lines()
        .filter_map(|line| line.split_whitespace().nth(4));
    let outside = local.filter(|at| !at.starts_with("127.") && !at.starts_with("[::1]"));
    let ports = outside.filter_map(|at| at.rsplit_once(':'));
    let mut ports: Vec<String> = ports.map(|(_, port)| port.to_owned()).collect();
    ports.sort();
    ports.dedup();
    ports
}

/// Waits for the driver, then has the package manager fail.
fn a_mirror_that_is_down_is_told(fleet: &Fleet, set_up: &[&str]) {
    let plan = [set_up, &["--dry-run"]].concat();
    let without = fleet.canasta(&plan);
    assert!(
        without.code == 0 || without.err.contains("helm install"),
        "{}",
        without.err
    );
    // k3s takes up manifests in its own time.
    fleet.until("the cluster to have the driver", 60, || {
        fleet.canasta(&plan).code == 0
    });
    // A package source that can't be reached is told with what the package manager says.
    fleet.lab.apt_repository(PACKAGES).expect("served");
    let broken = "/etc/apt/apt.conf.d/99-broken";
    let proxy = b"Acquire::http::Proxy \"http://127.0.0.1:9\";\n";
    let written = fleet.lab.write("store1", broken, proxy, 0o644);
    written.expect("written");
    let failed = fleet.canasta(set_up);
    assert_eq!(failed.code, 1, "{}", failed.err);
    assert!(
        failed.err.contains("mend the node's package sources"),
        "{}",
        failed.err
    );
    fleet.run("store1", &["rm", broken]).ok();
}

/// What the agent leaves of an export that ended.
fn nothing_is_left_but_the_data(fleet: &Fleet) {
    let kept = fleet.run("store1", &["find", SHARE, "-type", "f"]).ok();
    assert!(
        kept.contains("0123456789abcdef"),
        "the data is kept: {kept}"
    );
    for file in ["/etc/ganesha/ganesha.conf", "/etc/ganesha/canasta.conf"] {
        let there = fleet.run("store1", &["test", "-e", file]);
        assert_ne!(there.code, 0, "{file} is left");
    }
}

#[test]
fn a_host_becomes_the_nfs_server_of_its_cluster_and_stops_being_it() {
    let test = "a_host_becomes_the_nfs_server_of_its_cluster_and_stops_being_it";
    if !needs(test, &[apt(PACKAGES)]) {
        return;
    }
    let fleet = Fleet::cluster("store1", &["store2", "store3"]);
    let written = fleet
        .lab
        .write("store1", MANIFEST, DRIVER.as_bytes(), 0o600);
    written.expect("written");
    let before = open_ports(&fleet, "store1");
    let set_up = [
        "storage",
        "setup",
        "nfs",
        "--host",
        "store1",
        "--install-server",
        "--share",
        SHARE,
    ];

    a_mirror_that_is_down_is_told(&fleet, &set_up);
    let done = fleet.canasta(&set_up);
    assert_eq!(done.code, 0, "{}{}", done.out, done.err);
    let passed = done.out.split_whitespace().filter(|word| *word == "yes");
    assert_eq!(passed.count(), 9, "{}", done.out);
    let now = open_ports(&fleet, "store1");
    let opened: Vec<_> = now.iter().filter(|port| !before.contains(port)).collect();
    assert_eq!(opened, ["2049"], "of {now:?}");
    let list = fleet.asked(&["storage", "list", "--cluster", "store1"]);
    let classes = list["clusters"][0]["classes"].as_array().expect("classes");
    let class = classes.iter().find(|class| class["name"] == "nfs");
    let class = class.expect("the class");
    assert_eq!(class["instance_default"], true, "{class}");
    assert_eq!(class["host"], "store1", "{class}");
    let again = fleet.canasta(&set_up);
    assert!(
        again.err.trim_end().ends_with(" unchanged, 0 repaired"),
        "{}",
        again.err
    );
    assert!(again.err.contains("\n0 changed, "), "{}", again.err);

    let server = fleet.lab.address("store1").expect("an address").to_string();
    let made = prove(&fleet, "store2", &server, "write");
    let handle = made["Ok"]["handle"].as_str().expect("a handle").to_owned();
    assert!(handle.len() > 16, "{made}");

    let _mended = afterwards(|| fleet.lab.mend().expect("mended"));
    let cut = closed("store3", "store1", Protocol::Tcp, 2049);
    fleet.lab.cut(cut).expect("the port is closed");
    let check = || fleet.canasta(&["storage", "check", "--cluster", "store1"]);
    let named = check();
    assert!(
        named.err.contains("can't be used from store3"),
        "{}",
        named.err
    );
    fleet.lab.mend().expect("mended");

    // A client that holds a file finds it again after a reboot of its server.
    fleet.lab.reboot("store1").expect("a reboot");
    fleet.until("the control plane to be back", 180, || check().code == 0);
    let found = prove(&fleet, "store3", &server, "read");
    assert_eq!(found["Ok"]["handle"], handle, "{found}");

    // A node that has left is a stranger to the server.
    let gone = fleet.canasta(&["uninstall", "k8s", "--host", "store3", "--yes"]);
    assert_eq!(gone.code, 0, "{}{}", gone.out, gone.err);
    let refused = prove(&fleet, "store3", &server, "read");
    assert_eq!(
        refused["Err"]["reason"], "not_a_client_or_no_share",
        "{refused}"
    );

    let refused = fleet.canasta(&["uninstall", "k8s", "--host", "store1", "--yes"]);
    assert!(
        refused.err.contains("storage remove nfs --host store1"),
        "{}",
        refused.err
    );
    let remove = [
        "storage", "remove", "nfs", "--host", "store1", "--share", SHARE,
    ];
    let removed = fleet.canasta(&remove);
    assert_eq!(removed.code, 0, "{}{}", removed.out, removed.err);
    assert_eq!(open_ports(&fleet, "store1"), before);
    nothing_is_left_but_the_data(&fleet);
}
