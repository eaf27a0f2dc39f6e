//! Connections and datagrams to other machines, and ports that are listened on for the time of a probe.
//!
//! [`Kernel`] opens real sockets; with the feature `fake`, `fake::FakeSockets` lets several fake machines reach each other.
//! Called by the probes between nodes and by the joining of an agent, which asks the server of its cluster and its own kubelet.

use std::fmt::Debug;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use async_trait::async_trait;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};

/// How many connections to a port wait to be accepted.
const BACKLOG: u32 = 128;

/// The sockets of the machine.
#[async_trait]
pub trait Sockets: Send + Sync + Debug {
    /// Opens a connection.
    async fn connect(&self, to: SocketAddr) -> io::Result<TcpStream>;

    /// Listens for connections. Who listens like this shares the port; a service, which does not, keeps it for itself.
    async fn listen(&self, at: SocketAddr) -> io::Result<TcpListener>;

    /// Takes datagrams that come to an address.
    async fn datagrams_at(&self, at: SocketAddr) -> io::Result<UdpSocket>;

    /// Sends datagrams to an address.
    async fn datagrams_to(&self, to: SocketAddr) -> io::Result<UdpSocket>;
}

/// Real sockets.
#[derive(Debug, Clone, Copy, Default)]
pub struct Kernel;

#[async_trait]
impl Sockets for Kernel {
    async fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        TcpStream::connect(to).await
    }

    async fn listen(&self, at: SocketAddr) -> io::Result<TcpListener> {
        let socket = match at {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(true)?;
        socket.set_reuseport(true)?;
        socket.bind(at)?;
        socket.listen(BACKLOG)
    }

    async fn datagrams_at(&self, at: SocketAddr) -> io::Result<UdpSocket> {
        UdpSocket::bind(at).await
    }

    async fn datagrams_to(&self, to: SocketAddr) -> io::Result<UdpSocket> {
        let any: IpAddr = match to {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(to).await?;
        Ok(socket)
    }
}
