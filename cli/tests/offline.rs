//! The CLI without a controller: usage, exit codes, contexts. What it says of a controller is tested with the whole fleet.

use std::path::Path;

use assert_cmd::Command;

struct Ran {
    code: i32,
    out: String,
    err: String,
}

/// Runs the program with a configuration directory of its own.
fn canasta(config: &Path, arguments: &[&str]) -> Ran {
    let mut command = Command::cargo_bin("canasta").expect("the program is built");
    let output = command
        .env_clear()
        .env("XDG_CONFIG_HOME", config)
        .args(arguments)
        .output()
        .expect("the program runs");
    Ran {
        code: output.status.code().expect("no signal"),
        out: String::from_utf8(output.stdout).expect("text"),
        err: String::from_utf8(output.stderr).expect("text"),
    }
}

fn anywhere(arguments: &[&str]) -> Ran {
    let config = tempfile::tempdir().expect("a directory");
    canasta(config.path(), arguments)
}

/// Every command of the program, from its own help.
fn commands(of: &[&str]) -> Vec<Vec<String>> {
    let mut help = of.to_vec();
    help.push("--help");
    let text = anywhere(&help).out;
    let names: Vec<String> = text
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        // What is further in goes on with the line before.
        .filter_map(|line| {
            line.strip_prefix("  ")
                .filter(|line| !line.starts_with(' '))
        })
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .filter(|name| name != "help")
        .collect();
    let mut all = Vec::new();
    for name in names {
        let mut path: Vec<&str> = of.to_vec();
        path.push(&name);
        let below = commands(&path);
        all.push(path.iter().map(|&word| word.to_owned()).collect());
        all.extend(below);
    }
    all
}

#[test]
fn each_help_has_an_example() {
    let mut all = commands(&[]);
    assert!(all.len() > 20, "{all:?}");
    all.push(Vec::new());
    for command in all {
        let mut words: Vec<&str> = command.iter().map(String::as_str).collect();
        words.push("--help");
        let help = anywhere(&words).out;
        assert!(help.contains("Example"), "{command:?}:\n{help}");
    }
}

#[test]
fn capital_h_is_host_and_small_h_is_help() {
    assert_eq!(anywhere(&["install", "-h"]).code, 0);
    let ran = anywhere(&["install", "k8s-cp", "-H", "cp1"]);
    assert_eq!(ran.code, 3, "{}", ran.err);
}

#[test]
fn misspelt_installs_are_refused_with_the_right_form() {
    for words in [
        &["install", "k8s"][..],
        &["install", "k8s-cp", "k8s-worker"],
        &["install", "k8s-cp", "k8s-worker", "--cp-host", "cp1"],
        &["install", "k8scp", "--host", "cp1"],
        &["install", "nosuchpkg"],
        &["install"],
        &["install", "--host", "cp1"],
    ] {
        let ran = anywhere(words);
        assert_eq!(ran.code, 2, "{words:?}");
        assert!(
            ran.err.contains("canasta install k8s-cp --host"),
            "{}",
            ran.err
        );
    }
}

#[test]
fn a_worker_needs_its_control_plane_named() {
    let ran = anywhere(&["install", "k8s-worker", "--host", "w1", "--host", "w2"]);
    assert_eq!(ran.code, 2, "{}", ran.err);
    let form = "canasta install k8s-worker --host w1 --host w2 --cp-host";
    assert!(ran.err.contains(form), "{}", ran.err);
    let ran = anywhere(&["install", "k8s-worker", "-H", "w1", "--cp-host", "cp1"]);
    assert_eq!(ran.code, 3, "{}", ran.err);
}

#[test]
fn uninstalls_of_anything_but_k8s_are_refused_with_the_right_form() {
    for package in ["k8s-worker", "k8s-cp", "docker"] {
        let ran = anywhere(&["uninstall", package, "--host", "w1"]);
        assert_eq!(ran.code, 2, "{}", ran.err);
        let form = "canasta uninstall k8s --host w1";
        assert!(ran.err.contains(form), "{}", ran.err);
    }
    let ran = anywhere(&["uninstall", "k8s", "--host", "w1", "--cp-host", "cp1"]);
    assert_eq!(ran.code, 3, "{}", ran.err);
    assert!(ran.err.contains("--cp-host is not needed"), "{}", ran.err);
}

#[test]
fn only_k3s_is_imported_with_a_version() {
    for (words, form) in [
        (
            &["agent", "./a.deb", "--version", "1"][..],
            "import agent FILE",
        ),
        (&["k3s", "./k3s"], "import k3s FILE --version V"),
    ] {
        let ran = anywhere(&[&["artefact", "import"], words].concat());
        assert_eq!(ran.code, 2, "{}", ran.err);
        assert!(ran.err.contains(form), "{}", ran.err);
    }
    let ran = anywhere(&["artefact", "import", "agent", "./a.deb"]);
    assert_eq!(ran.code, 3, "{}", ran.err);
}

#[test]
fn what_ssh_or_a_node_could_not_use_is_wrong_usage() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("a.deb");
    std::fs::write(&file, b"nothing").expect("written");
    let file = file.to_str().expect("text");
    for (words, part) in [
        (
            &["--name", "w3", "--ssh=-oProxyCommand=x"][..],
            "begins with '-'",
        ),
        (&["--name", "w3", "--ssh", "root@w3;reboot"], "USER@ADDR"),
        (&["--name", "w3", "--ssh", "root@w3:2222"], "~/.ssh/config"),
        (&["--name", "W 3", "--ssh", "root@w3"], "host name"),
        (
            &["--name", "w3", "--ssh", "root@w3", "--address", "a b"],
            "an address is",
        ),
        (
            &["--name", "w3", "--ssh", "root@w3", "--package", file],
            "neither a .deb nor an .rpm",
        ),
        (&["--name", "w3", "--package", file], "--ssh"),
    ] {
        let ran = anywhere(&[&["host", "add"], words].concat());
        assert_eq!(ran.code, 2, "{words:?}: {}", ran.err);
        assert!(ran.err.contains(part), "{words:?}: {}", ran.err);
    }
    let ran = anywhere(&["host", "add", "--name", "w3", "--ssh", "root@w3"]);
    assert_eq!(ran.code, 3, "the controller is asked first: {}", ran.err);
}

#[test]
fn without_a_controller_it_says_how_to_get_one() {
    let ran = anywhere(&["host", "list"]);
    assert_eq!(ran.code, 3);
    assert_eq!(ran.out, "");
    assert!(ran.err.starts_with("error: "), "{}", ran.err);
    assert!(ran.err.contains("hint: "), "{}", ran.err);
}

#[test]
fn a_refused_port_is_named() {
    let config = tempfile::tempdir().expect("a directory");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    drop(listener);
    let token =
        canasta_proto::token::Token::new(canasta_proto::token::Purpose::User, [1; 32], [2; 24])
            .reveal();
    let file = config.path().join("token");
    std::fs::write(&file, &token).expect("written");
    let ran = canasta(
        config.path(),
        &[
            "context",
            "add",
            "a",
            "--controller",
            &address,
            "--token-file",
            file.to_str().expect("text"),
        ],
    );
    assert_eq!(ran.code, 3, "{}", ran.err);
    assert!(ran.err.contains(&address), "{}", ran.err);
    assert!(!ran.err.contains(&token), "{}", ran.err);
}

#[test]
fn a_join_token_is_not_taken_for_a_user_token() {
    let token =
        canasta_proto::token::Token::new(canasta_proto::token::Purpose::Join, [1; 32], [2; 24])
            .reveal();
    let config = tempfile::tempdir().expect("a directory");
    let file = config.path().join("token");
    std::fs::write(&file, &token).expect("written");
    let add = ["context", "add", "a", "--controller", "127.0.0.1"];
    let with = |flag, value| canasta(config.path(), &[&add[..], &[flag, value]].concat());
    let ran = with("--token-file", file.to_str().expect("text"));
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("canasta user add"), "{}", ran.err);
    assert!(!ran.err.contains(&token), "{}", ran.err);

    // A token among the arguments is refused, whatever it is.
    let ran = with("--token", &token);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("--token-file"), "{}", ran.err);
    assert!(!ran.err.contains(&token), "{}", ran.err);
}

#[test]
fn a_damaged_contexts_file_is_named() {
    let config = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(config.path().join("canasta")).expect("a directory");
    let damaged = "current = \"a\"\nkey = \"geheim\"\n";
    std::fs::write(config.path().join("canasta/contexts.toml"), damaged).expect("written");
    let ran = canasta(config.path(), &["host", "list"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("contexts.toml, line "), "{}", ran.err);
    assert!(!ran.err.contains("geheim"), "{}", ran.err);
}

#[test]
fn the_help_tells_what_ctrl_c_gives() {
    for words in [
        &["--help"][..],
        &["install", "--help"],
        &["uninstall", "--help"],
        &["operation", "watch", "--help"],
    ] {
        let help = anywhere(words).out;
        assert!(help.contains("130") && help.contains("Ctrl-C"), "{help}");
    }
}

#[test]
fn a_change_of_contexts_is_told_to_programs_and_kept_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let config = tempfile::tempdir().expect("a directory");
    let ran = canasta(
        config.path(),
        &["context", "use", "local", "--output", "json"],
    );
    assert_eq!(ran.code, 0, "{}", ran.err);
    let told: serde_json::Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!(
        (&told["name"], &told["current"]),
        (&"local".into(), &true.into())
    );
    let directory = config.path().join("canasta");
    for (path, mode) in [
        (directory.clone(), 0o700),
        (directory.join("contexts.toml"), 0o600),
        (directory.join("contexts.lock"), 0o600),
    ] {
        let found = std::fs::metadata(&path).expect("it is there").permissions();
        assert_eq!(found.mode() & 0o777, mode, "{}", path.display());
    }
}

#[test]
fn an_unknown_context_is_wrong_usage() {
    for words in [
        &["host", "list", "--context", "nosuch"][..],
        &["context", "use", "nosuch"],
    ] {
        let ran = anywhere(words);
        assert_eq!(ran.code, 2, "{words:?}");
        assert!(ran.err.contains("canasta context list"), "{}", ran.err);
    }
}

#[test]
fn the_local_context_is_always_there() {
    let ran = anywhere(&["context", "list", "--output", "json"]);
    assert_eq!(ran.code, 0);
    let list: serde_json::Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!(list["contexts"][0]["name"], "local");
    assert_eq!(list["contexts"][0]["current"], true);
}
