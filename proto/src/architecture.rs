//! Names of architectures: what kernels and package managers call them, and the one name that the fleet uses.
//!
//! Used wherever a node, a release or a package tells what it is made for.

/// The fleet's name, and the others.
const NAMES: [(&str, &[&str]); 4] = [
    ("amd64", &["x86_64", "amd64"]),
    ("arm64", &["aarch64", "arm64"]),
    ("arm", &["armv7l", "armv6l", "armv7hl", "armhf", "arm"]),
    ("s390x", &["s390x"]),
];

/// The fleet's name of an architecture, from any of its names.
pub fn find(name: &str) -> Option<&'static str> {
    let (found, _others) = NAMES.iter().find(|(_, names)| names.contains(&name))?;
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::{NAMES, find};

    #[test]
    fn an_architecture_is_found_by_each_of_its_names_and_by_no_other() {
        for (name, names) in NAMES {
            assert!(
                names.iter().all(|other| find(other) == Some(name)),
                "{name}"
            );
        }
        assert_eq!(find("x86_64"), Some("amd64"));
        assert_eq!(find("riscv64"), None);
        assert_eq!(find(""), None);
    }
}
