//! Addresses of hosts, checked where they enter: an IP address or a DNS name, with or without a port.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// The port of the controller: CLI and enrolment.
pub const CONTROLLER_PORT: u16 = 7440;
/// The port of the agents.
pub const AGENT_PORT: u16 = 7443;

/// The text is not an address; the message tells the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "an address is an IP address or a DNS name, with an optional port: 10.0.0.5, [2001:db8::5]:7443 or node1.example.org:7443"
)]
pub struct AddressError;

/// Where something listens: a host, and a port if one was given.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    host: HostPart,
    port: Option<u16>,
}

/// The host of an address.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum HostPart {
    Ip(IpAddr),
    Name(String),
}

impl Address {
    /// An IP address with a port.
    pub fn from_ip(ip: IpAddr, port: u16) -> Self {
        Self {
            host: HostPart::Ip(ip),
            port: Some(port),
        }
    }

    /// The IP address, when it is one and not a name.
    pub fn ip(&self) -> Option<IpAddr> {
        match &self.host {
            HostPart::Ip(ip) => Some(*ip),
            HostPart::Name(_) => None,
        }
    }

    /// The host without the port and without brackets.
    pub fn host(&self) -> String {
        match &self.host {
            HostPart::Ip(ip) => ip.to_string(),
            HostPart::Name(name) => name.clone(),
        }
    }

    /// The port that was given.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// `HOST:PORT` for dialling, with the port given here where none was given.
    pub fn with_default_port(&self, port: u16) -> String {
        let port = self.port.unwrap_or(port);
        match &self.host {
            HostPart::Ip(IpAddr::V6(ip)) => format!("[{ip}]:{port}"),
            HostPart::Ip(ip) => format!("{ip}:{port}"),
            HostPart::Name(name) => format!("{name}:{port}"),
        }
    }
}

fn dns_name(text: &str) -> Result<String, AddressError> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let bare = text.strip_suffix('.').unwrap_or(text);
    // A name whose last label is all digits is a mistyped IPv4 address, as browsers and resolvers see it.
    let numeric = bare
        .rsplit('.')
        .next()
        .is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    if bare.len() > 253 || numeric || !bare.split('.').all(label) {
        return Err(AddressError);
    }
    Ok(bare.to_ascii_lowercase())
}

fn port(text: &str) -> Result<u16, AddressError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(AddressError);
    }
    text.parse()
        .ok()
        .filter(|port| *port != 0)
        .ok_or(AddressError)
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self {
                host: HostPart::Ip(ip),
                port: None,
            });
        }
        if let Some(rest) = text.strip_prefix('[') {
            let (ip, after) = rest.split_once(']').ok_or(AddressError)?;
            let ip: Ipv6Addr = ip.parse().map_err(|_| AddressError)?;
            let port = match after.strip_prefix(':') {
                Some(text) => Some(port(text)?),
                None if after.is_empty() => None,
                None => return Err(AddressError),
            };
            return Ok(Self {
                host: HostPart::Ip(ip.into()),
                port,
            });
        }
        let (host, port) = match text.split_once(':') {
            Some((host, text)) => (host, Some(port(text)?)),
            None => (text, None),
        };
        let host = match host.parse::<IpAddr>() {
            Ok(ip) => HostPart::Ip(ip),
            Err(_) => HostPart::Name(dns_name(host)?),
        };
        Ok(Self { host, port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => formatter.write_str(&self.with_default_port(port)),
            None => formatter.write_str(&self.host()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Address;

    #[test]
    fn addresses_are_read_and_shown() {
        let cases = [
            ("10.0.0.5", "10.0.0.5", "10.0.0.5:7443"),
            ("10.0.0.5:99", "10.0.0.5:99", "10.0.0.5:99"),
            ("2001:db8::5", "2001:db8::5", "[2001:db8::5]:7443"),
            ("[2001:db8::5]:99", "[2001:db8::5]:99", "[2001:db8::5]:99"),
            (
                "Node1.example.org",
                "node1.example.org",
                "node1.example.org:7443",
            ),
            ("node1:99", "node1:99", "node1:99"),
        ];
        for (text, shown, dialled) in cases {
            let address: Address = text.parse().expect(text);
            assert_eq!(address.to_string(), shown);
            assert_eq!(address.with_default_port(7443), dialled);
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            " ",
            "a b",
            "..",
            "a..b",
            "-a",
            "10.0.0.256",
            "10.0.0",
            "[::1",
            "[::1]x",
            "a:0",
            "a:65536",
            "a:+1",
            "http://a",
            "a/b",
            "a\n",
            "a\u{202e}b",
            "$(x)",
            "a:1:2",
            "fe80::1%eth0",
            &"a".repeat(300),
        ] {
            assert!(text.parse::<Address>().is_err(), "{text:?}");
        }
    }
}
