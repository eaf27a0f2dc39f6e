//! Checks the directions between the crates and inside the daemons, the few places that may touch processes and D-Bus, and
//! the form of files.
//!
//! Called by `xtask layout` (part of `./dev lint`). The rules stand in the tables below; a new crate or a new place needs
//! a row, and a reason in the commit that adds it.

use std::io;
use std::path::{Path, PathBuf};

/// A crate and the crates of the workspace that it may depend on.
const DIRECTIONS: &[(&str, &[&str])] = &[
    ("proto", &[]),
    ("proto/durable", &[]),
    ("proto/transport", &["canasta-proto"]),
    ("proto/steps", &["canasta-proto"]),
    ("agent/host", &["canasta-durable"]),
    ("agent/nfs-proof", &["canasta-host"]),
    (
        "agent",
        &[
            "canasta-host",
            "canasta-steps",
            "canasta-transport",
            "canasta-durable",
            "canasta-proto",
        ],
    ),
    (
        "controller",
        &[
            "canasta-steps",
            "canasta-transport",
            "canasta-durable",
            "canasta-proto",
        ],
    ),
    (
        "cli",
        &["canasta-transport", "canasta-durable", "canasta-proto"],
    ),
    ("packaging/xtask", &[]),
    (
        "tests/bench",
        &["canasta-machines", "canasta-proto", "canasta-tests"],
    ),
    ("tests/machines", &["canasta-durable"]),
    ("tests/standin", &[]),
    (
        "tests",
        &[
            "canasta-agent",
            "canasta-controller",
            "canasta-durable",
            "canasta-host",
            "canasta-proto",
            "canasta-standin",
            "canasta-steps",
            "canasta-transport",
        ],
    ),
];

/// Text that may stand only in some places.
struct Place {
    text: &'static str,
    /// Looked for in files whose names begin so; empty for all.
    within: &'static str,
    /// Where it may stand: files whose names begin so.
    only: &'static [&'static str],
    reason: &'static str,
}

const PLACES: &[Place] = &[
    Place {
        text: "process::Command",
        within: "",
        only: &[
            "agent/host/",
            // The system's ssh, which brings in a new host.
            "cli/src/ssh",
            "tests/",
            "packaging/xtask/",
            "agent/tests/",
            "agent/nfs-proof/tests/",
            "controller/tests/",
            // A test that runs itself in a process without CA certificates.
            "controller/src/artefacts/tests/trust.rs",
            "cli/tests/",
            "proto/transport/tests/",
        ],
        reason: "processes are started in canasta-host, the CLI's ssh module, tests and xtask",
    },
    Place {
        text: "zbus::",
        within: "",
        only: &["agent/host/", "packaging/xtask/"],
        reason: "D-Bus is spoken in canasta-host",
    },
    Place {
        text: "crate::api",
        within: "agent/src/",
        only: &["agent/src/api", "agent/src/agent"],
        reason: "the api calls the rest of the agent, never the other way; only the wiring knows it",
    },
    Place {
        text: "crate::api",
        within: "controller/src/",
        only: &["controller/src/api", "controller/src/controller"],
        reason: "the api calls the rest of the controller, never the other way; only the wiring knows it",
    },
    Place {
        text: "crate::workflows",
        within: "controller/src/",
        only: &[
            "controller/src/api",
            "controller/src/controller",
            "controller/src/workflows",
        ],
        reason: "workflows stand on operations, fleet, clusters, artefacts and store, never the other way",
    },
    Place {
        text: "tonic::",
        within: "agent/src/",
        only: &[
            "agent/src/api",
            // The wiring, and the dialling of the controller for a join.
            "agent/src/agent/serving.rs",
            "agent/src/join/",
        ],
        reason: "tonic types stay in the api and where a peer is dialled",
    },
    Place {
        text: "tonic::",
        within: "controller/src/",
        only: &[
            "controller/src/api",
            // The wiring, and the places that talk with agents.
            "controller/src/controller.rs",
            "controller/src/fleet",
            "controller/src/operations/agent",
            "controller/src/clusters/api.rs",
            "controller/src/clusters/kubeconfig.rs",
            "controller/src/clusters/reach.rs",
            "controller/src/clusters/tunnel.rs",
            "controller/src/artefacts/push.rs",
            "controller/src/workflows/ask.rs",
            "controller/src/workflows/gather.rs",
            "controller/src/workflows/join_worker/probes.rs",
        ],
        reason: "tonic types stay in the api and where an agent is asked",
    },
    Place {
        text: "\"/etc/canasta",
        within: "",
        only: PATHS,
        reason: PATHS_REASON,
    },
    Place {
        text: "\"/var/lib/canasta",
        within: "",
        only: PATHS,
        reason: PATHS_REASON,
    },
    Place {
        text: "\"/run/canasta",
        within: "",
        only: PATHS,
        reason: PATHS_REASON,
    },
];

const PATHS: &[&str] = &[
    // Host has no paths of its own but these, where its transient units find what they are to do.
    "agent/host/src/removal/unit.rs",
    "agent/host/src/nfs/unit.rs",
    "agent/host/src/outside/unit.rs",
    "agent/src/paths.rs",
    "agent/src/k3s/paths.rs",
    "controller/src/paths.rs",
    "cli/src/paths.rs",
    "packaging/xtask/",
    "tests/",
    "agent/tests/",
    "controller/tests/",
    "cli/tests/",
];
const PATHS_REASON: &str = "absolute default paths stand in the module `paths`";

/// The most lines of a file.
const MAX_LINES: usize = 600;

/// Names that say nothing.
const VAGUE: &[&str] = &["common", "util", "utils", "helpers", "manager"];

/// All that breaks a rule, one sentence each.
///
/// # Errors
/// When a manifest or a source file cannot be read.
pub fn problems(workspace: &Path) -> io::Result<Vec<String>> {
    let root = std::fs::read_to_string(workspace.join("Cargo.toml"))?;
    let mut problems = member_problems(&root);
    for (dir, allowed) in DIRECTIONS {
        let manifest = std::fs::read_to_string(workspace.join(dir).join("Cargo.toml"))?;
        problems.extend(manifest_problems(dir, allowed, &manifest));
    }
    let mut sources = Vec::new();
    for (dir, _) in DIRECTIONS {
        for part in ["src", "tests", "benches"] {
            collect(&workspace.join(dir).join(part), &mut sources)?;
        }
    }
    sources.sort();
    sources.dedup();
    for path in sources {
        let text = std::fs::read_to_string(&path)?;
        let name = path
            .strip_prefix(workspace)
            .unwrap_or(&path)
            .to_string_lossy()
            .into_owned();
        problems.extend(source_problems(&name, &text));
    }
    Ok(problems)
}

/// Members of the workspace without a row in [`DIRECTIONS`].
fn member_problems(manifest: &str) -> Vec<String> {
    let Ok(manifest) = manifest.parse::<toml::Table>() else {
        return vec!["Cargo.toml is not TOML".to_owned()];
    };
    let members = manifest
        .get("workspace")
        .and_then(|workspace| workspace.get("members"))
        .and_then(toml::Value::as_array);
    members
        .into_iter()
        .flatten()
        .filter_map(toml::Value::as_str)
        .filter(|member| DIRECTIONS.iter().all(|(dir, _)| dir != member))
        .map(|member| format!("{member} has no row in the table of directions"))
        .collect()
}

fn manifest_problems(dir: &str, allowed: &[&str], manifest: &str) -> Vec<String> {
    let Ok(manifest) = manifest.parse::<toml::Table>() else {
        return vec![format!("{dir}/Cargo.toml is not TOML")];
    };
    let mut problems = Vec::new();
    if manifest
        .get("lints")
        .and_then(|lints| lints.get("workspace"))
        != Some(&toml::Value::Boolean(true))
    {
        problems.push(format!(
            "{dir}/Cargo.toml: the lints of the workspace are not taken over"
        ));
    }
    let kinds = ["dependencies", "dev-dependencies", "build-dependencies"];
    let tables = kinds
        .iter()
        .filter_map(|kind| manifest.get(*kind)?.as_table());
    for name in tables.flat_map(toml::Table::keys) {
        if name.starts_with("canasta-") && !allowed.contains(&name.as_str()) {
            problems.push(format!("{dir} must not depend on {name}"));
        }
    }
    problems
}

fn source_problems(name: &str, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let lines = text.lines().count();
    if lines > MAX_LINES {
        problems.push(format!(
            "{name} has {lines} lines, more than {MAX_LINES}: split it along what changes together"
        ));
    }
    for Place {
        text: needle,
        within,
        only,
        reason,
    } in PLACES
    {
        let looked_at = name.starts_with(within)
            && !only.iter().any(|place| name.starts_with(place))
            // Unit tests may name any path.
            && !(only == &PATHS && name.ends_with("/tests.rs"));
        let holds = |line: &str| line.contains(needle) && !line.trim_start().starts_with("//");
        if looked_at && text.lines().any(holds) {
            problems.push(format!("{name} holds `{needle}`: {reason}"));
        }
    }
    if !text.starts_with("//!") && !text.starts_with("#!") {
        problems.push(format!(
            "{name}: the first line says what the module is for (`//!`)"
        ));
    }
    if name.ends_with("/mod.rs") {
        problems.push(format!(
            "{name}: a module is NAME.rs, and what is in it NAME/"
        ));
    }
    let stem = Path::new(name)
        .file_stem()
        .map(|stem| stem.to_string_lossy().into_owned());
    if stem.is_some_and(|stem| VAGUE.contains(&stem.as_str())) {
        problems.push(format!("{name}: the name of a module says what it holds"));
    }
    problems
}

fn collect(dir: &Path, sources: &mut Vec<PathBuf>) -> io::Result<()> {
    if !dir.is_dir() {
        return Ok(());
    }
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() && !path.ends_with("gen") {
            collect(&path, sources)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{manifest_problems, member_problems, source_problems};

    #[test]
    fn a_wrong_direction_is_found() {
        let manifest =
            "[lints]\nworkspace = true\n[dependencies]\ncanasta-agent.workspace = true\n";
        assert_eq!(
            manifest_problems("cli", &["canasta-proto"], manifest),
            ["cli must not depend on canasta-agent"]
        );
        assert_eq!(manifest_problems("cli", &[], "[dependencies]\n").len(), 1);
    }

    #[test]
    fn the_other_tables_of_a_manifest_count_too_and_so_do_new_members() {
        let lints = "[lints]\nworkspace = true\n";
        for kind in ["dev-dependencies", "build-dependencies"] {
            let manifest = format!("{lints}[{kind}]\ncanasta-agent.workspace = true\n");
            assert_eq!(
                manifest_problems("cli", &["canasta-proto"], &manifest).len(),
                1
            );
        }
        assert_eq!(
            member_problems("[workspace]\nmembers = [\"agent\", \"web\"]\n"),
            ["web has no row in the table of directions"]
        );
    }

    #[test]
    fn what_stands_in_the_wrong_place_is_found() {
        let found = |name: &str, line: &str| source_problems(name, &format!("//! x\n{line}\n"));
        // Put together here, so that this file does not hold the text itself.
        let line = ["use std::process::", "Command;"].concat();
        assert_eq!(found("cli/src/a.rs", &line).len(), 1);
        assert_eq!(found("agent/host/src/a.rs", &line).len(), 0);
        for (name, line) in [
            ("controller/src/store.rs", "use crate::api::wire;"),
            ("controller/src/fleet.rs", "use crate::workflows::Context;"),
            ("agent/src/tasks.rs", "use tonic::Status;"),
            ("cli/src/connect.rs", "const A: &str = \"/run/canasta/x\";"),
            ("agent/src/k3s/mod.rs", ""),
        ] {
            assert_eq!(found(name, line).len(), 1, "{name}: {line}");
        }
        for (name, line) in [
            ("controller/src/controller.rs", "use crate::api::wire;"),
            ("controller/src/store.rs", "/// See [`crate::api`]."),
            ("agent/src/join/enrol.rs", "use tonic::Status;"),
            ("cli/src/paths.rs", "const A: &str = \"/run/canasta/x\";"),
        ] {
            assert_eq!(found(name, line), Vec::<String>::new(), "{name}: {line}");
        }
        let long = format!("//! x{}", "\n".repeat(601));
        assert_eq!(source_problems("cli/src/a.rs", &long).len(), 1);
        assert_eq!(source_problems("cli/src/util.rs", "//! x\n").len(), 1);
        assert_eq!(source_problems("cli/src/a.rs", "use a;\n").len(), 1);
    }
}
