//! Which generation of control groups the machine has, and whether memory can be limited with them.

use serde::{Deserialize, Serialize};

/// Generation of control groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Version {
    /// Only the old hierarchies.
    V1,
    /// Only the unified hierarchy.
    V2,
    /// Controllers in the old hierarchies, and a unified one for systemd.
    Hybrid,
    /// Nothing that is known.
    Unknown,
}

/// Control groups of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {
    /// Generation.
    pub version: Version,
    /// Whether the memory controller is on; `None` where that can't be told.
    pub memory: Option<bool>,
}

/// What the file system says about control groups.
#[derive(Debug, Clone, Copy, Default)]
pub struct Signs<'a> {
    /// `/sys/fs/cgroup/cgroup.controllers`, which only a unified hierarchy has there.
    pub controllers: Option<&'a str>,
    /// Whether `/sys/fs/cgroup/unified` exists.
    pub unified_directory: bool,
    /// Whether `/sys/fs/cgroup/systemd` or `/sys/fs/cgroup/cpu` exists.
    pub legacy_directory: bool,
    /// `/proc/cgroups`.
    pub table: Option<&'a str>,
}

/// Judges the signs.
pub fn judge(signs: Signs<'_>) -> Cgroup {
    if let Some(controllers) = signs.controllers {
        let memory = Some(controllers.split_whitespace().any(|name| name == "memory"));
        return Cgroup {
            version: Version::V2,
            memory,
        };
    }
    let version = match (signs.unified_directory, signs.legacy_directory) {
        (true, _) => Version::Hybrid,
        (false, true) => Version::V1,
        (false, false) => Version::Unknown,
    };
    Cgroup {
        version,
        memory: signs.table.and_then(memory_in_table),
    }
}

/// The line of the memory controller is name, hierarchy, number of groups, and whether it is on.
fn memory_in_table(table: &str) -> Option<bool> {
    let line = table
        .lines()
        .find(|line| line.split_whitespace().next() == Some("memory"))?;
    line.split_whitespace().nth(3).map(|enabled| enabled == "1")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str =
        "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpuset\t3\t1\t1\nmemory\t4\t10\t1\n";

    #[test]
    fn a_unified_hierarchy_is_recognised_by_its_controllers() {
        let judged = |controllers| {
            judge(Signs {
                controllers: Some(controllers),
                table: Some(TABLE),
                ..Signs::default()
            })
        };
        assert_eq!(
            judged("cpuset cpu io memory pids\n"),
            Cgroup {
                version: Version::V2,
                memory: Some(true)
            }
        );
        assert_eq!(
            judged("cpuset cpu io pids\n"),
            Cgroup {
                version: Version::V2,
                memory: Some(false)
            }
        );
        assert_eq!(
            judged("memory_recursiveprot"),
            Cgroup {
                version: Version::V2,
                memory: Some(false)
            }
        );
    }

    #[test]
    fn old_hierarchies_are_judged_by_the_table() {
        let signs = Signs {
            legacy_directory: true,
            table: Some(TABLE),
            ..Signs::default()
        };
        assert_eq!(
            judge(signs),
            Cgroup {
                version: Version::V1,
                memory: Some(true)
            }
        );
        let hybrid = Signs {
            unified_directory: true,
            ..signs
        };
        assert_eq!(judge(hybrid).version, Version::Hybrid);
        let off = Signs {
            table: Some("memory\t0\t1\t0\n"),
            ..signs
        };
        assert_eq!(judge(off).memory, Some(false));
    }

    #[test]
    fn what_cannot_be_told_is_unknown() {
        assert_eq!(
            judge(Signs::default()),
            Cgroup {
                version: Version::Unknown,
                memory: None
            }
        );
        let odd = Signs {
            table: Some("memory\n"),
            ..Signs::default()
        };
        assert_eq!(judge(odd).memory, None);
    }
}
