//! Second runs that want something else: a newer k3s, another public address.

use canasta_machines::fleet::{Fleet, default_version, standin};
use canasta_machines::needs;

/// The same minor with a patch that is one higher.
fn next_patch(version: &str) -> String {
    let (release, build) = version.split_once('+').expect("a build");
    let (minor, patch) = release.rsplit_once('.').expect("a patch");
    let patch: u32 = patch.parse().expect("a number");
    format!("{minor}.{}+{build}", patch + 1)
}

/// How often systemd has started k3s on a node.
fn starts(fleet: &Fleet, node: &str) -> usize {
    let argv = [
        "journalctl",
        "--no-pager",
        "--output",
        "cat",
        "--unit",
        "k3s.service",
        "_PID=1",
    ];
    let said = fleet.run(node, &argv).ok();
    said.lines()
        .filter(|line| line.starts_with("Started "))
        .count()
}

#[test]
fn a_higher_patch_is_installed_with_one_restart_and_a_lower_one_refused() {
    let test = "a_higher_patch_is_installed_with_one_restart_and_a_lower_one_refused";
    if !needs(test, &[standin()]) {
        return;
    }
    let fleet = Fleet::up(&["upgraded"]);
    fleet.install("upgraded");
    assert_eq!(starts(&fleet, "upgraded"), 1);
    let (lower, higher) = (default_version(), next_patch(&default_version()));
    let file = "/var/tmp/k3s-higher";
    let url = fleet.lab.release_url(&higher);
    fleet.run("ctl", &["curl", "-fsS", "-o", file, &url]).ok();
    fleet
        .canasta(&["artefact", "import", "k3s", file, "--version", &higher])
        .ok();
    let install = |version: &str| {
        let argv = [
            "install",
            "k8s-cp",
            "--host",
            "upgraded",
            "--k3s-version",
            version,
        ];
        fleet.canasta(&argv)
    };
    install(&higher).ok();
    assert_eq!(starts(&fleet, "upgraded"), 2);
    let said = fleet
        .run("upgraded", &["/usr/local/bin/k3s", "--version"])
        .ok();
    assert!(said.contains(&higher), "{said}");
    let nodes = fleet.nodes("upgraded");
    assert_eq!(nodes[0]["ready"], true, "{nodes:?}");
    assert!(nodes[0].to_string().contains(&higher), "{nodes:?}");

    // Without the flag what runs stays, and nothing is done.
    fleet
        .canasta(&["install", "k8s-cp", "--host", "upgraded"])
        .ok();
    for (step, outcome) in fleet.outcomes("upgraded") {
        assert_eq!(outcome, "unchanged", "{step}");
    }
    let refused = install(&lower);
    assert_ne!(refused.code, 0, "a downgrade");
    assert!(refused.err.contains(&lower), "{}", refused.err);
    assert!(refused.err.contains(&higher), "{}", refused.err);
    assert_eq!(starts(&fleet, "upgraded"), 2);
}

#[test]
fn a_public_address_that_is_given_replaces_the_recorded_one_with_one_restart() {
    let fleet = Fleet::up(&["public"]);
    fleet.enrol("public");
    let install = |address: &[&str]| {
        let mut argv = vec!["install", "k8s-cp", "--host", "public"];
        argv.extend(address);
        fleet.canasta(&argv).ok();
    };
    let config = || {
        let argv = ["cat", "/etc/rancher/k3s/config.yaml"];
        fleet.run("public", &argv).ok()
    };
    install(&["--public-ip", "203.0.113.7"]);
    let first = config();
    assert!(first.contains("203.0.113.7"), "{first}");
    assert_eq!(starts(&fleet, "public"), 1);

    install(&[]);
    assert_eq!(config(), first);
    assert_eq!(starts(&fleet, "public"), 1);

    install(&["--public-ip", "203.0.113.8"]);
    let second = config();
    assert!(second.contains("203.0.113.8"), "{second}");
    assert!(!second.contains("203.0.113.7"), "{second}");
    assert_eq!(starts(&fleet, "public"), 2);
    for (step, outcome) in fleet.outcomes("public") {
        let touched = ["write-config", "start-service", "wait-api", "record"];
        assert!(
            outcome == "unchanged" || touched.contains(&step.as_str()),
            "{step}: {outcome}"
        );
    }
}
