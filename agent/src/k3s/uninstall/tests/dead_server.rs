//! A volume of a pod whose server is gone: only the program that unmounts it waits, and that one is killed.

use std::path::{Path, PathBuf};

use canasta_host::command;
use canasta_host::removal::Removal;

use super::*;

const VOLUME: &str = "volumes/kubernetes.io~nfs/share";
/// How long a removal may take here.
const LIMIT: Duration = Duration::from_millis(300);

/// As the removal in its unit: another program does the work, waits for the server, and is killed when its time is over.
#[derive(Debug)]
struct Waiting {
    removal: Arc<dyn Removal>,
    /// Writes its own process here.
    pid: PathBuf,
}

#[async_trait]
impl Removal for Waiting {
    async fn run(&self, orders: &[Order], limit: Duration) -> Result<Report, RemovalError> {
        let Some(Order::Unmount(point)) = orders.first() else {
            return self.removal.run(orders, limit).await;
        };
        let script = format!("echo $$ >{}; exec sleep 600", self.pid.display());
        let waited = command::run("sh", ["-c", &script], limit, 4096).await;
        assert!(
            matches!(waited, Err(command::Error::TimedOut { .. })),
            "{waited:?}"
        );
        let doing = format!("unmounting {}", point.display());
        Err(RemovalError::TimedOut { limit, doing })
    }
}

#[tokio::test]
async fn an_unmount_that_waits_for_a_dead_server_is_killed_and_told_and_nothing_else_waits() {
    let fake = installed().await;
    let point = format!("{POD}/{VOLUME}");
    fake.removal.mount(&point, "10.0.0.9:/srv/share", "nfs4");
    let mut host = fake.host();
    let pid = fake.root.path("/waiting.pid");
    host.removal = Arc::new(Waiting {
        removal: Arc::clone(&host.removal),
        pid: pid.clone(),
    });
    let task = |step: Step| K3sUninstallTask {
        step: step.into(),
        ..K3sUninstallTask::default()
    };
    let limits = Limits {
        end: Duration::from_millis(150),
        removal: LIMIT,
        ..Limits::default()
    };
    let looked = inspect(&host, None, &[]).await.unwrap();
    assert!(
        looked.found.iter().any(|found| found.contains(&point)),
        "{:?}",
        looked.found
    );
    assert_eq!(looked.foreign_mounts, [], "it is k3s's own");
    for which in [Step::Stop, Step::Processes] {
        run_within(&host, task(which), limits).await.unwrap();
    }
    assert!(!pid.exists(), "nothing has waited yet");

    let unmount = run_within(&host, task(Step::Mounts), limits);
    let bounded = tokio::time::timeout(LIMIT * 30, unmount).await;
    let error = bounded
        .expect("it waits no longer than it may")
        .unwrap_err();
    assert_eq!(error.reason(), "REMOVAL_TIMED_OUT");
    let report = error.report();
    assert!(
        report.message.ends_with(&format!("unmounting {point}")),
        "{report:?}"
    );
    assert!(report.hint.contains("umount -l"), "{report:?}");
    let pid = std::fs::read_to_string(pid).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(10), ended(pid.trim()));
    ended.await.expect("the program that waited is killed");

    // Somebody unmounts it by hand, as the hint says, and the next run goes on.
    fake.removal
        .run(&[Order::Unmount(point.into())], LIMIT)
        .await
        .unwrap();
    host.removal = fake.host().removal;
    for which in STEPS {
        run_within(&host, task(which), limits).await.unwrap();
    }
    assert!(!exists(&fake, paths::KUBELET_DIR).await);
}

/// Waits until a process is gone, or dead and not yet told to its parent: that one has no arguments any more.
async fn ended(pid: &str) {
    let arguments = Path::new("/proc").join(pid).join("cmdline");
    while std::fs::read(&arguments).is_ok_and(|arguments| !arguments.is_empty()) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
