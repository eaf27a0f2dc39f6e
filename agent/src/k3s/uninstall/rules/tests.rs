//! On the rules that a real k3s left when it was stopped, among rules of others.

use canasta_host::network::tables::parse;

use super::*;

const STOPPED: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/recorded/iptables-stopped.txt"
));
const STOPPED_V6: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/recorded/ip6tables-stopped.txt"
));

fn defaults() -> Vec<String> {
    networks(&[], "")
}

/// What is left of a text when the planned lines are taken out: headers, chains and rules.
fn left_of(text: &str, plan: &Plan) -> Vec<String> {
    let gone = |line: &str| {
        let rule = line.strip_prefix("-A ");
        let chain = line
            .strip_prefix(':')
            .and_then(|rest| rest.split(' ').next());
        rule.is_some_and(|rule| {
            plan.rules.iter().any(|planned| planned == rule)
                || plan
                    .chains
                    .iter()
                    .any(|chain| rule.starts_with(&format!("{chain} ")))
        }) || chain.is_some_and(|chain| plan.chains.iter().any(|planned| planned == chain))
    };
    text.lines()
        .filter(|line| line.starts_with(['-', ':']) && !gone(line))
        .map(|line| line.split(" [").next().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn nothing_but_the_built_in_chains_is_left_of_a_recorded_k3s() {
    for text in [STOPPED, STOPPED_V6] {
        let plan = plan(&parse(text), &[], &defaults());
        let left = left_of(text, &plan);
        assert!(left.iter().all(|line| line.starts_with(':')), "{left:?}");
        assert!(
            !plan.lines.contains("-D KUBE-"),
            "chains that go are emptied"
        );
    }
    let plan = plan(&parse(STOPPED), &[], &defaults());
    assert!(
        plan.lines
            .contains("-D FORWARD -s 10.42.0.0/16 -j ACCEPT\n")
    );
    assert!(plan.lines.contains(
        "-D POSTROUTING -s 10.42.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE --random-fully\n"
    ));
    assert!(plan.lines.contains(
        "-D INPUT -m comment --comment \"kubernetes health check service ports\" -j KUBE-NODEPORTS\n"
    ));
    let flush = plan.lines.find("-F KUBE-SERVICES").unwrap();
    assert!(flush < plan.lines.find("-X KUBE-SERVICES").unwrap());
}

#[test]
fn rules_and_chains_of_others_stay() {
    let others = "\
*filter
:INPUT ACCEPT [0:0]
:DOCKER - [0:0]
:MY-KUBE - [0:0]
:f2b-sshd - [0:0]
:KUBE-X - [0:0]
-A INPUT -p tcp -m multiport --dports 22 -j f2b-sshd
-A INPUT -m comment --comment \"about KUBE-X\" -j MY-KUBE
-A INPUT -j KUBE-X
-A FORWARD -s 10.42.0.0/16 -p tcp -j ACCEPT
-A FORWARD -s 192.168.0.0/16 -j ACCEPT
-A FORWARD -s 10.42.0.0/16 -j DROP
-A KUBE-X -j MY-KUBE
COMMIT
*nat
:POSTROUTING ACCEPT [0:0]
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A POSTROUTING ! -s 10.42.0.0/16 -d 10.43.0.0/24 -j RETURN
COMMIT
";
    let plan = plan(&parse(others), &[], &defaults());
    assert_eq!(
        plan.lines,
        "*filter\n-D INPUT -j KUBE-X\n-F KUBE-X\n-X KUBE-X\nCOMMIT\n"
    );
}

#[test]
fn what_was_there_before_the_install_stays_as_often_as_it_was() {
    let rule = "-A FORWARD -s 10.42.0.0/16 -j ACCEPT\n";
    let text = |times: usize| {
        format!(
            "*filter\n:FORWARD ACCEPT [0:0]\n:CNI-THEIRS - [0:0]\n-A FORWARD -j CNI-THEIRS\n{}COMMIT\n",
            rule.repeat(times)
        )
    };
    let planned = |now, before| plan(&parse(&text(now)), &parse(&text(before)), &defaults()).lines;
    assert_eq!(planned(1, 1), "");
    assert_eq!(planned(0, 1), "");
    assert_eq!(
        planned(3, 1),
        format!("*filter\n{0}{0}COMMIT\n", rule.replace("-A", "-D"))
    );
}

#[test]
fn newer_and_other_networks_of_flannel_are_known() {
    let text = "\
*nat
:POSTROUTING ACCEPT [0:0]
:FLANNEL-POSTRTG - [0:0]
-A POSTROUTING -m comment --comment \"flanneld masq\" -j FLANNEL-POSTRTG
-A POSTROUTING -s 10.99.0.0/16 ! -d 224.0.0.0/4 -m comment --comment \"flanneld masq\" -j MASQUERADE
-A POSTROUTING ! -s 10.98.0.0/16 -d 10.98.3.0/24 -j RETURN
-A POSTROUTING ! -s 10.98.0.0/16 -d 10.99.3.0/24 -j RETURN
COMMIT
";
    let networks = networks(
        &["10.99.0.0/16".to_owned(), "nonsense".to_owned()],
        "FLANNEL_NETWORK=10.98.0.0/16\nFLANNEL_SUBNET=10.98.3.1/24\n",
    );
    let plan = plan(&parse(text), &[], &networks);
    assert_eq!(
        (plan.chains.len(), plan.rules.len()),
        (1, 3),
        "{}",
        plan.lines
    );
    assert!(!plan.lines.contains("10.99.3.0"));
}

/// As podman's plugins and k3s's write them for a port of the host each.
fn ports(names: &[&str]) -> String {
    let mut text = "\
*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:CNI-HOSTPORT-DNAT - [0:0]
:CNI-HOSTPORT-MASQ - [0:0]
:CNI-HOSTPORT-SETMARK - [0:0]
"
    .to_owned();
    for name in names {
        text.push_str(&format!(":CNI-{name} - [0:0]\n:CNI-DN-{name} - [0:0]\n"));
    }
    text.push_str(
        "\
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A POSTROUTING -m comment --comment \"CNI portfwd requiring masquerade\" -j CNI-HOSTPORT-MASQ
-A CNI-HOSTPORT-MASQ -m mark --mark 0x2000/0x2000 -j MASQUERADE
-A CNI-HOSTPORT-SETMARK -m comment --comment \"CNI portfwd masquerade mark\" -j MARK --set-xmark 0x2000/0x2000
",
    );
    for name in names {
        text.push_str(&format!(
            r#"-A POSTROUTING -s 10.0.0.2/32 -m comment --comment "name: \"{name}\" id: \"90b3\"" -j CNI-{name}
-A CNI-{name} -d 10.0.0.0/16 -m comment --comment "name: \"{name}\" id: \"90b3\"" -j ACCEPT
-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: \"{name}\" id: \"90b3\"" -m multiport --dports 80 -j CNI-DN-{name}
-A CNI-DN-{name} -s 10.0.0.0/16 -p tcp -m tcp --dport 80 -j CNI-HOSTPORT-SETMARK
-A CNI-DN-{name} -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.2:80
"#
        ));
    }
    text + "COMMIT\n"
}

#[test]
fn chains_of_plugins_go_by_network_and_shared_ones_with_the_last() {
    let planned = |names: &[&str]| plan(&parse(&ports(names)), &[], &defaults());
    let alone = planned(&["cbr0"]);
    assert!(
        left_of(&ports(&["cbr0"]), &alone)
            .iter()
            .all(|line| line.contains("ROUTING ACCEPT")),
        "{}",
        alone.lines
    );
    assert_eq!(planned(&["podman"]), Plan::default());
    let both = left_of(&ports(&["podman", "cbr0"]), &planned(&["podman", "cbr0"]));
    assert_eq!(both, left_of(&ports(&["podman"]), &Plan::default()));
}

#[test]
fn the_firewall_of_plugins_goes_when_it_is_empty() {
    let text = |rule: &str| {
        format!(
            "*filter\n:FORWARD ACCEPT [0:0]\n:CNI-ADMIN - [0:0]\n:CNI-FORWARD - [0:0]\n-A FORWARD -j CNI-FORWARD\n-A CNI-FORWARD -j CNI-ADMIN\n{rule}COMMIT\n"
        )
    };
    let chains = |rule| plan(&parse(&text(rule)), &[], &defaults()).chains;
    assert_eq!(chains(""), ["CNI-ADMIN", "CNI-FORWARD"]);
    assert_eq!(chains("-A CNI-ADMIN -s 192.0.2.1 -j DROP\n"), [""; 0]);
    assert_eq!(
        chains("-A CNI-FORWARD -d 10.88.0.2/32 -j ACCEPT\n"),
        [""; 0]
    );
}

#[test]
fn default_networks_count_where_none_is_configured() {
    let told = "FLANNEL_NETWORK=10.98.0.0/16\n";
    assert_eq!(
        networks(&["10.99.0.0/16".to_owned()], told),
        ["10.98.0.0/16", "10.99.0.0/16"]
    );
    assert!(networks(&[], told).contains(&"10.42.0.0/16".to_owned()));
}
