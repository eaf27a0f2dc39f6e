//! Where a lab keeps its things: directories, namespace, addresses. All names that stand for
//! something outside this process are derived here, from the lab's name alone.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;

/// The lab that people use where they name none.
pub const DEFAULT_LAB: &str = "canasta";

/// The default of `CANASTA_LAB_DIR`.
pub const DEFAULT_DIRECTORY: &str = "/var/tmp/canasta-lab";

/// The name of the bridge inside each lab's network namespace.
pub(crate) const BRIDGE: &str = "lab";

/// The node that gets the controller.
pub const CONTROLLER_NODE: &str = "ctl";

/// The directories and the network of one lab.
#[derive(Debug, Clone)]
pub struct Layout {
    name: String,
    root: PathBuf,
}

impl Layout {
    /// The lab `name` below `root`; the name must have passed [`valid_name`].
    pub fn new(root: &Path, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            root: root.to_owned(),
        }
    }

    /// The lab's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The directory of everything.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where root file systems to start from are kept, for all labs.
    pub fn bases(&self) -> PathBuf {
        self.root.join("base")
    }

    /// Where apt repositories are kept, for all labs.
    pub fn repositories(&self) -> PathBuf {
        self.root.join("apt")
    }

    /// Where locks are kept. They stay when a lab goes, so that nobody waits on a removed file.
    pub fn locks(&self) -> PathBuf {
        self.root.join("locks")
    }

    /// The directory of all labs.
    pub fn labs(&self) -> PathBuf {
        self.root.join("labs")
    }

    /// The directory of this lab.
    pub fn lab(&self) -> PathBuf {
        self.labs().join(&self.name)
    }

    /// The file that says what this lab consists of.
    pub fn state(&self) -> PathBuf {
        self.lab().join("state.json")
    }

    /// The directory of all nodes of this lab.
    pub fn nodes(&self) -> PathBuf {
        self.lab().join("nodes")
    }

    /// The directory of one node.
    pub fn node(&self, node: &str) -> PathBuf {
        self.nodes().join(node)
    }

    /// The link to the apt repository that this lab's release server serves; nothing is there while it serves none.
    pub fn repository(&self) -> PathBuf {
        self.lab().join("apt")
    }

    /// What the release server prints.
    pub fn release_log(&self) -> PathBuf {
        self.lab().join("release-server.log")
    }

    /// The name of the network namespace.
    pub fn netns_name(&self) -> String {
        format!("lab-{}", self.name)
    }

    /// The path of the network namespace.
    pub fn netns(&self) -> PathBuf {
        Path::new("/run/netns").join(self.netns_name())
    }

    /// The lab's network. Labs can't see each other, so that two with the same one do no harm.
    pub fn network(&self) -> Ipv4Net {
        let octet = match self.name.as_str() {
            DEFAULT_LAB => 80,
            "demo" => 79,
            name => {
                let hash = name.bytes().fold(5381_u32, |hash, byte| {
                    hash.wrapping_mul(33) ^ u32::from(byte)
                });
                81 + u8::try_from(hash % 40).unwrap_or_default()
            }
        };
        Ipv4Net::new_assert(Ipv4Addr::new(10, octet, 0, 0), 24)
    }

    /// The machine's own address in the lab's network, on the bridge.
    pub fn gateway(&self) -> Ipv4Addr {
        self.host_number(1)
    }

    /// The address of the node `node`, given those that other nodes have already: `ctl` has
    /// always number 10, others the next free one from 11. Nothing if the network is full.
    pub fn choose_address(&self, node: &str, taken: &[Ipv4Addr]) -> Option<Ipv4Addr> {
        if node == CONTROLLER_NODE {
            return Some(self.host_number(10));
        }
        (11..=254)
            .map(|number| self.host_number(number))
            .find(|address| !taken.contains(address))
    }

    fn host_number(&self, number: u8) -> Ipv4Addr {
        let [a, b, c, _] = self.network().network().octets();
        Ipv4Addr::new(a, b, c, number)
    }
}

/// Whether `name` can be the name of a lab or of a node: a host name's label that is short
/// enough for the names that are made from it.
pub(crate) fn valid_name(name: &str) -> bool {
    (1..=24).contains(&name.len())
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && !name.ends_with('-')
        && name
            .chars()
            .all(|char| char.is_ascii_lowercase() || char.is_ascii_digit() || char == '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(name: &str) -> Layout {
        Layout::new(Path::new("/x"), name)
    }

    #[test]
    fn the_default_lab_has_a_fixed_network_and_others_have_another() {
        assert_eq!(layout("canasta").network().to_string(), "10.80.0.0/24");
        assert_eq!(layout("demo").network().to_string(), "10.79.0.0/24");
        assert_eq!(layout("canasta").gateway(), Ipv4Addr::new(10, 80, 0, 1));
        for name in ["t1", "t2", "a-long-name", "zzz"] {
            let [ten, octet, ..] = layout(name).network().network().octets();
            assert!(ten == 10 && (81..=120).contains(&octet), "{name}: {octet}");
        }
    }

    #[test]
    fn addresses_are_the_next_free_ones() {
        let lab = layout("canasta");
        let address = |number| Ipv4Addr::new(10, 80, 0, number);
        assert_eq!(lab.choose_address("ctl", &[]), Some(address(10)));
        assert_eq!(lab.choose_address("cp1", &[address(10)]), Some(address(11)));
        assert_eq!(
            lab.choose_address("n2", &[address(10), address(11), address(13)]),
            Some(address(12))
        );
        let all: Vec<_> = (11..=254).map(address).collect();
        assert_eq!(lab.choose_address("n2", &all), None);
    }

    #[test]
    fn names_that_would_break_out_are_refused() {
        for good in ["ctl", "cp1", "n-2"] {
            assert!(valid_name(good), "{good}");
        }
        for bad in [
            "",
            "..",
            "a/b",
            "A",
            "1a",
            "a b",
            "a-",
            "a\n",
            &"a".repeat(25),
        ] {
            assert!(!valid_name(bad), "{bad:?}");
        }
    }
}
