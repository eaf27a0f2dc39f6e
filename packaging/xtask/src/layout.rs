//! Checks the directions between the crates and the few places that may touch processes and D-Bus.
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
    ("tests/bench", &["canasta-machines"]),
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

/// Text that may stand only below these directories.
const PLACES: &[(&str, &[&str], &str)] = &[
    (
        "process::Command",
        &[
            "agent/host/",
            "tests/",
            "packaging/xtask/",
            "agent/tests/",
            "controller/tests/",
            "cli/tests/",
            "proto/transport/tests/",
        ],
        "processes are started in canasta-host, tests and xtask",
    ),
    (
        "zbus::",
        &["agent/host/", "packaging/xtask/"],
        "D-Bus is spoken in canasta-host",
    ),
];

/// The most lines of a file.
const MAX_LINES: usize = 600;

/// Names that say nothing.
const VAGUE: &[&str] = &["common", "util", "utils", "helpers", "manager"];

/// All that breaks a rule, one sentence each.
///
/// # Errors
/// When a manifest or a source file cannot be read.
pub fn problems(workspace: &Path) -> io::Result<Vec<String>> {
    let mut problems = Vec::new();
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
    let dependencies = manifest.get("dependencies").and_then(toml::Value::as_table);
    for name in dependencies.into_iter().flat_map(toml::Table::keys) {
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
    for (needle, places, reason) in PLACES {
        if text.contains(needle) && !places.iter().any(|place| name.starts_with(place)) {
            problems.push(format!("{name} holds `{needle}`: {reason}"));
        }
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
    use super::{manifest_problems, source_problems};

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
    fn a_process_in_the_wrong_place_and_a_long_file_are_found() {
        // Put together here, so that this file does not hold the text itself.
        let line = ["use std::process::", "Command;"].concat();
        assert_eq!(source_problems("cli/src/a.rs", &line).len(), 1);
        assert_eq!(source_problems("agent/host/src/a.rs", &line).len(), 0);
        assert_eq!(source_problems("cli/src/a.rs", &"\n".repeat(601)).len(), 1);
        assert_eq!(source_problems("cli/src/util.rs", "").len(), 1);
    }
}
