//! The CLI on another machine: what its tokens are refused with, and what becomes of its certificate.

use std::fs;
use std::time::Duration;

use canasta_proto::pb;
use canasta_tests::fleet::Fleet;
use canasta_tests::fleet::cli::{Cli, Output};
use jiff::Timestamp;

async fn add(fleet: &Fleet, cli: &Cli, name: &str, token: &str) -> Output {
    let controller = fleet.address().to_string();
    let add = ["context", "add", name, "--controller", &controller];
    let arguments = [&add[..], &["--token-file", "-"]].concat();
    cli.run_with_input(&arguments, token).await
}

fn refused(output: &Output, token: &str, parts: &[&str]) {
    assert_eq!(output.code, 4, "{output:?}");
    for part in parts {
        assert!(output.stderr.contains(part), "{part}: {output:?}");
    }
    let secret = token.rsplit('.').next().unwrap();
    assert!(!output.stderr.contains(secret), "{output:?}");
}

#[tokio::test]
async fn a_users_token_that_is_wrong_or_used_is_told_as_that() {
    let fleet = Fleet::start().await;
    let cli = Cli::new();
    let token = fleet.user_token("anna", pb::Role::Viewer).await;
    let mut wrong = token.clone();
    let last = if wrong.pop() == Some('a') { 'b' } else { 'a' };
    // The last character may hold bits that count for nothing.
    let before = if wrong.pop() == Some('a') { 'b' } else { 'a' };
    wrong.extend([before, last]);
    let output = add(&fleet, &cli, "a", &wrong).await;
    refused(
        &output,
        &wrong,
        &["this token is not known here", "canasta user add"],
    );

    // Refused before it was sent, so that it is still good.
    let other = Fleet::start().await;
    let output = add(&other, &cli, "a", &token).await;
    refused(
        &output,
        &token,
        &["is not the controller that made this token", "was not sent"],
    );

    let output = add(&fleet, &cli, "a", &token).await;
    assert_eq!(output.code, 0, "{output:?}");
    let output = add(&fleet, &Cli::new(), "a", &token).await;
    refused(
        &output,
        &token,
        &[
            "this token for anna has been used already",
            "canasta user add anna",
        ],
    );
}

#[tokio::test]
async fn a_users_token_whose_time_is_over_is_told_as_that() {
    let life = Duration::from_millis(1);
    let fleet = Fleet::start_with(0, |config| config.timings.token = life).await;
    let token = fleet.user_token("anna", pb::Role::Viewer).await;
    let output = add(&fleet, &Cli::new(), "a", &token).await;
    refused(
        &output,
        &token,
        &["this token for anna expired at ", "canasta user add anna"],
    );
}

#[tokio::test]
async fn the_keys_of_contexts_are_their_owners_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let fleet = Fleet::start().await;
    let cli = fleet.cli("anna", pb::Role::Viewer).await;
    let file = cli.contexts();
    assert!(fs::read_to_string(&file).unwrap().contains("PRIVATE KEY"));
    let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(file.clone()), 0o600);
    assert_eq!(mode(file.parent().unwrap().to_owned()), 0o700);
}

/// The certificate of the context, and the one that is to take its place.
fn certificates(cli: &Cli) -> (String, Option<String>) {
    let text = fs::read_to_string(cli.contexts()).unwrap();
    let file: toml::Table = text.parse().unwrap();
    let context = &file["contexts"]["test"];
    let of = |value: &toml::Value| value["certificate"].as_str().unwrap().to_owned();
    (of(context), context.get("next").map(of))
}

async fn works(cli: &Cli) {
    let output = cli.run(&["host", "list"]).await;
    assert_eq!(output.code, 0, "{output:?}");
    assert!(
        !output.stderr.contains("could not be renewed"),
        "{output:?}"
    );
}

/// Uses the CLI until it holds a certificate that is to take the place of the present one.
async fn renewed(fleet: &Fleet, cli: &Cli) -> String {
    fleet
        .until("a new certificate", async || {
            works(cli).await;
            certificates(cli).1
        })
        .await
}

#[tokio::test]
async fn a_certificate_is_renewed_and_the_one_before_goes_when_the_new_one_was_used() {
    let life = Duration::from_secs(3);
    let fleet = Fleet::start_with(0, |config| config.timings.leaf = life).await;
    let cli = fleet.cli("anna", pb::Role::Viewer).await;
    let added = Timestamp::now();
    let (first, none) = certificates(&cli);
    assert_eq!(none, None);
    let next = renewed(&fleet, &cli).await;
    let (kept, _) = certificates(&cli);
    assert_eq!(kept, first, "the old one stays until the new one was used");
    works(&cli).await;
    assert_eq!(certificates(&cli), (next.clone(), None));

    // What was spoilt on the way does not lock the user out.
    let spoilt = renewed(&fleet, &cli).await;
    let text = fs::read_to_string(cli.contexts()).unwrap();
    fs::write(cli.contexts(), text.replace(&spoilt, "00")).unwrap();
    works(&cli).await;
    let (kept, another) = certificates(&cli);
    assert_eq!(kept, next);
    let another = another.expect("a new certificate");
    assert!(another != "00" && another != spoilt);

    let life = jiff::SignedDuration::try_from(life).unwrap();
    fleet
        .until("the first one to have ended", async || {
            (Timestamp::now().duration_since(added) > life).then_some(())
        })
        .await;
    works(&cli).await;
    assert_eq!(certificates(&cli).0, another);
}

#[tokio::test]
async fn two_commands_at_once_lose_nothing_of_each_other() {
    let fleet = Fleet::start().await;
    let cli = fleet.cli("anna", pb::Role::Viewer).await;
    let lock = fs::File::create(cli.contexts().with_extension("lock")).unwrap();
    lock.lock().unwrap();
    let running = cli.spawn(&["context", "use", "local"]);
    let waits = format!(" {} ", running.id());
    fleet
        .until("the command to wait for the other one", async || {
            let locks = fs::read_to_string("/proc/locks").unwrap();
            let waiting = |line: &str| line.contains("-> FLOCK") && line.contains(&waits);
            locks.lines().any(waiting).then_some(())
        })
        .await;
    // What another command does that has the lock.
    let text = fs::read_to_string(cli.contexts()).unwrap();
    let mut file: toml::Table = text.parse().unwrap();
    let contexts = file["contexts"].as_table_mut().unwrap();
    let twin = contexts["test"].clone();
    contexts.insert("twin".to_owned(), twin);
    fs::write(cli.contexts(), toml::to_string(&file).unwrap()).unwrap();
    lock.unlock().unwrap();
    let output = running.ended().await;
    assert_eq!(output.code, 0, "{output:?}");
    let file: toml::Table = fs::read_to_string(cli.contexts()).unwrap().parse().unwrap();
    let names: Vec<_> = file["contexts"].as_table().unwrap().keys().collect();
    assert_eq!(names, ["test", "twin"]);
    assert_eq!(file.get("current"), None, "{file:?}");
}
