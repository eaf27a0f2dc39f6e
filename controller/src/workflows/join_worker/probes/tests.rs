//! What is probed between a worker and its cluster, and what is made of it.

use std::collections::BTreeMap;

use canasta_proto::pb;
use canasta_proto::pb::{ProbeListener, ProbeOutcome, ProbePort, ProbeProtocol, Severity};

use super::{Direction, End, Told, both_ways, judge, shown};

fn end(host: &str, ip: &str) -> End {
    End {
        host: host.parse().expect("name"),
        ip: ip.to_owned(),
    }
}

fn directions() -> [Direction; 2] {
    both_ways(&end("w1", "10.0.0.6"), &end("cp1", "10.0.0.5"), true)
}

/// All is well, as both agents tell it.
fn well(direction: &Direction) -> Told {
    let state = |port: &ProbePort| pb::ProbeListenerState {
        port: Some(*port),
        listener: ProbeListener::Service.into(),
        error: String::new(),
    };
    let result = |port: &ProbePort| pb::ProbeResult {
        port: Some(*port),
        outcome: ProbeOutcome::Sent.into(),
        error: String::new(),
    };
    Told {
        listeners: direction.ports.iter().map(state).collect(),
        results: direction.ports.iter().map(result).collect(),
        arrived: BTreeMap::from([(8472, 5)]),
    }
}

#[test]
fn a_worker_needs_three_ports_of_its_control_plane_and_gives_two() {
    let [outward, inward] = directions();
    let ports = |direction: &Direction| -> Vec<String> {
        direction.ports.iter().map(|port| shown(*port)).collect()
    };
    assert_eq!(ports(&outward), ["6443/tcp", "10250/tcp", "8472/udp"]);
    assert_eq!(ports(&inward), ["10250/tcp", "8472/udp"]);
    assert_eq!(
        (inward.from.host.as_str(), inward.to.ip.as_str()),
        ("cp1", "10.0.0.6")
    );
    let [between_workers, _] = both_ways(&end("w1", "10.0.0.6"), &end("w2", "10.0.0.7"), false);
    assert_eq!(ports(&between_workers), ["10250/tcp", "8472/udp"]);
}

#[test]
fn what_arrives_is_no_finding() {
    for direction in directions() {
        assert_eq!(judge(&direction, &well(&direction)), []);
    }
}

#[test]
fn a_closed_port_is_named_with_direction_and_mend() {
    let [outward, inward] = directions();
    let mut told = well(&outward);
    told.results[0].set_outcome(ProbeOutcome::NoAnswer);
    told.results[1].set_outcome(ProbeOutcome::Refused);
    told.arrived.clear();
    let found = judge(&outward, &told);
    let codes: Vec<_> = found.iter().map(|finding| finding.code.as_str()).collect();
    assert_eq!(
        codes,
        ["NET_PORT_BLOCKED", "NET_PORT_BLOCKED", "NET_VXLAN_BLOCKED"]
    );
    assert!(
        found
            .iter()
            .all(|finding| finding.severity() == Severity::Error)
    );
    assert!(
        found[0].message.starts_with(
            "6443/tcp is closed from w1 (10.0.0.6) to cp1 (10.0.0.5): nothing answered"
        ),
        "{}",
        found[0].message
    );
    assert!(
        found[0]
            .mend
            .starts_with("let cp1 accept 6443/tcp from 10.0.0.6")
    );
    assert!(found[1].message.contains("a firewall rejects it"));
    assert_eq!(found[2].subject, "8472/udp w1 -> cp1");

    let mut told = well(&inward);
    told.results[0].set_outcome(ProbeOutcome::NoAnswer);
    let found = judge(&inward, &told);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].subject, "10250/tcp cp1 -> w1");
    let (message, mend) = (&found[0].message, &found[0].mend);
    assert!(
        message.starts_with(
            "10250/tcp is closed from cp1 (10.0.0.5) to w1 (10.0.0.6): nothing answered"
        ),
        "{message}"
    );
    assert!(
        mend.starts_with("let w1 accept 10250/tcp from 10.0.0.5"),
        "{mend}"
    );

    let mut told = well(&inward);
    told.arrived = BTreeMap::from([(8472, 3)]);
    let found = judge(&inward, &told);
    assert_eq!(
        (found[0].code.as_str(), found[0].severity()),
        ("NET_LOSS", Severity::Warning)
    );
}

#[test]
fn datagrams_that_arrived_are_judged_by_their_number_whatever_the_sender_was_told() {
    let [_, inward] = directions();
    let mut told = well(&inward);
    told.results[1].set_outcome(ProbeOutcome::Refused);
    assert_eq!(judge(&inward, &told), []);
    told.arrived.clear();
    assert_eq!(judge(&inward, &told)[0].code, "NET_VXLAN_BLOCKED");
}

#[test]
fn what_could_not_be_tried_is_told_and_is_neither_open_nor_closed() {
    let [outward, _] = directions();
    let mut told = well(&outward);
    told.listeners[2].set_listener(ProbeListener::None);
    told.listeners[2].error = "operation not permitted".to_owned();
    told.results.remove(1);
    let found = judge(&outward, &told);
    let shown: Vec<_> = found
        .iter()
        .map(|finding| {
            (
                finding.code.as_str(),
                finding.severity(),
                finding.subject.as_str(),
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            ("NET_NOT_PROBED", Severity::Warning, "10250/tcp w1 -> cp1"),
            ("NET_NOT_PROBED", Severity::Warning, "8472/udp w1 -> cp1"),
        ]
    );
    assert!(found[1].message.contains("operation not permitted"));
    let port = ProbePort {
        protocol: ProbeProtocol::Udp.into(),
        port: 8472,
    };
    assert_eq!(outward.ports[2], port);
}
