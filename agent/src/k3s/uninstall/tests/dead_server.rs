//! A volume of a pod whose server is gone: only the program that unmounts it waits, and that one is killed.

use std::ffi::OsStr;
use std::path::PathBuf;

use canasta_host::command;
use canasta_host::removal::Removal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;

use super::*;

const VOLUME: &str = "volumes/kubernetes.io~nfs/share";
/// How long a removal may take here.
const LIMIT: Duration = Duration::from_millis(300);

/// As the removal in its unit: another program does the work, waits for the server, and is killed when its time is over.
#[derive(Debug)]
struct Waiting {
    removal: Arc<dyn Removal>,
    /// A pipe that it writes to when it begins, and holds open for as long as it lives.
    alive: PathBuf,
    /// A pipe that nobody writes to: who opens it waits for ever.
    dead: PathBuf,
}

#[async_trait]
impl Removal for Waiting {
    async fn run(&self, orders: &[Order], limit: Duration) -> Result<Report, RemovalError> {
        let Some(Order::Unmount(point)) = orders.first() else {
            return self.removal.run(orders, limit).await;
        };
        let program = [
            OsStr::new("-c"),
            OsStr::new("exec 3>\"$0\"; echo waiting >&3; exec cat \"$1\""),
            self.alive.as_os_str(),
            self.dead.as_os_str(),
        ];
        let waited = command::run("sh", program, limit, 4096).await;
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
    let [alive, dead] = ["/alive", "/dead"].map(|path| fake.root.path(path));
    for pipe in [&alive, &dead] {
        mkfifo(pipe, Mode::S_IRWXU).unwrap();
    }
    let mut life = pipe::OpenOptions::new().open_receiver(&alive).unwrap();
    host.removal = Arc::new(Waiting {
        removal: Arc::clone(&host.removal),
        alive,
        dead,
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
    let unopened = nix::unistd::read(&life, &mut [0]);
    assert_eq!(unopened, Ok(0), "nothing has waited yet");

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
    let mut heard = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(10), life.read_to_end(&mut heard));
    ended
        .await
        .expect("the program that waited is killed")
        .unwrap();
    assert_eq!(heard, b"waiting\n");

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
