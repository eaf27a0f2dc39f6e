//! Files that are whole or not there, and what the system refuses.

use super::*;
use std::error::Error as _;
use std::os::unix::fs::MetadataExt;

fn mode_of(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

fn names_in(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_written_file_has_content_and_mode_and_stands_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token");
    write(&path, b"first", 0o600).unwrap();
    assert_eq!(
        (fs::read(&path).unwrap().as_slice(), mode_of(&path)),
        (b"first".as_slice(), 0o600)
    );
    write(&path, b"second", 0o666).unwrap();
    assert_eq!(
        (fs::read(&path).unwrap().as_slice(), mode_of(&path)),
        (b"second".as_slice(), 0o666)
    );
    assert_eq!(names_in(directory.path()), ["token"]);
}

#[test]
fn a_write_replaces_a_link_and_not_what_it_points_to() {
    let directory = tempfile::tempdir().unwrap();
    let (elsewhere, link) = (
        directory.path().join("elsewhere"),
        directory.path().join("link"),
    );
    fs::write(&elsewhere, "kept").unwrap();
    std::os::unix::fs::symlink(&elsewhere, &link).unwrap();
    write(&link, b"new", 0o644).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_file());
    assert_eq!(fs::read(&elsewhere).unwrap(), b"kept");
}

#[test]
fn a_write_that_fails_leaves_the_old_state_and_no_temporary_file() {
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("a-directory");
    fs::create_dir(&target).unwrap();
    let error = write(&target, b"x", 0o600).unwrap_err();
    assert_eq!(error.path(), target);
    assert!(
        error.to_string().starts_with("failed to replace /"),
        "{error}"
    );
    assert_eq!(names_in(directory.path()), ["a-directory"]);

    let error = write(&directory.path().join("missing/file"), b"x", 0o600).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Io {
                action: "create",
                ..
            }
        ),
        "{error:?}"
    );
    assert!(write(Path::new("/"), b"x", 0o600).is_err());
}

#[test]
fn directories_are_created_with_their_mode_and_existing_ones_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    let (outer, inner) = (directory.path().join("a"), directory.path().join("a/b/c"));
    fs::create_dir(&outer).unwrap();
    fs::set_permissions(&outer, Permissions::from_mode(0o711)).unwrap();
    create_dir_all(&inner, 0o700).unwrap();
    create_dir_all(&inner, 0o755).unwrap();
    assert_eq!(
        [mode_of(&outer), mode_of(&outer.join("b")), mode_of(&inner)],
        [0o711, 0o700, 0o700]
    );

    write(&outer.join("file"), b"", 0o600).unwrap();
    assert!(create_dir_all(&outer.join("file/sub"), 0o700).is_err());
    assert!(create_dir_all(&outer.join("file"), 0o700).is_err());
}

#[test]
fn removing_and_reading_tell_whether_there_was_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    assert_eq!(read_optional(&path).unwrap(), None);
    assert!(!remove(&path).unwrap());
    write(&path, b"x", 0o600).unwrap();
    assert_eq!(
        read_optional(&path).unwrap().as_deref(),
        Some(b"x".as_slice())
    );
    assert!(remove(&path).unwrap());
    assert_eq!(names_in(directory.path()), [""; 0]);
    assert!(remove(directory.path()).is_err());
    assert!(read_optional(directory.path()).is_err());
}

#[test]
fn persist_moves_a_finished_file_into_place() {
    let directory = tempfile::tempdir().unwrap();
    let (part, target) = (
        directory.path().join(".k3s.part"),
        directory.path().join("k3s"),
    );
    fs::write(&part, "binary").unwrap();
    persist(&part, &target).unwrap();
    assert_eq!(names_in(directory.path()), ["k3s"]);
    assert!(persist(&part, &target).is_err());
}

#[test]
fn the_sweep_takes_leftovers_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    for name in [
        ".token.tmp-12-0",
        ".token.tmp-9-3",
        "token",
        ".hidden",
        "a.tmp-1",
        ".tmp-1",
    ] {
        fs::write(directory.path().join(name), "").unwrap();
    }
    fs::create_dir(directory.path().join(".dir.tmp-1")).unwrap();
    assert_eq!(sweep(directory.path()).unwrap(), 2);
    assert_eq!(
        names_in(directory.path()),
        [".dir.tmp-1", ".hidden", ".tmp-1", "a.tmp-1", "token"]
    );
    assert_eq!(sweep(&directory.path().join("missing")).unwrap(), 0);
}

#[test]
fn a_temporary_name_is_one_that_the_sweep_knows() {
    let name = temporary_name(Path::new("/etc/canasta/agent.toml")).unwrap();
    assert_eq!(name.parent(), Some(Path::new("/etc/canasta")));
    assert!(is_temporary(name.file_name().unwrap().to_str().unwrap()));
    assert_ne!(
        name,
        temporary_name(Path::new("/etc/canasta/agent.toml")).unwrap()
    );
}

#[test]
fn a_full_and_a_read_only_disk_are_told_apart_from_the_rest() {
    use nix::errno::Errno;
    let path = Path::new("/nowhere/at/all");
    let of = |errno: Errno| Error::new("write", path, io::Error::from(errno));
    assert!(matches!(
        of(Errno::ENOSPC),
        Error::DiskFull { free: Some(_), .. }
    ));
    assert!(matches!(of(Errno::EDQUOT), Error::DiskFull { .. }));
    assert!(matches!(of(Errno::EROFS), Error::ReadOnly { .. }));
    assert!(matches!(of(Errno::EACCES), Error::Io { .. }));
    assert_eq!(
        of(Errno::EROFS).to_string(),
        "failed to write /nowhere/at/all: the file system is read-only"
    );
    assert!(of(Errno::ENOSPC).to_string().contains("the disk is full ("));
    assert!(of(Errno::EIO).source().is_some());
    // A device that is always full, to see the whole way from the kernel to the variant.
    let full = OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .and_then(|mut file| file.write_all(b"x"));
    assert!(matches!(
        Error::new("write", Path::new("/dev/full"), full.unwrap_err()),
        Error::DiskFull { .. }
    ));
}
