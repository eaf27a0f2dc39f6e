//! What becomes of kubeconfigs of all sorts.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use canasta_proto::pb::GetKubeconfigResponse;
use serde_norway::Value;

use super::{Entry, Unfit, merge, merge_into};

/// With entries of others, fields that nobody knows, and an older entry of ours.
const OTHERS: &str = "
apiVersion: v1
kind: Config
preferences: {colors: true}
x-unknown: [1, two]
clusters:
- name: work
  cluster: {server: 'https://work:6443', proxy-url: 'socks5://p'}
- name: canasta-wiki
  cluster: {server: 'https://old:6443'}
- name: home
  cluster: {server: 'https://home:6443'}
contexts:
- name: work
  context: {cluster: work, user: work, namespace: ours}
users:
- name: work
  user: {exec: {command: aws, args: [eks]}}
current-context: work
";

fn entry() -> Entry {
    let answer = GetKubeconfigResponse {
        cluster: "wiki".to_owned(),
        servers: Vec::new(),
        ca_certificate: b"ca".to_vec().into(),
        client_certificate: b"certificate".to_vec().into(),
        client_key: b"key".to_vec().into(),
    };
    Entry::new(&answer, "https://203.0.113.7:6443")
}

fn merged(text: &str) -> (Value, bool) {
    let (text, current) = merge(text, &entry()).expect("merged");
    (serde_norway::from_str(&text).expect("YAML"), current)
}

fn names(config: &Value, list: &str) -> Vec<String> {
    let entries = config[list].as_sequence().expect("a list");
    let name = |entry: &Value| entry["name"].as_str().expect("a name").to_owned();
    entries.iter().map(name).collect()
}

#[test]
fn alone_it_is_a_whole_kubeconfig() {
    let config = entry().alone();
    let expected: Value = serde_norway::from_str(
        "
apiVersion: v1
kind: Config
clusters:
- name: canasta-wiki
  cluster: {certificate-authority-data: Y2E=, server: 'https://203.0.113.7:6443'}
contexts:
- name: canasta-wiki
  context: {cluster: canasta-wiki, user: canasta-wiki}
users:
- name: canasta-wiki
  user: {client-certificate-data: Y2VydGlmaWNhdGU=, client-key-data: a2V5}
current-context: canasta-wiki
",
    )
    .expect("YAML");
    assert_eq!(config, expected);
    assert!(!format!("{:?}", entry()).contains("a2V5"));
}

#[test]
fn what_others_wrote_stays_and_only_our_own_is_replaced() {
    let before: Value = serde_norway::from_str(OTHERS).expect("YAML");
    let (after, current) = merged(OTHERS);
    assert!(!current);
    for field in ["preferences", "x-unknown", "current-context"] {
        assert_eq!(after[field], before[field], "{field}");
    }
    assert_eq!(names(&after, "clusters"), ["work", "canasta-wiki", "home"]);
    for place in [0, 2] {
        assert_eq!(after["clusters"][place], before["clusters"][place]);
    }
    assert_eq!(
        after["clusters"][1]["cluster"]["server"],
        "https://203.0.113.7:6443"
    );
    for list in ["contexts", "users"] {
        assert_eq!(names(&after, list), ["work", "canasta-wiki"]);
        assert_eq!(after[list][0], before[list][0]);
    }
    // Once more changes nothing.
    let text = serde_norway::to_string(&after).expect("YAML");
    assert_eq!(merged(&text), (after, false));
}

#[test]
fn two_of_our_name_become_one() {
    let twice = "users: [{name: canasta-wiki}, {name: work}, {name: canasta-wiki}]";
    assert_eq!(names(&merged(twice).0, "users"), ["canasta-wiki", "work"]);
}

#[test]
fn it_becomes_current_only_where_nothing_is() {
    for none in [
        "",
        "# empty\n",
        "clusters: null\ncontexts: []\n",
        "current-context: ''",
        "current-context: null",
    ] {
        let (config, current) = merged(none);
        assert!(current, "{none}");
        assert_eq!(config["current-context"], "canasta-wiki", "{none}");
    }
    assert!(merged("current-context: canasta-wiki").1);
}

#[test]
fn what_is_no_kubeconfig_is_refused() {
    let refused = |text| merge(text, &entry()).expect_err("refused");
    assert!(matches!(refused("a: [geheim"), Unfit::Yaml(Some(_))));
    assert!(matches!(refused("a: 1\n---\nb: 2\n"), Unfit::Yaml(_)));
    assert!(matches!(refused("- a\n"), Unfit::Shape(_)));
    assert!(matches!(refused("users: {a: 1}"), Unfit::Shape(_)));
}

#[test]
fn a_file_is_made_with_its_directory_and_for_its_owner_alone() {
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().join(".kube/config");
    assert!(merge_into(&path, &entry()).expect("written"));
    let mode = |path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(path.clone()), 0o600);
    assert_eq!(mode(home.path().join(".kube")), 0o700);
    // One that others may read is closed, as there is a key in it now.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("changed");
    merge_into(&path, &entry()).expect("written");
    assert_eq!(mode(path), 0o600);
    let left = fs::read_dir(home.path().join(".kube")).expect("listed");
    assert_eq!(left.count(), 1, "no lock and no other file is left");
}

#[test]
fn a_link_stays_a_link() {
    let home = tempfile::tempdir().expect("a directory");
    let (real, link) = (home.path().join("real"), home.path().join("config"));
    fs::write(&real, OTHERS).expect("written");
    symlink(&real, &link).expect("linked");
    merge_into(&link, &entry()).expect("written");
    assert!(link.is_symlink());
    let text = fs::read_to_string(&real).expect("read");
    assert!(text.contains("203.0.113.7"));
}

#[test]
fn a_damaged_file_is_named_and_left_as_it_is() {
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().join("config");
    for damaged in [&b"users:\n- geheim: [\n"[..], b"\xff\xfe"] {
        fs::write(&path, damaged).expect("written");
        let error = merge_into(&path, &entry())
            .expect_err("refused")
            .to_string();
        assert!(error.contains(path.to_str().expect("text")), "{error}");
        assert!(!error.contains("geheim"), "{error}");
        assert_eq!(fs::read(&path).expect("read"), damaged);
    }
}

#[test]
fn nothing_is_written_while_kubectl_writes() {
    let home = tempfile::tempdir().expect("a directory");
    let (path, lock) = (home.path().join("config"), home.path().join("config.lock"));
    fs::write(&lock, "").expect("written");
    let error = merge_into(&path, &entry())
        .expect_err("refused")
        .to_string();
    assert!(error.contains("config.lock"), "{error}");
    assert!(lock.exists() && !path.exists());
}
