//! Reading `/proc`, and ending the process that was meant.

use std::os::unix::process::ExitStatusExt as _;

use super::*;

#[test]
fn a_name_may_hold_anything() {
    let stat = "42 (a) S (b) S 7 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 12345 1 2 3\n";
    let process = parse(42, stat).unwrap();
    assert_eq!(
        (process.name.as_str(), process.parent, process.started),
        ("a) S (b", 7, 12345)
    );
    assert!(!process.is_zombie);
    assert_eq!(parse(42, "42 (x) S"), None);
    assert_eq!(
        without_mark(Path::new("/d/bin/shim (deleted)")),
        Path::new("/d/bin/shim")
    );
}

#[tokio::test]
#[expect(clippy::disallowed_types, reason = "the test needs a process to end")]
async fn a_process_is_ended_once_and_its_number_alone_is_not_enough() {
    let mut child = std::process::Command::new("sleep")
        .arg("600")
        .spawn()
        .unwrap();
    let processes = Proc::new(Root::real());
    let listed = processes.list().await.unwrap();
    let found = listed.iter().find(|one| one.pid == child.id()).unwrap();
    assert_eq!(found.parent, std::process::id());
    assert!(!found.cgroups.is_empty());
    let own = fs::read_link("/proc/self/ns/mnt").unwrap();
    assert_eq!(found.mounts.as_ref(), Some(&own));
    let other = Process {
        started: found.started + 1,
        ..found.clone()
    };
    processes.kill(&other).await.unwrap();
    assert!(
        child.try_wait().unwrap().is_none(),
        "another start, another process"
    );
    processes.kill(found).await.unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    processes.kill(found).await.unwrap();
}
