//! The idle agent, commands as whole processes, and an install beside the start of k3s alone.

use std::time::Duration;

use canasta_machines::fleet::Fleet;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use crate::Figure;

/// The machine that the figures are from.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    processor: String,
    cores: usize,
    kernel: String,
}

impl Machine {
    /// The machine that this runs on.
    pub(crate) fn this() -> Self {
        let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let processor = text
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
            .map_or("unknown", |(_, name)| name);
        Self {
            processor: processor.to_owned(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")
                .unwrap_or_default()
                .trim()
                .to_owned(),
        }
    }
}

/// The middle of an odd number of values, or the mean of the two in the middle.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        f64::midpoint(values[middle - 1], values[middle])
    }
}

/// The number after `key:` in a file of `/proc`, in kB.
fn kilobytes(text: &str, key: &str) -> f64 {
    text.lines()
        .find_map(|line| {
            line.strip_prefix(key)?
                .strip_prefix(':')?
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        })
        .unwrap_or_else(|| panic!("{key} is missing in {text}"))
}

/// A number of `/proc` in MiB: the highest resident size of a unit's process, or its share of memory.
pub(crate) fn mebibytes(fleet: &Fleet, node: &str, unit: &str, file: &str, key: &str) -> f64 {
    let pid = fleet.unit(node, unit, "MainPID");
    kilobytes(
        &fleet
            .run(node, &["cat", &format!("/proc/{pid}/{file}")])
            .ok(),
        key,
    ) / 1024.0
}

/// Milliseconds from the start of a unit's process to its being active.
fn until_active(fleet: &Fleet, unit: &str) -> f64 {
    let at = |property: &str| {
        let told = fleet.unit("cp1", unit, property);
        told.parse::<f64>().expect("microseconds")
    };
    (at("ActiveEnterTimestampMonotonic") - at("ExecMainStartTimestampMonotonic")) / 1000.0
}

/// What the agent takes while one controller is connected, and how fast it starts.
pub(crate) fn agent(fleet: &Fleet, seconds: u64) -> Vec<Figure> {
    const UNIT: &str = "canasta-agent.service";
    let as_service = (0..9).map(|_| {
        fleet.run("cp1", &["systemctl", "restart", UNIT]).ok();
        until_active(fleet, UNIT)
    });
    let as_service = median(as_service.collect());
    // systemd sets up the sandbox of a service between the time that it tells and the exec, so the program is started
    // without one to see what is its own.
    fleet.run("cp1", &["systemctl", "stop", UNIT]).ok();
    let alone = (0..9).map(|round| {
        let unit = format!("bench-agent-{round}.service");
        let name = format!("--unit={unit}");
        let program = "/usr/bin/canasta-agent";
        let argv = [
            "systemd-run",
            "--quiet",
            &name,
            "--property=Type=notify",
            program,
        ];
        fleet.run("cp1", &argv).ok();
        let taken = until_active(fleet, &unit);
        fleet.run("cp1", &["systemctl", "stop", &unit]).ok();
        taken
    });
    let starts = median(alone.collect());
    fleet.run("cp1", &["systemctl", "start", UNIT]).ok();
    fleet.until_state("cp1", "connected");
    let pid = fleet.unit("cp1", UNIT, "MainPID");
    // Fields 14 and 15 after the name in parentheses are user and system time, in ticks of 10 ms.
    let ticks = || {
        let text = fleet
            .run("cp1", &["cat", &format!("/proc/{pid}/stat")])
            .ok();
        let after = text.rsplit(") ").next().expect("a stat line");
        let fields: Vec<f64> = after
            .split(' ')
            .filter_map(|field| field.parse().ok())
            .collect();
        // The state is no number, so field 14 is at 10.
        fields[10] + fields[11]
    };
    let before = ticks();
    std::thread::sleep(Duration::from_secs(seconds));
    #[expect(clippy::cast_precision_loss, reason = "seconds")]
    let share = (ticks() - before) / 100.0 / seconds as f64 * 100.0;
    let size: f64 = fleet
        .run("cp1", &["stat", "-c", "%s", "/usr/bin/canasta-agent"])
        .ok()
        .trim()
        .parse()
        .expect("a size");
    vec![
        Figure::at_most(
            "agent: PSS with one controller",
            "MiB",
            mebibytes(fleet, "cp1", UNIT, "smaps_rollup", "Pss"),
            10.0,
        ),
        Figure::at_most("agent: CPU while idle", "% of a core", share, 0.2),
        Figure::at_most("agent: stripped binary", "MB", size / 1e6, 10.0),
        Figure::at_most("agent: exec to serving (median of 9)", "ms", starts, 50.0),
        Figure::told(
            "the same as a service, its sandbox set up by systemd (median of 9)",
            "ms",
            as_service,
        ),
    ]
}

/// Commands as whole processes, timed on the controller by its shell, so that entering the node is not in it.
pub(crate) fn commands(fleet: &Fleet) -> Vec<Figure> {
    let timed = |command: &str| {
        let script = format!(
            "for i in $(seq 31); do a=$EPOCHREALTIME; {command} >/dev/null || exit 1; b=$EPOCHREALTIME; \
             echo $(( ${{b/[.,]/}} - ${{a/[.,]/}} )); done"
        );
        let out = fleet.run("ctl", &["bash", "-c", &script]).ok();
        median(
            out.lines()
                .map(|line| line.parse::<f64>().expect("microseconds") / 1000.0)
                .collect(),
        )
    };
    vec![
        Figure::told(
            "a process that does nothing, beside the next ones (median of 31)",
            "ms",
            timed("/bin/true"),
        ),
        Figure::at_most(
            "canasta host list (median of 31)",
            "ms",
            timed("canasta host list"),
            15.0,
        ),
        Figure::at_most(
            "canasta host show --refresh (median of 31)",
            "ms",
            timed("canasta host show cp1 --refresh"),
            20.0,
        ),
        Figure::at_most(
            "error for a --cp-host that is not registered (median of 31)",
            "ms",
            timed("! canasta install k8s-worker --host cp1 --cp-host nowhere 2>/dev/null"),
            30.0,
        ),
    ]
}

fn time(value: &Value) -> Timestamp {
    value
        .as_str()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| panic!("no time: {value}"))
}

/// A whole install, less the time from the start of k3s's process to Node Ready, which k3s takes by itself.
pub(crate) fn install(fleet: &Fleet) -> Figure {
    fleet.install("cp1");
    let list = fleet.asked(&["operation", "list", "--host", "cp1", "--limit", "500"]);
    let first = list["operations"]
        .as_array()
        .and_then(|list| list.last())
        .expect("an operation")
        .clone();
    let shown = fleet.asked(&["operation", "show", first["id"].as_str().expect("an id")]);
    let operation = &shown["operation"];
    // When the API says that it became Ready, in whole seconds: up to one second of k3s's own time counts as ours.
    let node = fleet
        .object("cp1", "/api/v1/nodes/cp1")
        .expect("the node is registered");
    let ready = node["status"]["conditions"]
        .as_array()
        .and_then(|conditions| conditions.iter().find(|one| one["type"] == "Ready"))
        .expect("it has the condition");
    let start: u64 = {
        let argv = [
            "systemctl",
            "show",
            "--value",
            "--timestamp=us+utc",
            "-p",
            "ExecMainStartTimestamp",
            "k3s.service",
        ];
        let text = fleet.run("cp1", &argv).ok();
        let argv = ["date", "--date", text.trim(), "+%s%6N"];
        fleet
            .run("cp1", &argv)
            .ok()
            .trim()
            .parse()
            .expect("microseconds")
    };
    let started = Timestamp::from_microsecond(i64::try_from(start).expect("a time of this age"))
        .expect("a time");
    let whole = time(&operation["ended_at"]).duration_since(time(&operation["started_at"]));
    let alone = time(&ready["lastTransitionTime"]).duration_since(started);
    Figure::at_most(
        "install, less unit start to Node Ready",
        "s",
        (whole - alone).as_secs_f64(),
        2.0,
    )
}
