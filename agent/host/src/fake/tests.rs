//! The fake behaves as the machine that it stands for.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;

use super::*;
use crate::command;
use crate::files::Change;
use crate::journal::{Journal, Since};
use crate::machine::Machine;
use crate::network::{Network, choose_node_ip};
use crate::sockets::Sockets as _;
use crate::systemd::{Systemd, SystemdError, Unit, UnitStream};

const K3S: &str = "k3s.service";
const LONG: Duration = Duration::from_secs(10);

async fn with_unit() -> FakeHost {
    let fake = FakeHost::new("cp1");
    let file = "[Service]\nType=notify\nExecStart=/usr/local/bin/k3s server\n[Install]\nWantedBy=multi-user.target\n";
    fake.root
        .write("/etc/systemd/system/k3s.service", file, 0o644)
        .await
        .unwrap();
    fake
}

async fn until(stream: &mut UnitStream, state: &str) -> Unit {
    let reached = async {
        loop {
            let unit = stream.next().await.unwrap().unwrap();
            if unit.active_state == state {
                return unit;
            }
        }
    };
    tokio::time::timeout(LONG, reached).await.unwrap()
}

struct Guard(Arc<AtomicBool>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

/// Has the unit hold a guard while it runs, and tells whether it does.
fn held(fake: &FakeHost) -> Arc<AtomicBool> {
    let up = Arc::new(AtomicBool::new(false));
    let in_hook = up.clone();
    fake.systemd.on_start(K3S, move |_| {
        let up = in_hook.clone();
        async move {
            up.store(true, Ordering::SeqCst);
            Ok(Box::new(Guard(up)) as Running)
        }
    });
    up
}

#[tokio::test]
async fn a_unit_is_known_once_its_file_is_there() {
    let fake = FakeHost::new("cp1");
    assert_eq!(
        fake.systemd.unit(K3S).await.unwrap().load_state,
        "not-found"
    );
    let error = fake.systemd.start_no_block(K3S).await.unwrap_err();
    assert!(
        matches!(
            error,
            SystemdError::NoSuchUnit {
                action: "start",
                ..
            }
        ),
        "{error:?}"
    );
    fake.root
        .write(
            "/etc/systemd/system/k3s.service",
            "[Service]\nType=notify\n",
            0o644,
        )
        .await
        .unwrap();
    let unit = fake.systemd.unit(K3S).await.unwrap();
    assert!(unit.is_loaded() && !unit.is_enabled());
    assert_eq!(
        (unit.type_.as_str(), unit.active_state.as_str()),
        ("notify", "inactive")
    );

    assert_eq!(fake.systemd.enable(K3S).await.unwrap(), Change::Changed);
    assert_eq!(fake.systemd.enable(K3S).await.unwrap(), Change::Unchanged);
    assert!(fake.systemd.unit(K3S).await.unwrap().is_enabled());
    assert_eq!(fake.systemd.disable(K3S).await.unwrap(), Change::Changed);
    assert_eq!(fake.systemd.disable(K3S).await.unwrap(), Change::Unchanged);

    fake.root
        .remove_file("/etc/systemd/system/k3s.service")
        .await
        .unwrap();
    assert!(
        fake.systemd.unit(K3S).await.unwrap().is_loaded(),
        "until the manager reads its files again"
    );
    fake.systemd.daemon_reload().await.unwrap();
    assert_eq!(
        fake.systemd.unit(K3S).await.unwrap().load_state,
        "not-found"
    );
}

#[tokio::test]
async fn a_start_runs_the_hook_and_a_stop_drops_what_it_held() {
    let fake = with_unit().await;
    let up = held(&fake);
    let mut states = fake.systemd.watch(K3S).await.unwrap();
    until(&mut states, "inactive").await;
    fake.systemd.start_no_block(K3S).await.unwrap();
    let unit = until(&mut states, "active").await;
    assert!(up.load(Ordering::SeqCst));
    assert!(unit.main_pid.is_some() && unit.exec_main_start.is_some());

    fake.systemd.restart_no_block(K3S).await.unwrap();
    let again = until(&mut states, "active").await;
    assert_ne!(again.invocation_id, unit.invocation_id);

    fake.systemd.stop(K3S, LONG).await.unwrap();
    assert!(!up.load(Ordering::SeqCst));
    let unit = until(&mut states, "inactive").await;
    assert_eq!(unit.main_pid, None);
    let orders = [
        Order::Start(K3S.to_owned()),
        Order::Restart(K3S.to_owned()),
        Order::Stop(K3S.to_owned()),
    ];
    assert_eq!(fake.systemd.orders(), orders);
    fake.systemd.clear_orders();
    assert_eq!(fake.systemd.orders(), []);
}

#[tokio::test]
async fn a_start_that_exits_leaves_the_unit_failed() {
    let fake = with_unit().await;
    fake.systemd.on_start(K3S, |run| async move {
        assert_eq!(run.unit, K3S);
        Err(Exit(1))
    });
    let mut states = fake.systemd.watch(K3S).await.unwrap();
    fake.systemd.start_no_block(K3S).await.unwrap();
    let unit = until(&mut states, "failed").await;
    assert_eq!(
        (unit.result.as_str(), unit.exec_main_status),
        ("exit-code", 1)
    );
    fake.systemd.reset_failed(K3S).await.unwrap();
    until(&mut states, "inactive").await;
}

#[tokio::test]
async fn a_unit_can_end_by_itself_and_fail_at_being_stopped() {
    let fake = with_unit().await;
    let up = held(&fake);
    let mut states = fake.systemd.watch(K3S).await.unwrap();
    fake.systemd.start_no_block(K3S).await.unwrap();
    until(&mut states, "active").await;
    fake.systemd.exit(K3S, 2);
    assert_eq!(until(&mut states, "failed").await.exec_main_status, 2);
    assert!(!up.load(Ordering::SeqCst));

    fake.systemd.stops_with(K3S, 1);
    fake.systemd.start_no_block(K3S).await.unwrap();
    until(&mut states, "active").await;
    fake.systemd.stop(K3S, LONG).await.unwrap();
    assert!(fake.systemd.unit(K3S).await.unwrap().is_failed());
    fake.systemd.stop("none.service", LONG).await.unwrap();
}

#[tokio::test]
async fn a_stop_during_the_start_wins() {
    let fake = with_unit().await;
    fake.systemd.on_start(K3S, |_| std::future::pending());
    fake.systemd.start_no_block(K3S).await.unwrap();
    assert_eq!(
        fake.systemd.unit(K3S).await.unwrap().active_state,
        "activating"
    );
    fake.systemd.stop(K3S, LONG).await.unwrap();
    assert_eq!(
        fake.systemd.unit(K3S).await.unwrap().active_state,
        "inactive"
    );
}

#[tokio::test]
async fn a_reboot_ends_everything_and_starts_what_is_enabled() {
    let fake = with_unit().await;
    let up = held(&fake);
    let before = fake.machine.facts().await.unwrap().boot_id;
    fake.systemd.enable(K3S).await.unwrap();
    let other = Unit {
        name: "x.service".to_owned(),
        load_state: "loaded".to_owned(),
        ..Unit::default()
    };
    fake.systemd.add(Unit {
        active_state: "active".to_owned(),
        n_restarts: 3,
        ..other
    });
    fake.reboot();
    assert_ne!(fake.machine.facts().await.unwrap().boot_id, before);
    let mut states = fake.systemd.watch(K3S).await.unwrap();
    until(&mut states, "active").await;
    assert!(up.load(Ordering::SeqCst));
    let other = fake.systemd.unit("x.service").await.unwrap();
    assert_eq!(
        (other.active_state.as_str(), other.n_restarts),
        ("inactive", 0)
    );
}

#[tokio::test]
async fn units_are_listed_by_pattern_and_changed_by_tests() {
    let fake = with_unit().await;
    fake.systemd.unit(K3S).await.unwrap();
    fake.systemd.unit("none.service").await.unwrap();
    fake.systemd.add(Unit {
        name: "srv.mount".to_owned(),
        load_state: "loaded".to_owned(),
        ..Unit::default()
    });
    fake.systemd
        .change("srv.mount", |unit| unit.active_state = "active".to_owned());
    fake.systemd.daemon_reload().await.unwrap();
    let listed = fake.systemd.list_units(&["k3s*", "*.mount"]).await.unwrap();
    let shown: Vec<_> = listed
        .iter()
        .map(|unit| (unit.name.as_str(), unit.active_state.as_str()))
        .collect();
    assert_eq!(
        shown,
        [("k3s.service", "inactive"), ("srv.mount", "active")]
    );
    assert_eq!(fake.systemd.system_state().await.unwrap(), "running");
    fake.systemd.set_system_state("degraded");
    assert_eq!(fake.systemd.system_state().await.unwrap(), "degraded");
    fake.systemd.set_unreachable(true);
    assert!(matches!(
        fake.systemd.unit(K3S).await,
        Err(SystemdError::Unreachable { .. })
    ));
    assert!(fake.systemd.daemon_reload().await.is_err());
}

#[tokio::test]
async fn the_journal_gives_the_last_lines_of_a_unit_and_of_a_run() {
    let fake = FakeHost::new("cp1");
    fake.journal.log_in_run(K3S, "run-1", "old");
    fake.journal.log_in_run(K3S, "run-2", "new");
    fake.journal.log("other.service", "other");
    fake.journal.log(K3S, "last");
    let texts = async |lines, since| {
        let tail = fake.journal.tail(K3S, lines, since).await.unwrap();
        tail.into_iter()
            .map(|line| line.message)
            .collect::<Vec<_>>()
    };
    assert_eq!(texts(10, Since::Start).await, ["old", "new", "last"]);
    assert_eq!(texts(2, Since::Start).await, ["new", "last"]);
    assert_eq!(
        texts(10, Since::Invocation("run-2".to_owned())).await,
        ["new", "last"]
    );
    assert_eq!(
        texts(10, Since::Time(SystemTime::now() + LONG)).await,
        [""; 0]
    );
}

#[tokio::test]
async fn facts_are_what_a_test_sets() {
    let fake = FakeHost::new("cp1");
    fake.machine.change(|state| {
        state.facts.uid = 1000;
        state.clock_offset_seconds = -3600;
        state.disk_free = 7;
    });
    let host = fake.host();
    assert!(fake.is_temporary() && !FakeHost::at(fake.directory(), "cp1").is_temporary());
    let facts = host.machine.facts().await.unwrap();
    assert_eq!((facts.uid, facts.hostname.as_str()), (1000, "cp1"));
    assert!(host.machine.now() < SystemTime::now() - Duration::from_mins(50));
    assert_eq!(
        host.machine
            .disk_space(Path::new("/var"))
            .await
            .unwrap()
            .free,
        7
    );

    fake.network.set_address("10.77.0.11/24".parse().unwrap());
    let (addresses, routes) = (
        fake.network.addresses().await.unwrap(),
        fake.network.default_routes().await.unwrap(),
    );
    assert_eq!(
        choose_node_ip(&addresses, &routes),
        Some(("10.77.0.11".parse().unwrap(), "eth0".to_owned()))
    );
    assert_eq!(fake.directory().join("etc"), host.root.path("/etc"));
}

#[tokio::test]
async fn machines_on_a_wire_reach_what_the_others_open_and_nothing_else() {
    let (wire, [near, far]) = (Wire::default(), ["a", "b"].map(FakeHost::new));
    for (host, address) in [(&near, "10.77.0.1/16"), (&far, "10.77.0.2/16")] {
        host.network.set_address(address.parse().unwrap());
        host.sockets.plug_into(&wire);
    }
    let (near, far) = (near.sockets, far.sockets);
    let at = |last, port| SocketAddr::from(([10, 77, 0, last], port));
    let refused = async |last, port| near.connect(at(last, port)).await.unwrap_err().kind();
    assert_eq!(refused(2, 10250).await, ErrorKind::ConnectionRefused);
    assert_eq!(refused(3, 10250).await, ErrorKind::HostUnreachable);
    let listener = far.listen(at(0, 10250)).await.unwrap();
    near.connect(at(2, 10250)).await.unwrap();

    // A service has its port for itself, as long as it is there.
    let offer = far.offer(6443, listener.local_addr().unwrap());
    near.connect(at(2, 6443)).await.unwrap();
    let taken = far.listen(at(0, 6443)).await.unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::AddrInUse);
    drop(offer);
    assert_eq!(refused(2, 6443).await, ErrorKind::ConnectionRefused);

    let first = far.datagrams_at(at(0, 8472)).await.unwrap();
    let second = far.datagrams_at(at(0, 8472)).await.unwrap();
    let sender = near.datagrams_to(at(2, 8472)).await.unwrap();
    sender.send(b"one").await.unwrap();
    for taker in [first, second] {
        let mut buffer = [0; 8];
        let received = taker.recv(&mut buffer);
        let length = tokio::time::timeout(Duration::from_secs(10), received).await;
        assert_eq!(length.expect("in time").unwrap(), 3);
    }
}

#[tokio::test]
async fn a_test_does_the_work_of_a_program_as_far_as_it_likes() {
    let fake = FakeHost::new("a");
    let program = fake.root.path("/usr/local/bin/tool");
    fake.processes
        .on_run(program.clone(), |arguments| async move {
            (arguments == ["token"]).then(|| Printed {
                stderr: "no".to_owned(),
                status: 3,
                ..Printed::default()
            })
        });
    let run = async |argument| {
        let processes = fake.host().processes;
        let limit = Duration::from_secs(10);
        processes
            .run(&program, &[argument], limit, 100)
            .await
            .unwrap_err()
    };
    let refused = run("token").await;
    assert!(
        matches!(&refused, command::Error::Failed { status, .. } if status.code() == Some(3)),
        "{refused:?}"
    );
    assert!(run("other").await.is_missing_program());
}
