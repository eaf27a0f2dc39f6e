//! Addresses for daemons that keep theirs over a restart.
//!
//! A port that the kernel chose may be somebody else's by the time that a daemon comes back. So each process has an
//! address of its own in 127.0.0.0/8, and counts through ports below those that the kernel gives out.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};

/// The first port; ports from 32768 on are the kernel's to give.
const FIRST: u16 = 20_000;

/// An address that nobody else has.
pub fn free() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(FIRST);
    // A process id has at most 22 bits.
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    let port = NEXT.fetch_add(1, Ordering::Relaxed);
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, high + 64, middle, low)), port)
}
