//! Where ssh goes: `user@addr` as it was typed, let in only when it can be nothing else.

use std::fmt;
use std::str::FromStr;

/// `ADDR` or `USER@ADDR` for ssh, where ADDR may be a name of the user's own `~/.ssh/config`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target(String);

/// The text is no such thing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TargetError {
    /// Nothing stands before or after the `@`.
    #[error("--ssh takes USER@ADDR, and a part of it is empty")]
    Empty,
    /// ssh would take it for an option.
    #[error("--ssh takes USER@ADDR, and neither part begins with '-'")]
    Option,
    /// A character that belongs to no user, name or address.
    #[error(
        "--ssh takes USER@ADDR: letters, digits, '.', '_' and '-', and ':' and '%' in an IPv6 address"
    )]
    Character,
    /// A port in the address, for which ssh has another place.
    #[error("--ssh takes no port")]
    Port,
}

impl TargetError {
    /// The right form.
    pub(crate) fn hint(&self) -> &'static str {
        match self {
            Self::Port => {
                "give the host a name in ~/.ssh/config with its HostName and Port, and use that name: --ssh root@NAME"
            }
            _ => "for example: --ssh root@10.0.0.7",
        }
    }
}

impl Target {
    /// The one argument of ssh.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let (user, address) = match text.rsplit_once('@') {
            Some((user, address)) => (Some(user), address),
            None => (None, text),
        };
        for part in user.into_iter().chain([address]) {
            match part.bytes().next() {
                None => return Err(TargetError::Empty),
                Some(b'-') => return Err(TargetError::Option),
                Some(_) => {}
            }
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if !user.unwrap_or_default().bytes().all(plain) {
            return Err(TargetError::Character);
        }
        let (ip, zone) = address.split_once('%').unwrap_or((address, "0"));
        let v6 = ip.parse::<std::net::Ipv6Addr>().is_ok() && zone.bytes().all(plain);
        if !(v6 || address.bytes().all(plain)) {
            let host = address.rsplit_once(':').map(|(host, _port)| host);
            let ported = host.is_some_and(|host| {
                host.bytes().all(plain) || host.starts_with('[') && host.ends_with(']')
            });
            return Err(if ported {
                TargetError::Port
            } else {
                TargetError::Character
            });
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::{Target, TargetError};

    #[test]
    fn what_ssh_would_take_for_something_else_is_refused() {
        for good in [
            "root@10.0.0.7",
            "w3",
            "anna_b@w3.example.org",
            "root@2001:db8::7",
            "root@fe80::1%eth0",
        ] {
            assert_eq!(
                good.parse::<Target>().map(|target| target.0),
                Ok(good.to_owned())
            );
        }
        for (bad, error) in [
            ("", TargetError::Empty),
            ("@w3", TargetError::Empty),
            ("root@", TargetError::Empty),
            ("-oProxyCommand=x", TargetError::Option),
            ("root@-oProxyCommand=x", TargetError::Option),
            ("-l@w3", TargetError::Option),
            ("root@w3;reboot", TargetError::Character),
            ("root@$(id)", TargetError::Character),
            ("ro ot@w3", TargetError::Character),
            ("a@b@w3", TargetError::Character),
            ("root@w\u{202e}3", TargetError::Character),
            ("root@10.0.0.7:2222", TargetError::Port),
            ("root@[2001:db8::7]:22", TargetError::Port),
            ("ssh://root@w3", TargetError::Character),
        ] {
            assert_eq!(bad.parse::<Target>(), Err(error), "{bad}");
        }
    }
}
