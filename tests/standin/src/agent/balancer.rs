//! The load balancer on loopback, through which everything on a worker reaches the server.

use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::Dial;

/// Passes connections on to the server. One that can't be is closed, as the recorded balancer does.
pub(super) async fn run(listener: TcpListener, server: String, dial: Dial) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((mut near, _)) = accepted {
                let opened = dial(server.clone());
                connections.spawn(async move {
                    if let Ok(mut far) = opened.await {
                        // Either side may close as it likes.
                        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                    }
                });
            },
            Some(_) = connections.join_next() => {}
        }
    }
}
