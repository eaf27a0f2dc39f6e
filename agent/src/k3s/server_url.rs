//! The server that an agent joins, checked where it enters: `https://10.0.0.5:6443`.

use std::fmt;
use std::str::FromStr;

use canasta_proto::address::Address;

/// The text is not the URL of a server; the message tells the rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server of a cluster is https:// with one address and its port: https://10.0.0.5:6443")]
pub struct ServerUrlError;

/// Where the server of a cluster listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerUrl {
    host: String,
    port: u16,
}

impl ServerUrl {
    /// The address or name, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for ServerUrl {
    /// `10.0.0.5:6443`, `[fd00::5]:6443`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(formatter, "[{}]:{}", self.host, self.port)
        } else {
            write!(formatter, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for ServerUrl {
    type Err = ServerUrlError;

    fn from_str(text: &str) -> Result<Self, ServerUrlError> {
        let address: Address = text
            .strip_prefix("https://")
            .and_then(|rest| rest.parse().ok())
            .ok_or(ServerUrlError)?;
        let useless = address
            .ip()
            .is_some_and(|ip| ip.is_unspecified() || ip.is_multicast());
        match address.port() {
            Some(port) if !useless => Ok(Self {
                host: address.host(),
                port,
            }),
            _ => Err(ServerUrlError),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_and_a_port_make_a_server() {
        for (text, shown) in [
            ("https://10.0.0.5:6443", "10.0.0.5:6443"),
            ("https://[fd00::5]:6443", "[fd00::5]:6443"),
            ("https://cp1.example.org:443", "cp1.example.org:443"),
        ] {
            assert_eq!(text.parse::<ServerUrl>().unwrap().to_string(), shown);
        }
        for text in [
            "",
            "10.0.0.5:6443",
            "http://10.0.0.5:6443",
            "https://10.0.0.5",
            "https://10.0.0.5:6443/",
            "https://10.0.0.5:6443 fd00::5",
            "https://u:p@10.0.0.5:6443",
            "https://0.0.0.0:6443",
            "https://10.0.0.5:0",
            "https://10.0.0.5:6443\nserver: x",
        ] {
            assert_eq!(text.parse::<ServerUrl>(), Err(ServerUrlError), "{text}");
        }
    }
}
