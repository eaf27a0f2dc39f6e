//! Where the controller listens: TCP, and a unix socket for this machine. And the address that it tells to others.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use canasta_proto::address::Address;
use nix::unistd::{Group, chown};

use super::StartError;

/// Opens the TCP port. Where IPv6 is off, the unspecified IPv6 address falls back to the one of IPv4.
pub(super) fn tcp(address: SocketAddr) -> Result<TcpListener, StartError> {
    let bound = TcpListener::bind(address).or_else(|error| {
        let no_ipv6 = matches!(
            error.raw_os_error().map(nix::errno::Errno::from_raw),
            Some(nix::errno::Errno::EAFNOSUPPORT | nix::errno::Errno::EADDRNOTAVAIL)
        );
        if no_ipv6 && address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port()))
        } else {
            Err(error)
        }
    });
    bound.map_err(|source| StartError::Listen { address, source })
}

/// Opens the unix socket (0660, group as given), in the place of one that a dead process left.
pub(super) fn unix(path: &Path, group: &str) -> Result<UnixListener, StartError> {
    let failed = |source| StartError::Socket {
        path: path.to_owned(),
        source,
    };
    if let Ok(metadata) = std::fs::symlink_metadata(path) {
        if !metadata.file_type().is_socket() || UnixStream::connect(path).is_ok() {
            return Err(failed(io::ErrorKind::AddrInUse.into()));
        }
        std::fs::remove_file(path).map_err(failed)?;
    }
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    // Until its mode is set, the umask keeps all but this process's user from opening it.
    let listener = UnixListener::bind(path).map_err(failed)?;
    if let Ok(Some(found)) = Group::from_name(group) {
        if let Err(error) = chown(path, None, Some(found.gid)) {
            tracing::warn!(%error, group, path = %path.display(), "failed to give the socket to its group; only the controller's user and root can open it");
        }
    } else {
        tracing::info!(group, "the socket's group does not exist on this machine");
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(failed)?;
    Ok(listener)
}

/// The address that join commands tell: what is configured, else what this machine is reached at as far as it knows.
pub(super) fn advertised(configured: Option<&Address>, bound: SocketAddr) -> String {
    let port = bound.port();
    if let Some(address) = configured {
        return address.with_default_port(port);
    }
    let ip = if bound.ip().is_unspecified() {
        routed()
    } else {
        Some(bound.ip())
    };
    if let Some(ip) = ip {
        return Address::from_ip(ip, port).with_default_port(port);
    }
    let hostname = nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_else(|| "localhost".to_owned());
    format!("{hostname}:{port}")
}

/// The address that packets to the outside would leave from. Nothing is sent: connecting a UDP socket only asks the routing
/// table. The targets are of the ranges for documentation.
fn routed() -> Option<IpAddr> {
    let probes: [(IpAddr, IpAddr); 2] = [
        (
            Ipv4Addr::UNSPECIFIED.into(),
            Ipv4Addr::new(192, 0, 2, 1).into(),
        ),
        (
            Ipv6Addr::UNSPECIFIED.into(),
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
        ),
    ];
    probes.into_iter().find_map(|(any, target)| {
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect((target, 9)).ok()?;
        let ip = socket.local_addr().ok()?.ip();
        (!ip.is_loopback() && !ip.is_unspecified()).then_some(ip)
    })
}

#[cfg(test)]
mod tests {
    use super::advertised;

    #[test]
    fn what_is_told_can_be_dialled() {
        let bound = "[::]:7440".parse().expect("address");
        let configured = "ctl.example.org".parse().expect("address");
        assert_eq!(advertised(Some(&configured), bound), "ctl.example.org:7440");
        assert!(advertised(None, bound).ends_with(":7440"));
        let loopback = "127.0.0.1:99".parse().expect("address");
        assert_eq!(advertised(None, loopback), "127.0.0.1:99");
    }
}
