//! The kernel's server, with an `exportfs` that keeps its table as the real one does.

use canasta_proto::pb::StepOutcome::{Changed, Repaired, Unchanged};

use super::*;

/// What the packages of the kernel's server bring, with an `exportfs` that keeps the table.
fn bring_kernel(host: &FakeHost) {
    write(&host.root, "/usr/sbin/exportfs", "x");
    write(
        &host.root,
        "/usr/lib/systemd/system/nfs-server.service",
        "[Service]\nType=oneshot\n",
    );
    host.outside.on_run(exportfs);
}

const KERNEL: &str = "nfs-server.service";
const TABLE: &str = "/var/lib/nfs/etab";

/// As exportfs(8) of nfs-utils: `-i -o OPTIONS CLIENT:PATH…` lets in, `-u CLIENT:PATH…` shuts out, and nothing else is touched.
fn exportfs(root: &canasta_host::Root, program: &Program) -> Ran {
    assert_eq!(program.path, "/usr/sbin/exportfs");
    let (options, entries) = match &*program.arguments {
        [first, second, options, entries @ ..] if first == "-i" && second == "-o" => {
            (Some(options), entries)
        }
        [first, entries @ ..] if first == "-u" => (None, entries),
        other => panic!("{other:?}"),
    };
    let table = std::fs::read_to_string(root.path(TABLE)).unwrap_or_default();
    let mut lines: Vec<String> = table.lines().map(str::to_owned).collect();
    for entry in entries {
        let (client, path) = entry.rsplit_once(":/").expect("a client and a path");
        let client = client.trim_start_matches('[').trim_end_matches(']');
        let begins = format!("/{path}\t{client}(");
        lines.retain(|line| !line.starts_with(&begins));
        if let Some(options) = options {
            lines.push(format!("{begins}{options},secure)"));
        }
    }
    write(root, TABLE, &format!("{}\n", lines.join("\n")));
    Ran::default()
}

#[tokio::test]
async fn the_kernels_server_is_told_of_our_exports_alone() {
    let (_controller, node, _agent, mut client) = joined().await;
    let host = &node.host;
    bring_kernel(host);
    let all = ["10.0.0.5", "10.0.1.0/24", "2001:db8::5"];
    let made = done(&mut client, ensure(SHARE, &all)).await;
    let (outcome, detail) = made.expect("exported");
    assert_eq!(outcome, Changed);
    assert!(detail.contains("the kernel's NFS server"), "{detail}");
    assert!(read(host, "/etc/nfs.conf.d/canasta.conf").contains("vers3=n"));
    assert!(read(host, "/etc/exports.d/canasta.exports").contains("10.0.1.0/24(rw,sync"));
    // What others have it export by hand.
    let by_hand = "/srv/homes\t10.0.0.9(rw)\n";
    let table = read(host, TABLE);
    write(&host.root, TABLE, &format!("{table}{by_hand}"));
    let ran = host.outside.ran().len();
    let same = done(&mut client, ensure(SHARE, &all)).await;
    assert_eq!(same.expect("there").0, Unchanged);
    assert_eq!(host.outside.ran().len(), ran);
    let fewer = done(&mut client, ensure(SHARE, &["10.0.0.5"])).await;
    assert_eq!(fewer.expect("changed").0, Changed);
    assert_eq!(read(host, TABLE).matches(SHARE).count(), 1);
    let read_only = read(host, TABLE).replace("(rw,sync", "(ro,sync");
    write(&host.root, TABLE, &read_only);
    let mended = done(&mut client, ensure(SHARE, &["10.0.0.5"])).await;
    assert_eq!(mended.expect("mended").0, Repaired);
    for (file, in_grace) in [("N\n", Some(true)), ("Y\n", Some(false)), ("?", None)] {
        write(&host.root, "/proc/fs/nfsd/v4_end_grace", file);
        let listed = client.list_exports(pb::ListExportsRequest {}).await;
        let listed = listed.expect("listed").into_inner();
        assert_eq!(listed.backends[0].in_grace, in_grace, "{file}");
    }
    let gone = done(&mut client, remove(SHARE)).await.expect("removed");
    assert!(
        gone.1.contains("goes on, since it exports /srv/homes"),
        "{}",
        gone.1
    );
    assert!(read(host, TABLE).contains(by_hand) && !read(host, TABLE).contains(SHARE));
    assert!(is_up(host, KERNEL).await);
    host.outside.on_run(|_, _| Ran {
        status: 1,
        tail: vec!["exportfs: Failed to stat /srv/nfs/canasta".to_owned()],
    });
    let failed = done(&mut client, ensure(SHARE, &["10.0.0.5"])).await;
    let failed = failed.expect_err("exportfs failed");
    assert_eq!(failed.reason, "EXPORTFS_FAILED");
    assert!(failed.evidence[0].lines[0].contains("Failed to stat"));
}

#[tokio::test]
async fn how_a_server_serves_others_is_not_changed() {
    let (_controller, node, _agent, mut client) = joined().await;
    let host = &node.host;
    bring_kernel(host);
    write(&host.root, "/etc/exports", "/srv/homes *(rw)\n");
    // Who starts it has it export what stands there.
    let refused = done(&mut client, ensure(SHARE, &["10.0.0.5"])).await;
    let refused = refused.expect_err("dormant");
    assert_eq!(refused.reason, "EXPORTS_DORMANT");
    assert!(refused.message.contains("/srv/homes"), "{refused:?}");
    assert!(!host.root.path(SHARE).exists());
    let started = host.host().systemd.start_no_block(KERNEL).await;
    started.expect("started");
    let made = done(&mut client, ensure(SHARE, &["10.0.0.5"])).await;
    made.expect("exported");
    assert!(!host.root.path("/etc/nfs.conf.d/canasta.conf").exists());
    assert_eq!(read(host, "/etc/exports"), "/srv/homes *(rw)\n");
    let listed = client.list_exports(pb::ListExportsRequest {}).await;
    let listed = listed.expect("listed").into_inner();
    assert_eq!(listed.foreign[0].path, "/srv/homes");
    assert_eq!(listed.foreign[0].file, "/etc/exports");
}
