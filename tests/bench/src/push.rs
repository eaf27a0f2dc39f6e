//! An artefact of 512 MiB from the controller to an agent: how fast, and how much memory either side takes for it.

use canasta_machines::fleet::Fleet;
use jiff::Timestamp;
use serde_json::Value;

use crate::Figure;
use crate::measure::mebibytes;

const SIZE: u64 = 512 << 20;
/// A version that nothing else in the bench asks for; the file is no k3s, and the step after the push refuses it.
const VERSION: &str = "v1.34.8+k3s99";

/// Pushes a large file and reads the time of the step and the highest resident sizes.
pub(crate) fn push(fleet: &Fleet) -> Vec<Figure> {
    fleet.enrol("big");
    // A program's head, so that its architecture can be read, and then bytes.
    fleet
        .run("ctl", &["cp", "/usr/bin/canasta", "/var/tmp/big"])
        .ok();
    fleet
        .run(
            "ctl",
            &["truncate", "-s", &SIZE.to_string(), "/var/tmp/big"],
        )
        .ok();
    fleet
        .canasta(&[
            "artefact",
            "import",
            "k3s",
            "/var/tmp/big",
            "--version",
            VERSION,
        ])
        .ok();
    let sides = [
        ("ctl", "canasta-controller.service"),
        ("big", "canasta-agent.service"),
    ];
    let before = sides.map(|(node, unit)| mebibytes(fleet, node, unit, "status", "VmRSS"));
    for (node, unit) in sides {
        let pid = fleet.unit(node, unit, "MainPID");
        // 5 sets the highest resident size back to the present one.
        fleet
            .run_with_input(node, &["tee", &format!("/proc/{pid}/clear_refs")], b"5")
            .ok();
    }
    // The step after the push finds that this is no k3s: what is measured is done by then.
    fleet.canasta(&[
        "install",
        "k8s-cp",
        "--host",
        "big",
        "--k3s-version",
        VERSION,
    ]);
    let after = sides.map(|(node, unit)| mebibytes(fleet, node, unit, "status", "VmHWM"));
    let list = fleet.asked(&["operation", "list", "--host", "big", "--limit", "1"]);
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
    #[expect(clippy::cast_precision_loss, reason = "a size in MB")]
    let rate = SIZE as f64 / 1e6 / seconds;
    vec![
        Figure::at_least(
            "artefact push, 512 MiB to the final fsync",
            "MB/s",
            rate,
            400.0,
        ),
        Figure::at_most(
            "artefact push: memory of the controller",
            "MiB",
            after[0] - before[0],
            16.0,
        ),
        Figure::at_most(
            "artefact push: memory of the agent",
            "MiB",
            after[1] - before[1],
            16.0,
        ),
    ]
}
