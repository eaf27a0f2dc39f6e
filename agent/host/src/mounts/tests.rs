//! Mounts read from a recorded table.

use super::*;

const TABLE: &[u8] = br"22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:1 / / rw,relatime shared:1 master:2 - ext4 /dev/vda1 rw,errors=remount-ro
30 27 254:2 /pods /var/lib/kubelet/pods rw,relatime - ext4 /dev/vdb ro
31 30 0:50 / /var/lib/kubelet/pods/a\040b/vol rw - nfs4 10.0.0.9:/srv/canasta\134x rw,vers=4.2
32 30 0:51 / /var/lib/kubelet/pods/a\040b/vol ro - tmpfs  rw
broken line
33 27 0:52 / /no-dash rw ext4 /dev/x rw
";

#[test]
fn a_table_is_read_with_optional_fields_and_escapes() {
    let mounts = parse(TABLE);
    assert_eq!(
        mounts.iter().map(|mount| mount.id).collect::<Vec<_>>(),
        [22, 27, 30, 31, 32]
    );
    assert_eq!(mounts[1].super_options, "rw,errors=remount-ro");
    assert_eq!(mounts[2].root, Path::new("/pods"));
    assert_eq!(mounts[3].point, Path::new("/var/lib/kubelet/pods/a b/vol"));
    assert_eq!(mounts[3].source, r"10.0.0.9:/srv/canasta\x");
    assert_eq!(
        (mounts[4].source.as_str(), mounts[4].super_options.as_str()),
        ("", "rw")
    );
    assert_eq!(unescape(br"a\04"), br"a\04");
    assert_eq!(unescape(br"\999x\"), br"\999x\");
}

#[test]
fn mounts_tell_whether_they_can_be_written_and_can_hang() {
    let mounts = parse(TABLE);
    assert_eq!(
        mounts.iter().map(Mount::is_read_only).collect::<Vec<_>>(),
        [false, false, true, false, true]
    );
    assert_eq!(
        mounts.iter().map(Mount::is_network).collect::<Vec<_>>(),
        [false, false, false, true, false]
    );
}

#[test]
fn a_path_is_held_by_the_deepest_and_topmost_mount() {
    let mounts = parse(TABLE);
    let id = |path: &str| holding(&mounts, Path::new(path)).map(|mount| mount.id);
    assert_eq!(id("/var/lib/rancher"), Some(27));
    assert_eq!(id("/var/lib/kubelet/pods/c"), Some(30));
    assert_eq!(id("/var/lib/kubelet/pods-2"), Some(27));
    assert_eq!(id("/var/lib/kubelet/pods/a b/vol/file"), Some(32));
    assert_eq!(holding(&[], Path::new("/")), None);
}

#[test]
fn mounts_below_a_directory_come_in_the_order_of_unmounting() {
    let mounts = parse(TABLE);
    let below = |path: &str| {
        at_or_below(&mounts, Path::new(path))
            .iter()
            .map(|mount| mount.id)
            .collect::<Vec<_>>()
    };
    assert_eq!(below("/var/lib/kubelet"), [32, 31, 30]);
    assert_eq!(below("/var/lib/kub"), [0; 0]);
}

#[tokio::test]
async fn the_table_of_pid_1_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let root = Root::at(directory.path());
    let missing = read(&root).await.unwrap_err();
    assert!(missing.to_string().contains("mountinfo"), "{missing}");
    root.write("/proc/1/mountinfo", TABLE, 0o644).await.unwrap();
    assert_eq!(read(&root).await.unwrap().len(), 5);
}
