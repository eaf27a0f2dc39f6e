//! The network of this machine, asked of the kernel over rtnetlink. A connection lives as long as one question.

use std::collections::HashMap;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressScope,
};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType, RouteVia,
};
use rtnetlink::{Handle, RouteMessageBuilder};
use tokio::task::JoinHandle;

use super::{Address, Family, Link, Network, NetworkError, Route, Scope, rules, tables};

#[cfg(test)]
mod tests;

/// How long the kernel may take for one table.
const SECONDS: u64 = 5;

/// Asks the kernel.
#[derive(Debug, Clone, Copy)]
pub struct Netlink;

#[async_trait]
impl Network for Netlink {
    async fn links(&self) -> Result<Vec<Link>, NetworkError> {
        let connection = Connection::open()?;
        let messages = connection.links().await?;
        let names = names(&messages);
        Ok(messages
            .into_iter()
            .map(|message| link(message, &names))
            .collect())
    }

    async fn addresses(&self) -> Result<Vec<Address>, NetworkError> {
        let connection = Connection::open()?;
        let names = names(&connection.links().await?);
        let dump = connection.handle.address().get().execute();
        let messages: Vec<AddressMessage> = bounded("addresses", dump.try_collect()).await?;
        Ok(messages
            .into_iter()
            .filter_map(|message| address(message, &names))
            .collect())
    }

    async fn default_routes(&self) -> Result<Vec<Route>, NetworkError> {
        let connection = Connection::open()?;
        let names = names(&connection.links().await?);
        let v4 = connection
            .handle
            .route()
            .get(RouteMessageBuilder::<Ipv4Addr>::new().build())
            .execute();
        let mut messages: Vec<RouteMessage> = bounded("routes", v4.try_collect()).await?;
        let v6 = connection
            .handle
            .route()
            .get(RouteMessageBuilder::<Ipv6Addr>::new().build())
            .execute();
        messages.extend(bounded("routes", v6.try_collect::<Vec<_>>()).await?);
        Ok(messages
            .iter()
            .flat_map(|message| default_routes(message, &names))
            .collect())
    }

    async fn packet_rules(&self) -> rules::PacketRules {
        rules::read().await
    }

    async fn delete_link(&self, link: &Link) -> Result<(), NetworkError> {
        let connection = Connection::open()?;
        let links = connection.links().await?;
        let names = names(&links);
        if names.get(&link.index) != Some(&link.name) {
            return Ok(());
        }
        let deleted = connection.handle.link().del(link.index).execute();
        match tokio::time::timeout(Duration::from_secs(SECONDS), deleted).await {
            Ok(Ok(())) => Ok(()),
            // Its other end took it along.
            Ok(Err(rtnetlink::Error::NetlinkError(answer)))
                if answer.raw_code() == -(nix::errno::Errno::ENODEV as i32) =>
            {
                Ok(())
            }
            Ok(Err(source)) => Err(NetworkError::Delete {
                name: link.name.clone(),
                source: Box::new(source),
            }),
            Err(_) => Err(NetworkError::TimedOut {
                what: "links",
                seconds: SECONDS,
            }),
        }
    }

    async fn tables(&self, own_programs: &std::path::Path) -> Vec<tables::Tables> {
        tables::read(own_programs).await
    }

    async fn edit_tables(&self, tool: &tables::Tool, lines: &str) -> Result<(), NetworkError> {
        tables::edit(tool, lines).await
    }
}

/// A netlink socket and the task that drives it.
struct Connection {
    handle: Handle,
    driver: JoinHandle<()>,
}

impl Connection {
    fn open() -> Result<Self, NetworkError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(NetworkError::Socket)?;
        Ok(Self {
            handle,
            driver: tokio::spawn(connection),
        })
    }

    async fn links(&self) -> Result<Vec<LinkMessage>, NetworkError> {
        bounded("links", self.handle.link().get().execute().try_collect()).await
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

async fn bounded<T>(
    what: &'static str,
    dump: impl Future<Output = Result<T, rtnetlink::Error>>,
) -> Result<T, NetworkError> {
    match tokio::time::timeout(Duration::from_secs(SECONDS), dump).await {
        Ok(answer) => answer.map_err(|source| NetworkError::Query {
            what,
            source: Box::new(source),
        }),
        Err(_) => Err(NetworkError::TimedOut {
            what,
            seconds: SECONDS,
        }),
    }
}

type Names = HashMap<u32, String>;

fn names(links: &[LinkMessage]) -> Names {
    let name = |message: &LinkMessage| {
        message
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some((message.header.index, name.clone())),
                _ => None,
            })
    };
    links.iter().filter_map(name).collect()
}

/// The name of a link, or its number where it went away between two questions.
fn name_of(index: u32, names: &Names) -> String {
    names
        .get(&index)
        .cloned()
        .unwrap_or_else(|| index.to_string())
}

fn link(message: LinkMessage, names: &Names) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: name_of(message.header.index, names),
        kind: None,
        mac: None,
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        master: None,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::Address(octets) => link.mac = mac(&octets),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Controller(index) => link.master = Some(name_of(index, names)),
            LinkAttribute::LinkInfo(infos) => {
                link.kind = infos.into_iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    link
}

fn mac(octets: &[u8]) -> Option<String> {
    let is_mac = octets.len() == 6 && octets.iter().any(|octet| *octet != 0);
    is_mac.then(|| {
        octets
            .iter()
            .map(|octet| format!("{octet:02x}"))
            .collect::<Vec<_>>()
            .join(":")
    })
}

fn address(message: AddressMessage, names: &Names) -> Option<Address> {
    let (mut local, mut peer) = (None, None);
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    for attribute in message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(ip),
            AddressAttribute::Address(ip) => peer = Some(ip),
            // The same flags and more, where the kernel tells them.
            AddressAttribute::Flags(all) => flags = all,
            _ => {}
        }
    }
    // On point-to-point links the other attribute is the far end.
    let ip = local.or(peer)?;
    let unusable = AddressFlags::Tentative | AddressFlags::Deprecated | AddressFlags::Dadfailed;
    // The bit that marks a second address in IPv4 marks a privacy address in IPv6.
    let privacy = ip.is_ipv6() && flags.contains(AddressFlags::Secondary);
    Some(Address {
        link: name_of(message.header.index, names),
        net: IpNet::new(ip, message.header.prefix_len).ok()?,
        scope: scope(message.header.scope),
        passing: flags.intersects(unusable) || privacy,
    })
}

fn scope(scope: AddressScope) -> Scope {
    match scope {
        AddressScope::Universe => Scope::Global,
        AddressScope::Site => Scope::Site,
        AddressScope::Link => Scope::Link,
        AddressScope::Host => Scope::Host,
        _ => Scope::Other,
    }
}

/// A default route of the main table as one entry for each link that it leads over; nothing for any other route.
fn default_routes(message: &RouteMessage, names: &Names) -> Vec<Route> {
    let (mut gateway, mut link, mut metric, mut source) = (None, None, 0, None);
    let mut table = u32::from(message.header.table);
    let mut hops = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::Via(via) => gateway = via_ip(via),
            RouteAttribute::Oif(index) => link = Some(*index),
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::PrefSource(address) => source = ip(address),
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::MultiPath(paths) => hops.clone_from(paths),
            _ => {}
        }
    }
    let header = &message.header;
    let is_default = header.destination_prefix_length == 0 && header.kind == RouteType::Unicast;
    if !is_default || table != u32::from(RouteHeader::RT_TABLE_MAIN) {
        return Vec::new();
    }
    let family = match header.address_family {
        rtnetlink::packet_route::AddressFamily::Inet => Family::V4,
        rtnetlink::packet_route::AddressFamily::Inet6 => Family::V6,
        _ => return Vec::new(),
    };
    let route = |gateway, index| Route {
        gateway,
        link: name_of(index, names),
        metric,
        family,
        source,
    };
    let single = link.map(|index| route(gateway, index));
    let several = hops.iter().map(|hop| {
        let gateway = hop.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Gateway(address) => ip(address),
            RouteAttribute::Via(via) => via_ip(via),
            _ => None,
        });
        route(gateway, hop.interface_index)
    });
    single.into_iter().chain(several).collect()
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

fn via_ip(via: &RouteVia) -> Option<IpAddr> {
    match via {
        RouteVia::Inet(ip) => Some((*ip).into()),
        RouteVia::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}
