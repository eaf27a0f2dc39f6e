//! Facts of fake machines: bare, installed, foreign, adopted, and with parts that can't be had.

use std::time::Instant;

use canasta_host::fake::FakeHost;
use canasta_host::systemd::Systemd as _;
use canasta_proto::pb::{K3sFacts, K3sOrigin, K3sRole, NodeFacts, StepOutcome};

use super::Collector;
use crate::k3s::owned::sha256;
use crate::k3s::record::{Hashes, Kind, Origin, Owned, Record, Role, Started};
use crate::k3s::{adopt, paths};

const UNIT: &str = "[Service]\nType=notify\nExecStart=/usr/local/bin/k3s server --token geheim --tls-san a.example\n";

async fn collect(fake: &FakeHost) -> NodeFacts {
    Collector::new(fake.host(), "1.2.3").collect().await
}

async fn k3s(fake: &FakeHost) -> K3sFacts {
    collect(fake).await.k3s.expect("facts of k3s")
}

fn program(version: &str) -> String {
    format!("#!/bin/sh\necho run >> \"$0.runs\"\necho 'k3s version {version} (0123abcd)'\n")
}

/// How often the binary was run.
async fn runs(fake: &FakeHost) -> usize {
    fake.root
        .read_text("/usr/local/bin/k3s.runs")
        .await
        .unwrap()
        .unwrap_or_default()
        .lines()
        .count()
}

/// A machine with a k3s that someone else installed and that runs.
async fn foreign() -> FakeHost {
    let fake = FakeHost::new("CP1");
    let root = &fake.root;
    root.write(paths::BINARY, program("v1.33.1+k3s1"), 0o755)
        .await
        .unwrap();
    root.write("/etc/systemd/system/k3s.service", UNIT, 0o644)
        .await
        .unwrap();
    root.write(
        paths::CONFIG,
        "node-ip: 192.0.2.10\ntoken: geheim\ntls-san: [b.example]\n",
        0o600,
    )
    .await
    .unwrap();
    root.write(paths::SERVER_CA, "pem\n", 0o644).await.unwrap();
    fake.systemd
        .start_no_block(paths::SERVER_UNIT)
        .await
        .unwrap();
    fake
}

#[tokio::test]
async fn a_bare_machine_has_all_facts_and_no_k3s() {
    let facts = collect(&FakeHost::new("cp1")).await;
    assert_eq!(facts.unknown, [""; 0]);
    assert_eq!(
        (facts.agent_version.as_str(), facts.hostname.as_str()),
        ("1.2.3", "cp1")
    );
    assert_eq!(facts.addresses, ["192.0.2.10/24"]);
    assert_eq!(
        (facts.node_ip.as_str(), facts.node_ip_link.as_str()),
        ("192.0.2.10", "eth0")
    );
    assert_eq!(
        (facts.systemd_state.as_str(), facts.clock_synchronised),
        ("running", Some(true))
    );
    assert_eq!(
        (
            facts.uptime_seconds,
            facts.memory_bytes >> 30,
            facts.disk_free_bytes >> 30
        ),
        (3600, 4, 30)
    );
    assert!(
        facts.observed_at.is_some() && !facts.boot_id.is_empty() && !facts.machine_id.is_empty()
    );
    assert_eq!(facts.k3s, Some(K3sFacts::default()));
}

#[tokio::test]
async fn what_cannot_be_had_is_named() {
    let fake = FakeHost::new("cp1");
    fake.systemd.set_unreachable(true);
    let facts = collect(&fake).await;
    assert_eq!((facts.systemd_state.as_str(), facts.k3s), ("", None));
    assert!(
        facts
            .unknown
            .iter()
            .any(|text| text.starts_with("state of systemd: ")),
        "{:?}",
        facts.unknown
    );
    assert!(
        facts.unknown.iter().any(|text| text.starts_with("k3s: ")),
        "{:?}",
        facts.unknown
    );
}

#[tokio::test]
async fn a_foreign_k3s_is_described_without_its_secrets() {
    let fake = foreign().await;
    let facts = k3s(&fake).await;
    assert_eq!(
        (facts.origin(), facts.role()),
        (K3sOrigin::Foreign, K3sRole::Server)
    );
    assert_eq!(
        (
            facts.binary_version.as_str(),
            facts.running_version.as_str()
        ),
        ("v1.33.1+k3s1", "v1.33.1+k3s1")
    );
    assert_eq!(
        facts.binary_sha256,
        sha256(program("v1.33.1+k3s1").as_bytes())
    );
    assert_eq!(facts.ca_hash, sha256(b"pem\n"));
    assert_eq!(
        (facts.node_ip.as_str(), facts.node_name.as_str()),
        ("192.0.2.10", "cp1")
    );
    assert_eq!(facts.tls_sans, ["a.example"], "arguments win");
    assert_eq!(facts.config_keys, ["node-ip", "tls-san", "token"]);
    assert_eq!(
        (facts.unit.as_str(), facts.unit_active_state.as_str()),
        ("k3s.service", "active")
    );
    assert_eq!(
        facts.found[..2],
        ["unit k3s.service (active)", "binary /usr/local/bin/k3s"]
    );
    assert!(!format!("{facts:?}").contains("geheim"), "{facts:?}");
}

#[tokio::test]
async fn adopting_records_and_changes_nothing_else() {
    let fake = foreign().await;
    let files = || {
        let mut all: Vec<_> = walk(fake.directory())
            .into_iter()
            .filter(|path| !path.to_string_lossy().contains("canasta-agent"))
            .collect();
        all.sort();
        all
    };
    k3s(&fake).await;
    let before = files();
    fake.systemd.clear_orders();
    assert_eq!(
        adopt::run(&fake.host()).await.unwrap().outcome,
        StepOutcome::Changed
    );
    assert_eq!(
        adopt::run(&fake.host()).await.unwrap().outcome,
        StepOutcome::Unchanged
    );
    assert_eq!((files(), fake.systemd.orders()), (before, Vec::new()));
    let record = Record::load(&fake.host()).await.unwrap().unwrap();
    assert_eq!(
        (record.origin, record.role, record.version.as_str()),
        (Origin::Adopted, Role::Server, "v1.33.1+k3s1")
    );
    assert_eq!(record.owned, []);
    let adopted = record.adopted.unwrap();
    assert_eq!(adopted.ca_hash, sha256(b"pem\n"));
    assert_eq!(
        adopted.arguments,
        ["server", "--token", "********", "--tls-san", "a.example"]
    );
    assert_eq!(k3s(&fake).await.origin(), K3sOrigin::Adopted);
    assert!(
        !fake
            .root
            .read_text(paths::RECORD)
            .await
            .unwrap()
            .unwrap()
            .contains("geheim")
    );
}

fn walk(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| {
            if path.is_dir() {
                walk(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

#[tokio::test]
async fn there_must_be_something_to_adopt() {
    let fake = FakeHost::new("cp1");
    assert_eq!(
        adopt::run(&fake.host()).await.unwrap_err().reason(),
        "K3S_NOT_FOUND"
    );
    fake.root
        .write(paths::BINARY, program("v1.33.1+k3s1"), 0o755)
        .await
        .unwrap();
    assert_eq!(
        adopt::run(&fake.host()).await.unwrap_err().reason(),
        "K3S_NOT_FOUND"
    );
}

#[tokio::test]
async fn the_binary_is_hashed_and_run_once_until_it_changes() {
    let fake = foreign().await;
    let collector = Collector::new(fake.host(), "1.2.3");
    collector.collect().await;
    let begun = Instant::now();
    for _ in 0..10 {
        assert_eq!(
            collector.collect().await.k3s.unwrap().binary_version,
            "v1.33.1+k3s1"
        );
    }
    assert!(begun.elapsed().as_millis() < 1000, "{:?}", begun.elapsed());
    assert_eq!(runs(&fake).await, 1);
    fake.root
        .write(paths::BINARY, program("v1.33.2+k3s1"), 0o755)
        .await
        .unwrap();
    assert_eq!(
        collector.collect().await.k3s.unwrap().binary_version,
        "v1.33.2+k3s1"
    );
    assert_eq!(runs(&fake).await, 2);
}

#[tokio::test]
async fn the_running_version_is_that_of_the_process_and_not_of_a_newer_file() {
    let fake = foreign().await;
    let invocation = fake
        .systemd
        .unit(paths::SERVER_UNIT)
        .await
        .unwrap()
        .invocation_id;
    fake.root
        .write(paths::BINARY, program("v1.34.8+k3s1"), 0o755)
        .await
        .unwrap();
    let an_hour_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    fake.systemd.change(paths::SERVER_UNIT, |unit| {
        unit.exec_main_start = Some(an_hour_ago);
    });
    let facts = k3s(&fake).await;
    assert_eq!(
        (
            facts.binary_version.as_str(),
            facts.running_version.as_str()
        ),
        ("v1.34.8+k3s1", ""),
        "nobody can tell"
    );
    let mut record = Record::new(Origin::Installed, Role::Server);
    record.put(Owned {
        path: paths::BINARY.to_owned(),
        kind: Kind::File,
        sha256: String::new(),
        created: true,
    });
    record.started = Some(Started {
        hashes: Hashes::default(),
        version: "v1.33.1+k3s1".to_owned(),
        invocation,
        at: 1,
    });
    record.save(&fake.host()).await.unwrap();
    let facts = k3s(&fake).await;
    assert_eq!(
        (facts.origin(), facts.running_version.as_str()),
        (K3sOrigin::Installed, "v1.33.1+k3s1")
    );
    fake.systemd.exit(paths::SERVER_UNIT, 1);
    assert_eq!(k3s(&fake).await.running_version, "");
}

#[tokio::test]
async fn a_binary_that_does_not_run_is_known_by_its_hash_alone() {
    let fake = foreign().await;
    fake.root
        .write(paths::BINARY, "#!/bin/sh\nexit 1\n", 0o755)
        .await
        .unwrap();
    let facts = collect(&fake).await;
    assert!(
        facts
            .unknown
            .iter()
            .any(|text| text.starts_with("version of k3s: ")),
        "{:?}",
        facts.unknown
    );
    let k3s = facts.k3s.unwrap();
    assert_eq!(
        (k3s.binary_version.as_str(), k3s.binary_sha256.len()),
        ("", 64)
    );
}
