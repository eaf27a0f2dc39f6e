//! Telling what a lab consists of and what of it runs.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::Serialize;

use super::{Lab, LabError};
use crate::cut::Cut;
use crate::node::Machine;

/// What is known of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Its address in the lab's network.
    pub address: Ipv4Addr,
    /// Whether it runs.
    pub running: bool,
    /// Its first process, numbered as on the machine, while it runs.
    pub leader: Option<i32>,
    /// The files of the packages that the lab installed.
    pub packages: Vec<String>,
}

/// What is known of a lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The lab's name.
    pub lab: String,
    /// The path of its network namespace.
    pub netns: PathBuf,
    /// The machine's own address in it.
    pub gateway: Ipv4Addr,
    /// Its nodes by name.
    pub nodes: Vec<NodeStatus>,
    /// The cuts that are in force.
    pub cuts: Vec<Cut>,
    /// Where the release server answers, if it runs.
    pub release_server: Option<String>,
}

impl Lab {
    /// The address of a node.
    pub fn address(&self, node: &str) -> Result<Ipv4Addr, LabError> {
        let state = self.load()?;
        Ok(self.node(&state, node)?.address)
    }

    /// What is known of the lab.
    pub fn status(&self) -> Result<Status, LabError> {
        let state = self.load()?;
        let nodes = state
            .nodes
            .iter()
            .map(|(name, node)| {
                let leader = Machine::new(&self.layout, name).leader(node.nspawn).ok();
                NodeStatus {
                    name: name.clone(),
                    address: node.address,
                    running: leader.is_some(),
                    leader: leader.map(|process| process.pid),
                    packages: node.packages.keys().cloned().collect(),
                }
            })
            .collect();
        Ok(Status {
            lab: self.name().to_owned(),
            netns: self.netns(),
            gateway: self.gateway(),
            nodes,
            cuts: state.cuts,
            release_server: state
                .release_server
                .filter(|server| server.process.alive())
                .map(|server| server.address.to_string()),
        })
    }
}
