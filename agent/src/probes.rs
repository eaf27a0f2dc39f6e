//! Probes between two nodes: whether what one sends arrives at the other, on the ports that a cluster needs.
//!
//! The controller has one agent listen ([`receive`]) and the other send ([`send`]), and lays the two answers side by side:
//! nothing is echoed, so each direction is tested by itself. Where nobody listens yet, the agent does. The port of the overlay
//! network belongs to the kernel once flannel runs; the probes are then seen where the overlay delivers them, which also proves
//! that no filter on the way or on the node itself drops them.

mod datagram;
pub(crate) mod receive;
pub(crate) mod send;

#[cfg(test)]
mod tests;

/// How many rounds an agent may listen for at once: each may look at every packet that arrives.
pub(crate) const ROUNDS: usize = 4;

/// Marks the probes of one round.
pub(crate) type Nonce = [u8; 16];

/// How a port is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Protocol {
    /// A connection that is opened and closed.
    Tcp,
    /// Numbered datagrams.
    Udp,
}

/// A port that is probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Port {
    /// How.
    pub(crate) protocol: Protocol,
    /// Its number.
    pub(crate) number: u16,
}
