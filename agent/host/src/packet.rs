//! Packets as they arrive at the machine, whoever they are for. Opened for the seconds of a probe, where a port belongs to
//! someone else and no socket can be bound to it.

use std::io;

use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt,
};
use tokio::net::UdpSocket;

/// How much the kernel keeps for a reader that is slower than the wire, in bytes.
const BUFFER: usize = 1024 * 1024;

/// Which packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

/// Arriving IP packets of all links. Those that leave are not among them.
///
/// A packet socket is a socket for datagrams, so the runtime's type for those waits for it; only receiving makes sense.
#[derive(Debug)]
pub struct Packets(UdpSocket);

impl Packets {
    /// Begins to see packets. Needs CAP_NET_RAW, and a runtime.
    pub fn open(kind: Kind) -> io::Result<Self> {
        let protocol = match kind {
            Kind::Ipv4 => SockProtocol::EthIp,
            Kind::Ipv6 => SockProtocol::EthIpv6,
        };
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Packet, SockType::Datagram, flags, protocol)?;
        setsockopt(&socket, sockopt::RcvBuf, &BUFFER)?;
        Ok(Self(UdpSocket::from_std(socket.into())?))
    }

    /// The next packet, from its IP header on; its length is cut to that of `buffer`. Safe to drop between two packets.
    pub async fn next(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.recv(buffer).await
    }
}
