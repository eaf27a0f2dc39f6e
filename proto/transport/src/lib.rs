//! Identities, reloadable mutual TLS, the roles table and errors on the wire.
//!
//! Agent, controller and CLI meet each other through this crate:
//!
//! * [`spiffe`] and [`facts`]: who a certificate names, and what else is judged of it;
//! * [`keys`] and [`authority`]: keys, requests, and the fleet's CA, which only the controller holds;
//! * [`material`] and [`tls`]: what one side presents, exchangeable while it runs, and how it judges the other side;
//! * [`refusal`]: why a handshake was refused, told apart by the caller;
//! * [`listen`] and [`dial`]: connections for tonic's server and client;
//! * [`roles`] and [`status`]: who may call what, and how an error travels;
//! * [`limit`]: what strangers may cost.
//!
//! TLS 1.3 alone is spoken, with ring, and no session is ever resumed: each connection is judged anew.

pub mod authority;
pub mod dial;
pub mod facts;
pub mod keys;
pub mod limit;
pub mod listen;
pub mod material;
pub mod refusal;
pub mod roles;
pub mod spiffe;
pub mod status;
pub mod tls;
