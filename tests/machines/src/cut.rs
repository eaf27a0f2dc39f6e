//! Cuts in the network between two nodes. Called by [`crate::Lab`].
//!
//! The rules stand in a table of the lab's bridge, outside the nodes: a sender sees silence, as
//! with a broken network, rather than an error of its own firewall; they outlast a reboot of a
//! node; and a node's own rules stay as the node made them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// The table that holds the rules, in the lab's network namespace.
pub(crate) const TABLE: &str = "canasta_lab";

/// The kind of traffic that a cut stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP segments.
    Tcp,
    /// UDP datagrams.
    Udp,
    /// ICMP messages, pings among them.
    Icmp,
}

impl Protocol {
    fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
        }
    }
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name())
    }
}

/// What of the traffic between two nodes is dropped. What is not set does not restrict.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// The one node, or `lab` for the machine itself (which is on the bridge).
    pub from: String,
    /// The other node, or `lab`.
    pub to: String,
    /// Only this protocol.
    pub protocol: Option<Protocol>,
    /// Only packets *to* this port; needs TCP or UDP.
    pub port: Option<u16>,
    /// Only from `from` to `to`.
    pub one_way: bool,
    /// Only packets of at least so many bytes, counted from the IP header.
    pub min_size: Option<u16>,
    /// Only so many of a hundred packets, by chance.
    pub loss: Option<u8>,
}

impl Cut {
    /// What is wrong with the combination, if anything.
    pub fn fault(&self) -> Option<&'static str> {
        if self.from == self.to {
            return Some("the two ends of a cut are the same node");
        }
        if self.port.is_some() && !matches!(self.protocol, Some(Protocol::Tcp | Protocol::Udp)) {
            return Some("--port needs --proto tcp or --proto udp");
        }
        if self.loss.is_some_and(|loss| !(1..=100).contains(&loss)) {
            return Some("--loss is a percentage from 1 to 100");
        }
        None
    }

    fn rule(&self, from: Ipv4Addr, to: Ipv4Addr) -> String {
        let mut rule = format!("ip saddr {from} ip daddr {to}");
        match (self.protocol, self.port) {
            (Some(protocol), Some(port)) => {
                let _ = write!(rule, " {} dport {port}", protocol.name());
            }
            (Some(protocol), None) => {
                let _ = write!(rule, " ip protocol {}", protocol.name());
            }
            (None, _) => {}
        }
        if let Some(size) = self.min_size {
            let _ = write!(rule, " ip length >= {size}");
        }
        if let Some(loss) = self.loss {
            let _ = write!(rule, " numgen random mod 100 < {loss}");
        }
        rule + " counter drop"
    }
}

/// The whole table for `nft -f`: it replaces what was there in one step. `addresses` has every
/// node of the lab and `lab`; a cut with a node that is gone is left out.
pub(crate) fn render(cuts: &[Cut], addresses: &BTreeMap<String, Ipv4Addr>) -> String {
    // Adding first makes the deletion work when there is no table yet.
    let mut text = format!("table bridge {TABLE} {{}}\ndelete table bridge {TABLE}\n");
    if cuts.is_empty() {
        return text;
    }
    let _ = write!(text, "table bridge {TABLE} {{\n  chain cuts {{\n");
    for cut in cuts {
        let (Some(from), Some(to)) = (addresses.get(&cut.from), addresses.get(&cut.to)) else {
            continue;
        };
        let _ = writeln!(text, "    {}", cut.rule(*from, *to));
        if !cut.one_way {
            let _ = writeln!(text, "    {}", cut.rule(*to, *from));
        }
    }
    text.push_str("  }\n");
    for hook in ["forward", "input", "output"] {
        let _ = writeln!(
            text,
            "  chain {hook} {{ type filter hook {hook} priority 0; policy accept; jump cuts; }}"
        );
    }
    text.push_str("}\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses() -> BTreeMap<String, Ipv4Addr> {
        [("a", 11), ("b", 12), ("lab", 1)]
            .map(|(name, number)| (name.to_owned(), Ipv4Addr::new(10, 80, 0, number)))
            .into()
    }

    fn cut() -> Cut {
        Cut {
            from: "a".to_owned(),
            to: "b".to_owned(),
            ..Cut::default()
        }
    }

    fn rules(cut: Cut) -> Vec<String> {
        render(&[cut], &addresses())
            .lines()
            .filter(|line| line.ends_with(" drop"))
            .map(|line| line.trim().to_owned())
            .collect()
    }

    #[test]
    fn a_plain_cut_stops_everything_both_ways() {
        assert_eq!(
            rules(cut()),
            [
                "ip saddr 10.80.0.11 ip daddr 10.80.0.12 counter drop",
                "ip saddr 10.80.0.12 ip daddr 10.80.0.11 counter drop",
            ]
        );
    }

    #[test]
    fn every_restriction_is_in_the_rule() {
        let cut = Cut {
            protocol: Some(Protocol::Udp),
            port: Some(8472),
            one_way: true,
            min_size: Some(1400),
            loss: Some(30),
            ..cut()
        };
        assert_eq!(
            rules(cut),
            [
                "ip saddr 10.80.0.11 ip daddr 10.80.0.12 udp dport 8472 ip length >= 1400 \
              numgen random mod 100 < 30 counter drop"
            ]
        );
    }

    #[test]
    fn a_protocol_without_a_port_is_all_of_it() {
        let rules = rules(Cut {
            protocol: Some(Protocol::Icmp),
            one_way: true,
            ..cut()
        });
        assert_eq!(
            rules,
            ["ip saddr 10.80.0.11 ip daddr 10.80.0.12 ip protocol icmp counter drop"]
        );
    }

    #[test]
    fn no_cuts_only_remove_the_table() {
        let text = render(&[], &addresses());
        assert_eq!(
            text,
            "table bridge canasta_lab {}\ndelete table bridge canasta_lab\n"
        );
    }

    #[test]
    fn combinations_that_mean_nothing_are_told() {
        assert!(cut().fault().is_none());
        assert!(
            Cut {
                to: "a".to_owned(),
                ..cut()
            }
            .fault()
            .is_some()
        );
        assert!(
            Cut {
                port: Some(1),
                ..cut()
            }
            .fault()
            .is_some()
        );
        assert!(
            Cut {
                port: Some(1),
                protocol: Some(Protocol::Icmp),
                ..cut()
            }
            .fault()
            .is_some()
        );
        assert!(
            Cut {
                loss: Some(0),
                ..cut()
            }
            .fault()
            .is_some()
        );
    }
}
