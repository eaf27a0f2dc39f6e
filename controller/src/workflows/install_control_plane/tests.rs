//! The plan of an install, for all that may be there already.

use canasta_proto::pb;

use super::check;
use super::detail::details;
use super::plan::{Planned, Request, plan};
use crate::store::clusters::{ClusterRow, NodeRow};
use crate::workflows::Refusal;
use crate::workflows::gather::Gathered;

const DEFAULT: &str = "v1.34.8+k3s1";

fn fresh() -> Gathered {
    Gathered {
        facts: pb::NodeFacts {
            hostname: "CP1.example.org".to_owned(),
            arch: "x86_64".to_owned(),
            addresses: [
                "10.0.0.5/24",
                "fe80::1/64",
                "2001:db8::5/64",
                "10.42.0.1/24",
                "169.254.3.4/16",
            ]
            .map(str::to_owned)
            .to_vec(),
            node_ip: "10.0.0.5".to_owned(),
            node_ip_link: "eth0".to_owned(),
            k3s: Some(pb::K3sFacts::default()),
            ..pb::NodeFacts::default()
        },
        ..Gathered::default()
    }
}

fn cluster(name: &str, version: &str, public_ips: &[&str]) -> ClusterRow {
    ClusterRow {
        name: name.to_owned(),
        k3s_version: version.to_owned(),
        ca_hash: "ab".to_owned(),
        endpoint: "https://10.0.0.5:6443".to_owned(),
        adopted: false,
        created_at: 0,
        public_ips: public_ips.iter().map(|&ip| ip.to_owned()).collect(),
    }
}

/// A host on which this fleet installed a version, with a link that came later.
fn installed(version: &str) -> Gathered {
    let mut known = fresh();
    let row = cluster("c", version, &["203.0.113.7"]);
    known.clusters = vec![row.clone()];
    known.cluster = Some(row);
    known.node = Some(NodeRow {
        host: "cp1".to_owned(),
        cluster: "c".to_owned(),
        node_name: "cp1.example.org".to_owned(),
        role: "control-plane".to_owned(),
        node_ip: "10.0.0.5".to_owned(),
        tls_sans: ["203.0.113.7", "10.0.0.5", "cp1.example.org"]
            .map(str::to_owned)
            .to_vec(),
    });
    known.facts.addresses.push("172.17.0.1/16".to_owned());
    known.facts.k3s = Some(pb::K3sFacts {
        present: true,
        origin: pb::K3sOrigin::Installed.into(),
        role: pb::K3sRole::Server.into(),
        binary_version: version.to_owned(),
        unit: "k3s.service".to_owned(),
        ..pb::K3sFacts::default()
    });
    known
}

fn planned(asked: &pb::InstallControlPlaneRequest, known: &Gathered) -> Result<Planned, Refusal> {
    let host = "cp1".parse().expect("name");
    let request: Request = check(asked).expect("sound");
    plan(&host, &request, known, &DEFAULT.parse().expect("version"))
}

fn asked() -> pb::InstallControlPlaneRequest {
    pb::InstallControlPlaneRequest::default()
}

#[test]
fn a_first_install_takes_the_defaults() {
    let planned = planned(&asked(), &fresh()).expect("fit");
    assert_eq!(planned.cluster, "cp1");
    assert_eq!(
        (
            planned.k3s_version.as_str(),
            planned.current_version.as_str()
        ),
        (DEFAULT, "")
    );
    assert_eq!(planned.node_name, "cp1.example.org");
    assert_eq!(
        (planned.node_ip.as_str(), planned.node_ip_source.as_str()),
        ("10.0.0.5", "link eth0")
    );
    assert_eq!(planned.flannel_link, "eth0");
    // Neither pods' nor link-local addresses.
    assert_eq!(
        planned.tls_sans,
        ["10.0.0.5", "2001:db8::5", "cp1.example.org"]
    );
    let stored = serde_json::to_string(&planned).expect("JSON");
    assert_eq!(
        serde_json::from_str::<Planned>(&stored).expect("read back"),
        planned
    );
}

#[test]
fn what_is_asked_applies() {
    let request = pb::InstallControlPlaneRequest {
        public_ips: ["203.0.113.7", "wiki.example.org", "203.0.113.7"]
            .map(str::to_owned)
            .to_vec(),
        k3s_version: "v1.33.1+k3s1".to_owned(),
        cluster: "wikis".to_owned(),
        ..asked()
    };
    let planned = planned(&request, &fresh()).expect("fit");
    assert_eq!(
        (planned.cluster.as_str(), planned.k3s_version.as_str()),
        ("wikis", "v1.33.1+k3s1")
    );
    assert_eq!(planned.public_ips, ["203.0.113.7", "wiki.example.org"]);
    assert_eq!(
        planned.tls_sans[..3],
        ["203.0.113.7", "wiki.example.org", "10.0.0.5"]
    );
}

#[test]
fn a_second_run_plans_what_is_there_and_keeps_what_is_not_given() {
    let known = installed("v1.33.4+k3s1");
    let planned = planned(&asked(), &known).expect("fit");
    assert_eq!(
        (planned.cluster.as_str(), planned.k3s_version.as_str()),
        ("c", "v1.33.4+k3s1")
    );
    assert_eq!(planned.current_version, "v1.33.4+k3s1");
    assert_eq!(planned.tls_sans, known.node.expect("recorded").tls_sans);
    assert_eq!(planned.public_ips, ["203.0.113.7"]);
    assert_eq!(planned.node_ip_source, "recorded by the first install");
}

#[test]
fn a_node_keeps_its_name_when_the_machine_is_renamed() {
    let mut known = installed("v1.33.4+k3s1");
    known.facts.hostname = "other".to_owned();
    let again = planned(&asked(), &known).expect("fit");
    assert_eq!(again.node_name, "cp1.example.org");
    assert_eq!(
        again.tls_sans,
        known.node.clone().expect("recorded").tls_sans
    );

    // A k3s of this fleet that was never recorded tells its name itself.
    (known.node, known.cluster, known.clusters) = (None, None, Vec::new());
    known.facts.k3s.as_mut().expect("k3s").node_name = "first".to_owned();
    assert_eq!(planned(&asked(), &known).expect("fit").node_name, "first");
    // One of somebody else is no reason for a name.
    let mut fresh = fresh();
    fresh.facts.k3s.as_mut().expect("k3s").node_name = "first".to_owned();
    assert_eq!(
        planned(&asked(), &fresh).expect("fit").node_name,
        "cp1.example.org"
    );
}

#[test]
fn a_link_with_a_strange_name_is_left_to_flannel() {
    for (name, taken) in [
        ("eth0.100", "eth0.100"),
        ("br-0_a", "br-0_a"),
        ("$(reboot)", ""),
        (".hidden", ""),
    ] {
        let mut known = fresh();
        known.facts.node_ip_link = name.to_owned();
        assert_eq!(planned(&asked(), &known).expect("fit").flannel_link, taken);
    }
}

/// The plan's words for each step that is not left as it is.
fn changes(asked: &pb::InstallControlPlaneRequest, known: &Gathered) -> Vec<(String, String)> {
    let planned = planned(asked, known).expect("fit");
    let details = details(&planned, known).into_iter();
    details
        .filter(|(_, words)| words != "unchanged")
        .map(|(step, words)| (step.to_owned(), words))
        .collect()
}

/// An installed host whose facts tell the same as what is recorded, with the release kept by the controller.
fn settled(version: &str) -> Gathered {
    let mut known = installed(version);
    let node = known.node.clone().expect("recorded");
    let k3s = known.facts.k3s.as_mut().expect("k3s");
    k3s.running_version = version.to_owned();
    k3s.binary_sha256 = "a".repeat(64);
    k3s.unit_active_state = "active".to_owned();
    k3s.config_keys = vec!["node-name".to_owned()];
    (k3s.node_name, k3s.node_ip, k3s.tls_sans) = (node.node_name, node.node_ip, node.tls_sans);
    known.artefacts = vec![pb::Artefact {
        name: "k3s".to_owned(),
        version: version.to_owned(),
        arch: "amd64".to_owned(),
        sha256: "a".repeat(64),
        ..pb::Artefact::default()
    }];
    known
}

#[test]
fn a_plan_tells_what_each_step_would_do_here() {
    let words = |changes: &[(String, String)], step: &str| {
        let found = changes.iter().find(|(id, _)| id == step);
        found.map(|(_, words)| words.clone()).unwrap_or_default()
    };
    let first = changes(&asked(), &fresh());
    assert_eq!(first.len(), 11, "all but the preflight: {first:?}");
    assert_eq!(words(&first, "install-binary"), DEFAULT);
    assert_eq!(words(&first, "start-service"), "started");

    let settled = settled("v1.33.4+k3s1");
    assert_eq!(changes(&asked(), &settled), []);

    let higher = pb::InstallControlPlaneRequest {
        k3s_version: DEFAULT.to_owned(),
        ..asked()
    };
    let upgrade = changes(&higher, &settled);
    assert_eq!(
        words(&upgrade, "install-binary"),
        format!("v1.33.4+k3s1 -> {DEFAULT}")
    );
    assert_eq!(
        words(&upgrade, "start-service"),
        format!("v1.33.4+k3s1 -> {DEFAULT}, one restart")
    );
    assert_eq!(words(&upgrade, "write-config"), "");

    let other_ip = pb::InstallControlPlaneRequest {
        public_ips: vec!["198.51.100.1".to_owned()],
        ..asked()
    };
    let readdressed = changes(&other_ip, &settled);
    assert_eq!(
        words(&readdressed, "write-config"),
        "tls-san +198.51.100.1 -203.0.113.7"
    );
    assert_eq!(words(&readdressed, "start-service"), "one restart");
    assert_eq!(words(&readdressed, "install-binary"), "");

    let mut stopped = settled.clone();
    stopped.facts.k3s.as_mut().expect("k3s").unit_active_state = "failed".to_owned();
    assert_eq!(
        words(&changes(&asked(), &stopped), "start-service"),
        "started"
    );
    let mut damaged = settled;
    damaged.facts.k3s.as_mut().expect("k3s").binary_sha256 = "b".repeat(64);
    let repaired = changes(&asked(), &damaged);
    assert!(
        words(&repaired, "install-binary").contains("anew"),
        "{repaired:?}"
    );
}

#[test]
fn given_public_addresses_replace_the_recorded_ones() {
    let request = pb::InstallControlPlaneRequest {
        public_ips: vec!["198.51.100.1".to_owned()],
        ..asked()
    };
    let planned = planned(&request, &installed("v1.33.4+k3s1")).expect("fit");
    assert_eq!(
        planned.tls_sans,
        ["198.51.100.1", "10.0.0.5", "cp1.example.org"]
    );
}

#[test]
fn versions_follow_each_other_as_kubernetes_supports_it() {
    for (version, reason) in [
        ("v1.33.4+k3s1", None),
        ("v1.33.9+k3s1", None),
        ("v1.34.8+k3s1", None),
        ("v1.35.0+k3s1", Some("MINOR_SKIPPED")),
        ("v1.33.3+k3s1", Some("DOWNGRADE")),
    ] {
        let request = pb::InstallControlPlaneRequest {
            k3s_version: version.to_owned(),
            ..asked()
        };
        let result = planned(&request, &installed("v1.33.4+k3s1"));
        assert_eq!(
            result.as_ref().err().map(|refusal| refusal.reason),
            reason,
            "{version}"
        );
        match result {
            Ok(planned) => assert_eq!(planned.k3s_version, version),
            Err(refusal) => assert!(refusal.hint.contains("--k3s-version"), "{}", refusal.hint),
        }
    }
}

#[test]
fn what_a_crash_left_before_it_was_recorded_keeps_its_version() {
    let mut known = installed("v1.33.4+k3s1");
    (known.cluster, known.node, known.clusters) = (None, None, Vec::new());
    assert_eq!(
        planned(&asked(), &known).expect("fit").k3s_version,
        "v1.33.4+k3s1"
    );
}

#[test]
fn what_stands_in_the_way_is_refused_with_a_way_out() {
    let with = |change: fn(&mut Gathered)| {
        let mut known = installed("v1.33.4+k3s1");
        change(&mut known);
        known
    };
    let k3s = |origin: pb::K3sOrigin, role: pb::K3sRole| {
        let mut known = fresh();
        known.facts.k3s = Some(pb::K3sFacts {
            present: true,
            origin: origin.into(),
            role: role.into(),
            unit: "k3s.service".to_owned(),
            found: vec!["/usr/local/bin/k3s".to_owned(), "k3s.service".to_owned()],
            ..pb::K3sFacts::default()
        });
        known
    };
    let other = pb::InstallControlPlaneRequest {
        cluster: "other".to_owned(),
        ..asked()
    };
    let mut taken = fresh();
    taken.clusters = vec![cluster("other", DEFAULT, &[])];
    let mut bare = fresh();
    bare.facts.node_ip = String::new();
    let server = pb::K3sRole::Server;
    let cases = [
        (
            asked(),
            k3s(pb::K3sOrigin::Foreign, server),
            "FOREIGN_K3S",
            "--adopt",
        ),
        (
            asked(),
            k3s(pb::K3sOrigin::Adopted, server),
            "ADOPTED_K3S",
            "the way it was installed",
        ),
        (
            asked(),
            k3s(pb::K3sOrigin::Installed, pb::K3sRole::Agent),
            "WRONG_ROLE",
            "another host",
        ),
        (other.clone(), with(|_| {}), "CLUSTER_FIXED", "--cluster c"),
        (other, taken, "CLUSTER_EXISTS", "--cluster NAME"),
        (asked(), bare, "NO_NODE_IP", "host show cp1"),
    ];
    for (request, known, reason, hint) in cases {
        let refusal = planned(&request, &known).expect_err(reason);
        assert_eq!(refusal.reason, reason);
        assert!(refusal.hint.contains(hint), "{}", refusal.hint);
        assert_eq!(refusal.subject, "host cp1");
    }
    let foreign = planned(&asked(), &k3s(pb::K3sOrigin::Foreign, server)).expect_err("foreign");
    assert!(
        foreign.message.contains("/usr/local/bin/k3s, k3s.service"),
        "{}",
        foreign.message
    );
    assert!(
        foreign.hint.contains("k3s-uninstall.sh"),
        "{}",
        foreign.hint
    );
}

#[test]
fn data_that_was_left_behind_is_left_to_the_preflight() {
    let mut known = fresh();
    known.facts.k3s = Some(pb::K3sFacts {
        present: true,
        origin: pb::K3sOrigin::Foreign.into(),
        ..pb::K3sFacts::default()
    });
    assert_eq!(
        planned(&asked(), &known).expect("planned").k3s_version,
        DEFAULT
    );
}

#[test]
fn a_request_is_checked_field_by_field() {
    let refused =
        |request: pb::InstallControlPlaneRequest| check(&request).expect_err("refused").to_string();
    for ip in ["10.0.0.5:6443", "a b", "..", "x;rm", "a\nb", ""] {
        let request = pb::InstallControlPlaneRequest {
            public_ips: vec![ip.to_owned()],
            ..asked()
        };
        assert!(
            refused(request).starts_with("a public address is"),
            "{ip:?}"
        );
    }
    let request = pb::InstallControlPlaneRequest {
        k3s_version: "latest".to_owned(),
        ..asked()
    };
    assert!(refused(request).contains("v1.34.8+k3s1"));
    let request = pb::InstallControlPlaneRequest {
        cluster: "A b".to_owned(),
        ..asked()
    };
    assert!(refused(request).contains("cluster name"));
}
