//! The apt repository of a lab: made of packages of the machine's own release, served on the bridge, and the only one that
//! nodes know.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use super::error::at;
use super::{Lab, LabError};
use crate::base;
use crate::node::Machine;
use crate::release;
use crate::repository;
use crate::state::State;

impl Lab {
    /// Serves these packages to the nodes as an apt repository, with all that a new node lacks for them, in the place of
    /// what was served before. It is what all nodes have in their sources, also those that come up later, until
    /// [`Lab::without_apt_repository`]; their `apt-get update` is left to who installs something.
    ///
    /// The packages are downloaded by this machine's apt the first time that any lab asks for them.
    pub fn apt_repository(&self, packages: &[&str]) -> Result<(), LabError> {
        let repository = self.apt_packages(packages)?;
        let _lock = self.lock()?;
        let state = self.load()?;
        if release::running(&self.layout).is_empty() {
            return Err(LabError::NoServer {
                lab: self.name().to_owned(),
            });
        }
        let link = self.layout.repository();
        let new = link.with_extension("new");
        drop(fs::remove_file(&new));
        symlink(&repository, &new).map_err(at(&new))?;
        fs::rename(&new, &link).map_err(at(&link))?;
        self.write_sources(&state)
    }

    /// Serves no apt repository any more, and no node has one in its sources: as it is in a new lab.
    pub fn without_apt_repository(&self) -> Result<(), LabError> {
        let link = self.layout.repository();
        if link.symlink_metadata().is_err() {
            return Ok(());
        }
        let _lock = self.lock()?;
        match fs::remove_file(&link) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&link)(error)),
            _ => {}
        }
        self.write_sources(&self.load()?)
    }

    /// Has the machine's apt download packages, with all that a new node lacks for them, where that was not done before.
    pub(crate) fn apt_packages(&self, packages: &[&str]) -> Result<PathBuf, LabError> {
        // For what it checks: root alone may write to where this is kept.
        drop(self.lock()?);
        let locks = self.layout.locks();
        let base = base::ensure(&self.layout.bases(), &locks.join("base"), &self.say)?;
        let repositories = self.layout.repositories();
        Ok(repository::ensure(
            &repositories,
            &locks.join("apt"),
            &base,
            packages,
            &self.say,
        )?)
    }

    /// Gives every node the lab's apt repository as its only source, or none. A node comes with the sources that its root
    /// file system was made from, none of which it reaches.
    pub(super) fn write_sources(&self, state: &State) -> Result<(), LabError> {
        let source = if self.layout.repository().exists() {
            release::apt_source(&self.layout)
        } else {
            "# This lab serves no packages.".to_owned()
        };
        for name in state.nodes.keys() {
            let machine = Machine::new(&self.layout, name);
            if machine.mounted() {
                machine.write("etc/apt/sources.list", &format!("{source}\n"))?;
            }
        }
        Ok(())
    }
}
