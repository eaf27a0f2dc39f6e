//! A node that is not fit for k3s, and a k3s that does not come up: what the operator reads.

use std::time::Duration;

use canasta_host::machine::{Listener, Protocol};
use canasta_proto::pb;
use canasta_proto::pb::OperationState;
use canasta_standin::trailer::Faults;
use canasta_tests::fleet::Fleet;
use canasta_tests::fleet::client::install_on;
use canasta_tests::fleet::node::Node;
use tonic::Code;

/// Installs, expects it to fail at this step, and returns the error with its journal lines.
async fn fails(fleet: &Fleet, step: &str) -> (pb::ErrorReport, String) {
    let operation = fleet.install(install_on("cp1")).await.unwrap();
    assert_eq!(operation.state(), OperationState::Failed, "{operation:#?}");
    let failed = operation
        .steps
        .iter()
        .find(|step| step.state() == pb::StepState::Failed)
        .unwrap();
    let error = operation.error.clone().expect("an error");
    assert_eq!(failed.id, step, "{error:#?}");
    assert!(!error.hint.is_empty(), "{error:?}");
    let journal = error
        .evidence
        .iter()
        .find(|evidence| evidence.title == "journal of k3s.service");
    let lines = journal
        .unwrap_or_else(|| panic!("no journal: {error:#?}"))
        .lines
        .join("\n");
    (error, lines)
}

async fn repaired(fleet: &Fleet, node: &Node) {
    node.k3s.set_faults(Faults::default());
    let operation = fleet.install(install_on("cp1")).await.unwrap();
    assert_eq!(
        operation.state(),
        OperationState::Succeeded,
        "{operation:#?}"
    );
}

#[tokio::test]
async fn all_findings_come_at_once_each_with_code_and_mend_and_nothing_is_changed() {
    let fleet = Fleet::start().await;
    let node = fleet.joined("cp1").await;
    let listener = Listener {
        protocol: Protocol::Tcp,
        address: "0.0.0.0".parse().unwrap(),
        port: 6443,
        pid: Some(4711),
        process: Some("haproxy".to_owned()),
        inode: 1,
    };
    node.host.machine.change(|state| {
        state.listeners.push(listener);
        state.facts.init_is_systemd = false;
        state.facts.memory_total = 1 << 30;
        state.clock_offset_seconds = 3600;
    });
    let before = node.picture();
    let fault = fleet.install(install_on("cp1")).await.unwrap_err();
    assert_eq!(
        (fault.code, fault.reason.as_str()),
        (Code::FailedPrecondition, "PREFLIGHT_FAILED"),
        "{fault:?}"
    );
    let told = format!("{} {}", fault.message, fault.causes.join("\n"));
    for part in [
        "PORT_TAKEN",
        "NO_SYSTEMD",
        "CLOCK_SKEW",
        "6443/tcp",
        "haproxy (pid 4711)",
        "mend: ",
    ] {
        assert!(told.contains(part), "{part}: {fault:?}");
    }
    let request = pb::InstallControlPlaneRequest {
        dry_run: true,
        ..install_on("cp1")
    };
    let (_, plan) = fleet.admin().await.install(request).await.unwrap();
    let mut codes: Vec<_> = plan
        .findings
        .iter()
        .map(|finding| finding.code.as_str())
        .collect();
    codes.sort_unstable();
    assert_eq!(
        codes,
        ["CLOCK_SKEW", "MEMORY_LOW", "NO_SYSTEMD", "PORT_TAKEN"]
    );
    assert!(
        plan.findings
            .iter()
            .all(|finding| !finding.mend.is_empty() && !finding.message.is_empty())
    );
    assert_eq!(node.picture(), before);
    let output = fleet
        .cli("otto", pb::Role::Operator)
        .await
        .run(&["install", "k8s-cp", "--host", "cp1"])
        .await;
    assert_eq!(output.code, 1, "{output:?}");
    assert!(
        output.stderr.contains("PORT_TAKEN") && output.stderr.contains("haproxy"),
        "{output:?}"
    );
}

#[tokio::test]
async fn a_foreign_k3s_hides_nothing_else_that_is_in_the_way() {
    let fleet = Fleet::start().await;
    let node = fleet.joined("cp1").await;
    node.install_foreign_k3s("v1.33.4+k3s1").await;
    node.host.machine.change(|state| {
        state.facts.memory_total = 1 << 30;
        state.clock_offset_seconds = 3600;
    });
    let before = node.picture();
    let cli = fleet.cli("anna", pb::Role::Admin).await;
    let all = ["FOREIGN_K3S", "CLOCK_SKEW", "MEMORY_LOW"];

    let fault = fleet.install(install_on("cp1")).await.unwrap_err();
    assert_eq!(fault.reason, "FOREIGN_K3S", "{fault:?}");
    let output = cli.run(&["install", "k8s-cp", "--host", "cp1"]).await;
    assert_eq!(output.code, 1, "{output:?}");
    for code in &all[1..] {
        assert!(fault.causes.join("\n").contains(code), "{code}: {fault:?}");
        assert!(output.stderr.contains(code), "{code}: {output:?}");
    }

    // A dry run answers with all that there is to say instead of an error.
    let dry_run = ["install", "k8s-cp", "--host", "cp1", "--dry-run"];
    let output = cli.run(&dry_run).await;
    assert_eq!(output.code, 1, "{output:?}");
    for part in all.iter().chain(&["--adopt", "Nothing was changed"]) {
        assert!(output.stdout.contains(part), "{part}: {output:?}");
    }
    assert_eq!(
        output.stdout.matches("FOREIGN_K3S").count(),
        1,
        "{output:?}"
    );

    // An adoption changes nothing, so nothing of it stands in the way; it is told all the same.
    let adopt = [&dry_run[..], &["--adopt", "--output", "json"]].concat();
    let plan = cli.run(&adopt).await.json();
    let findings = plan["findings"].as_array().unwrap();
    let told: Vec<_> = findings.iter().map(|finding| &finding["code"]).collect();
    for code in &all[1..] {
        assert!(told.contains(&&(*code).into()), "{code}: {plan:#}");
    }
    assert!(
        findings
            .iter()
            .all(|finding| finding["severity"] == "warning")
    );
    assert_eq!(node.picture(), before);
}

#[tokio::test]
async fn two_machines_of_one_name_are_found() {
    let fleet = Fleet::start().await;
    let _first = fleet.joined("cp1").await;
    let second = fleet.joined("cp2").await;
    second
        .host
        .machine
        .change(|state| state.facts.hostname = "CP1".to_owned());
    let fault = fleet.install(install_on("cp2")).await.unwrap_err();
    assert!(fault.message.contains("HOSTNAME_TAKEN"), "{fault:?}");
}

#[tokio::test]
async fn a_k3s_that_never_gets_ready_ends_with_its_last_answer_and_its_journal() {
    let fleet = Fleet::start().await;
    let mut node = fleet.joined("cp1").await;
    node.restart_waiting(Duration::from_millis(700)).await;
    node.k3s.set_faults(Faults {
        never_ready: true,
        ..Faults::default()
    });
    let (error, journal) = fails(&fleet, "wait-api").await;
    assert_eq!(error.reason, "K3S_NOT_READY", "{error:#?}");
    assert!(
        error.causes.join(" ").contains("API server answers 500"),
        "{error:#?}"
    );
    assert!(journal.contains("Starting k3s"), "{journal}");
    node.restart_waiting(Duration::from_secs(10)).await;
    node.k3s.set_faults(Faults::default());
    node.host.systemd.exit("k3s.service", 0);
    repaired(&fleet, &node).await;
}

#[tokio::test]
async fn a_k3s_that_exits_ends_with_its_journal_and_the_cause() {
    let fleet = Fleet::start().await;
    let node = fleet.joined("cp1").await;
    let message = "starting kubernetes: preparing server: init cluster datastore and https: listen tcp :6443: bind: address already in use";
    node.k3s.set_faults(Faults {
        exit_after_ms: Some(1),
        exit_message: Some(message.to_owned()),
        ..Faults::default()
    });
    let (error, journal) = fails(&fleet, "start-service").await;
    assert!(journal.contains("address already in use"), "{journal}");
    assert!(error.causes.join(" ").contains("PORT_TAKEN"), "{error:#?}");
    repaired(&fleet, &node).await;
}

#[tokio::test]
async fn a_k3s_that_exits_after_it_said_ready_is_told_the_same_way() {
    let fleet = Fleet::start().await;
    let node = fleet.joined("cp1").await;
    node.k3s.set_scale(0.02);
    node.k3s.set_faults(Faults {
        never_ready: true,
        exit_after_ms: Some(400),
        ..Faults::default()
    });
    let (error, journal) = fails(&fleet, "wait-api").await;
    assert_eq!(error.reason, "K3S_EXITED", "{error:#?}");
    assert!(journal.contains("a fault was asked for"), "{journal}");
    node.k3s.set_scale(0.005);
    repaired(&fleet, &node).await;
}

#[tokio::test]
async fn a_node_that_stays_not_ready_is_told_with_the_reason() {
    let fleet = Fleet::start_with(0, |config| {
        config.timings.node_ready = Duration::from_millis(500);
    })
    .await;
    let node = fleet.joined("cp1").await;
    node.k3s.set_faults(Faults {
        node_never_ready: true,
        ..Faults::default()
    });
    let (error, journal) = fails(&fleet, "wait-node-ready").await;
    assert_eq!(error.reason, "NODE_NOT_READY", "{error:#?}");
    assert!(error.message.contains("node 'cp1'"), "{error:#?}");
    let causes = error.causes.join(" ");
    assert!(causes.contains("KubeletNotReady"), "{error:#?}");
    assert!(journal.contains("Starting k3s"), "{journal}");
}

#[tokio::test]
async fn what_is_not_known_is_shown_as_unknown_and_never_as_ready() {
    let fleet = Fleet::start().await;
    let mut node = fleet.joined("cp1").await;
    let operation = fleet.install(install_on("cp1")).await.unwrap();
    assert_eq!(operation.state(), OperationState::Succeeded);
    let admin = fleet.admin().await;
    let cluster = async || {
        let request = pb::GetClusterRequest {
            name: "cp1".to_owned(),
        };
        admin
            .clusters()
            .get_cluster(request)
            .await
            .unwrap()
            .into_inner()
            .cluster
            .unwrap()
    };
    node.host.systemd.exit("k3s.service", 1);
    let shown = fleet
        .until("the API to be gone", async || {
            let cluster = cluster().await;
            (cluster.nodes[0].ready.is_none()).then_some(cluster)
        })
        .await;
    assert!(
        !shown.api.as_ref().unwrap().reachable && !shown.api.as_ref().unwrap().error.is_empty(),
        "{shown:?}"
    );
    assert!(!shown.nodes[0].ready_reason.is_empty(), "{shown:?}");
    assert_eq!(
        shown.nodes[0]
            .agent_view
            .as_ref()
            .unwrap()
            .unit_active_state,
        "failed"
    );

    node.crash().await;
    fleet.host_is("cp1", pb::HostState::Unreachable).await;
    let shown = cluster().await;
    assert_eq!(shown.nodes[0].ready, None);
    assert!(
        !shown.nodes[0].agent_error.is_empty() && shown.nodes[0].agent_observed_at.is_some(),
        "{shown:?}"
    );
    let listed = fleet
        .cli("vera", pb::Role::Viewer)
        .await
        .run(&["cluster", "list", "--output", "json"])
        .await
        .json();
    assert!(
        listed["clusters"][0]["nodes"][0]["ready"].is_null(),
        "{listed:#}"
    );
}
