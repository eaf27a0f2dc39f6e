//! Bringing nodes up: boot, names, releases, packages.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use super::error::at;
use super::{Lab, LabError, MACHINE, in_parallel};
use crate::base;
use crate::network;
use crate::node::Machine;
use crate::packages::{self, Package};
use crate::place::{CONTROLLER_NODE, valid_name};
use crate::process::Process;
use crate::program::checked;
use crate::release::{self, Releases};
use crate::settings::{KUBELET, Settings};
use crate::state::{self, State};

/// What nodes get when they are brought up.
#[derive(Debug, Clone, Default)]
pub struct UpOptions {
    /// Install the newest packages of this directory: controller and CLI on the node `ctl`, the
    /// agent on all others.
    pub packages: Option<PathBuf>,
    /// Serve releases of k3s to the lab, and make the controller use them.
    pub releases: Option<Releases>,
}

impl Lab {
    /// Brings the nodes up that are not, in parallel, and gives them what `options` says. Nodes
    /// that run and have the same packages are left as they are.
    pub fn up(&self, names: &[&str], options: &UpOptions) -> Result<(), LabError> {
        for name in names {
            if !valid_name(name) || *name == MACHINE {
                return Err(LabError::Name {
                    what: "node",
                    name: (*name).to_owned(),
                });
            }
        }
        let _lock = self.lock()?;
        // What is missing is told before anything is made.
        let mut selected = BTreeMap::new();
        if let Some(directory) = &options.packages {
            for name in names {
                selected.insert((*name).to_owned(), packages::select(directory, name)?);
            }
        }
        let serve = match &options.releases {
            Some(releases) => Some((releases, releases.argv(&self.layout)?)),
            None => None,
        };
        let base_lock = self.layout.locks().join("base");
        let base = base::ensure(&self.layout.bases(), &base_lock, &self.say)?;
        let mut state = self.load()?;
        for name in names {
            self.register(&mut state, name, &base)?;
        }
        self.save(&state)?;
        self.start_nodes(&mut state, names)?;
        if let Some((releases, argv)) = serve {
            if releases.is_real() {
                Settings::of(&self.layout).change(self.name(), &KUBELET)?;
            }
            self.serve(&mut state, argv)?;
            self.configure_controller(&state, releases)?;
        }
        self.install(&mut state, selected)
    }

    fn register(&self, state: &mut State, name: &str, base: &Path) -> Result<(), LabError> {
        if state.nodes.contains_key(name) {
            return Ok(());
        }
        let taken: Vec<_> = state.nodes.values().map(|node| node.address).collect();
        let address =
            self.layout
                .choose_address(name, &taken)
                .ok_or_else(|| LabError::NoAddress {
                    node: name.to_owned(),
                })?;
        let node = state::Node {
            address,
            base: base.to_owned(),
            nspawn: None,
            packages: BTreeMap::new(),
        };
        state.nodes.insert(name.to_owned(), node);
        Ok(())
    }

    /// Boots those of the nodes that do not run, all at once.
    pub(super) fn start_nodes(&self, state: &mut State, names: &[&str]) -> Result<(), LabError> {
        network::ensure(&self.layout).map_err(self.network_error())?;
        let stopped: Vec<&str> = names
            .iter()
            .copied()
            .filter(|name| {
                let nspawn = state.nodes.get(*name).and_then(|node| node.nspawn);
                Machine::new(&self.layout, name).leader(nspawn).is_err()
            })
            .collect();
        for name in &stopped {
            let node = self.node(state, name)?;
            let machine = Machine::new(&self.layout, name);
            machine.kill(node.nspawn)?;
            machine.prepare(node)?;
        }
        self.write_hosts(state)?;
        self.write_sources(state)?;
        let results = in_parallel(&stopped, |name| {
            (self.say)(&format!("booting {name}"));
            Machine::new(&self.layout, name).boot()
        });
        // All that did boot are recorded, whatever became of the others.
        let mut failure = None;
        for (name, result) in results {
            match result {
                Ok(nspawn) => {
                    if let Some(node) = state.nodes.get_mut(name) {
                        node.nspawn = Some(nspawn);
                    }
                }
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        self.save(state)?;
        failure.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Tells every node the names of all of them.
    fn write_hosts(&self, state: &State) -> Result<(), LabError> {
        let mut text = "127.0.0.1 localhost\n::1 localhost\n".to_owned();
        for (name, node) in &state.nodes {
            let _ = writeln!(text, "{} {name}", node.address);
        }
        for name in state.nodes.keys() {
            let machine = Machine::new(&self.layout, name);
            if machine.mounted() {
                machine.write("etc/hosts", &text)?;
            }
        }
        Ok(())
    }

    /// Starts the release server anew: its program or what it serves may have been rebuilt.
    pub(super) fn serve(&self, state: &mut State, argv: Vec<String>) -> Result<(), LabError> {
        for old in release::running(&self.layout) {
            old.kill();
        }
        state.release_server = Some(release::start(&self.layout, argv)?);
        self.save(state)
    }

    fn configure_controller(&self, state: &State, releases: &Releases) -> Result<(), LabError> {
        let Some(node) = state.nodes.get(CONTROLLER_NODE) else {
            return Ok(());
        };
        let pins = releases
            .versions()
            .into_iter()
            .map(|version| Ok((version, release::checksum(&self.layout, version)?)))
            .collect::<Result<Vec<_>, release::ReleaseError>>()?;
        let text = release::controller_settings(&self.layout, &releases.version, &pins);
        let machine = Machine::new(&self.layout, CONTROLLER_NODE);
        let path = "etc/canasta/controller.toml";
        if fs::read_to_string(machine.root().join(path)).is_ok_and(|old| old == text) {
            return Ok(());
        }
        machine.write(path, &text)?;
        // A controller that is there already reads its settings at start only.
        if let (Some(nspawn), false) = (node.nspawn, node.packages.is_empty()) {
            let argv = ["systemctl", "try-restart", "canasta-controller.service"];
            let output = machine.output(nspawn, &argv, b"")?;
            checked(&argv, output).map_err(|source| LabError::Install {
                node: CONTROLLER_NODE.to_owned(),
                source,
            })?;
        }
        Ok(())
    }

    fn install(
        &self,
        state: &mut State,
        mut selected: BTreeMap<String, Vec<Package>>,
    ) -> Result<(), LabError> {
        let names: Vec<&str> = selected.keys().map(String::as_str).collect();
        let there = in_parallel(&names, |name| {
            let list = selected.get(name).map(Vec::as_slice).unwrap_or_default();
            self.has(state, name, list)
        });
        let mut missing = BTreeSet::new();
        for (name, there) in there {
            if !there? {
                missing.insert(name.to_owned());
            }
        }
        selected.retain(|name, _| missing.contains(name));
        let names: Vec<&str> = selected.keys().map(String::as_str).collect();
        let results = in_parallel(&names, |name| {
            let nspawn = state.nodes.get(name).and_then(|node| node.nspawn);
            let list = selected.get(name).map(Vec::as_slice).unwrap_or_default();
            self.install_on(name, nspawn, list)
        });
        let mut failure = None;
        for (name, result) in results {
            match (result, state.nodes.get_mut(name), selected.get(name)) {
                (Ok(()), Some(node), Some(list)) => node.packages = packages::record(list),
                (Err(error), ..) => failure = failure.or(Some(error)),
                _ => {}
            }
        }
        self.save(state)?;
        failure.map_or(Ok(()), Err)
    }

    /// Whether a node has these packages: by the record, and by what the node says, since a package can be removed there.
    fn has(&self, state: &State, name: &str, list: &[Package]) -> Result<bool, LabError> {
        let Some(node) = state.nodes.get(name) else {
            return Ok(true);
        };
        let (Some(nspawn), true) = (node.nspawn, node.packages == packages::record(list)) else {
            return Ok(false);
        };
        let mut argv = vec![
            "dpkg-query",
            "--show",
            "--showformat=${db:Status-Status}\\n",
        ];
        argv.extend(list.iter().map(|package| package.name));
        let output = Machine::new(&self.layout, name).output(nspawn, &argv, b"")?;
        let text = output.text();
        Ok(output.status.success() && text.lines().all(|status| status == "installed"))
    }

    fn install_on(
        &self,
        name: &str,
        nspawn: Option<Process>,
        list: &[Package],
    ) -> Result<(), LabError> {
        let files: Vec<_> = list.iter().map(|package| package.file.as_str()).collect();
        (self.say)(&format!("installing {} on {name}", files.join(" and ")));
        let machine = Machine::new(&self.layout, name);
        machine.leader(nspawn)?;
        let shelf = machine.var().join("cache/canasta-lab");
        fs::create_dir_all(&shelf).map_err(at(&shelf))?;
        let mut argv = vec![
            "env".to_owned(),
            "DEBIAN_FRONTEND=noninteractive".to_owned(),
            "dpkg".to_owned(),
            "--force-confold".to_owned(),
            "--install".to_owned(),
        ];
        for package in list {
            let copy = shelf.join(&package.file);
            fs::copy(&package.path, &copy).map_err(at(&copy))?;
            argv.push(format!("/var/cache/canasta-lab/{}", package.file));
        }
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        let Some(nspawn) = nspawn else {
            return Ok(());
        };
        let output = machine.output(nspawn, &argv, b"")?;
        checked(&argv, output).map_err(|source| LabError::Install {
            node: name.to_owned(),
            source,
        })?;
        fs::remove_dir_all(&shelf).map_err(at(&shelf))
    }
}
