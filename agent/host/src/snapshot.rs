//! A record of what an installation can disturb: links, addresses, mounts, packet rules, units, directories, kernel settings.
//!
//! Taken before k3s is installed and kept; an uninstallation compares with it, to show that nothing is left and nothing is missing.
//! A part that couldn't be read is recorded with its reason, because a snapshot must not stop an installation.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use crate::Host;
use crate::mounts::{self, Mount};
use crate::network::{Address, Link, Route, rules::PacketRules, tables::Tables};
use crate::process::ProcessError;
use crate::systemd::ListedUnit;

#[cfg(test)]
mod tests;

/// Where network namespaces have names.
pub const NETNS: &str = "/run/netns";

/// What a snapshot looks at besides the network and the mounts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// Shell patterns of unit names: `k3s*`, `*.mount`.
    pub units: Vec<String>,
    /// Paths whose existence is recorded.
    pub directories: Vec<String>,
    /// Kernel settings by their dotted name: `net.ipv4.ip_forward`.
    pub sysctls: Vec<String>,
    /// Directories whose programs are looked for among the processes.
    pub programs: Vec<String>,
    /// Where iptables is looked for too where the machine has none; empty for nowhere.
    pub own_programs: String,
}

/// A part of a snapshot, or why it isn't there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part<T> {
    /// What was found.
    Known(T),
    /// Why it couldn't be found out.
    Unknown(String),
}

impl<T> Part<T> {
    fn of<E: Error>(answer: Result<T, E>) -> Self {
        match answer {
            Ok(known) => Self::Known(known),
            Err(error) => Self::Unknown(with_causes(&error)),
        }
    }

    /// What was found, if it was.
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Known(known) => Some(known),
            Self::Unknown(_) => None,
        }
    }
}

/// The record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// When it was taken, in seconds since 1970 UTC.
    pub taken: u64,
    /// All links.
    pub links: Part<Vec<Link>>,
    /// All addresses.
    pub addresses: Part<Vec<Address>>,
    /// Default routes.
    pub default_routes: Part<Vec<Route>>,
    /// PID 1's mounts.
    pub mounts: Part<Vec<Mount>>,
    /// Packet rules by tool.
    pub rules: PacketRules,
    /// Units that match the scope's patterns.
    pub units: Part<Vec<ListedUnit>>,
    /// Those of the scope's paths that exist.
    pub directories: Vec<String>,
    /// The scope's kernel settings that this kernel has.
    pub sysctls: BTreeMap<String, String>,
    /// iptables and ip6tables by kind of table. Pictures from before they were taken have none.
    #[serde(default)]
    pub tables: Vec<Tables>,
    /// Named network namespaces.
    #[serde(default)]
    pub netns: Vec<String>,
    /// Processes whose program lies below one of the scope's directories.
    #[serde(default = "nothing")]
    pub processes: Part<Vec<String>>,
}

fn nothing<T: Default>() -> Part<T> {
    Part::Known(T::default())
}

/// Takes a snapshot.
pub async fn take(host: &Host, scope: &Scope) -> Snapshot {
    let patterns: Vec<&str> = scope.units.iter().map(String::as_str).collect();
    Snapshot {
        taken: host
            .machine
            .now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs(),
        links: Part::of(host.network.links().await),
        addresses: Part::of(host.network.addresses().await),
        default_routes: Part::of(host.network.default_routes().await),
        mounts: Part::of(mounts::read(&host.root).await),
        rules: host.network.packet_rules().await,
        units: Part::of(host.systemd.list_units(&patterns).await),
        directories: existing(host, &scope.directories).await,
        sysctls: sysctls(host, &scope.sysctls).await,
        tables: tables(host, &scope.own_programs).await,
        netns: host.root.list(NETNS).await.unwrap_or_default(),
        processes: Part::of(processes(host, &scope.programs).await),
    }
}

async fn tables(host: &Host, own_programs: &str) -> Vec<Tables> {
    let directory = match own_programs {
        "" => PathBuf::new(),
        directory => host.root.path(directory),
    };
    host.network.tables(&directory).await
}

async fn processes(host: &Host, directories: &[String]) -> Result<Vec<String>, ProcessError> {
    let running = host.processes.list().await?;
    let named = running.iter().filter_map(|process| {
        let program = process.program.as_ref().filter(|_| !process.is_zombie)?;
        let is_below = directories
            .iter()
            .any(|directory| program.starts_with(directory));
        is_below.then(|| format!("{} ({})", process.name, process.pid))
    });
    Ok(named.collect())
}

async fn existing(host: &Host, directories: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for directory in directories {
        if host.root.exists(directory).await.unwrap_or(false) {
            found.push(directory.clone());
        }
    }
    found
}

async fn sysctls(host: &Host, names: &[String]) -> BTreeMap<String, String> {
    let mut values = BTreeMap::new();
    for name in names {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        if let Ok(Some(value)) = host.root.read_text(path).await {
            values.insert(name.clone(), value.trim().to_owned());
        }
    }
    values
}

/// An error with its causes on one line.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
