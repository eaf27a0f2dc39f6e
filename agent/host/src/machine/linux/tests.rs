//! Facts read from recorded files of a kernel.

use super::super::cgroup::Version;
use super::*;

fn machine() -> (tempfile::TempDir, Root, LinuxMachine) {
    let directory = tempfile::tempdir().unwrap();
    let root = Root::at(directory.path());
    let machine = LinuxMachine::new(root.clone(), Bus::new());
    (directory, root, machine)
}

#[tokio::test]
async fn facts_are_read_below_the_root() {
    let (_directory, root, machine) = machine();
    for (path, content) in [
        ("/usr/lib/os-release", "ID=debian\nVERSION_ID=\"12\"\n"),
        ("/etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
        ("/proc/sys/kernel/hostname", "CP1\n"),
        ("/proc/sys/kernel/random/boot_id", "b-1\n"),
        ("/sys/fs/cgroup/cgroup.controllers", "cpu memory\n"),
    ] {
        root.write(path, content, 0o644).await.unwrap();
    }
    root.create_dir_all("/run/systemd/system", 0o755)
        .await
        .unwrap();
    let facts = machine.facts().await.unwrap();
    assert_eq!(
        (facts.os.id.as_str(), facts.os.version_id.as_str()),
        ("debian", "12")
    );
    assert_eq!(
        facts.machine_id.as_deref(),
        Some("0123456789abcdef0123456789abcdef")
    );
    assert_eq!(
        (facts.hostname.as_str(), facts.boot_id.as_deref()),
        ("CP1", Some("b-1"))
    );
    assert_eq!(
        facts.cgroup,
        Cgroup {
            version: Version::V2,
            memory: Some(true)
        }
    );
    let of_init = "/proc/1/root/proc/sys/kernel/random/boot_id";
    root.write(of_init, "b-of-init\n", 0o644).await.unwrap();
    let boot_id = machine.facts().await.unwrap().boot_id;
    assert_eq!(boot_id.as_deref(), Some("b-of-init"));
    assert!(facts.init_is_systemd);
    assert!(facts.memory_total > 0 && facts.cpus > 0 && !facts.kernel.is_empty());
}

#[tokio::test]
async fn a_bare_root_gives_unknowns_and_no_errors() {
    let (_directory, _root, machine) = machine();
    let facts = machine.facts().await.unwrap();
    assert!(!facts.init_is_systemd);
    assert_eq!(
        (facts.machine_id, facts.cgroup.version),
        (None, Version::Unknown)
    );
    assert_eq!(machine.listeners().await.unwrap(), []);
    assert!(
        machine
            .kernel_features()
            .await
            .values()
            .all(Option::is_none)
    );
    assert!(machine.vitals().await.unwrap().memory_available > 0);
}

#[tokio::test]
async fn free_space_is_asked_at_the_nearest_directory_that_exists() {
    let (_directory, root, machine) = machine();
    root.create_dir_all("/data/rancher", 0o755).await.unwrap();
    root.symlink_if_free("/var/lib/rancher", root.path("/data/rancher"))
        .await
        .unwrap();
    let table = "27 1 254:1 / / rw - ext4 /dev/vda1 rw\n28 27 254:2 / /data rw - xfs /dev/vdb rw\n";
    root.write("/proc/1/mountinfo", table, 0o644).await.unwrap();
    let space = machine
        .disk_space(Path::new("/var/lib/rancher/k3s/server"))
        .await
        .unwrap();
    assert_eq!(space.asked, Path::new("/var/lib/rancher"));
    assert_eq!(space.mount_point.as_deref(), Some(Path::new("/data")));
    assert!(space.total > 0 && space.free <= space.total);
}

#[tokio::test]
async fn a_packed_kernel_configuration_is_read() {
    let (directory, root, machine) = machine();
    root.write("/proc/config", "CONFIG_VXLAN=y\n", 0o644)
        .await
        .unwrap();
    let plain = directory.path().join("proc/config");
    command::run("gzip", [plain], CONFIG_LIMIT, 100)
        .await
        .unwrap();
    let features = machine.kernel_features().await;
    assert_eq!(
        (features["vxlan"], features["nfs"]),
        (Some(true), Some(false))
    );
}
