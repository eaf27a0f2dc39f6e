//! Names, versions and addresses that must not get in: every field of the controller that takes one, with every kind of
//! text that has ever played tricks.

use std::pin::Pin;

use canasta_proto::pb;
use canasta_tests::fleet::Fleet;
use canasta_tests::fleet::client::{Client, fault};
use canasta_transport::keys::PrivateKey;
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
            pb::RemoveHostRequest { name }
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
        field!("ImportArtefact.name", artefacts.import_artefact, |text| {
            header(|it| it.name = text)
        }),
        field!(
            "ImportArtefact.version",
            artefacts.import_artefact,
            |text| header(|it| it.version = text)
        ),
        field!("ImportArtefact.sha256", artefacts.import_artefact, |text| {
            header(|it| it.sha256 = text)
        }),
        field!("ImportArtefact.arch", artefacts.import_artefact, |text| {
            header(|it| it.arch = text)
        }),
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
    ]
}

/// Texts that must not get in, with what they are.
fn tricks() -> Vec<(&'static str, String)> {
    let text = |what, text: &str| (what, text.to_owned());
    vec![
        text("a space", "a b"),
        text("a space at the end", "cp1 "),
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

/// What a hostname may hold that a name may not: it is only shown.
fn passes(field: &Field, what: &str) -> bool {
    const SIGNS: [&str; 6] = [
        "a way up",
        "a way up within",
        "a command",
        "a second command",
        "backquotes",
        "a pipe",
    ];
    field.name == "EnrolHost.hostname" && (SIGNS.contains(&what) || what == "a quote")
}

#[tokio::test]
async fn no_field_takes_what_breaks_its_rule() {
    let fleet = Fleet::start().await;
    let _node = fleet.joined("cp1").await;
    let admin = fleet.admin().await;
    let mut wrong = Vec::new();
    for field in fields().into_iter().chain(more_fields()) {
        for (what, text) in tricks() {
            if passes(&field, what) {
                continue;
            }
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
