//! `./dev machines` itself: programs and files in nodes, cuts, power, and that nothing is left after `down`.
//!
//! Each test has a lab of its own, without packages, and runs the program as a person does.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use canasta_machines::{DEFAULT_DIRECTORY, Lab, exit_code};
use serde_json::Value;

use super::afterwards;

/// A lab by its command line.
struct Machines(&'static str);

impl Machines {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_canasta-machines"));
        command.args(arguments).env("CANASTA_LAB", self.0);
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("it starts")
    }

    /// What a call prints that must end well.
    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn exec(&self, node: &str, script: &str) -> String {
        self.ok(&["exec", node, "--", "bash", "-c", script])
    }

    fn status(&self) -> Value {
        serde_json::from_str(&self.ok(&["status", "--json"])).expect("JSON")
    }

    fn directory(&self) -> PathBuf {
        let root = std::env::var_os("CANASTA_LAB_DIR").unwrap_or_else(|| DEFAULT_DIRECTORY.into());
        Path::new(&root).join("labs").join(self.0)
    }

    /// Everything of this lab that the machine still has.
    fn left(&self) -> Vec<String> {
        let directory = self.directory();
        let mut left = Vec::new();
        for path in [
            directory.clone(),
            PathBuf::from(format!("/run/netns/lab-{}", self.0)),
        ] {
            if path.exists() {
                left.push(path.display().to_string());
            }
        }
        let mine = |text: &str| text.contains(&*directory.to_string_lossy());
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        left.extend(mounts.lines().filter(|line| mine(line)).map(str::to_owned));
        for entry in fs::read_dir("/proc").expect("processes").flatten() {
            let read = |file| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
            // By what it was started with, or the cgroup that it is in. One that has ended and waits for its parent has
            // no arguments any more.
            let (arguments, group) = (read("cmdline"), format!("/canasta-lab/{}/", self.0));
            if !arguments.is_empty() && (mine(&arguments) || read("cgroup").contains(&group)) {
                left.push(format!("process {}", arguments.replace('\0', " ")));
            }
        }
        for hierarchy in fs::read_dir("/sys/fs/cgroup")
            .into_iter()
            .flatten()
            .flatten()
        {
            let group = hierarchy.path().join("canasta-lab").join(self.0);
            if group.exists() {
                left.push(group.display().to_string());
            }
        }
        left
    }
}

#[test]
fn programs_and_files_go_into_nodes_and_power_goes_and_comes() {
    let machines = Machines("tools");
    let down = afterwards(|| drop(machines.run(&["down"])));
    machines.ok(&["up", "a"]);

    let said = machines.run(&[
        "exec",
        "a",
        "--",
        "sh",
        "-c",
        "echo out; echo err >&2; exit 7",
    ]);
    assert_eq!(exit_code(said.status), 7);
    assert_eq!(
        (&*said.stdout, &*said.stderr),
        (&b"out\n"[..], &b"err\n"[..])
    );
    let unknown = machines.run(&["exec", "b", "--", "true"]);
    assert_eq!(exit_code(unknown.status), 1);
    let unknown = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(
        unknown.contains("failed to find node b in lab tools, which has a"),
        "{unknown}"
    );

    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("file");
    fs::write(&file, b"\0\xffbytes").expect("written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("set");
    machines.ok(&["push", "a", file.to_str().expect("text"), "/srv/new/file"]);
    assert_eq!(
        machines.exec(
            "a",
            "stat -c '%a %s' /srv/new/file; cmp /srv/new/file <(printf '\\0\\xffbytes')"
        ),
        "640 7\n"
    );

    let boot = |machines: &Machines| {
        machines.exec(
            "a",
            "cat /proc/sys/kernel/random/boot_id; readlink /proc/1/ns/pid",
        )
    };
    let first = boot(&machines);
    machines.ok(&["reboot", "a"]);
    assert_ne!(boot(&machines), first);
    let shown = machines.status();
    assert_eq!(shown["lab"], "tools");
    assert_eq!(shown["nodes"][0]["name"], "a");
    assert_eq!(shown["nodes"][0]["running"], true);
    machines.ok(&["kill", "a"]);
    assert_eq!(machines.status()["nodes"][0]["running"], false);
    let stopped = machines.run(&["exec", "a", "--", "true"]);
    assert_eq!(exit_code(stopped.status), 1);
    machines.ok(&["start", "a"]);
    assert_eq!(machines.exec("a", "cat /srv/new/file | wc -c"), "7\n");

    drop(down);
    assert_eq!(machines.left(), [""; 0]);
}

/// Counts what reaches a node, by port, before anything in it takes it.
const PROBE: &str = "nft -f - <<'END'
table inet probe {
  chain in {
    type filter hook prerouting priority -300;
    udp dport 8472 ip length >= 1000 counter
    udp dport 8472 ip length < 1000 counter
    udp dport 8473 counter
    tcp dport 8472 counter
  }
}
END";

/// How many large and small datagrams came at port 8472, how many at 8473, and how many TCP segments at 8472.
fn counted(machines: &Machines, node: &str) -> [u64; 4] {
    let text = machines.exec(node, "nft --json list table inet probe");
    let shown: Value = serde_json::from_str(&text).expect("JSON");
    let counters: Vec<u64> = shown["nftables"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|entry| entry["rule"]["expr"].as_array())
        .filter_map(|parts| {
            parts
                .iter()
                .find_map(|part| part["counter"]["packets"].as_u64())
        })
        .collect();
    counters.try_into().expect("four counters")
}

#[test]
fn cuts_stop_what_they_name_and_nothing_else() {
    let machines = Machines("cuts");
    let down = afterwards(|| drop(machines.run(&["down"])));
    machines.ok(&["up", "a", "b"]);
    let address = |node| machines.ok(&["address", node]).trim().to_owned();
    let to = |from: &str| address(if from == "a" { "b" } else { "a" });
    // So many datagrams of each kind, and a connection. The network hands them over in the order they were sent.
    let arrived = |from: &str, times: u32| {
        let target = if from == "a" { "b" } else { "a" };
        machines.exec(target, "nft delete table inet probe 2>/dev/null || true");
        machines.exec(target, PROBE);
        let address = to(from);
        let script = format!(
            "for i in $(seq {times}); do head -c 1200 /dev/zero >/dev/udp/{address}/8472; echo >/dev/udp/{address}/8472; \
             echo >/dev/udp/{address}/8473; done; timeout 0.5 bash -c '</dev/tcp/{address}/8472' || true"
        );
        machines.exec(from, &format!("({script}) 2>/dev/null"));
        counted(&machines, target)
    };
    let cut = |arguments: &[&str]| {
        machines.ok(&["mend"]);
        let mut argv = vec!["cut", "a", "b"];
        argv.extend(arguments);
        machines.ok(&argv);
    };
    let is_whole = |seen: [u64; 4], times: u64| seen[..3] == [times; 3] && seen[3] > 0;
    assert!(is_whole(arrived("a", 2), 2));
    assert!(is_whole(arrived("b", 2), 2));

    cut(&["--proto", "udp", "--port", "8472"]);
    for from in ["a", "b"] {
        let seen = arrived(from, 2);
        assert_eq!(seen[..3], [0, 0, 2], "{from}");
        assert!(seen[3] > 0, "TCP to the same port is cut too");
    }
    cut(&["--proto", "udp", "--port", "8472", "--one-way"]);
    assert_eq!(arrived("a", 2)[..3], [0, 0, 2]);
    assert!(is_whole(arrived("b", 2), 2));
    cut(&["--min-size", "1000"]);
    let seen = arrived("a", 2);
    assert_eq!(seen[..3], [0, 2, 2]);
    assert!(seen[3] > 0);
    cut(&["--proto", "udp", "--port", "8473", "--loss", "50"]);
    let seen = arrived("a", 200);
    assert_eq!(seen[..2], [200, 200]);
    // Fifty of two hundred are seven standard deviations away from the middle.
    assert!((50..150).contains(&seen[2]), "{seen:?}");
    let cuts = machines.status()["cuts"].clone();
    assert_eq!(cuts.as_array().map(Vec::len), Some(1), "{cuts}");
    cut(&[]);
    assert_eq!(arrived("a", 2), [0; 4]);
    machines.ok(&["mend"]);
    assert!(is_whole(arrived("a", 2), 2));

    drop(down);
    assert_eq!(machines.left(), [""; 0]);
}

/// Waits until something is so; what is asked is another program's doing and has no event.
fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "not within 30 s: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn nothing_is_left_after_an_up_that_was_killed_half_way() {
    let machines = Machines("torn");
    let down = afterwards(|| drop(machines.run(&["down"])));
    let nspawn = || {
        machines
            .left()
            .iter()
            .any(|left| left.contains("systemd-nspawn"))
    };
    let booted = || {
        let lab = Lab::open("torn").expect("a lab");
        lab.status().is_ok_and(|status| status.nodes.len() == 2) && nspawn()
    };
    let points: [(&str, &dyn Fn() -> bool); 2] =
        [("it says so", &|| true), ("nspawn runs", &booted)];
    for (point, reached) in points {
        let mut up = machines
            .command(&["up", "a", "b"])
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut said = BufReader::new(up.stderr.take().expect("a pipe")).lines();
        said.find(|line| line.as_ref().is_ok_and(|line| line.starts_with("booting ")))
            .expect("it boots a node")
            .expect("a line");
        until(point, reached);
        up.kill().expect("killed");
        up.wait().expect("ended");
        assert_ne!(machines.left(), [""; 0], "{point}: nothing was made yet");
        machines.ok(&["down"]);
        assert_eq!(machines.left(), [""; 0], "{point}");
    }
    drop(down);
}
