//! What an uninstall must not destroy, on booted nodes with the agent's shipped unit.

use canasta_machines::fleet::{Fleet, images, standin};
use canasta_machines::needs;
use serde_json::json;

/// Asserts that an uninstall is refused with all of these words, and that k3s runs on.
#[track_caller]
fn refused(fleet: &Fleet, host: &str, unit: &str, flags: &[&str], words: &[&str]) {
    let ran = fleet.uninstall(host, flags);
    assert_eq!(ran.code, 1, "{}{}", ran.out, ran.err);
    for word in words {
        assert!(ran.err.contains(word), "no {word:?} in:\n{}", ran.err);
    }
    assert!(ran.err.contains("hint: "), "no hint in:\n{}", ran.err);
    assert_eq!(fleet.unit(host, unit, "ActiveState"), "active");
}

/// A pod with a volume of the local-path provisioner on a node; returns the volume's directory there.
fn pin_volume(fleet: &Fleet, control_plane: &str, node: &str) -> String {
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "images"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "local-path",
            "resources": {"requests": {"storage": "1Gi"}},
        },
    });
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    fleet.create(control_plane, claims, &claim);
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "wiki"},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": node},
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "wiki", "image": "rancher/mirrored-pause:3.6",
                "volumeMounts": [{"name": "images", "mountPath": "/images"}],
            }],
            "volumes": [{"name": "images", "persistentVolumeClaim": {"claimName": "images"}}],
        },
    });
    fleet.create(control_plane, "/api/v1/namespaces/default/pods", &pod);
    fleet.until("the volume is bound", 60, || {
        let claim = fleet.object(control_plane, &format!("{claims}/images"));
        claim.is_some_and(|claim| claim["status"]["phase"] == "Bound")
    });
    let find = [
        "find",
        "/var/lib/rancher/k3s/storage",
        "-mindepth",
        "1",
        "-maxdepth",
        "1",
    ];
    let found = fleet.run(node, &find).ok();
    found.trim().to_owned()
}

#[test]
fn a_mount_of_somebody_else_below_the_kubelet_s_directory_survives_and_is_named() {
    let fleet = Fleet::cluster("deep", &["deep1"]);
    let script = "set -e
        mkdir -p /srv/precious /var/lib/kubelet/precious
        echo data >/srv/precious/file
        mount --bind /srv/precious /var/lib/kubelet/precious";
    fleet.run("deep1", &["sh", "-c", script]).ok();
    for flags in [&[][..], &["--force"]] {
        refused(
            &fleet,
            "deep1",
            "k3s-agent.service",
            flags,
            &["FOREIGN_MOUNT", "/var/lib/kubelet/precious", "umount"],
        );
        let kept = fleet.run("deep1", &["cat", "/var/lib/kubelet/precious/file"]);
        assert_eq!(kept.ok(), "data\n");
    }
    fleet
        .run("deep1", &["umount", "/var/lib/kubelet/precious"])
        .ok();
    let said = fleet.uninstall("deep1", &[]).said();
    assert!(said.contains("nothing left"), "{said}");
    assert_eq!(
        fleet.run("deep1", &["cat", "/srv/precious/file"]).ok(),
        "data\n"
    );
}

#[test]
fn a_pinned_volume_is_named_and_only_force_destroys_it_also_when_the_api_is_away() {
    let test = "a_pinned_volume_is_named_and_only_force_destroys_it_also_when_the_api_is_away";
    if !needs(test, &[images()]) {
        return;
    }
    let fleet = Fleet::cluster("pin", &["pin1"]);
    let directory = pin_volume(&fleet, "pin", "pin1");
    assert!(directory.contains("images"), "{directory}");
    let file = format!("{directory}/photo");
    fleet
        .lab
        .write("pin1", &file, b"data", 0o644)
        .expect("written");
    let unit = "k3s-agent.service";
    refused(
        &fleet,
        "pin1",
        unit,
        &[],
        &["VOLUME_PINNED", "default/images", "LOCAL_DATA", &directory],
    );

    fleet.run("pin", &["systemctl", "stop", "k3s"]).ok();
    refused(
        &fleet,
        "pin1",
        unit,
        &[],
        &["CLUSTER_NOT_ASKED", "LOCAL_DATA", &directory],
    );
    assert_eq!(fleet.run("pin1", &["cat", &file]).ok(), "data");

    // Forced, it says what dies before it does; what is owed to the dead API is paid when it is back.
    let forced = fleet.uninstall("pin1", &["--force"]);
    let told = format!("{}{}", forced.err, forced.out);
    let lost = told.find(&directory).expect("it names what dies");
    let stopped = told
        .find("stop-service")
        .or_else(|| told.find("stop and disable"));
    assert!(lost < stopped.expect("it stops k3s"), "{told}");
    assert!(told.contains("Lost for good"), "{told}");
    assert!(told.contains("still to be deleted"), "{told}");
    forced.ok();
    assert_ne!(fleet.run("pin1", &["test", "-e", &file]).code, 0);
    let shown = fleet.canasta(&["cluster", "show", "pin"]);
    assert!(
        format!("{}{}", shown.out, shown.err).contains("pin1"),
        "{}{}",
        shown.out,
        shown.err
    );
    fleet.run("pin", &["systemctl", "start", "k3s"]).ok();
    fleet.until("the node is deleted once the API is back", 60, || {
        fleet.object("pin", "/api/v1/nodes").is_some()
            && fleet.object("pin", "/api/v1/nodes/pin1").is_none()
    });
}

#[test]
fn a_control_plane_with_workers_is_refused_and_force_leaves_orphans_that_are_shown() {
    let fleet = Fleet::cluster("head", &["head1", "head2"]);
    refused(
        &fleet,
        "head",
        "k3s.service",
        &[],
        &["HAS_WORKERS", "2 workers", "head1", "head2"],
    );
    let plan = fleet.canasta(&["uninstall", "k8s", "--host", "head", "--force", "--dry-run"]);
    for words in ["Left without a control plane (2)", "head1", "Lost for good"] {
        assert!(plan.out.contains(words), "no {words:?} in:\n{}", plan.out);
    }
    assert_eq!(fleet.unit("head", "k3s.service", "ActiveState"), "active");

    let forced = fleet.uninstall("head", &["--force"]);
    assert!(forced.err.contains("head2"), "{}", forced.err);
    forced.ok();
    let nodes = fleet.nodes("head");
    let orphans: Vec<_> = nodes
        .iter()
        .filter(|node| node["orphaned"] == true)
        .filter_map(|node| node["host"].as_str())
        .collect();
    assert_eq!(orphans, ["head1", "head2"], "{nodes:?}");
    // Their API is gone, and they were Ready: only force takes them.
    refused(
        &fleet,
        "head1",
        "k3s-agent.service",
        &[],
        &["CLUSTER_NOT_ASKED"],
    );
    for worker in ["head1", "head2"] {
        let said = fleet.uninstall(worker, &["--force"]).said();
        assert!(said.contains("nothing left"), "{said}");
    }
}

#[test]
fn hosts_without_k3s_are_clean_and_half_an_install_goes_without_force() {
    let fleet = Fleet::up(&["half"]);
    fleet.enrol("half");
    let clean = fleet.uninstall("half", &[]).said();
    assert!(clean.contains("already clean"), "{clean}");

    // As far as the binary, the configuration and the unit; k3s itself was never started.
    let drop_in = "/etc/systemd/system/k3s.service.d/never.conf";
    fleet
        .lab
        .write(
            "half",
            drop_in,
            b"[Service]\nExecStartPre=/bin/false\n",
            0o644,
        )
        .expect("written");
    let failed = fleet.canasta(&["install", "k8s-cp", "--host", "half"]);
    assert_eq!(failed.code, 1, "{}", failed.err);
    fleet
        .run("half", &["test", "-e", "/usr/local/bin/k3s"])
        .ok();
    let drop_ins = "/etc/systemd/system/k3s.service.d";
    fleet.run("half", &["rm", "-r", drop_ins]).ok();
    let said = fleet.uninstall("half", &[]).said();
    assert!(said.contains("nothing left"), "{said}");
    for path in ["/usr/local/bin/k3s", "/etc/rancher", "/var/lib/rancher"] {
        assert_ne!(fleet.run("half", &["test", "-e", path]).code, 0, "{path}");
    }
}

#[test]
fn what_k3s_leaves_when_it_is_only_stopped_is_seen_by_the_comparison() {
    let test = "what_k3s_leaves_when_it_is_only_stopped_is_seen_by_the_comparison";
    if !needs(test, &[standin()]) {
        return;
    }
    let fleet = Fleet::cluster("rest", &["rest1"]);
    fleet
        .run("rest1", &["systemctl", "disable", "--now", "k3s-agent"])
        .ok();
    // What k3s's own uninstall takes away, and people by hand: units and files.
    let script = "rm -rf /etc/rancher /var/lib/rancher /var/lib/kubelet /usr/local/bin/k3s /etc/systemd/system/k3s-agent.service*
        systemctl daemon-reload";
    fleet.run("rest1", &["sh", "-c", script]).ok();
    let plan = fleet.canasta(&["uninstall", "k8s", "--host", "rest1", "--dry-run"]);
    for left in ["flannel.1", "chains of iptables", "chains of ip6tables"] {
        assert!(plan.out.contains(left), "no {left:?} in:\n{}", plan.out);
    }
    let said = fleet.uninstall("rest1", &[]).said();
    assert!(said.contains("nothing left"), "{said}");
    for argv in [
        &["ip", "link", "show", "flannel.1"][..],
        &["iptables", "-t", "nat", "-S", "KUBE-SERVICES"],
        &["ip6tables", "-t", "nat", "-S", "KUBE-SERVICES"],
    ] {
        assert_ne!(fleet.run("rest1", argv).code, 0, "{argv:?}");
    }
}
