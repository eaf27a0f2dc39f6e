//! Connections for real, over loopback: who gets in, who is refused and what each side is told, first contact, exchange of
//! certificates, revocation, and errors on the wire.

mod dialling;
mod first_contact;
mod fleet;
mod refusals;
mod revocation;
mod service;
mod swap;
mod wire;
