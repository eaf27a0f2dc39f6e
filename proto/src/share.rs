//! Shares of NFS servers and who may mount them, checked where they enter: the controller's API, the agent's API and the CLI. A
//! path becomes part of the calls of a client, of the parameters of storage classes and of the configuration of servers, whose
//! files have quoting rules of their own, so nothing that would have to be quoted anywhere is let in.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::directories::{self, is_within};

/// The most bytes of a path of a share.
pub const MAX_PATH: usize = 255;

/// The rule that a path of a share broke.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SharePathError {
    /// It does not begin at the root.
    #[error("the path of a share is absolute, like /srv/nfs/canasta")]
    Relative,
    /// It has too many bytes.
    #[error("the path of a share has at most {MAX_PATH} bytes, this one has {length}")]
    TooLong {
        /// How many it has.
        length: usize,
    },
    /// A character that is not allowed.
    #[error(
        "the path of a share has letters, digits, '/', '.', '_' and '-' only, and this one has {character}"
    )]
    Character {
        /// The first that is not, in words or as U+XXXX.
        character: String,
    },
    /// It can be written in a shorter way.
    #[error("the path of a share is written without '.', '..', '//' and a '/' at its end")]
    NotNormal,
    /// It is the root, or a directory of the system or below one.
    #[error(
        "{directory} is a directory of the system and is not shared; take one like /srv/nfs/canasta"
    )]
    System {
        /// The directory.
        directory: String,
    },
}

/// The most clients of one export: those of the largest fleet, and networks beside it.
pub const MAX_CLIENTS: usize = 1024;

/// Directories that come and go, or that other programs and people keep to themselves, with all below them.
const KEPT: [&str; 11] = [
    "/root",
    "/tmp",
    "/var/lib/containerd",
    "/var/lib/docker",
    "/var/lib/etcd",
    "/var/lib/private",
    "/var/lib/rancher",
    "/var/log",
    "/var/mail",
    "/var/spool",
    "/var/tmp",
];

/// Directories that hold others' and are none to share themselves.
const COLLECTIONS: [&str; 8] = [
    "/home", "/media", "/mnt", "/opt", "/srv", "/var", "/var/lib", "/var/opt",
];

/// Checks the path of a share as its server names it: absolute, normalised, short, and nothing in it that would have to be quoted
/// anywhere. Any directory: what a server's directories are is its own affair.
///
/// # Errors
/// The first rule that it breaks.
pub fn check_path(text: &str) -> Result<(), SharePathError> {
    if !text.starts_with('/') {
        return Err(SharePathError::Relative);
    }
    let allowed = |character: char| character.is_ascii_alphanumeric() || "/._-".contains(character);
    if let Some(character) = text.chars().find(|character| !allowed(*character)) {
        return Err(SharePathError::Character {
            character: crate::name::shown(character),
        });
    }
    if text.len() > MAX_PATH {
        return Err(SharePathError::TooLong { length: text.len() });
    }
    let mut parts = text.split('/').skip(1);
    if text != "/" && parts.any(|part| ["", ".", ".."].contains(&part)) {
        return Err(SharePathError::NotNormal);
    }
    Ok(())
}

/// The path of a share: absolute, normalised, and no directory of the system.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SharePath(String);

impl SharePath {
    /// The path.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether another path is this one or below it.
    pub fn holds(&self, other: &str) -> bool {
        is_within(other, &self.0)
    }
}

impl FromStr for SharePath {
    type Err = SharePathError;

    fn from_str(text: &str) -> Result<Self, SharePathError> {
        check_path(text)?;
        let system = directories::of_the_system(text)
            .or_else(|| directories::of_k3s(text))
            .or_else(|| directories::within(text, &KEPT))
            .or_else(|| COLLECTIONS.contains(&text).then_some(text));
        if let Some(directory) = system {
            return Err(SharePathError::System {
                directory: directory.to_owned(),
            });
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for SharePath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The least bits that a network of clients fixes: that of 10.0.0.0/8, and what a provider gets.
const LEAST_V4: u8 = 8;
const LEAST_V6: u8 = 32;

/// The rule that a client of a share broke.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientRangeError {
    /// It is neither an address nor a network.
    #[error(
        "a client of a share is an IP address or a network, like 10.0.0.5 or 10.0.0.0/24; names and patterns are not taken"
    )]
    Form,
    /// It would let in machines that nobody has looked at.
    #[error(
        "a share is for the machines that need it, and {network} is too many: take a network of /{LEAST_V4} or longer (IPv6: /{LEAST_V6})"
    )]
    TooWide {
        /// As it was written.
        network: String,
    },
    /// Loopback, multicast, link-local or the like.
    #[error("no other machine has an address in {range}")]
    NoMachine {
        /// As it was written.
        range: String,
    },
    /// Bits of a machine are set in a network.
    #[error("the network is written {network}")]
    HostBits {
        /// As it is written.
        network: String,
    },
}

/// Who may mount a share: one address, or a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientRange {
    address: IpAddr,
    prefix: u8,
}

impl ClientRange {
    /// One machine.
    pub fn one(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self {
            address,
            prefix: width(address),
        }
    }

    /// Whether an address is let in.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        width(address) == width(self.address)
            && masked(address, self.prefix) == masked(self.address, self.prefix)
    }
}

/// Bits of an address of this family.
fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The address with nothing but its first bits.
fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V4((ip.to_bits() & mask).into())
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V6((ip.to_bits() & mask).into())
        }
    }
}

/// Whether an address is one by which no other machine comes. Those of a link alone need its name beside them.
fn is_no_machine(address: IpAddr) -> bool {
    address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || match address {
            IpAddr::V4(ip) => ip.octets()[0] == 0 || ip.octets()[0] >= 224,
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        }
}

impl FromStr for ClientRange {
    type Err = ClientRangeError;

    fn from_str(text: &str) -> Result<Self, ClientRangeError> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| ClientRangeError::Form)?;
        let most = width(address);
        let prefix = match prefix {
            None => most,
            Some(digits)
                if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) =>
            {
                let prefix = digits.parse().map_err(|_| ClientRangeError::Form)?;
                if prefix > most {
                    return Err(ClientRangeError::Form);
                }
                prefix
            }
            Some(_) => return Err(ClientRangeError::Form),
        };
        if address.to_canonical() != address {
            // ::ffff:0:0/96 would be everybody, too.
            return Err(ClientRangeError::Form);
        }
        let least = if address.is_ipv4() {
            LEAST_V4
        } else {
            LEAST_V6
        };
        if prefix < least {
            return Err(ClientRangeError::TooWide {
                network: text.to_owned(),
            });
        }
        if is_no_machine(address) {
            return Err(ClientRangeError::NoMachine {
                range: text.to_owned(),
            });
        }
        let network = masked(address, prefix);
        if network != address {
            return Err(ClientRangeError::HostBits {
                network: format!("{network}/{prefix}"),
            });
        }
        Ok(Self { address, prefix })
    }
}

impl fmt::Display for ClientRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.prefix == width(self.address) {
            write!(formatter, "{}", self.address)
        } else {
            write!(formatter, "{}/{}", self.address, self.prefix)
        }
    }
}

#[cfg(test)]
mod tests;
