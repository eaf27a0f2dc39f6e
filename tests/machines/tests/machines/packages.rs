//! The packages themselves: what they hold, their scripts, installing and purging.

use std::process::Command;

use canasta_machines::fleet::{Fleet, packages};
use canasta_machines::{Lab, UpOptions};

use super::afterwards;

/// Runs a program of this machine; what it prints.
fn tool(argv: &[&str]) -> String {
    let output = Command::new(argv[0])
        .args(&argv[1..])
        .output()
        .expect(argv[0]);
    assert!(
        output.status.success(),
        "{argv:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The one package file of this name and kind.
pub(super) fn package(name: &str, ending: &str) -> String {
    let found: Vec<String> = std::fs::read_dir(packages())
        .expect("packages")
        .map(|entry| {
            entry
                .expect("an entry")
                .path()
                .to_string_lossy()
                .into_owned()
        })
        .filter(|path| path.ends_with(ending))
        .filter(|path| {
            let file = path.rsplit('/').next().unwrap_or_default();
            file.strip_prefix(name).is_some_and(|rest| {
                rest.starts_with(['_', '-']) && rest[1..].starts_with(|c: char| c.is_ascii_digit())
            })
        })
        .collect();
    assert_eq!(found.len(), 1, "{name}{ending}: {found:?}");
    found.into_iter().next().unwrap_or_default()
}

#[test]
fn debs_hold_what_they_should() {
    let cases = [
        (
            "canasta-agent",
            &[
                "./usr/bin/canasta-agent",
                "canasta-agent.service",
                "./etc/canasta/agent.toml",
            ][..],
        ),
        (
            "canasta-controller",
            &[
                "./usr/bin/canasta-controller",
                "canasta-controller.service",
                "./usr/lib/sysusers.d/",
                "./etc/canasta/controller.toml",
                "./usr/share/canasta/agent-packages/canasta-agent_",
            ],
        ),
        (
            "canasta",
            &["./usr/bin/canasta", "canasta.1", "completions"],
        ),
    ];
    for (name, files) in cases {
        let listing = tool(&["dpkg-deb", "--contents", &package(name, ".deb")]);
        for file in files {
            assert!(listing.contains(file), "{name} lacks {file}:\n{listing}");
        }
    }
}

#[test]
fn rpms_hold_what_they_should_and_install_into_a_root() {
    for name in ["canasta-agent", "canasta-controller", "canasta"] {
        let file = package(name, ".rpm");
        let listing = tool(&["rpm", "-qpl", "--nosignature", &file]);
        assert!(listing.contains(&format!("/usr/bin/{name}")), "{listing}");
        let scripts = tool(&["rpm", "-qp", "--scripts", "--nosignature", &file]);
        if name != "canasta" {
            let configs = tool(&["rpm", "-qpc", "--nosignature", &file]);
            assert!(configs.contains("/etc/canasta/"), "{configs}");
            assert!(scripts.contains("systemctl"), "{scripts}");
        }
        if name == "canasta-controller" {
            for brought in [".deb", ".rpm"] {
                let file = package("canasta-agent", brought);
                let file = file.rsplit('/').next().unwrap_or_default();
                let path = format!("/usr/share/canasta/agent-packages/{file}");
                assert!(listing.contains(&path), "no {path}: {listing}");
            }
        }
        let root = tempfile::tempdir().expect("a directory");
        let path = root.path().to_str().expect("text");
        tool(&["rpm", "--root", path, "--initdb"]);
        tool(&[
            "rpm",
            "--root",
            path,
            "--nodeps",
            "--noscripts",
            "--nosignature",
            "--ignorearch",
            "--install",
            &file,
        ]);
        assert!(root.path().join("usr/bin").join(name).is_file());
    }
}

/// Runs `rpm` on a root, as a package manager does.
fn rpm(root: &str, arguments: &[&str]) -> String {
    let mut argv = vec!["rpm", "--root", root, "--nodeps"];
    argv.extend(arguments);
    tool(&argv)
}

#[test]
fn the_scripts_of_rpms_enable_the_units_and_take_them_away() {
    // A node's files without a running node: the scripts run in them, with no systemd to talk to, as in an image.
    let lab = Lab::open("rpms").expect("a lab");
    lab.up(&["image"], &UpOptions::default()).expect("a node");
    let down = afterwards(|| drop(lab.down(false)));
    lab.kill("image").expect("stopped");
    let root = lab.root("image");
    let root = root.to_str().expect("text");
    tool(&["rpm", "--root", root, "--initdb"]);
    for (name, unit) in [
        ("canasta-agent", "canasta-agent.service"),
        ("canasta-controller", "canasta-controller.service"),
    ] {
        let file = package(name, ".rpm");
        let wanted = format!("{root}/etc/systemd/system/multi-user.target.wants/{unit}");
        let enabled = || std::fs::symlink_metadata(&wanted).is_ok();
        rpm(root, &["--install", "--nosignature", "--ignorearch", &file]);
        assert!(enabled(), "{name} is not enabled by its installation");
        // An administrator's choice outlasts a newer package.
        tool(&["systemctl", "--root", root, "disable", unit]);
        rpm(
            root,
            &[
                "--upgrade",
                "--force",
                "--nosignature",
                "--ignorearch",
                &file,
            ],
        );
        assert!(!enabled(), "{name} is enabled by an upgrade");
        tool(&["systemctl", "--root", root, "enable", unit]);
        rpm(root, &["--erase", name]);
        assert!(
            !std::path::Path::new(root)
                .join("usr/bin")
                .join(name)
                .exists()
        );
        assert!(!enabled(), "{name} is enabled after its removal");
    }
    let users = std::fs::read_to_string(format!("{root}/etc/passwd")).expect("users");
    assert!(users.contains("canasta-controller:"), "{users}");
    drop(down);
}

#[test]
fn the_sandboxes_are_as_tight_as_promised() {
    let fleet = Fleet::up(&["cp1"]);
    for (node, unit, most) in [
        ("cp1", "canasta-agent.service", "55"),
        ("ctl", "canasta-controller.service", "25"),
    ] {
        // Offline: judged by the unit file, as it lies on the node. The threshold is in tenths.
        let path = fleet.unit(node, unit, "FragmentPath");
        let threshold = format!("--threshold={most}");
        let argv = [
            "systemd-analyze",
            "security",
            "--offline=true",
            "--no-pager",
            &threshold,
            &path,
        ];
        fleet.run(node, &argv).ok();
    }
    assert_eq!(
        fleet.unit("ctl", "canasta-controller.service", "User"),
        "canasta-controller"
    );
    for (node, unit, memory) in [
        ("cp1", "canasta-agent.service", 256 << 20),
        ("ctl", "canasta-controller.service", 512 << 20),
    ] {
        assert_eq!(fleet.unit(node, unit, "Type"), "notify");
        assert_eq!(fleet.unit(node, unit, "WatchdogUSec"), "30s");
        assert_eq!(fleet.unit(node, unit, "MemoryMax"), i32::to_string(&memory));
    }
}

/// Installs a package on a node, over the same one if it is there.
fn install(fleet: &Fleet, node: &str, name: &str) {
    let file = format!("/var/tmp/{name}.deb");
    fleet
        .lab
        .push(node, package(name, ".deb").as_ref(), &file)
        .expect("copied");
    fleet.run(node, &["dpkg", "--install", &file]).ok();
}

fn exists(fleet: &Fleet, node: &str, path: &str) -> bool {
    fleet.run(node, &["test", "-e", path]).code == 0
}

#[test]
fn who_is_in_the_group_gets_in_and_nobody_else() {
    let fleet = Fleet::up(&["cp1"]);
    let as_user = |user: &str| {
        let argv = ["runuser", "-u", user, "--", "canasta", "host", "list"];
        fleet.run("ctl", &argv)
    };
    for (user, groups) in [("member", &["--groups", "canasta"][..]), ("stranger", &[])] {
        if fleet.run("ctl", &["id", user]).code != 0 {
            let mut argv = vec!["useradd"];
            argv.extend(groups);
            argv.push(user);
            fleet.run("ctl", &argv).ok();
        }
    }
    as_user("member").ok();
    let refused = as_user("stranger");
    assert_eq!(refused.code, 4, "{}", refused.err);
    assert!(refused.err.contains("group"), "{}", refused.err);
}

#[test]
fn a_new_agent_is_installed_under_a_running_k3s_and_keeps_the_settings() {
    let fleet = Fleet::up(&["renewed"]);
    fleet.install("renewed");
    let settings = "/etc/canasta/agent.toml";
    let edit = "printf 'log_level = \"debug\"\\n' >>\"$1\"";
    let argv = ["sh", "-c", edit, "sh", settings];
    fleet.run("renewed", &argv).ok();
    let run_of = |unit: &str| fleet.unit("renewed", unit, "InvocationID");
    let (k3s, agent) = (run_of("k3s.service"), run_of("canasta-agent.service"));
    install(&fleet, "renewed", "canasta-agent");
    assert_ne!(
        run_of("canasta-agent.service"),
        agent,
        "the old agent runs on"
    );
    assert_eq!(run_of("k3s.service"), k3s, "k3s was restarted");
    let text = fleet.run("renewed", &["cat", settings]).ok();
    assert!(text.ends_with("log_level = \"debug\"\n"), "{text}");
    fleet.until_state("renewed", "connected");
    assert_eq!(fleet.nodes("renewed")[0]["ready"], true);
}

#[test]
fn purging_the_agent_takes_its_own_files_and_leaves_the_rest() {
    let fleet = Fleet::up(&["purged"]);
    fleet.install("purged");
    let others = "/etc/canasta/somebody-elses.conf";
    fleet
        .lab
        .write("purged", others, b"mine\n", 0o644)
        .expect("written");
    let k3s = fleet.unit("purged", "k3s.service", "InvocationID");
    let rest = || {
        let script = "find /etc/rancher /usr/local/bin /etc/systemd/system/k3s.service* \"$1\" -printf '%p %s %T@ %m\\n'";
        fleet
            .run("purged", &["sh", "-c", script, "sh", others])
            .ok()
    };
    let before = rest();
    fleet
        .run("purged", &["dpkg", "--purge", "canasta-agent"])
        .ok();
    for path in [
        "/var/lib/canasta-agent",
        "/etc/canasta/agent.toml",
        "/usr/bin/canasta-agent",
    ] {
        assert!(!exists(&fleet, "purged", path), "{path} is left");
    }
    assert_eq!(rest(), before);
    assert_eq!(fleet.unit("purged", "k3s.service", "InvocationID"), k3s);
    assert_eq!(fleet.unit("purged", "k3s.service", "ActiveState"), "active");
    // The lab sees that the package is gone, whatever it has recorded.
    let fleet = Fleet::up(&["purged"]);
    assert!(exists(&fleet, "purged", "/usr/bin/canasta-agent"));
}

#[test]
fn purging_the_controller_takes_its_own_files_and_leaves_the_rest() {
    let fleet = Fleet::up(&["second"]);
    for name in ["canasta-controller", "canasta"] {
        install(&fleet, "second", name);
    }
    fleet.run("second", &["canasta", "host", "list"]).ok();
    fleet
        .run("second", &["dpkg", "--purge", "canasta-controller"])
        .ok();
    for path in [
        "/var/lib/canasta-controller",
        "/etc/canasta/controller.toml",
        "/usr/bin/canasta-controller",
        "/run/canasta/controller.sock",
    ] {
        assert!(!exists(&fleet, "second", path), "{path} is left");
    }
    for path in ["/etc/canasta/agent.toml", "/usr/bin/canasta"] {
        assert!(exists(&fleet, "second", path), "{path} is gone");
    }
    assert_eq!(
        fleet.unit("second", "canasta-agent.service", "ActiveState"),
        "active"
    );
}
