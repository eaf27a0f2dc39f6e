//! What may be a share, and who may mount one.

use super::{ClientRange, ClientRangeError, SharePath, SharePathError, check_path};
use crate::directories::is_within;

#[test]
fn a_share_is_a_plain_absolute_directory_that_is_nobody_elses() {
    for good in [
        "/srv/nfs/canasta",
        "/exports/wiki",
        "/data",
        "/var/nfs",
        "/mnt/disk1/wiki-2",
        "/home/wiki/share.d",
    ] {
        assert_eq!(
            good.parse::<SharePath>()
                .map(|path| path.to_string())
                .as_deref(),
            Ok(good)
        );
    }
    for (text, words) in [
        ("srv/nfs", "absolute"),
        ("", "absolute"),
        ("/srv/nfs/", "without '.', '..', '//'"),
        ("/srv//nfs", "without '.', '..', '//'"),
        ("/srv/../etc", "without '.', '..', '//'"),
        ("/srv/./nfs", "without '.', '..', '//'"),
        ("/srv/my wiki", "a space"),
        ("/srv/\"x\"", "'\"'"),
        ("/srv/x\ny", "a line break"),
        ("/srv/\u{202e}x", "U+202E"),
        ("/srv/*", "'*'"),
        ("/", "/ is a directory of the system"),
        ("/etc", "/etc is a directory of the system"),
        ("/etc/exports.d", "/etc is a directory of the system"),
        ("/usr/share/nfs", "/usr is a directory of the system"),
        ("/var/lib/rancher/k3s/storage", "/var/lib/rancher is"),
        ("/srv", "/srv is a directory of the system"),
        ("/var/lib", "/var/lib is a directory of the system"),
        ("/tmp/share", "/tmp is a directory of the system"),
        (
            "/var/lib/nfs/x",
            "/var/lib/nfs is a directory of the system",
        ),
        ("/var/lib/docker/x", "/var/lib/docker is"),
        ("/var/lib/canasta-agent", "/var/lib/canasta-agent is"),
    ] {
        let error = text.parse::<SharePath>().expect_err(text);
        assert!(error.to_string().contains(words), "{text:?}: {error}");
    }
    let long = format!("/srv/{}", "x".repeat(300));
    assert_eq!(
        long.parse::<SharePath>(),
        Err(SharePathError::TooLong { length: 305 })
    );
}

#[test]
fn a_share_of_another_server_may_be_any_directory() {
    for good in ["/", "/home", "/vol/vol1", "/srv/nfs/canasta"] {
        assert_eq!(check_path(good), Ok(()), "{good}");
    }
    for bad in [
        "",
        "nas",
        "/a/",
        "//",
        "/a b",
        "/a?version=3",
        "/a/../b",
        "/a#b",
    ] {
        assert!(check_path(bad).is_err(), "{bad}");
    }
}

#[test]
fn the_rule_that_is_broken_is_named() {
    for (text, words) in [
        ("srv/nfs", "absolute"),
        ("/srv/nfs/", "without '.', '..', '//'"),
        ("/srv//nfs", "without '.', '..', '//'"),
        ("/srv/../etc", "without '.', '..', '//'"),
        ("/srv/my wiki", "a space"),
        ("/srv/x\ny", "a line break"),
        ("/srv/\u{202e}x", "U+202E"),
    ] {
        let error = check_path(text).expect_err(text);
        assert!(error.to_string().contains(words), "{text:?}: {error}");
    }
    let long = format!("/srv/{}", "x".repeat(300));
    assert_eq!(
        check_path(&long),
        Err(SharePathError::TooLong { length: 305 })
    );
}

#[test]
fn below_is_by_whole_names() {
    assert!(is_within("/srv/nfs", "/srv/nfs") && is_within("/srv/nfs/a", "/srv/nfs"));
    assert!(is_within("/srv", "/") && !is_within("/srv/nfs2", "/srv/nfs"));
    assert!(!is_within("/srv", "/srv/nfs"));
}

#[test]
fn clients_are_machines_and_networks_and_never_everybody() {
    let wide = |network: &str| ClientRangeError::TooWide {
        network: network.to_owned(),
    };
    let nobody = |range: &str| ClientRangeError::NoMachine {
        range: range.to_owned(),
    };
    for good in ["10.0.0.5", "10.0.0.0/24", "2001:db8::5", "2001:db8::/32"] {
        assert_eq!(
            good.parse::<ClientRange>()
                .map(|range| range.to_string())
                .as_deref(),
            Ok(good)
        );
    }
    assert_eq!(
        "10.0.0.5/32"
            .parse::<ClientRange>()
            .map(|range| range.to_string())
            .as_deref(),
        Ok("10.0.0.5")
    );
    for (text, error) in [
        ("*", ClientRangeError::Form),
        ("*.example.org", ClientRangeError::Form),
        ("node1", ClientRangeError::Form),
        ("@group", ClientRangeError::Form),
        ("10.0.0.0/33", ClientRangeError::Form),
        ("10.0.0.0/", ClientRangeError::Form),
        ("10.0.0.0/+8", ClientRangeError::Form),
        ("10.0.0.0/24(rw)", ClientRangeError::Form),
        ("10.0.0.5 10.0.0.6", ClientRangeError::Form),
        ("::ffff:0:0/96", ClientRangeError::Form),
        ("0.0.0.0/0", wide("0.0.0.0/0")),
        ("128.0.0.0/1", wide("128.0.0.0/1")),
        ("::/0", wide("::/0")),
        ("2001::/16", wide("2001::/16")),
        ("0.0.0.0", nobody("0.0.0.0")),
        ("0.0.0.0/8", nobody("0.0.0.0/8")),
        ("127.0.0.1", nobody("127.0.0.1")),
        ("224.0.0.0/8", nobody("224.0.0.0/8")),
        ("255.255.255.255", nobody("255.255.255.255")),
        ("::1", nobody("::1")),
        ("fe80::1", nobody("fe80::1")),
        ("ff02::1", nobody("ff02::1")),
        (
            "10.0.0.5/24",
            ClientRangeError::HostBits {
                network: "10.0.0.0/24".to_owned(),
            },
        ),
    ] {
        assert_eq!(text.parse::<ClientRange>(), Err(error), "{text}");
    }
}

#[test]
fn a_network_lets_its_machines_in() {
    let range: ClientRange = "10.0.0.0/24".parse().expect("a network");
    let ip = |text: &str| text.parse().expect("an address");
    assert!(range.contains(ip("10.0.0.77")) && range.contains(ip("::ffff:10.0.0.77")));
    assert!(!range.contains(ip("10.0.1.1")) && !range.contains(ip("2001:db8::1")));
    let one = ClientRange::one(ip("::ffff:10.0.0.5"));
    assert!(one.contains(ip("10.0.0.5")) && !one.contains(ip("10.0.0.6")));
    assert_eq!(one.to_string(), "10.0.0.5");
}
