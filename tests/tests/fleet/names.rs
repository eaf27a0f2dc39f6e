//! Names, versions and addresses that must not get in: every field of the controller that takes one, with every kind of
//! text that has ever played tricks.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;

use canasta_proto::pb;
use canasta_tests::fleet::Fleet;
use canasta_tests::fleet::client::{Client, fault};
use canasta_transport::keys::PrivateKey;
use prost::Message as _;
use prost_types::field_descriptor_proto::Type;
use prost_types::{DescriptorProto, FileDescriptorSet};
use tonic::{Code, Status};

type Asked = Pin<Box<dyn Future<Output = Result<(), Status>> + Send>>;
type Ask = fn(Client, String) -> Asked;

/// One field: how it is called, and a request that is good but for it.
struct Field {
    name: &'static str,
    ask: Ask,
}

macro_rules! field {
    ($name:literal, $service:ident.$call:ident, $request:expr) => {
        Field {
            name: $name,
            ask: |client, text| {
                let request: fn(String) -> _ = $request;
                Box::pin(async move { client.$service().$call(request(text)).await.map(drop) })
            },
        }
    };
}

fn header(
    change: impl FnOnce(&mut pb::ImportHeader),
) -> tokio_stream::Once<pb::ImportArtefactRequest> {
    let mut header = pb::ImportHeader {
        name: "k3s".to_owned(),
        version: "v1.34.8+k3s1".to_owned(),
        sha256: "0".repeat(64),
        size: 10,
        arch: "amd64".to_owned(),
    };
    change(&mut header);
    let part = pb::import_artefact_request::Part::Header(header);
    tokio_stream::once(pb::ImportArtefactRequest { part: Some(part) })
}

fn setup(change: impl FnOnce(&mut pb::SetupNfsRequest)) -> pb::SetupNfsRequest {
    let mut request = pb::SetupNfsRequest {
        server: "10.0.0.5".to_owned(),
        share: "/srv/nfs/canasta".to_owned(),
        ..pb::SetupNfsRequest::default()
    };
    change(&mut request);
    request
}

fn enrolment(change: impl FnOnce(&mut pb::EnrolHostRequest)) -> pb::EnrolHostRequest {
    let mut request = pb::EnrolHostRequest {
        token: "x".to_owned(),
        csr: PrivateKey::generate().unwrap().csr().unwrap().into(),
        hostname: "cp1".to_owned(),
        port: 7443,
        ..pb::EnrolHostRequest::default()
    };
    change(&mut request);
    request
}

fn join(change: impl FnOnce(&mut pb::JoinWorkersRequest)) -> pb::JoinWorkersRequest {
    let mut request = pb::JoinWorkersRequest {
        hosts: vec!["w1".to_owned()],
        control_plane: "cp1".to_owned(),
        ..pb::JoinWorkersRequest::default()
    };
    change(&mut request);
    request
}

fn install(
    change: impl FnOnce(&mut pb::InstallControlPlaneRequest),
) -> pb::InstallControlPlaneRequest {
    let mut request = pb::InstallControlPlaneRequest {
        host: "cp1".to_owned(),
        ..pb::InstallControlPlaneRequest::default()
    };
    change(&mut request);
    request
}

/// Names of hosts, clusters, users and operations; versions; addresses.
fn fields() -> Vec<Field> {
    vec![
        field!("AddHost.name", hosts.add_host, |name| pb::AddHostRequest {
            name,
            address: String::new()
        }),
        field!("AddHost.address", hosts.add_host, |address| {
            pb::AddHostRequest {
                name: "n".to_owned(),
                address,
            }
        }),
        field!("GetHost.name", hosts.get_host, |name| pb::GetHostRequest {
            name,
            refresh: false
        }),
        field!("RemoveHost.name", hosts.remove_host, |name| {
            pb::RemoveHostRequest { name, force: false }
        }),
        field!("CreateHostToken.name", hosts.create_host_token, |name| {
            pb::CreateHostTokenRequest { name }
        }),
        field!(
            "InstallControlPlane.host",
            clusters.install_control_plane,
            |text| install(|it| it.host = text)
        ),
        field!(
            "InstallControlPlane.public_ips",
            clusters.install_control_plane,
            |text| install(|it| it.public_ips = vec!["10.0.0.1".to_owned(), text])
        ),
        field!(
            "InstallControlPlane.k3s_version",
            clusters.install_control_plane,
            |text| install(|it| it.k3s_version = text)
        ),
        field!(
            "InstallControlPlane.cluster",
            clusters.install_control_plane,
            |text| install(|it| it.cluster = text)
        ),
        field!(
            "AdoptControlPlane.host",
            clusters.adopt_control_plane,
            |host| pb::AdoptControlPlaneRequest {
                host,
                ..Default::default()
            }
        ),
        field!(
            "AdoptControlPlane.cluster",
            clusters.adopt_control_plane,
            |cluster| pb::AdoptControlPlaneRequest {
                host: "cp1".to_owned(),
                cluster,
                dry_run: false
            }
        ),
        field!("GetCluster.name", clusters.get_cluster, |name| {
            pb::GetClusterRequest { name }
        }),
        field!("ListOperations.host", operations.list_operations, |host| {
            pb::ListOperationsRequest { limit: 0, host }
        }),
        field!("GetOperation.id", operations.get_operation, |id| {
            pb::GetOperationRequest { id }
        }),
        field!("WatchOperation.id", operations.watch_operation, |id| {
            pb::WatchOperationRequest { id, after_seq: 0 }
        }),
        field!("CancelOperation.id", operations.cancel_operation, |id| {
            pb::CancelOperationRequest { id }
        }),
    ]
}

/// The same for people, artefacts and joining machines.
fn more_fields() -> Vec<Field> {
    vec![
        field!("AddUser.name", users.add_user, |name| pb::AddUserRequest {
            name,
            role: pb::Role::Viewer.into()
        }),
        field!("RemoveUser.name", users.remove_user, |name| {
            pb::RemoveUserRequest { name }
        }),
        field!(
            "ImportArtefact.header.name",
            artefacts.import_artefact,
            |text| { header(|it| it.name = text) }
        ),
        field!(
            "ImportArtefact.header.version",
            artefacts.import_artefact,
            |text| header(|it| it.version = text)
        ),
        field!(
            "ImportArtefact.header.sha256",
            artefacts.import_artefact,
            |text| { header(|it| it.sha256 = text) }
        ),
        field!(
            "ImportArtefact.header.arch",
            artefacts.import_artefact,
            |text| { header(|it| it.arch = text) }
        ),
        field!("EnrolHost.expected_name", enrolment.enrol_host, |text| {
            enrolment(|it| it.expected_name = text)
        }),
        field!("EnrolHost.advertise", enrolment.enrol_host, |text| {
            enrolment(|it| it.advertise = text)
        }),
        field!(
            "EnrolHost.hostname",
            enrolment.enrol_host,
            |text| enrolment(|it| it.hostname = text)
        ),
        field!("EnrolHost.agent_version", enrolment.enrol_host, |text| {
            enrolment(|it| it.agent_version = text)
        }),
    ]
}

/// The same for the nodes of clusters.
fn node_fields() -> Vec<Field> {
    vec![
        field!("JoinWorkers.hosts", clusters.join_workers, |host| join(
            |it| it.hosts = vec![host]
        )),
        field!("JoinWorkers.control_plane", clusters.join_workers, |text| {
            join(|it| it.control_plane = text)
        }),
        field!(
            "JoinWorkers.ignore_findings",
            clusters.join_workers,
            |text| join(|it| it.ignore_findings = vec![text])
        ),
        field!("UninstallK3s.host", clusters.uninstall_k3s, |host| {
            pb::UninstallK3sRequest {
                host,
                ..Default::default()
            }
        }),
        field!("UninstallK3s.discard", clusters.uninstall_k3s, |path| {
            pb::UninstallK3sRequest {
                host: "n1".to_owned(),
                discard: vec![path],
                ..Default::default()
            }
        }),
        field!("ForgetCluster.name", clusters.forget_cluster, |name| {
            pb::ForgetClusterRequest { name }
        }),
        field!(
            "GetKubeconfig.cluster",
            clusters.get_kubeconfig,
            |cluster| {
                pb::GetKubeconfigRequest {
                    cluster,
                    server: String::new(),
                }
            }
        ),
        field!("GetKubeconfig.server", clusters.get_kubeconfig, |server| {
            pb::GetKubeconfigRequest {
                cluster: "c".to_owned(),
                server,
            }
        }),
        field!("CordonNode.node", clusters.cordon_node, |node| {
            pb::CordonNodeRequest {
                node,
                cluster: String::new(),
            }
        }),
        field!("CordonNode.cluster", clusters.cordon_node, |cluster| {
            pb::CordonNodeRequest {
                node: "w1".to_owned(),
                cluster,
            }
        }),
        field!("UncordonNode.node", clusters.uncordon_node, |node| {
            pb::UncordonNodeRequest {
                node,
                cluster: String::new(),
            }
        }),
        field!("UncordonNode.cluster", clusters.uncordon_node, |cluster| {
            pb::UncordonNodeRequest {
                node: "w1".to_owned(),
                cluster,
            }
        }),
        field!("DrainNode.node", clusters.drain_node, |node| {
            pb::DrainNodeRequest {
                node,
                ..Default::default()
            }
        }),
        field!("DrainNode.cluster", clusters.drain_node, |cluster| {
            pb::DrainNodeRequest {
                node: "w1".to_owned(),
                cluster,
                timeout_seconds: 0,
            }
        }),
        field!(
            "GetAgentPackage.arch",
            artefacts.get_agent_package,
            |arch| {
                pb::GetAgentPackageRequest {
                    format: pb::PackageFormat::Deb.into(),
                    arch,
                }
            }
        ),
    ]
}

/// The same for the storage of clusters.
fn storage_fields() -> Vec<Field> {
    vec![
        field!("ListStorage.cluster", storage.list_storage, |cluster| {
            pb::ListStorageRequest { cluster }
        }),
        field!("CheckStorage.cluster", storage.check_storage, |cluster| {
            pb::CheckStorageRequest { cluster }
        }),
        field!("SetupNfs.cluster", storage.setup_nfs, |cluster| setup(
            |request| request.cluster = cluster
        )),
        field!("SetupNfs.host", storage.setup_nfs, |host| setup(
            |request| {
                request.host = host;
                request.server = String::new();
            }
        )),
        field!("SetupNfs.server", storage.setup_nfs, |server| setup(
            |request| request.server = server
        )),
        field!("SetupNfs.share", storage.setup_nfs, |share| setup(
            |request| request.share = share
        )),
        field!("SetupNfs.storage_class", storage.setup_nfs, |class| setup(
            |request| request.storage_class = class
        )),
        field!("SetupNfs.clients", storage.setup_nfs, |client| setup(
            |request| {
                request.host = "cp1".to_owned();
                request.server = String::new();
                request.clients = vec![client];
            }
        )),
        field!("RemoveStorage.cluster", storage.remove_storage, |cluster| {
            pb::RemoveStorageRequest {
                cluster,
                storage_class: "nfs".to_owned(),
                ..Default::default()
            }
        }),
        field!(
            "RemoveStorage.storage_class",
            storage.remove_storage,
            |storage_class| pb::RemoveStorageRequest {
                storage_class,
                ..Default::default()
            }
        ),
        field!("RemoveStorage.host", storage.remove_storage, |host| {
            pb::RemoveStorageRequest {
                host,
                share: "/srv/nfs/canasta".to_owned(),
                ..Default::default()
            }
        }),
        field!("RemoveStorage.share", storage.remove_storage, |share| {
            pb::RemoveStorageRequest {
                host: "cp1".to_owned(),
                share,
                ..Default::default()
            }
        }),
    ]
}

fn all_fields() -> impl Iterator<Item = Field> {
    fields()
        .into_iter()
        .chain(more_fields())
        .chain(node_fields())
        .chain(storage_fields())
}

/// Texts that must not get in, with what they are.
fn tricks() -> Vec<(&'static str, String)> {
    let text = |what, text: &str| (what, text.to_owned());
    vec![
        text("a space", "a b"),
        text("a space at the end", "cp1 "),
        text("a space after a version", "v1.34.8+k3s1 "),
        text("a command after a version", "v1.34.8+k3s1;reboot"),
        text("a way up", ".."),
        text("a way up within", "a/../../etc/passwd"),
        text("a command", "$(id)"),
        text("a second command", "a;reboot"),
        text("backquotes", "`id`"),
        text("a pipe", "a|b"),
        text("a quote", "a'b\"c"),
        text("a line break", "a\nb"),
        text("a carriage return", "a\rb"),
        text("a zero", "a\0b"),
        text("an escape", "a\u{1b}[31mb"),
        text("a mark that turns text around", "a\u{202e}b"),
        text("a mark without width", "a\u{200b}b"),
        text("a letter that looks like another", "\u{441}p1"),
        ("300 characters", "a".repeat(300)),
    ]
}

/// Fields that have no row, each with the reason.
const EXEMPT: [(&str, &str); 27] = [
    (
        "EnrolHost.token",
        "a secret: compared by its hash, never shown",
    ),
    (
        "RedeemUser.token",
        "a secret: compared by its hash, never shown",
    ),
    ("StartTask.task_id", AGENTS_OWN),
    ("StartTask.spec.k3s_install.spec.version", AGENTS_OWN),
    ("StartTask.spec.k3s_install.spec.binary_sha256", AGENTS_OWN),
    ("StartTask.spec.k3s_install.spec.node_ip", AGENTS_OWN),
    ("StartTask.spec.k3s_install.spec.flannel_link", AGENTS_OWN),
    ("StartTask.spec.k3s_install.spec.node_name", AGENTS_OWN),
    ("StartTask.spec.k3s_install.spec.tls_sans", AGENTS_OWN),
    ("StartTask.spec.k3s_install.spec.server_url", AGENTS_OWN),
    ("StartTask.spec.k3s_install.spec.local_paths", AGENTS_OWN),
    ("StartTask.spec.k3s_uninstall.discard", AGENTS_OWN),
    ("StartTask.spec.k3s_uninstall.local_paths", AGENTS_OWN),
    ("InspectExport.path", AGENTS_OWN),
    ("StartTask.spec.export_ensure.clients", AGENTS_OWN),
    ("StartTask.spec.export_ensure.path", AGENTS_OWN),
    ("StartTask.spec.export_remove.path", AGENTS_OWN),
    ("StartTask.spec.mount_proof.nonce", AGENTS_OWN),
    ("StartTask.spec.mount_proof.path", AGENTS_OWN),
    ("StartTask.spec.mount_proof.server", AGENTS_OWN),
    ("InspectUninstall.local_paths", AGENTS_OWN),
    ("CreateJoinCredential.description", AGENTS_OWN),
    ("StoreJoinCredential.token", AGENTS_OWN),
    ("SendProbes.address", AGENTS_OWN),
    ("WatchTask.task_id", AGENTS_OWN),
    ("StatArtefact.sha256", AGENTS_OWN),
    ("PushArtefact.header.sha256", AGENTS_OWN),
];
/// An agent takes calls of its controller alone.
const AGENTS_OWN: &str = "in the table of the agent's own tests, agent/tests/agent/api.rs";

/// The text fields of all requests as the contract has them: `ImportArtefact.header.name`.
fn text_fields() -> BTreeSet<String> {
    let set = FileDescriptorSet::decode(pb::DESCRIPTORS).unwrap();
    let messages: BTreeMap<String, &DescriptorProto> = set
        .file
        .iter()
        .flat_map(|file| {
            let package = file.package();
            file.message_type
                .iter()
                .map(move |message| (format!(".{package}.{}", message.name()), message))
        })
        .collect();
    let mut fields = BTreeSet::new();
    let methods = set.file.iter().flat_map(|file| &file.service);
    for method in methods.flat_map(|service| &service.method) {
        walk(&messages, method.input_type(), method.name(), &mut fields);
    }
    fields
}

fn walk(
    messages: &BTreeMap<String, &DescriptorProto>,
    message: &str,
    path: &str,
    fields: &mut BTreeSet<String>,
) {
    for field in &messages[message].field {
        let path = format!("{path}.{}", field.name());
        match field.r#type() {
            Type::String => {
                fields.insert(path);
            }
            Type::Message => walk(messages, field.type_name(), &path, fields),
            _ => {}
        }
    }
}

#[test]
fn every_text_of_a_request_has_a_row_or_a_reason() {
    let mut judged: BTreeSet<String> = all_fields().map(|field| field.name.to_owned()).collect();
    judged.extend(EXEMPT.iter().map(|(name, _reason)| (*name).to_owned()));
    let of_contract = text_fields();
    let missing: Vec<_> = of_contract.difference(&judged).collect();
    let gone: Vec<_> = judged.difference(&of_contract).collect();
    assert!(
        missing.is_empty() && gone.is_empty(),
        "no row: {missing:#?}; no field: {gone:#?}"
    );
}

#[tokio::test]
async fn no_field_takes_what_breaks_its_rule() {
    let fleet = Fleet::start().await;
    let _node = fleet.joined("cp1").await;
    let admin = fleet.admin().await;
    let mut wrong = Vec::new();
    for field in all_fields() {
        for (what, text) in tricks() {
            let place = format!("{} with {what}", field.name);
            let Err(status) = (field.ask)(admin.clone(), text).await else {
                wrong.push(format!("{place}: taken"));
                continue;
            };
            let fault = fault(status);
            if fault.code != Code::InvalidArgument {
                wrong.push(format!(
                    "{place}: {:?} {}: {}",
                    fault.code, fault.reason, fault.message
                ));
            } else if fault.message.len() < 10 || fault.reason.is_empty() {
                wrong.push(format!("{place}: names no rule: {fault:?}"));
            }
            let told = format!(
                "{}{}{}{:?}",
                fault.message, fault.hint, fault.subject, fault.violations
            );
            if told
                .chars()
                .any(|character| character.is_control() || !character.is_ascii())
            {
                wrong.push(format!("{place}: echoed: {told:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let hosts = admin
        .hosts()
        .list_hosts(pb::ListHostsRequest {})
        .await
        .unwrap()
        .into_inner()
        .hosts;
    assert_eq!(hosts.len(), 1, "{hosts:?}");
    let operations = admin
        .operations()
        .list_operations(pb::ListOperationsRequest::default())
        .await
        .unwrap();
    assert_eq!(operations.into_inner().operations, []);
}

#[tokio::test]
async fn the_cli_refuses_them_as_wrong_usage() {
    let fleet = Fleet::start().await;
    let cli = fleet.cli("anna", pb::Role::Admin).await;
    for arguments in [
        vec!["host", "add", "--name", "a b"],
        vec!["host", "add", "--name", "a\u{202e}b"],
        vec!["host", "add", "--name", "n", "--address", "10.0.0.1;reboot"],
        vec!["install", "k8s-cp", "--host", "../x"],
        vec![
            "install",
            "k8s-cp",
            "--host",
            "cp1",
            "--k3s-version",
            "latest",
        ],
    ] {
        let output = cli.run(&arguments).await;
        assert_eq!(output.code, 2, "{arguments:?}: {output:?}");
        assert!(output.stderr.starts_with("error: "), "{output:?}");
        assert!(!output.stderr.contains('\u{202e}'), "{output:?}");
    }
}
