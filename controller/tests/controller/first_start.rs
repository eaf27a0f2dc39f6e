//! The state directory: made once, never by mistake, and refused with the way out when something is wrong with it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use canasta_controller::controller::StartError;
use canasta_controller::store::OpenError;
use canasta_transport::status::chain;

use crate::support::Lab;

/// A lab whose controller has run and is down.
async fn stopped() -> Lab {
    let mut lab = Lab::start().await;
    lab.add_host("cp1").await;
    lab.down().await;
    lab
}

/// Starts the controller, which must refuse, and returns what the operator reads.
async fn refusal(lab: &mut Lab) -> (StartError, String) {
    let error = lab.up().await.expect_err("refused");
    let text = error.to_string();
    (error, text)
}

#[tokio::test]
async fn what_was_there_is_there_after_a_restart_and_after_a_crash() {
    let mut lab = stopped().await;
    lab.up().await.expect("start");
    assert_eq!(lab.host("cp1").await.name, "cp1");
    let token = lab.add_host("cp2").await;
    lab.crash().await;
    lab.up().await.expect("start");
    assert_eq!(lab.host("cp2").await.name, "cp2");
    // The same CA: a token of before still pins it.
    lab.stranger(token.pin()).await;
    for secret in ["ca/ca.key", "fleet.db", "fleet.db-wal"] {
        let mode = fs::metadata(lab.state(secret))
            .expect(secret)
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{secret}");
    }
}

#[tokio::test]
async fn a_first_start_that_was_cut_off_is_taken_up() {
    let cuts: [fn(&Lab); 4] = [
        |lab| {
            fs::remove_dir_all(lab.state("ca")).expect("ca");
            fs::remove_file(lab.state("fleet.db")).expect("database");
        },
        |lab| {
            fs::remove_dir_all(lab.state("ca")).expect("ca");
            fs::remove_file(lab.state("fleet.db")).expect("database");
            fs::create_dir(lab.state("ca.unfinished")).expect("directory");
            fs::write(lab.state("ca.unfinished/ca.key"), "half").expect("key");
        },
        |lab| fs::remove_file(lab.state("fleet.db")).expect("database"),
        |lab| fs::write(lab.state("fleet.db"), "").expect("database"),
    ];
    for cut in cuts {
        let mut lab = Lab::start().await;
        lab.down().await;
        cut(&lab);
        fs::write(lab.state("first-start"), "").expect("marker");
        lab.up().await.expect("start");
        assert!(!lab.state("first-start").exists());
        lab.add_host("cp1").await;
        lab.down().await;
        lab.up().await.expect("start again");
        assert_eq!(lab.host("cp1").await.name, "cp1");
    }
}

#[tokio::test]
async fn a_missing_database_or_ca_is_refused() {
    let mut lab = stopped().await;
    fs::rename(lab.state("fleet.db"), lab.state("aside")).expect("rename");
    let (error, text) = refusal(&mut lab).await;
    assert!(
        matches!(error, StartError::State(OpenError::DatabaseMissing { .. })),
        "{error:?}"
    );
    assert!(
        text.contains("fleet.db") && text.contains("backup"),
        "{text}"
    );
    assert!(!lab.state("fleet.db").exists());

    fs::rename(lab.state("aside"), lab.state("fleet.db")).expect("rename");
    fs::rename(lab.state("ca"), lab.state("ca-aside")).expect("rename");
    let (error, text) = refusal(&mut lab).await;
    assert!(
        matches!(error, StartError::State(OpenError::CaMissing { .. })),
        "{error:?}"
    );
    assert!(text.contains("/ca:") && text.contains("backup"), "{text}");
    assert!(!lab.state("ca").exists());
}

#[tokio::test]
async fn a_damaged_database_is_refused() {
    let mut lab = Lab::start().await;
    lab.add_host("cp1").await;
    // A page that nothing reads at an opening: only a check of the whole file finds it.
    let table = "SELECT rootpage FROM sqlite_schema WHERE name = 'capabilities'";
    let page: u32 = sqlx::query_scalar(table)
        .fetch_one(lab.controller().store().pool())
        .await
        .expect("a table");
    lab.down().await;
    let whole = fs::read(lab.state("fleet.db")).expect("read");
    let mut unread = whole.clone();
    let end = page as usize * 4096;
    unread[end - 4096..end].fill(0xa5);
    let mut torn = whole.clone();
    let middle = torn.len() / 2;
    torn[4096..middle].fill(0xa5);
    let damages: [&[u8]; 5] = [
        &whole[..whole.len() / 2],
        &whole[..100],
        b"",
        &torn,
        &unread,
    ];
    for damage in damages {
        fs::write(lab.state("fleet.db"), damage).expect("write");
        let (error, text) = refusal(&mut lab).await;
        assert!(
            matches!(error, StartError::State(OpenError::Damaged { .. })),
            "{error:?}"
        );
        assert!(
            text.contains("fleet.db") && text.contains("backup"),
            "{text}"
        );
    }
    fs::write(
        lab.state("fleet.db"),
        "this is a text file, and a rather long one\n".repeat(100),
    )
    .expect("write");
    let (error, _) = refusal(&mut lab).await;
    assert!(
        matches!(error, StartError::State(OpenError::Damaged { .. })),
        "{error:?}"
    );
    fs::write(lab.state("fleet.db"), whole).expect("write");
    lab.up().await.expect("the whole file is good");
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused() {
    let lab = &mut Lab::start().await;
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (9999, 'from the future', 1, x'00', 0)",
    )
    .execute(lab.controller().store().pool())
    .await
    .expect("insert");
    lab.down().await;
    let (error, text) = refusal(lab).await;
    assert!(
        matches!(
            error,
            StartError::State(OpenError::Newer { found: 9999, .. })
        ),
        "{error:?}"
    );
    assert!(
        text.contains("fleet.db") && text.contains("newer canasta-controller"),
        "{text}"
    );
}

#[tokio::test]
async fn a_database_of_another_fleet_is_refused() {
    let mut lab = stopped().await;
    let other = stopped().await;
    fs::copy(other.state("fleet.db"), lab.state("fleet.db")).expect("copy");
    let (error, _) = refusal(&mut lab).await;
    assert!(
        matches!(error, StartError::State(OpenError::OtherFleet { .. })),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_second_controller_is_refused() {
    let lab = Lab::start().await;
    let mut second = Lab::prepare();
    second.config.state_dir.clone_from(&lab.config.state_dir);
    let (error, text) = refusal(&mut second).await;
    assert!(
        matches!(error, StartError::State(OpenError::InUse { .. })),
        "{error:?}"
    );
    assert!(text.contains("another canasta-controller"), "{text}");
}

/// Makes the state directory read-only for this thread and those that it starts: by its mode for a user, by a mount in a
/// namespace of its own for root, whom modes don't stop.
fn make_read_only(lab: &Lab, which: &std::path::Path) {
    use nix::mount::{MsFlags, mount};
    if !nix::unistd::geteuid().is_root() {
        fs::set_permissions(which, fs::Permissions::from_mode(0o500)).expect("mode");
        return;
    }
    assert!(which.starts_with(lab.directory.path()));
    let none: Option<&str> = None;
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("namespace");
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("private");
    mount(Some(which), which, none, MsFlags::MS_BIND, none).expect("bind");
    let read_only = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(none, which, none, read_only, none).expect("read-only");
}

#[test]
fn a_read_only_state_directory_is_refused() {
    // The namespace is the thread's, so the runtime is made in it.
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("runtime")
    };
    let refused = |which: &'static str| {
        std::thread::spawn(move || {
            let mut lab = runtime().block_on(stopped());
            let which = lab.state(which);
            make_read_only(&lab, &which);
            let (error, text) = runtime().block_on(refusal(&mut lab));
            if !nix::unistd::geteuid().is_root() {
                fs::set_permissions(&which, fs::Permissions::from_mode(0o700)).expect("mode");
            }
            (format!("{error:?}"), text, chain(&error))
        })
        .join()
        .expect("thread")
    };
    let (error, text, causes) = refused("");
    assert!(error.contains("Directory"), "{error}");
    assert!(
        text.contains("state") && text.contains("writable"),
        "{text}"
    );
    assert!(!causes.is_empty());
    let (error, text, _) = refused("fleet.db");
    assert!(error.contains("ReadOnly"), "{error}");
    assert!(
        text.contains("fleet.db") && text.contains("writable"),
        "{text}"
    );
}
