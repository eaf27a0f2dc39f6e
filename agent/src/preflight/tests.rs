//! Every rule both ways, from one observation that has no findings.

use std::net::{IpAddr, Ipv4Addr};

use canasta_host::fake::FakeHost;
use canasta_host::machine::cgroup::{Cgroup, Version};
use canasta_host::machine::{Arch, Listener, Protocol};
use canasta_host::network::rules::{PacketRules, Ruleset};
use canasta_host::presence::Found;
use canasta_host::systemd::Unit;
use canasta_proto::pb::{Finding, K3sRole, Severity};

use super::{Observed, preflight, rules};
use crate::k3s::paths;
use crate::k3s::record::{Kind, Origin, Owned, Record, Role};
use crate::k3s::traces::Traces;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const ALL: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

async fn good() -> Observed {
    Observed::gather(&FakeHost::new("cp1").host()).await
}

fn codes(findings: &[Finding]) -> Vec<&str> {
    findings
        .iter()
        .map(|finding| finding.code.as_str())
        .collect()
}

fn judge(seen: &Observed) -> Vec<Finding> {
    rules::judge(seen, K3sRole::Server)
}

fn listener(
    protocol: Protocol,
    address: IpAddr,
    port: u16,
    process: Option<(u32, &str)>,
) -> Listener {
    Listener {
        protocol,
        address,
        port,
        inode: 1,
        pid: process.map(|(pid, _)| pid),
        process: process.map(|(_, name)| name.to_owned()),
    }
}

fn unit(name: &str, pid: Option<u32>) -> Unit {
    Unit {
        name: name.to_owned(),
        load_state: "loaded".to_owned(),
        active_state: if pid.is_some() { "active" } else { "inactive" }.to_owned(),
        main_pid: pid,
        ..Unit::default()
    }
}

/// Traces of a k3s that this agent installed.
fn own(pid: Option<u32>) -> Traces {
    let mut record = Record::new(Origin::Installed, Role::Server);
    record.put(Owned {
        path: paths::BINARY.to_owned(),
        kind: Kind::File,
        sha256: String::new(),
        created: true,
    });
    Traces {
        server_unit: Some(unit("k3s.service", pid)),
        binary: Some(paths::BINARY.to_owned()),
        server_data: true,
        record: Some(record),
        ..Traces::default()
    }
}

#[tokio::test]
async fn a_good_machine_has_no_findings_and_is_not_changed() {
    let fake = FakeHost::new("cp1");
    assert_eq!(preflight(&fake.host(), K3sRole::Server).await, []);
    assert_eq!(fake.systemd.orders(), []);
    assert!(!fake.root.exists("/var/lib/canasta-agent").await.unwrap());
}

/// A rule: code, severity, what breaks it, and what the message must say.
type Case = (&'static str, Severity, fn(&mut Observed), &'static str);

const CASES: [Case; 24] = [
    (
        "NOT_ROOT",
        Severity::Error,
        |seen| seen.facts.as_mut().unwrap().uid = 1000,
        "user 1000",
    ),
    (
        "NO_SYSTEMD",
        Severity::Error,
        |seen| seen.facts.as_mut().unwrap().init_is_systemd = false,
        "PID 1",
    ),
    (
        "ARCH_UNSUPPORTED",
        Severity::Error,
        |seen| seen.facts.as_mut().unwrap().arch = Arch::Other("riscv64".to_owned()),
        "riscv64",
    ),
    (
        "CGROUP_MEMORY_MISSING",
        Severity::Error,
        |seen| seen.facts.as_mut().unwrap().cgroup.memory = Some(false),
        "memory control group",
    ),
    (
        "CGROUP_V1",
        Severity::Warning,
        |seen| {
            seen.facts.as_mut().unwrap().cgroup = Cgroup {
                version: Version::V1,
                memory: Some(true),
            }
        },
        "version 1",
    ),
    (
        "CGROUP_V1",
        Severity::Warning,
        |seen| {
            seen.facts.as_mut().unwrap().cgroup = Cgroup {
                version: Version::Hybrid,
                memory: None,
            }
        },
        "version 1 and 2 mixed",
    ),
    (
        "MEMORY_LOW",
        Severity::Warning,
        |seen| seen.facts.as_mut().unwrap().memory_total = 3499 << 20,
        "3499 MiB of memory, less than 3500",
    ),
    (
        "SWAP_ON",
        Severity::Warning,
        |seen| seen.facts.as_mut().unwrap().swap_total = 512 << 20,
        "512 MiB of swap",
    ),
    (
        "DISK_LOW",
        Severity::Warning,
        |seen| seen.disk.as_mut().unwrap().free = (15 << 30) - 1,
        "15359 MiB free (file system /)",
    ),
    (
        "HOSTNAME_INVALID",
        Severity::Error,
        |seen| seen.facts.as_mut().unwrap().hostname = "my_node".to_owned(),
        "my_node",
    ),
    (
        "HOSTNAME_INVALID",
        Severity::Error,
        |seen| seen.facts.as_mut().unwrap().hostname = "localhost.localdomain".to_owned(),
        "every machine",
    ),
    (
        "NO_NODE_IP",
        Severity::Error,
        |seen| seen.node_ip = Some(None),
        "no link has an address",
    ),
    (
        "KERNEL_FEATURE_MISSING",
        Severity::Error,
        |seen| set_feature(seen, "vxlan", Some(false)),
        "the kernel has no vxlan",
    ),
    (
        "KERNEL_FEATURE_MISSING",
        Severity::Warning,
        |seen| set_feature(seen, "xt_comment", Some(false)),
        "the kernel has no xt_comment",
    ),
    (
        "PORT_TAKEN",
        Severity::Error,
        |seen| {
            seen.listeners = Some(vec![listener(
                Protocol::Tcp,
                ALL,
                6443,
                Some((77, "haproxy")),
            )]);
        },
        "port 6443/tcp, which the API server needs, is taken by haproxy (pid 77) at 0.0.0.0",
    ),
    (
        "PORT_TAKEN",
        Severity::Error,
        |seen| seen.listeners = Some(vec![listener(Protocol::Udp, ALL, 8472, None)]),
        "port 8472/udp, which the overlay network (VXLAN) needs, is taken by a process that can't be seen",
    ),
    (
        "PORT_TAKEN",
        Severity::Error,
        |seen| {
            seen.listeners = Some(vec![listener(
                Protocol::Tcp,
                LOOPBACK,
                10248,
                Some((7, "x")),
            )]);
        },
        "10248/tcp",
    ),
    (
        "WEB_PORT_TAKEN",
        Severity::Warning,
        |seen| {
            seen.listeners = Some(vec![
                listener(Protocol::Tcp, ALL, 80, Some((5, "nginx"))),
                listener(Protocol::Tcp, LOOPBACK, 443, Some((5, "nginx"))),
            ]);
        },
        "port 80/tcp is in use by nginx (pid 5) at 0.0.0.0",
    ),
    (
        "FOREIGN_K3S",
        Severity::Error,
        |seen| {
            seen.k3s = Some(Traces {
                record: None,
                uninstall_script: Some(paths::UNINSTALL_SCRIPTS[0].to_owned()),
                ..own(Some(7))
            });
        },
        "unit k3s.service (active), binary /usr/local/bin/k3s, data in /var/lib/rancher/k3s/server, script /usr/local/bin/k3s-uninstall.sh",
    ),
    (
        "DATA_LEFT_OVER",
        Severity::Error,
        |seen| {
            seen.k3s = Some(Traces {
                server_data: true,
                ..Traces::default()
            });
        },
        "/var/lib/rancher/k3s/server holds the data",
    ),
    (
        "OTHER_KUBERNETES",
        Severity::Error,
        |seen| {
            let found = Found {
                name: "RKE2 server".to_owned(),
                evidence: "rke2-server.service is installed and active".to_owned(),
            };
            seen.presence.as_mut().unwrap().kubernetes.push(found);
        },
        "RKE2 server is on this node: rke2-server.service",
    ),
    (
        "DOCKER_PRESENT",
        Severity::Warning,
        |seen| {
            with_docker(seen);
            seen.listeners = Some(vec![listener(
                Protocol::Tcp,
                ALL,
                443,
                Some((5, "docker-proxy")),
            )]);
        },
        "port 443 is taken",
    ),
    (
        "DOCKER_PRESENT",
        Severity::Warning,
        |seen| {
            with_docker(seen);
            let missing = || Ruleset::Missing(String::new());
            let iptables = Ruleset::Text(
                "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\nCOMMIT\n".to_owned(),
            );
            seen.packet_rules = Some(PacketRules {
                iptables,
                ip6tables: missing(),
                nft: missing(),
            });
        },
        "drop forwarded packets",
    ),
    (
        "CHECK_NOT_POSSIBLE",
        Severity::Warning,
        |seen| seen.unseen.push("listening ports: failed".to_owned()),
        "listening ports: failed",
    ),
];

fn set_feature(seen: &mut Observed, name: &str, known: Option<bool>) {
    seen.kernel_features.insert(name.to_owned(), known);
}

fn with_docker(seen: &mut Observed) {
    let evidence = "docker.service is active".to_owned();
    seen.presence.as_mut().unwrap().docker = Some(Found {
        name: "Docker".to_owned(),
        evidence,
    });
}

#[tokio::test]
async fn every_rule_finds_its_fault_and_says_how_to_mend_it() {
    for (code, severity, fault, says) in CASES {
        let mut seen = good().await;
        assert_eq!(codes(&judge(&seen)), [""; 0]);
        fault(&mut seen);
        let findings = judge(&seen);
        assert_eq!(codes(&findings), [code]);
        let finding = &findings[0];
        assert_eq!(finding.severity(), severity, "{code}");
        assert!(
            finding.message.contains(says),
            "{code}: {}",
            finding.message
        );
        assert!(
            !finding.mend.is_empty() && !finding.subject.is_empty(),
            "{code}"
        );
    }
}

#[tokio::test]
async fn what_is_just_enough_or_unknown_is_no_finding() {
    let fine: [fn(&mut Observed); 11] = [
        |seen| seen.facts.as_mut().unwrap().memory_total = 3500 << 20,
        |seen| seen.disk.as_mut().unwrap().free = 15 << 30,
        |seen| seen.facts.as_mut().unwrap().cgroup.memory = None,
        |seen| seen.facts.as_mut().unwrap().hostname = "CP1.Example.ORG".to_owned(),
        |seen| set_feature(seen, "vxlan", None),
        |seen| set_feature(seen, "nfs", Some(false)),
        |seen| {
            seen.listeners = Some(vec![listener(
                Protocol::Tcp,
                IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)),
                10248,
                Some((7, "x")),
            )]);
        },
        |seen| seen.listeners = Some(vec![listener(Protocol::Udp, ALL, 6443, Some((7, "x")))]),
        |seen| seen.listeners = Some(vec![listener(Protocol::Tcp, ALL, 22, Some((7, "sshd")))]),
        with_docker,
        |seen| {
            seen.k3s = Some(Traces {
                agent_unit: None,
                ..Traces::default()
            });
        },
    ];
    for (index, change) in fine.into_iter().enumerate() {
        let mut seen = good().await;
        change(&mut seen);
        assert_eq!(judge(&seen), [], "case {index}");
    }
}

#[tokio::test]
async fn our_own_k3s_is_no_obstacle_to_itself() {
    let mut seen = good().await;
    seen.k3s = Some(own(Some(284)));
    seen.listeners = Some(vec![
        listener(Protocol::Tcp, ALL, 6443, Some((284, "k3s-server"))),
        listener(Protocol::Tcp, LOOPBACK, 10010, Some((311, "containerd"))),
        listener(Protocol::Udp, ALL, 8472, None),
    ]);
    assert_eq!(judge(&seen), []);
    // It is down, and another program took its port meanwhile.
    seen.k3s = Some(own(None));
    seen.listeners = Some(vec![
        listener(Protocol::Tcp, ALL, 6443, Some((9, "haproxy"))),
        listener(Protocol::Udp, ALL, 8472, None),
    ]);
    assert_eq!(codes(&judge(&seen)), ["PORT_TAKEN"]);
}

#[tokio::test]
async fn an_install_that_was_cut_short_is_ours_and_a_record_without_files_is_not() {
    let mut seen = good().await;
    seen.k3s = Some(Traces {
        server_unit: None,
        binary: None,
        ..own(None)
    });
    assert_eq!(judge(&seen), []);
    let empty = Record::new(Origin::Installed, Role::Server);
    seen.k3s = Some(Traces {
        record: Some(empty),
        ..own(None)
    });
    assert_eq!(codes(&judge(&seen)), ["FOREIGN_K3S"]);
}

#[tokio::test]
async fn a_foreign_k3s_names_both_ways_out() {
    let mut seen = good().await;
    seen.k3s = Some(Traces {
        record: None,
        uninstall_script: Some(paths::UNINSTALL_SCRIPTS[0].to_owned()),
        ..own(Some(7))
    });
    seen.listeners = Some(vec![listener(
        Protocol::Tcp,
        ALL,
        6443,
        Some((7, "k3s-server")),
    )]);
    let findings = judge(&seen);
    assert_eq!(
        codes(&findings),
        ["FOREIGN_K3S"],
        "its ports need no findings of their own"
    );
    assert!(
        findings[0]
            .mend
            .contains("canasta install k8s-cp --host HOST --adopt")
    );
    assert!(findings[0].mend.contains("/usr/local/bin/k3s-uninstall.sh"));
}

#[tokio::test]
async fn a_node_with_the_other_role_is_refused() {
    let mut seen = good().await;
    let mut record = Record::new(Origin::Installed, Role::Agent);
    record.put(Owned {
        path: paths::BINARY.to_owned(),
        kind: Kind::File,
        sha256: String::new(),
        created: true,
    });
    seen.k3s = Some(Traces {
        agent_unit: Some(unit("k3s-agent.service", None)),
        record: Some(record),
        ..Traces::default()
    });
    assert_eq!(codes(&judge(&seen)), ["K3S_ROLE_CONFLICT"]);
    assert_eq!(codes(&rules::judge(&seen, K3sRole::Agent)), [""; 0]);
}

#[tokio::test]
async fn an_agent_needs_the_ports_of_its_role_alone() {
    let mut seen = good().await;
    let other = Some((7, "x"));
    seen.listeners = Some(vec![
        listener(Protocol::Tcp, ALL, 6443, other),
        listener(Protocol::Tcp, LOOPBACK, 10257, other),
    ]);
    assert_eq!(rules::judge(&seen, K3sRole::Agent), []);
    seen.listeners = Some(vec![
        listener(Protocol::Tcp, ALL, 10250, other),
        listener(Protocol::Udp, ALL, 8472, other),
    ]);
    let findings = rules::judge(&seen, K3sRole::Agent);
    let subjects: Vec<&str> = findings.iter().map(|one| one.subject.as_str()).collect();
    assert_eq!(subjects, ["10250/tcp", "8472/udp"]);
}

#[tokio::test]
async fn a_foreign_agent_can_only_be_uninstalled() {
    let mut seen = good().await;
    seen.k3s = Some(Traces {
        agent_unit: Some(unit("k3s-agent.service", Some(7))),
        binary: Some(paths::BINARY.to_owned()),
        uninstall_script: Some(paths::UNINSTALL_SCRIPTS[1].to_owned()),
        ..Traces::default()
    });
    let findings = rules::judge(&seen, K3sRole::Agent);
    assert_eq!(codes(&findings), ["FOREIGN_K3S"]);
    let mend = &findings[0].mend;
    assert!(
        mend.contains("k3s-agent-uninstall.sh") && !mend.contains("--adopt"),
        "{mend}"
    );
}

#[tokio::test]
async fn all_findings_come_at_once_with_errors_first() {
    let mut seen = good().await;
    for (_, _, fault, _) in CASES
        .iter()
        .filter(|(code, ..)| !matches!(*code, "DATA_LEFT_OVER" | "PORT_TAKEN"))
    {
        fault(&mut seen);
    }
    let findings = judge(&seen);
    // Each fault of the list, but those that a later one of the same thing covers.
    assert_eq!(
        codes(&findings),
        [
            "NOT_ROOT",
            "NO_SYSTEMD",
            "ARCH_UNSUPPORTED",
            "HOSTNAME_INVALID",
            "FOREIGN_K3S",
            "OTHER_KUBERNETES",
            "NO_NODE_IP",
            "KERNEL_FEATURE_MISSING",
            "CGROUP_V1",
            "MEMORY_LOW",
            "SWAP_ON",
            "DOCKER_PRESENT",
            "KERNEL_FEATURE_MISSING",
            "DISK_LOW",
            "CHECK_NOT_POSSIBLE",
        ]
    );
    let errors = findings
        .iter()
        .take_while(|finding| finding.severity() == Severity::Error)
        .count();
    assert!(
        findings[errors..]
            .iter()
            .all(|finding| finding.severity() == Severity::Warning)
    );
}

#[tokio::test]
async fn parts_that_cannot_be_seen_are_said() {
    let fake = FakeHost::new("cp1");
    fake.systemd.set_unreachable(true);
    let findings = preflight(&fake.host(), K3sRole::Server).await;
    assert_eq!(
        codes(&findings),
        ["CHECK_NOT_POSSIBLE", "CHECK_NOT_POSSIBLE"]
    );
    assert!(
        findings[0].message.contains("k3s: failed to reach systemd"),
        "{}",
        findings[0].message
    );
}
