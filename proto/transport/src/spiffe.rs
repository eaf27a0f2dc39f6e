//! Identities as they stand in certificates: `spiffe://<fleet-id>/controller`, `/agent/<host>`, `/user/<name>`.
//!
//! Read strictly: what this module would not write, it does not read.

use std::fmt;
use std::str::FromStr;

use canasta_proto::name::{HostName, UserName};
use ring::rand::{SecureRandom as _, SystemRandom};

/// The DNS name of the controller in its certificate, for tools that judge names.
pub const CONTROLLER_DNS: &str = "controller.canasta.internal";
/// What follows the host's name in the DNS name of an agent's certificate.
pub const AGENT_DNS_SUFFIX: &str = ".agent.canasta.internal";

const SCHEME: &str = "spiffe://";
const FLEET_ID_BYTES: usize = 16;

/// The text is not an identity of a fleet. Never holds the text, which came from a stranger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "an identity is spiffe://FLEET/controller, spiffe://FLEET/agent/HOST or spiffe://FLEET/user/NAME"
)]
pub struct IdentityError;

/// The id of a fleet: 32 hexadecimal digits, made once with its CA.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FleetId(String);

impl FleetId {
    /// A new id, at random.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn random() -> Result<Self, ring::error::Unspecified> {
        let mut bytes = [0; FLEET_ID_BYTES];
        SystemRandom::new().fill(&mut bytes)?;
        Ok(Self(crate::facts::hex(&bytes)))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The URI of the fleet itself, as it stands in the CA's certificate.
    pub fn uri(&self) -> String {
        format!("{SCHEME}{}", self.0)
    }

    /// Reads the URI of a fleet.
    pub(crate) fn from_uri(uri: &str) -> Result<Self, IdentityError> {
        uri.strip_prefix(SCHEME).ok_or(IdentityError)?.parse()
    }

    /// The identity of this fleet's controller.
    pub fn controller(&self) -> Identity {
        Identity::new(self.clone(), Kind::Controller)
    }

    /// The identity of an agent of this fleet.
    pub fn agent(&self, host: HostName) -> Identity {
        Identity::new(self.clone(), Kind::Agent(host))
    }

    /// The identity of a user of this fleet.
    pub fn user(&self, name: UserName) -> Identity {
        Identity::new(self.clone(), Kind::User(name))
    }
}

impl FromStr for FleetId {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let whole = text.len() == FLEET_ID_BYTES * 2
            && text
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        whole.then(|| Self(text.to_owned())).ok_or(IdentityError)
    }
}

impl fmt::Display for FleetId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for FleetId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "FleetId({})", self.0)
    }
}

/// What someone is to the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// The one controller.
    Controller,
    /// The agent on the host of this name.
    Agent(HostName),
    /// The user of this name.
    User(UserName),
}

/// `agent w1`, `user alice`, `controller`: for logs, messages and the audit trail.
impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Controller => formatter.write_str("controller"),
            Self::Agent(host) => write!(formatter, "agent {host}"),
            Self::User(name) => write!(formatter, "user {name}"),
        }
    }
}

/// Who someone is: a member of one fleet.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// The fleet.
    pub fleet: FleetId,
    /// The part played in it.
    pub kind: Kind,
}

impl Identity {
    /// An identity in a fleet.
    pub fn new(fleet: FleetId, kind: Kind) -> Self {
        Self { fleet, kind }
    }

    /// The DNS name that stands in the certificate beside the URI; users have none.
    pub fn dns_name(&self) -> Option<String> {
        match &self.kind {
            Kind::Controller => Some(CONTROLLER_DNS.to_owned()),
            Kind::Agent(host) => Some(format!("{host}{AGENT_DNS_SUFFIX}")),
            Kind::User(_) => None,
        }
    }
}

/// The URI as it stands in the certificate.
impl fmt::Display for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fleet = &self.fleet;
        match &self.kind {
            Kind::Controller => write!(formatter, "{SCHEME}{fleet}/controller"),
            Kind::Agent(host) => write!(formatter, "{SCHEME}{fleet}/agent/{host}"),
            Kind::User(name) => write!(formatter, "{SCHEME}{fleet}/user/{name}"),
        }
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let rest = text.strip_prefix(SCHEME).ok_or(IdentityError)?;
        let (fleet, path) = rest.split_once('/').ok_or(IdentityError)?;
        let kind = match path.split_once('/') {
            None if path == "controller" => Kind::Controller,
            Some(("agent", host)) => Kind::Agent(host.parse().map_err(|_| IdentityError)?),
            Some(("user", name)) => Kind::User(name.parse().map_err(|_| IdentityError)?),
            _ => return Err(IdentityError),
        };
        Ok(Self::new(fleet.parse()?, kind))
    }
}

#[cfg(test)]
mod tests {
    use super::{FleetId, Identity};

    const FLEET: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn identities_are_read_as_they_are_written() {
        let cases = [
            (
                "controller",
                "controller",
                Some("controller.canasta.internal"),
            ),
            (
                "agent/cp-1",
                "agent cp-1",
                Some("cp-1.agent.canasta.internal"),
            ),
            ("user/anna.b_c", "user anna.b_c", None),
        ];
        for (path, shown, dns) in cases {
            let uri = format!("spiffe://{FLEET}/{path}");
            let identity: Identity = uri.parse().expect(path);
            assert_eq!(identity.to_string(), uri);
            assert_eq!(identity.kind.to_string(), shown);
            assert_eq!(identity.dns_name().as_deref(), dns);
        }
    }

    #[test]
    fn what_is_no_identity_is_refused() {
        for path in [
            "",
            "/",
            "/Controller",
            "/controller/",
            "/controller?x",
            "/controller#",
            "//controller",
            "/agent",
            "/agent/",
            "/agent/A",
            "/agent/a/b",
            "/agent/a%2fb",
            "/agent/../controller",
            "/user/",
            "/user/-a",
            "/user/a\u{0}",
            "/admin/a",
            ":443/controller",
        ] {
            let text = format!("spiffe://{FLEET}{path}");
            assert!(text.parse::<Identity>().is_err(), "{path:?}");
        }
        for text in [
            "controller",
            "SPIFFE://0123456789abcdef0123456789abcdef/controller",
            "https://0123456789abcdef0123456789abcdef/controller",
            "spiffe://0123456789ABCDEF0123456789abcdef/controller",
            "spiffe://0123/controller",
            "spiffe:///controller",
        ] {
            assert!(text.parse::<Identity>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn random_fleets_differ() {
        let one = FleetId::random().expect("random");
        assert_ne!(one, FleetId::random().expect("random"));
        assert_eq!(one.as_str().parse(), Ok(one.clone()));
        assert_eq!(FleetId::from_uri(&one.uri()), Ok(one));
    }
}
