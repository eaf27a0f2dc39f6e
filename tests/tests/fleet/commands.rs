//! Every command through the program: what the reading ones print in each format, and what each flag does.
//!
//! The snapshots lie in `snapshots/`. After a change that is meant: `INSTA_UPDATE=always cargo nextest run -p canasta-tests
//! commands::`, then read the difference.

use canasta_proto::pb;
use canasta_proto::pb::OperationState;
use canasta_tests::fleet::cli::{Cli, Output};
use canasta_tests::fleet::client::install_on;
use canasta_tests::fleet::trap::Moment;
use canasta_tests::fleet::{Fleet, PATCH, VERSION, program};
use serde_json::Value;

/// What another run, another machine and another release print differently.
const FILTERS: [(&str, &str); 15] = [
    (
        r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
        "[ID]",
    ),
    (r"\b[0-9a-f]{64}\b", "[SHA-256]"),
    (r"\b[0-9a-f]{16}\b", "[SHA-256]"),
    (r"\b[0-9a-f]{32}\b", "[FLEET]"),
    (r"\d{4}-\d\d-\d\dT[0-9:.]+Z", "[TIME]"),
    (r"\d{4}-\d\d-\d\d( \d\d:\d\d:\d\d( UTC)?)?", "[TIME]"),
    (r"\b\d+ (s|min|h|d)\b", "[AGE]"),
    (r#"(age_seconds|uptime_seconds)("?): \d+"#, "$1$2: [N]"),
    (r"127\.\d+\.\d+\.\d+(:\d+)?", "[ADDRESS]"),
    (r"10\.77\.\d+\.\d+", "[NODE-ADDRESS]"),
    (r"\b0\.1\.0\b", "[VERSION]"),
    (r"\b(x86_64|amd64|aarch64|arm64)\b", "[ARCH]"),
    (r"local [a-z][a-z0-9_-]*", "local [USER]"),
    (r"\b\d+ bytes\b", "[N] bytes"),
    (r#"(\bsize("?): )\d+"#, "$1[N]"),
];

/// Checks a command's data against its snapshots in all formats.
async fn check(cli: &Cli, name: &str, arguments: &[&str]) {
    for format in ["table", "json", "yaml"] {
        let output = cli.run(&[arguments, &["--output", format]].concat()).await;
        assert_eq!(output.code, 0, "{arguments:?}: {output:?}");
        assert_eq!(output.stderr, "", "{arguments:?}");
        // Columns are as wide as what was filtered out.
        let text = match format {
            "table" => output
                .stdout
                .lines()
                .map(|line| line.split("  ").filter(|cell| !cell.is_empty()))
                .map(|cells| cells.map(str::trim).collect::<Vec<_>>().join("  ") + "\n")
                .collect(),
            _ => output.stdout,
        };
        insta::with_settings!({ filters => FILTERS, omit_expression => true }, {
            insta::assert_snapshot!(format!("{name}.{format}"), text);
        });
    }
}

#[tokio::test]
async fn what_the_reading_commands_print() {
    let fleet = Fleet::start().await;
    let node = fleet.joined("cp1").await;
    let cli = fleet.cli("anna", pb::Role::Admin).await;
    fleet.user_token("vera", pb::Role::Viewer).await;
    let wishes = pb::InstallControlPlaneRequest {
        public_ips: vec!["203.0.113.7".to_owned()],
        ..install_on("cp1")
    };
    let operation = fleet.install(wishes).await.unwrap();
    assert_eq!(operation.state(), OperationState::Succeeded);
    fleet.admin().await.host("cp1", true).await.unwrap();
    fleet.admin().await.add_host("w1").await.unwrap();
    for (name, arguments) in [
        ("host_list", &["host", "list"][..]),
        ("host_show", &["host", "show", "cp1"]),
        ("host_show_waiting", &["host", "show", "w1"]),
        ("cluster_list", &["cluster", "list"]),
        ("cluster_show", &["cluster", "show", "cp1"]),
        ("storage_list", &["storage", "list"]),
        ("operation_list", &["operation", "list"]),
        (
            "operation_show",
            &["operation", "show", &operation.id[..13]],
        ),
        ("artefact_list", &["artefact", "list"]),
        ("user_list", &["user", "list"]),
        ("context_list", &["context", "list"]),
        ("audit", &["audit", "--limit", "4"]),
        ("version", &["version"]),
    ] {
        check(&cli, name, arguments).await;
    }
    drop(node);
}

fn succeeded(output: &Output) {
    assert_eq!(output.code, 0, "{output:?}");
}

async fn installed(cli: &Cli, more: &[&str]) -> Output {
    let output = cli
        .run(&[&["install", "k8s-cp", "--host", "cp1"], more].concat())
        .await;
    succeeded(&output);
    output
}

async fn only_cluster(cli: &Cli) -> Value {
    let list = cli
        .run(&["cluster", "list", "--output", "json"])
        .await
        .json();
    assert_eq!(
        list["clusters"].as_array().map(Vec::len),
        Some(1),
        "{list:#}"
    );
    list["clusters"][0].clone()
}

#[tokio::test]
async fn public_ip_goes_into_the_certificate_as_often_as_it_is_given() {
    let fleet = Fleet::start().await;
    let node = fleet.joined("cp1").await;
    let cli = fleet.cli("otto", pb::Role::Operator).await;
    let ips = [
        "--public-ip",
        "203.0.113.7",
        "--public-ip",
        "wiki.example.org",
    ];
    installed(&cli, &ips).await;
    let config = node.read("/etc/rancher/k3s/config.yaml");
    for ip in ["203.0.113.7", "wiki.example.org"] {
        assert!(config.contains(ip), "{config}");
    }
}

#[tokio::test]
async fn cluster_names_the_cluster() {
    let fleet = Fleet::start().await;
    let _node = fleet.joined("cp1").await;
    let cli = fleet.cli("otto", pb::Role::Operator).await;
    installed(&cli, &["--cluster", "wiki"]).await;
    assert_eq!(only_cluster(&cli).await["name"], "wiki");
}

#[tokio::test]
async fn k3s_version_chooses_the_release() {
    let mut fleet = Fleet::start().await;
    let releases = fleet.take_releases_from_directory().await;
    for version in [VERSION, PATCH] {
        let file = program::release(version, 0);
        program::lay_out(&releases, version, &file, &program::sha256(&file));
    }
    let _node = fleet.joined("cp1").await;
    let cli = fleet.cli("otto", pb::Role::Operator).await;
    let output = installed(&cli, &["--k3s-version", PATCH]).await;
    assert!(output.stderr.contains(PATCH), "{output:?}");
    assert_eq!(only_cluster(&cli).await["k3s_version"], PATCH);
}

#[tokio::test]
async fn adopt_takes_over_what_is_there_and_is_for_admins() {
    let fleet = Fleet::start().await;
    let node = fleet.joined("cp1").await;
    node.install_foreign_k3s("v1.33.4+k3s1").await;
    let operator = fleet.cli("otto", pb::Role::Operator).await;
    let adopt = ["install", "k8s-cp", "--host", "cp1", "--adopt"];
    assert_eq!(operator.run(&adopt).await.code, 4);
    let admin = fleet.cli("anna", pb::Role::Admin).await;
    let output = installed(&admin, &["--adopt"]).await;
    assert!(
        output.stderr.contains("record it on the node: changed"),
        "{output:?}"
    );
    let cluster = only_cluster(&admin).await;
    assert_eq!(
        (&cluster["adopted"], &cluster["k3s_version"]),
        (&true.into(), &"v1.33.4+k3s1".into())
    );
    let both = [&adopt[..], &["--k3s-version", PATCH]].concat();
    assert_eq!(admin.run(&both).await.code, 2);
}

#[tokio::test]
async fn detach_returns_with_the_id_while_the_operation_runs_and_cancel_stops_it() {
    let fleet = Fleet::start().await;
    let _node = fleet.joined("cp1").await;
    let cli = fleet.cli("otto", pb::Role::Operator).await;
    let mut held = fleet.probe.hold("install-binary", Moment::Before);
    let output = installed(&cli, &["--detach"]).await;
    let id = output.stdout.trim();
    held.reached().await;
    let admin = fleet.admin().await;
    let running = admin.operation(id).await.unwrap();
    assert_eq!(running.state(), OperationState::Running);

    let output = cli.run(&["operation", "cancel", id]).await;
    succeeded(&output);
    assert!(
        output
            .stderr
            .contains("stops at the end of its running step")
            && output.stdout.contains("cancelling"),
        "{output:?}"
    );
    held.release();
    let output = cli.run(&["operation", "watch", id]).await;
    assert_eq!(output.code, 1, "{output:?}");
    assert!(
        output.stderr.contains("error: the operation was cancelled"),
        "{output:?}"
    );
    let ended = cli.run(&["operation", "cancel", id]).await;
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.stderr.contains("has ended already"), "{ended:?}");

    let output = installed(&cli, &["--detach", "--output", "json"]).await;
    let id = output.json()["operation_id"].as_str().unwrap().to_owned();
    let operation = admin.ended(&id).await;
    assert_eq!(operation.state(), OperationState::Succeeded);
}

#[tokio::test]
async fn refresh_asks_the_agent_now() {
    let fleet = Fleet::start().await;
    let node = fleet.joined("cp1").await;
    let cli = fleet.cli("vera", pb::Role::Viewer).await;
    succeeded(&cli.run(&["host", "show", "cp1", "--refresh"]).await);
    node.host
        .machine
        .change(|state| state.facts.hostname = "renamed".to_owned());
    let shown = async |more: &[&str]| {
        let show = ["host", "show", "cp1", "--output", "json"];
        let host = cli.run(&[&show, more].concat()).await.json();
        host["host"]["facts"]["hostname"].clone()
    };
    assert_eq!(shown(&[]).await, "cp1");
    assert_eq!(shown(&["--refresh"]).await, "renamed");
    assert_eq!(shown(&[]).await, "renamed");
}

#[tokio::test]
async fn import_keeps_a_file() {
    let fleet = Fleet::start().await;
    let cli = fleet.cli("anna", pb::Role::Admin).await;
    // More than one message.
    let bytes = program::head_only(600 * 1024);
    let file = fleet.scratch().join("k3s.download");
    std::fs::write(&file, &bytes).unwrap();
    let file = file.to_str().unwrap();
    let import = ["artefact", "import", "k3s", file, "--version", PATCH];
    let output = cli.run(&import).await;
    succeeded(&output);
    let hash = program::sha256(&bytes);
    assert!(
        output.stderr.contains("is stored") && output.stderr.contains(&hash),
        "{output:?}"
    );
    let list = cli
        .run(&["artefact", "list", "--output", "json"])
        .await
        .json();
    let artefact = &list["artefacts"][0];
    assert_eq!(
        (&artefact["version"], &artefact["sha256"], &artefact["size"]),
        (&PATCH.into(), &hash.into(), &bytes.len().into())
    );
}

#[tokio::test]
async fn what_removes_or_chooses_tells_programs_so() {
    let fleet = Fleet::start().await;
    let cli = fleet.cli("anna", pb::Role::Admin).await;
    fleet.admin().await.add_host("cp1").await.unwrap();
    fleet.user_token("vera", pb::Role::Viewer).await;
    let json = async |arguments: &[&str]| {
        cli.run(&[arguments, &["--output", "json"]].concat())
            .await
            .json()
    };
    let removed = json(&["host", "remove", "cp1"]).await;
    assert_eq!(removed, serde_json::json!({"name": "cp1", "removed": true}));
    let removed = json(&["user", "remove", "vera"]).await;
    assert_eq!(
        removed,
        serde_json::json!({"name": "vera", "removed": true})
    );

    let local = json(&["context", "use", "local"]).await;
    assert_eq!(
        (&local["name"], &local["current"]),
        (&"local".into(), &true.into())
    );
    let test = json(&["context", "use", "test"]).await;
    assert_eq!(
        (&test["name"], &test["user"], &test["controller"]),
        (
            &"test".into(),
            &"anna".into(),
            &fleet.address().to_string().into()
        )
    );
    let output = cli.run(&["context", "use", "test"]).await;
    assert_eq!((output.code, output.stdout.as_str()), (0, ""));
    assert_eq!(output.stderr, "'test' is the current context\n");
}

#[tokio::test]
async fn long_work_in_yaml_is_a_document_an_event() {
    let fleet = Fleet::start().await;
    let _node = fleet.joined("cp1").await;
    let cli = fleet.cli("otto", pb::Role::Operator).await;
    let output = installed(&cli, &["--output", "yaml"]).await;
    let documents: Vec<&str> = output.stdout.split("---\n").skip(1).collect();
    let events = documents
        .iter()
        .map(|text| serde_norway::from_str::<Value>(text).expect("a document"))
        .filter(|event| event["event"] != "progress");
    let seqs: Vec<u64> = events.map(|event| event["seq"].as_u64().unwrap()).collect();
    let all: Vec<u64> = (1..=seqs.len() as u64).collect();
    assert_eq!(seqs, all);
    assert!(seqs.len() > 20, "{}", output.stdout);
}
