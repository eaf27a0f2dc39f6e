//! Journals that are whole, cut off and damaged.

use super::*;

fn info() -> StepInfo {
    StepInfo {
        id: "k3s-binary".to_owned(),
        title: "put the k3s binary in place".to_owned(),
        host: String::new(),
    }
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_800_000_000)
}

fn started() -> Event {
    Event::Started(pb::StepStarted { attempt: 1 })
}

fn created(directory: &Path) -> (PathBuf, JournalFile) {
    let id: TaskId = "t1".parse().expect("id");
    let path = path(directory, &id);
    let file =
        JournalFile::create(&path, &id, &info(), &pb::TaskSpec::default(), now()).expect("create");
    (path, file)
}

#[test]
fn events_are_read_as_they_were_written_while_the_file_grows() {
    let directory = tempfile::tempdir().expect("directory");
    let (path, mut file) = created(directory.path());
    let mut reader = Reader::open(&path).expect("open");
    assert!(reader.next().expect("read").is_none());
    let first = file.append(started(), now()).expect("append");
    assert_eq!(reader.next().expect("read"), Some(first));
    let finished = pb::StepFinished {
        outcome: pb::StepOutcome::Changed.into(),
        detail: "wrote ü\n\"quoted\"".to_owned(),
    };
    let last = file
        .append(Event::Finished(finished), now())
        .expect("append");
    assert_eq!(
        (last.seq, reader.next().expect("read")),
        (2, Some(last.clone()))
    );
    assert!(reader.next().expect("read").is_none());
    assert!(is_last(&last));
    assert!(JournalFile::reopen(&path).expect("reopen").is_none());
}

#[test]
fn a_line_that_a_crash_cut_off_is_cut_away() {
    let directory = tempfile::tempdir().expect("directory");
    let (path, mut file) = created(directory.path());
    file.append(started(), now()).expect("append");
    let whole = fs::read(&path).expect("read");
    for torn in [&b"{\"seq\":2,\"at\""[..], b"{\"seq\":2}\n", b"\0\0\0\0\n"] {
        let mut content = whole.clone();
        content.extend_from_slice(torn);
        fs::write(&path, &content).expect("write");
        let mut again = JournalFile::reopen(&path)
            .expect("reopen")
            .expect("not ended");
        assert_eq!(again.last_seq(), 1);
        let event = again
            .append(Event::Interrupted(pb::TaskInterrupted {}), now())
            .expect("append");
        assert_eq!(event.seq, 2);
        let mut reader = Reader::open(&path).expect("open");
        let seen: Vec<_> = std::iter::from_fn(|| reader.next().expect("read"))
            .map(|event| event.seq)
            .collect();
        assert_eq!(seen, [1, 2]);
    }
}

#[test]
fn an_empty_journal_is_told_as_damaged() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("t.jsonl");
    fs::write(&path, b"").expect("write");
    assert!(matches!(
        Reader::open(&path),
        Err(TaskError::Damaged { line: 1, .. })
    ));
}

#[test]
fn people_can_read_what_happened() {
    let directory = tempfile::tempdir().expect("directory");
    let (path, mut file) = created(directory.path());
    let failed = pb::StepFailed {
        error: Some(pb::ErrorReport {
            reason: "PORT_TAKEN".to_owned(),
            message: "port 6443 is taken".to_owned(),
            ..pb::ErrorReport::default()
        }),
    };
    file.append(Event::Failed(failed), now()).expect("append");
    let text = fs::read_to_string(&path).expect("read");
    assert!(
        text.contains("\"task\":\"t1\"") && text.contains("PORT_TAKEN: port 6443 is taken"),
        "{text}"
    );
}
