//! Programs that end, fail, hang and talk too much.

use super::*;

const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_program_gets_its_arguments_as_they_are_and_a_bare_environment() {
    let output = run("printf", ["%s|%s", "a b", "$(id); x"], SOON, 100)
        .await
        .unwrap();
    assert_eq!(output.stdout, b"a b|$(id); x");
    let output = run("env", [""; 0], SOON, 10_000).await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut names: Vec<_> = text
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, _)| name)
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["LANG", "PATH"]);
}

#[tokio::test]
async fn a_missing_program_and_a_failing_one_are_different() {
    let error = run("canasta-no-such-program", ["x"], SOON, 100)
        .await
        .unwrap_err();
    assert!(error.is_missing_program());
    assert_eq!(error.to_string(), "failed to start canasta-no-such-program");

    let error = run("cat", ["/no/such/file"], SOON, 1000).await.unwrap_err();
    assert!(!error.is_missing_program());
    let text = error.to_string();
    assert!(
        text.starts_with("failed to run cat /no/such/file: exit status: 1: "),
        "{text}"
    );
    assert!(text.ends_with("No such file or directory"), "{text}");
}

#[tokio::test]
async fn output_beyond_the_cap_is_dropped_and_said_so() {
    let output = run("seq", ["100000"], SOON, 10).await.unwrap();
    assert_eq!(
        (output.stdout.as_slice(), output.truncated),
        (b"1\n2\n3\n4\n5\n".as_slice(), true)
    );
}

#[tokio::test]
async fn a_slow_program_is_killed_with_its_children() {
    // The inner sleep holds stdout open: without killing the group, reading would go on for its whole life.
    let started = std::time::Instant::now();
    let error = run(
        "timeout",
        ["1000", "sleep", "1000"],
        Duration::from_millis(50),
        100,
    )
    .await
    .unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error:?}");
    assert!(error.to_string().contains("it was killed"), "{error}");
    assert!(started.elapsed() < SOON);
}

#[tokio::test]
async fn input_is_read_to_its_end_and_a_program_may_leave_it() {
    let input = vec![b'x'; 300_000];
    let output = run_with_input("cat", [""; 0], &input, Duration::from_secs(10), 400_000)
        .await
        .unwrap();
    assert_eq!(output.stdout.len(), input.len());
    run_with_input("true", [""; 0], &input, Duration::from_secs(10), 100)
        .await
        .unwrap();
}
