//! The rules of the preflight, one function each: pure, from what was observed to findings.

use canasta_host::machine::cgroup::Version;
use canasta_host::machine::{Arch, Facts};
use canasta_proto::pb::{Finding, K3sOrigin, K3sRole, Severity};

use super::Observed;
use crate::k3s::paths;

mod k3s;
mod ports;

const MIB: u64 = 1024 * 1024;
const GIB: u64 = 1024 * MIB;
/// Below this a control plane with a wiki has too little memory. A machine sold with 4 GiB reports 3700 to 3900 MiB.
const MEMORY: u64 = 3500 * MIB;
/// Below this images and volumes have too little room.
const DISK: u64 = 15 * GIB;
/// Kernel features without which no pod gets a network. The lack of others is a warning: kernels name them differently.
const ESSENTIAL: [&str; 6] = [
    "bridge",
    "veth",
    "vxlan",
    "overlay",
    "nf_conntrack",
    "nf_nat",
];
/// Kernel features that k3s doesn't need. NFS is for shared storage, and judged there.
const NOT_FOR_K3S: [&str; 2] = ["nfs", "nfsv4"];
/// The longest hostname, and the longest part of it between dots.
const LONGEST_NAME: usize = 253;
const LONGEST_LABEL: usize = 63;

/// Judges all rules; errors first, then warnings, each in the order of the rules.
pub fn judge(seen: &Observed, role: K3sRole) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(facts) = &seen.facts {
        machine(facts, &mut findings);
        hostname(&facts.hostname, &mut findings);
    }
    k3s::judge(seen, role, &mut findings);
    ports::judge(seen, role, &mut findings);
    node_ip(seen, &mut findings);
    kernel(seen, &mut findings);
    disk(seen, &mut findings);
    for what in &seen.unseen {
        findings.push(warning(
            "CHECK_NOT_POSSIBLE",
            what.split(':').next().unwrap_or_default(),
            format!("could not be checked: {what}"),
            "look at the reason on the node; the install can go on, but nobody has checked this",
        ));
    }
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}

fn finding(severity: Severity, code: &str, subject: &str, message: String, mend: &str) -> Finding {
    Finding {
        code: code.to_owned(),
        severity: severity.into(),
        message,
        subject: subject.to_owned(),
        mend: mend.to_owned(),
    }
}

fn error(code: &str, subject: &str, message: String, mend: &str) -> Finding {
    finding(Severity::Error, code, subject, message, mend)
}

fn warning(code: &str, subject: &str, message: String, mend: &str) -> Finding {
    finding(Severity::Warning, code, subject, message, mend)
}

fn machine(facts: &Facts, findings: &mut Vec<Finding>) {
    if facts.uid != 0 {
        findings.push(error(
            "NOT_ROOT",
            "canasta-agent",
            format!("canasta-agent runs as user {}, not as root", facts.uid),
            "run it as its unit does: `systemctl edit canasta-agent` must not set User=",
        ));
    }
    if !facts.init_is_systemd {
        findings.push(error(
            "NO_SYSTEMD",
            "PID 1",
            "PID 1 is not systemd".to_owned(),
            "use a distribution with systemd; k3s is run as a unit of it",
        ));
    }
    if matches!(facts.arch, Arch::Other(_)) {
        findings.push(error(
            "ARCH_UNSUPPORTED",
            &facts.arch.to_string(),
            format!("k3s has no release for {}", facts.arch),
            "use a machine with x86_64, aarch64, armhf or s390x",
        ));
    }
    cgroup(facts, findings);
    if facts.memory_total < MEMORY {
        findings.push(warning(
            "MEMORY_LOW",
            "memory",
            format!(
                "the machine has {} MiB of memory, less than {} MiB",
                facts.memory_total / MIB,
                MEMORY / MIB
            ),
            "give the machine 4 GiB or more; k3s alone runs in 2 GiB, with a wiki it will be short",
        ));
    }
    if facts.swap_total > 0 {
        findings.push(warning(
            "SWAP_ON",
            "swap",
            format!(
                "{} MiB of swap are on; memory limits of pods don't hold with it",
                facts.swap_total / MIB
            ),
            "`swapoff -a`, and take the swap out of /etc/fstab",
        ));
    }
}

fn cgroup(facts: &Facts, findings: &mut Vec<Finding>) {
    let cgroup = facts.cgroup;
    if cgroup.memory == Some(false) {
        findings.push(error(
            "CGROUP_MEMORY_MISSING",
            "cgroup",
            "the kernel's memory control group is off; k3s does not start without it".to_owned(),
            "add `cgroup_memory=1 cgroup_enable=memory` to the kernel's command line (on a Raspberry Pi /boot/firmware/cmdline.txt) and reboot",
        ));
    }
    if matches!(cgroup.version, Version::V1 | Version::Hybrid) {
        let kind = if cgroup.version == Version::V1 {
            "version 1"
        } else {
            "version 1 and 2 mixed"
        };
        findings.push(warning(
            "CGROUP_V1",
            "cgroup",
            format!("control groups are of {kind}; Kubernetes maintains version 1 no longer"),
            "boot with `systemd.unified_cgroup_hierarchy=1`, or upgrade the distribution",
        ));
    }
}

/// The Node gets the hostname in lower case.
fn hostname(hostname: &str, findings: &mut Vec<Finding>) {
    let name = hostname.to_lowercase();
    let is_label = |label: &str| {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let bytes = label.as_bytes();
        (1..=LONGEST_LABEL).contains(&bytes.len())
            && bytes.iter().all(|&byte| plain(byte) || byte == b'-')
            && plain(bytes[0])
            && plain(bytes[bytes.len() - 1])
    };
    let what = if name == "localhost" || name.starts_with("localhost.") {
        "is what every machine is called"
    } else if name.len() > LONGEST_NAME || !name.split('.').all(is_label) {
        "is no name that a Node can have (letters, digits, - and ., each part at most 63 characters)"
    } else {
        return;
    };
    let shown = hostname.escape_debug();
    findings.push(error(
        "HOSTNAME_INVALID",
        "hostname",
        format!("the hostname \"{shown}\" {what}"),
        "set another one: `hostnamectl set-hostname NAME`",
    ));
}

fn node_ip(seen: &Observed, findings: &mut Vec<Finding>) {
    if seen.node_ip == Some(None) {
        findings.push(error(
            "NO_NODE_IP",
            "network",
            "no link has an address that other nodes could use".to_owned(),
            "give the machine an address that is neither loopback nor link-local (`ip address` shows what it has)",
        ));
    }
}

/// Features that are known to be missing. What isn't known is no finding.
fn kernel(seen: &Observed, findings: &mut Vec<Finding>) {
    for (feature, known) in &seen.kernel_features {
        if *known == Some(false) && !NOT_FOR_K3S.contains(&feature.as_str()) {
            let severity = if ESSENTIAL.contains(&feature.as_str()) {
                Severity::Error
            } else {
                Severity::Warning
            };
            findings.push(finding(
                severity,
                "KERNEL_FEATURE_MISSING",
                feature,
                format!("the kernel has no {feature}, neither built in nor as an installed module"),
                "install the kernel's extra modules (Ubuntu: linux-modules-extra-*, RHEL and Oracle: kernel-modules-extra) or another kernel",
            ));
        }
    }
}

fn disk(seen: &Observed, findings: &mut Vec<Finding>) {
    let Some(disk) = seen.disk.as_ref().filter(|disk| disk.free < DISK) else {
        return;
    };
    let at = disk.mount_point.as_ref().map_or_else(String::new, |point| {
        format!(" (file system {})", point.display())
    });
    findings.push(warning(
        "DISK_LOW",
        paths::DATA_DIR,
        format!(
            "{} has {} MiB free{at}, less than {} GiB",
            paths::DATA_DIR,
            disk.free / MIB,
            DISK / GIB
        ),
        "make room, or mount a larger file system there before the install",
    ));
}

/// Whether k3s here was installed by this agent.
fn is_own(seen: &Observed) -> bool {
    seen.k3s
        .as_ref()
        .is_some_and(|k3s| k3s.origin() == K3sOrigin::Installed)
}
