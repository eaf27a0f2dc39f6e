//! Links, addresses and routes as the kernel tells them.

use super::*;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::AddressHeaderFlags;
use rtnetlink::packet_route::link::InfoKind;

fn some_names() -> Names {
    HashMap::from([(2, "eth0".to_owned()), (3, "cni0".to_owned())])
}

#[test]
fn a_link_is_read_with_kind_and_master() {
    let mut message = LinkMessage::default();
    message.header.index = 2;
    message.header.flags = LinkFlags::Up | LinkFlags::Broadcast;
    message.attributes = vec![
        LinkAttribute::Mtu(1450),
        LinkAttribute::Address(vec![2, 0, 0, 0xab, 0, 1]),
        LinkAttribute::Controller(3),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth)]),
    ];
    let read = link(message, &some_names());
    assert_eq!(
        (read.name.as_str(), read.mtu, read.up),
        ("eth0", 1450, true)
    );
    assert_eq!(read.mac.as_deref(), Some("02:00:00:ab:00:01"));
    assert_eq!(
        (read.kind.as_deref(), read.master.as_deref()),
        (Some("veth"), Some("cni0"))
    );
    assert_eq!(mac(&[0; 6]), None);
}

#[test]
fn an_address_is_the_near_end_and_privacy_addresses_are_passing() {
    let mut message = AddressMessage::default();
    message.header.index = 2;
    message.header.prefix_len = 24;
    message.header.flags = AddressHeaderFlags::Secondary;
    message.attributes = vec![
        AddressAttribute::Address("10.0.0.1".parse().unwrap()),
        AddressAttribute::Local("10.0.0.5".parse().unwrap()),
    ];
    let read = address(message.clone(), &some_names()).unwrap();
    assert_eq!(
        (read.ip().to_string(), read.scope, read.passing),
        ("10.0.0.5".to_owned(), Scope::Global, false)
    );

    message.attributes = vec![AddressAttribute::Address("2001:db8::5".parse().unwrap())];
    assert!(address(message.clone(), &some_names()).unwrap().passing);
    message
        .attributes
        .push(AddressAttribute::Flags(AddressFlags::Permanent));
    assert!(!address(message, &some_names()).unwrap().passing);
}

fn route_message(prefix: u8, table: u8) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.destination_prefix_length = prefix;
    message.header.table = table;
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![
        RouteAttribute::Oif(2),
        RouteAttribute::Priority(100),
        RouteAttribute::Gateway(RouteAddress::Inet(Ipv4Addr::new(10, 0, 0, 1))),
        RouteAttribute::PrefSource(RouteAddress::Inet(Ipv4Addr::new(10, 0, 0, 5))),
    ];
    message
}

#[test]
fn only_default_routes_of_the_main_table_count() {
    let routes = default_routes(&route_message(0, 254), &some_names());
    let expected = Route {
        gateway: Some(Ipv4Addr::new(10, 0, 0, 1).into()),
        link: "eth0".to_owned(),
        metric: 100,
        family: Family::V4,
        source: Some(Ipv4Addr::new(10, 0, 0, 5).into()),
    };
    assert_eq!(routes, [expected]);
    assert_eq!(default_routes(&route_message(24, 254), &some_names()), []);
    assert_eq!(default_routes(&route_message(0, 52), &some_names()), []);
    let mut unreachable = route_message(0, 254);
    unreachable.header.kind = RouteType::Unreachable;
    assert_eq!(default_routes(&unreachable, &some_names()), []);
}

#[tokio::test]
async fn the_kernel_of_this_machine_tells_about_its_loopback() {
    let links = Netlink.links().await.unwrap();
    let loopback = links.iter().find(|link| link.name == "lo").unwrap();
    assert!(loopback.mtu > 0);
    for address in Netlink.addresses().await.unwrap() {
        assert!(
            links.iter().any(|link| link.name == address.link),
            "{address:?}"
        );
    }
    for route in Netlink.default_routes().await.unwrap() {
        assert!(
            links.iter().any(|link| link.name == route.link),
            "{route:?}"
        );
    }
}

/// What only root may do, or who may be root in a namespace.
mod as_root {
    use super::*;
    use crate::fake::needs;

    #[test]
    fn real_links_are_deleted_and_others_are_not() {
        let test = "real_links_are_deleted_and_others_are_not";
        if needs::in_own_network(module_path!(), test, delete_links) == Some(false) {
            needs::lacks(test, "links", "this kernel makes no bridge or veth");
        }
    }

    async fn delete_links() -> bool {
        let limit = std::time::Duration::from_secs(10);
        for arguments in [
            "link add cni0 type bridge",
            "link add veth1 type veth peer name veth2",
            "link set veth1 master cni0",
        ] {
            let made = crate::command::run("ip", arguments.split(' '), limit, 4096).await;
            if made.is_err() {
                return false;
            }
        }
        let names = async || -> Vec<String> {
            let links = Netlink.links().await.unwrap();
            links.into_iter().map(|link| link.name).collect()
        };
        let all = Netlink.links().await.unwrap();
        let link = |name: &str| all.iter().find(|link| link.name == name).unwrap();
        assert_eq!(link("veth1").master.as_deref(), Some("cni0"));
        let renamed = Link {
            name: "other".to_owned(),
            ..link("cni0").clone()
        };
        Netlink.delete_link(&renamed).await.unwrap();
        assert_eq!(
            names().await.len(),
            4,
            "another link has that number by now"
        );
        Netlink.delete_link(link("veth1")).await.unwrap();
        // Its other end went with it.
        Netlink.delete_link(link("veth2")).await.unwrap();
        Netlink.delete_link(link("cni0")).await.unwrap();
        Netlink.delete_link(link("cni0")).await.unwrap();
        // Some kernels have more than `lo` in each namespace.
        let left = names().await;
        assert!(left.contains(&"lo".to_owned()));
        assert!(
            !left
                .iter()
                .any(|name| ["cni0", "veth1", "veth2"].contains(&name.as_str())),
            "{left:?}"
        );
        true
    }
}
