//! Proofs of shared storage with a real server and real clients: every host of a cluster can use a share, one that is cut off
//! and one that the server does not know are named, and what they leave is nothing.

use canasta_machines::fleet::{Fleet, Ran, apt};
use canasta_machines::{Protocol, needs};

use super::{afterwards, closed};

const PACKAGES: &[&str] = &["nfs-ganesha", "nfs-ganesha-vfs"];
/// Below what is a file system of its own in a node: its root is an overlay, which can't be exported.
const SHARE: &str = "/var/nfs/canasta";
/// Read by k3s, and made an object of the API.
const MANIFEST: &str = "/var/lib/rancher/k3s/server/manifests/shared.yaml";

/// The share for these clients and nobody else, without the time in which clients of an earlier run may come back.
fn configuration(clients: &[String]) -> String {
    format!(
        "NFS_CORE_PARAM {{ Protocols = 4; NFS_Port = 2049; Allow_Set_Io_Flusher_Fail = true; }}\n\
         NFSV4 {{ Graceless = true; Only_Numeric_Owners = true; }}\n\
         EXPORT {{ Export_Id = 77; Path = {SHARE}; Pseudo = {SHARE}; Access_Type = None; SecType = sys; \
         FSAL {{ Name = VFS; }} CLIENT {{ Clients = {}; Access_Type = RW; Squash = No_Root_Squash; }} }}\n",
        clients.join(", ")
    )
}

/// Serves the share on a node, to these clients from now on.
fn serve(fleet: &Fleet, node: &str, clients: &[String]) {
    let file = "/etc/ganesha/ganesha.conf";
    let text = configuration(clients);
    let written = fleet.lab.write(node, file, text.as_bytes(), 0o644);
    written.expect("written");
    fleet
        .run(node, &["systemctl", "restart", "nfs-ganesha"])
        .ok();
    fleet.until("the server listens", 60, || {
        let listening = fleet.run(node, &["ss", "-Htln", "sport = :2049"]);
        !listening.ok().is_empty()
    });
}

/// The check names the worker with the reason, and tells of the control plane that it can use the share.
fn only_the_worker_fails(ran: &Ran, reason: &str, hint: &str) {
    assert_eq!(ran.code, 1, "{}{}", ran.out, ran.err);
    for words in [
        "can't be used from share2",
        &format!("share2, write: {reason}"),
        hint,
    ] {
        assert!(ran.err.contains(words), "no {words:?} in:\n{}", ran.err);
    }
    let row = |host: &str| {
        let mut lines = ran.out.lines();
        lines
            .find(|line| line.contains(host))
            .unwrap_or_default()
            .to_owned()
    };
    assert!(!row("share1").contains("NFS_"), "{}", ran.out);
    assert!(row("share2").contains(reason), "{}", ran.out);
}

#[test]
fn every_host_proves_a_share_of_a_real_server_and_one_that_can_not_is_named() {
    let test = "every_host_proves_a_share_of_a_real_server_and_one_that_can_not_is_named";
    if !needs(test, &[apt(PACKAGES)]) {
        return;
    }
    let fleet = Fleet::cluster("share1", &["share2"]);
    fleet.lab.apt_repository(PACKAGES).expect("served");
    let install = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--yes"];
    fleet
        .run("share1", &[&install[..], &["update"]].concat())
        .ok();
    let packages = [&install[..], &["install"], PACKAGES].concat();
    fleet.run("share1", &packages).ok();
    fleet.run("share1", &["mkdir", "-p", SHARE]).ok();
    let address = |node: &str| fleet.lab.address(node).expect("an address").to_string();
    let both = ["share1", "share2"].map(address);
    serve(&fleet, "share1", &both);

    let none = fleet.canasta(&["storage", "check", "--cluster", "share1"]);
    assert_eq!(none.code, 1, "{}", none.err);
    assert!(none.err.contains("no storage class"), "{}", none.err);
    let class = format!(
        "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata:\n  name: shared\nprovisioner: nfs.csi.k8s.io\n\
         parameters:\n  server: {}\n  share: {SHARE}\n",
        both[0]
    );
    let written = fleet.lab.write("share1", MANIFEST, class.as_bytes(), 0o600);
    written.expect("written");
    fleet.until("the API to have the class", 60, || {
        let list = fleet.asked(&["storage", "list", "--cluster", "share1"]);
        list["clusters"][0]["classes"].to_string().contains(SHARE)
    });

    let check = || fleet.canasta(&["storage", "check", "--cluster", "share1"]);
    let proved = check().ok();
    let passed = proved.split_whitespace().filter(|word| *word == "yes");
    assert_eq!(passed.count(), 6, "{proved}");
    let left = || fleet.run("share1", &["find", SHARE, "-type", "f"]).ok();
    assert_eq!(left(), "");

    let _mended = afterwards(|| fleet.lab.mend().expect("mended"));
    let cut = closed("share2", "share1", Protocol::Tcp, 2049);
    fleet.lab.cut(cut).expect("the port is closed");
    only_the_worker_fails(&check(), "NFS_PORT_BLOCKED", "open TCP 2049");
    fleet.lab.mend().expect("mended");
    check().ok();

    serve(&fleet, "share1", &both[..1]);
    only_the_worker_fails(
        &check(),
        "NFS_NOT_A_CLIENT_OR_NO_SHARE",
        "the share's clients",
    );
    assert_eq!(left(), "");
    let list = fleet
        .canasta(&["storage", "list", "--cluster", "share1"])
        .ok();
    assert!(list.contains("not share2"), "{list}");

    fleet
        .run("share1", &["systemctl", "stop", "nfs-ganesha"])
        .ok();
    let stopped = check();
    assert!(
        stopped.err.contains("from share1, share2"),
        "{}",
        stopped.err
    );
    assert!(stopped.err.contains("NFS_REFUSED"), "{}", stopped.err);
}
