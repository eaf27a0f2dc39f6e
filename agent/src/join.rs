//! How a node becomes a member of a fleet.
//!
//! `canasta-agent join` hands a token to the service over a socket that only root may open (`socket`, [`client`],
//! [`message`]); an image leaves it in a file that is read at the first start ([`file`]). Either way the service itself
//! does the enrolment (`enrol`) and serves from then on, without a restart.

pub mod client;
pub(crate) mod enrol;
pub mod error;
pub(crate) mod file;
pub mod message;
mod patience;
mod socket;

pub use error::JoinError;
pub(crate) use socket::JoinSocket;
pub use socket::SocketError;
