//! What others have on a node: their files, their exports, a server that they use.

use canasta_proto::pb::StepOutcome::Changed;

use super::*;

#[tokio::test]
async fn what_others_add_to_our_files_is_neither_overwritten_nor_deleted() {
    let (_controller, node, _agent, mut client) = joined().await;
    let host = &node.host;
    without_nfsd(host);
    bring_ganesha(&host.root);
    let made = done(&mut client, ensure(SHARE, &["10.0.0.5"])).await;
    made.expect("exported");
    // An export in our file would be lost.
    let ours = read(host, OUR_EXPORTS);
    let added = format!("{ours}EXPORT {{\n Export_Id = 7;\n Path = /vault;\n}}\n");
    write(&host.root, OUR_EXPORTS, &added);
    for verb in [ensure(SHARE, &["10.0.0.6"]), remove(SHARE)] {
        let refused = done(&mut client, verb).await.expect_err("refused");
        assert_eq!(refused.reason, "EXPORTS_ADDED");
        assert!(refused.message.contains("/vault"), "{refused:?}");
        assert_eq!(read(host, OUR_EXPORTS), added);
    }
    write(&host.root, OUR_EXPORTS, &ours);
    // Settings that others changed are theirs from then on.
    let settings = format!("{}LOG {{ Default_Log_Level = DEBUG; }}\n", read(host, MAIN));
    write(&host.root, MAIN, &settings);
    let changed = done(&mut client, ensure(SHARE, &["10.0.0.6"])).await;
    assert_eq!(changed.expect("exported").0, Changed);
    let gone = done(&mut client, remove(SHARE)).await;
    assert_eq!(gone.expect("removed").0, Changed);
    assert_eq!(read(host, MAIN), settings);
    // It is still read, and a file that is missing keeps the server from starting.
    assert!(host.root.path(OUR_EXPORTS).exists());
    assert!(!read(host, OUR_EXPORTS).contains(SHARE));
    write(
        &host.root,
        MAIN,
        "EXPORT { Export_Id = 1; Path = /vault; }\n",
    );
    let refused = done(&mut client, ensure(SHARE, &["10.0.0.6"])).await;
    assert_eq!(reason(refused), "GANESHA_NOT_OURS");
}

#[tokio::test]
async fn a_server_that_others_use_goes_on() {
    let (_controller, node, _agent, mut client) = joined().await;
    let host = &node.host;
    without_nfsd(host);
    bring_ganesha(&host.root);
    let made = done(&mut client, ensure(SHARE, &["10.0.0.5"])).await;
    made.expect("exported");
    host.ganesha.export_foreign(7, "/vault");
    let gone = done(&mut client, remove(SHARE)).await.expect("removed");
    assert!(
        gone.1.contains("exports /vault for someone else"),
        "{}",
        gone.1
    );
    assert!(is_up(host, GANESHA).await && host.root.path(MAIN).exists());
    assert!(host.ganesha.exports().is_empty());
}

#[tokio::test]
async fn a_path_of_ours_that_others_export_too_is_refused() {
    let (_controller, node, _agent, mut client) = joined().await;
    let host = &node.host;
    without_nfsd(host);
    bring_ganesha(&host.root);
    let made = done(&mut client, ensure(SHARE, &["10.0.0.5"])).await;
    made.expect("exported");
    write(&host.root, "/etc/exports", &format!("{SHARE} *(rw)\n"));
    let refused = done(&mut client, ensure(SHARE, &["10.0.0.5"])).await;
    assert_eq!(reason(refused), "EXPORT_FOREIGN");
}

#[tokio::test]
async fn a_server_of_which_not_everything_can_be_seen_goes_on() {
    let (_controller, node, _agent, mut client) = joined().await;
    let host = &node.host;
    without_nfsd(host);
    bring_ganesha(&host.root);
    let made = done(&mut client, ensure(SHARE, &["10.0.0.5"])).await;
    made.expect("exported");
    let settings = format!("{}%url rados://pool/exports\n", read(host, MAIN));
    write(&host.root, MAIN, &settings);
    let gone = done(&mut client, remove(SHARE)).await.expect("removed");
    assert!(gone.1.contains("rados://pool/exports"), "{}", gone.1);
    assert!(is_up(host, GANESHA).await);
}
