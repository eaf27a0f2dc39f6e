//! Sends probes to a peer.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use canasta_host::Sockets;
use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use super::{Nonce, Port, Protocol, datagram};

/// Between two datagrams to one port: a burst would be lost in queues that are no fault.
const PACE: Duration = Duration::from_millis(5);
/// How long the answer of a peer that refuses may take after the last datagram.
const REFUSAL: Duration = Duration::from_millis(200);

/// What came of the probes to one port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Datagrams were sent, or the connection was opened.
    Sent,
    /// The peer's machine answered that nothing listens there, or that it doesn't want them.
    Refused(String),
    /// Nothing answered.
    NoAnswer(String),
    /// There is no way there.
    Unreachable(String),
}

/// How to probe.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Probes {
    /// Marks the round.
    pub(crate) nonce: Nonce,
    /// The peer.
    pub(crate) address: IpAddr,
    /// Datagrams to each UDP port.
    pub(crate) count: u32,
    /// Bytes of payload of each.
    pub(crate) size: usize,
    /// How long a connection may take.
    pub(crate) limit: Duration,
}

/// Probes all ports at once; answers in their order.
pub(crate) async fn send(
    sockets: &dyn Sockets,
    probes: Probes,
    ports: &[Port],
) -> Vec<(Port, Outcome)> {
    join_all(ports.iter().map(async |port| {
        let to = SocketAddr::new(probes.address, port.number);
        let outcome = match port.protocol {
            Protocol::Tcp => connect(sockets, to, probes.limit).await,
            Protocol::Udp => match datagrams(sockets, to, &probes).await {
                Ok(()) => Outcome::Sent,
                Err(error) => sorted(&error),
            },
        };
        (*port, outcome)
    }))
    .await
}

async fn connect(sockets: &dyn Sockets, to: SocketAddr, limit: Duration) -> Outcome {
    match timeout(limit, sockets.connect(to)).await {
        Ok(Ok(_connection)) => Outcome::Sent,
        Ok(Err(error)) => sorted(&error),
        Err(_) => Outcome::NoAnswer(format!("no answer within {} ms", limit.as_millis())),
    }
}

async fn datagrams(sockets: &dyn Sockets, to: SocketAddr, probes: &Probes) -> io::Result<()> {
    let socket = sockets.datagrams_to(to).await?;
    for sequence in 1..=probes.count {
        let payload = datagram::write(&probes.nonce, sequence, probes.size);
        socket.send(&payload).await?;
        sleep(PACE).await;
    }
    // A refusal is told to whoever uses the socket next. Nothing else is expected.
    match timeout(REFUSAL, socket.recv(&mut [0; 1])).await {
        Ok(Err(error)) => Err(error),
        _ => Ok(()),
    }
}

fn sorted(error: &io::Error) -> Outcome {
    let text = error.to_string();
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Outcome::Refused(text),
        io::ErrorKind::TimedOut => Outcome::NoAnswer(text),
        _ => Outcome::Unreachable(text),
    }
}
