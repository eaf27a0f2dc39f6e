//! The program itself, as systemd and a shell see it: versions, exit codes, fatal lines.
#![expect(
    clippy::disallowed_types,
    reason = "the program under test is started as a process"
)]

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use canasta_standin::trailer::{Profile, Trailer};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn run(program: &Path, arguments: &[&str], root: &Path) -> Output {
    Command::new(program)
        .args(arguments)
        .env("STANDIN_ROOT", root)
        .env_remove("KUBECONFIG")
        .output()
        .unwrap()
}

fn standin() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_k3s-standin"))
}

fn installed(root: &Path, version: &str, profile: Profile) -> PathBuf {
    let path = root.join("k3s");
    let mut bytes = std::fs::read(standin()).unwrap();
    let trailer = Trailer {
        version: version.into(),
        profile,
        ..Trailer::default()
    };
    bytes.extend(trailer.to_bytes());
    std::fs::write(&path, bytes).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn it_claims_the_version_of_its_trailer_and_says_what_it_is() {
    let root = tempfile::tempdir().unwrap();
    let program = installed(root.path(), "v1.34.8+k3s1", Profile::Recorded);
    let output = run(&program, &["--version"], root.path());
    assert!(output.status.success());
    assert_eq!(
        text(&output.stdout),
        "k3s version v1.34.8+k3s1 (standin)\ngo version none: stand-in for k3s, not a real release\n"
    );
    let plain = run(&standin(), &["--version"], root.path());
    assert!(text(&plain.stdout).starts_with("k3s version v1.21.3+k3s1 (standin)\n"));
}

#[test]
fn exit_codes_and_texts_of_other_commands() {
    let root = tempfile::tempdir().unwrap();
    let unknown = run(&standin(), &["nonsense"], root.path());
    assert_eq!(unknown.status.code(), Some(3));
    assert_eq!(text(&unknown.stderr), "No help topic for 'nonsense'\n");
    let token = run(&standin(), &["token", "create"], root.path());
    assert_eq!(token.status.code(), Some(3));
    assert_eq!(text(&token.stderr), "No help topic for 'token'\n");
    let newer = installed(root.path(), "v1.34.8+k3s1", Profile::Documented);
    let token = run(&newer, &["token", "create"], root.path());
    assert_eq!(token.status.code(), Some(1));
    assert!(text(&token.stderr).contains("level=fatal"));
    let kubectl = root.path().join("kubectl");
    symlink(standin(), &kubectl).unwrap();
    let nodes = run(&kubectl, &["get", "nodes"], root.path());
    assert_eq!(nodes.status.code(), Some(1));
    assert!(
        text(&nodes.stderr).starts_with("The connection to the server localhost:8080 was refused")
    );
    let containers = run(&standin(), &["crictl", "ps"], root.path());
    assert_eq!(containers.status.code(), Some(1));
    assert!(text(&containers.stderr).contains("stand-in"));
    let agent = run(&standin(), &["agent"], root.path());
    assert_eq!(agent.status.code(), Some(1));
    assert!(text(&agent.stderr).ends_with("level=fatal msg=\"--token is required\"\n"));
    let flag = run(&standin(), &["server", "--nonsense"], root.path());
    assert_eq!(flag.status.code(), Some(1));
    assert!(
        text(&flag.stderr).contains("level=fatal msg=\"flag provided but not defined: -nonsense\"")
    );
}

#[test]
fn a_server_that_is_stopped_fails_as_the_real_one_does() {
    let root = tempfile::tempdir().unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let port = format!("--https-listen-port={free}");
    let mut server = Command::new(standin())
        .args(["server", "--bind-address=127.0.0.1", &port])
        .env("STANDIN_ROOT", root.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(server.stderr.take().unwrap())
        .lines()
        .map_while(Result::ok);
    assert!(lines.any(|line| line.contains("k3s is up and running")));

    let second = run(
        &standin(),
        &["server", "--bind-address=127.0.0.1", &port],
        root.path(),
    );
    assert_eq!(second.status.code(), Some(1));
    assert!(text(&second.stderr).contains(&format!(
        "listen tcp 127.0.0.1:{free}: bind: address already in use"
    )));

    let pid = Pid::from_raw(i32::try_from(server.id()).unwrap());
    kill(pid, Signal::SIGTERM).unwrap();
    assert_eq!(server.wait().unwrap().code(), Some(1));
    assert!(lines.any(|line| line.contains("level=fatal msg=\"context canceled\"")));
}
