//! Which address and link a node is known by.

use super::*;

fn at(link: &str, net: &str) -> Address {
    Address {
        link: link.to_owned(),
        net: net.parse().unwrap(),
        scope: Scope::Global,
        passing: false,
    }
}

fn via(link: &str, family: Family, metric: u32) -> Route {
    Route {
        gateway: None,
        link: link.to_owned(),
        metric,
        family,
        source: None,
    }
}

fn chosen(addresses: &[Address], routes: &[Route]) -> Option<String> {
    choose_node_ip(addresses, routes).map(|(ip, link)| format!("{ip} {link}"))
}

#[test]
fn the_default_route_with_the_lowest_metric_decides() {
    let addresses = [at("eth0", "10.0.0.5/24"), at("eth1", "192.168.1.5/24")];
    let routes = [via("eth0", Family::V4, 200), via("eth1", Family::V4, 100)];
    assert_eq!(chosen(&addresses, &routes).unwrap(), "192.168.1.5 eth1");
    assert_eq!(chosen(&addresses, &routes[..1]).unwrap(), "10.0.0.5 eth0");
}

#[test]
fn of_equal_metrics_the_first_route_wins() {
    let addresses = [at("eth0", "10.0.0.5/24"), at("eth1", "192.168.1.5/24")];
    let routes = [via("eth1", Family::V4, 0), via("eth0", Family::V4, 0)];
    assert_eq!(chosen(&addresses, &routes).unwrap(), "192.168.1.5 eth1");
}

#[test]
fn of_several_addresses_on_the_link_the_primary_one_wins_unless_the_route_names_another() {
    let addresses = [at("eth0", "10.0.0.5/24"), at("eth0", "10.0.0.100/32")];
    let mut route = via("eth0", Family::V4, 0);
    assert_eq!(
        chosen(&addresses, std::slice::from_ref(&route)).unwrap(),
        "10.0.0.5 eth0"
    );
    route.source = Some("10.0.0.100".parse().unwrap());
    assert_eq!(
        chosen(&addresses, std::slice::from_ref(&route)).unwrap(),
        "10.0.0.100 eth0"
    );
    route.source = Some("10.0.0.77".parse().unwrap());
    assert_eq!(chosen(&addresses, &[route]).unwrap(), "10.0.0.5 eth0");
}

#[test]
fn ipv4_comes_before_ipv6() {
    let addresses = [
        at("eth0", "2001:db8::5/64"),
        at("eth0", "10.0.0.5/24"),
        at("eth1", "2001:db8:1::5/64"),
    ];
    let routes = [via("eth1", Family::V6, 1), via("eth0", Family::V4, 1000)];
    assert_eq!(chosen(&addresses, &routes).unwrap(), "10.0.0.5 eth0");
    // The IPv6 route leads to a link that has IPv4 too.
    assert_eq!(
        chosen(&addresses, &[via("eth0", Family::V6, 1)]).unwrap(),
        "10.0.0.5 eth0"
    );
}

#[test]
fn a_machine_with_ipv6_alone_is_known_by_that() {
    let mut privacy = at("eth0", "2001:db8::abcd/64");
    privacy.passing = true;
    let addresses = [
        at("eth0", "fe80::1/64"),
        privacy,
        at("eth0", "2001:db8::5/64"),
    ];
    assert_eq!(
        chosen(&addresses, &[via("eth0", Family::V6, 1024)]).unwrap(),
        "2001:db8::5 eth0"
    );
}

#[test]
fn without_a_default_route_it_is_the_first_link_by_name() {
    let addresses = [
        at("eth2", "10.2.0.5/24"),
        at("eth1", "10.1.0.5/24"),
        at("eth0", "2001:db8::5/64"),
    ];
    assert_eq!(chosen(&addresses, &[]).unwrap(), "10.1.0.5 eth1");
    assert_eq!(chosen(&addresses[2..], &[]).unwrap(), "2001:db8::5 eth0");
}

#[test]
fn a_default_route_over_a_tunnel_or_an_unnumbered_link_is_passed_over() {
    let addresses = [
        at("tailscale0", "100.64.0.1/32"),
        at("wg0", "10.9.0.1/24"),
        at("eth0", "10.0.0.5/24"),
    ];
    let routes = [
        via("tailscale0", Family::V4, 0),
        via("wg0", Family::V4, 1),
        via("ppp0", Family::V4, 2),
        via("eth0", Family::V4, 100),
    ];
    assert_eq!(chosen(&addresses, &routes).unwrap(), "10.0.0.5 eth0");
}

#[test]
fn addresses_that_belong_to_containers_or_to_nobody_never_count() {
    let foreign = [
        "lo",
        "docker0",
        "br-12ab",
        "cni0",
        "flannel.1",
        "flannel-wg",
        "veth12",
        "cali7",
        "wg0",
        "tailscale0",
    ];
    let mut addresses: Vec<Address> = foreign
        .iter()
        .map(|link| at(link, "10.42.0.1/24"))
        .collect();
    addresses.extend([
        at("eth0", "169.254.3.4/16"),
        at("eth0", "127.0.0.1/8"),
        at("eth0", "fe80::1/64"),
        at("eth0", "::1/128"),
    ]);
    for scope in [Scope::Link, Scope::Host, Scope::Site, Scope::Other] {
        addresses.push(Address {
            scope,
            ..at("eth0", "10.0.0.5/24")
        });
    }
    assert_eq!(chosen(&addresses, &[via("eth0", Family::V4, 0)]), None);
    assert_eq!(chosen(&[], &[]), None);
}
