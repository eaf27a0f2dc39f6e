//! Files: damaged, missing, half done, someone else's, no room.

use std::os::unix::fs::PermissionsExt as _;

use canasta_host::fake::FakeHost;
use canasta_proto::pb::{K3sSpec, StepOutcome};

use super::*;

#[tokio::test]
async fn what_was_deleted_or_tampered_with_is_repaired() {
    for (which, path) in [
        (Step::Config, paths::CONFIG),
        (Step::Config, paths::TRAEFIK_MANIFEST),
        (Step::Config, paths::LINK_FILE),
        (Step::Unit, "/etc/systemd/system/k3s.service"),
        (Step::Unit, "/etc/systemd/system/k3s.service.env"),
    ] {
        let fake = installed().await;
        let whole = fake.root.read_optional(path).await.unwrap();
        for damage in ["delete", "tamper", "mode"] {
            match damage {
                "delete" => drop(fake.root.remove_file(path).await.unwrap()),
                "tamper" => drop(fake.root.write(path, "x", 0o600).await.unwrap()),
                _ => std::fs::set_permissions(
                    fake.root.path(path),
                    std::fs::Permissions::from_mode(0o666),
                )
                .unwrap(),
            }
            assert_eq!(
                outcome(step(&fake, &spec(V1), which).await),
                StepOutcome::Repaired,
                "{path} {damage}"
            );
            assert_eq!(
                fake.root.read_optional(path).await.unwrap(),
                whole,
                "{path} {damage}"
            );
            assert_eq!(
                outcome(step(&fake, &spec(V1), which).await),
                StepOutcome::Unchanged,
                "{path} {damage}"
            );
        }
        assert_eq!(
            outcome(step(&fake, &spec(V1), Step::Start).await),
            StepOutcome::Unchanged,
            "the process read whole files: {path}"
        );
        assert_eq!(starts(&fake), 0);
    }
}

#[tokio::test]
async fn a_damaged_binary_is_replaced_from_the_stage_and_a_missing_artefact_is_said() {
    let fake = installed().await;
    fake.root
        .write(paths::BINARY, "broken", 0o755)
        .await
        .unwrap();
    let error = step(&fake, &spec(V1), Step::Binary).await.unwrap_err();
    assert_eq!(error.reason(), "ARTEFACT_MISSING");
    stage(&fake, V1).await;
    assert_eq!(
        outcome(step(&fake, &spec(V1), Step::Binary).await),
        StepOutcome::Repaired
    );
    assert_eq!(
        fake.root.read_text(paths::BINARY).await.unwrap().unwrap(),
        program(V1)
    );
    assert!(
        !fake
            .root
            .exists(paths::staged_binary(&spec(V1).binary_sha256))
            .await
            .unwrap()
    );
    std::fs::set_permissions(
        fake.root.path(paths::BINARY),
        std::fs::Permissions::from_mode(0o600),
    )
    .unwrap();
    assert_eq!(
        outcome(step(&fake, &spec(V1), Step::Binary).await),
        StepOutcome::Repaired,
        "needs no artefact"
    );
}

#[tokio::test]
async fn the_agent_token_is_made_once_and_again_only_when_it_is_gone() {
    let fake = installed().await;
    fake.root
        .write(paths::AGENT_TOKEN, "chosen by the operator", 0o600)
        .await
        .unwrap();
    assert_eq!(
        outcome(step(&fake, &spec(V1), Step::Config).await),
        StepOutcome::Unchanged
    );
    std::fs::set_permissions(
        fake.root.path(paths::AGENT_TOKEN),
        std::fs::Permissions::from_mode(0o644),
    )
    .unwrap();
    assert_eq!(
        outcome(step(&fake, &spec(V1), Step::Config).await),
        StepOutcome::Repaired
    );
    assert_eq!(
        fake.root
            .read_text(paths::AGENT_TOKEN)
            .await
            .unwrap()
            .unwrap(),
        "chosen by the operator"
    );
    fake.root.remove_file(paths::AGENT_TOKEN).await.unwrap();
    assert_eq!(
        outcome(step(&fake, &spec(V1), Step::Config).await),
        StepOutcome::Repaired
    );
    assert_eq!(
        fake.root
            .read_text(paths::AGENT_TOKEN)
            .await
            .unwrap()
            .unwrap()
            .len(),
        64
    );
}

#[tokio::test]
async fn a_crash_between_the_intent_and_the_write_is_repaired() {
    for path in [paths::CONFIG, paths::AGENT_TOKEN, paths::LINK_FILE] {
        let fake = installed().await;
        let mut record = record(&fake).await;
        let mut entry = record.entry(path).unwrap().clone();
        entry.created = false;
        record.put(entry);
        record.save(&fake.host()).await.unwrap();
        fake.root.remove_file(path).await.unwrap();
        assert_eq!(
            outcome(step(&fake, &spec(V1), Step::Config).await),
            StepOutcome::Repaired,
            "{path}"
        );
        assert!(super::record(&fake).await.entry(path).unwrap().created);
        assert_eq!(
            outcome(step(&fake, &spec(V1), Step::Config).await),
            StepOutcome::Unchanged,
            "{path}"
        );
    }
}

#[tokio::test]
async fn the_intent_is_on_disk_before_the_first_write() {
    let fake = FakeHost::new("cp1");
    // A place where nothing can be created: the write of the file fails, the intent stays.
    std::fs::create_dir_all(fake.root.path("/etc/rancher")).unwrap();
    std::os::unix::fs::symlink("/proc/self/fdinfo", fake.root.path("/etc/rancher/k3s")).unwrap();
    let error = step(&fake, &spec(V1), Step::Config).await.unwrap_err();
    assert_eq!(error.reason(), "FILE_FAILED");
    assert!(
        error.report().message.contains("/etc/rancher/k3s"),
        "{error:?}"
    );
    let entry = record(&fake).await.entry(paths::CONFIG).unwrap().clone();
    assert!(!entry.created);
    std::fs::remove_file(fake.root.path("/etc/rancher/k3s")).unwrap();
    assert_eq!(
        outcome(step(&fake, &spec(V1), Step::Config).await),
        StepOutcome::Repaired
    );
}

#[tokio::test]
async fn the_intent_is_on_disk_before_the_binary_is_moved() {
    let fake = FakeHost::new("cp1");
    // Asked for its version, it puts a directory in the binary's place: the move fails, the intent stays.
    let place = fake.root.path(paths::BINARY);
    let first = format!("\nmkdir {}\necho", place.display());
    let program = program(V1).replace("\necho", &first);
    let spec = K3sSpec {
        binary_sha256: sha256(program.as_bytes()),
        ..spec(V1)
    };
    let staged = paths::staged_binary(&spec.binary_sha256);
    fake.root.write(&staged, program, 0o600).await.unwrap();
    let error = step(&fake, &spec, Step::Binary).await.unwrap_err();
    assert_eq!(error.reason(), "FILE_FAILED");
    assert!(place.is_dir(), "{error:?}");
    assert!(!record(&fake).await.entry(paths::BINARY).unwrap().created);
}

#[tokio::test]
async fn files_of_others_are_never_replaced() {
    for (which, path) in [
        (Step::Binary, paths::BINARY),
        (Step::Config, paths::CONFIG),
        (Step::Config, paths::AGENT_TOKEN),
        (Step::Unit, "/etc/systemd/system/k3s.service.env"),
    ] {
        let fake = FakeHost::new("cp1");
        stage(&fake, V1).await;
        fake.root.write(path, "theirs", 0o600).await.unwrap();
        let error = step(&fake, &spec(V1), which).await.unwrap_err();
        assert_eq!(
            (error.reason(), error.report().subject.as_str()),
            ("FILE_NOT_OURS", path)
        );
        assert_eq!(fake.root.read_text(path).await.unwrap().unwrap(), "theirs");
    }
}

#[tokio::test]
async fn a_unit_of_someone_else_stops_every_step_before_it_writes() {
    let fake = FakeHost::new("cp1");
    stage(&fake, V1).await;
    fake.root
        .write("/etc/systemd/system/k3s.service", "theirs", 0o644)
        .await
        .unwrap();
    for which in TO_START {
        let error = step(&fake, &spec(V1), which).await.unwrap_err();
        assert_eq!(
            (error.reason(), error.report().subject.as_str()),
            ("FOREIGN_K3S", UNIT),
            "{which:?}"
        );
    }
    for path in [paths::CONFIG, paths::BINARY, paths::RECORD, paths::SNAPSHOT] {
        assert!(!fake.root.exists(path).await.unwrap(), "{path}");
    }
}

#[tokio::test]
async fn a_link_that_is_gone_does_not_come_back_over_a_program_of_that_name() {
    let fake = installed().await;
    fake.root
        .remove_file("/usr/local/bin/kubectl")
        .await
        .unwrap();
    fake.root
        .write("/usr/bin/kubectl", "theirs", 0o755)
        .await
        .unwrap();
    let done = step(&fake, &spec(V1), Step::Links).await.unwrap();
    assert_eq!(done.outcome, StepOutcome::Unchanged);
    assert!(
        done.detail.contains("/usr/bin/kubectl has the name"),
        "{}",
        done.detail
    );
    assert!(!fake.root.exists("/usr/local/bin/kubectl").await.unwrap());
}

#[tokio::test]
async fn every_file_is_recorded_and_nothing_else() {
    let fake = installed().await;
    let record = record(&fake).await;
    assert!(record.owned.iter().all(|entry| entry.created), "{record:?}");
    for (path, kind) in [
        (paths::BINARY, Kind::File),
        (paths::CONFIG, Kind::File),
        (paths::AGENT_TOKEN, Kind::Secret),
        (paths::TRAEFIK_MANIFEST, Kind::File),
        (paths::LINK_FILE, Kind::File),
        ("/etc/systemd/system/k3s.service", Kind::File),
        ("/etc/systemd/system/k3s.service.env", Kind::File),
        ("/usr/local/bin/kubectl", Kind::Link),
        ("/etc/rancher", Kind::Directory),
        ("/etc/rancher/k3s", Kind::Directory),
        ("/var/lib/rancher/k3s/server/manifests", Kind::Directory),
    ] {
        assert_eq!(
            record.entry(path).map(|entry| entry.kind),
            Some(kind),
            "{path}"
        );
    }
    let token = fake
        .root
        .read_text(paths::AGENT_TOKEN)
        .await
        .unwrap()
        .unwrap();
    let stored = fake.root.read_text(paths::RECORD).await.unwrap().unwrap();
    assert!(!stored.contains(&token) && !stored.contains(&sha256(token.as_bytes())));
    assert!(fake.root.exists("/var/lib").await.unwrap() && record.entry("/var/lib").is_none());
}

#[tokio::test]
async fn links_are_made_only_where_the_names_are_free() {
    let fake = FakeHost::new("cp1");
    fake.root
        .write("/usr/bin/kubectl", "theirs", 0o755)
        .await
        .unwrap();
    std::os::unix::fs::symlink("k3s", fake.root.path("/usr/local/bin/ctr")).unwrap();
    let done = step(&fake, &spec(V1), Step::Links).await.unwrap();
    assert_eq!(done.outcome, StepOutcome::Changed);
    assert!(
        done.detail
            .contains("kubectl: left alone, /usr/bin/kubectl has the name"),
        "{}",
        done.detail
    );
    assert!(done.detail.contains("ctr: left alone"), "{}", done.detail);
    assert!(
        fake.root
            .is_symlink_to("/usr/local/bin/crictl", "k3s")
            .await
            .unwrap()
    );
    assert!(!fake.root.exists("/usr/local/bin/kubectl").await.unwrap());
    assert_eq!(
        outcome(step(&fake, &spec(V1), Step::Links).await),
        StepOutcome::Unchanged
    );
    fake.root
        .remove_file("/usr/local/bin/crictl")
        .await
        .unwrap();
    assert_eq!(
        outcome(step(&fake, &spec(V1), Step::Links).await),
        StepOutcome::Repaired
    );
    fake.root
        .remove_file("/usr/local/bin/crictl")
        .await
        .unwrap();
    fake.root
        .write("/usr/local/bin/crictl", "theirs now", 0o755)
        .await
        .unwrap();
    assert_eq!(
        outcome(step(&fake, &spec(V1), Step::Links).await),
        StepOutcome::Unchanged
    );
    assert!(record(&fake).await.entry("/usr/local/bin/crictl").is_none());
}

#[tokio::test]
async fn changed_keys_are_named() {
    let fake = installed().await;
    let wider = K3sSpec {
        tls_sans: vec!["198.51.100.1".to_owned()],
        ..spec(V1)
    };
    let done = step(&fake, &wider, Step::Config).await.unwrap();
    assert_eq!(done.outcome, StepOutcome::Changed);
    assert!(
        done.detail
            .starts_with("config.yaml: tls-san changed; canasta-traefik.yaml: unchanged"),
        "{}",
        done.detail
    );
}

#[tokio::test]
async fn a_wrong_file_on_the_stage_is_refused_and_nothing_renamed() {
    let fake = installed().await;
    let other = spec(V2);
    fake.root
        .write(paths::staged_binary(&other.binary_sha256), "cut off", 0o600)
        .await
        .unwrap();
    let error = step(&fake, &other, Step::Binary).await.unwrap_err();
    assert_eq!(error.reason(), "CHECKSUM_MISMATCH");
    assert!(
        !fake
            .root
            .exists(paths::staged_binary(&other.binary_sha256))
            .await
            .unwrap()
    );

    let mislabelled = K3sSpec {
        version: "v1.34.9+k3s1".to_owned(),
        ..other
    };
    stage(&fake, V2).await;
    assert_eq!(
        step(&fake, &mislabelled, Step::Binary)
            .await
            .unwrap_err()
            .reason(),
        "VERSION_MISMATCH"
    );

    let elf = "\x7fELF no program";
    let foreign = K3sSpec {
        binary_sha256: sha256(elf.as_bytes()),
        ..spec(V1)
    };
    fake.root
        .write(paths::staged_binary(&foreign.binary_sha256), elf, 0o600)
        .await
        .unwrap();
    assert_eq!(
        step(&fake, &foreign, Step::Binary)
            .await
            .unwrap_err()
            .reason(),
        "WRONG_ARCHITECTURE"
    );
    assert_eq!(
        fake.root.read_text(paths::BINARY).await.unwrap().unwrap(),
        program(V1)
    );
}

#[tokio::test]
async fn a_downgrade_and_a_skipped_minor_are_refused() {
    let fake = installed().await;
    for (version, reason) in [
        ("v1.34.7+k3s1", "K3S_DOWNGRADE"),
        ("v1.36.0+k3s1", "K3S_SKIPS_MINOR"),
    ] {
        stage(&fake, version).await;
        assert_eq!(
            step(&fake, &spec(version), Step::Binary)
                .await
                .unwrap_err()
                .reason(),
            reason
        );
    }
}

#[tokio::test]
async fn a_snapshot_is_taken_once_and_never_after_an_install() {
    let fake = installed().await;
    let first = fake.root.read_text(paths::SNAPSHOT).await.unwrap().unwrap();
    assert_eq!(
        outcome(step(&fake, &spec(V1), Step::Snapshot).await),
        StepOutcome::Unchanged
    );
    assert_eq!(
        fake.root.read_text(paths::SNAPSHOT).await.unwrap().unwrap(),
        first
    );
    fake.root.remove_file(paths::SNAPSHOT).await.unwrap();
    assert_eq!(
        outcome(step(&fake, &spec(V1), Step::Snapshot).await),
        StepOutcome::Skipped
    );
}

#[tokio::test]
async fn a_broken_record_is_said_and_nothing_is_written() {
    let fake = installed().await;
    fake.root.write(paths::RECORD, "{", 0o600).await.unwrap();
    let error = step(&fake, &spec(V1), Step::Config).await.unwrap_err();
    assert_eq!(error.reason(), "RECORD_UNREADABLE");
    assert!(error.report().message.contains("owned/k3s.json"));
    fake.root
        .write(paths::RECORD, r#"{"format": 2}"#, 0o600)
        .await
        .unwrap();
    assert_eq!(
        step(&fake, &spec(V1), Step::Config)
            .await
            .unwrap_err()
            .reason(),
        "RECORD_TOO_NEW"
    );
}
