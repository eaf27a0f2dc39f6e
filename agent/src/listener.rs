//! Opening the agent's port: the address of the settings, or all addresses of both families.

use std::io;
use std::net::SocketAddr;

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpSocket};

/// Connections that wait for being accepted.
const BACKLOG: u32 = 128;

/// No address could be bound.
#[derive(Debug, thiserror::Error)]
#[error("failed to listen on {address}")]
pub struct ListenError {
    /// The address that was tried last.
    pub address: SocketAddr,
    /// The system's answer.
    #[source]
    pub source: io::Error,
}

impl ListenError {
    /// What to do about it.
    pub fn hint(&self) -> String {
        let port = self.address.port();
        match self.source.kind() {
            io::ErrorKind::AddrInUse => format!(
                "another program listens on port {port} (`ss -ltnp 'sport = :{port}'` names it); stop it, or set `listen` in {}",
                crate::paths::CONFIG
            ),
            _ => format!(
                "set `listen` in {} to an address of this machine",
                crate::paths::CONFIG
            ),
        }
    }
}

/// Binds the first of these addresses that the machine has. The next one is tried only where the family of the one
/// before it is switched off.
///
/// # Errors
/// When none can be bound.
pub fn bind(candidates: &[SocketAddr]) -> Result<TcpListener, ListenError> {
    let mut last = None;
    for &address in candidates {
        match bind_one(address) {
            Ok(listener) => return Ok(listener),
            Err(source) => {
                let family_is_off = matches!(
                    source.raw_os_error().map(nix::errno::Errno::from_raw),
                    Some(nix::errno::Errno::EAFNOSUPPORT | nix::errno::Errno::EADDRNOTAVAIL)
                );
                last = Some(ListenError { address, source });
                if !family_is_off {
                    break;
                }
            }
        }
    }
    Err(last.unwrap_or_else(|| ListenError {
        address: SocketAddr::from(([0; 4], 0)),
        source: io::ErrorKind::AddrNotAvailable.into(),
    }))
}

fn bind_one(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv6() {
        let socket = TcpSocket::new_v6()?;
        // `[::]` means IPv4 too, whatever net.ipv6.bindv6only says.
        setsockopt(&socket, sockopt::Ipv6V6Only, &false)?;
        socket
    } else {
        TcpSocket::new_v4()?
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::bind;

    #[tokio::test]
    async fn a_port_of_the_systems_choice_is_bound() {
        let listener = bind(&["127.0.0.1:0".parse().expect("address")]).expect("bind");
        assert_ne!(listener.local_addr().expect("address").port(), 0);
    }

    #[tokio::test]
    async fn a_taken_port_is_not_passed_over() {
        let first = bind(&["127.0.0.1:0".parse().expect("address")]).expect("bind");
        let taken = first.local_addr().expect("address");
        let other = SocketAddr::from(([127, 0, 0, 2], 0));
        let error = bind(&[taken, other]).expect_err("taken");
        assert_eq!(error.address, taken);
        assert!(
            error.hint().contains("another program listens"),
            "{}",
            error.hint()
        );
    }

    #[tokio::test]
    async fn the_next_address_is_tried_where_the_first_is_not_there() {
        // 192.0.2.0/24 is for documentation: no machine has it.
        let absent = SocketAddr::from(([192, 0, 2, 1], 0));
        let listener = bind(&[absent, SocketAddr::from(([127, 0, 0, 1], 0))]).expect("bind");
        assert!(listener.local_addr().expect("address").ip().is_loopback());
    }
}
