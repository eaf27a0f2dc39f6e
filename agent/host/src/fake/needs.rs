//! What a test needs of the real machine under it and not every machine has: a right of root, a part of the kernel, a program.
//!
//! A test that can't be made is skipped aloud. Its name and need go to the file `$CANASTA_TEST_SKIPS`, which `./dev test` compares
//! with the lists in `tests/skips/`; so a test that is skipped unseen is a failed run. Tests that need root are in modules named
//! `as_root`: `./dev test` runs them once more as root (profile `machines` of nextest), where they can't be skipped for that.

use std::fs::OpenOptions;
use std::io::Write as _;

use nix::sched::{CloneFlags, unshare};

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

/// Does work in a network namespace of its own, on a thread of its own: programs that this thread starts and sockets that it
/// opens are in that namespace. Where this user may not make one, the test is skipped and there is no answer. `module` is its
/// `module_path!()`.
///
/// # Panics
/// As [`lacks_root`], and with the work.
pub fn in_own_network<T: Send + 'static, F: Future<Output = T>>(
    module: &str,
    test: &str,
    work: impl FnOnce() -> F + Send + 'static,
) -> Option<T> {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).ok()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        Some(runtime.block_on(work()))
    });
    let done = thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    if done.is_none() {
        let why = "this user may not make a network namespace";
        lacks_root(module, test, why);
    }
    done
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
