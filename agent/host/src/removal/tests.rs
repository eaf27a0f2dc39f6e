//! Real trees in temporary directories; real mounts in a mount namespace of the test's own where it may make one.

use std::os::unix::fs::symlink;

use super::*;

const TABLE: &str = "27 1 254:1 / / rw - ext4 /dev/vda1 rw\n";

fn machine(table: &str) -> (tempfile::TempDir, Root) {
    let directory = tempfile::tempdir().unwrap();
    let root = Root::at(directory.path());
    std::fs::create_dir_all(root.path("/proc/1")).unwrap();
    std::fs::write(root.path("/proc/1/mountinfo"), table).unwrap();
    (directory, root)
}

fn file(root: &Root, path: &str) {
    let full = root.path(path);
    std::fs::create_dir_all(full.parent().unwrap()).unwrap();
    std::fs::write(full, "x").unwrap();
}

fn run(root: &Root, orders: &[Order]) -> Report {
    perform(
        root,
        orders,
        &|_| unreachable!("nothing is mounted"),
        |_| {},
    )
}

fn remove(root: &Root, path: &str) -> Report {
    run(root, &[Order::Remove(path.into())])
}

#[test]
fn a_tree_goes_with_all_that_is_in_it_and_links_are_not_followed() {
    let (_directory, root) = machine(TABLE);
    file(&root, "/srv/data/precious");
    file(&root, "/var/lib/k/a/b/c");
    file(&root, "/var/lib/k/.hidden");
    file(&root, "/var/lib/kept");
    symlink(root.path("/srv/data"), root.path("/var/lib/k/link")).unwrap();
    symlink(
        root.path("/srv/data/precious"),
        root.path("/var/lib/k/a/file"),
    )
    .unwrap();
    let report = remove(&root, "/var/lib/k");
    assert_eq!((report.removed, report.left), (7, Vec::new()));
    assert!(!root.path("/var/lib/k").exists());
    assert!(root.path("/var/lib/kept").exists() && root.path("/srv/data/precious").exists());
    assert_eq!(remove(&root, "/var/lib/k"), Report::default(), "again");
    assert_eq!(remove(&root, "/no/such/tree"), Report::default());
    // A link in the tree's own place goes, and what it leads to stays.
    symlink(root.path("/srv/data"), root.path("/var/lib/k")).unwrap();
    assert_eq!(remove(&root, "/var/lib/k").removed, 1);
    assert!(root.path("/srv/data/precious").exists());
}

#[test]
fn a_tree_with_a_mount_in_it_is_left_whole() {
    let table = format!("{TABLE}40 27 0:50 /x /var/lib/k/a rw - nfs4 srv:/x rw\n");
    let (_directory, root) = machine(&table);
    file(&root, "/var/lib/k/a/precious");
    file(&root, "/var/lib/k/other");
    let report = remove(&root, "/var/lib/k");
    assert_eq!(report.removed, 0);
    assert_eq!(report.left[0].path, Path::new("/var/lib/k/a"));
    assert!(report.left[0].why.contains("srv:/x"));
    assert!(root.path("/var/lib/k/other").exists());
}

#[test]
fn the_system_itself_is_no_tree_to_remove() {
    let (_directory, root) = machine(TABLE);
    for path in ["/", "/var", "var/lib/k", "/var/lib/../../etc", "/../etc"] {
        let report = remove(&root, path);
        assert_eq!((report.removed, report.left.len()), (0, 1), "{path}");
    }
    std::fs::remove_file(root.path("/proc/1/mountinfo")).unwrap();
    file(&root, "/var/lib/k");
    assert_eq!(remove(&root, "/var/lib/k").left.len(), 1, "mounts unknown");
    assert!(root.path("/var/lib/k").exists());
}

#[test]
fn only_empty_directories_are_removed_as_empty() {
    let (_directory, root) = machine(TABLE);
    file(&root, "/etc/rancher/k3s/own.yaml");
    std::fs::create_dir_all(root.path("/etc/rancher/node")).unwrap();
    let orders = ["/etc/rancher/k3s", "/etc/rancher/node", "/etc/rancher"]
        .map(|path| Order::RemoveEmpty(path.into()));
    assert_eq!(run(&root, &orders).removed, 1);
    assert!(root.path("/etc/rancher/k3s/own.yaml").exists());
}

#[test]
fn what_lies_where_nothing_should_ends_the_work_before_anything_goes() {
    let (_directory, root) = machine(TABLE);
    file(&root, "/home/rancher/storage/pvc-1/precious");
    file(&root, "/var/lib/k/a");
    symlink("../../home/rancher", root.path("/var/lib/rancher")).unwrap();
    let place = "/var/lib/rancher/storage";
    let orders = |names: &[&str]| {
        let names = names.iter().map(|&name| name.to_owned()).collect();
        let directory = place.into();
        [
            Order::HoldsOnly {
                directory,
                names,
                beginning: String::new(),
            },
            Order::Remove("/var/lib/k".into()),
        ]
    };
    for names in [&[][..], &["other"]] {
        let report = run(&root, &orders(names));
        let unexpected = [Path::new(place).join("pvc-1")];
        assert_eq!((report.removed, report.unexpected), (0, unexpected.into()));
        assert!(root.path("/var/lib/k/a").exists());
    }
    // A directory that can't be read may hold anything; this one is a link to itself.
    symlink("loop", root.path("/home/loop")).unwrap();
    let unreadable = Order::HoldsOnly {
        directory: "/home/loop/x".into(),
        names: Vec::new(),
        beginning: String::new(),
    };
    let report = run(&root, &[unreadable, Order::Remove("/var/lib/k".into())]);
    assert_eq!((report.removed, report.left.len()), (0, 1), "{report:?}");
    for (beginning, held) in [("pvc-", true), ("other", false)] {
        let named = Order::HoldsOnly {
            directory: place.into(),
            names: Vec::new(),
            beginning: beginning.to_owned(),
        };
        assert_eq!(!run(&root, &[named]).unexpected.is_empty(), held);
    }
    assert_eq!(run(&root, &orders(&["pvc-1"])).removed, 2);
    assert_eq!(run(&root, &orders(&[])[..1]).left, []);
}

#[test]
fn a_mount_below_a_link_is_seen_by_the_place_that_the_link_leads_to() {
    let table = format!("{TABLE}40 27 0:50 / /data/lib/k/a rw - ext4 /dev/vdc rw\n");
    let (_directory, root) = machine(&table);
    file(&root, "/data/lib/k/a/precious");
    file(&root, "/data/lib/k/other");
    std::fs::create_dir_all(root.path("/var")).unwrap();
    symlink("../data/lib", root.path("/var/lib")).unwrap();
    let report = remove(&root, "/var/lib/k");
    assert_eq!(report.removed, 0, "the tree is left whole");
    assert_eq!(report.left[0].path, Path::new("/data/lib/k/a"));
}

#[test]
fn an_unmount_or_a_look_that_was_killed_hints_at_a_dead_server_and_a_removal_does_not() {
    let limit = Duration::from_secs(1);
    let look = Order::HoldsOnly {
        directory: "/run/k".into(),
        names: Vec::new(),
        beginning: String::new(),
    };
    for (order, waited) in [
        (look, true),
        (Order::Unmount("/run/k/a".into()), true),
        (Order::Remove("/run/k".into()), false),
    ] {
        let doing = order.in_words();
        let error = RemovalError::TimedOut { limit, doing };
        assert_eq!(error.waited_for_a_server(), waited, "{error}");
    }
}

#[test]
fn mounts_are_unmounted_once_each_and_what_fails_is_told() {
    let table = format!(
        "{TABLE}40 27 0:50 / /run/k/a rw - tmpfs t rw\n41 27 0:51 / /run/k/b rw - tmpfs t rw\n"
    );
    let (_directory, root) = machine(&table);
    let orders = ["/run/k/a", "/run/k/b", "/run/k/gone"].map(|path| Order::Unmount(path.into()));
    let unmount = |mount: &Mount| {
        if mount.point.ends_with("b") {
            return Err(io::Error::from(io::ErrorKind::ResourceBusy));
        }
        Ok(())
    };
    let mut told = Vec::new();
    let report = perform(&root, &orders, &unmount, |what| told.push(what.to_owned()));
    assert_eq!(report.unmounted, 1);
    assert_eq!(report.left[0].path, Path::new("/run/k/b"));
    assert_eq!(told[2], "unmounting /run/k/gone");
}

/// What only root may do, or who may be root in a namespace.
mod as_root {
    use super::*;
    use crate::fake::needs;

    /// The walk itself notices a bind mount that no table told of, in a mount namespace that ends with its thread.
    #[test]
    fn a_real_bind_mount_is_not_entered() {
        use nix::mount::{MsFlags, mount};
        use nix::sched::{CloneFlags, unshare};
        let (_directory, root) = machine(TABLE);
        file(&root, "/srv/data/precious");
        file(&root, "/var/lib/k/a/mounted/below");
        file(&root, "/var/lib/k/a/file");
        let inner = root.clone();
        // A thread of its own: the others of this process keep their namespace.
        let report = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS).ok()?;
            let none = None::<&Path>;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).ok()?;
            let (from, to) = (inner.path("/srv/data"), inner.path("/var/lib/k/a/mounted"));
            mount(Some(&from), &to, none, MsFlags::MS_BIND, none).ok()?;
            let first = remove(&inner, "/var/lib/k");
            let line = format!("40 27 0:50 / {} rw - ext4 /dev/vda1 rw", to.display());
            unmount(&mounts::parse(line.as_bytes())[0]).unwrap();
            Some((first, remove(&inner, "/var/lib/k")))
        })
        .join()
        .unwrap();
        let Some((first, second)) = report else {
            let test = "a_real_bind_mount_is_not_entered";
            needs::lacks_root(module_path!(), test, "this user may not mount");
            return;
        };
        assert_eq!(first.left.len(), 1, "{first:?}");
        assert_eq!(first.left[0].path, Path::new("/var/lib/k/a/mounted"));
        assert!(root.path("/srv/data/precious").exists());
        assert_eq!(second.left, []);
        assert!(!root.path("/var/lib/k").exists());
    }
}
