//! A cluster as a user makes it grow and shrink, and what its API says, asked on its control plane.
//!
//! For the tests on machines and the bench, through [`Fleet`].

use serde_json::Value;

use super::{Fleet, Ran};

impl Fleet {
    /// Has workers join a control plane, in one call.
    pub fn join(&self, control_plane: &str, workers: &[&str]) -> Ran {
        let mut argv = vec!["install", "k8s-worker", "--cp-host", control_plane];
        for worker in workers {
            argv.extend(["--host", worker]);
        }
        self.canasta(&argv)
    }

    /// Brings up a control plane and its workers, all new.
    pub fn cluster(control_plane: &str, workers: &[&str]) -> Self {
        let mut nodes = vec![control_plane];
        nodes.extend(workers);
        let fleet = Self::up(&nodes);
        fleet.install(control_plane);
        for worker in workers {
            fleet.enrol(worker);
        }
        fleet.join(control_plane, workers).ok();
        fleet
    }

    /// Sets how the stand-in behaves on a node, from its next start on: lines of YAML. A real k3s never reads them.
    pub fn standin_behaves(&self, node: &str, settings: &str) {
        let path = "/etc/rancher/k3s/standin.yaml";
        let written = self.lab.write(node, path, settings.as_bytes(), 0o644);
        written.expect("written");
    }

    /// Uninstalls k3s from a host, confirmed by its flag.
    pub fn uninstall(&self, host: &str, flags: &[&str]) -> Ran {
        let mut argv = vec!["uninstall", "k8s", "--host", host, "--yes"];
        argv.extend(flags);
        self.canasta(&argv)
    }

    /// Runs kubectl on a control plane, as root there.
    pub fn kubectl(&self, control_plane: &str, arguments: &[&str]) -> Ran {
        let mut argv = vec!["/usr/local/bin/k3s", "kubectl"];
        argv.extend(arguments);
        self.run(control_plane, &argv)
    }

    /// An object or a list of the API; none where there is nothing of this path.
    pub fn object(&self, control_plane: &str, path: &str) -> Option<Value> {
        let answer = self.kubectl(control_plane, &["get", "--raw", path]);
        (answer.code == 0).then(|| answer.json())
    }

    /// The names of what stands at a path of the API.
    pub fn names(&self, control_plane: &str, path: &str) -> Vec<String> {
        let list = self.object(control_plane, path).expect("a list");
        let items = list["items"].as_array().expect("items");
        let name = |item: &Value| item["metadata"]["name"].as_str().map(str::to_owned);
        items.iter().filter_map(name).collect()
    }

    /// Makes an object.
    ///
    /// # Panics
    /// When the API does not take it.
    pub fn create(&self, control_plane: &str, path: &str, object: &Value) -> Value {
        let file = "/run/object.json";
        let text = object.to_string();
        self.lab
            .write(control_plane, file, text.as_bytes(), 0o600)
            .expect("written");
        self.kubectl(control_plane, &["create", "--raw", path, "-f", file])
            .json()
    }

    /// Whether a Node is Ready, as the controller sees it; none where it is unknown or there is none.
    pub fn node_ready(&self, cluster: &str, node: &str) -> Option<bool> {
        let nodes = self.nodes(cluster);
        let found = nodes.iter().find(|found| found["name"] == node)?;
        found["ready"].as_bool()
    }

    /// Waits until a Node is Ready.
    #[track_caller]
    pub fn until_ready(&self, cluster: &str, node: &str) {
        self.until(&format!("node {node} is Ready"), 120, || {
            self.node_ready(cluster, node) == Some(true)
        });
    }
}
