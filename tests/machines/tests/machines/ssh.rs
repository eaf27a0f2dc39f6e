//! Bringing a host in with `canasta host add --ssh`, through a real sshd.

use canasta_machines::fleet::{Fleet, Ran};

use super::packages::package;

/// Where the known keys of the machines are, and nothing else.
const KNOWN: &str = "/root/.ssh/known_hosts";

/// A new machine: no agent, and an sshd that lets the controller's root in.
fn machine(node: &str) -> Fleet {
    let fleet = Fleet::up(&[node]);
    fleet.run(node, &["dpkg", "--purge", "canasta-agent"]).ok();
    fleet.canasta(&["host", "remove", node]);
    let key = "test -e ~/.ssh/id_ed25519 || ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/id_ed25519; cat ~/.ssh/id_ed25519.pub";
    let key = fleet.run("ctl", &["sh", "-c", key]).ok();
    authorise(&fleet, node, "/root", &key);
    // Machines come from one image; each gets a key of its own, as machines have.
    let keys = "rm -f /etc/ssh/ssh_host_*; ssh-keygen -A >/dev/null; \
                systemd-run --quiet --collect --unit test-sshd --property RuntimeDirectory=sshd \
                --property Type=notify --property KillMode=process /usr/sbin/sshd -D";
    fleet.run(node, &["sh", "-c", keys]).ok();
    know(&fleet, node);
    fleet
}

fn authorise(fleet: &Fleet, node: &str, home: &str, key: &str) {
    let file = format!("{home}/.ssh/authorized_keys");
    let directory = format!("{home}/.ssh");
    fleet
        .run(node, &["install", "-d", "-m", "700", &directory])
        .ok();
    fleet
        .lab
        .write(node, &file, key.as_bytes(), 0o600)
        .expect("written");
}

/// Has the controller know the machine's key, and no other.
fn know(fleet: &Fleet, node: &str) {
    let key = fleet
        .run(node, &["cat", "/etc/ssh/ssh_host_ed25519_key.pub"])
        .ok();
    let line = format!("{node} {key}");
    fleet
        .lab
        .write("ctl", KNOWN, line.as_bytes(), 0o600)
        .expect("written");
}

fn add(fleet: &Fleet, node: &str, user: &str, more: &[&str]) -> Ran {
    let to = format!("{user}@{node}");
    let command = ["host", "add", "--name", node, "--ssh", &to];
    fleet.canasta(&[&command, more].concat())
}

/// The host is connected, the package is the shipped one, and nothing that was needed on the way is left.
fn brought_in(fleet: &Fleet, node: &str) {
    assert_eq!(fleet.state_of(node), "connected");
    let left = "ls -A /etc/canasta; ls -d /tmp/tmp.* 2>/dev/null; true";
    let left = fleet.run(node, &["sh", "-c", left]).ok();
    assert_eq!(left, "agent.toml\n");
}

#[test]
fn root_brings_a_host_in_and_a_second_run_changes_nothing() {
    let fleet = machine("shelled");
    // The way there is refused first: another machine's key, then nobody who may come in.
    let stranger = fleet
        .run("ctl", &["cat", "/etc/ssh/ssh_host_ed25519_key.pub"])
        .ok();
    let line = format!("shelled {stranger}");
    fleet
        .lab
        .write("ctl", KNOWN, line.as_bytes(), 0o600)
        .expect("written");
    let refused = add(&fleet, "shelled", "root", &[]);
    assert_eq!(refused.code, 1, "{}", refused.err);
    assert!(
        refused.err.contains("Host key verification failed"),
        "{}",
        refused.err
    );
    assert_eq!(fleet.state_of("shelled"), "", "a host is left behind");
    know(&fleet, "shelled");
    let refused = add(&fleet, "shelled", "nobody", &[]);
    assert!(refused.err.contains("Permission denied"), "{}", refused.err);

    let said = add(&fleet, "shelled", "root", &[]).ok();
    assert!(said.contains("is connected"), "{said}");
    brought_in(&fleet, "shelled");
    let agent = fleet.unit("shelled", "canasta-agent.service", "InvocationID");
    let again = add(&fleet, "shelled", "root", &[]).ok();
    assert!(again.contains("unchanged"), "{again}");
    assert_eq!(
        fleet.unit("shelled", "canasta-agent.service", "InvocationID"),
        agent
    );
}

#[test]
fn a_user_with_sudo_brings_a_host_in_and_one_without_is_told() {
    let fleet = machine("sudoer");
    let key = fleet.run("ctl", &["cat", "/root/.ssh/id_ed25519.pub"]).ok();
    fleet
        .run(
            "sudoer",
            &["useradd", "--create-home", "--shell", "/bin/bash", "anna"],
        )
        .ok();
    authorise(&fleet, "sudoer", "/home/anna", &key);
    fleet
        .run("sudoer", &["chown", "-R", "anna", "/home/anna/.ssh"])
        .ok();
    let refused = add(&fleet, "sudoer", "anna", &[]);
    assert_eq!(refused.code, 1, "{}", refused.err);
    assert!(
        refused.err.contains("password") && refused.err.contains("NOPASSWD"),
        "{}",
        refused.err
    );
    assert_eq!(fleet.state_of("sudoer"), "", "a host is left behind");

    let rule = b"anna ALL=(ALL) NOPASSWD: ALL\n";
    fleet
        .lab
        .write("sudoer", "/etc/sudoers.d/anna", rule, 0o440)
        .expect("written");
    // What a login prints is not taken for an answer.
    let noise = b"printf 'welcome, anna; canasta: '\n";
    fleet
        .lab
        .write("sudoer", "/home/anna/.bashrc", noise, 0o644)
        .expect("written");
    add(&fleet, "sudoer", "anna", &[]).ok();
    brought_in(&fleet, "sudoer");
}

#[test]
fn an_unknown_distribution_is_told_with_both_ways_out_and_takes_a_given_package() {
    let fleet = machine("unusual");
    let release =
        "rm /etc/os-release; printf 'ID=plan9\\nPRETTY_NAME=\"Plan 9\"\\n' >/etc/os-release";
    fleet.run("unusual", &["sh", "-c", release]).ok();
    let refused = add(&fleet, "unusual", "root", &[]);
    assert_eq!(refused.code, 1, "{}", refused.err);
    let machine = fleet.run("unusual", &["uname", "-m"]).ok();
    let machine = format!("Plan 9 on {}", machine.trim());
    for part in [
        machine.as_str(),
        "canasta artefact import agent FILE",
        "--package FILE",
    ] {
        assert!(refused.err.contains(part), "no {part:?}: {}", refused.err);
    }
    assert_eq!(fleet.state_of("unusual"), "", "a host is left behind");

    let file = "/var/tmp/canasta-agent.deb";
    let agent = package("canasta-agent", ".deb");
    fleet.lab.push("ctl", agent.as_ref(), file).expect("copied");
    add(&fleet, "unusual", "root", &["--package", file]).ok();
    brought_in(&fleet, "unusual");
}

#[test]
fn a_join_that_cannot_get_through_is_told_and_the_next_run_goes_on() {
    let fleet = machine("halfway");
    fleet
        .lab
        .cut(canasta_machines::Cut {
            from: "halfway".to_owned(),
            to: "ctl".to_owned(),
            protocol: Some(canasta_machines::Protocol::Tcp),
            port: Some(7440),
            one_way: true,
            min_size: None,
            loss: None,
        })
        .expect("a cut");
    let stuck = add(&fleet, "halfway", "root", &[]);
    fleet.lab.mend().expect("mended");
    assert_eq!(stuck.code, 1, "{}", stuck.err);
    for part in ["has not joined", "7440", "canasta host token halfway"] {
        assert!(stuck.err.contains(part), "no {part:?}: {}", stuck.err);
    }
    assert!(!stuck.err.contains("canasta-join."), "{}", stuck.err);
    add(&fleet, "halfway", "root", &[]).ok();
    brought_in(&fleet, "halfway");
}
