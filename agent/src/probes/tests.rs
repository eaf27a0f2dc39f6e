//! Real sockets on loopback; a real overlay link in a network namespace of the test's own, where it may make one.

use std::net::Ipv4Addr;
use std::time::Duration;

use canasta_host::Host;
use canasta_host::sockets::Kernel;
use tokio::sync::mpsc;

use super::receive::{Event, Listening, receive};
use super::send::{Outcome, Probes, send};
use super::{Nonce, Port, Protocol};

const NONCE: Nonce = [5; 16];

fn tcp(number: u16) -> Port {
    Port {
        protocol: Protocol::Tcp,
        number,
    }
}

fn udp(number: u16) -> Port {
    Port {
        protocol: Protocol::Udp,
        number,
    }
}

fn probes(nonce: Nonce) -> Probes {
    Probes {
        nonce,
        address: Ipv4Addr::LOCALHOST.into(),
        count: 3,
        size: 200,
        limit: Duration::from_secs(2),
    }
}

/// A round that listens; where it does, and what it hears.
async fn round(host: Host, ports: &[Port]) -> (Vec<Listening>, mpsc::Receiver<Event>) {
    let (sender, mut events) = mpsc::channel(100);
    let ports = ports.to_vec();
    tokio::spawn(receive(host, NONCE, ports, Duration::from_secs(20), sender));
    let Some(Event::Listening(listening)) = events.recv().await else {
        panic!("it tells first where it listens");
    };
    let states = listening.into_iter().map(|(_, state)| state).collect();
    (states, events)
}

async fn next(events: &mut mpsc::Receiver<Event>) -> Event {
    tokio::time::timeout(Duration::from_secs(10), events.recv())
        .await
        .expect("in time")
        .expect("it listens")
}

fn free(protocol: Protocol) -> u16 {
    match protocol {
        Protocol::Tcp => std::net::TcpListener::bind("[::]:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port(),
        Protocol::Udp => std::net::UdpSocket::bind("[::]:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port(),
    }
}

#[tokio::test]
async fn what_is_sent_to_free_ports_arrives_once_each() {
    let ports = [tcp(free(Protocol::Tcp)), udp(free(Protocol::Udp))];
    let (listening, mut events) = round(Host::real(), &ports).await;
    assert_eq!(listening, [Listening::Socket, Listening::Socket]);
    // Another round's probes and other people's datagrams are not this one's.
    send(&Kernel, probes([6; 16]), &ports[1..]).await;
    let other = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    other
        .send_to(b"hello", ("127.0.0.1", ports[1].number))
        .unwrap();
    let results = send(&Kernel, probes(NONCE), &ports).await;
    assert_eq!(results, ports.map(|port| (port, Outcome::Sent)));
    let mut heard = Vec::new();
    for _ in 0..4 {
        heard.push(next(&mut events).await);
    }
    let arrival = |port, sequence, size| Event::Arrival {
        port,
        sequence,
        size,
    };
    assert!(heard.contains(&arrival(ports[0], 0, 0)), "{heard:?}");
    let datagrams: Vec<Event> = (1..=3)
        .map(|number| arrival(ports[1], number, 200))
        .collect();
    heard.retain(|event| *event != arrival(ports[0], 0, 0));
    assert_eq!(heard, datagrams);
}

#[tokio::test]
async fn ports_of_services_and_closed_ones_are_told_apart() {
    let service = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let ports = [tcp(service.local_addr().unwrap().port())];
    let (listening, _events) = round(Host::real(), &ports).await;
    assert_eq!(listening, [Listening::Service]);
    assert_eq!(
        send(&Kernel, probes(NONCE), &ports).await[0].1,
        Outcome::Sent
    );
    for closed in [tcp(free(Protocol::Tcp)), udp(free(Protocol::Udp))] {
        let outcome = &send(&Kernel, probes(NONCE), &[closed]).await[0].1;
        assert!(
            matches!(outcome, Outcome::Refused(_)),
            "{closed:?}: {outcome:?}"
        );
    }
}

#[tokio::test]
async fn two_rounds_listen_on_one_port_at_once() {
    let ports = [tcp(free(Protocol::Tcp))];
    let (first, _first_events) = round(Host::real(), &ports).await;
    let (second, _second_events) = round(Host::real(), &ports).await;
    assert_eq!(
        (first, second),
        (vec![Listening::Socket], vec![Listening::Socket])
    );
    assert_eq!(
        send(&Kernel, probes(NONCE), &ports).await[0].1,
        Outcome::Sent
    );
}

#[tokio::test]
async fn a_round_ends_by_itself_and_when_nobody_hears() {
    let (sender, mut events) = mpsc::channel(10);
    let quick = Duration::from_millis(50);
    receive(
        Host::real(),
        NONCE,
        vec![udp(free(Protocol::Udp))],
        quick,
        sender,
    )
    .await;
    assert!(matches!(events.recv().await, Some(Event::Listening(_))));
    assert_eq!(events.recv().await, None);
    let (sender, mut events) = mpsc::channel(10);
    let long = Duration::from_secs(60);
    let round = tokio::spawn(receive(Host::real(), NONCE, Vec::new(), long, sender));
    events.recv().await;
    drop(events);
    tokio::time::timeout(Duration::from_secs(10), round)
        .await
        .expect("it ends")
        .unwrap();
}

/// What only root may do, or who may be root in a namespace.
mod as_root {
    use super::*;
    use canasta_host::fake::needs;

    const OWNED: &str = "probes_to_a_port_that_someone_else_owns_are_seen";
    const OVERLAY: &str = "probes_to_the_overlays_port_are_seen_where_the_overlay_delivers_them";

    async fn ip(arguments: &str) -> bool {
        let limit = Duration::from_secs(10);
        canasta_host::command::run("ip", arguments.split(' '), limit, 4096)
            .await
            .is_ok()
    }

    #[test]
    fn probes_to_a_port_that_someone_else_owns_are_seen() {
        needs::in_own_network(module_path!(), OWNED, || async {
            assert!(ip("link set lo up").await);
            let owner = std::net::UdpSocket::bind("0.0.0.0:8472").unwrap();
            let (listening, mut events) = round(Host::real(), &[udp(8472)]).await;
            assert_eq!(listening, [Listening::PacketSocket]);
            send(&Kernel, probes(NONCE), &[udp(8472)]).await;
            for sequence in 1..=3 {
                let arrival = Event::Arrival {
                    port: udp(8472),
                    sequence,
                    size: 200,
                };
                assert_eq!(next(&mut events).await, arrival);
            }
            drop(owner);
        });
    }

    #[test]
    fn probes_to_the_overlays_port_are_seen_where_the_overlay_delivers_them() {
        needs::in_own_network(module_path!(), OVERLAY, || async {
            assert!(ip("link set lo up").await);
            let made = ip(
                "link add flannel.1 type vxlan id 1 dstport 8472 local 127.0.0.1 dev lo nolearning",
            )
            .await
                && ip("link set flannel.1 up").await;
            if !made {
                needs::lacks(OVERLAY, "vxlan", "this kernel has no vxlan");
                return;
            }
            let (listening, mut events) = round(Host::real(), &[udp(8472)]).await;
            assert_eq!(listening, [Listening::PacketSocket]);
            send(&Kernel, probes(NONCE), &[udp(8472)]).await;
            for sequence in 1..=3 {
                let Event::Arrival {
                    sequence: seen,
                    size,
                    ..
                } = next(&mut events).await
                else {
                    panic!("an arrival");
                };
                assert_eq!((seen, size), (sequence, 200));
            }
            // What this node's own packet filter drops has not arrived, although a packet socket sees it on the wire.
            let limit = Duration::from_secs(10);
            let rule = "-A INPUT -p udp --dport 8472 -j DROP";
            let dropped =
                canasta_host::command::run("iptables", rule.split(' '), limit, 4096).await;
            if dropped.is_err() {
                needs::lacks(OVERLAY, "iptables", "no usable iptables on this machine");
                return;
            }
            let late = Probes {
                count: 5,
                ..probes(NONCE)
            };
            send(&Kernel, late, &[udp(8472)]).await;
            assert!(events.try_recv().is_err(), "nothing more has arrived");
        });
    }
}
