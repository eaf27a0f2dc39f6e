//! Which directories may be shared: by their path beside other exports, and by what lies there.

use canasta_host::outside::Place;
use canasta_host::outside::place::What;
use canasta_proto::directories::is_within;
use canasta_proto::share::SharePath;
use canasta_steps::StepError;

use super::export::Foreign;
use super::foreign::in_the_way;

/// What may happen beside other exports.
///
/// # Errors
/// `EXPORT_FOREIGN` and `EXPORT_NESTED`.
pub(super) fn beside(
    share: &SharePath,
    ours: &[String],
    foreign: &[Foreign],
) -> Result<(), StepError> {
    if let Some(other) = in_the_way(share.as_str(), foreign) {
        return Err(StepError::new(
            "EXPORT_FOREIGN",
            format!("{} is exported by someone else already, by {}", other.path, other.source),
        )
        .subject(share.as_str())
        .hint(format!(
            "take another directory; or take that share as it is, with --server; or remove it from {}, if nobody needs it there",
            other.source
        )));
    }
    let nested = ours.iter().find(|other| {
        other.as_str() != share.as_str() && (share.holds(other) || is_within(share.as_str(), other))
    });
    match nested {
        None => Ok(()),
        Some(other) => Err(StepError::new(
            "EXPORT_NESTED",
            format!("{share} and {other}, which is exported already, lie in one another"),
        )
        .subject(share.as_str())
        .hint("take a directory beside it: an export in another one is not what clients of the outer one see")),
    }
}

/// What may be shared of what is there.
///
/// # Errors
/// `SHARE_NOT_A_DIRECTORY`, `SHARE_IS_A_LINK`, `SHARE_EXPOSED`, `SHARE_FILE_SYSTEM` and `SHARE_READ_ONLY`.
pub(super) fn place(share: &SharePath, place: &Place) -> Result<(), StepError> {
    let refused = |reason, message: String, hint: &str| {
        Err(StepError::new(reason, message)
            .subject(share.as_str())
            .hint(hint))
    };
    if place.what == What::NoDirectory {
        return refused(
            "SHARE_NOT_A_DIRECTORY",
            format!("{share} is no directory"),
            "take another path, or move away what is there",
        );
    }
    if let Some(real) = &place.leads_to {
        return refused(
            "SHARE_IS_A_LINK",
            format!("{share} leads by a link to {}", real.display()),
            "name the place that it leads to: the server would export that, and clients would look for the other",
        );
    }
    if let Some(directory) = &place.exposed_at {
        return refused(
            "SHARE_EXPOSED",
            format!(
                "{share} lies in {}, in which others than root can put something else in its place",
                directory.display()
            ),
            "take a directory whose parents belong to root and are writable for root alone, like /srv/nfs/canasta; the share itself may belong to anybody",
        );
    }
    let point = place.mount_point.display();
    if let Some(why) = not_exportable(&place.fs_type) {
        return refused(
            "SHARE_FILE_SYSTEM",
            format!(
                "{share} lies on {} (mounted at {point}), which can't be exported: {why}",
                place.fs_type
            ),
            "take a directory on a disk of this node: ext4, xfs and btrfs can be exported",
        );
    }
    if place.is_read_only {
        return refused(
            "SHARE_READ_ONLY",
            format!("{share} lies on a file system that is mounted read-only at {point}"),
            "mount it read-write, or take another directory",
        );
    }
    Ok(())
}

/// Why a file system can't be exported; `None` for one that can, and for those that nobody has heard of.
fn not_exportable(fs_type: &str) -> Option<&'static str> {
    Some(match fs_type {
        "tmpfs" | "ramfs" | "devtmpfs" | "hugetlbfs" => {
            "its files are gone after a reboot, and with them what clients hold on to"
        }
        "overlay" | "aufs" | "ecryptfs" => "it gives no handles by which a file is found again",
        "nfs" | "nfs4" | "cifs" | "smb3" | "ceph" | "9p" | "afs" | "glusterfs" | "lustre" => {
            "its files lie on another machine"
        }
        "vfat" | "msdos" | "exfat" | "ntfs" | "ntfs3" => "it knows no owners of files",
        "squashfs" | "iso9660" | "udf" | "erofs" => "it can't be written to",
        "proc" | "sysfs" | "cgroup" | "cgroup2" | "devpts" | "autofs" | "debugfs" | "tracefs" => {
            "it is the kernel's own"
        }
        fuse if fuse == "fuse" || fuse.starts_with("fuse.") || fuse == "fuseblk" => {
            "it is a program's (FUSE) and gives no handles that last"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::storage::server::Backend;

    fn share() -> SharePath {
        "/srv/nfs/canasta".parse().expect("a share")
    }

    fn on(fs_type: &str) -> Place {
        Place {
            what: What::Nothing,
            leads_to: None,
            fs_type: fs_type.to_owned(),
            mount_point: PathBuf::from("/srv"),
            is_read_only: false,
            exposed_at: None,
            made: Vec::new(),
        }
    }

    #[test]
    fn a_file_system_that_can_not_be_exported_is_named() {
        for fs_type in [
            "tmpfs",
            "overlay",
            "nfs4",
            "nfs",
            "fuse.sshfs",
            "fuse",
            "vfat",
        ] {
            let error = place(&share(), &on(fs_type)).expect_err(fs_type);
            assert_eq!(error.reason(), "SHARE_FILE_SYSTEM");
            assert!(error.report().message.contains(fs_type), "{fs_type}");
        }
        for fs_type in ["ext4", "xfs", "btrfs", "zfs", ""] {
            assert!(place(&share(), &on(fs_type)).is_ok(), "{fs_type}");
        }
    }

    #[test]
    fn what_is_no_plain_directory_to_write_to_is_refused() {
        let file = Place {
            what: What::NoDirectory,
            ..on("ext4")
        };
        let link = Place {
            leads_to: Some("/data/x".into()),
            ..on("ext4")
        };
        let exposed = Place {
            exposed_at: Some("/srv/nfs".into()),
            ..on("ext4")
        };
        let read_only = Place {
            is_read_only: true,
            ..on("ext4")
        };
        for (found, reason) in [
            (file, "SHARE_NOT_A_DIRECTORY"),
            (link, "SHARE_IS_A_LINK"),
            (exposed, "SHARE_EXPOSED"),
            (read_only, "SHARE_READ_ONLY"),
        ] {
            assert_eq!(place(&share(), &found).expect_err(reason).reason(), reason);
        }
        let full = Place {
            what: What::Full,
            ..on("ext4")
        };
        assert!(place(&share(), &full).is_ok());
    }

    #[test]
    fn other_exports_are_kept_clear_of() {
        let foreign = [Foreign {
            path: "/srv".to_owned(),
            source: "/etc/exports".to_owned(),
            running: false,
            backend: Backend::Kernel,
        }];
        let error = beside(&share(), &[], &foreign).expect_err("foreign");
        assert_eq!(error.reason(), "EXPORT_FOREIGN");
        assert!(error.report().message.contains("/etc/exports"));
        for (ours, fits) in [
            ("/srv/nfs/canasta", true),
            ("/srv/nfs/other", true),
            ("/srv/nfs", false),
            ("/srv/nfs/canasta/a", false),
        ] {
            let answer = beside(&share(), &[ours.to_owned()], &[]);
            assert_eq!(answer.is_ok(), fits, "{ours}");
        }
    }
}
