//! A wire that a test can cut or hold: forwards TCP to a daemon and breaks off after so many bytes, or lets nothing through.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::place;

/// A wire to one address.
#[derive(Debug)]
pub struct Wire {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    /// Bytes towards the daemon until the wire breaks once; negative for never.
    left: AtomicI64,
    forwarded: AtomicU64,
    /// Nothing goes towards the daemon while it is true.
    held: watch::Sender<bool>,
}

impl Wire {
    /// A whole wire to `target`.
    ///
    /// # Panics
    /// When no port can be opened.
    pub async fn to(target: SocketAddr) -> Self {
        let address = place::free();
        let listener = TcpListener::bind(address).await.expect("a free port");
        let shared = Arc::new(Shared {
            left: AtomicI64::new(-1),
            forwarded: AtomicU64::new(0),
            held: watch::Sender::new(false),
        });
        let carried = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                if let Ok(far) = TcpStream::connect(target).await {
                    tokio::spawn(carry(near, far, Arc::clone(&carried)));
                }
            }
        });
        Self {
            address,
            shared,
            task,
        }
    }

    /// Its near end.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Breaks the connection that carries the byte with this number from now on, once.
    pub fn break_after(&self, bytes: u32) {
        self.shared.left.store(bytes.into(), Ordering::SeqCst);
    }

    /// Lets nothing through to the daemon from now on, or again what came meanwhile and comes.
    pub fn hold(&self, held: bool) {
        self.shared.held.send_replace(held);
    }

    /// Whether the wire has broken since it was told to.
    pub fn has_broken(&self) -> bool {
        self.shared.left.load(Ordering::SeqCst) < 0
    }

    /// Bytes towards the daemon so far.
    pub fn forwarded(&self) -> u64 {
        self.shared.forwarded.load(Ordering::SeqCst)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(near: TcpStream, far: TcpStream, shared: Arc<Shared>) {
    let (near_in, near_out) = near.into_split();
    let (far_in, far_out) = far.into_split();
    // The end of either direction ends both: a daemon that died is seen at once.
    tokio::select! {
        () = pump(near_in, far_out, Some(&shared)) => {}
        () = pump(far_in, near_out, None) => {}
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    counted: Option<&Shared>,
) {
    let mut part = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut part).await {
        if let Some(shared) = counted {
            let bytes = i64::try_from(length).unwrap_or(i64::MAX);
            let take = |left: i64| (left >= 0).then_some(left - bytes);
            let before = shared
                .left
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, take);
            if before.is_ok_and(|left| left < bytes) {
                return;
            }
            // The sender is here, so the wait can't fail.
            let _ = shared.held.subscribe().wait_for(|held| !held).await;
            shared.forwarded.fetch_add(length as u64, Ordering::SeqCst);
        }
        if to.write_all(&part[..length]).await.is_err() {
            return;
        }
    }
}
