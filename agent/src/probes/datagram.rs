//! The datagrams of a probe: written by the sender, recognised by the receiver. Pure.
//!
//! Each is a whole VXLAN datagram of flannel's network, so that a node whose kernel owns the port unpacks it like any other, after
//! its packet filter has let it pass. Inside is an IPv4 packet of a protocol kept for experiments (253), to nobody but the
//! receiver itself: nothing answers it, and it goes no further.

use super::Nonce;

/// VXLAN: the network's number is valid, and it is 1, as flannel's.
const VXLAN: [u8; 8] = [0x08, 0, 0, 0, 0, 0, 1, 0];
/// Ethernet: to all, from an address that no card has, IPv4.
const ETHERNET: [u8; 14] = [
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0xca, 0x9a, 0x57, 0xa0, 0x01, 0x08, 0x00,
];
/// Length of the IPv4 header that is written.
const IPV4: usize = 20;
/// The protocol kept for experiments.
pub(super) const EXPERIMENT: u8 = 253;
pub(super) const UDP: u8 = 17;
/// Length of a UDP header.
const UDP_HEADER: usize = 8;
/// What a probe begins with.
const MAGIC: [u8; 8] = *b"CANASTA1";
/// Magic, nonce, number.
const BODY: usize = MAGIC.len() + 16 + 4;
/// The smallest datagram.
pub(super) const SMALLEST: usize = VXLAN.len() + ETHERNET.len() + IPV4 + BODY;

/// What was seen of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    /// 1 for the first.
    pub(super) sequence: u32,
    /// Bytes of the datagram's payload.
    pub(super) size: u32,
}

/// The payload of a datagram, `size` bytes long but at least [`SMALLEST`].
pub(super) fn write(nonce: &Nonce, sequence: u32, size: usize) -> Vec<u8> {
    let mut payload = Vec::with_capacity(size);
    payload.extend(VXLAN);
    payload.extend(ETHERNET);
    let inner = size.max(SMALLEST) - VXLAN.len() - ETHERNET.len();
    payload.extend(ipv4_header(inner));
    payload.extend(MAGIC);
    payload.extend(nonce);
    payload.extend(sequence.to_be_bytes());
    payload.resize(size.max(SMALLEST), 0);
    payload
}

/// The header of a packet that is broadcast on one link, from nobody.
fn ipv4_header(length: usize) -> [u8; IPV4] {
    let mut header = [0; IPV4];
    header[0] = 0x45;
    let length = u16::try_from(length).unwrap_or(u16::MAX);
    header[2..4].copy_from_slice(&length.to_be_bytes());
    header[8] = 1;
    header[9] = EXPERIMENT;
    header[16..20].fill(0xff);
    let sum: u32 = header
        .chunks_exact(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !u16::try_from(folded).unwrap_or(u16::MAX);
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    header
}

/// A probe in the payload of a datagram.
pub(super) fn in_payload(payload: &[u8], nonce: &Nonce) -> Option<Seen> {
    let inner = payload.get(VXLAN.len() + ETHERNET.len()..)?;
    in_inner(inner, nonce)
}

/// A probe in the packet that the overlay delivered.
pub(super) fn in_inner(packet: &[u8], nonce: &Nonce) -> Option<Seen> {
    let (protocol, body) = ip(packet)?;
    if protocol != EXPERIMENT {
        return None;
    }
    let number = body.strip_prefix(&MAGIC)?.strip_prefix(nonce)?.get(..4)?;
    Some(Seen {
        sequence: u32::from_be_bytes(number.try_into().ok()?),
        size: u32::try_from(packet.len() + VXLAN.len() + ETHERNET.len()).ok()?,
    })
}

/// A probe in a packet as it came over the wire, with the UDP port that it is for.
pub(super) fn in_outer(packet: &[u8], nonce: &Nonce) -> Option<(u16, Seen)> {
    let (protocol, body) = ip(packet)?;
    if protocol != UDP {
        return None;
    }
    let port = u16::from_be_bytes(body.get(2..4)?.try_into().ok()?);
    Some((port, in_payload(body.get(UDP_HEADER..)?, nonce)?))
}

/// The protocol of an IP packet and what it carries. IPv6 with extension headers carries nothing that is known here.
fn ip(packet: &[u8]) -> Option<(u8, &[u8])> {
    match packet.first()? >> 4 {
        4 => {
            let header = usize::from(packet[0] & 0x0f) * 4;
            Some((*packet.get(9)?, packet.get(header..)?))
        }
        6 => Some((*packet.get(6)?, packet.get(40..)?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: Nonce = [7; 16];

    #[test]
    fn a_probe_is_recognised_by_its_nonce_wherever_it_is_seen() {
        for size in [32, SMALLEST, 1400] {
            let payload = write(&NONCE, 9, size);
            let seen = Seen {
                sequence: 9,
                size: u32::try_from(size.max(SMALLEST)).unwrap(),
            };
            assert_eq!(payload.len(), size.max(SMALLEST));
            assert_eq!(in_payload(&payload, &NONCE), Some(seen));
            assert_eq!(in_payload(&payload, &[8; 16]), None);
            assert_eq!(in_inner(&payload[22..], &NONCE), Some(seen));
            let mut outer = vec![0; 28];
            outer[0] = 0x45;
            outer[9] = UDP;
            outer[22..24].copy_from_slice(&8472_u16.to_be_bytes());
            outer.extend(&payload);
            assert_eq!(in_outer(&outer, &NONCE), Some((8472, seen)));
            assert_eq!(in_inner(&outer, &NONCE), None);
            let mut outer = vec![0; 48];
            outer[0] = 0x60;
            outer[6] = UDP;
            outer[42..44].copy_from_slice(&8472_u16.to_be_bytes());
            outer.extend(&payload);
            assert_eq!(in_outer(&outer, &NONCE), Some((8472, seen)));
        }
    }

    #[test]
    fn whatever_arrives_is_taken_apart_without_harm() {
        let payload = write(&NONCE, 1, 100);
        for length in 0..payload.len() {
            let cut = &payload[..length];
            let _ = (
                in_payload(cut, &NONCE),
                in_inner(cut, &NONCE),
                in_outer(cut, &NONCE),
            );
        }
        let mut long_header = vec![0x4f; 30];
        long_header[9] = EXPERIMENT;
        assert_eq!(in_inner(&long_header, &NONCE), None);
    }

    #[test]
    fn the_inner_header_is_one_that_the_kernel_takes() {
        let header = ipv4_header(100);
        let sum: u32 = header
            .chunks_exact(2)
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
            .sum();
        assert_eq!(
            (sum & 0xffff) + (sum >> 16),
            0xffff,
            "the checksum is right"
        );
    }
}
