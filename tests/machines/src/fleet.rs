//! A lab with a controller and nodes, and the commands that a user would type in it.
//!
//! For the tests on machines and for the bench: everything here panics where a command does not do what it must, as an
//! assertion does. The settings come from `./dev`, in the environment.

use std::path::PathBuf;
use std::process::Child;
use std::time::{Duration, Instant};

use crate::{DEFAULT_VERSION, Lab, Payload, Releases, UpOptions};
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

    /// Standard output as JSON, of a program that must have ended well.
    #[track_caller]
    pub fn json(self) -> Value {
        let out = self.ok();
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
    }
}

/// A lab whose node `ctl` is the controller.
#[derive(Debug)]
pub struct Fleet {
    /// The lab itself, for cuts and power.
    pub lab: Lab,
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
        let fleet = Self { lab };
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

    /// Starts the CLI on the controller and does not wait for it.
    pub fn start(&self, arguments: &[&str]) -> Child {
        let mut argv = vec!["canasta"];
        argv.extend(arguments);
        self.lab
            .spawn("ctl", &argv, |command| {
                command
                    .stdout(std::process::Stdio::piped())
                    .stderr(std::process::Stdio::null());
            })
            .expect("the CLI starts")
    }

    /// A join token for a host, which is added if it is not known.
    pub fn token(&self, host: &str) -> (String, String) {
        let known = self.asked(&["host", "list"])["hosts"]
            .as_array()
            .is_some_and(|hosts| hosts.iter().any(|row| row["name"] == host));
        let added = if known {
            self.asked(&["host", "token", host])
        } else {
            self.asked(&["host", "add", "--name", host])
        };
        let text = |key: &str| added["join"][key].as_str().expect("text").to_owned();
        (text("controller_address"), text("token"))
    }

    /// Enrols a node under its own name, if it is not.
    pub fn enrol(&self, node: &str) {
        if self.state_of(node) == "connected" {
            return;
        }
        let (controller, token) = self.token(node);
        let argv = [
            "canasta-agent",
            "join",
            "--controller",
            &controller,
            "--token-file",
            "-",
        ];
        self.run_with_input(node, &argv, token.as_bytes()).ok();
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

    /// The outcome of each step of the newest operation on a host, by step.
    pub fn outcomes(&self, host: &str) -> Vec<(String, String)> {
        let list = self.asked(&["operation", "list", "--host", host, "--limit", "1"]);
        let id = list["operations"][0]["id"]
            .as_str()
            .expect("an operation")
            .to_owned();
        let shown = self.asked(&["operation", "show", &id]);
        let steps = shown["operation"]["steps"].as_array().expect("steps");
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
