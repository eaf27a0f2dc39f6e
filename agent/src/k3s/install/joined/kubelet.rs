//! Asks the kubelet of this node whether it is well.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use canasta_host::Host;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;

use crate::facts::with_causes;
use crate::k3s::config;

/// Where the kubelet tells its health unless it is configured otherwise.
const PORT: u16 = 10248;

/// Asks `/healthz`. The error is what is not well, in words.
pub(super) async fn health(host: &Host, limit: Duration) -> Result<(), String> {
    let configured = config::read(host)
        .await
        .map_err(|error| with_causes(&error))?;
    let address = address(&configured.kubelet_args);
    tokio::time::timeout(limit, ask(host, address))
        .await
        .unwrap_or_else(|_| Err(format!("{address} gives no answer")))
}

/// Where it listens, by the arguments that k3s hands on to it.
fn address(arguments: &[String]) -> SocketAddr {
    let value = |name: &str| {
        arguments
            .iter()
            .rev()
            .find_map(|argument| argument.strip_prefix(name)?.strip_prefix('='))
    };
    let port = value("healthz-port").and_then(|port| port.parse().ok());
    let ip = value("healthz-bind-address").and_then(|ip| ip.parse::<IpAddr>().ok());
    let ip = ip.filter(|ip| !ip.is_unspecified());
    SocketAddr::new(
        ip.unwrap_or(Ipv4Addr::LOCALHOST.into()),
        port.unwrap_or(PORT),
    )
}

async fn ask(host: &Host, address: SocketAddr) -> Result<(), String> {
    let tcp = host
        .sockets
        .connect(address)
        .await
        .map_err(|error| format!("{address}: {error}"))?;
    let said = |error: hyper::Error| format!("{address}: {}", with_causes(&error));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tcp))
        .await
        .map_err(said)?;
    let request = http::Request::get("/healthz")
        .header(http::header::HOST, address.to_string())
        .header(http::header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .expect("all parts are valid");
    // The connection must be driven while the answer is waited for; where it breaks, the request gets the error.
    let drive = async {
        let _told_to_request = connection.await;
        std::future::pending::<()>().await;
    };
    let response = tokio::select! {
        response = sender.send_request(request) => response.map_err(said)?,
        () = drive => unreachable!("driving never ends"),
    };
    if response.status().is_success() {
        Ok(())
    } else {
        Err(format!("it answers {}", response.status()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kubelet_is_asked_where_it_was_told_to_listen() {
        let shown = |arguments: &[&str]| {
            let arguments: Vec<String> = arguments.iter().map(|&text| text.to_owned()).collect();
            address(&arguments).to_string()
        };
        assert_eq!(shown(&[]), "127.0.0.1:10248");
        assert_eq!(shown(&["v=2", "healthz-port=1024"]), "127.0.0.1:1024");
        assert_eq!(
            shown(&["healthz-bind-address=0.0.0.0", "healthz-port=x"]),
            "127.0.0.1:10248"
        );
        assert_eq!(shown(&["healthz-bind-address=10.0.0.1"]), "10.0.0.1:10248");
    }
}
