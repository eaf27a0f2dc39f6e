//! Who listens where: `/proc/net/{tcp,tcp6,udp,udp6}` and the sockets that processes hold.

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use super::{Listener, Protocol};

/// State of a listening TCP socket and of an unconnected UDP socket, as the kernel prints them.
const TCP_LISTEN: &str = "0A";
const UDP_UNCONNECTED: &str = "07";

/// Reads one of the kernel's socket tables; sockets that don't listen and lines in another form are left out.
pub fn parse(protocol: Protocol, table: &str) -> Vec<Listener> {
    table
        .lines()
        .skip(1)
        .filter_map(|line| parse_line(protocol, line))
        .collect()
}

/// All listeners below `proc` (the directory that is `/proc` on a machine), with their processes.
pub(super) fn listeners(proc: &Path) -> Vec<Listener> {
    let tables = [
        ("tcp", Protocol::Tcp),
        ("tcp6", Protocol::Tcp),
        ("udp", Protocol::Udp),
        ("udp6", Protocol::Udp),
    ];
    let mut found: Vec<Listener> = tables
        .into_iter()
        // A kernel without IPv6 has no tables for it.
        .filter_map(|(name, protocol)| {
            Some((
                protocol,
                fs::read_to_string(proc.join("net").join(name)).ok()?,
            ))
        })
        .flat_map(|(protocol, table)| parse(protocol, &table))
        .collect();
    let holders = holders(proc);
    for listener in &mut found {
        if let Some(&pid) = holders.get(&listener.inode) {
            listener.pid = Some(pid);
            listener.process = fs::read_to_string(proc.join(pid.to_string()).join("comm"))
                .ok()
                .map(|name| name.trim_end().to_owned());
        }
    }
    found.sort_by_key(|listener| (listener.protocol, listener.port, listener.address));
    found
}

/// `sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode …`
fn parse_line(protocol: Protocol, line: &str) -> Option<Listener> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let wanted = match protocol {
        Protocol::Tcp => TCP_LISTEN,
        Protocol::Udp => UDP_UNCONNECTED,
    };
    if *fields.get(3)? != wanted {
        return None;
    }
    let (address, port) = fields.get(1)?.split_once(':')?;
    Some(Listener {
        protocol,
        address: parse_address(address)?,
        port: u16::from_str_radix(port, 16).ok()?,
        inode: fields.get(9)?.parse().ok()?,
        pid: None,
        process: None,
    })
}

/// Addresses are printed as 32-bit words in the machine's byte order.
fn parse_address(text: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        u32::from_str_radix(text.get(at..at + 8)?, 16)
            .ok()
            .map(u32::to_ne_bytes)
    };
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut octets = [0; 16];
            for (index, chunk) in octets.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(index * 8)?);
            }
            Some(Ipv6Addr::from(octets).to_canonical())
        }
        _ => None,
    }
}

/// Socket inode to process, for all processes whose descriptors this program may see. Of several holders, the oldest process.
fn holders(proc: &Path) -> HashMap<u64, u32> {
    let mut pids: Vec<u32> = fs::read_dir(proc)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    let mut holders = HashMap::new();
    for pid in pids {
        // Processes end while they are looked at, and some can't be looked into.
        let Ok(descriptors) = fs::read_dir(proc.join(pid.to_string()).join("fd")) else {
            continue;
        };
        for inode in descriptors.filter_map(|entry| socket_inode(&entry.ok()?.path())) {
            holders.entry(inode).or_insert(pid);
        }
    }
    holders
}

fn socket_inode(descriptor: &Path) -> Option<u64> {
    let target = fs::read_link(descriptor).ok()?;
    target
        .to_str()?
        .strip_prefix("socket:[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";
    const TCP: &str = "   0: 0100007F:192B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1060 1 x 100 0 0 10 0\n   1: 0100007F:192B 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 1061 1 x\n   2: broken\n";
    const TCP6: &str = "   0: 00000000000000000000000000000000:0016 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 77 1 x\n   1: B80D0120000000000000000001000000:01BB 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 78 1 x\n   2: 0000000000000000FFFF00000100007F:0050 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 79 1 x\n";
    const UDP: &str = "  10: 00000000:2118 00000000:0000 07 00000000:00000000 00:00000000 00000000 0 0 80 2 x 0\n  11: 00000000:2119 0100007F:0035 01 00000000:00000000 00:00000000 00000000 0 0 81 2 x 0\n";

    fn shown(listeners: &[Listener]) -> Vec<String> {
        listeners
            .iter()
            .map(|one| {
                format!(
                    "{} {} {} {}",
                    one.protocol, one.address, one.port, one.inode
                )
            })
            .collect()
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn listening_sockets_are_read_from_the_tables() {
        assert_eq!(
            shown(&parse(Protocol::Tcp, &format!("{HEADER}{TCP}"))),
            ["tcp 127.0.0.1 6443 1060"]
        );
        assert_eq!(
            shown(&parse(Protocol::Tcp, &format!("{HEADER}{TCP6}"))),
            [
                "tcp :: 22 77",
                "tcp 2001:db8::1 443 78",
                "tcp 127.0.0.1 80 79"
            ]
        );
        assert_eq!(
            shown(&parse(Protocol::Udp, &format!("{HEADER}{UDP}"))),
            ["udp 0.0.0.0 8472 80"]
        );
        assert_eq!(parse(Protocol::Tcp, ""), []);
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn a_listener_is_matched_with_the_oldest_process_that_holds_it() {
        let directory = tempfile::tempdir().unwrap();
        let proc = directory.path();
        fs::create_dir_all(proc.join("net")).unwrap();
        fs::write(proc.join("net/tcp"), format!("{HEADER}{TCP}")).unwrap();
        for pid in ["100", "20"] {
            fs::create_dir_all(proc.join(pid).join("fd")).unwrap();
            std::os::unix::fs::symlink("socket:[1060]", proc.join(pid).join("fd/3")).unwrap();
            std::os::unix::fs::symlink("/dev/null", proc.join(pid).join("fd/0")).unwrap();
            fs::write(proc.join(pid).join("comm"), format!("name-{pid}\n")).unwrap();
        }
        let found = listeners(proc);
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].pid, found[0].process.as_deref()),
            (Some(20), Some("name-20"))
        );
    }

    #[test]
    fn a_real_listener_is_found_with_this_process() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let found = listeners(Path::new("/proc"));
        let ours = found
            .iter()
            .find(|one| one.port == port && one.protocol == Protocol::Tcp)
            .unwrap();
        assert_eq!(ours.pid, Some(std::process::id()));
        assert!(ours.process.is_some());
    }
}
