//! The packages themselves: what they hold, their scripts, installing and purging.

use std::process::Command;

use canasta_machines::fleet::{Fleet, packages};

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
fn package(name: &str, ending: &str) -> String {
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
    assert_eq!(
        fleet.unit("ctl", "canasta-controller.service", "Type"),
        "notify"
    );
    assert_ne!(
        fleet.unit("cp1", "canasta-agent.service", "WatchdogUSec"),
        "0"
    );
    assert_ne!(
        fleet.unit("cp1", "canasta-agent.service", "MemoryMax"),
        "infinity"
    );
}

#[test]
fn purging_the_agent_takes_its_own_files_and_leaves_the_rest() {
    let fleet = Fleet::up(&["purged"]);
    fleet.enrol("purged");
    fleet
        .run("purged", &["dpkg", "--purge", "canasta-agent"])
        .ok();
    for path in [
        "/var/lib/canasta-agent",
        "/etc/canasta/agent.toml",
        "/usr/bin/canasta-agent",
    ] {
        assert_ne!(
            fleet.run("purged", &["test", "-e", path]).code,
            0,
            "{path} is left"
        );
    }
    // The lab installs it again when the node is next asked for, so that the test can be run again.
    fleet.canasta(&["host", "remove", "purged"]).ok();
}
