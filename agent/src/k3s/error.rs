//! What can go wrong on the node while k3s is looked at or changed, and how it reads in a step.

use std::path::PathBuf;

use canasta_durable::Error as DurableError;
use canasta_host::files::FileError;
use canasta_host::systemd::SystemdError;
use canasta_steps::StepError;

/// A verb of k3s failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file couldn't be read or written; the text names it.
    #[error(transparent)]
    File(#[from] FileError),
    /// systemd didn't do what was asked.
    #[error(transparent)]
    Systemd(#[from] SystemdError),
    /// The agent's record of k3s isn't one.
    #[error("failed to read the record of k3s in {}", path.display())]
    Record {
        /// The record.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// The record was written by a newer agent.
    #[error("failed to read the record of k3s in {}: its format is {found}, this agent knows {known}", path.display())]
    RecordTooNew {
        /// The record.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format that is known here.
        known: u32,
    },
    /// A file that an install would write is there, and someone else wrote it.
    #[error("failed to write {path}: it is there already and was not written by canasta-agent")]
    NotOurs {
        /// The file.
        path: String,
    },
    /// YAML that can't be read or written.
    #[error("failed to understand {path}")]
    Yaml {
        /// The file.
        path: String,
        /// What is wrong with it.
        #[source]
        source: serde_norway::Error,
    },
    /// No randomness from the kernel.
    #[error("failed to get random bytes for the agent token")]
    Random,
}

impl From<Error> for StepError {
    fn from(error: Error) -> Self {
        let report = |reason| Self::from_source(reason, &error);
        match &error {
            Error::File(file) => file_error(&error, file),
            Error::Systemd(_) => report("SYSTEMD_FAILED").hint("look at `systemctl status` on the node, then run the command again"),
            Error::Record { path, .. } => report("RECORD_UNREADABLE").subject(path.display().to_string()).hint(
                "the record says which files belong to the agent; restore it from a backup, or move it away and take k3s over with --adopt",
            ),
            Error::RecordTooNew { path, .. } => report("RECORD_TOO_NEW")
                .subject(path.display().to_string())
                .hint("install the newer canasta-agent again"),
            Error::NotOurs { path } => report("FILE_NOT_OURS").subject(path).hint(format!(
                "look at {path} and move it away; settings of your own for k3s belong into {}",
                super::paths::CONFIG_DROP_INS
            )),
            Error::Yaml { path, .. } => report("CONFIG_UNREADABLE").subject(path).hint("mend the file, then run the command again"),
            Error::Random => report("NO_RANDOMNESS").hint("look at the kernel's log on the node"),
        }
    }
}

fn file_error(error: &Error, file: &FileError) -> StepError {
    let report = |reason| StepError::from_source(reason, error);
    match file {
        FileError::Disk(disk) => {
            let path = disk.path().display().to_string();
            let step = match disk {
                DurableError::DiskFull { .. } => report("DISK_FULL")
                    .hint(format!("make room on the file system of {path}, then run the command again: it goes on from here")),
                DurableError::ReadOnly { .. } => report("READ_ONLY").hint(format!(
                    "the file system of {path} is mounted read-only; look for disk errors with `dmesg`, mount it read-write, then run the command again"
                )),
                _ => report("FILE_FAILED").hint(format!("look at {path} on the node, then run the command again")),
            };
            step.subject(path)
        }
        _ => report("FILE_FAILED").hint("run the command again: it goes on from here"),
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;

    use super::*;

    fn step(kind: io::ErrorKind) -> StepError {
        let disk = DurableError::new(
            "write",
            Path::new("/etc/rancher/k3s/config.yaml"),
            io::Error::from(kind),
        );
        Error::from(FileError::from(disk)).into()
    }

    #[test]
    fn a_full_and_a_read_only_disk_are_named_with_path_and_mend() {
        for (kind, reason, word) in [
            (io::ErrorKind::StorageFull, "DISK_FULL", "disk is full"),
            (io::ErrorKind::ReadOnlyFilesystem, "READ_ONLY", "read-only"),
            (
                io::ErrorKind::PermissionDenied,
                "FILE_FAILED",
                "failed to write",
            ),
        ] {
            let error = step(kind);
            assert_eq!(error.reason(), reason);
            let report = error.report();
            assert!(
                report.message.contains("/etc/rancher/k3s/config.yaml"),
                "{}",
                report.message
            );
            assert!(report.message.contains(word), "{}", report.message);
            assert_eq!(report.subject, "/etc/rancher/k3s/config.yaml");
            assert!(report.hint.contains("/etc/rancher/k3s/config.yaml"));
            assert_eq!(report.causes.len(), 1);
        }
    }
}
