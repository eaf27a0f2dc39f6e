//! The steps on a machine made of a directory, on which k3s was installed and left all that a real one leaves.

use std::os::unix::fs::symlink;
use std::sync::Arc;

use async_trait::async_trait;
use canasta_host::fake::{FakeHost, Order as Told};
use canasta_host::network::Link;
use canasta_host::network::rules::Ruleset;
use canasta_host::process::Process;
use canasta_host::systemd::Unit;
use canasta_proto::pb::{K3sUninstallStep as Step, StepOutcome};
use canasta_steps::{End, Journal, JournalError, Plan, Resume, Runner, StepEvent, StepInfo};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::k3s::record::{Kind, Owned, Role};

mod compared;
mod dead_server;
mod refusals;

const STEPS: [Step; 6] = [
    Step::Stop,
    Step::Processes,
    Step::Mounts,
    Step::Network,
    Step::Files,
    Step::Compare,
];
const POD: &str = "/var/lib/kubelet/pods/1f3566e8-7b06-498e-8691-945178302f48";
const SHIM: &str = "/var/lib/rancher/k3s/data/a32c/bin/containerd-shim-runc-v2";
const DATA: &str = "/var/lib/rancher/k3s/storage/pvc-1_default_db";

struct Deaf;

#[async_trait]
impl Journal for Deaf {
    async fn record(&self, _step: &str, _event: StepEvent) -> Result<(), JournalError> {
        Ok(())
    }
}

struct One {
    host: Host,
    task: K3sUninstallTask,
    limits: Limits,
    done: Arc<std::sync::Mutex<Option<Done>>>,
}

#[async_trait]
impl canasta_steps::Step for One {
    async fn run(&self, reporter: &Reporter) -> Result<Done, StepError> {
        let done = run(&self.host, &self.task, self.limits, reporter).await?;
        *self.done.lock().unwrap() = Some(done.clone());
        Ok(done)
    }
}

async fn discarding(fake: &FakeHost, step: Step, discard: &[&str]) -> Result<Done, StepError> {
    let task = K3sUninstallTask {
        step: step.into(),
        discard: discard.iter().map(|&path| path.to_owned()).collect(),
        local_paths: Vec::new(),
    };
    run_on(&fake.host(), task).await
}

async fn run_on(host: &Host, task: K3sUninstallTask) -> Result<Done, StepError> {
    let limits = Limits {
        end: Duration::from_millis(150),
        ..Limits::default()
    };
    run_within(host, task, limits).await
}

async fn run_within(
    host: &Host,
    task: K3sUninstallTask,
    limits: Limits,
) -> Result<Done, StepError> {
    let done = Arc::default();
    let one = One {
        host: host.clone(),
        task,
        limits,
        done: Arc::clone(&done),
    };
    let info = StepInfo {
        id: "step".to_owned(),
        title: String::new(),
        host: String::new(),
    };
    let plan = Plan::new().then(info, one);
    let end = Runner::new(Arc::new(Deaf))
        .run(&plan, Resume::default(), &CancellationToken::new())
        .await;
    match end {
        End::Succeeded => Ok(done.lock().unwrap().take().expect("it has ended")),
        End::Failed(error) => Err(error),
        other => panic!("{other:?}"),
    }
}

async fn step(fake: &FakeHost, step: Step) -> Result<Done, StepError> {
    discarding(fake, step, &[]).await
}

async fn all(fake: &FakeHost) -> Vec<Done> {
    let mut ends = Vec::new();
    for which in STEPS {
        ends.push(
            step(fake, which)
                .await
                .unwrap_or_else(|error| panic!("{which:?}: {error:?}")),
        );
    }
    ends
}

async fn write(fake: &FakeHost, path: &str) {
    fake.root.write(path, "x", 0o600).await.unwrap();
}

async fn exists(fake: &FakeHost, path: &str) -> bool {
    fake.root.exists(path).await.unwrap()
}

fn link(index: u32, name: &str, kind: &str, master: Option<&str>) -> Link {
    Link {
        index,
        name: name.to_owned(),
        kind: Some(kind.to_owned()),
        mac: None,
        mtu: 1450,
        up: true,
        master: master.map(str::to_owned),
    }
}

/// Things of other people, of kinds that k3s has too.
async fn plant(fake: &FakeHost) {
    write(fake, "/srv/theirs").await;
    write(fake, "/run/containerd/s/theirs").await;
    write(fake, "/run/netns/theirs").await;
    fake.root
        .write(
            "/proc/net/unix",
            "Num RefCount Protocol Flags Type St Inode Path\n0: 2 0 0 1 1 7 /run/containerd/s/theirs\n",
            0o600,
        )
        .await
        .unwrap();
    fake.removal.mount("/var/lib/theirs", "/dev/vdb", "ext4");
    fake.network.change(|state| {
        state.links.push(link(20, "docker0", "bridge", None));
        state.rules.iptables = Ruleset::Text(OTHERS.to_owned());
        state.rules.ip6tables = Ruleset::Text(OTHERS.to_owned());
    });
    for (pid, parent, name, program) in [
        (1, 0, "systemd", "/lib/systemd/systemd"),
        (900, 1, "theirs", "/usr/bin/containerd-shim-runc-v2"),
    ] {
        fake.processes.add(Process {
            pid,
            parent,
            started: 1,
            name: name.to_owned(),
            program: Some(program.into()),
            mounts: Some("mnt:[1]".into()),
            ..Process::default()
        });
    }
}

const OTHERS: &str = "*filter\n:INPUT ACCEPT [0:0]\n:DOCKER - [0:0]\n-A INPUT -j DOCKER\nCOMMIT\n";

/// A machine with a picture from before, a record, and everything that a k3s leaves behind when it is stopped by hand.
async fn installed() -> FakeHost {
    let fake = FakeHost::new("w1");
    plant(&fake).await;
    let host = fake.host();
    let picture = snapshot(&fake).await;
    let mut record = Record::new(Origin::Installed, Role::Agent);
    for (path, kind) in [
        ("/etc/rancher", Kind::Directory),
        ("/etc/rancher/k3s", Kind::Directory),
        (paths::CONFIG, Kind::File),
        (paths::JOIN_TOKEN, Kind::Secret),
        ("/etc/systemd/network", Kind::Directory),
        (paths::LINK_FILE, Kind::File),
        (paths::BINARY, Kind::File),
        ("/usr/local/bin/kubectl", Kind::Link),
        ("/usr/local/bin/ctr", Kind::Link),
        ("/etc/systemd/system/k3s-agent.service", Kind::File),
        ("/etc/systemd/system/k3s-agent.service.env", Kind::File),
    ] {
        if matches!(kind, Kind::File | Kind::Secret) {
            write(&fake, path).await;
        }
        record.put(Owned {
            path: path.to_owned(),
            kind,
            sha256: String::new(),
            created: true,
        });
    }
    record.save(&host).await.unwrap();
    fake.root
        .write(paths::SNAPSHOT, picture, 0o600)
        .await
        .unwrap();
    symlink("k3s", fake.root.path("/usr/local/bin/kubectl")).unwrap();
    write(&fake, "/usr/local/bin/ctr").await;
    leave_behind(&fake).await;
    host.systemd.daemon_reload().await.unwrap();
    host.systemd.enable(paths::AGENT_UNIT).await.unwrap();
    fake.systemd.stops_with(paths::AGENT_UNIT, 1);
    host.systemd
        .start_no_block(paths::AGENT_UNIT)
        .await
        .unwrap();
    fake.systemd.clear_orders();
    fake
}

async fn snapshot(fake: &FakeHost) -> Vec<u8> {
    let taken = canasta_host::snapshot::take(&fake.host(), &crate::k3s::install::scope()).await;
    serde_json::to_vec(&taken).unwrap()
}

/// Files, processes, mounts, links and rules of a k3s that ran.
async fn leave_behind(fake: &FakeHost) {
    for path in [
        "/etc/rancher/node/password",
        "/var/lib/rancher/k3s/agent/client-kubelet.key",
        "/var/lib/rancher/k3s/data/a32c/bin/containerd-shim-runc-v2",
        "/var/lib/cni/networks/cbr0/10.42.1.2",
        "/run/k3s/containerd/containerd.sock",
        "/run/flannel/subnet.env",
        "/run/containerd/runc/k8s.io/90b3/state.json",
        "/run/containerd/s/28f2",
        "/run/netns/cni-48c0",
        "/var/log/pods/a/0.log",
        "/usr/local/bin/.canasta-k3s-00.staged",
        &format!("{POD}/etc-hosts"),
    ] {
        write(fake, path).await;
    }
    std::fs::create_dir_all(fake.root.path("/var/log/containers")).unwrap();
    symlink(
        "/var/log/pods/a/0.log",
        fake.root.path("/var/log/containers/a.log"),
    )
    .unwrap();
    fake.removal
        .mount(&format!("{POD}/volumes/x"), "tmpfs", "tmpfs");
    fake.removal
        .mount("/run/k3s/containerd/rootfs", "overlay", "overlay");
    fake.removal.mount("/run/netns/cni-48c0", "nsfs", "nsfs");
    fake.network.change(|state| {
        state.links.push(link(30, "cni0", "bridge", None));
        state.links.push(link(31, "veth1", "veth", Some("cni0")));
        state.links.push(link(32, "flannel.1", "vxlan", None));
        let rules = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:DOCKER - [0:0]\n:KUBE-A - [0:0]\n:KUBE-B - [0:0]\n-A INPUT -j DOCKER\n-A INPUT -j KUBE-A\n-A FORWARD -s 10.42.0.0/16 -j ACCEPT\n-A KUBE-A -j KUBE-B\nCOMMIT\n";
        state.rules.iptables = Ruleset::Text(rules.to_owned());
        state.rules.ip6tables = Ruleset::Text(rules.to_owned());
    });
    for (pid, parent, program) in [(694, 1, SHIM), (713, 694, "/pause"), (714, 713, "/bin/sh")] {
        fake.processes.add(Process {
            pid,
            parent,
            started: 5,
            name: format!("p{pid}"),
            program: Some(program.into()),
            mounts: Some("mnt:[1]".into()),
            ..Process::default()
        });
    }
}

/// What other people have is as it was.
async fn assert_theirs(fake: &FakeHost) {
    for path in [
        "/srv/theirs",
        "/run/containerd/s/theirs",
        "/run/netns/theirs",
    ] {
        assert!(exists(fake, path).await, "{path}");
    }
    assert_eq!(fake.processes.pids(), [1, 900]);
    let host = fake.host();
    let links: Vec<String> = host
        .network
        .links()
        .await
        .unwrap()
        .into_iter()
        .map(|link| link.name)
        .collect();
    assert_eq!(links, ["lo", "eth0", "docker0"]);
    let rules = host.network.packet_rules().await;
    for text in [rules.iptables.text(), rules.ip6tables.text()] {
        assert_eq!(
            text.map(|text| text.replace(":FORWARD ACCEPT [0:0]\n", ""))
                .as_deref(),
            Some(OTHERS)
        );
    }
    assert_theirs_mounts(fake).await;
}

async fn assert_theirs_mounts(fake: &FakeHost) {
    let mounts = canasta_host::mounts::read(&fake.root).await.unwrap();
    let points: Vec<_> = mounts
        .iter()
        .map(|mount| mount.point.display().to_string())
        .collect();
    assert_eq!(points, ["/", "/proc", "/var/lib/theirs"]);
}

#[tokio::test]
async fn everything_of_k3s_goes_and_nothing_else() {
    let fake = installed().await;
    let ends = all(&fake).await;
    let changed = ends.iter().all(|done| done.outcome == StepOutcome::Changed);
    assert!(changed, "{ends:?}");
    let last = &ends[5].detail;
    assert!(last.starts_with("nothing left of k3s, compared"), "{last}");
    for path in [
        "/etc/rancher",
        "/var/lib/rancher",
        "/var/lib/kubelet",
        "/var/lib/cni",
        "/run/k3s",
        "/run/flannel",
        "/run/containerd/runc",
        "/run/containerd/s/28f2",
        "/run/netns/cni-48c0",
        "/var/log/pods",
        "/var/log/containers",
        paths::BINARY,
        paths::LINK_FILE,
        "/usr/local/bin/kubectl",
        "/usr/local/bin/.canasta-k3s-00.staged",
        "/etc/systemd/system/k3s-agent.service",
        "/etc/systemd/system/k3s-agent.service.env",
        paths::RECORD,
        paths::SNAPSHOT,
    ] {
        assert!(!exists(&fake, path).await, "{path}");
    }
    // Somebody has put a program in the place of a link.
    assert!(exists(&fake, "/usr/local/bin/ctr").await);
    assert_theirs(&fake).await;
    for done in all(&fake).await {
        assert_eq!(done.outcome, StepOutcome::Unchanged);
        assert!(done.detail.starts_with("already clean"), "{}", done.detail);
    }
}

#[tokio::test]
async fn each_step_run_twice_in_a_row_is_unchanged_the_second_time() {
    let fake = installed().await;
    for which in STEPS {
        let first = step(&fake, which).await.unwrap();
        assert_eq!(first.outcome, StepOutcome::Changed, "{which:?}");
        let second = step(&fake, which).await.unwrap();
        assert_eq!(
            second.outcome,
            StepOutcome::Unchanged,
            "{which:?}: {}",
            second.detail
        );
    }
    assert_theirs(&fake).await;
}

/// An agent that is killed leaves each piece of work done, half done or not begun.
#[tokio::test]
async fn an_uninstall_that_was_cut_short_anywhere_ends_clean_when_it_is_run_again() {
    for most in 0.. {
        let fake = installed().await;
        fake.removal.stop_after(most);
        let mut cut = false;
        for which in STEPS {
            if step(&fake, which).await.is_err() {
                cut = true;
                break;
            }
        }
        fake.removal.stop_after(usize::MAX);
        // What was cut short still shows that it has k3s.
        let has_trees = exists(&fake, paths::DATA_DIR).await;
        assert!(!has_trees || exists(&fake, paths::BINARY).await, "{most}");
        if !cut {
            assert!(most > 20, "it was cut at every order");
            return;
        }
        let ends = all(&fake).await;
        let last = &ends[5];
        assert!(
            last.detail.starts_with("nothing left of k3s"),
            "{most}: {}",
            last.detail
        );
        assert_theirs(&fake).await;
    }
}

#[tokio::test]
async fn a_stopped_k3s_is_disabled_first_and_its_failure_forgotten() {
    let fake = installed().await;
    step(&fake, Step::Stop).await.unwrap();
    let unit = paths::AGENT_UNIT.to_owned();
    assert_eq!(
        fake.systemd.orders(),
        [
            Told::Disable(unit.clone()),
            Told::Stop(unit.clone()),
            Told::ResetFailed(unit)
        ]
    );
}

#[tokio::test]
async fn a_k3s_that_was_started_between_two_steps_is_stopped_again_with_what_it_brought_back() {
    let fake = installed().await;
    for which in &STEPS[..4] {
        step(&fake, *which).await.unwrap();
    }
    let systemd = fake.host().systemd;
    systemd.start_no_block(paths::AGENT_UNIT).await.unwrap();
    let log = "/var/log/containers/a.log";
    fake.root.remove_file(log).await.unwrap();
    leave_behind(&fake).await;
    step(&fake, Step::Files).await.unwrap();
    assert!(!systemd.unit(paths::AGENT_UNIT).await.unwrap().is_active());
    let done = step(&fake, Step::Compare).await.unwrap();
    assert!(done.detail.starts_with("nothing left"), "{}", done.detail);
    assert_theirs(&fake).await;
}

#[tokio::test]
async fn a_node_whose_k3s_never_came_up_is_clean_afterwards() {
    let fake = FakeHost::new("w1");
    let host = fake.host();
    let mut record = Record::new(Origin::Installed, Role::Agent);
    record.put(Owned {
        path: paths::BINARY.to_owned(),
        kind: Kind::File,
        sha256: String::new(),
        created: false,
    });
    record.save(&host).await.unwrap();
    let ends = all(&fake).await;
    assert!(
        ends[..5]
            .iter()
            .all(|done| done.outcome == StepOutcome::Unchanged),
        "{ends:?}"
    );
    assert!(
        ends[5].detail.contains("nothing left"),
        "{}",
        ends[5].detail
    );
    assert!(!exists(&fake, paths::RECORD).await);
}

#[tokio::test]
async fn settings_of_the_operator_are_kept_and_told() {
    let fake = installed().await;
    let own = "/etc/rancher/k3s/config.yaml.d/own.yaml";
    write(&fake, own).await;
    write(&fake, "/etc/rancher/k3s/registries.yaml").await;
    let ends = all(&fake).await;
    assert!(ends[4].detail.contains(own), "{}", ends[4].detail);
    assert!(exists(&fake, own).await && !exists(&fake, paths::CONFIG).await);
    let last = &ends[5];
    assert_eq!(last.outcome, StepOutcome::Warning);
    assert!(last.detail.contains("registries.yaml"), "{}", last.detail);
}

/// A record of a k3s of which nothing is there, and the picture from before.
async fn installed_with(fake: &FakeHost, picture: Vec<u8>) {
    let mut record = Record::new(Origin::Installed, Role::Agent);
    record.put(Owned {
        path: paths::BINARY.to_owned(),
        kind: Kind::File,
        sha256: String::new(),
        created: true,
    });
    record.save(&fake.host()).await.unwrap();
    fake.root
        .write(paths::SNAPSHOT, picture, 0o600)
        .await
        .unwrap();
}

#[tokio::test]
async fn what_k3s_changed_in_the_kernel_is_told() {
    let fake = FakeHost::new("w1");
    let forward = "/proc/sys/net/ipv4/ip_forward";
    fake.root.write(forward, "0\n", 0o644).await.unwrap();
    let picture = snapshot(&fake).await;
    installed_with(&fake, picture).await;
    fake.root.write(forward, "1\n", 0o644).await.unwrap();
    let done = step(&fake, Step::Compare).await.unwrap();
    assert_eq!(done.outcome, StepOutcome::Changed);
    assert!(
        done.detail.contains("net.ipv4.ip_forward=1 (was 0)"),
        "{}",
        done.detail
    );
}

#[tokio::test]
async fn a_stop_without_an_uninstall_fails_the_comparison() {
    let fake = installed().await;
    fake.host()
        .systemd
        .stop(paths::AGENT_UNIT, Duration::from_secs(1))
        .await
        .unwrap();
    let done = step(&fake, Step::Compare).await.unwrap();
    assert_eq!(done.outcome, StepOutcome::Warning);
    for left in [
        "unit k3s-agent.service",
        "process p694",
        "mount /run/k3s/containerd/rootfs",
        "link flannel.1",
        "link veth1",
        "iptables chain KUBE-A",
        "ip6tables chain KUBE-B",
        "iptables rule FORWARD -s 10.42.0.0/16 -j ACCEPT",
        "network namespace cni-48c0",
        "/var/lib/rancher/k3s",
        paths::BINARY,
    ] {
        assert!(done.detail.contains(left), "{left}: {}", done.detail);
    }
}

#[tokio::test]
async fn a_look_changes_nothing_and_tells_everything() {
    let fake = installed().await;
    let found = inspect(&fake.host(), None, &[]).await.unwrap();
    assert!(!found.clean);
    assert_eq!(
        (&found.stored, &found.foreign_mounts),
        (&Vec::new(), &Vec::new())
    );
    for wanted in [
        "unit k3s-agent.service (active)",
        "link cni0",
        "process p713 (713)",
    ] {
        assert!(
            found.found.iter().any(|one| one == wanted),
            "{:?}",
            found.found
        );
    }
    assert_eq!(fake.systemd.orders(), []);
    assert!(exists(&fake, paths::BINARY).await);
    all(&fake).await;
    let found = inspect(&fake.host(), None, &[]).await.unwrap();
    assert!(found.clean, "{:?}", found.found);
}
