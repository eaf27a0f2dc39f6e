//! The main job: a control plane on a host, again and again, other versions of it, and one that someone else installed.

use canasta_proto::pb;
use canasta_proto::pb::{OperationState, StepOutcome};
use canasta_tests::fleet::client::{Client, install_on};
use canasta_tests::fleet::node::k3s_facts;
use canasta_tests::fleet::trap::Moment;
use canasta_tests::fleet::{Fleet, PATCH, VERSION, k3s, program};
use tonic::Code;

const NEXT_MINOR: &str = "v1.35.2+k3s1";

/// The outcomes of an operation's steps, by their ids.
fn outcomes(operation: &pb::Operation) -> Vec<(&str, StepOutcome)> {
    operation
        .steps
        .iter()
        .map(|step| (step.id.as_str(), step.outcome()))
        .collect()
}

fn succeeded(operation: &pb::Operation) {
    assert_eq!(
        operation.state(),
        pb::OperationState::Succeeded,
        "{operation:#?}"
    );
}

fn all_unchanged(operation: &pb::Operation) {
    succeeded(operation);
    let changed: Vec<_> = operation
        .steps
        .iter()
        .filter(|step| step.outcome() != StepOutcome::Unchanged)
        .collect();
    assert!(changed.is_empty(), "{changed:#?}");
}

async fn only_cluster(admin: &Client) -> pb::Cluster {
    let answer = admin
        .clusters()
        .list_clusters(pb::ListClustersRequest {})
        .await
        .unwrap();
    let mut clusters = answer.into_inner().clusters;
    assert_eq!(clusters.len(), 1, "{clusters:#?}");
    clusters.remove(0)
}

#[tokio::test]
async fn a_control_plane_is_installed_shown_and_left_alone_by_a_second_run() {
    let fleet = Fleet::start().await;
    let node = fleet.joined("cp1").await;
    let operation = fleet.install(install_on("cp1")).await.unwrap();
    succeeded(&operation);
    assert_eq!(operation.kind, "install-k8s-cp");
    assert_eq!(operation.hosts, ["cp1"]);
    assert!(
        operation.started_by.starts_with("local "),
        "{}",
        operation.started_by
    );
    assert_eq!(node.k3s.starts(), 1);

    let admin = fleet.admin().await;
    let cluster = only_cluster(&admin).await;
    assert_eq!(
        (
            cluster.name.as_str(),
            cluster.k3s_version.as_str(),
            cluster.adopted
        ),
        ("cp1", VERSION, false)
    );
    let api = cluster.api.as_ref().expect("the API's view");
    assert!(api.reachable, "{api:?}");
    assert_eq!(
        (api.version.as_str(), api.source.as_str()),
        (VERSION, "API server through the agent on cp1")
    );
    let shown = cluster.nodes.first().expect("a node");
    assert_eq!(
        (
            shown.name.as_str(),
            shown.host.as_str(),
            shown.role.as_str()
        ),
        ("cp1", "cp1", "control-plane")
    );
    assert_eq!(shown.ready, Some(true), "{shown:?}");
    assert_eq!(
        (shown.kubelet_version.as_str(), shown.agent_source.as_str()),
        (VERSION, "agent on cp1")
    );
    assert!(shown.api_observed_at.is_some() && shown.agent_observed_at.is_some());
    let view = shown.agent_view.as_ref().expect("the agent's view");
    assert_eq!(view.origin(), pb::K3sOrigin::Installed);
    assert_eq!(
        (
            view.running_version.as_str(),
            view.unit_active_state.as_str()
        ),
        (VERSION, "active")
    );
    assert_eq!((view.ca_hash.len(), &view.ca_hash), (64, &cluster.ca_hash));

    node.host.systemd.clear_orders();
    let before = node.picture();
    let again = fleet.install(install_on("cp1")).await.unwrap();
    all_unchanged(&again);
    assert_eq!(node.picture(), before);
    assert_eq!(
        (node.host.systemd.orders(), node.k3s.starts()),
        (Vec::new(), 1)
    );

    let host = admin.host("cp1", false).await.unwrap();
    assert_eq!(
        (host.cluster.as_str(), host.cluster_role.as_str()),
        ("cp1", "control-plane")
    );
    let listed = fleet
        .cli("anna", pb::Role::Viewer)
        .await
        .run(&["cluster", "list", "--output", "json"])
        .await
        .json();
    assert_eq!(
        listed["clusters"][0]["nodes"][0]["ready"], true,
        "{listed:#}"
    );
}

#[tokio::test]
async fn what_is_installed_is_as_it_should_be() {
    let fleet = Fleet::start().await;
    let node = fleet.joined("cp1").await;
    let wishes = pb::InstallControlPlaneRequest {
        public_ips: vec!["203.0.113.7".to_owned()],
        ..install_on("cp1")
    };
    succeeded(&fleet.install(wishes).await.unwrap());
    let mode = |path: &str| {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::metadata(node.host.root.path(path))
            .unwrap()
            .permissions()
            .mode()
            & 0o7777
    };
    let config = node.read("/etc/rancher/k3s/config.yaml");
    assert!(
        config.contains("203.0.113.7") && config.contains("node-name: cp1"),
        "{config}"
    );
    for (path, expected) in [
        ("/etc/rancher/k3s/config.yaml", 0o600),
        ("/etc/rancher/k3s/agent-token", 0o600),
        ("/etc/rancher/k3s/k3s.yaml", 0o600),
        (k3s::BINARY, 0o755),
    ] {
        assert_eq!(mode(path), expected, "{path}");
    }
    let token = node.read("/etc/rancher/k3s/agent-token");
    assert!(
        !config.contains(token.trim()),
        "the agent token stands in the configuration"
    );
    assert!(
        !node
            .read("/var/lib/rancher/k3s/server/token")
            .contains(token.trim()),
        "it is the server's token"
    );
    assert!(
        node.read("/etc/systemd/network/10-canasta-flannel.link")
            .contains("MACAddressPolicy=none")
    );
    assert!(
        node.read("/var/lib/rancher/k3s/server/manifests/canasta-traefik.yaml")
            .contains("externalTrafficPolicy: Local")
    );
    for name in ["kubectl", "crictl", "ctr"] {
        let link = std::fs::read_link(node.host.root.path("/usr/local/bin").join(name)).unwrap();
        assert!(link.ends_with("k3s"), "{}", link.display());
    }
    let staged: Vec<_> = std::fs::read_dir(node.host.root.path("/usr/local/bin"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with('.'))
        .collect();
    assert!(staged.is_empty(), "{staged:?}");
}

#[tokio::test]
async fn a_flag_that_is_given_replaces_what_is_recorded_and_one_that_is_not_keeps_it() {
    let fleet = Fleet::start().await;
    let node = fleet.joined("cp1").await;
    let with = |ips: &[&str]| pb::InstallControlPlaneRequest {
        public_ips: ips.iter().map(|ip| (*ip).to_owned()).collect(),
        ..install_on("cp1")
    };
    let has = |ip: &str| node.read("/etc/rancher/k3s/config.yaml").contains(ip);
    succeeded(
        &fleet
            .install(with(&["203.0.113.7", "wiki.example.org"]))
            .await
            .unwrap(),
    );
    assert!(has("203.0.113.7") && has("wiki.example.org"));

    all_unchanged(&fleet.install(with(&[])).await.unwrap());
    assert!(has("203.0.113.7") && has("wiki.example.org"));
    all_unchanged(
        &fleet
            .install(with(&["203.0.113.7", "wiki.example.org"]))
            .await
            .unwrap(),
    );

    node.host.systemd.clear_orders();
    let changed = fleet.install(with(&["203.0.113.8"])).await.unwrap();
    succeeded(&changed);
    assert!(has("203.0.113.8") && !has("203.0.113.7") && !has("wiki.example.org"));
    let touched: Vec<_> = outcomes(&changed)
        .into_iter()
        .filter(|(_, outcome)| *outcome == StepOutcome::Changed)
        .map(|(id, _)| id)
        .collect();
    assert!(
        touched.contains(&"write-config") && touched.contains(&"start-service"),
        "{touched:?}"
    );
    assert!(
        !touched.contains(&"install-binary") && !touched.contains(&"write-unit"),
        "{touched:?}"
    );
    let detail = &changed
        .steps
        .iter()
        .find(|step| step.id == "write-config")
        .unwrap()
        .detail;
    assert!(detail.contains("tls-san"), "{detail}");
    assert_eq!(node.starts_ordered(), 1, "one restart");
    all_unchanged(&fleet.install(with(&[])).await.unwrap());
}

#[tokio::test]
async fn the_flags_of_an_install_that_failed_are_not_forgotten() {
    let fleet = Fleet::start().await;
    let node = fleet.joined("cp1").await;
    fleet.probe.fail("wait-node-ready", Moment::Before);
    let asked = pb::InstallControlPlaneRequest {
        public_ips: vec!["203.0.113.7".to_owned()],
        cluster: "wiki".to_owned(),
        ..install_on("cp1")
    };
    let failed = fleet.install(asked).await.unwrap();
    assert_eq!(failed.state(), OperationState::Failed);

    node.host.systemd.clear_orders();
    succeeded(&fleet.install(install_on("cp1")).await.unwrap());
    assert!(
        node.read("/etc/rancher/k3s/config.yaml")
            .contains("203.0.113.7")
    );
    assert_eq!(node.starts_ordered(), 0, "nothing was asked differently");
    let mut client = fleet.admin().await.clusters();
    let answer = client
        .list_clusters(pb::ListClustersRequest {})
        .await
        .unwrap();
    assert_eq!(answer.into_inner().clusters[0].name, "wiki");
}

#[tokio::test]
async fn a_plan_that_no_longer_holds_is_not_carried_out() {
    let mut fleet = Fleet::start().await;
    let node = fleet.joined("cp1").await;
    let admin = fleet.admin().await;
    for restart in [false, true] {
        let mut held = fleet.probe.hold("preflight", Moment::Before);
        let (id, plan) = admin.install(install_on("cp1")).await.unwrap();
        held.reached().await;
        node.host
            .machine
            .change(|state| state.facts.hostname = format!("{}x", plan.node_name));
        let before = node.picture();
        if restart {
            fleet.crash().await;
            fleet.restart().await;
        } else {
            held.release();
        }
        let operation = fleet.admin().await.ended(&id).await;
        assert_eq!(operation.state(), OperationState::Failed, "{operation:#?}");
        let error = operation.error.unwrap();
        assert_eq!(error.reason, "PLAN_STALE", "{error:?}");
        let changed = format!(
            r#"planned was "{}", now it would be "{0}x""#,
            plan.node_name
        );
        assert!(
            error.causes.iter().any(|cause| cause.ends_with(&changed)),
            "{error:?}"
        );
        assert!(error.hint.contains("run the command again"), "{error:?}");
        assert_eq!(node.picture(), before, "nothing was changed");
        assert_eq!(fleet.release.requests(), []);
    }
    let operation = fleet.install(install_on("cp1")).await.unwrap();
    succeeded(&operation);
    assert_eq!(
        only_cluster(&fleet.admin().await).await.nodes[0].name,
        "cp1xx"
    );
}

#[tokio::test]
async fn versions_go_up_by_a_patch_or_a_minor_with_one_restart_and_never_down() {
    let mut fleet = Fleet::start().await;
    let releases = fleet.take_releases_from_directory().await;
    for version in [VERSION, PATCH, NEXT_MINOR] {
        let file = program::release(version, 0);
        program::lay_out(&releases, version, &file, &program::sha256(&file));
    }
    let node = fleet.joined("cp1").await;
    let admin = fleet.admin().await;
    succeeded(&fleet.install(install_on("cp1")).await.unwrap());
    let to = |version: &str| pb::InstallControlPlaneRequest {
        k3s_version: version.to_owned(),
        ..install_on("cp1")
    };
    for version in [PATCH, NEXT_MINOR] {
        node.host.systemd.clear_orders();
        let upgraded = fleet.install(to(version)).await.unwrap();
        succeeded(&upgraded);
        assert_eq!(
            node.starts_ordered(),
            1,
            "one restart: {:?}",
            node.host.systemd.orders()
        );
        let host = admin.host("cp1", true).await.unwrap();
        assert_eq!(k3s_facts(&host).running_version, version);
        let cluster = only_cluster(&admin).await;
        assert_eq!(
            (
                cluster.k3s_version.as_str(),
                cluster.nodes[0].kubelet_version.as_str()
            ),
            (version, version)
        );
        all_unchanged(&fleet.install(install_on("cp1")).await.unwrap());
    }
    let before = node.picture();
    for (version, reason, words) in [
        ("v1.35.1+k3s1", "DOWNGRADE", "v1.35.2+k3s1"),
        ("v1.34.9+k3s1", "DOWNGRADE", "v1.35.2+k3s1"),
        ("v1.37.0+k3s1", "MINOR_SKIPPED", "v1.36"),
    ] {
        let fault = fleet.install(to(version)).await.unwrap_err();
        assert_eq!(
            (fault.code, fault.reason.as_str()),
            (Code::FailedPrecondition, reason),
            "{fault:?}"
        );
        assert!(
            format!("{} {}", fault.message, fault.hint).contains(words),
            "{fault:?}"
        );
    }
    assert_eq!(node.picture(), before);
}

#[tokio::test]
async fn the_name_of_a_cluster_is_chosen_once() {
    let fleet = Fleet::start().await;
    let _node = fleet.joined("cp1").await;
    let named = |cluster: &str| pb::InstallControlPlaneRequest {
        cluster: cluster.to_owned(),
        ..install_on("cp1")
    };
    succeeded(&fleet.install(named("wiki")).await.unwrap());
    assert_eq!(only_cluster(&fleet.admin().await).await.name, "wiki");
    all_unchanged(&fleet.install(named("wiki")).await.unwrap());
    all_unchanged(&fleet.install(install_on("cp1")).await.unwrap());
    let fault = fleet.install(named("other")).await.unwrap_err();
    assert_eq!(fault.reason, "CLUSTER_FIXED");
    assert!(fault.message.contains("wiki"), "{fault:?}");
}

#[tokio::test]
async fn a_dry_run_shows_everything_and_changes_nothing() {
    let fleet = Fleet::start().await;
    let node = fleet.joined("cp1").await;
    node.host.machine.change(|state| state.disk_free = 1 << 30);
    let before = node.picture();
    let admin = fleet.admin().await;
    let request = pb::InstallControlPlaneRequest {
        dry_run: true,
        ..install_on("cp1")
    };
    let (operation, plan) = admin.install(request).await.unwrap();
    assert_eq!(operation, "");
    assert_eq!(
        (
            plan.k3s_version.as_str(),
            plan.current_version.as_str(),
            plan.node_name.as_str()
        ),
        (VERSION, "", "cp1")
    );
    assert!(
        plan.node_ip.starts_with("10.77.") && plan.node_ip_source.contains("eth0"),
        "{plan:?}"
    );
    assert_eq!(
        plan.findings
            .iter()
            .map(|finding| finding.code.as_str())
            .collect::<Vec<_>>(),
        ["DISK_LOW"]
    );
    assert!(plan.steps.len() > 5, "{plan:?}");
    assert_eq!(node.picture(), before);
    assert_eq!(fleet.release.requests(), []);
    let operations = admin
        .operations()
        .list_operations(pb::ListOperationsRequest::default())
        .await
        .unwrap();
    assert_eq!(operations.into_inner().operations, []);
    assert_eq!(
        admin
            .clusters()
            .list_clusters(pb::ListClustersRequest {})
            .await
            .unwrap()
            .into_inner()
            .clusters,
        []
    );

    let cli = fleet.cli("otto", pb::Role::Operator).await;
    let output = cli.run(&["install", "k8s-cp", "--dry-run"]).await;
    assert_eq!(output.code, 0, "{output:?}");
    assert!(
        output.stderr.contains("'cp1' is the only one that fits"),
        "{output:?}"
    );
    assert!(output.stdout.contains("DISK_LOW"), "{output:?}");
}

#[tokio::test]
async fn a_foreign_k3s_is_refused_with_both_ways_out_and_adopted_without_a_touch() {
    let fleet = Fleet::start().await;
    let node = fleet.joined("cp1").await;
    node.install_foreign_k3s("v1.33.4+k3s1").await;
    let before = node.picture();
    let fault = fleet.install(install_on("cp1")).await.unwrap_err();
    assert_eq!(
        (fault.code, fault.reason.as_str()),
        (Code::FailedPrecondition, "FOREIGN_K3S")
    );
    assert!(
        fault.message.contains("k3s.service") && fault.message.contains(k3s::BINARY),
        "{fault:?}"
    );
    assert!(
        fault.hint.contains("--adopt") && fault.hint.contains("k3s-uninstall.sh"),
        "{fault:?}"
    );
    assert_eq!(node.picture(), before);

    let admin = fleet.admin().await;
    let adopt = |dry_run| pb::AdoptControlPlaneRequest {
        host: "cp1".to_owned(),
        cluster: "old".to_owned(),
        dry_run,
    };
    let (operation, plan) = admin.adopt(adopt(true)).await.unwrap();
    assert_eq!(
        (operation.as_str(), plan.k3s_version.as_str()),
        ("", "v1.33.4+k3s1")
    );
    let (operation, _) = admin.adopt(adopt(false)).await.unwrap();
    succeeded(&admin.ended(&operation).await);
    assert_eq!((node.picture(), node.k3s.starts()), (before.clone(), 1));

    let cluster = only_cluster(&admin).await;
    assert_eq!(
        (
            cluster.name.as_str(),
            cluster.k3s_version.as_str(),
            cluster.adopted
        ),
        ("old", "v1.33.4+k3s1", true)
    );
    assert_eq!(cluster.nodes[0].ready, Some(true), "{cluster:?}");
    let facts = k3s_facts(&admin.host("cp1", true).await.unwrap());
    assert_eq!(facts.origin(), pb::K3sOrigin::Adopted);
    assert_eq!(facts.arguments, ["server", "--tls-san", "203.0.113.9"]);

    let fault = fleet.install(install_on("cp1")).await.unwrap_err();
    assert_eq!(fault.reason, "ADOPTED_K3S");
    let (operation, _) = admin.adopt(adopt(false)).await.unwrap();
    all_unchanged(&admin.ended(&operation).await);
    assert_eq!(node.picture(), before);
}

#[tokio::test]
async fn a_machine_that_was_renamed_keeps_its_node() {
    let fleet = Fleet::start().await;
    let node = fleet.joined("cp1").await;
    succeeded(&fleet.install(install_on("cp1")).await.unwrap());
    node.host.systemd.clear_orders();
    let before = node.picture();
    let renamed = |state: &mut canasta_host::fake::MachineState| {
        state.facts.hostname = "renamed".to_owned();
    };
    node.host.machine.change(renamed);
    let again = fleet.install(install_on("cp1")).await.unwrap();
    all_unchanged(&again);
    assert_eq!((node.picture(), node.starts_ordered()), (before, 0));
    let told = &again.steps[0].detail;
    assert!(
        told.contains("HOSTNAME_CHANGED") && told.contains("set-hostname cp1"),
        "{told}"
    );
    let nodes = only_cluster(&fleet.admin().await).await.nodes;
    let names: Vec<_> = nodes.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, ["cp1"]);
}

#[tokio::test]
async fn what_was_damaged_is_repaired_and_said_so() {
    let fleet = Fleet::start().await;
    let node = fleet.joined("cp1").await;
    succeeded(&fleet.install(install_on("cp1")).await.unwrap());
    let config = node.host.root.path("/etc/rancher/k3s/config.yaml");
    std::fs::write(&config, "node-name: [").unwrap();
    std::fs::remove_file(node.host.root.path(k3s::BINARY)).unwrap();
    let operation = fleet.install(install_on("cp1")).await.unwrap();
    succeeded(&operation);
    let outcomes = outcomes(&operation);
    for step in ["install-binary", "write-config"] {
        assert!(
            outcomes.contains(&(step, StepOutcome::Repaired)),
            "{outcomes:?}"
        );
    }
    all_unchanged(&fleet.install(install_on("cp1")).await.unwrap());
}
