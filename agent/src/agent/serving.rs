//! The agent's port: tonic over connections that have been judged by [`canasta_transport::listen`].

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use canasta_transport::listen::{self, Connections, Limits};
use canasta_transport::material::Reloadable;
use canasta_transport::tls::ServerTls;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::Core;
use crate::api;

/// One controller needs a handful of connections.
const LIMITS: Limits = Limits {
    handshakes: 16,
    handshake: Duration::from_secs(5),
    connections: 64,
    read: 64 << 10,
};
/// Open calls of one connection.
const STREAMS: u32 = 64;
/// How often a silent controller is probed, and how long it may take to answer.
const KEEPALIVE: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// What may be on its way to the agent on one call and on one connection: enough for an artefact at full speed.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 3 << 20;
/// Frames as large as the chunks of an artefact.
const FRAME: u32 = 1 << 20;

/// The port while it is open.
#[derive(Debug)]
pub(super) struct Serving {
    connections: Connections,
    address: Mutex<Option<SocketAddr>>,
    open: watch::Sender<bool>,
}

impl Default for Serving {
    fn default() -> Self {
        Self {
            connections: Connections::default(),
            address: Mutex::default(),
            open: watch::Sender::new(false),
        }
    }
}

impl Serving {
    /// Where it listens.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        *self.address.lock().expect("no holder panics")
    }

    /// Begins to accept. Ends by itself when the agent is stopping and the last call has ended.
    pub(super) fn start(&self, core: &Arc<Core>, listener: TcpListener, material: Reloadable) {
        let address = listener.local_addr().ok();
        *self.address.lock().expect("no holder panics") = address;
        self.open.send_replace(true);
        let noting = Arc::clone(core);
        let incoming = listen::tcp(
            listener,
            ServerTls::agent(material),
            self.connections.clone(),
            LIMITS,
            Arc::new(move |refused| noting.refusals.note(&refused, noting.host.machine.now())),
        );
        let (api, open) = (Arc::clone(core), self.open.clone());
        core.life.spawn(async move {
            let stopping = api.life.stopping.clone();
            let served = tonic::transport::Server::builder()
                .max_concurrent_streams(STREAMS)
                .http2_keepalive_interval(Some(KEEPALIVE))
                .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_frame_size(FRAME)
                .serve_with_incoming_shutdown(
                    api::services(api).await,
                    incoming,
                    stopping.cancelled_owned(),
                )
                .await;
            if let Err(error) = served {
                tracing::error!(error = &error as &dyn std::error::Error, "serving ended");
            }
            open.send_replace(false);
        });
    }

    /// Resolves when the port is closed and no call is open.
    pub(super) async fn stopped(&self) {
        // The sender lives as long as `self`.
        let _ = self.open.subscribe().wait_for(|open| !open).await;
    }

    /// Breaks all connections.
    pub(super) fn close_all(&self) {
        self.connections.close(|_, _| true);
    }
}
