//! The program as systemd runs it in a unit of its own, to remove what the service asks for.

use std::path::Path;

use canasta_host::removal::{Order, unit::COMMAND};

#[expect(clippy::disallowed_types, reason = "the test is about the program")]
fn run(directory: &Path) -> bool {
    std::process::Command::new(env!("CARGO_BIN_EXE_canasta-agent"))
        .arg(COMMAND)
        .arg(directory)
        .stderr(std::process::Stdio::null())
        .status()
        .expect("it runs")
        .success()
}

#[test]
fn it_does_what_the_request_says_and_leaves_its_answer() {
    let place = tempfile::tempdir().expect("a directory");
    let tree = place.path().join("tree");
    std::fs::create_dir_all(tree.join("a/b")).expect("a tree");
    std::fs::write(tree.join("a/b/c"), "x").expect("a file");
    assert!(!run(place.path()), "there is no request");
    let orders = [
        Order::Unmount(tree.join("not-mounted")),
        Order::Remove(tree.join("a")),
        Order::RemoveEmpty(tree.clone()),
        Order::Remove("/etc".into()),
    ];
    let request = serde_json::to_vec(&orders).expect("paths");
    std::fs::write(place.path().join("request.json"), request).expect("a request");
    assert!(run(place.path()));
    assert!(!tree.exists() && Path::new("/etc/passwd").exists());
    let answer = std::fs::read_to_string(place.path().join("answer.jsonl")).expect("an answer");
    let last = answer.lines().last().expect("a report");
    let expected = r#"{"report":{"unmounted":0,"removed":4,"left":[{"path":"/etc","why":"a directory of the system itself"}]}}"#;
    assert_eq!(last, expected);
}
