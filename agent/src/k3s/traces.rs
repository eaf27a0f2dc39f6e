//! What of k3s is on this node, whoever put it there. Cheap: asks systemd and looks for files, hashes and runs nothing.
//!
//! Facts, preflight, adopt and the guards of the install steps judge by it.

use canasta_host::Host;
use canasta_host::systemd::Unit;
use canasta_proto::pb::{K3sOrigin, K3sRole};

use super::record::{Origin, Record};
use super::{Error, paths};

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct Traces {
    /// The unit of a server, if systemd knows one.
    pub server_unit: Option<Unit>,
    /// The unit of an agent, if systemd knows one.
    pub agent_unit: Option<Unit>,
    /// The binary; the first of the known places.
    pub binary: Option<String>,
    /// Whether a server's data directory has something in it.
    pub server_data: bool,
    /// The script of k3s's own installer.
    pub uninstall_script: Option<String>,
    /// The agent's record.
    pub record: Option<Record>,
}

impl Traces {
    /// Looks.
    pub async fn look(host: &Host) -> Result<Self, Error> {
        let known = async |name| -> Result<Option<Unit>, Error> {
            Ok(Some(host.systemd.unit(name).await?).filter(Unit::is_loaded))
        };
        let mut binary = None;
        for path in [paths::BINARY].into_iter().chain(paths::OTHER_BINARIES) {
            if binary.is_none() && host.root.exists(path).await? {
                binary = Some(path.to_owned());
            }
        }
        let mut uninstall_script = None;
        for path in paths::UNINSTALL_SCRIPTS {
            if uninstall_script.is_none() && host.root.exists(path).await? {
                uninstall_script = Some(path.to_owned());
            }
        }
        let (server_unit, agent_unit) =
            tokio::try_join!(known(paths::SERVER_UNIT), known(paths::AGENT_UNIT))?;
        Ok(Self {
            server_unit,
            agent_unit,
            binary,
            server_data: !host.root.list(paths::SERVER_DIR).await?.is_empty(),
            uninstall_script,
            record: Record::load(host).await?,
        })
    }

    /// The unit that counts: a server's before an agent's.
    pub fn unit(&self) -> Option<&Unit> {
        self.server_unit.as_ref().or(self.agent_unit.as_ref())
    }

    /// What the node is by its units; by the record where there is none.
    pub fn role(&self) -> K3sRole {
        match (&self.server_unit, &self.agent_unit, &self.record) {
            (Some(_), _, _) => K3sRole::Server,
            (None, Some(_), _) => K3sRole::Agent,
            (None, None, Some(record)) => record.role.into(),
            (None, None, None) => K3sRole::Unspecified,
        }
    }

    /// Whether a unit, a binary or data are there.
    pub fn is_present(&self) -> bool {
        self.unit().is_some() || self.binary.is_some() || self.server_data
    }

    /// Who put it there.
    pub fn origin(&self) -> K3sOrigin {
        match &self.record {
            _ if !self.is_present() => K3sOrigin::Unspecified,
            // Such a record is left of an install that never wrote anything of k3s.
            Some(record) if record.origin == Origin::Installed && !record.is_install() => {
                K3sOrigin::Foreign
            }
            Some(record) => record.origin.into(),
            None => K3sOrigin::Foreign,
        }
    }

    /// What was found, in words.
    pub fn in_words(&self) -> Vec<String> {
        let units = [&self.server_unit, &self.agent_unit];
        let mut found: Vec<String> = units
            .into_iter()
            .flatten()
            .map(|unit| format!("unit {} ({})", unit.name, unit.active_state))
            .collect();
        found.extend(self.binary.as_ref().map(|path| format!("binary {path}")));
        if self.server_data {
            found.push(format!("data in {}", paths::SERVER_DIR));
        }
        found.extend(
            self.uninstall_script
                .as_ref()
                .map(|path| format!("script {path}")),
        );
        found
    }
}
