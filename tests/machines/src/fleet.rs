//! A lab with a controller and nodes, and the commands that a user would type in it.
//!
//! For the tests on machines and for the bench: everything here panics where a command does not do what it must, as an
//! assertion does. The settings come from `./dev`, in the environment.

mod cluster;

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use crate::{DEFAULT_VERSION, Lab, Need, Payload, Releases, UpOptions};
use serde_json::Value;

/// What a program in a node printed.
#[derive(Debug)]
pub struct Ran {
    /// The exit code; -1 when a signal ended it.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Ran {
    /// Standard output of a program that must have ended well.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self.out
    }

    /// All that a program said which must have ended well.
    #[track_caller]
    pub fn said(self) -> String {
        let err = self.err.clone();
        self.ok() + &err
    }

    /// Standard output as JSON, of a program that must have ended well.
    #[track_caller]
    pub fn json(self) -> Value {
        let out = self.ok();
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
    }
}

/// A CLI that was started on the controller's node.
#[derive(Debug)]
pub struct Running {
    /// The program of this machine that holds on to it.
    pub child: Child,
    /// Its number in the node.
    pub pid: String,
    /// Its standard output.
    pub out: BufReader<ChildStdout>,
}

/// A lab whose node `ctl` is the controller.
#[derive(Debug)]
pub struct Fleet {
    /// The lab itself, for cuts and power.
    pub lab: Lab,
    /// The nodes that are this one's alone.
    own: Vec<String>,
}

/// The node with a control plane that tests share which leave it as it is.
const SHARED: &str = "cp1";

/// Nodes go when their test is done, with their power cut: each takes a good part of what the kernel allows one user
/// (`fs.inotify.max_user_instances`). The apt repository goes too: the next test does not expect it. After a failure all of
/// it stays, to be looked at.
impl Drop for Fleet {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // A lab that is down already serves nothing.
            let _ = self.lab.without_apt_repository();
            for node in &self.own {
                // One that is down already is as good.
                let _ = self.lab.kill(node);
            }
        }
    }
}

/// A setting that `./dev test` gives.
fn setting(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: run these tests with `sudo ./dev test`"))
}

/// The directory with the packages that are tested.
pub fn packages() -> PathBuf {
    setting("CANASTA_TEST_PACKAGES").into()
}

/// What the testbed serves as k3s, from the flags that `./dev` chose.
fn releases() -> Releases {
    let flags = setting("CANASTA_TEST_RELEASE_FLAGS");
    let words: Vec<&str> = flags.split_whitespace().collect();
    let value = |flag: &str| {
        let at = words.iter().position(|word| *word == flag)?;
        words.get(at + 1).map(|value| (*value).to_owned())
    };
    Releases {
        server: value("--release-server").expect("a release server").into(),
        payload: match (value("--k3s"), value("--standin")) {
            (Some(file), _) => Payload::K3s(file.into()),
            (None, Some(file)) => Payload::Standin(file.into()),
            (None, None) => panic!("nothing is served as k3s: {flags}"),
        },
        version: value("--k3s-version").unwrap_or_else(|| DEFAULT_VERSION.to_owned()),
    }
}

/// That k3s is the stand-in: for tests that choose its pace, its faults or its version.
pub fn standin() -> Need {
    Need::standin(&releases().payload)
}

/// That pods can run.
pub fn images() -> Need {
    Need::images(&releases().payload)
}

/// That these packages of the distribution, with all that a node lacks for them, are or can be downloaded by this machine's
/// apt, for [`Lab::apt_repository`].
pub fn apt(packages: &[&str]) -> Need {
    let lab = Lab::from_environment().expect("a lab");
    Need::apt(lab.apt_packages(packages))
}

/// The version of k3s that the controller installs by default.
pub fn default_version() -> String {
    releases().version
}

impl Fleet {
    /// Brings up the controller and these nodes, all from their packages.
    pub fn up(nodes: &[&str]) -> Self {
        let lab = Lab::from_environment().expect("a lab");
        let options = UpOptions {
            packages: Some(packages()),
            releases: Some(releases()),
        };
        let mut names = vec!["ctl"];
        names.extend(nodes);
        lab.up(&names, &options).expect("the nodes boot");
        let own = nodes.iter().filter(|node| **node != SHARED);
        let own = own.map(|node| (*node).to_owned()).collect();
        let fleet = Self { lab, own };
        fleet.until("the controller answers", 30, || {
            fleet.canasta(&["host", "list"]).code == 0
        });
        fleet
    }

    /// Runs a program in a node.
    pub fn run(&self, node: &str, argv: &[&str]) -> Ran {
        self.run_with_input(node, argv, b"")
    }

    /// Runs a program in a node, with this as its standard input.
    pub fn run_with_input(&self, node: &str, argv: &[&str], input: &[u8]) -> Ran {
        let output = self
            .lab
            .exec_with_input(node, argv, input)
            .expect("the node runs programs");
        Ran {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs the CLI on the controller.
    pub fn canasta(&self, arguments: &[&str]) -> Ran {
        let mut argv = vec!["canasta"];
        argv.extend(arguments);
        self.run("ctl", &argv)
    }

    /// Runs the CLI on the controller and reads its JSON.
    #[track_caller]
    pub fn asked(&self, arguments: &[&str]) -> Value {
        let mut argv = arguments.to_vec();
        argv.extend(["--output", "json"]);
        self.canasta(&argv).json()
    }

    /// Starts the CLI on the controller and does not wait for it. It is known by its number in the node, since an end of
    /// the child here would only end the hold on it.
    pub fn start(&self, arguments: &[&str]) -> Running {
        let mut argv = vec!["sh", "-c", "echo $$; exec canasta \"$@\"", "canasta"];
        argv.extend(arguments);
        let mut child = self
            .lab
            .spawn("ctl", &argv, |command| {
                command.stdout(Stdio::piped()).stderr(Stdio::null());
            })
            .expect("the CLI starts");
        let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut pid = String::new();
        out.read_line(&mut pid).expect("a number");
        Running {
            child,
            pid: pid.trim().to_owned(),
            out,
        }
    }

    /// `host add` for a host, or `host token` where it is known already.
    fn joining<'a>(&self, host: &'a str) -> [&'a str; 4] {
        let known = self.asked(&["host", "list"])["hosts"]
            .as_array()
            .is_some_and(|hosts| hosts.iter().any(|row| row["name"] == host));
        if known {
            ["host", "token", "--name", host]
        } else {
            ["host", "add", "--name", host]
        }
    }

    /// The controller's address and a join token for a host, which is added if it is not known.
    pub fn token(&self, host: &str) -> (String, String) {
        let added = self.asked(&self.joining(host));
        let text = |key: &str| added["join"][key].as_str().expect("text").to_owned();
        (text("controller_address"), text("token"))
    }

    /// Enrols a node under its own name, if it is not, with the command that a person is shown, as it stands there.
    pub fn enrol(&self, node: &str) {
        if self.state_of(node) == "connected" {
            return;
        }
        let told = self.canasta(&self.joining(node)).ok();
        let command = told
            .lines()
            .map(str::trim)
            .find(|line| line.starts_with("canasta-agent join "))
            .unwrap_or_else(|| panic!("no command is told: {told}"));
        self.run(node, &["sh", "-c", command]).ok();
        self.until_state(node, "connected");
    }

    /// The state of a host as the controller tells it; empty if it is not known.
    pub fn state_of(&self, host: &str) -> String {
        let list = self.asked(&["host", "list"]);
        let rows = list["hosts"].as_array().expect("a list");
        rows.iter()
            .find(|row| row["name"] == host)
            .and_then(|row| row["state"].as_str())
            .unwrap_or_default()
            .to_owned()
    }

    /// Waits until a host has this state.
    #[track_caller]
    pub fn until_state(&self, host: &str, state: &str) {
        self.until(&format!("{host} is {state}"), 60, || {
            self.state_of(host) == state
        });
    }

    /// Waits until something is so, at most so many seconds.
    #[track_caller]
    pub fn until(&self, what: &str, seconds: u64, condition: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        while !condition() {
            assert!(Instant::now() < deadline, "not within {seconds} s: {what}");
            // What is asked lies in another machine and has no event for this process.
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Enrols a node and installs a control plane on it.
    pub fn install(&self, node: &str) {
        self.enrol(node);
        self.canasta(&["install", "k8s-cp", "--host", node]).ok();
    }

    /// An operation as `operation show` tells it.
    #[track_caller]
    pub fn operation(&self, id: &str) -> Value {
        self.asked(&["operation", "show", id])["operation"].clone()
    }

    /// The newest operation on a host.
    #[track_caller]
    pub fn newest_operation(&self, host: &str) -> Value {
        let list = self.asked(&["operation", "list", "--host", host, "--limit", "1"]);
        self.operation(list["operations"][0]["id"].as_str().expect("an operation"))
    }

    /// The outcome of each step of the newest operation on a host, by step.
    pub fn outcomes(&self, host: &str) -> Vec<(String, String)> {
        let shown = self.newest_operation(host);
        let steps = shown["steps"].as_array().expect("steps");
        let text = |step: &Value, key: &str| step[key].as_str().unwrap_or_default().to_owned();
        steps
            .iter()
            .map(|step| (text(step, "id"), text(step, "outcome")))
            .collect()
    }

    /// The nodes of a cluster as `cluster show` tells them.
    pub fn nodes(&self, cluster: &str) -> Vec<Value> {
        let shown = self.asked(&["cluster", "show", cluster]);
        shown["clusters"][0]["nodes"]
            .as_array()
            .cloned()
            .unwrap_or_default()
    }

    /// A property of a unit in a node.
    pub fn unit(&self, node: &str, unit: &str, property: &str) -> String {
        let argv = ["systemctl", "show", "--value", "--property", property, unit];
        self.run(node, &argv).ok().trim().to_owned()
    }
}
