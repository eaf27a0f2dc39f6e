//! Which of the machine's addresses a node is known by.

use std::net::IpAddr;

use super::{Address, Family, Route, Scope};

#[cfg(test)]
mod tests;

/// Beginnings of the names of links that containers, overlays and tunnels make: their addresses belong to them, not to the node.
const FOREIGN_LINKS: [&str; 12] = [
    "docker",
    "br-",
    "cni",
    "flannel",
    "veth",
    "cali",
    "cilium",
    "wg",
    "tailscale",
    "kube-",
    "nodelocaldns",
    "virbr",
];

/// The address that other nodes reach this one at, and its link.
///
/// It is on the link of the default route with the lowest metric, IPv4 before IPv6; where that route names a source address, it is
/// that one. Without a default route it is the first address by name of link. Loopback and link-local addresses, passing ones,
/// and those of links that containers and tunnels make never count.
pub fn choose_node_ip(addresses: &[Address], routes: &[Route]) -> Option<(IpAddr, String)> {
    let usable: Vec<&Address> = addresses
        .iter()
        .filter(|address| is_usable(address))
        .collect();
    on_default_routes(&usable, routes)
        .or_else(|| first_by_link(&usable))
        .map(|address| (address.ip(), address.link.clone()))
}

fn on_default_routes<'a>(usable: &[&'a Address], routes: &[Route]) -> Option<&'a Address> {
    let mut routes: Vec<&Route> = routes.iter().collect();
    // Stable: of equal metrics the kernel's order counts.
    routes.sort_by_key(|route| (route.family, route.metric));
    routes.into_iter().find_map(|route| {
        let here = || usable.iter().filter(|address| address.link == route.link);
        let named = here().find(|address| Some(address.ip()) == route.source);
        named
            .or_else(|| here().min_by_key(|address| address.family()))
            .copied()
    })
}

fn first_by_link<'a>(usable: &[&'a Address]) -> Option<&'a Address> {
    usable
        .iter()
        .min_by_key(|address| (address.family(), address.link.as_str()))
        .copied()
}

fn is_usable(address: &Address) -> bool {
    let ip = address.ip();
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    let foreign = FOREIGN_LINKS
        .iter()
        .any(|beginning| address.link.starts_with(beginning));
    let odd = ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || link_local;
    address.scope == Scope::Global && !address.passing && !odd && !foreign && address.link != "lo"
}

/// Whether IPv4 and IPv6 sort as they must: IPv4 first.
const _: () = assert!((Family::V4 as u8) < (Family::V6 as u8));
