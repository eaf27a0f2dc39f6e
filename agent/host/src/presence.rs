//! Container engines and Kubernetes distributions that are on the machine already.
//!
//! Called by the preflight of an installation: two of them on one machine fight over ports, packet rules and control groups.

use serde::{Deserialize, Serialize};

use crate::files::{FileError, Root};
use crate::systemd::{Systemd, SystemdError};

#[cfg(test)]
mod tests;

/// The question couldn't be answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PresenceError {
    /// systemd didn't tell about a unit.
    #[error(transparent)]
    Systemd(#[from] SystemdError),
    /// A file couldn't be looked at.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Something that was found, and by what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// What it is, for people: `RKE2 server`.
    pub name: String,
    /// The unit or path that shows it.
    pub evidence: String,
}

/// What is there beside us. k3s itself isn't looked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// Docker, if its unit is active or its socket is there.
    pub docker: Option<Found>,
    /// Other Kubernetes distributions, one entry for each sign of one.
    pub kubernetes: Vec<Found>,
}

/// Units whose being loaded (installed) is a sign, with the distribution.
const UNITS: [(&str, &str); 8] = [
    ("kubelet.service", "kubelet of another Kubernetes"),
    ("rke2-server.service", "RKE2 server"),
    ("rke2-agent.service", "RKE2 agent"),
    ("k0scontroller.service", "k0s controller"),
    ("k0sworker.service", "k0s worker"),
    ("snap.microk8s.daemon-kubelite.service", "MicroK8s"),
    ("snap.microk8s.daemon-kubelet.service", "MicroK8s"),
    ("snap.k8s.kubelet.service", "Canonical Kubernetes"),
];

/// Directories with something in them that are a sign, with the distribution.
const DIRECTORIES: [(&str, &str); 2] = [
    (
        "/etc/kubernetes/manifests",
        "control plane set up by kubeadm",
    ),
    ("/snap/microk8s/current", "MicroK8s"),
];

/// Looks for container engines and other Kubernetes distributions.
pub async fn presence(root: &Root, systemd: &dyn Systemd) -> Result<Presence, PresenceError> {
    let mut presence = Presence {
        docker: docker(root, systemd).await?,
        kubernetes: Vec::new(),
    };
    for (unit, name) in UNITS {
        let state = systemd.unit(unit).await?;
        if state.is_loaded() {
            let evidence = format!("{unit} is installed and {}", state.active_state);
            presence.kubernetes.push(Found {
                name: name.to_owned(),
                evidence,
            });
        }
    }
    for (directory, name) in DIRECTORIES {
        if !root.list(directory).await?.is_empty() {
            let evidence = format!("{directory} is not empty");
            presence.kubernetes.push(Found {
                name: name.to_owned(),
                evidence,
            });
        }
    }
    Ok(presence)
}

async fn docker(root: &Root, systemd: &dyn Systemd) -> Result<Option<Found>, PresenceError> {
    let found = |evidence: &str| {
        Some(Found {
            name: "Docker".to_owned(),
            evidence: evidence.to_owned(),
        })
    };
    if systemd.unit("docker.service").await?.is_active() {
        return Ok(found("docker.service is active"));
    }
    let socket = "/var/run/docker.sock";
    Ok(if root.exists(socket).await? {
        found("/var/run/docker.sock exists")
    } else {
        None
    })
}
