//! Packets as they arrive at the machine, whoever they are for. Opened for the seconds of a probe, where a port belongs to
//! someone else and no socket can be bound to it.

use std::io;

use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt,
};
use socket2::{SockFilter, SockRef};
use tokio::net::UdpSocket;

/// How much the kernel keeps for a reader that is slower than the wire, in bytes. Without CAP_NET_ADMIN it keeps no more than
/// the machine's `net.core.rmem_max`, which is a fifth of this by default.
const BUFFER: usize = 1024 * 1024;

/// How many packets may have come before the filter that are thrown away; more are seen and are no harm.
const MOST_UNFILTERED: usize = 4096;

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
    /// Begins to see packets of one protocol, by its IP number: a busy machine has far too many others for a reader that looks
    /// at each. Needs CAP_NET_RAW, and a runtime.
    pub fn open(kind: Kind, ip_protocol: u8) -> io::Result<Self> {
        let protocol = match kind {
            Kind::Ipv4 => SockProtocol::EthIp,
            Kind::Ipv6 => SockProtocol::EthIpv6,
        };
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Packet, SockType::Datagram, flags, protocol)?;
        if setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).is_err() {
            setsockopt(&socket, sockopt::RcvBuf, &BUFFER)?;
        }
        SockRef::from(&socket).attach_filter(&only(kind, ip_protocol))?;
        let socket = std::net::UdpSocket::from(socket);
        // What came between the opening and the filter.
        let mut unfiltered = (0..MOST_UNFILTERED).map(|_| socket.recv(&mut [0]));
        while unfiltered.next().is_some_and(|came| came.is_ok()) {}
        Ok(Self(UdpSocket::from_std(socket)?))
    }

    /// How much the kernel keeps for this reader, in bytes: twice what was asked for, its own share included.
    #[cfg(test)]
    fn buffer(&self) -> usize {
        nix::sys::socket::getsockopt(&self.0, sockopt::RcvBuf).expect("a socket has a buffer")
    }

    /// The next packet, from its IP header on; its length is cut to that of `buffer`. Safe to drop between two packets.
    pub async fn next(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.recv(buffer).await
    }
}

/// A filter that the kernel runs on each packet: load the byte that tells the protocol, keep the packet if it is this one.
/// Instructions of classic BPF, as `linux/bpf_common.h` numbers them.
fn only(kind: Kind, ip_protocol: u8) -> [SockFilter; 4] {
    const LOAD_BYTE: u16 = 0x30;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let at = match kind {
        Kind::Ipv4 => 9,
        Kind::Ipv6 => 6,
    };
    [
        SockFilter::new(LOAD_BYTE, 0, 0, at),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, ip_protocol.into()),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    const UDP: u8 = 17;

    #[tokio::test]
    async fn packets_of_other_protocols_wake_nobody() {
        let packets = match Packets::open(Kind::Ipv4, UDP) {
            Ok(packets) => packets,
            Err(error) => {
                assert!(!nix::unistd::Uid::effective().is_root(), "{error}");
                return;
            }
        };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let there = listener.local_addr().expect("bound");
        std::net::TcpStream::connect(there).expect("packets of TCP");
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
        sender.send_to(b"x", there).expect("a packet of UDP");
        let mut packet = [0; 64];
        packets.next(&mut packet).await.expect("a packet");
        assert_eq!(packet[9], UDP);
    }

    /// Root may have more than the machine allows everybody.
    #[tokio::test]
    async fn the_buffer_is_as_large_as_was_asked_for() {
        match Packets::open(Kind::Ipv4, UDP) {
            Ok(packets) => assert_eq!(packets.buffer(), 2 * BUFFER),
            Err(error) => assert!(!nix::unistd::Uid::effective().is_root(), "{error}"),
        }
    }
}
