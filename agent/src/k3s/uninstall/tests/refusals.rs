//! What an uninstall refuses: data and mounts that are not k3s's, and a k3s that is not the agent's.

use std::path::{Path, PathBuf};

use canasta_host::removal::Removal;

use super::*;

#[tokio::test]
async fn data_of_volumes_stops_every_step_that_removes_until_it_is_named() {
    let fake = installed().await;
    write(&fake, &format!("{DATA}/ibdata1")).await;
    for which in &STEPS[1..5] {
        let error = step(&fake, *which).await.unwrap_err();
        assert_eq!(error.reason(), "LOCAL_DATA");
        assert!(error.report().message.contains(DATA));
    }
    assert_eq!(fake.systemd.orders(), [], "k3s runs on");
    let other = "/var/lib/rancher/k3s/storage/other";
    let other = discarding(&fake, Step::Processes, &[other]).await;
    assert_eq!(other.unwrap_err().reason(), "LOCAL_DATA");
    let outside = discarding(&fake, Step::Stop, &[DATA, "/srv/theirs"]).await;
    assert_eq!(outside.unwrap_err().reason(), "SPEC_INVALID");
    for which in STEPS {
        discarding(&fake, which, &[DATA]).await.unwrap();
    }
    assert!(!exists(&fake, DATA).await);
    assert_theirs(&fake).await;
}

#[tokio::test]
async fn the_configured_place_of_volumes_counts_too() {
    let fake = installed().await;
    write(&fake, "/srv/volumes/pvc-2/data").await;
    fake.root
        .write(
            paths::CONFIG,
            "default-local-storage-path: /srv/volumes/\n",
            0o600,
        )
        .await
        .unwrap();
    let error = step(&fake, Step::Files).await.unwrap_err();
    assert_eq!(error.reason(), "LOCAL_DATA");
    let found = inspect(&fake.host(), None, &[]).await.unwrap();
    assert_eq!(found.local_path, "/srv/volumes");
    let stored = &found.stored[0];
    assert_eq!(
        (stored.path.as_str(), stored.bytes, stored.files),
        ("/srv/volumes/pvc-2", 1, 1)
    );
    for which in STEPS {
        discarding(&fake, which, &["/srv/volumes/pvc-2"])
            .await
            .unwrap();
    }
    assert!(!exists(&fake, "/srv/volumes/pvc-2").await);
    assert!(exists(&fake, "/srv/volumes").await);
}

#[tokio::test]
async fn a_mount_of_somebody_else_stops_every_step_and_is_named() {
    for point in [
        "/var/lib/kubelet/mine",
        "/var/lib/rancher/k3s",
        "/var/lib/kubelet/pods/mine",
    ] {
        let fake = installed().await;
        write(&fake, &format!("{point}/precious")).await;
        fake.removal.mount(point, "/dev/vdc", "ext4");
        for which in &STEPS[..5] {
            let error = step(&fake, *which).await.unwrap_err();
            assert_eq!(error.reason(), "FOREIGN_MOUNT");
            assert_eq!(error.report().subject, point);
            assert!(error.report().message.contains("/dev/vdc"));
        }
        assert!(exists(&fake, &format!("{point}/precious")).await);
        let found = inspect(&fake.host(), None, &[]).await.unwrap();
        assert_eq!(found.foreign_mounts[0].path, point);
    }
}

#[tokio::test]
async fn files_are_not_removed_under_what_is_still_mounted() {
    let fake = installed().await;
    step(&fake, Step::Stop).await.unwrap();
    let error = step(&fake, Step::Files).await.unwrap_err();
    assert_eq!(error.reason(), "MOUNTS_LEFT");
    assert!(exists(&fake, paths::DATA_DIR).await && exists(&fake, paths::BINARY).await);
}

#[tokio::test]
async fn a_process_that_does_not_end_is_named() {
    let fake = installed().await;
    fake.processes.hold(713);
    let error = step(&fake, Step::Processes).await.unwrap_err();
    assert_eq!(error.reason(), "PROCESS_STUCK");
    assert!(error.report().message.contains("p713 (713)"));
}

#[tokio::test]
async fn a_k3s_of_somebody_else_is_left_to_him() {
    let foreign = FakeHost::new("w1");
    write(&foreign, "/usr/local/bin/k3s-agent-uninstall.sh").await;
    foreign.systemd.add(Unit {
        name: paths::AGENT_UNIT.to_owned(),
        load_state: "loaded".to_owned(),
        ..Unit::default()
    });
    leave_behind(&foreign).await;
    let error = step(&foreign, Step::Stop).await.unwrap_err();
    assert_eq!(error.reason(), "FOREIGN_K3S");
    assert!(error.report().hint.contains("k3s-agent-uninstall.sh"));
    let record = Record::new(Origin::Adopted, Role::Agent);
    record.save(&foreign.host()).await.unwrap();
    for which in STEPS {
        assert_eq!(
            step(&foreign, which).await.unwrap_err().reason(),
            "K3S_ADOPTED"
        );
    }
    assert!(exists(&foreign, paths::DATA_DIR).await);
    assert_eq!(foreign.systemd.orders(), []);
}

#[tokio::test]
async fn a_disk_of_its_own_under_the_volumes_is_no_obstacle_and_a_server_is() {
    let fake = installed().await;
    fake.root
        .write(
            paths::CONFIG,
            "default-local-storage-path: /srv/volumes\n",
            0o600,
        )
        .await
        .unwrap();
    write(&fake, "/srv/volumes/pvc-2/data").await;
    fake.removal.mount("/srv/volumes", "/dev/vdd", "ext4");
    let named = ["/srv/volumes/pvc-2"];
    discarding(&fake, Step::Stop, &named).await.unwrap();
    fake.removal.mount("/srv/volumes/pvc-2", "/dev/vde", "ext4");
    let error = discarding(&fake, Step::Stop, &named).await.unwrap_err();
    assert_eq!(error.reason(), "FOREIGN_MOUNT");
    let found = inspect(&fake.host(), None, &[]).await.unwrap();
    assert_eq!(found.foreign_mounts[0].path, named[0]);

    let fake = installed().await;
    fake.removal.mount("/var/lib/rancher", "srv:/x", "nfs4");
    let error = step(&fake, Step::Stop).await.unwrap_err();
    assert_eq!(error.reason(), "FOREIGN_MOUNT");
    assert!(error.report().message.contains("srv:/x"));
    let found = inspect(&fake.host(), None, &[]).await.unwrap();
    assert_eq!(found.foreign_mounts[0].source, "srv:/x");
    assert!(found.unknown[0].contains("storage"), "{:?}", found.unknown);
}

#[tokio::test]
async fn without_a_mount_table_nothing_is_removed() {
    let fake = installed().await;
    fake.root.remove_file("/proc/1/mountinfo").await.unwrap();
    for which in &STEPS[..5] {
        let error = step(&fake, *which).await.unwrap_err();
        let told = format!("{error:?}");
        assert!(told.contains("mountinfo"), "{told}");
    }
    assert_eq!(fake.systemd.orders(), []);
    assert!(exists(&fake, paths::BINARY).await);
}

/// Puts the data of k3s where a link leads to.
fn lead(fake: &FakeHost, link: &str, to: &str) {
    let (from, to) = (fake.root.path(link), fake.root.path(to));
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    std::fs::rename(&from, &to).unwrap();
    let up = "../".repeat(Path::new(link).components().count() - 2);
    let target = to.strip_prefix(fake.directory()).unwrap();
    symlink(Path::new(&up).join(target), from).unwrap();
}

#[tokio::test]
async fn data_that_the_agent_can_not_see_is_looked_for_where_it_would_be_removed() {
    let fake = installed().await;
    write(&fake, &format!("{DATA}/ibdata1")).await;
    lead(&fake, "/var/lib/rancher", "/home/rancher");
    let mut host = fake.host();
    Unblinded::put_before(&mut host, &fake);
    let data = "/hidden/rancher/k3s/storage/pvc-1_default_db";
    let task = |step: Step, discard: &[&str]| K3sUninstallTask {
        step: step.into(),
        discard: discard.iter().map(|&path| path.to_owned()).collect(),
        local_paths: Vec::new(),
    };
    for which in &STEPS[1..5] {
        let error = run_on(&host, task(*which, &[])).await.unwrap_err();
        assert_eq!(error.reason(), "LOCAL_DATA_HIDDEN");
        let message = &error.report().message;
        assert!(message.contains(DATA), "{message}");
        let link = "/var/lib/rancher is a link to ../../home/rancher";
        assert!(message.contains(link), "{message}");
    }
    assert!(exists(&fake, &format!("{data}/ibdata1")).await);
    assert_eq!(fake.systemd.orders(), [], "k3s runs on");
    let found = inspect(&host, None, &[]).await.unwrap();
    assert_eq!(found.unknown, [""; 0]);
    assert!(!found.clean);
    let refusal = &found.refusals[0];
    assert_eq!(refusal.code, "LOCAL_DATA_HIDDEN");
    assert!(
        refusal.message.contains(DATA) && refusal.mend.contains("--force can't"),
        "{refusal:?}"
    );
    // A stop alone, which a join may ask for, destroys nothing.
    run_on(&host, task(Step::Stop, &[])).await.unwrap();
    std::fs::remove_dir_all(fake.root.path(data)).unwrap();
    let found = inspect(&host, None, &[]).await.unwrap();
    assert_eq!((found.refusals, found.unknown), (Vec::new(), Vec::new()));
    for which in STEPS {
        run_on(&host, task(which, &[])).await.unwrap();
    }
    assert!(!exists(&fake, "/hidden/rancher/k3s").await);
}

/// Removes in the mount namespace of PID 1: there `/home` is what it is, while the agent's own unit shows it none.
#[derive(Debug)]
struct Unblinded {
    shown: PathBuf,
    hidden: PathBuf,
    removal: Arc<dyn Removal>,
}

impl Unblinded {
    /// Hides `/home` from the agent.
    fn put_before(host: &mut Host, fake: &FakeHost) {
        let removal = Self {
            shown: fake.root.path("/home"),
            hidden: fake.root.path("/hidden"),
            removal: Arc::clone(&host.removal),
        };
        std::fs::rename(&removal.shown, &removal.hidden).unwrap();
        host.removal = Arc::new(removal);
    }
}

#[async_trait]
impl Removal for Unblinded {
    async fn run(&self, orders: &[Order], limit: Duration) -> Result<Report, RemovalError> {
        std::fs::rename(&self.hidden, &self.shown).unwrap();
        let done = self.removal.run(orders, limit).await;
        std::fs::rename(&self.shown, &self.hidden).unwrap();
        done
    }
}

/// Data that appears between the guard's last look and the removal.
#[tokio::test]
async fn the_removal_itself_looks_for_volumes_once_more() {
    let fake = installed().await;
    write(&fake, &format!("{DATA}/ibdata1")).await;
    for (order, named) in [
        (guard::holds_only(paths::LOCAL_STORAGE, &[]), false),
        (
            guard::holds_only(paths::LOCAL_STORAGE, &[DATA.to_owned()]),
            true,
        ),
    ] {
        let host = fake.host();
        let work = Work {
            host: &host,
            limits: Limits::default(),
            record: Record::new(Origin::Installed, Role::Agent),
            before: None,
            discard: &[],
            told: Vec::new(),
        };
        let done = work
            .remove(&[order, Order::Remove(paths::DATA_DIR.into())], "X")
            .await;
        assert_eq!(done.is_ok(), named);
        if let Err(error) = done {
            assert_eq!(error.reason(), "LOCAL_DATA");
            assert!(exists(&fake, &format!("{DATA}/ibdata1")).await);
        }
    }
}

#[tokio::test]
async fn another_kubernetes_that_came_later_stops_every_step() {
    let fake = installed().await;
    fake.systemd.add(Unit {
        name: "rke2-server.service".to_owned(),
        load_state: "loaded".to_owned(),
        active_state: "active".to_owned(),
        ..Unit::default()
    });
    for which in &STEPS[..5] {
        let error = step(&fake, *which).await.unwrap_err();
        assert_eq!(error.reason(), "OTHER_KUBERNETES");
        let message = &error.report().message;
        assert!(message.contains("RKE2 server (rke2-server"), "{message}");
    }
    assert_eq!(fake.systemd.orders(), []);
    assert!(exists(&fake, paths::KUBELET_DIR).await);
    let found = inspect(&fake.host(), None, &[]).await.unwrap();
    let refusal = &found.refusals[0];
    assert_eq!(refusal.code, "OTHER_KUBERNETES");
    assert!(
        refusal.message.contains("RKE2") && !refusal.mend.is_empty(),
        "{refusal:?}"
    );
    assert_eq!((found.unknown, found.clean), (Vec::new(), false));
}

#[tokio::test]
async fn where_the_cluster_keeps_volumes_counts_on_a_worker_as_told_now_and_at_the_join() {
    let fake = installed().await;
    // Below k3s's own directories it would go with them, elsewhere it would be overlooked.
    let (own, elsewhere) = ("/var/lib/rancher/k3s/volumes", "/srv/volumes");
    let volumes = [format!("{own}/any-name"), format!("{elsewhere}/{VOLUME}")];
    for volume in &volumes {
        write(&fake, &format!("{volume}/data")).await;
    }
    // What lies beside them elsewhere is not the cluster's.
    let theirs =
        ["www/index", "pvc-2_default_db/data", FILE].map(|name| format!("{elsewhere}/{name}"));
    for file in &theirs {
        write(&fake, file).await;
    }
    let mut record = Record::load(&fake.host()).await.unwrap().unwrap();
    record.add_local_paths(&[elsewhere.to_owned()]);
    record.save(&fake.host()).await.unwrap();
    let asked = [own.to_owned()];
    let task = |step: Step, discard: &[String]| K3sUninstallTask {
        step: step.into(),
        discard: discard.to_vec(),
        local_paths: asked.to_vec(),
    };
    let found = inspect(&fake.host(), None, &asked).await.unwrap();
    let places = [own, elsewhere, paths::LOCAL_STORAGE];
    assert_eq!(
        (found.local_path.as_str(), found.local_paths.as_slice()),
        (own, &places.map(str::to_owned)[..])
    );
    let stored: Vec<_> = found.stored.iter().map(|data| data.path.clone()).collect();
    assert_eq!(stored, volumes);
    for which in &STEPS[1..5] {
        for discard in [&volumes[..0], &volumes[..1], &volumes[1..]] {
            let error = run_on(&fake.host(), task(*which, discard))
                .await
                .unwrap_err();
            assert_eq!(error.reason(), "LOCAL_DATA");
        }
    }
    for name in ["www", "pvc-2_default_db", FILE] {
        let discard = [&volumes[..], &[format!("{elsewhere}/{name}")]].concat();
        let refused = run_on(&fake.host(), task(Step::Files, &discard)).await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.reason(), "SPEC_INVALID");
        assert!(refused.report().message.contains(name), "{refused:?}");
    }
    assert_eq!(fake.systemd.orders(), [], "k3s runs on");
    for which in STEPS {
        run_on(&fake.host(), task(which, &volumes)).await.unwrap();
    }
    for volume in volumes {
        assert!(!exists(&fake, &volume).await, "{volume}");
    }
    for file in theirs {
        assert!(exists(&fake, &file).await, "{file}");
    }
}

const VOLUME: &str = "pvc-1f3566e8-7b06-498e-8691-945178302f48_default_db";
/// Named as a volume, and a file.
const FILE: &str = "pvc-2f3566e8-7b06-498e-8691-945178302f48_default_db";

#[tokio::test]
async fn a_told_directory_that_leads_to_the_systems_or_to_k3s_own_is_not_looked_into() {
    for (to, rule) in [
        ("/etc/app", "no directory of the system"),
        ("/var/lib/kubelet", "in which k3s keeps other things"),
    ] {
        let fake = installed().await;
        write(&fake, &format!("{to}/{VOLUME}/data")).await;
        let up = format!("../{}", &to[1..]);
        std::fs::create_dir_all(fake.root.path("/srv")).unwrap();
        symlink(up, fake.root.path("/srv/v")).unwrap();
        let told = ["/srv/v".to_owned()];
        let found = inspect(&fake.host(), None, &told).await.unwrap();
        assert_eq!((found.stored, found.local_paths.len()), (Vec::new(), 2));
        let unknown = &found.unknown[0];
        assert!(
            unknown.contains(&format!("/srv/v lies in {to}, and is not looked into"))
                && unknown.contains(rule),
            "{unknown}"
        );
        let task = |step: Step, discard: &[String]| K3sUninstallTask {
            step: step.into(),
            discard: discard.to_vec(),
            local_paths: told.to_vec(),
        };
        let discard = [format!("/srv/v/{VOLUME}")];
        let refused = run_on(&fake.host(), task(Step::Files, &discard)).await;
        assert_eq!(refused.unwrap_err().reason(), "SPEC_INVALID");
        for which in STEPS {
            run_on(&fake.host(), task(which, &[])).await.unwrap();
        }
        assert_eq!(exists(&fake, "/etc/app").await, to == "/etc/app");
    }
}

#[tokio::test]
async fn a_told_directory_on_a_server_outside_of_k3s_own_stays_untouched_and_stops_nothing() {
    let fake = installed().await;
    let volume = format!("/srv/volumes/{VOLUME}");
    write(&fake, &format!("{volume}/data")).await;
    fake.removal.mount("/srv/volumes", "srv:/x", "nfs4");
    let told = ["/srv/volumes".to_owned()];
    let found = inspect(&fake.host(), None, &told).await.unwrap();
    assert_eq!(
        (found.foreign_mounts, found.stored),
        (Vec::new(), Vec::new())
    );
    let unknown = &found.unknown[0];
    assert!(
        unknown.contains("srv:/x") && unknown.contains("stays untouched"),
        "{unknown}"
    );
    for which in STEPS {
        let task = K3sUninstallTask {
            step: which.into(),
            discard: Vec::new(),
            local_paths: told.to_vec(),
        };
        run_on(&fake.host(), task).await.unwrap();
    }
    assert!(exists(&fake, &format!("{volume}/data")).await);
}

#[tokio::test]
async fn a_mount_below_a_link_is_k3s_own_or_stops_every_step() {
    let fake = installed().await;
    lead(&fake, "/var/lib/kubelet", "/data/kubelet");
    let pods = POD.replace("/var/lib/kubelet", "/data/kubelet");
    fake.removal
        .mount(&format!("{pods}/volumes/y"), "tmpfs", "tmpfs");
    fake.removal.mount("/data/kubelet/mine", "/dev/vdc", "ext4");
    for which in &STEPS[..5] {
        let error = step(&fake, *which).await.unwrap_err();
        assert_eq!(error.reason(), "FOREIGN_MOUNT");
        assert_eq!(error.report().subject, "/data/kubelet/mine");
    }
    let fake = installed().await;
    lead(&fake, "/var/lib/kubelet", "/data/kubelet");
    fake.removal
        .mount(&format!("{pods}/volumes/y"), "tmpfs", "tmpfs");
    for which in &STEPS[..3] {
        step(&fake, *which).await.unwrap();
    }
    assert_theirs_mounts(&fake).await;
}

#[tokio::test]
async fn a_path_that_can_not_be_followed_stops_every_step() {
    let fake = installed().await;
    std::fs::rename(
        fake.root.path("/var/lib/kubelet"),
        fake.root.path("/var/lib/kubelet2"),
    )
    .unwrap();
    symlink("kubelet", fake.root.path("/var/lib/kubelet")).unwrap();
    let error = step(&fake, Step::Stop).await.unwrap_err();
    assert_eq!(error.reason(), "FILE_FAILED");
    assert_eq!(fake.systemd.orders(), []);
}
