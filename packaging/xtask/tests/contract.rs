//! The generated code is what the proto files say, and the contract check sees what would break an older peer.

use std::path::{Path, PathBuf};

use prost::Message as _;
use prost_types::FileDescriptorSet;
use xtask::{codegen, contract};

fn proto_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto")
}

#[test]
fn generated_code_is_current() {
    let out = tempfile::tempdir().expect("a temporary directory");
    codegen::generate(&proto_root(), out.path()).expect("the contract compiles");
    for file in [codegen::CODE, codegen::DESCRIPTORS] {
        let fresh = std::fs::read(out.path().join(file)).expect("generated");
        let kept = std::fs::read(proto_root().join("src/gen").join(file)).expect("checked in");
        assert!(
            fresh == kept,
            "{file} is not what the proto files say: run ./dev generate"
        );
    }
}

#[test]
fn contract_is_compatible_with_the_last_release() {
    let lock =
        std::fs::read(proto_root().join("contract.lock.bin")).expect("the lock is checked in");
    let released =
        FileDescriptorSet::decode(lock.as_slice()).expect("the lock is a descriptor set");
    let present = codegen::compile(&proto_root()).expect("the contract compiles");
    assert_eq!(
        contract::breaking_changes(&released, &present),
        Vec::<String>::new()
    );
}

#[test]
fn everything_has_a_comment() {
    let present = codegen::compile(&proto_root()).expect("the contract compiles");
    assert_eq!(contract::without_comment(&present), Vec::<String>::new());
}

/// Compiles a one-file contract in a directory of its own.
fn compiled(body: &str) -> FileDescriptorSet {
    let root = tempfile::tempdir().expect("a temporary directory");
    let dir = root.path().join("canasta/fleet/v1");
    std::fs::create_dir_all(&dir).expect("a directory");
    let text = format!("syntax = \"proto3\";\npackage canasta.fleet.v1;\n{body}");
    std::fs::write(dir.join("a.proto"), text).expect("written");
    codegen::compile(root.path()).expect("the sample compiles")
}

#[test]
fn what_breaks_an_older_peer_is_found() {
    const OLD: &str = "message M { reserved 7 to 9, 12; reserved \"old\"; string a = 1; uint32 b = 2; oneof o { bool c = 3; } }
        enum E { reserved 5; E_UNSPECIFIED = 0; E_ONE = 1; }
        service S { rpc R(M) returns (M); }";
    let cases = [
        ("uint32 b = 2; ", "", "field b = 2 is gone"),
        ("string a = 1;", "bytes a = 1;", "type of field a"),
        (
            "string a = 1;",
            "repeated string a = 1;",
            "single, optional and repeated",
        ),
        ("string a = 1;", "string z = 1;", "now called z"),
        ("oneof o { bool c = 3; }", "bool c = 3;", "oneof"),
        ("7 to 9, 12", "7 to 8, 12", "number 9 is not reserved"),
        ("7 to 9, 12", "7 to 9", "number 12 is not reserved"),
        ("reserved \"old\";", "", "the name old is not reserved"),
        ("reserved 5;", "", "number 5 is not reserved"),
        ("E_ONE = 1;", "E_TWO = 1;", "now called E_TWO"),
        (" E_ONE = 1;", "", "value E_ONE is gone"),
        ("rpc R(M) returns (M);", "", "rpc R is gone"),
        ("returns (M)", "returns (stream M)", "response of rpc R"),
        ("rpc R(M)", "rpc R(stream M)", "request of rpc R"),
    ];
    let old = compiled(OLD);
    for (from, to, expected) in cases {
        let changes = contract::breaking_changes(&old, &compiled(&OLD.replace(from, to)));
        assert!(
            changes.iter().any(|change| change.contains(expected)),
            "{from} -> {to}: {changes:?}"
        );
    }
}

#[test]
fn additions_and_reserved_removals_are_compatible() {
    let old = compiled("message M { string a = 1; uint32 b = 2; }");
    let new = compiled("message M { reserved 2; string a = 1; string d = 4; } message N {}");
    assert_eq!(contract::breaking_changes(&old, &new), Vec::<String>::new());
}

#[test]
fn a_reserved_number_may_be_given_to_nothing_and_ranges_may_grow() {
    let old = compiled("message M { reserved 2, 3; reserved 5 to 7; }");
    let new = compiled("message M { reserved 2 to 7; }");
    assert_eq!(contract::breaking_changes(&old, &new), Vec::<String>::new());
}

#[test]
fn what_is_declared_inside_a_message_needs_a_comment_too() {
    let sample = compiled(
        "// M
        message M {
            message Inner { string a = 1; }
            // Said.
            enum Kind { KIND_UNSPECIFIED = 0; }
            // Said.
            map<string, string> labels = 1;
        }",
    );
    let missing = contract::without_comment(&sample);
    let names: Vec<_> = missing
        .iter()
        .filter_map(|line| line.split(": ").nth(1))
        .collect();
    assert_eq!(names, ["M.Inner", "M.Inner.a", "M.Kind.KIND_UNSPECIFIED"]);
}
