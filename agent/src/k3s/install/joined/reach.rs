//! Whether the server's port can be reached from this node. k3s itself says nothing for 20 s when packets are dropped.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use canasta_host::Sockets;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use crate::k3s::server_url::ServerUrl;

/// How long a name may take, and a connection.
const LIMIT: Duration = Duration::from_secs(4);

/// What came of a connection to the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reach {
    /// It was opened.
    Open,
    /// Nothing listens there.
    Refused,
    /// Nothing answered.
    NoAnswer,
    /// There is no way there.
    Unreachable(String),
    /// The name has no address.
    Unresolvable(String),
}

/// Connects after a pause, and hangs up.
pub(super) async fn server(sockets: &dyn Sockets, server: &ServerUrl, pause: Duration) -> Reach {
    tokio::time::sleep(pause).await;
    let addresses = match timeout(LIMIT, lookup_host((server.host(), server.port()))).await {
        Ok(Ok(addresses)) => addresses.collect::<Vec<_>>(),
        Ok(Err(error)) => return Reach::Unresolvable(error.to_string()),
        Err(_) => return Reach::Unresolvable("the resolver gave no answer".to_owned()),
    };
    match timeout(LIMIT, any_of(sockets, &addresses)).await {
        Ok(Ok(_connection)) => Reach::Open,
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Reach::Refused,
        Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut => Reach::NoAnswer,
        Ok(Err(error)) => Reach::Unreachable(error.to_string()),
        Err(_) => Reach::NoAnswer,
    }
}

/// A connection to the first of the addresses that takes one; the error is that of the last.
async fn any_of(sockets: &dyn Sockets, addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        match sockets.connect(*address).await {
            Ok(connection) => return Ok(connection),
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use canasta_host::sockets::Kernel;

    async fn reach(url: &str) -> Reach {
        server(&Kernel, &url.parse().unwrap(), Duration::ZERO).await
    }

    #[tokio::test]
    async fn open_refused_and_unresolvable_are_told_apart() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(
            reach(&format!("https://127.0.0.1:{port}")).await,
            Reach::Open
        );
        drop(listener);
        assert_eq!(
            reach(&format!("https://127.0.0.1:{port}")).await,
            Reach::Refused
        );
        assert!(matches!(
            reach("https://no-such-host.invalid:6443").await,
            Reach::Unresolvable(_)
        ));
    }
}
