//! What a test needs of the real machine under it and not every machine has: a right of root, a part of the kernel, a program.
//!
//! A test that can't be made is skipped aloud. Its name and need go to the file `$CANASTA_TEST_SKIPS`, which `./dev test` compares
//! with the lists in `tests/skips/`; so a test that is skipped unseen is a failed run. Tests that need root are in modules named
//! `as_root`: `./dev test` runs them once more as root (profile `machines` of nextest), where they can't be skipped for that.

use std::fs::OpenOptions;
use std::io::Write as _;

/// The need of a right that root has.
const ROOT: &str = "root";

/// Skips a test, or a part of it, for want of a right that root has. `module` is its `module_path!()`.
///
/// # Panics
/// For root, who has every right; in a module that `./dev test` does not run as root.
pub fn lacks_root(module: &str, test: &str, why: &str) {
    assert!(
        nix::unistd::Uid::effective().as_raw() != 0,
        "root, and {why}"
    );
    assert!(
        module.ends_with("::as_root"),
        "{module}::{test} is run as root by nobody: move it into a module named as_root"
    );
    lacks(test, ROOT, why);
}

/// Skips a test, or a part of it, on a machine without something else.
///
/// # Panics
/// When that can't be recorded.
#[expect(clippy::print_stderr, reason = "a skip is told")]
pub fn lacks(test: &str, need: &str, why: &str) {
    eprintln!("skipped: {test} {need}: {why}");
    let Some(path) = std::env::var_os("CANASTA_TEST_SKIPS") else {
        return;
    };
    let recorded = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .and_then(|mut file| file.write_all(format!("{test} {need}\n").as_bytes()));
    recorded.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
