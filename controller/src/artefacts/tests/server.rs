//! A release server that does as it is told, a reply for each request.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::program;

/// What the server does with one request.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reply {
    /// A status without a file.
    Status(u16),
    /// The file, or the range of it that is asked for.
    File,
    /// All is announced and so many bytes are sent.
    Cut(usize),
    /// So many bytes are sent, and then nothing.
    Hang(usize),
    /// Other content under the same name.
    Other,
    /// So many bytes are announced, and none is sent.
    Announce(u64),
    /// Nothing is announced, and it never ends.
    Endless,
    /// A byte now and then, for ever.
    Drip,
}

/// A release server that does as it is told, and the file for what comes after.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub(super) async fn start(replies: &[Reply]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let heads: Arc<Mutex<Vec<String>>> = Arc::default();
        let mut replies: VecDeque<Reply> = replies.iter().copied().collect();
        tokio::spawn({
            let heads = Arc::clone(&heads);
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let reply = replies.pop_front().unwrap_or(Reply::File);
                    tokio::spawn(answer(stream, reply, Arc::clone(&heads)));
                }
            }
        });
        Self { address, heads }
    }

    pub(super) fn requests(&self) -> Vec<String> {
        self.heads.lock().expect("heads").clone()
    }
}

async fn answer(mut stream: TcpStream, reply: Reply, heads: Arc<Mutex<Vec<String>>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    let from = head
        .lines()
        .find_map(|line| line.strip_prefix("range: bytes="))
        .and_then(|range| range.trim_end_matches('-').parse().ok())
        .unwrap_or(0);
    heads.lock().expect("heads").push(head);
    let mut file = program();
    if matches!(reply, Reply::Other) {
        file[100] ^= 1;
    }
    let (status, body) = match reply {
        Reply::Status(status) => (status, &[][..]),
        _ if from > 0 => (206, &file[from..]),
        _ => (200, &file[..]),
    };
    let last = file.len() - 1;
    let length = match reply {
        Reply::Announce(size) => format!("content-length: {size}\r\n"),
        Reply::Endless => String::new(),
        _ => format!("content-length: {}\r\n", body.len()),
    };
    let head = format!(
        "HTTP/1.1 {status} X\r\n{length}etag: \"one\"\r\ncontent-range: bytes {from}-{last}/{}\r\nconnection: close\r\n\r\n",
        file.len()
    );
    let sent = match reply {
        Reply::Cut(count) | Reply::Hang(count) => &body[..count],
        Reply::Announce(_) | Reply::Drip => &[],
        _ => body,
    };
    // The client may be gone.
    let _ = stream.write_all(head.as_bytes()).await;
    let _ = stream.write_all(sent).await;
    let _ = stream.flush().await;
    match reply {
        Reply::Hang(_) => std::future::pending().await,
        Reply::Endless => while stream.write_all(body).await.is_ok() {},
        Reply::Drip => {
            let mut pace = tokio::time::interval(Duration::from_millis(20));
            for byte in body {
                pace.tick().await;
                if stream.write_all(&[*byte]).await.is_err() {
                    return;
                }
            }
        }
        _ => {}
    }
}
