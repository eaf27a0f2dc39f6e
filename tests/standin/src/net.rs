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

/// Kubernetes' word for this processor.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
