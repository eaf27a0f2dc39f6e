//! `canasta host add --ssh`: what the two sides do together, on a simulated machine.

use std::path::PathBuf;

use canasta_proto::package::sample;
use canasta_proto::pb;
use canasta_tests::fleet::Fleet;
use canasta_tests::fleet::cli::{Cli, Output};
use canasta_tests::fleet::node::Node;
use canasta_tests::fleet::ssh::Ssh;

const ADD: [&str; 6] = [
    "host",
    "add",
    "--name",
    "w3",
    "--ssh",
    "root@w3.example.org",
];

/// A fleet, a machine that is none of its hosts, the way there, and somebody who may go it.
struct Scene {
    fleet: Fleet,
    node: Node,
    ssh: Ssh,
    cli: Cli,
}

impl Scene {
    async fn new() -> Self {
        let fleet = Fleet::start().await;
        let node = Node::start("w3").await;
        let ssh = Ssh::to(&node);
        let mut cli = fleet.cli("anna", pb::Role::Admin).await;
        cli.find_programs_in(ssh.programs());
        Self {
            fleet,
            node,
            ssh,
            cli,
        }
    }

    /// A package of the agent in a file.
    fn package(&self, arch: &str) -> PathBuf {
        let control = format!("Package: canasta-agent\nVersion: 9.9.9-1\nArchitecture: {arch}\n");
        let file = self.fleet.scratch().join(format!("agent_{arch}.deb"));
        std::fs::write(&file, sample::deb("", &control)).unwrap();
        file
    }

    /// Gives the controller a package for this machine.
    async fn import(&self) {
        let file = self.package("amd64");
        let import = ["artefact", "import", "agent", file.to_str().unwrap()];
        let output = self.cli.run(&import).await;
        assert_eq!(output.code, 0, "{output:?}");
    }

    /// Adds the host, with some more arguments.
    async fn add(&self, more: &[&str]) -> Output {
        self.cli.run(&[&ADD, more].concat()).await
    }

    /// Adds the host; its agent is restarted in the middle.
    async fn add_joining(&mut self, more: &[&str]) -> Output {
        let address = self.node.advertise.to_string();
        let arguments = [&ADD[..], &["--address", &address], more].concat();
        let added = self.cli.run(&arguments);
        let ((), output) = tokio::join!(self.ssh.restart(&mut self.node), added);
        output
    }

    /// It was refused with these words, and no host is left behind.
    async fn refused(&self, output: &Output, parts: &[&str]) {
        assert_eq!(output.code, 1, "{output:?}");
        for part in parts {
            assert!(output.stderr.contains(part), "no {part:?}: {output:?}");
        }
        let list = self.cli.run(&["host", "list", "--output", "json"]).await;
        assert_eq!(list.json()["hosts"].as_array().map(Vec::len), Some(0));
    }
}

#[tokio::test]
async fn a_host_is_brought_in_within_one_session_and_a_second_run_changes_nothing() {
    let mut scene = Scene::new().await;
    scene.import().await;
    // What a login prints is none of it.
    scene.ssh.program("uname", "printf 'motd '; echo x86_64");
    let output = scene.add_joining(&["--output", "json"]).await;
    let told = output.json();
    assert_eq!(
        (&told["joined"], &told["installed"], &told["host"]["state"]),
        (&true.into(), &"9.9.9-1".into(), &"connected".into()),
        "{output:?}"
    );
    assert_eq!(
        scene.ssh.file("package"),
        std::fs::read(scene.package("amd64")).unwrap()
    );
    let mode = String::from_utf8(scene.ssh.file("mode")).unwrap();
    assert!(mode.starts_with("600 "), "{mode}");
    let join = scene.node.host.directory().join("etc/canasta/join.toml");
    assert!(!join.exists(), "the token lies on");
    let called = String::from_utf8(scene.ssh.file("called")).unwrap();
    assert!(called.contains("--\nroot@w3.example.org\n"), "{called}");
    for text in [&called, &output.stdout, &output.stderr] {
        assert!(!text.contains("canasta-join."), "{text}");
    }
    assert_eq!(scene.ssh.sessions(), 1);

    let output = scene.add(&[]).await;
    assert_eq!(output.code, 0, "{output:?}");
    assert!(output.stdout.contains("unchanged"), "{output:?}");
    assert_eq!(scene.ssh.sessions(), 1, "nothing was to be done there");
}

#[tokio::test]
async fn a_machine_whose_host_was_removed_joins_again_under_its_name() {
    let mut scene = Scene::new().await;
    scene.import().await;
    let output = scene.add_joining(&[]).await;
    assert_eq!(output.code, 0, "{output:?}");
    let output = scene.cli.run(&["host", "remove", "w3"]).await;
    assert_eq!(output.code, 0, "{output:?}");

    let address = scene.node.advertise.to_string();
    let there = ["--address", address.as_str()];
    let again = scene.add(&there);
    let ((), output) = tokio::join!(scene.ssh.rejoin(&scene.node), again);
    assert_eq!(output.code, 0, "{output:?}");
    assert!(
        output.stdout.contains("connected") && output.stderr.contains("it joins again"),
        "{output:?}"
    );
    for text in [&output.stdout, &output.stderr] {
        assert!(!text.contains("canasta-join."), "{text}");
    }
    let output = scene.cli.run(&["host", "remove", "w3"]).await;
    assert_eq!(output.code, 0, "{output:?}");

    scene.ssh.program(
        "canasta-agent",
        "if [ $1 = status ]; then cat HERE/status; else echo \"error: no way\" >&2; exit 1; fi",
    );
    let output = scene.add(&there).await;
    assert_eq!(output.code, 1, "{output:?}");
    for part in ["join again", "error: no way", "`canasta host token w3`"] {
        assert!(output.stderr.contains(part), "no {part:?}: {output:?}");
    }
}

#[tokio::test]
async fn another_machine_does_not_take_the_place_of_a_host_by_its_name() {
    let mut scene = Scene::new().await;
    scene.import().await;
    let output = scene.add_joining(&[]).await;
    assert_eq!(output.code, 0, "{output:?}");
    let output = scene
        .add(&["--package", scene.package("amd64").to_str().unwrap()])
        .await;
    assert_eq!(output.code, 0, "{output:?}");
    for part in [
        "root@w3.example.org was not looked at",
        "no package was installed",
    ] {
        assert!(output.stderr.contains(part), "no {part:?}: {output:?}");
    }

    scene.node.crash().await;
    let admin = scene.fleet.admin().await;
    let away = async || {
        let host = admin.host("w3", false).await.ok()?;
        (host.state() == pb::HostState::Unreachable).then_some(())
    };
    scene.fleet.until("the host to be unreachable", away).await;
    // A machine on which no agent has joined.
    scene.ssh.write("status", "");
    let output = scene.add(&[]).await;
    assert_eq!(output.code, 1, "{output:?}");
    for part in ["may be another machine", "canasta host token w3"] {
        assert!(output.stderr.contains(part), "no {part:?}: {output:?}");
    }
    let before = admin.host("w3", false).await.unwrap();
    assert_eq!(before.state(), pb::HostState::Unreachable);
}

#[tokio::test]
async fn an_agent_that_does_not_start_is_told_and_leaves_no_token() {
    let scene = Scene::new().await;
    scene.import().await;
    scene.ssh.program(
        "systemctl",
        "[ $1 = restart ] || exit 0\necho 'Unit canasta-agent.service is masked.' >&2; exit 1",
    );
    let output = scene.add(&[]).await;
    assert_eq!(output.code, 1, "{output:?}");
    for part in ["is masked", "does not start", "`canasta host token w3`"] {
        assert!(output.stderr.contains(part), "no {part:?}: {output:?}");
    }
    let join = scene.node.host.directory().join("etc/canasta/join.toml");
    assert!(!join.exists(), "the token lies on");
}

#[tokio::test]
async fn after_a_join_that_failed_the_way_on_is_told_and_a_second_run_goes_it() {
    let mut scene = Scene::new().await;
    scene.import().await;
    let systemctl = std::fs::read_to_string(scene.ssh.programs().join("systemctl")).unwrap();
    let join = scene.node.host.directory().join("etc/canasta/join.toml");
    // An agent that finds the token of no use.
    scene
        .ssh
        .program("systemctl", &format!("rm {}", join.display()));
    scene.ssh.write("journal", "the token is of no use\n");
    let address = scene.node.advertise.to_string();
    let output = scene.add(&["--address", &address]).await;
    assert_eq!(output.code, 1, "{output:?}");
    for part in [
        "did not join",
        "the token is of no use",
        "`canasta host token w3`",
    ] {
        assert!(output.stderr.contains(part), "no {part:?}: {output:?}");
    }

    scene.ssh.program("systemctl", &systemctl);
    scene.ssh.program("apt-get", "exit 1");
    let output = scene.add_joining(&[]).await;
    assert_eq!(output.code, 0, "{output:?}");
    assert!(output.stdout.contains("connected"), "{output:?}");
    assert!(output.stdout.contains("the agent was there"), "{output:?}");
}

#[tokio::test]
async fn where_no_package_fits_both_ways_out_are_told_and_a_given_one_is_taken() {
    let mut scene = Scene::new().await;
    let ways = ["canasta artefact import agent FILE", "--package FILE"];
    let output = scene.add(&[]).await;
    let debian = ["Debian GNU/Linux 12 (bookworm) on", "no .deb for amd64"];
    scene.refused(&output, &[debian, ways].concat()).await;

    scene.import().await;
    let os = scene.node.host.directory().join("etc/os-release");
    std::fs::write(os, "ID=plan9\nPRETTY_NAME=\"Plan 9\"\n").unwrap();
    let output = scene.add(&[]).await;
    scene
        .refused(&output, &[&["Plan 9 on", "'plan9'"], &ways[..]].concat())
        .await;

    let other = scene.package("arm64");
    let output = scene.add(&["--package", other.to_str().unwrap()]).await;
    scene.refused(&output, &["a .deb for arm64"]).await;
    assert_eq!(scene.ssh.file("package"), b"");

    let given = scene.package("amd64");
    let output = scene
        .add_joining(&["--package", given.to_str().unwrap()])
        .await;
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(scene.ssh.file("package"), std::fs::read(given).unwrap());
}

#[tokio::test]
async fn a_machine_with_rpm_gets_the_rpm() {
    let mut scene = Scene::new().await;
    let os = scene.node.host.directory().join("etc/os-release");
    std::fs::write(os, "ID=fedora\nPRETTY_NAME=\"Fedora Linux 42\"\n").unwrap();
    scene.ssh.program("uname", "echo x86_64");
    scene.ssh.program(
        "rpm",
        "if [ $1 = -q ]; then [ -e HERE/installed ] && printf 'installed %s' \"$(cat HERE/installed)\"; exit; fi\n\
         echo \"$1\" >HERE/rpm; for file; do :; done\ncp \"$file\" HERE/package; echo 0.1.0-1 >HERE/installed",
    );
    scene.ssh.program("apt-get", "exit 99");
    scene.import().await;
    let output = scene.add(&[]).await;
    scene
        .refused(&output, &["Fedora Linux 42 on x86_64", "no .rpm for amd64"])
        .await;

    let file = scene.fleet.scratch().join("agent.rpm");
    std::fs::write(&file, sample::rpm("canasta-agent", "x86_64")).unwrap();
    let import = ["artefact", "import", "agent", file.to_str().unwrap()];
    let output = scene.cli.run(&import).await;
    assert_eq!(output.code, 0, "{output:?}");
    let output = scene.add_joining(&[]).await;
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(scene.ssh.file("rpm"), b"--upgrade\n");
    assert_eq!(scene.ssh.file("package"), std::fs::read(file).unwrap());
}

#[tokio::test]
async fn a_machine_that_will_not_do_leaves_no_host_behind() {
    let scene = Scene::new().await;
    scene.import().await;
    let root = scene.node.host.directory();

    scene.ssh.program(
        "apt-get",
        "echo 'E: no space'; echo 'E: sorry' >&2; exit 100",
    );
    let output = scene.add(&[]).await;
    scene
        .refused(&output, &["failed to install", "E: no space", "E: sorry"])
        .await;

    scene.ssh.program("id", "echo 1000");
    scene
        .ssh
        .program("sudo", "echo 'sudo: a password is required' >&2; exit 1");
    let output = scene.add(&[]).await;
    scene
        .refused(
            &output,
            &[
                "without a password",
                "sudo: a password is required",
                "NOPASSWD",
            ],
        )
        .await;

    scene.ssh.program("id", "echo 0");
    std::fs::remove_dir(root.join("run/systemd/system")).unwrap();
    let output = scene.add(&[]).await;
    scene.refused(&output, &["systemd does not run"]).await;
    std::fs::create_dir(root.join("run/systemd/system")).unwrap();

    scene.ssh.write(
        "status",
        "{\"joined\":true,\"fleet_id\":\"f\",\"name\":\"x1\"}\n",
    );
    let output = scene.add(&[]).await;
    scene
        .refused(&output, &["another fleet", "'x1'", "apt purge"])
        .await;

    scene
        .ssh
        .program("ssh", "echo 'Host key verification failed.' >&2; exit 255");
    let output = scene.add(&[]).await;
    scene
        .refused(
            &output,
            &[
                "failed to reach 'w3'",
                "root@w3.example.org",
                "Host key verification failed.",
                "canasta host add --name w3`",
            ],
        )
        .await;

    scene.ssh.program("ssh", "kill -9 $$");
    let output = scene.add(&[]).await;
    scene.refused(&output, &["ended early", "signal"]).await;

    std::fs::remove_file(scene.ssh.programs().join("ssh")).unwrap();
    let output = scene.add(&[]).await;
    scene
        .refused(&output, &["failed to start ssh", "openssh-client"])
        .await;
}

#[tokio::test]
async fn a_user_with_sudo_does_as_root_does() {
    let mut scene = Scene::new().await;
    scene.import().await;
    scene.ssh.program("id", "echo \"${USER_ID:-1000}\"");
    scene.ssh.program(
        "sudo",
        "shift; echo \"$1\" >>HERE/sudo; USER_ID=0 exec \"$@\"",
    );
    let output = scene.add_joining(&[]).await;
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(
        scene.ssh.file("sudo"),
        b"sh\nsh\n",
        "it was asked, then done"
    );
}

#[tokio::test]
async fn who_may_not_add_hosts_is_refused_before_anything_is_done() {
    let mut scene = Scene::new().await;
    let programs = scene.ssh.programs();
    scene.cli = scene.fleet.cli("otto", pb::Role::Operator).await;
    scene.cli.find_programs_in(programs);
    let output = scene.add(&[]).await;
    assert_eq!(output.code, 4, "{output:?}");
    assert_eq!(scene.ssh.sessions(), 0);
}
