//! Why a join did not go well, with a stable reason and what to do next.

use canasta_host::machine::MachineError;
use canasta_proto::address::{AGENT_PORT, AddressError};
use canasta_proto::name::NameError;
use canasta_proto::token::TokenError;
use canasta_transport::dial::DialError;
use canasta_transport::refusal::HandshakeRefusal;
use canasta_transport::status::{Fault, chain};
use jiff::Timestamp;
use tonic::Code;

use super::message::Failure;
use crate::identity::IdentityError;
use crate::listener::ListenError;

/// The most that the clocks of node and controller may differ, in seconds.
pub const MAX_SKEW_SECONDS: i64 = 30;

/// A join did not go well. Never holds the token.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The token is not one.
    #[error("failed to read the token")]
    Token(#[source] TokenError),
    /// The controller's address is not one.
    #[error("failed to read the controller's address")]
    Controller(#[source] AddressError),
    /// The address to advertise is not one.
    #[error("failed to read the address to advertise")]
    Advertise(#[source] AddressError),
    /// The name is not one.
    #[error("failed to read the name of this host")]
    Name(#[source] NameError),
    /// Another join runs.
    #[error("another join is under way on this node")]
    Busy,
    /// The agent is going down.
    #[error("the agent is shutting down")]
    Stopping,
    /// The controller can't be reached, or is not the one that made the token.
    #[error("failed to reach the controller")]
    Dial(#[source] DialError),
    /// The clocks differ too much. The token has not been sent.
    #[error(
        "the clock of this node is {} the controller's: {seconds} s; here it is {here}, there {there}; the token was not sent",
        if *.behind { "behind" } else { "ahead of" }
    )]
    Skew {
        /// By how much.
        seconds: i64,
        /// Whether the node is the one behind.
        behind: bool,
        /// The node's clock.
        here: Timestamp,
        /// The controller's clock.
        there: Timestamp,
    },
    /// The controller said no, or can't answer.
    #[error("{0}")]
    Refused(Box<Fault>),
    /// The controller took too long.
    #[error("the controller at {address} did not answer within {seconds} s")]
    Silent {
        /// Where it was reached.
        address: String,
        /// How long was waited.
        seconds: u64,
    },
    /// The controller ended the enrolment without a certificate.
    #[error("the controller at {address} ended the enrolment without a certificate")]
    Cut {
        /// Where it was reached.
        address: String,
    },
    /// The certificate comes with another CA than the token's.
    #[error(
        "the controller at {address} answered with a certificate of another CA than the token's"
    )]
    OtherCa {
        /// Where it was reached.
        address: String,
    },
    /// The port can't be opened. The token has not been sent.
    #[error("failed to open the agent's port; the token was not sent")]
    Listen(#[source] ListenError),
    /// Facts of the machine can't be had.
    #[error("failed to find out the hostname")]
    Machine(#[source] MachineError),
    /// Key or certificate can't be made, checked or stored.
    #[error("failed to keep the identity of this node")]
    Identity(#[source] IdentityError),
}

impl JoinError {
    /// Stable, upper case, for programs.
    pub fn reason(&self) -> &str {
        match self {
            Self::Token(_) => "TOKEN_MALFORMED",
            Self::Controller(_) | Self::Advertise(_) => "ADDRESS_INVALID",
            Self::Name(_) => "NAME_INVALID",
            Self::Busy => "JOIN_RUNNING",
            Self::Stopping => "AGENT_STOPPING",
            Self::Dial(error) => match error.refusal() {
                Some(HandshakeRefusal::PinMismatch { .. }) => "CA_PIN_MISMATCH",
                Some(HandshakeRefusal::NotController { .. }) => "NOT_THE_CONTROLLER",
                Some(_) => "HANDSHAKE_REFUSED",
                None => "CONTROLLER_UNREACHABLE",
            },
            Self::Skew { .. } => "CLOCK_SKEW",
            Self::Refused(fault) => &fault.reason,
            Self::Silent { .. } | Self::Cut { .. } => "ENROLMENT_CUT",
            Self::OtherCa { .. } => "CA_PIN_MISMATCH",
            Self::Listen(_) => "PORT_NOT_OPENED",
            Self::Machine(_) => "HOSTNAME_UNKNOWN",
            Self::Identity(_) => "IDENTITY_FAILED",
        }
    }

    /// What to do next.
    pub fn hint(&self) -> String {
        match self {
            Self::Token(_) => "make a new token with `canasta host token NAME` and copy all of it".to_owned(),
            Self::Controller(_) => "give the controller as ADDR or ADDR:PORT, as `canasta host add` printed it".to_owned(),
            Self::Advertise(_) => "give an address of this node that the controller reaches, as ADDR or ADDR:PORT".to_owned(),
            Self::Name(_) => "give the name from `canasta host add --name`, or leave it out".to_owned(),
            Self::Busy => "wait for its end; `canasta-agent status` tells when this node has joined".to_owned(),
            Self::Stopping => "start it again with `systemctl start canasta-agent`, then repeat the command".to_owned(),
            Self::Dial(error) => dial_hint(error),
            Self::Skew { .. } => {
                "set the clock right (`timedatectl status` shows whether NTP works) and repeat the command; the token is still good".to_owned()
            }
            Self::Refused(fault) => fault.hint.clone(),
            Self::Silent { .. } | Self::Cut { .. } => {
                "repeat the command: the same token on this node is answered again".to_owned()
            }
            Self::OtherCa { .. } => "someone stands between this node and the controller, or the controller's CA was replaced: make a new token with `canasta host token NAME`".to_owned(),
            Self::Listen(error) => error.hint(),
            Self::Machine(_) => "look at `hostnamectl` on this node".to_owned(),
            Self::Identity(IdentityError::Expired { .. }) => "one of the clocks is wrong: compare `date` on this node and on the controller".to_owned(),
            Self::Identity(_) => format!(
                "look at {} (space, permissions, read-only file system) and repeat the command: the same token on this node is answered again",
                crate::paths::IDENTITY
            ),
        }
    }

    /// True when trying again with the same token can't help.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Token(_) | Self::Controller(_) | Self::Advertise(_) | Self::Name(_) => true,
            Self::Refused(fault) => {
                // Everything else, such as a controller whose disk is full, passes.
                fault.reason.starts_with("TOKEN_") || fault.code == Code::InvalidArgument
            }
            _ => false,
        }
    }

    /// The error as it goes over the socket.
    pub fn to_failure(&self) -> Failure {
        let causes = match self {
            Self::Refused(fault) => fault.causes.clone(),
            error => chain(error),
        };
        Failure {
            reason: self.reason().to_owned(),
            message: self.to_string(),
            causes,
            hint: self.hint(),
        }
    }
}

fn dial_hint(error: &DialError) -> String {
    match error.refusal() {
        Some(HandshakeRefusal::PinMismatch { .. }) => {
            "the token was made by another controller, or someone stands in between; the token was not sent. Check the address, and make a new token with `canasta host token NAME` on the controller that you mean".to_owned()
        }
        Some(HandshakeRefusal::NotController { .. }) => format!(
            "give the controller's address; port {AGENT_PORT} is an agent's. The token was not sent"
        ),
        Some(_) => "check that the address is the controller's; the token was not sent".to_owned(),
        None => "check the address and that no firewall keeps this node from the controller's port; the token was not sent".to_owned(),
    }
}
