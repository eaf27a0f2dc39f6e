//! Sockets of fake machines that reach each other at addresses which this machine does not have.
//!
//! What listens is really on loopback, at a port of the kernel's choice; a [`Wire`] knows which machine has which address, and
//! each machine which of its ports is where. A machine that is on no wire has real sockets, as a test on loopback wants them.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, Weak};

use async_trait::async_trait;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinHandle;

use super::{FakeNetwork, locked};
use crate::sockets::{Kernel, Sockets};

/// What is bound where the kernel is to choose.
const ANYWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// What connects machines. Cheap to clone; all clones are one wire.
#[derive(Debug, Clone, Default)]
pub struct Wire(Arc<Mutex<Vec<Weak<FakeSockets>>>>);

impl Wire {
    /// The machine with this address.
    fn machine(&self, ip: IpAddr) -> Option<Arc<FakeSockets>> {
        let mut machines = locked(&self.0);
        machines.retain(|machine| machine.strong_count() > 0);
        let mut there = machines.iter().filter_map(Weak::upgrade);
        there.find(|machine| machine.network.has(ip))
    }
}

/// Where the ports of one machine really are.
#[derive(Debug, Default)]
struct Ports {
    wire: Option<Wire>,
    /// Of services, which have their port for themselves.
    services: HashMap<u16, SocketAddr>,
    /// Of probes, by number.
    connections: HashMap<u16, SocketAddr>,
    /// The same for datagrams.
    datagrams: HashMap<u16, Relay>,
}

/// Has all who take datagrams at one port get each that comes, as those get them who look at packets.
#[derive(Debug)]
struct Relay {
    real: SocketAddr,
    takers: Arc<Mutex<Vec<SocketAddr>>>,
    task: JoinHandle<()>,
}

impl Relay {
    async fn start() -> io::Result<Self> {
        let socket = Kernel.datagrams_at(ANYWHERE).await?;
        let real = socket.local_addr()?;
        let takers: Arc<Mutex<Vec<SocketAddr>>> = Arc::default();
        let known = Arc::clone(&takers);
        let task = tokio::spawn(async move {
            let mut datagram = vec![0; usize::from(u16::MAX)];
            while let Ok(length) = socket.recv(&mut datagram).await {
                let takers = locked(&known).clone();
                for taker in takers {
                    // One that is gone misses nothing.
                    let _ = socket.send_to(&datagram[..length], taker).await;
                }
            }
        });
        Ok(Self { real, takers, task })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The sockets of one fake machine.
#[derive(Debug)]
pub struct FakeSockets {
    network: Arc<FakeNetwork>,
    ports: Mutex<Ports>,
}

/// A service that can be reached. It can't any more once this is dropped.
#[derive(Debug)]
pub struct Offer {
    sockets: Arc<FakeSockets>,
    port: u16,
    real: SocketAddr,
}

impl Drop for Offer {
    fn drop(&mut self) {
        let mut ports = locked(&self.sockets.ports);
        if ports.services.get(&self.port) == Some(&self.real) {
            ports.services.remove(&self.port);
        }
    }
}

impl FakeSockets {
    pub(super) fn new(network: Arc<FakeNetwork>) -> Self {
        Self {
            network,
            ports: Mutex::default(),
        }
    }

    /// Puts the machine on a wire.
    pub fn plug_into(self: &Arc<Self>, wire: &Wire) {
        locked(&wire.0).push(Arc::downgrade(self));
        locked(&self.ports).wire = Some(wire.clone());
    }

    /// Has a service be reached at a port of this machine that really is elsewhere.
    pub fn offer(self: &Arc<Self>, port: u16, real: SocketAddr) -> Offer {
        locked(&self.ports).services.insert(port, real);
        Offer {
            sockets: Arc::clone(self),
            port,
            real,
        }
    }

    fn wire(&self) -> Option<Wire> {
        locked(&self.ports).wire.clone()
    }

    /// Where an address really is.
    fn real(
        &self,
        to: SocketAddr,
        of: impl Fn(&Ports) -> Option<SocketAddr>,
    ) -> io::Result<SocketAddr> {
        let Some(wire) = self.wire() else {
            return Ok(to);
        };
        if to.ip().is_loopback() {
            return Ok(of(&locked(&self.ports)).unwrap_or(to));
        }
        let machine = wire
            .machine(to.ip())
            .ok_or_else(|| io::Error::from(io::ErrorKind::HostUnreachable))?;
        let real = of(&locked(&machine.ports));
        real.ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionRefused))
    }
}

#[async_trait]
impl Sockets for FakeSockets {
    async fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let port = to.port();
        let real = self.real(to, |ports| {
            let service = ports.services.get(&port);
            service.or_else(|| ports.connections.get(&port)).copied()
        })?;
        Kernel.connect(real).await
    }

    async fn listen(&self, at: SocketAddr) -> io::Result<TcpListener> {
        if self.wire().is_none() {
            return Kernel.listen(at).await;
        }
        if locked(&self.ports).services.contains_key(&at.port()) {
            return Err(io::Error::from(io::ErrorKind::AddrInUse));
        }
        let listener = Kernel.listen(ANYWHERE).await?;
        let real = listener.local_addr()?;
        locked(&self.ports).connections.insert(at.port(), real);
        Ok(listener)
    }

    async fn datagrams_at(&self, at: SocketAddr) -> io::Result<UdpSocket> {
        if self.wire().is_none() {
            return Kernel.datagrams_at(at).await;
        }
        let socket = Kernel.datagrams_at(ANYWHERE).await?;
        let relay = Relay::start().await?;
        let mut ports = locked(&self.ports);
        let relay = ports.datagrams.entry(at.port()).or_insert(relay);
        locked(&relay.takers).push(socket.local_addr()?);
        Ok(socket)
    }

    async fn datagrams_to(&self, to: SocketAddr) -> io::Result<UdpSocket> {
        let real = self.real(to, |ports| {
            ports.datagrams.get(&to.port()).map(|relay| relay.real)
        })?;
        Kernel.datagrams_to(real).await
    }
}
