//! A picture of a machine, and what has changed since.

use super::*;
use crate::fake::FakeHost;
use crate::network::rules::Ruleset;
use crate::systemd::Unit;

fn scope() -> Scope {
    let strings = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    Scope {
        units: strings(&["k3s*", "*.mount"]),
        directories: strings(&["/etc/rancher", "/var/lib"]),
        sysctls: strings(&["net.ipv4.ip_forward", "no.such"]),
        programs: strings(&["/var/lib/k"]),
        own_programs: String::new(),
    }
}

#[tokio::test]
async fn a_snapshot_holds_what_was_there_and_survives_storage() {
    let fake = FakeHost::new("n1");
    fake.root
        .write("/proc/sys/net/ipv4/ip_forward", "0\n", 0o644)
        .await
        .unwrap();
    fake.systemd.add(Unit {
        name: "srv.mount".to_owned(),
        load_state: "loaded".to_owned(),
        ..Unit::default()
    });
    fake.systemd.add(Unit {
        name: "ssh.service".to_owned(),
        load_state: "loaded".to_owned(),
        ..Unit::default()
    });
    fake.network
        .change(|state| state.rules.iptables = Ruleset::Text("*filter\nCOMMIT\n".to_owned()));
    let snapshot = take(&fake.host(), &scope()).await;
    assert_eq!(snapshot.directories, ["/var/lib"]);
    assert_eq!(
        snapshot.sysctls,
        BTreeMap::from([("net.ipv4.ip_forward".to_owned(), "0".to_owned())])
    );
    assert_eq!(snapshot.units.known().unwrap()[0].name, "srv.mount");
    assert_eq!(snapshot.units.known().unwrap().len(), 1);
    assert_eq!(snapshot.mounts.known().unwrap().len(), 2);
    assert_eq!(snapshot.rules.iptables.text(), Some("*filter\nCOMMIT\n"));
    assert_eq!(snapshot.rules.nft.text(), None);
    assert!(snapshot.taken > 1_600_000_000);

    let stored = serde_json::to_string(&snapshot).unwrap();
    assert_eq!(serde_json::from_str::<Snapshot>(&stored).unwrap(), snapshot);
}

#[tokio::test]
async fn a_part_that_cannot_be_read_is_recorded_with_its_reason() {
    let fake = FakeHost::new("n1");
    fake.systemd.set_unreachable(true);
    let snapshot = take(&fake.host(), &scope()).await;
    let Part::Unknown(reason) = snapshot.units else {
        panic!("the units can't be known")
    };
    assert!(
        reason.starts_with("failed to reach systemd over the system bus: "),
        "{reason}"
    );
    assert!(snapshot.links.known().is_some());
}
