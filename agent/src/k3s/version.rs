//! Which version a k3s binary says that it is.

use std::path::Path;
use std::time::Duration;

use canasta_host::command;

/// How long `k3s --version` may take; a cold disk and a small machine need seconds.
const LIMIT: Duration = Duration::from_secs(20);
/// How much of its output is kept.
const CAP: usize = 16 * 1024;
/// What the system calls a program for another architecture (`Exec format error`).
const EXEC_FORMAT: i32 = 8;

/// The version couldn't be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VersionError {
    /// The binary didn't run.
    #[error(transparent)]
    Command(#[from] command::Error),
    /// It ran and printed something else.
    #[error("failed to find a version in what {binary} --version printed: {printed:?}")]
    Unknown {
        /// The binary.
        binary: String,
        /// The first line of its output, cut.
        printed: String,
    },
}

impl VersionError {
    /// Whether the binary is for another architecture, or no program at all.
    pub fn is_wrong_architecture(&self) -> bool {
        match self {
            Self::Command(command::Error::NotStarted { source, .. }) => {
                source.raw_os_error() == Some(EXEC_FORMAT)
            }
            _ => false,
        }
    }
}

/// Runs `BINARY --version`.
pub async fn of(binary: &Path) -> Result<String, VersionError> {
    let program = binary.display().to_string();
    let output = command::run(&program, ["--version"], LIMIT, CAP).await?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse(&text)
        .map(str::to_owned)
        .ok_or_else(|| VersionError::Unknown {
            binary: program,
            printed: text
                .lines()
                .next()
                .unwrap_or_default()
                .chars()
                .take(200)
                .collect(),
        })
}

/// Reads `k3s version v1.21.3+k3s1 (1d1f220f)`.
fn parse(text: &str) -> Option<&str> {
    let mut words = text
        .lines()
        .next()?
        .strip_prefix("k3s version ")?
        .split_whitespace();
    words.next().filter(|word| word.starts_with('v'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recorded_line_is_read_and_others_are_not() {
        assert_eq!(
            parse("k3s version v1.21.3+k3s1 (1d1f220f)\ngo version go1.19.8\n"),
            Some("v1.21.3+k3s1")
        );
        for text in [
            "",
            "k3s version ",
            "k3s version HEAD (x)",
            "kubectl version v1",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[tokio::test]
    async fn a_file_that_is_no_program_for_this_machine_is_told_from_one_that_fails() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let binary = directory.path().join("k3s");
        std::fs::write(&binary, b"\x7fELF\x02\x01\x01\0not for any machine").unwrap();
        std::fs::set_permissions(&binary, std::fs::Permissions::from_mode(0o755)).unwrap();
        let error = of(&binary).await.unwrap_err();
        assert!(error.is_wrong_architecture(), "{error:?}");
        std::fs::write(&binary, b"#!/bin/sh\nexit 3\n").unwrap();
        assert!(!of(&binary).await.unwrap_err().is_wrong_architecture());
    }
}
