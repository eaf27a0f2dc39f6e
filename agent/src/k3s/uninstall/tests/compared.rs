//! When an uninstall is over: nothing is left, nothing is unseen, and systemd knows it.

use super::*;

#[tokio::test]
async fn systemd_reads_its_units_again_also_where_an_earlier_run_removed_the_files() {
    let fake = installed().await;
    for which in &STEPS[..4] {
        step(&fake, *which).await.unwrap();
    }
    // Killed between the removal and the reload.
    for path in [
        "/etc/systemd/system/k3s-agent.service",
        "/etc/systemd/system/k3s-agent.service.env",
    ] {
        fake.root.remove_file(path).await.unwrap();
    }
    step(&fake, Step::Files).await.unwrap();
    fake.systemd.clear_orders();
    let again = step(&fake, Step::Files).await.unwrap();
    assert_eq!(again.outcome, StepOutcome::Unchanged);
    assert_eq!(fake.systemd.orders(), [Told::DaemonReload]);
    step(&fake, Step::Compare).await.unwrap();
    let done = step(&fake, Step::Stop).await.unwrap();
    assert!(done.detail.starts_with("already clean"), "{}", done.detail);
}

#[tokio::test]
async fn rules_that_can_not_be_read_any_more_fail_the_network_step() {
    let fake = installed().await;
    let host = fake.host();
    unreadable_rules(&fake);
    let error = step(&fake, Step::Network).await.unwrap_err();
    assert_eq!(error.reason(), "RULES_UNREADABLE");
    let message = &error.report().message;
    assert!(message.contains("iptables: denied"), "{message}");
    // Without a picture it isn't known whether they ever could be.
    host.root.remove_file(paths::SNAPSHOT).await.unwrap();
    let done = step(&fake, Step::Network).await.unwrap();
    assert_eq!(done.outcome, StepOutcome::Warning);
    assert!(done.detail.contains("could not be read"), "{}", done.detail);
}

fn unreadable_rules(fake: &FakeHost) {
    fake.network.change(|state| {
        state.rules.iptables = Ruleset::Missing("denied".to_owned());
    });
}

#[tokio::test]
async fn a_tool_that_never_could_read_its_rules_is_no_obstacle() {
    let fake = FakeHost::new("w1");
    unreadable_rules(&fake);
    let picture = snapshot(&fake).await;
    installed_with(&fake, picture).await;
    let done = step(&fake, Step::Network).await.unwrap();
    assert_eq!(done.outcome, StepOutcome::Unchanged);
    let done = step(&fake, Step::Compare).await.unwrap();
    assert!(done.detail.starts_with("nothing left"), "{}", done.detail);
    assert!(!exists(&fake, paths::RECORD).await);
}

#[tokio::test]
async fn what_could_not_be_read_is_told_and_the_record_kept_until_it_can_be() {
    let fake = installed().await;
    for which in &STEPS[..5] {
        step(&fake, *which).await.unwrap();
    }
    let rules = fake.host().network.packet_rules().await.iptables;
    for blind in [Ruleset::Missing("denied".to_owned()), gone()] {
        fake.network.change(|state| state.rules.iptables = blind);
        let done = step(&fake, Step::Compare).await.unwrap();
        assert_eq!(done.outcome, StepOutcome::Warning);
        let told = "could not be read: rules of iptables: ";
        assert!(done.detail.contains(told), "{}", done.detail);
        assert!(exists(&fake, paths::RECORD).await && exists(&fake, paths::SNAPSHOT).await);
        let found = inspect(&fake.host(), None, &[]).await.unwrap();
        assert!(!found.clean && found.unknown.len() == 1, "{found:?}");
    }
    fake.network.change(|state| state.rules.iptables = rules);
    let ends = all(&fake).await;
    assert!(ends[5].detail.starts_with("nothing left"), "{ends:?}");
    assert!(!exists(&fake, paths::RECORD).await);
}

/// As the fake machine tells of a tool that isn't installed.
fn gone() -> Ruleset {
    Ruleset::Missing("not installed".to_owned())
}

#[tokio::test]
async fn the_record_is_kept_while_something_is_left_that_a_second_run_removes() {
    let fake = installed().await;
    let done = step(&fake, Step::Compare).await.unwrap();
    assert_eq!(done.outcome, StepOutcome::Warning);
    assert!(exists(&fake, paths::RECORD).await);
    let ends = all(&fake).await;
    assert!(ends[5].detail.starts_with("nothing left"), "{ends:?}");
    assert_theirs(&fake).await;
}

#[tokio::test]
async fn what_others_keep_in_a_shared_directory_does_not_keep_the_record() {
    let fake = installed().await;
    write(&fake, "/etc/rancher/k3s/registries.yaml").await;
    write(&fake, "/opt/cni/bin/theirs").await;
    let ends = all(&fake).await;
    assert_eq!(ends[5].outcome, StepOutcome::Warning);
    assert!(ends[5].detail.contains("/opt/cni"), "{}", ends[5].detail);
    assert!(!exists(&fake, paths::RECORD).await);
}

#[test]
fn only_a_slow_unmount_is_blamed_on_a_server() {
    let limit = Duration::from_secs(600);
    for (doing, word) in [
        ("unmounting /run/k3s/x", "umount -l"),
        ("removing /var/lib/rancher/k3s", "goes on from here"),
    ] {
        let doing = doing.to_owned();
        let error = removal_error(&RemovalError::TimedOut { limit, doing });
        let hint = &error.report().hint;
        assert!(hint.contains(word), "{hint}");
        assert_eq!(hint.contains("umount"), word == "umount -l", "{hint}");
    }
}

/// Otherwise a k3s that has to be killed is a failed step, although it has stopped.
#[test]
fn a_stop_is_waited_for_longer_than_systemd_takes_to_kill() {
    assert!(Limits::default().stop >= Duration::from_secs(90 + 15));
}
