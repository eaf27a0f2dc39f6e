//! What is said before anything is done: which host a command means that names none, and what each step would do.

use canasta_proto::pb;
use canasta_proto::pb::{OperationState, StepOutcome};
use canasta_tests::fleet::cli::Cli;
use canasta_tests::fleet::client::install_on;
use canasta_tests::fleet::{Fleet, VERSION};
use serde_json::Value;

async fn installed(fleet: &Fleet, host: &str) {
    let operation = fleet.install(install_on(host)).await.unwrap();
    assert_eq!(
        operation.state(),
        OperationState::Succeeded,
        "{operation:#?}"
    );
}

/// Runs a command that must tell that no host was meant, and returns what it tells.
async fn refused(cli: &Cli, arguments: &[&str]) -> String {
    let output = cli.run(arguments).await;
    assert_eq!(output.code, 2, "{output:?}");
    assert_eq!(output.stdout, "", "{output:?}");
    output.stderr
}

#[tokio::test]
async fn without_a_host_the_free_one_is_taken_then_the_one_that_is_installed() {
    let fleet = Fleet::start().await;
    let cli = fleet.cli("otto", pb::Role::Operator).await;
    let told = refused(&cli, &["install", "k8s-cp"]).await;
    assert!(
        told.contains("none is registered") && told.contains("canasta host add --name"),
        "{told}"
    );

    let _one = fleet.joined("cp1").await;
    installed(&fleet, "cp1").await;
    // As the manual has it: the same command again, on the one machine.
    let output = cli.run(&["install", "k8s-cp"]).await;
    assert_eq!(output.code, 0, "{output:?}");
    let chosen = "no host was named, and 'cp1' is the only one that fits";
    assert!(output.stderr.contains(chosen), "{output:?}");
    let list = pb::ListOperationsRequest::default();
    let admin = fleet.admin().await;
    let listed = admin.operations().list_operations(list).await.unwrap();
    let last = &listed.into_inner().operations[0];
    assert!(
        last.steps
            .iter()
            .all(|step| step.outcome() == StepOutcome::Unchanged),
        "{last:#?}"
    );

    let _other = fleet.joined("cp2").await;
    admin.add_host("cp3").await.unwrap();
    let output = cli.run(&["install", "k8s-cp"]).await;
    assert_eq!(output.code, 0, "{output:?}");
    let chosen = "no host was named, and 'cp2' is the only one that fits";
    assert!(output.stderr.contains(chosen), "{output:?}");

    let told = refused(&cli, &["install", "k8s-cp"]).await;
    for part in [
        "several fit: cp1, cp2",
        "cp1: fits, it has the control plane of cluster cp1",
        "cp2: fits, it has the control plane of cluster cp2",
        "cp3: does not fit, it has not joined",
        "--host cp1",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
}

#[tokio::test]
async fn without_a_host_only_one_with_a_foreign_k3s_is_adopted() {
    let fleet = Fleet::start().await;
    let cli = fleet.cli("anna", pb::Role::Admin).await;
    let node = fleet.joined("cp1").await;
    let _free = fleet.joined("cp2").await;
    let adopt = ["install", "k8s-cp", "--adopt"];
    let told = refused(&cli, &adopt).await;
    for part in [
        "none fits",
        "cp1: does not fit, it has no k3s that someone else installed",
        "cp2: does not fit",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    // Found although it came after the last facts.
    node.install_foreign_k3s("v1.33.4+k3s1").await;
    for _run in ["the first", "one more"] {
        let output = cli.run(&adopt).await;
        assert_eq!(output.code, 0, "{output:?}");
        assert!(output.stderr.contains("'cp1' is the only"), "{output:?}");
    }
    assert_eq!(node.starts_ordered(), 0);
}

/// The words of each step, `id: words`, of a dry run.
async fn planned(cli: &Cli, more: &[&str]) -> Vec<String> {
    let words = [
        "install",
        "k8s-cp",
        "-H",
        "cp1",
        "--dry-run",
        "--output",
        "json",
    ];
    let plan: Value = cli.run(&[&words, more].concat()).await.json();
    let steps = plan["steps"].as_array().expect("steps").iter();
    steps
        .map(|step| {
            let text = |key: &str| step[key].as_str().expect("a text").to_owned();
            format!("{}: {}", text("id"), text("detail"))
        })
        .collect()
}

#[tokio::test]
async fn a_dry_run_tells_what_each_step_would_do_here() {
    let fleet = Fleet::start().await;
    let _node = fleet.joined("cp1").await;
    let cli = fleet.cli("otto", pb::Role::Operator).await;
    let first = planned(&cli, &[]).await;
    for step in [
        &format!("install-binary: {VERSION}"),
        "write-config: written",
        "start-service: started",
    ] {
        assert!(first.iter().any(|told| told == step), "{step}: {first:#?}");
    }

    installed(&fleet, "cp1").await;
    let changes = |steps: Vec<String>| -> Vec<String> {
        let changed = steps
            .into_iter()
            .filter(|told| !told.ends_with(": unchanged"));
        changed.collect()
    };
    assert_eq!(changes(planned(&cli, &[]).await), [""; 0]);
    let higher = planned(&cli, &["--k3s-version", "v1.34.9+k3s1"]).await;
    let arrow = format!("{VERSION} -> v1.34.9+k3s1");
    for step in [
        format!("install-binary: {arrow}"),
        format!("start-service: {arrow}, one restart"),
    ] {
        assert!(higher.contains(&step), "{step}: {higher:#?}");
    }
    let readdressed = changes(planned(&cli, &["--public-ip", "203.0.113.7"]).await);
    assert!(
        readdressed.contains(&"write-config: tls-san +203.0.113.7".to_owned())
            && readdressed.contains(&"start-service: one restart".to_owned()),
        "{readdressed:#?}"
    );

    let shown = cli.run(&["install", "k8s-cp", "--dry-run"]).await;
    let line = shown
        .stdout
        .lines()
        .find(|line| line.contains("put the k3s binary in place"));
    assert!(
        line.is_some_and(|line| line.ends_with("  unchanged")),
        "{shown:?}"
    );
}
