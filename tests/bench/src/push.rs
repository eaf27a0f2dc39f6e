//! An artefact of 512 MiB from the controller to an agent over loopback: how fast, and how much memory either side takes
//! for it.
//!
//! The agent runs beside the controller for this, so that no bridge and no second machine is measured. What the disk does
//! alone, with the same file, is told beside it: the push ends with the last byte on the disk.

use canasta_machines::fleet::{self, Fleet};
use jiff::Timestamp;
use serde_json::Value;

use crate::Figure;
use crate::measure::{mebibytes, median};

const SIZE_MIB: u64 = 512;
/// Versions that nothing else in the bench asks for; the files are no k3s, and the step after the push refuses them.
const VERSIONS: [&str; 3] = ["v1.34.8+k3s97", "v1.34.8+k3s98", "v1.34.8+k3s99"];
const FILE: &str = "/var/tmp/big";
const SIDES: [&str; 2] = ["canasta-controller.service", "canasta-agent.service"];

/// Pushes large files and reads the time of the step and the highest resident sizes.
pub(crate) fn push(fleet: &Fleet) -> Vec<Figure> {
    agent_beside_the_controller(fleet);
    let mut rates = Vec::new();
    let mut alone = Vec::new();
    let mut grown = [0.0_f64; 2];
    for version in VERSIONS {
        make_file(fleet);
        alone.push(disk_alone(fleet));
        fleet
            .canasta(&["artefact", "import", "k3s", FILE, "--version", version])
            .ok();
        let before = SIDES.map(|unit| mebibytes(fleet, "ctl", unit, "status", "VmRSS"));
        for unit in SIDES {
            let pid = fleet.unit("ctl", unit, "MainPID");
            // 5 sets the highest resident size back to the present one.
            fleet
                .run_with_input("ctl", &["tee", &format!("/proc/{pid}/clear_refs")], b"5")
                .ok();
        }
        // The step after the push finds that this is no k3s: what is measured is done by then.
        fleet.canasta(&[
            "install",
            "k8s-cp",
            "--host",
            "ctl",
            "--k3s-version",
            version,
        ]);
        for (side, unit) in SIDES.iter().enumerate() {
            let after = mebibytes(fleet, "ctl", unit, "status", "VmHWM");
            grown[side] = grown[side].max(after - before[side]);
        }
        rates.push(rate(fleet));
    }
    let shares = rates.iter().zip(&alone).map(|(push, disk)| push / disk);
    let share = median(shares.collect());
    vec![
        Figure::at_least(
            "artefact push, 512 MiB to the final fsync (median of 3)",
            "MB/s",
            median(rates),
            400.0,
        ),
        Figure::told(
            "the same file written and synced by dd, alone (median of 3)",
            "MB/s",
            median(alone),
        ),
        Figure::told(
            "artefact push as a share of that (median of 3)",
            "ratio",
            share,
        ),
        Figure::at_most(
            "artefact push: memory of the controller",
            "MiB",
            grown[0],
            16.0,
        ),
        Figure::at_most("artefact push: memory of the agent", "MiB", grown[1], 16.0),
    ]
}

/// Installs the agent on the controller's node and enrols it over loopback.
fn agent_beside_the_controller(fleet: &Fleet) {
    const PACKAGE: &str = "/var/tmp/canasta-agent.deb";
    let package = std::fs::read_dir(fleet::packages())
        .expect("the packages")
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| {
            let is_agent = path
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("canasta-agent"));
            is_agent && path.extension().is_some_and(|extension| extension == "deb")
        })
        .expect("the agent's package");
    fleet
        .lab
        .push("ctl", &package, PACKAGE)
        .expect("the package is copied");
    fleet.run("ctl", &["dpkg", "--install", PACKAGE]).ok();
    let (_, token) = fleet.token("ctl");
    let argv = [
        "canasta-agent",
        "join",
        "--controller",
        "127.0.0.1:7440",
        "--advertise",
        "127.0.0.1",
        "--token-file",
        "-",
    ];
    fleet.run_with_input("ctl", &argv, token.as_bytes()).ok();
    fleet.until_state("ctl", "connected");
}

/// A program's head, so that its architecture can be read, and then bytes that can't be guessed.
fn make_file(fleet: &Fleet) {
    fleet.run("ctl", &["cp", "/usr/bin/canasta", FILE]).ok();
    let to = format!("of={FILE}");
    let argv = [
        "dd",
        "if=/dev/urandom",
        &to,
        "bs=1M",
        "count=480",
        "oflag=append",
        "conv=notrunc",
    ];
    fleet.run("ctl", &argv).ok();
    let size = format!("{SIZE_MIB}M");
    fleet.run("ctl", &["truncate", "--size", &size, FILE]).ok();
}

/// What writing and syncing the file takes without a network, in MB/s: dd tells it last.
fn disk_alone(fleet: &Fleet) -> f64 {
    let copy = "/usr/local/bin/.canasta-bench";
    let (from, to) = (format!("if={FILE}"), format!("of={copy}"));
    let script = fleet.run(
        "ctl",
        &["env", "LC_ALL=C", "dd", &from, &to, "bs=1M", "conv=fsync"],
    );
    let told = script.err.clone();
    script.ok();
    fleet.run("ctl", &["rm", copy]).ok();
    // `536870912 bytes (537 MB, 512 MiB) copied, 1.94684 s, 276 MB/s`
    let seconds: f64 = told
        .rsplit("copied, ")
        .next()
        .and_then(|rest| rest.split(" s").next())
        .and_then(|seconds| seconds.parse().ok())
        .unwrap_or_else(|| panic!("dd told no time: {told}"));
    megabytes() / seconds
}

#[expect(clippy::cast_precision_loss, reason = "a size in MB")]
fn megabytes() -> f64 {
    (SIZE_MIB << 20) as f64 / 1e6
}

/// The rate of the newest push, from the times of its step.
fn rate(fleet: &Fleet) -> f64 {
    let list = fleet.asked(&["operation", "list", "--host", "ctl", "--limit", "1"]);
    let shown = fleet.asked(&[
        "operation",
        "show",
        list["operations"][0]["id"].as_str().expect("an id"),
    ]);
    let step = shown["operation"]["steps"]
        .as_array()
        .and_then(|steps| steps.iter().find(|step| step["id"] == "push-artefact"))
        .expect("the push");
    assert_eq!(step["outcome"], "changed", "{step}");
    let time = |value: &Value| {
        value
            .as_str()
            .and_then(|text| text.parse::<Timestamp>().ok())
            .expect("a time")
    };
    let seconds = time(&step["ended_at"])
        .duration_since(time(&step["started_at"]))
        .as_secs_f64();
    megabytes() / seconds
}
