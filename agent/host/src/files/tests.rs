//! Files below a root: what is written, left alone and refused.

use super::staging::Expected;
use super::*;

fn root() -> (tempfile::TempDir, Root) {
    let directory = tempfile::tempdir().unwrap();
    let root = Root::at(directory.path());
    (directory, root)
}

#[test]
fn paths_stay_below_the_root() {
    let root = Root::at("/srv/node");
    assert_eq!(root.path("/etc/x"), Path::new("/srv/node/etc/x"));
    assert_eq!(root.path("etc/../../x/./y"), Path::new("/srv/node/etc/x/y"));
    assert_eq!(root.path("/"), Path::new("/srv/node"));
    assert_eq!(Root::real().path("/etc/x"), Path::new("/etc/x"));
}

#[tokio::test]
async fn writing_tells_whether_content_or_mode_changed() {
    let (_directory, root) = root();
    assert_eq!(
        root.write("/etc/a/b", "one", 0o600).await.unwrap(),
        Change::Changed
    );
    assert_eq!(
        root.write("/etc/a/b", "one", 0o600).await.unwrap(),
        Change::Unchanged
    );
    assert_eq!(
        root.write("/etc/a/b", "one", 0o644).await.unwrap(),
        Change::Changed
    );
    assert_eq!(root.mode("/etc/a/b").await.unwrap(), Some(0o644));
    assert_eq!(
        root.write("/etc/a/b", "two", 0o644).await.unwrap(),
        Change::Changed
    );
    assert_eq!(
        root.read_text("/etc/a/b").await.unwrap().as_deref(),
        Some("two")
    );
    assert_eq!(root.read_text("/etc/a/c").await.unwrap(), None);
    assert_eq!(root.mode("/etc/a/c").await.unwrap(), None);
    assert_eq!(root.list("/etc/a").await.unwrap(), ["b"]);
}

#[tokio::test]
async fn a_link_is_made_only_where_the_name_is_free() {
    let (_directory, root) = root();
    let link = "/usr/local/bin/kubectl";
    assert_eq!(
        root.symlink_if_free(link, "k3s").await.unwrap(),
        LinkOutcome::Created
    );
    assert_eq!(
        root.symlink_if_free(link, "k3s").await.unwrap(),
        LinkOutcome::AlreadyThere
    );
    let other = LinkOutcome::Taken {
        points_to: Some("k3s".into()),
    };
    assert_eq!(
        root.symlink_if_free(link, "/opt/other").await.unwrap(),
        other
    );
    assert!(root.is_symlink_to(link, "k3s").await.unwrap());
    assert!(
        !root
            .is_symlink_to(link, "/usr/local/bin/k3s")
            .await
            .unwrap()
    );
    // The link's target doesn't exist; the name is taken all the same.
    assert!(root.exists(link).await.unwrap());
    root.write("/usr/bin/ctr", "", 0o755).await.unwrap();
    assert_eq!(
        root.symlink_if_free("/usr/bin/ctr", "k3s").await.unwrap(),
        LinkOutcome::Taken { points_to: None }
    );
}

#[tokio::test]
async fn removing_is_safe_to_repeat() {
    let (_directory, root) = root();
    root.write("/var/x/file", "", 0o600).await.unwrap();
    assert_eq!(
        root.remove_dir_if_empty("/var/x").await.unwrap(),
        Change::Unchanged
    );
    assert_eq!(
        root.remove_file("/var/x/file").await.unwrap(),
        Change::Changed
    );
    assert_eq!(
        root.remove_file("/var/x/file").await.unwrap(),
        Change::Unchanged
    );
    assert_eq!(
        root.remove_dir_if_empty("/var/x").await.unwrap(),
        Change::Changed
    );
    assert_eq!(
        root.remove_dir_if_empty("/var/x").await.unwrap(),
        Change::Unchanged
    );
    assert!(!root.exists("/var/x").await.unwrap());
    assert_eq!(root.list("/var/x").await.unwrap(), [""; 0]);
    assert_eq!(
        root.create_dir_all("/var/x/y", 0o700).await.unwrap(),
        Change::Changed
    );
    assert_eq!(
        root.create_dir_all("/var/x/y", 0o755).await.unwrap(),
        Change::Unchanged
    );
    assert_eq!(root.mode("/var/x/y").await.unwrap(), Some(0o700));
}

/// SHA-256 of `hello world`.
const HELLO: &str = "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9";

fn hello() -> Expected {
    Expected {
        sha256: HELLO.to_owned(),
        size: 11,
    }
}

#[tokio::test]
async fn a_file_is_hashed() {
    let (_directory, root) = root();
    root.write("/x", "hello world", 0o600).await.unwrap();
    assert_eq!(root.sha256("/x").await.unwrap().as_deref(), Some(HELLO));
    assert_eq!(root.sha256("/y").await.unwrap(), None);
    assert!(root.sha256("/").await.is_err());
}

#[tokio::test]
async fn a_file_arrives_in_chunks_across_a_break() {
    let (_directory, root) = root();
    let mut staging = root
        .open_staging("/usr/local/bin/k3s", hello())
        .await
        .unwrap();
    assert_eq!(staging.append(0, b"hello").unwrap(), 5);
    staging.sync().unwrap();
    drop(staging);

    let mut staging = root
        .open_staging("/usr/local/bin/k3s", hello())
        .await
        .unwrap();
    assert_eq!(staging.offset(), 5);
    assert!(!staging.is_complete());
    let error = staging.append(0, b"hello").unwrap_err();
    assert!(
        matches!(
            error,
            FileError::WrongOffset {
                expected: 5,
                offered: 0,
                ..
            }
        ),
        "{error:?}"
    );
    let error = staging.append(5, b" worlds").unwrap_err();
    assert!(
        matches!(error, FileError::TooLarge { limit: 11, .. }),
        "{error:?}"
    );
    assert_eq!(staging.append(5, b" world").unwrap(), 11);
    assert!(staging.is_complete());
    staging.finish(0o755).unwrap();
    assert_eq!(root.list("/usr/local/bin").await.unwrap(), ["k3s"]);
    assert_eq!(root.mode("/usr/local/bin/k3s").await.unwrap(), Some(0o755));
    assert_eq!(
        root.sha256("/usr/local/bin/k3s").await.unwrap().as_deref(),
        Some(HELLO)
    );
}

#[tokio::test]
async fn a_wrong_file_is_deleted_and_an_incomplete_one_is_kept() {
    let (_directory, root) = root();
    root.write("/bin/k3s", "old", 0o755).await.unwrap();
    let mut staging = root.open_staging("/bin/k3s", hello()).await.unwrap();
    staging.append(0, b"hello_").unwrap();
    let error = staging.finish(0o755).unwrap_err();
    assert!(
        matches!(
            error,
            FileError::Incomplete {
                length: 6,
                expected: 11,
                ..
            }
        ),
        "{error:?}"
    );

    let mut staging = root.open_staging("/bin/k3s", hello()).await.unwrap();
    staging.append(6, b"world").unwrap();
    let error = staging.finish(0o755).unwrap_err();
    assert!(
        matches!(&error, FileError::Checksum { expected, .. } if expected == HELLO),
        "{error:?}"
    );
    assert_eq!(root.list("/bin").await.unwrap(), ["k3s"]);
    assert_eq!(
        root.read_text("/bin/k3s").await.unwrap().as_deref(),
        Some("old")
    );
}

#[tokio::test]
async fn staged_files_of_other_contents_are_swept() {
    let (_directory, root) = root();
    let other = Expected {
        sha256: "0".repeat(64),
        size: 3,
    };
    let mut staging = root.open_staging("/bin/k3s", other.clone()).await.unwrap();
    staging.append(0, b"abc").unwrap();
    drop(staging);
    // Shorter than what is there: it can't be the same file.
    let staging = root
        .open_staging("/bin/k3s", Expected { size: 2, ..other })
        .await
        .unwrap();
    assert_eq!(staging.offset(), 0);
    drop(staging);
    let staging = root.open_staging("/bin/k3s", hello()).await.unwrap();
    assert_eq!(
        root.list("/bin").await.unwrap(),
        [".k3s.part-b94d27b9934d3e08"]
    );
    assert_eq!(staging.discard().unwrap(), Change::Changed);
    assert_eq!(root.sweep_staging("/bin/k3s").await.unwrap(), 0);
    root.open_staging("/bin/k3s", hello()).await.unwrap();
    assert_eq!(root.sweep_staging("/bin/k3s").await.unwrap(), 1);
    assert_eq!(root.sweep_staging("/none/k3s").await.unwrap(), 0);
}
