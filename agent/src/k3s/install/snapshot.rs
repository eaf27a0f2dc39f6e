//! Keeps a picture of the node from before the first install, for the uninstall to compare with.

use canasta_host::snapshot::{self, Scope};
use canasta_steps::{Done, StepError};

use super::Work;
use crate::k3s::record::Record;
use crate::k3s::{Error, paths};

/// Units that come and go with k3s.
const UNITS: [&str; 2] = ["k3s*", "*.mount"];

/// Directories and files that k3s or its installers make.
const DIRECTORIES: [&str; 27] = [
    paths::BINARY,
    paths::LINK_FILE,
    "/etc/systemd/system/k3s.service",
    "/etc/systemd/system/k3s.service.env",
    "/etc/systemd/system/k3s-agent.service",
    "/etc/systemd/system/k3s-agent.service.env",
    "/etc/systemd/system/multi-user.target.wants/k3s.service",
    "/etc/systemd/system/multi-user.target.wants/k3s-agent.service",
    "/etc/rancher",
    "/etc/rancher/k3s",
    "/etc/rancher/node",
    "/etc/cni",
    "/etc/systemd/network",
    "/opt/cni",
    "/run/k3s",
    "/run/flannel",
    "/run/containerd",
    paths::RUNC_DIR,
    "/var/lib/rancher",
    "/var/lib/rancher/k3s",
    "/var/lib/cni",
    "/var/lib/kubelet",
    "/var/log/pods",
    "/var/log/containers",
    "/usr/local/bin/kubectl",
    "/usr/local/bin/crictl",
    "/usr/local/bin/ctr",
];

/// Kernel settings that k3s changes.
const SYSCTLS: [&str; 12] = [
    "net.ipv4.ip_forward",
    "net.ipv4.conf.all.forwarding",
    "net.ipv4.conf.all.rp_filter",
    "net.ipv4.conf.all.route_localnet",
    "net.ipv6.conf.all.forwarding",
    "net.bridge.bridge-nf-call-iptables",
    "net.bridge.bridge-nf-call-ip6tables",
    "net.netfilter.nf_conntrack_max",
    "vm.overcommit_memory",
    "vm.panic_on_oom",
    "kernel.panic",
    "kernel.panic_on_oops",
];

/// What the picture is of.
pub(crate) fn scope() -> Scope {
    let list = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    Scope {
        units: list(&UNITS),
        directories: list(&DIRECTORIES),
        sysctls: list(&SYSCTLS),
        programs: list(&[paths::DATA_DIR]),
        own_programs: paths::BUNDLED_PROGRAMS.to_owned(),
    }
}

impl Work<'_> {
    pub(super) async fn snapshot(&self, record: &Record) -> Result<Done, StepError> {
        let root = &self.host.root;
        if root.exists(paths::SNAPSHOT).await.map_err(Error::from)? {
            return Ok(Done::unchanged(format!("{} is kept", paths::SNAPSHOT)));
        }
        if record.is_install() {
            return Ok(Done::skipped(
                "k3s is installed already, so nothing shows the node from before",
            ));
        }
        let mut taken = snapshot::take(self.host, &scope()).await;
        // The credential of a join may have come before, with the directories above it.
        taken
            .directories
            .retain(|directory| record.entry(directory).is_none());
        let content =
            serde_json::to_vec_pretty(&taken).expect("a snapshot is made of texts and numbers");
        root.create_dir_all(paths::OWNED_DIR, 0o700)
            .await
            .map_err(Error::from)?;
        root.write(paths::SNAPSHOT, content, 0o600)
            .await
            .map_err(Error::from)?;
        Ok(Done::changed(format!("kept in {}", paths::SNAPSHOT)))
    }
}
