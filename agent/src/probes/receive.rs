//! Listens for the probes of a peer.

use std::collections::HashSet;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use canasta_host::Host;
use canasta_host::packet::{Kind, Packets};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::datagram::{self, EXPERIMENT, Seen, UDP};
use super::{Nonce, Port, Protocol};

/// The largest packet that is looked at.
const LARGEST: usize = 2048;
/// How many connections to one port are told.
const MOST_CONNECTIONS: u32 = 10;
/// The most different datagrams of one round that are told for one port.
const MOST_DATAGRAMS: usize = 64;

/// How a port is listened on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Listening {
    /// By a socket of the agent's own.
    Socket,
    /// By a packet socket: the port is someone else's.
    PacketSocket,
    /// A service listens there already.
    Service,
    /// Not at all: why.
    None(String),
}

/// Something that a round tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// Where it listens, in the order of the ports; first and once.
    Listening(Vec<(Port, Listening)>),
    /// A datagram, or a connection with number 0.
    Arrival {
        /// Where.
        port: Port,
        /// Its number.
        sequence: u32,
        /// Bytes of its payload.
        size: u32,
    },
}

/// What listens on one port.
enum Listener {
    Tcp(TcpListener),
    Udp(UdpSocket),
    /// Packets that the overlay delivers.
    Inner(Packets),
    /// Packets as they come over the wire.
    Outer(Vec<Packets>),
}

/// Listens until the time is over or nobody hears any more.
pub(crate) async fn receive(
    host: Host,
    nonce: Nonce,
    ports: Vec<Port>,
    duration: Duration,
    events: mpsc::Sender<Event>,
) {
    let until = Instant::now() + duration;
    let mut listening = Vec::new();
    let mut tasks = JoinSet::new();
    for port in ports {
        let (state, listener) = match listen(&host, port).await {
            Ok((state, listener)) => (state, listener),
            Err(error) => (Listening::None(error.to_string()), None),
        };
        listening.push((port, state));
        if let Some(listener) = listener {
            let round = Arc::new(Round {
                port,
                nonce,
                events: events.clone(),
            });
            tasks.spawn(async move { round.hear(listener).await });
        }
    }
    if events.send(Event::Listening(listening)).await.is_err() {
        return;
    }
    tokio::select! {
        _over = timeout_at(until, std::future::pending::<()>()) => {}
        () = events.closed() => {}
    }
}

/// Opens what can be opened for a port.
async fn listen(host: &Host, port: Port) -> io::Result<(Listening, Option<Listener>)> {
    let any = [
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, port.number)),
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, port.number)),
    ];
    let sockets = &host.sockets;
    let bound = match port.protocol {
        Protocol::Tcp => bind(any, |address| sockets.listen(address))
            .await
            .map(Listener::Tcp),
        Protocol::Udp => bind(any, |address| sockets.datagrams_at(address))
            .await
            .map(Listener::Udp),
    };
    match bound {
        Ok(listener) => Ok((Listening::Socket, Some(listener))),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => match port.protocol {
            Protocol::Tcp => Ok((Listening::Service, None)),
            Protocol::Udp => Ok((Listening::PacketSocket, Some(packets(host).await?))),
        },
        Err(error) => Err(error),
    }
}

/// Binds to all addresses of both families; to IPv4's alone where the machine has no IPv6.
async fn bind<T, F>(any: [SocketAddr; 2], open: impl Fn(SocketAddr) -> F) -> io::Result<T>
where
    F: Future<Output = io::Result<T>>,
{
    match open(any[0]).await {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => open(any[1]).await,
        answer => answer,
    }
}

/// Where the kernel has an overlay link, the port is the overlay's, and what counts is what it delivers.
async fn packets(host: &Host) -> io::Result<Listener> {
    let links = host.network.links().await.unwrap_or_default();
    let has_overlay = links
        .iter()
        .any(|link| link.kind.as_deref() == Some("vxlan"));
    if has_overlay {
        return Ok(Listener::Inner(Packets::open(Kind::Ipv4, EXPERIMENT)?));
    }
    Ok(Listener::Outer(vec![
        Packets::open(Kind::Ipv4, UDP)?,
        Packets::open(Kind::Ipv6, UDP)?,
    ]))
}

/// One port of a round.
struct Round {
    port: Port,
    nonce: Nonce,
    events: mpsc::Sender<Event>,
}

impl Round {
    /// Hears until it is dropped. A socket that breaks is heard no more: what it should have told is missed by the controller.
    async fn hear(&self, listener: Listener) {
        let broken = match listener {
            Listener::Tcp(listener) => self.connections(&listener).await,
            Listener::Udp(socket) => self.datagrams(&socket).await,
            Listener::Inner(packets) => {
                self.packets(&packets, |packet| datagram::in_inner(packet, &self.nonce))
                    .await
            }
            Listener::Outer(families) => {
                let hear = |packets| {
                    self.packets(packets, |packet| {
                        let (port, seen) = datagram::in_outer(packet, &self.nonce)?;
                        (port == self.port.number).then_some(seen)
                    })
                };
                let [v4, v6] = families.as_slice() else {
                    return;
                };
                tokio::try_join!(hear(v4), hear(v6)).map(drop)
            }
        };
        if let Err(error) = broken {
            tracing::warn!(
                port = self.port.number,
                "failed to listen for probes: {error}"
            );
        }
    }

    async fn tell(&self, sequence: u32, size: u32) {
        let arrival = Event::Arrival {
            port: self.port,
            sequence,
            size,
        };
        // Nobody who hears ends the round.
        let _ = self.events.send(arrival).await;
    }

    async fn connections(&self, listener: &TcpListener) -> io::Result<()> {
        for _ in 0..MOST_CONNECTIONS {
            let (connection, _peer) = listener.accept().await?;
            drop(connection);
            self.tell(0, 0).await;
        }
        // Further ones are left to the backlog, until the port is closed.
        std::future::pending().await
    }

    async fn datagrams(&self, socket: &UdpSocket) -> io::Result<()> {
        let mut buffer = [0; LARGEST];
        let mut known = HashSet::new();
        loop {
            let (length, _peer) = socket.recv_from(&mut buffer).await?;
            let seen = datagram::in_payload(&buffer[..length], &self.nonce);
            self.once(&mut known, seen).await;
        }
    }

    async fn packets(
        &self,
        packets: &Packets,
        recognise: impl Fn(&[u8]) -> Option<Seen>,
    ) -> io::Result<()> {
        let mut buffer = [0; LARGEST];
        let mut known = HashSet::new();
        loop {
            let length = packets.next(&mut buffer).await?;
            self.once(&mut known, recognise(&buffer[..length])).await;
        }
    }

    /// Tells of a datagram the first time that it is seen: a packet may pass several links of the machine.
    async fn once(&self, known: &mut HashSet<u32>, seen: Option<Seen>) {
        if let Some(seen) = seen
            && known.len() < MOST_DATAGRAMS
            && known.insert(seen.sequence)
        {
            self.tell(seen.sequence, seen.size).await;
        }
    }
}
