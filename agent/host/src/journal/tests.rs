//! Lines of a journal, as journalctl prints them.

use super::*;

#[test]
fn lines_are_read_as_text_bytes_and_null() {
    let output = concat!(
        r#"{"__REALTIME_TIMESTAMP":"1700000000500000","MESSAGE":"k3s is up and running\n","__CURSOR":"s=1"}"#,
        "\n",
        r#"{"__REALTIME_TIMESTAMP":"1700000001000000","MESSAGE":[27,91,51,49,109,114,111,116,255]}"#,
        "\n",
        r#"{"MESSAGE":null}"#,
        "\n",
        r#"{"__REALTIME_TIMESTAMP":"1700000002000000"}"#,
        "\n",
        r#"{"MESSAGE":["a"]}"#,
        "\n",
        r#"{"MESSAGE":"cut of"#,
    );
    let lines = parse(output.as_bytes());
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[0].message, "k3s is up and running");
    assert_eq!(
        lines[0].time,
        Some(UNIX_EPOCH + Duration::from_millis(1_700_000_000_500))
    );
    assert_eq!(lines[1].message, "\u{1b}[31mrot\u{fffd}");
    assert_eq!((lines[2].time, lines[2].message.is_empty()), (None, false));
    assert_eq!(parse(b""), []);
}

#[test]
fn each_kind_of_beginning_has_its_arguments() {
    let unit = "k3s.service";
    assert_eq!(
        arguments(unit, 50, &Since::Start),
        [
            "--no-pager",
            "--quiet",
            "--output=json",
            "--output-fields=MESSAGE",
            "--lines=50",
            "--unit=k3s.service"
        ]
    );
    let time = UNIX_EPOCH + Duration::from_micros(1_700_000_000_000_042);
    let since = arguments(unit, usize::MAX, &Since::Time(time));
    assert_eq!(
        since[4..],
        [
            "--lines=2000",
            "--unit=k3s.service",
            "--since=@1700000000.000042"
        ]
    );
    let run = arguments(unit, 5, &Since::Invocation("ab".repeat(16)));
    let id = "ab".repeat(16);
    assert_eq!(
        run[5..],
        [
            format!("_SYSTEMD_INVOCATION_ID={id}"),
            "+".to_owned(),
            format!("INVOCATION_ID={id}")
        ]
    );
}
