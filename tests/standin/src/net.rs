//! Small facts about this machine that a Node object carries. Used where the configuration does not say them.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};

/// The machine's host name in lower case, as k3s names its Node.
pub fn host_name() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname").map_or_else(
        |_| "localhost".to_owned(),
        |name| name.trim().to_lowercase(),
    )
}

/// The address that the machine would send from, or loopback where there is no route.
pub fn own_address() -> IpAddr {
    // Connecting a datagram socket sends nothing; it only asks the routing table.
    let routed = || -> std::io::Result<IpAddr> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        Ok(socket.local_addr()?.ip())
    };
    routed().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// A server's address with its name, if it is one, looked up.
pub(crate) fn resolved(server: &str) -> String {
    use std::net::ToSocketAddrs as _;
    let mut found = server.to_socket_addrs().into_iter().flatten();
    found
        .find(std::net::SocketAddr::is_ipv4)
        .map_or_else(|| server.to_owned(), |address| address.to_string())
}

/// The first six bytes as a hardware address, locally administered.
pub(crate) fn local_mac(bytes: &[u8]) -> String {
    let text: Vec<String> = bytes
        .iter()
        .take(6)
        .enumerate()
        .map(|(index, byte)| {
            let byte = if index == 0 {
                byte & 0xfc | 0x02
            } else {
                *byte
            };
            format!("{byte:02x}")
        })
        .collect();
    text.join(":")
}

/// Kubernetes' word for this processor.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_addresses_are_local_and_of_one_device() {
        assert_eq!(local_mac(&[0xff; 8]), "fe:ff:ff:ff:ff:ff");
        assert_eq!(local_mac(&[0; 6]), "02:00:00:00:00:00");
    }
}
