//! What is planned for a worker, and why it is refused: pure functions over what is known.

use super::*;

pub(super) fn fresh() -> Known {
    Known {
        facts: facts("W1.example.org", "10.0.0.6"),
        ..Known::default()
    }
}

fn with(change: impl FnOnce(&mut Known)) -> Known {
    let mut known = fresh();
    change(&mut known);
    known
}

fn k3s(change: impl FnOnce(&mut pb::K3sFacts)) -> Known {
    with(|known| {
        let mut k3s = running(pb::K3sRole::Agent);
        change(&mut k3s);
        known.facts.k3s = Some(k3s);
    })
}

fn recorded(cluster: &str, role: &str) -> Known {
    with(|known| {
        known.node = Some(crate::store::clusters::NodeRow {
            cluster: cluster.to_owned(),
            ..member("w1", role, "10.0.0.6")
        });
    })
}

fn other_machine() -> Registered {
    Registered {
        machine_id: "another".to_owned(),
        ready: true,
    }
}

pub(super) fn planned(target: &ControlPlane, known: &Known) -> Result<Planned, Refusal> {
    plan(&"w1".parse().expect("name"), target, known, &[])
}

#[tokio::test]
async fn a_first_join_takes_version_and_address_of_the_cluster() {
    let lab = Lab::new().await;
    let planned = planned(&target(&lab).await, &fresh()).expect("fit");
    assert_eq!(planned.k3s_version, VERSION);
    assert_eq!(planned.server_url, "https://10.0.0.5:6443");
    assert_eq!(
        (
            planned.node_name.as_str(),
            planned.node_ip.as_str(),
            planned.node_ip_source.as_str()
        ),
        ("w1.example.org", "10.0.0.6", "link eth0")
    );
    assert!(planned.fresh());
    let stored = serde_json::to_string(&planned).expect("JSON");
    assert_eq!(
        serde_json::from_str::<Planned>(&stored).expect("read back"),
        planned
    );
}

#[tokio::test]
async fn a_host_that_can_not_join_is_told_why() {
    let lab = Lab::new().await;
    let target = target(&lab).await;
    let cases = [
        (
            k3s(|k3s| k3s.set_role(pb::K3sRole::Server)),
            "WRONG_ROLE",
            "is a control plane",
        ),
        (recorded("d", CONTROL_PLANE), "WRONG_ROLE", "of cluster 'd'"),
        (
            k3s(|k3s| k3s.set_origin(pb::K3sOrigin::Adopted)),
            "ADOPTED_K3S",
            "was adopted",
        ),
        (
            k3s(|k3s| k3s.set_origin(pb::K3sOrigin::Foreign)),
            "FOREIGN_K3S",
            "did not install",
        ),
        (
            recorded("d", WORKER),
            "OTHER_CLUSTER",
            "a worker of cluster 'd'",
        ),
        (
            with(|known| known.facts.hostname = "CP1".to_owned()),
            "NODE_NAME_TAKEN",
            "is host 'cp1'",
        ),
        (
            with(|known| known.registered = Some(other_machine())),
            "NODE_NAME_TAKEN",
            "another machine (machine id 'another'",
        ),
        (
            with(|known| known.password = true),
            "NODE_PASSWORD_HELD",
            "keeps a password",
        ),
        (
            k3s(|k3s| k3s.binary_version = "v1.35.1+k3s1".to_owned()),
            "DOWNGRADE",
            "v1.35.1+k3s1",
        ),
        (
            with(|known| known.facts.node_ip.clear()),
            "NO_NODE_IP",
            "no address",
        ),
        (
            with(|known| known.facts.node_ip = "2001:db8::6".to_owned()),
            "ADDRESS_FAMILY",
            "different families",
        ),
    ];
    for (known, reason, part) in cases {
        let refusal = planned(&target, &known).expect_err(reason);
        assert_eq!(refusal.reason, reason, "{refusal:?}");
        assert!(refusal.message.contains(part), "{}", refusal.message);
        assert!(!refusal.hint.is_empty());
        assert_eq!(refusal.subject, "host w1");
    }
    let own = plan(&"cp1".parse().expect("name"), &target, &fresh(), &[]);
    assert_eq!(own.expect_err("itself").reason, "WRONG_ROLE");
}

#[tokio::test]
async fn what_was_ours_is_no_obstacle() {
    let lab = Lab::new().await;
    let target = target(&lab).await;
    let left = |known: &mut Known| {
        known.registered = Some(Registered {
            ready: false,
            ..other_machine()
        });
        known.password = true;
    };
    let mut reinstalled = recorded("c", WORKER);
    left(&mut reinstalled);
    let owed = with(|known| {
        left(known);
        known.owed = true;
    });
    let same = with(|known| {
        left(known);
        known.registered = Some(Registered {
            machine_id: known.facts.machine_id.clone(),
            ready: false,
        });
    });
    let mut alive = reinstalled.clone();
    alive.registered = Some(other_machine());
    let refusal = planned(&target, &alive).expect_err("another machine lives there");
    assert_eq!(refusal.reason, "NODE_NAME_TAKEN");
    assert!(refusal.message.contains("is Ready on another machine"));
    for known in [reinstalled, owed, same] {
        planned(&target, &known).expect("ours");
    }
    // A re-run keeps the recorded address, and goes up as many minors as it takes.
    let mut again = k3s(|k3s| k3s.binary_version = "v1.31.0+k3s1".to_owned());
    again.node = recorded("c", WORKER).node;
    again.facts.node_ip = "10.0.0.99".to_owned();
    let planned = planned(&target, &again).expect("again");
    assert_eq!(planned.node_ip_source, "recorded by an earlier join");
    assert_eq!(planned.current_version, "v1.31.0+k3s1");
    assert!(!planned.fresh());
}

#[test]
fn the_state_of_a_control_plane_is_told_apart() {
    let host = "cp1".parse().expect("name");
    let row = |role: &str| Some(member("cp1", role, "10.0.0.5"));
    let server = || running(pb::K3sRole::Server);
    let stopped = pb::K3sFacts {
        unit_active_state: "failed".to_owned(),
        unit_sub_state: "failed".to_owned(),
        ..server()
    };
    let foreign = pb::K3sFacts {
        origin: pb::K3sOrigin::Foreign.into(),
        ..server()
    };
    let cases = [
        (pb::K3sFacts::default(), None, "NO_K3S"),
        (pb::K3sFacts::default(), row(CONTROL_PLANE), "NO_K3S"),
        (stopped, row(CONTROL_PLANE), "K3S_STOPPED"),
        (running(pb::K3sRole::Agent), row(WORKER), "WRONG_ROLE"),
        (running(pb::K3sRole::Agent), None, "WRONG_ROLE"),
        (server(), None, "INSTALL_UNFINISHED"),
        (foreign, None, "FOREIGN_K3S"),
    ];
    for (k3s, node, reason) in cases {
        let known = node.as_ref().map(|_| cluster());
        let refusal = judge(&host, &k3s, node, known).expect_err(reason);
        assert_eq!(refusal.reason, reason);
        assert!(refusal.message.contains("cp1") && !refusal.hint.is_empty());
    }
    judge(&host, &server(), row(CONTROL_PLANE), Some(cluster())).expect("runs");
}

#[test]
fn a_second_host_of_one_name_or_machine_is_refused_and_the_first_is_named() {
    let hosts = ["w1", "w2", "w3"].map(|name| name.parse().expect("name"));
    let known = |hostname: &str, machine: &str| {
        Ok(with(|known| {
            known.facts.hostname = hostname.to_owned();
            known.facts.machine_id = machine.to_owned();
            known.nodes = vec![Twin {
                host: "old".to_owned(),
                hostname: "taken".to_owned(),
                machine_id: "m0".to_owned(),
            }];
        }))
    };
    let mut looked = [known("w1", "m1"), known("W1", "m1"), known("taken.", "m0")];
    find_twins(&hosts, &mut looked);
    let shown: Vec<Vec<(String, bool)>> = looked
        .iter()
        .map(|known| {
            let findings = &known.as_ref().expect("known").findings;
            findings
                .iter()
                .map(|finding| (finding.code.clone(), finding.message.contains("host 'w1'")))
                .collect()
        })
        .collect();
    assert_eq!(shown[0], []);
    assert_eq!(
        shown[1],
        [
            ("HOSTNAME_TAKEN".to_owned(), true),
            ("MACHINE_ID_TAKEN".to_owned(), true)
        ]
    );
    assert_eq!(shown[2], [("MACHINE_ID_TAKEN".to_owned(), false)]);
}
