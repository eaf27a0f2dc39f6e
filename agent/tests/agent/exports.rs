//! Exports over fake hosts: both servers, twice, changed, half done, refused.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use canasta_host::fake::{Exit, FakeHost, Running};
use canasta_host::machine::{Listener, Protocol};
use canasta_host::outside::{Program, Ran};
use canasta_proto::pb;
use canasta_proto::pb::StepOutcome::{Changed, Repaired, Unchanged};
use canasta_proto::pb::task_spec::Verb;
use tonic::Code;

use crate::fixture::{fault, joined};
use crate::storage::{Ended, SHARE, done};

mod kernel;
mod others;

const GANESHA: &str = "nfs-ganesha.service";
const OUR_EXPORTS: &str = "/etc/ganesha/canasta.conf";
const MAIN: &str = "/etc/ganesha/ganesha.conf";

fn ensure(path: &str, clients: &[&str]) -> Verb {
    Verb::ExportEnsure(pb::ExportEnsureTask {
        backend: pb::NfsBackend::Unspecified.into(),
        path: path.to_owned(),
        clients: clients.iter().map(|&client| client.to_owned()).collect(),
    })
}

fn remove(path: &str) -> Verb {
    let path = path.to_owned();
    Verb::ExportRemove(pb::ExportRemoveTask { path })
}

fn install(backend: pb::NfsBackend) -> Verb {
    let backend = backend.into();
    Verb::NfsInstall(pb::NfsInstallTask { backend })
}

fn write(root: &canasta_host::Root, path: &str, text: &str) {
    let full = root.path(path);
    std::fs::create_dir_all(full.parent().expect("a parent")).expect("a directory");
    std::fs::write(full, text).expect("a file");
}

fn read(host: &FakeHost, path: &str) -> String {
    std::fs::read_to_string(host.root.path(path)).unwrap_or_default()
}

/// What the packages of nfs-ganesha bring, as far as anybody looks.
fn bring_ganesha(root: &canasta_host::Root) {
    for path in ["/usr/bin/ganesha.nfsd", "/usr/lib/ganesha/libfsalvfs.so"] {
        write(root, path, "x");
    }
    write(
        root,
        "/usr/lib/systemd/system/nfs-ganesha.service",
        "[Service]\nType=forking\n",
    );
}

/// A node whose kernel has no NFS server.
fn without_nfsd(host: &FakeHost) {
    host.machine.change(|state| {
        state.kernel_features.insert("nfsd".to_owned(), Some(false));
    });
}

fn reason(ended: Ended) -> String {
    let error = ended.expect_err("refused");
    assert!(!error.hint.is_empty(), "{error:?}");
    error.reason
}

#[tokio::test]
async fn packages_come_after_their_settings_and_once() {
    let (_controller, node, _agent, mut client) = joined().await;
    without_nfsd(&node.host);
    node.host.outside.on_run(|root, program| {
        if program.arguments.iter().any(|one| one == "install") {
            // A package starts what it brings, with what it finds.
            let settings = std::fs::read_to_string(root.path(MAIN)).expect("settings");
            assert!(settings.contains("Protocols = 4;"));
            assert!(root.path(OUR_EXPORTS).exists());
            let rpcbind = root.path("/etc/systemd/system/rpcbind.socket");
            let link = std::fs::read_link(rpcbind).expect("a link");
            assert_eq!(link, Path::new("/dev/null"));
            bring_ganesha(root);
        }
        Ran::default()
    });
    let first = done(&mut client, install(pb::NfsBackend::Unspecified)).await;
    let (outcome, detail) = first.expect("installed");
    assert_eq!(outcome, Changed);
    assert!(detail.contains("nfs-ganesha-vfs"), "{detail}");
    let ran: Vec<String> = node
        .host
        .outside
        .ran()
        .iter()
        .map(Program::in_words)
        .collect();
    assert_eq!(ran.len(), 3, "{ran:?}");
    assert!(ran[0].ends_with("--configure -a") && ran[1].ends_with("update"));
    assert!(ran[2].ends_with("install nfs-ganesha nfs-ganesha-vfs"));
    let again = done(&mut client, install(pb::NfsBackend::Ganesha)).await;
    assert_eq!(again.expect("there").0, Unchanged);
    assert_eq!(node.host.outside.ran().len(), 3);
}

#[tokio::test]
async fn a_mirror_that_is_down_is_told_with_what_the_package_manager_says() {
    let (_controller, node, _agent, mut client) = joined().await;
    without_nfsd(&node.host);
    node.host.outside.on_run(|_, program| {
        let is_refresh = program.arguments.iter().any(|one| one == "update");
        let line = if is_refresh {
            "E: Failed to fetch http://deb.example.org/x"
        } else {
            "E: Unable to locate package nfs-ganesha"
        };
        Ran {
            status: 100,
            tail: vec![line.to_owned()],
        }
    });
    let error = done(&mut client, install(pb::NfsBackend::Ganesha)).await;
    let error = error.expect_err("not installed");
    assert_eq!(error.reason, "PACKAGE_MIRROR_UNREACHABLE");
    let lines = &error.evidence[0].lines;
    assert!(
        lines.iter().any(|line| line.contains("deb.example.org")),
        "{lines:?}"
    );
    let kernel = done(&mut client, install(pb::NfsBackend::Kernel)).await;
    assert_eq!(reason(kernel), "NFS_SERVER_UNAVAILABLE");
    // What was prepared is ours, so a second try goes on.
    node.host.outside.on_run(|root, _| {
        bring_ganesha(root);
        Ran::default()
    });
    let again = done(&mut client, install(pb::NfsBackend::Ganesha)).await;
    assert_eq!(again.expect("installed").0, Repaired);
}

#[tokio::test]
async fn an_export_by_ganesha_is_made_once_changed_in_place_and_mended() {
    let (_controller, node, _agent, mut client) = joined().await;
    let host = &node.host;
    without_nfsd(host);
    let missing = done(&mut client, ensure(SHARE, &["10.0.0.5"])).await;
    assert_eq!(reason(missing), "NFS_SERVER_MISSING");
    bring_ganesha(&host.root);
    host.ganesha.set_grace(3);
    let first = done(&mut client, ensure(SHARE, &["10.0.0.6", "10.0.0.5"])).await;
    let (outcome, detail) = first.expect("exported");
    assert_eq!(outcome, Changed);
    assert!(
        detail.contains("grace period of the server was waited out"),
        "{detail}"
    );
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(host.root.path(SHARE))
            .expect("made")
            .permissions(),
    );
    assert_eq!(mode & 0o7777, 0o755);
    let served = host.ganesha.exports();
    let (number, export) = served.first_key_value().expect("served");
    assert_eq!(export.path, SHARE);
    assert_eq!(export.clients, ["10.0.0.5", "10.0.0.6"]);

    let changes = host.ganesha.changes();
    let same = done(&mut client, ensure(SHARE, &["10.0.0.5", "10.0.0.6"])).await;
    assert_eq!(same.expect("there").0, Unchanged);
    assert_eq!(host.ganesha.changes(), changes);

    let other = done(&mut client, ensure(SHARE, &["10.0.0.7"])).await;
    assert_eq!(other.expect("changed").0, Changed);
    assert_eq!(host.ganesha.exports()[number].clients, ["10.0.0.7"]);
    let second = done(&mut client, ensure("/srv/nfs/other", &["10.0.0.7"])).await;
    assert_eq!(second.expect("exported").0, Changed);
    assert_eq!(host.ganesha.exports().len(), 2);

    host.ganesha.forget();
    let mended = done(&mut client, ensure(SHARE, &["10.0.0.7"])).await;
    assert_eq!(mended.expect("mended").0, Repaired);
    write(&host.root, OUR_EXPORTS, "EXPORT {");
    let mended = done(&mut client, ensure(SHARE, &["10.0.0.7"])).await;
    assert_eq!(mended.expect("mended").0, Repaired);
    assert_eq!(read(host, OUR_EXPORTS).matches("EXPORT {").count(), 2);
}

#[tokio::test]
async fn an_export_that_was_cut_in_half_is_brought_to_its_end() {
    let (_controller, node, _agent, mut client) = joined().await;
    let host = &node.host;
    without_nfsd(host);
    bring_ganesha(&host.root);
    host.ganesha.refuse(Some(
        "0 export entries in F added because block validation errors",
    ));
    let refused = done(&mut client, ensure(SHARE, &["10.0.0.5"])).await;
    assert_eq!(reason(refused), "GANESHA_REFUSED");
    let listed = client.list_exports(pb::ListExportsRequest {}).await;
    assert!(!listed.expect("listed").into_inner().exports[0].complete);
    host.ganesha.refuse(None);
    let again = done(&mut client, ensure(SHARE, &["10.0.0.5"])).await;
    assert_eq!(again.expect("exported").0, Repaired);
    let listed = client.list_exports(pb::ListExportsRequest {}).await;
    let listed = listed.expect("listed").into_inner();
    assert!(listed.exports[0].complete);
    assert_eq!(listed.exports[0].clients, ["10.0.0.5"]);
    assert_eq!(listed.chosen(), pb::NfsBackend::Ganesha);
    let [kernel, ganesha] = &listed.backends[..] else {
        panic!("{listed:?}");
    };
    assert!(
        !kernel.available && kernel.reason.contains("no NFS server"),
        "{kernel:?}"
    );
    assert!(ganesha.available && ganesha.running && ganesha.in_grace == Some(false));
}

#[tokio::test]
async fn after_the_last_export_nothing_is_left_but_the_data_and_a_number_is_kept() {
    let (_controller, node, _agent, mut client) = joined().await;
    let host = &node.host;
    without_nfsd(host);
    bring_ganesha(&host.root);
    for path in [SHARE, "/srv/nfs/other"] {
        let made = done(&mut client, ensure(path, &["10.0.0.5"])).await;
        assert_eq!(made.expect("exported").0, Changed);
        write(&host.root, &format!("{path}/precious"), "data");
    }
    let numbers = host.ganesha.exports();
    let gone = done(&mut client, remove(SHARE)).await;
    assert_eq!(gone.expect("removed").0, Changed);
    assert_eq!(host.ganesha.exports().len(), 1);
    assert!(read(host, OUR_EXPORTS).contains("/srv/nfs/other"));
    let again = done(&mut client, remove(SHARE)).await;
    assert_eq!(again.expect("gone").0, Unchanged);
    let last = done(&mut client, remove("/srv/nfs/other")).await;
    let (outcome, detail) = last.expect("removed");
    assert_eq!(outcome, Changed);
    assert!(detail.contains("stopped"), "{detail}");
    for path in [OUR_EXPORTS, MAIN] {
        assert!(!host.root.path(path).exists(), "{path}");
    }
    assert_eq!(read(host, &format!("{SHARE}/precious")), "data");
    host.ganesha.forget();
    let back = done(&mut client, ensure(SHARE, &["10.0.0.5"])).await;
    back.expect("exported again");
    let (number, _) = host.ganesha.exports().pop_first().expect("served");
    assert_eq!(numbers[&number].path, SHARE);
}

async fn is_up(host: &FakeHost, unit: &str) -> bool {
    let unit = host.host().systemd.unit(unit).await;
    unit.is_ok_and(|unit| unit.is_active())
}

#[tokio::test]
async fn a_share_that_the_server_refuses_harms_no_other() {
    let (_controller, node, _agent, mut client) = joined().await;
    let host = &node.host;
    without_nfsd(host);
    bring_ganesha(&host.root);
    let good = "/srv/nfs/good";
    let made = done(&mut client, ensure(good, &["10.0.0.5"])).await;
    made.expect("exported");
    host.ganesha.refuse(Some("0 export entries added"));
    for (share, clients) in [(SHARE, "10.0.0.5"), (good, "10.0.0.6")] {
        let refused = done(&mut client, ensure(share, &[clients])).await;
        assert_eq!(reason(refused), "GANESHA_REFUSED");
        // What it starts with next is what it serves now.
        let file = read(host, OUR_EXPORTS);
        assert!(
            !file.contains(SHARE) && file.contains("Clients = 10.0.0.5;"),
            "{file}"
        );
    }
    host.ganesha.refuse(None);
    let third = done(&mut client, ensure("/srv/nfs/third", &["10.0.0.5"])).await;
    assert_eq!(third.expect("exported").0, Changed);
    assert!(!read(host, OUR_EXPORTS).contains(SHARE));
    let complete = |listed: pb::ListExportsResponse| -> Vec<(String, bool)> {
        let exports = listed.exports.into_iter();
        exports.map(|one| (one.path, one.complete)).collect()
    };
    let listed = client.list_exports(pb::ListExportsRequest {}).await;
    let expected = [(good, false), (SHARE, false), ("/srv/nfs/third", true)];
    assert_eq!(
        complete(listed.expect("listed").into_inner()),
        expected.map(|(path, complete)| (path.to_owned(), complete))
    );
}

#[tokio::test]
async fn settings_that_the_server_has_not_read_have_it_start_anew_until_it_did() {
    let (_controller, node, _agent, mut client) = joined().await;
    let host = &node.host;
    without_nfsd(host);
    bring_ganesha(&host.root);
    let made = done(&mut client, ensure(SHARE, &["10.0.0.5"])).await;
    made.expect("exported");
    let runs = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&runs);
    host.systemd.on_start(GANESHA, move |_| {
        let run = counted.fetch_add(1, Ordering::SeqCst);
        async move {
            let up: Running = Box::new(());
            if run == 0 { Err(Exit(2)) } else { Ok(up) }
        }
    });
    std::fs::remove_file(host.root.path(MAIN)).expect("removed");
    let failed = done(&mut client, ensure(SHARE, &["10.0.0.5"])).await;
    assert_eq!(reason(failed), "NFS_SERVER_FAILED");
    assert!(host.root.path(MAIN).exists());
    // The files are as they should be now, and a server that was brought up by hand in between may have read others.
    let mended = done(&mut client, ensure(SHARE, &["10.0.0.5"])).await;
    assert!(mended.expect("mended").1.contains("started"));
    assert_eq!(runs.load(Ordering::SeqCst), 2);
    let same = done(&mut client, ensure(SHARE, &["10.0.0.5"])).await;
    assert_eq!(same.expect("there").0, Unchanged);
    assert_eq!(runs.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn what_an_export_would_meet_is_told_and_nothing_is_changed() {
    let (_controller, node, _agent, mut client) = joined().await;
    let host = &node.host;
    without_nfsd(host);
    // The directory of a server that is not there, and no word of it.
    std::fs::create_dir_all(host.root.path("/proc/fs/nfsd")).expect("a directory");
    host.machine.change(|state| {
        state.kernel_features.insert("nfsd".to_owned(), None);
    });
    let look = |path: &str| pb::InspectExportRequest {
        backend: pb::NfsBackend::Unspecified.into(),
        path: path.to_owned(),
    };
    let found = client.inspect_export(look(SHARE)).await;
    let found = found.expect("looked").into_inner();
    assert_eq!(found.backend(), pb::NfsBackend::Ganesha);
    assert_eq!(found.packages, ["nfs-ganesha", "nfs-ganesha-vfs"]);
    assert!(found.directory_missing && found.refusal.is_none() && found.export.is_none());
    assert!(found.notes[0].contains("comes up at boot"), "{found:?}");
    for path in [
        "/srv/nfs",
        "/etc/ganesha",
        "/var/lib/canasta-agent/owned/storage.json",
    ] {
        assert!(!host.root.path(path).exists(), "{path}");
    }
    bring_ganesha(&host.root);
    let made = done(&mut client, ensure(SHARE, &["10.0.0.5"])).await;
    made.expect("exported");
    let found = client.inspect_export(look(SHARE)).await;
    let found = found.expect("looked").into_inner();
    assert_eq!(found.export.expect("known").clients, ["10.0.0.5"]);
    assert!(!found.directory_missing && found.packages.is_empty());
    let inside = client.inspect_export(look(&format!("{SHARE}/a"))).await;
    let refusal = inside.expect("looked").into_inner().refusal;
    assert_eq!(refusal.expect("nested").reason, "EXPORT_NESTED");
    let broken = client.inspect_export(look("/etc")).await;
    let broken = fault(&broken.expect_err("a system directory"));
    assert_eq!(broken.code, Code::InvalidArgument);
}

#[tokio::test]
async fn what_can_not_be_shared_is_refused_before_anything_is_changed() {
    let (_controller, node, _agent, mut client) = joined().await;
    let host = &node.host;
    without_nfsd(host);
    bring_ganesha(&host.root);
    host.removal.mount("/data/memory", "tmpfs", "tmpfs");
    write(&host.root, "/etc/exports", "/srv/homes *(rw)\n");
    write(&host.root, "/srv/file", "x");
    for (path, expected) in [
        ("/data/memory/x", "SHARE_FILE_SYSTEM"),
        ("/srv/homes/wiki", "EXPORT_FOREIGN"),
        ("/srv/file", "SHARE_NOT_A_DIRECTORY"),
    ] {
        let ended = done(&mut client, ensure(path, &["10.0.0.5"])).await;
        assert_eq!(reason(ended), expected, "{path}");
    }
    write(
        &host.root,
        MAIN,
        "EXPORT { Export_Id = 1; Path = /vault; }\n",
    );
    let ended = done(&mut client, ensure(SHARE, &["10.0.0.5"])).await;
    assert_eq!(reason(ended), "GANESHA_NOT_OURS");
    assert!(!host.root.path("/srv/nfs").exists());
    std::fs::remove_file(host.root.path(MAIN)).expect("removed");
    host.machine.change(|state| {
        state.listeners.push(Listener {
            protocol: Protocol::Tcp,
            address: "0.0.0.0".parse().expect("an address"),
            port: 2049,
            inode: 7,
            pid: Some(77),
            process: Some("unfsd".to_owned()),
        });
    });
    let taken = done(&mut client, ensure(SHARE, &["10.0.0.5"])).await;
    let taken = taken.expect_err("taken");
    assert_eq!(taken.reason, "NFS_PORT_TAKEN");
    assert!(
        taken.message.contains("unfsd (process 77)"),
        "{}",
        taken.message
    );
    host.machine.change(|state| state.listeners.clear());
    done(&mut client, ensure(SHARE, &["10.0.0.5"]))
        .await
        .expect("exported");
    let nested = done(&mut client, ensure(&format!("{SHARE}/a"), &["10.0.0.5"])).await;
    assert_eq!(reason(nested), "EXPORT_NESTED");
    let both = Verb::ExportEnsure(pb::ExportEnsureTask {
        backend: pb::NfsBackend::Kernel.into(),
        path: SHARE.to_owned(),
        clients: vec!["10.0.0.5".to_owned()],
    });
    assert_eq!(reason(done(&mut client, both).await), "NFS_SERVER_CONFLICT");
    let foreign = done(&mut client, remove("/srv/homes")).await;
    assert_eq!(reason(foreign), "EXPORT_FOREIGN");
}

#[tokio::test]
async fn a_server_that_does_not_start_is_told() {
    let (_controller, node, _agent, mut client) = joined().await;
    without_nfsd(&node.host);
    bring_ganesha(&node.host.root);
    node.host
        .systemd
        .on_start(GANESHA, |_| async { Err(Exit(2)) });
    let failed = done(&mut client, ensure(SHARE, &["10.0.0.5"])).await;
    assert_eq!(reason(failed), "NFS_SERVER_FAILED");
}

#[tokio::test]
async fn tasks_of_storage_that_break_a_rule_are_refused() {
    let (_controller, _node, _agent, mut client) = joined().await;
    let mut broken = vec![
        ensure(SHARE, &[]),
        ensure(SHARE, &["*"]),
        ensure(SHARE, &["0.0.0.0/0"]),
        ensure(SHARE, &["node1"]),
        ensure(SHARE, &["10.0.0.5", "10.0.0.5"]),
        ensure(SHARE, &["10.0.0.5(rw)"]),
        Verb::ExportEnsure(pb::ExportEnsureTask {
            backend: 99,
            path: SHARE.to_owned(),
            clients: vec!["10.0.0.5".to_owned()],
        }),
        Verb::NfsInstall(pb::NfsInstallTask { backend: 99 }),
    ];
    for path in [
        "",
        "/",
        "/etc",
        "srv",
        "/srv/a b",
        "/srv/../etc",
        "/srv/a/",
        "/srv/\"a\"",
        "/srv/a\nb",
    ] {
        broken.push(ensure(path, &["10.0.0.5"]));
        broken.push(remove(path));
    }
    for verb in broken {
        let what = format!("{verb:?}");
        let request = pb::StartTaskRequest {
            task_id: "t1".to_owned(),
            spec: Some(pb::TaskSpec { verb: Some(verb) }),
        };
        let fault = fault(&client.start_task(request).await.expect_err(&what));
        assert_eq!(fault.code, Code::InvalidArgument, "{what}: {fault:?}");
        assert!(
            !fault.subject.is_empty() && !fault.message.contains('\n'),
            "{what}"
        );
    }
}

#[tokio::test]
async fn a_share_whose_disk_is_not_mounted_is_not_made_anew() {
    let (_controller, node, _agent, mut client) = joined().await;
    let host = &node.host;
    without_nfsd(host);
    bring_ganesha(&host.root);
    let made = done(&mut client, ensure(SHARE, &["10.0.0.5"])).await;
    made.expect("exported");
    host.removal.mount("/srv/nfs", "ext4", "/dev/vdb1");
    let moved = done(&mut client, ensure(SHARE, &["10.0.0.6"])).await;
    assert_eq!(reason(moved), "SHARE_MOVED");
    std::fs::remove_dir(host.root.path(SHARE)).expect("removed");
    let gone = done(&mut client, ensure(SHARE, &["10.0.0.6"])).await;
    assert_eq!(reason(gone), "SHARE_GONE");
    assert!(!host.root.path(SHARE).exists());
    assert!(read(host, OUR_EXPORTS).contains("Clients = 10.0.0.5;"));
}

#[tokio::test]
async fn an_installation_that_was_cut_short_is_done_again_although_its_files_are_there() {
    let (_controller, node, _agent, mut client) = joined().await;
    without_nfsd(&node.host);
    node.host.outside.on_run(|root, program| {
        let is_install = program.arguments.iter().any(|one| one == "install");
        if is_install {
            bring_ganesha(root);
        }
        Ran {
            status: i32::from(is_install),
            tail: Vec::new(),
        }
    });
    let cut = done(&mut client, install(pb::NfsBackend::Ganesha)).await;
    assert_eq!(reason(cut), "PACKAGES_FAILED");
    node.host.outside.on_run(|_, _| Ran::default());
    let ran = node.host.outside.ran().len();
    let again = done(&mut client, install(pb::NfsBackend::Ganesha)).await;
    assert_eq!(again.expect("installed").0, Repaired);
    assert!(node.host.outside.ran().len() > ran);
    let there = done(&mut client, install(pb::NfsBackend::Ganesha)).await;
    assert_eq!(there.expect("there").0, Unchanged);
}
