//! Full and read-only file systems, of nodes and of the controller, and a database that can't be used.

use canasta_machines::fleet::Fleet;

use super::afterwards;

/// The size of a new disk, and what becomes of it at `$new` before it takes the place of a directory.
type Fault = (&'static str, &'static str);

const FULL: Fault = ("48m", "head -c 64M /dev/zero >\"$new/filler\" || true");
/// With room for a release: it must not be the space that is told.
const READ_ONLY: Fault = ("512m", "mount -o remount,ro \"$new\"");

/// A directory of a node, what becomes of its disk, the step that fails then, and what is told.
type Case = (&'static str, Fault, &'static str, &'static [&'static str]);

/// In the order of the steps, so that each run shows that the fault before it is mended.
const CASES: [Case; 8] = [
    (
        "/usr/local/bin",
        FULL,
        "push-artefact",
        &["/usr/local/bin/", "more bytes are needed and 0 are free"],
    ),
    (
        "/usr/local/bin",
        READ_ONLY,
        "push-artefact",
        &["/usr/local/bin/", "is read-only"],
    ),
    (
        "/var/lib/canasta-agent",
        FULL,
        "snapshot",
        &["/var/lib/canasta-agent/", "the disk is full (0 KiB free)"],
    ),
    (
        "/var/lib/canasta-agent",
        READ_ONLY,
        "snapshot",
        &["/var/lib/canasta-agent/", "is read-only"],
    ),
    (
        "/etc/rancher",
        FULL,
        "write-config",
        &["/etc/rancher/k3s/", "the disk is full (0 KiB free)"],
    ),
    (
        "/etc/rancher",
        READ_ONLY,
        "write-config",
        &["/etc/rancher/k3s", "is read-only"],
    ),
    (
        "/var/lib/rancher",
        FULL,
        "write-config",
        &["/var/lib/rancher/k3s/", "the disk is full (0 KiB free)"],
    ),
    (
        "/var/lib/rancher",
        READ_ONLY,
        "write-config",
        &["/var/lib/rancher/k3s", "is read-only"],
    ),
];

/// Runs a script in the mount namespace of a daemon, with a directory as its argument.
fn in_sight_of(fleet: &Fleet, node: &str, unit: &str, script: &str, directory: &str) {
    let pid = fleet.unit(node, unit, "MainPID");
    let argv = [
        "nsenter", "--target", &pid, "--mount", "sh", "-c", script, "sh", directory,
    ];
    fleet.run(node, &argv).ok();
}

/// Has a daemon see another disk in the place of a directory.
fn spoil(fleet: &Fleet, node: &str, unit: &str, directory: &str, (size, how): Fault) {
    let script = format!(
        "set -e; new=$(mktemp -d); mount -t tmpfs -o size={size} tmpfs \"$new\"; cp -a \"$1\"/. \"$new\"; {how}; \
         mount --bind \"$new\" \"$1\"; umount \"$new\"; rmdir \"$new\""
    );
    in_sight_of(fleet, node, unit, &script, directory);
}

fn mend(fleet: &Fleet, node: &str, unit: &str, directory: &str) {
    in_sight_of(fleet, node, unit, "umount \"$1\"", directory);
}

#[test]
fn a_full_or_read_only_disk_of_a_node_is_told_at_the_step_with_path_and_space_and_a_second_run_goes_on()
 {
    let fleet = Fleet::up(&["spoilt"]);
    fleet.enrol("spoilt");
    let install = || fleet.canasta(&["install", "k8s-cp", "--host", "spoilt"]);
    for (directory, fault, step, told) in CASES {
        fleet.run("spoilt", &["mkdir", "-p", directory]).ok();
        spoil(&fleet, "spoilt", "canasta-agent", directory, fault);
        let failed = install();
        mend(&fleet, "spoilt", "canasta-agent", directory);
        let shown = format!("{directory}, {fault:?}: {}", failed.err);
        assert_eq!(failed.code, 1, "{shown}");
        for part in told {
            assert!(failed.err.contains(part), "{part}: {shown}");
        }
        let operation = fleet.newest_operation("spoilt");
        let steps = operation["steps"].as_array().expect("steps");
        let at = steps.iter().find(|step| step["state"] == "failed");
        assert_eq!(at.expect("a failed step")["id"], step, "{shown}");
    }
    install().ok();
    let nodes = fleet.nodes("spoilt");
    assert_eq!(nodes[0]["ready"], true, "{nodes:?}");
}

#[test]
fn a_full_or_read_only_disk_of_the_controller_is_told_with_path_and_space_and_a_second_run_goes_on()
{
    let fleet = Fleet::up(&["starved"]);
    fleet.enrol("starved");
    let install = || fleet.canasta(&["install", "k8s-cp", "--host", "starved"]);
    let unit = "canasta-controller";
    let artefacts = "/var/lib/canasta-controller/artefacts";
    let unspoilt = "rm -rf \"$new\"/k3s* \"$new\"/*/k3s*";
    for ((size, how), told) in [(FULL, "are free"), (READ_ONLY, "read-only")] {
        // Without the releases that are there already, which would not have to be fetched.
        fleet.run("ctl", &["mkdir", "-p", artefacts]).ok();
        let pid = fleet.unit("ctl", unit, "MainPID");
        let _mended = afterwards(|| {
            let argv = ["nsenter", "--target", &pid, "--mount", "umount", artefacts];
            fleet.run("ctl", &argv);
        });
        let script = format!(
            "set -e; new=$(mktemp -d); mount -t tmpfs -o size={size} tmpfs \"$new\"; chown --reference=\"$1\" \"$new\"; \
             chmod --reference=\"$1\" \"$new\"; cp -a --attributes-only \"$1\"/. \"$new\"; {unspoilt}; {how}; \
             mount --bind \"$new\" \"$1\"; umount \"$new\""
        );
        in_sight_of(&fleet, "ctl", unit, &script, artefacts);
        let failed = install();
        assert_eq!(failed.code, 1, "{}", failed.err);
        assert!(failed.err.contains(artefacts), "{}", failed.err);
        assert!(failed.err.contains(told), "{told}: {}", failed.err);
        let operation = fleet.newest_operation("starved");
        let steps = operation["steps"].as_array().expect("steps");
        let at = steps.iter().find(|step| step["state"] == "failed");
        assert_eq!(at.expect("a failed step")["id"], "fetch-artefact");
    }
    install().ok();
}

const STATE: &str = "/var/lib/canasta-controller";
const DATABASE: &str = "/var/lib/canasta-controller/fleet.db";

fn systemctl(fleet: &Fleet, arguments: &[&str]) {
    let mut argv = vec!["systemctl"];
    argv.extend(arguments);
    argv.push("canasta-controller");
    fleet.run("ctl", &argv).ok();
}

fn answers(fleet: &Fleet) {
    fleet.until("the controller answers", 30, || {
        fleet.canasta(&["host", "list"]).code == 0
    });
}

#[test]
fn a_database_on_a_full_disk_is_told_with_path_and_space_and_works_when_there_is_room() {
    let fleet = Fleet::up(&["cp1"]);
    let _restored = afterwards(|| {
        for argv in [
            &["systemctl", "stop", "canasta-controller"][..],
            &["umount", STATE],
            &["systemctl", "start", "canasta-controller"],
        ] {
            fleet.run("ctl", argv);
        }
    });
    systemctl(&fleet, &["stop"]);
    // The releases stay behind: they are large.
    let script = "set -e; new=$(mktemp -d); mount -t tmpfs -o size=16m tmpfs \"$new\"; chown --reference=\"$1\" \"$new\"; \
        chmod --reference=\"$1\" \"$new\"; for part in \"$1\"/*; do \
        case $part in */artefacts) ;; *) cp -a \"$part\" \"$new\" ;; esac; done; \
        mount --bind \"$new\" \"$1\"; umount \"$new\"";
    fleet.run("ctl", &["sh", "-c", script, "sh", STATE]).ok();
    systemctl(&fleet, &["start"]);
    answers(&fleet);
    let filler = format!("{STATE}/filler");
    let fill = "head -c 64M /dev/zero >\"$1\" || true";
    fleet.run("ctl", &["sh", "-c", fill, "sh", &filler]).ok();
    let failed = fleet.canasta(&["host", "add", "--name", "roomless"]);
    assert_eq!(failed.code, 1, "{}", failed.err);
    for part in [DATABASE, "no room", "free"] {
        assert!(failed.err.contains(part), "{part}: {}", failed.err);
    }
    fleet.run("ctl", &["rm", &filler]).ok();
    fleet.canasta(&["host", "add", "--name", "roomless"]).ok();
}

/// Starts the controller, waits until that has failed, and returns what was said since: by the place in the journal,
/// because journald does not know any more to which unit and run the last words of a process belong.
fn refusal(fleet: &Fleet, told: &str) -> String {
    let journal = |arguments: &[&str]| {
        let mut argv = vec!["journalctl", "--no-pager"];
        argv.extend(arguments);
        fleet.run("ctl", &argv).ok()
    };
    let before = journal(&["--lines", "0", "--show-cursor"]);
    let cursor = before.trim().rsplit(": ").next().unwrap_or_default();
    let cursor = format!("--after-cursor={cursor}");
    systemctl(fleet, &["start", "--no-block"]);
    fleet.until("a run has ended with a fault", 20, || {
        let property = |name| fleet.unit("ctl", "canasta-controller", name);
        property("SubState") == "auto-restart" && property("Result") == "exit-code"
    });
    let said = || {
        journal(&[
            &cursor,
            "--output",
            "cat",
            "--identifier",
            "canasta-controller",
        ])
    };
    fleet.until(&format!("it says '{told}'"), 10, || said().contains(told));
    said()
}

#[test]
fn a_damaged_database_is_refused_by_name_and_never_replaced() {
    let fleet = Fleet::up(&["cp1"]);
    let copy = "/root/fleet.db";
    systemctl(&fleet, &["stop"]);
    fleet.run("ctl", &["cp", "-a", DATABASE, copy]).ok();
    let restored = afterwards(|| {
        for argv in [
            &["systemctl", "stop", "canasta-controller"][..],
            &["umount", "-q", STATE],
            &["cp", "-a", copy, DATABASE],
            &["systemctl", "start", "canasta-controller"],
        ] {
            fleet.run("ctl", argv);
        }
    });
    let damages: [(&str, &str, &str); 3] = [
        ("truncate -s 1000 \"$1\"", "damaged or cut short", "1000"),
        ("rm \"$1\"", "it is missing", "none"),
        (
            "cp -a /root/fleet.db \"$1\"; mount --bind \"${1%/*}\" \"${1%/*}\"; mount -o remount,bind,ro \"${1%/*}\"",
            "make its file system writable",
            "whole",
        ),
    ];
    let size = |path: &str| {
        let argv = ["stat", "-c", "%s", path];
        fleet.run("ctl", &argv).out.trim().to_owned()
    };
    for (damage, told, left) in damages {
        fleet.run("ctl", &["sh", "-c", damage, "sh", DATABASE]).ok();
        let said = refusal(&fleet, told);
        assert!(said.contains(STATE), "{damage}: {said}");
        assert_eq!(fleet.canasta(&["host", "list"]).code, 3, "{damage}");
        let expected = match left {
            "none" => String::new(),
            "whole" => size(copy),
            size => size.to_owned(),
        };
        assert_eq!(size(DATABASE), expected, "{damage}");
        systemctl(&fleet, &["stop"]);
    }
    drop(restored);
    answers(&fleet);
}
