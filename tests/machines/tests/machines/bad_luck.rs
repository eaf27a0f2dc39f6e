//! Crashes at five points of an install on booted nodes, and a CLI that is killed. The same at every step is tested with
//! the fleet in one process; crashes in joins are in [`super::join_luck`].

use std::io::BufRead as _;

use serde_json::Value;

use canasta_machines::fleet::{Fleet, Running, standin};
use canasta_machines::needs;

/// A version that only these tests ask for: the stand-in with so much padding that a push takes a while.
const LARGE: &str = "v1.34.8+k3s7";

/// Gives the controller the large release. Its end stays the stand-in's trailer, which tells it what to claim.
fn import_large_release(fleet: &Fleet) {
    let script = "set -e; cd /var/tmp; curl -fsS -o large \"$1\"; tail -c 4096 large >end; truncate -s 448M large; \
        cat end >>large; canasta artefact import k3s large --version \"$2\"; rm large end";
    let url = fleet.lab.release_url(LARGE);
    let argv = ["sh", "-c", script, "sh", &url, LARGE];
    fleet.run("ctl", &argv).ok();
}

/// Makes k3s take its time on a node: so many real seconds for a recorded one. A real k3s is slow by itself.
fn slow_down(fleet: &Fleet, node: &str, scale: f64) {
    fleet.standin_behaves(node, &format!("scale: {scale}\n"));
}

/// Starts an install and follows it until `step` has begun; the operation's id and the CLI.
fn install_up_to(fleet: &Fleet, arguments: &[&str], step: &str) -> (String, Running) {
    let mut argv = vec!["install", "k8s-cp"];
    argv.extend(arguments);
    up_to(fleet, &argv, step)
}

/// Starts long work and follows it until `step` has begun; the operation's id and the CLI.
pub(super) fn up_to(fleet: &Fleet, arguments: &[&str], step: &str) -> (String, Running) {
    let mut argv = arguments.to_vec();
    argv.extend(["--output", "json"]);
    let mut cli = fleet.start(&argv);
    loop {
        let event = next_event(&mut cli)
            .unwrap_or_else(|| panic!("the step {step} never began: {arguments:?}"));
        if event["event"] == "started" && event["step"] == step {
            let id = event["operation_id"].as_str().expect("an id").to_owned();
            return (id, cli);
        }
    }
}

/// The next line of a CLI that prints JSON; none at its end.
pub(super) fn next_event(cli: &mut Running) -> Option<Value> {
    let mut line = String::new();
    let length = cli.out.read_line(&mut line).expect("a line");
    (length > 0).then(|| serde_json::from_str(&line).expect("JSON"))
}

/// Ends the CLI in its node, and with it the hold on it here.
fn kill_cli(fleet: &Fleet, mut cli: Running) {
    fleet.run("ctl", &["kill", "-KILL", &cli.pid]).ok();
    let status = cli.child.wait().expect("ended");
    assert!(!status.success(), "it had ended by itself: {status}");
}

/// One step of an operation.
fn step_of(operation: &Value, step: &str) -> Value {
    operation["steps"]
        .as_array()
        .and_then(|steps| steps.iter().find(|found| found["id"] == step))
        .unwrap_or_else(|| panic!("no step {step}: {operation}"))
        .clone()
}

/// The step that is struck must be running still: a blow after its end would prove nothing.
fn assert_running(fleet: &Fleet, id: &str, step: &str) {
    let operation = fleet.operation(id);
    assert_eq!(operation["state"], "running", "{operation}");
    let step = step_of(&operation, step);
    assert_eq!(step["state"], "running", "{step}");
}

/// Kills a daemon while `step` runs, and waits for the one that systemd starts in its place.
fn kill_during(fleet: &Fleet, node: &str, unit: &str, id: &str, step: &str) {
    assert_running(fleet, id, step);
    kill_daemon(fleet, node, unit);
}

/// Kills a daemon, and waits for the one that systemd starts in its place.
pub(super) fn kill_daemon(fleet: &Fleet, node: &str, unit: &str) {
    let main_pid = || fleet.unit(node, unit, "MainPID");
    let before = main_pid();
    let argv = [
        "systemctl",
        "kill",
        "--kill-who",
        "main",
        "--signal",
        "KILL",
        unit,
    ];
    fleet.run(node, &argv).ok();
    fleet.until(&format!("{unit} runs anew"), 30, || {
        !["0", &before].contains(&main_pid().as_str())
    });
}

/// Follows an operation to its end, however that is, and runs the command again when it did not end well. Returns the
/// operation as it ended.
pub(super) fn ended_or_repaired(fleet: &Fleet, id: &str, hosts: &[&str], again: &[&str]) -> Value {
    fleet.until("the controller answers", 60, || {
        fleet.canasta(&["host", "list"]).code == 0
    });
    fleet.canasta(&["operation", "watch", id]);
    let ended = fleet.operation(id);
    let state = ended["state"].as_str().unwrap_or_default();
    assert!(
        matches!(state, "succeeded" | "failed" | "interrupted"),
        "{ended}"
    );
    if state != "succeeded" {
        for host in hosts {
            fleet.until_state(host, "connected");
        }
        fleet.canasta(again).ok();
    }
    ended
}

/// The same of an install; then all must be whole.
fn ends_or_is_repaired(fleet: &Fleet, node: &str, arguments: &[&str], id: &str) -> Value {
    let mut again = vec!["install", "k8s-cp"];
    again.extend(arguments);
    let ended = ended_or_repaired(fleet, id, &[node], &again);
    let nodes = fleet.nodes(node);
    assert_eq!(nodes[0]["ready"], true, "{nodes:?}");
    // Nothing half done is left behind.
    let staged = fleet
        .run(node, &["find", "/usr/local/bin", "-name", "*canasta-k3s*"])
        .ok();
    assert_eq!(staged, "");
    ended
}

#[test]
fn the_controller_is_killed_while_it_pushes() {
    if !needs("the_controller_is_killed_while_it_pushes", &[standin()]) {
        return;
    }
    let fleet = Fleet::up(&["luck1"]);
    fleet.enrol("luck1");
    import_large_release(&fleet);
    let arguments = ["--host", "luck1", "--k3s-version", LARGE];
    let (id, _cli) = install_up_to(&fleet, &arguments, "push-artefact");
    kill_during(&fleet, "ctl", "canasta-controller", &id, "push-artefact");
    let ended = ends_or_is_repaired(&fleet, "luck1", &arguments, &id);
    let attempts = step_of(&ended, "push-artefact")["attempts"].as_u64();
    assert!(attempts > Some(1), "{ended}");
}

#[test]
fn the_controller_is_killed_while_the_node_gets_ready() {
    let fleet = Fleet::up(&["luck2"]);
    fleet.enrol("luck2");
    slow_down(&fleet, "luck2", 0.3);
    let arguments = ["--host", "luck2"];
    let (id, _cli) = install_up_to(&fleet, &arguments, "wait-node-ready");
    kill_during(&fleet, "ctl", "canasta-controller", &id, "wait-node-ready");
    let ended = ends_or_is_repaired(&fleet, "luck2", &arguments, &id);
    let attempts = step_of(&ended, "wait-node-ready")["attempts"].as_u64();
    assert!(attempts > Some(1), "{ended}");
}

#[test]
fn the_agent_is_killed_while_it_takes_the_binary() {
    if !needs(
        "the_agent_is_killed_while_it_takes_the_binary",
        &[standin()],
    ) {
        return;
    }
    let fleet = Fleet::up(&["luck3"]);
    fleet.enrol("luck3");
    import_large_release(&fleet);
    let arguments = ["--host", "luck3", "--k3s-version", LARGE];
    let (id, _cli) = install_up_to(&fleet, &arguments, "push-artefact");
    kill_during(&fleet, "luck3", "canasta-agent", &id, "push-artefact");
    ends_or_is_repaired(&fleet, "luck3", &arguments, &id);
}

#[test]
fn the_agent_is_killed_while_k3s_starts() {
    let fleet = Fleet::up(&["luck4"]);
    fleet.enrol("luck4");
    slow_down(&fleet, "luck4", 0.7);
    let arguments = ["--host", "luck4"];
    let (id, _cli) = install_up_to(&fleet, &arguments, "wait-api");
    kill_during(&fleet, "luck4", "canasta-agent", &id, "wait-api");
    ends_or_is_repaired(&fleet, "luck4", &arguments, &id);
}

#[test]
fn the_node_loses_power_while_k3s_starts() {
    let fleet = Fleet::up(&["luck5"]);
    fleet.enrol("luck5");
    slow_down(&fleet, "luck5", 0.5);
    let arguments = ["--host", "luck5"];
    let (id, _cli) = install_up_to(&fleet, &arguments, "start-service");
    assert_running(&fleet, &id, "start-service");
    fleet.lab.kill("luck5").expect("a power cut");
    fleet.lab.start(&["luck5"]).expect("power");
    ends_or_is_repaired(&fleet, "luck5", &arguments, &id);
}

#[test]
fn the_cli_is_killed_and_a_watch_shows_every_event() {
    let fleet = Fleet::up(&["luck6"]);
    fleet.enrol("luck6");
    slow_down(&fleet, "luck6", 0.2);
    let (id, cli) = install_up_to(&fleet, &["--host", "luck6"], "wait-api");
    kill_cli(&fleet, cli);
    assert_eq!(fleet.operation(&id)["state"], "running");
    let watched = fleet
        .canasta(&["operation", "watch", &id, "--output", "json"])
        .ok();
    let events: Vec<Value> = watched
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    // What moves a bar only has the number of the event before it.
    let numbered = events.iter().filter(|event| event["event"] != "progress");
    let numbers: Vec<_> = numbered.filter_map(|event| event["seq"].as_u64()).collect();
    let whole: Vec<_> = (1_u64..).take(numbers.len()).collect();
    assert_eq!(numbers, whole);
    let of_kind = |kind: &str| -> Vec<&Value> {
        let wanted = |event: &&Value| event["event"] == kind;
        events
            .iter()
            .filter(wanted)
            .map(|event| &event["step"])
            .collect()
    };
    let operation = fleet.operation(&id);
    let steps: Vec<_> = operation["steps"]
        .as_array()
        .expect("steps")
        .iter()
        .map(|step| &step["id"])
        .collect();
    assert_eq!(events[0]["event"], "planned");
    assert_eq!(of_kind("started"), steps);
    assert_eq!(of_kind("finished"), steps);
    assert_eq!(of_kind("ended").len(), 1);
    assert_eq!(operation["state"], "succeeded");
}
