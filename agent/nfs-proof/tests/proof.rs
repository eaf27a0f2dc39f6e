//! The program, as the agent's unit calls it. What it proves of a real server is tested on machines.

const SHARE: &str = "/srv/nfs/canasta";

/// Has the program make a proof.
#[expect(clippy::disallowed_types, reason = "the test is about the program")]
fn proof(request: &str) -> String {
    let place = tempfile::tempdir().expect("a directory");
    std::fs::write(place.path().join("request.json"), request).expect("a request");
    let status = std::process::Command::new(env!("CARGO_BIN_EXE_canasta-nfs-proof"))
        .arg(place.path())
        .stderr(std::process::Stdio::null())
        .status()
        .expect("it runs");
    assert!(status.success());
    std::fs::read_to_string(place.path().join("answer.json")).expect("an answer")
}

#[test]
fn the_program_makes_a_real_proof_and_tells_why_it_can_not() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = free.local_addr().expect("bound").port();
    drop(free);
    let answer = proof(&format!(
        r#"{{"server":"127.0.0.1","port":{port},"path":"{SHARE}","action":"write","nonce":"0123456789"}}"#
    ));
    assert!(answer.contains(r#""reason":"refused""#), "{answer}");
    let answer = proof(&format!(
        r#"{{"server":"nowhere.invalid","port":{port},"path":"{SHARE}","action":"read","nonce":"0123456789"}}"#
    ));
    assert!(answer.contains(r#""reason":"name_unknown""#), "{answer}");
}
