//! Unit files of the fake host, and the links that enable them.

use std::fs;
use std::io;
use std::path::PathBuf;

use super::installed_path;
use crate::files::{Change, Root};
use crate::systemd::Unit;

/// Where unit files are, in the order in which they win.
const DIRECTORIES: [&str; 3] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/lib/systemd/system",
];

/// Where enabling makes its links.
const WANTS: &str = "/etc/systemd/system/multi-user.target.wants";

/// A unit as its file has it: down, or `not-found`.
pub(super) fn load(root: &Root, name: &str) -> Unit {
    let mut unit = Unit {
        name: name.to_owned(),
        load_state: "not-found".to_owned(),
        active_state: "inactive".to_owned(),
        sub_state: "dead".to_owned(),
        ..Unit::default()
    };
    let Some(path) = find(root, name) else {
        return unit;
    };
    let content = fs::read_to_string(root.path(&path)).unwrap_or_default();
    let type_ = content
        .lines()
        .find_map(|line| line.trim().strip_prefix("Type="));
    type_.unwrap_or("simple").clone_into(&mut unit.type_);
    let word = if is_masked(root, &path) {
        "masked"
    } else {
        "loaded"
    };
    word.clone_into(&mut unit.load_state);
    unit.unit_file_state = state(root, name);
    unit.fragment_path = Some(path);
    unit
}

/// systemd's word for whether the unit comes up at boot; empty where there is no file.
pub(super) fn state(root: &Root, name: &str) -> String {
    let Some(path) = find(root, name) else {
        return String::new();
    };
    let enabled = || fs::symlink_metadata(root.path(WANTS).join(name)).is_ok();
    let word = if is_masked(root, &path) {
        "masked"
    } else if enabled() {
        "enabled"
    } else {
        "disabled"
    };
    word.to_owned()
}

/// Names of the units that come up at boot.
pub(super) fn enabled(root: &Root) -> Vec<String> {
    let entries = fs::read_dir(root.path(WANTS))
        .into_iter()
        .flatten()
        .flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Makes the link.
pub(super) fn enable(root: &Root, name: &str) -> io::Result<Change> {
    let link = root.path(WANTS).join(name);
    fs::create_dir_all(root.path(WANTS))?;
    match std::os::unix::fs::symlink(installed_path(name), link) {
        Ok(()) => Ok(Change::Changed),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Change::Unchanged),
        Err(error) => Err(error),
    }
}

/// Removes the link.
pub(super) fn disable(root: &Root, name: &str) -> io::Result<Change> {
    match fs::remove_file(root.path(WANTS).join(name)) {
        Ok(()) => Ok(Change::Changed),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Change::Unchanged),
        Err(error) => Err(error),
    }
}

fn find(root: &Root, name: &str) -> Option<PathBuf> {
    DIRECTORIES
        .iter()
        .map(|directory| PathBuf::from(directory).join(name))
        .find(|path| fs::symlink_metadata(root.path(path)).is_ok())
}

fn is_masked(root: &Root, path: &std::path::Path) -> bool {
    fs::read_link(root.path(path)).is_ok_and(|target| target == std::path::Path::new("/dev/null"))
}
