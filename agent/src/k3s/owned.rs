//! Files that belong to the agent: intent first, then the write, then the record of it.
//!
//! [`judge`] is the rule by which every step tells new, unchanged, changed and repaired; [`apply`] does it for small files.

use std::path::Path;

use canasta_host::Host;
use canasta_steps::Done;
use sha2::{Digest as _, Sha256};

use super::Error;
use super::record::{Kind, Owned, Record};

/// Who reads a file, and so has to be told when it was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// Somebody who notices by himself.
    Other,
    /// k3s, at its start.
    K3s,
    /// systemd, and through it k3s.
    Systemd,
}

/// A file as it should be.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Absolute path.
    pub path: String,
    /// Whole content.
    pub content: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Permission bits for directories above it that are missing.
    pub directory_mode: u32,
    /// Who reads it.
    pub reader: Reader,
}

impl Wanted {
    /// A file in directories that everybody may enter, of no interest to k3s's start.
    pub fn new(path: impl Into<String>, content: impl Into<Vec<u8>>, mode: u32) -> Self {
        Self {
            path: path.into(),
            content: content.into(),
            mode,
            directory_mode: 0o755,
            reader: Reader::Other,
        }
    }

    /// The same file with a reader.
    pub fn read_by(self, reader: Reader) -> Self {
        Self { reader, ..self }
    }
}

/// What became of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is as wanted, and recorded so.
    Same,
    /// It was not there and is new.
    Created,
    /// It was as recorded, and something else is wanted now.
    Updated,
    /// It was damaged, missing or half done.
    Repaired,
    /// Someone else's file has the name.
    NotOurs,
}

/// What has to be done about a file, from its entry in the record, the SHA-256 of what is there and of what is wanted.
pub fn judge(
    entry: Option<&Owned>,
    found: Option<&str>,
    mode_is_right: bool,
    wanted: &str,
) -> Verdict {
    match (entry, found) {
        (None, None) => Verdict::Created,
        (None, Some(_)) => Verdict::NotOurs,
        (Some(entry), found) => {
            let whole = entry.created && found == Some(entry.sha256.as_str()) && mode_is_right;
            match (whole, entry.sha256 == wanted) {
                (true, true) => Verdict::Same,
                (true, false) => Verdict::Updated,
                (false, _) => Verdict::Repaired,
            }
        }
    }
}

/// What became of a file, with what was there before.
#[derive(Debug)]
pub struct Applied {
    /// Absolute path.
    pub path: String,
    /// What was done.
    pub verdict: Verdict,
    /// The content from before; `None` when there was none.
    pub before: Option<Vec<u8>>,
}

/// Makes the files as wanted. Nothing is written when all are.
///
/// # Errors
/// [`Error::NotOurs`] before anything is changed; errors of files.
pub async fn apply(
    host: &Host,
    record: &mut Record,
    wanted: &[Wanted],
) -> Result<Vec<Applied>, Error> {
    let mut applied = Vec::new();
    let mut changed = false;
    for file in wanted {
        let before = host.root.read_optional(&file.path).await?;
        let found = before.as_deref().map(sha256);
        let mode_is_right = host.root.mode(&file.path).await? == Some(file.mode);
        let verdict = judge(
            record.entry(&file.path),
            found.as_deref(),
            mode_is_right,
            &sha256(&file.content),
        );
        if verdict == Verdict::NotOurs {
            return Err(Error::NotOurs {
                path: file.path.clone(),
            });
        }
        if verdict != Verdict::Same {
            changed = true;
            // Stored with the intents below, so that a crash doesn't lose it.
            record.was_damaged |= verdict == Verdict::Repaired && file.reader != Reader::Other;
            record.reload_needed |= file.reader == Reader::Systemd;
        }
        applied.push(Applied {
            path: file.path.clone(),
            verdict,
            before,
        });
    }
    if !changed {
        return Ok(applied);
    }
    for (file, done) in wanted.iter().zip(&applied) {
        if done.verdict != Verdict::Same {
            intend(host, record, &file.path, Kind::File, &sha256(&file.content)).await?;
        }
    }
    record.save(host).await?;
    for (file, done) in wanted.iter().zip(&applied) {
        if done.verdict != Verdict::Same {
            make_parents(host, &file.path, file.directory_mode).await?;
            host.root
                .write(&file.path, file.content.clone(), file.mode)
                .await?;
            record.put(Owned {
                path: file.path.clone(),
                kind: Kind::File,
                sha256: sha256(&file.content),
                created: true,
            });
        }
    }
    mark_directories(record);
    record.save(host).await?;
    Ok(applied)
}

/// Puts a path and the missing directories above it into the record, as intents. The caller saves the record.
pub async fn intend(
    host: &Host,
    record: &mut Record,
    path: &str,
    kind: Kind,
    sha256: &str,
) -> Result<(), Error> {
    for directory in missing_parents(host, path).await? {
        if record.entry(&directory).is_none() {
            record.put(Owned {
                path: directory,
                kind: Kind::Directory,
                sha256: String::new(),
                created: false,
            });
        }
    }
    // A file that is ours keeps its entry until the new content is there: the entry says what was written last.
    if record.entry(path).is_none() {
        record.put(Owned {
            path: path.to_owned(),
            kind,
            sha256: sha256.to_owned(),
            created: false,
        });
    }
    Ok(())
}

/// Creates the missing directories above a path.
pub async fn make_parents(host: &Host, path: &str, mode: u32) -> Result<(), Error> {
    for directory in missing_parents(host, path).await? {
        host.root.create_dir_all(&directory, mode).await?;
    }
    Ok(())
}

/// Creates a directory and those above it that are missing, recorded before they are made.
pub async fn prepare_directory(
    host: &Host,
    record: &mut Record,
    directory: &str,
    mode: u32,
) -> Result<(), Error> {
    if host.root.exists(directory).await? {
        return Ok(());
    }
    intend(host, record, directory, Kind::Directory, "").await?;
    record.save(host).await?;
    host.root.create_dir_all(directory, mode).await?;
    Ok(())
}

/// Notes that the directories of the record are there. Called after what lies in them was written.
pub fn mark_directories(record: &mut Record) {
    for entry in &mut record.owned {
        entry.created |= entry.kind == Kind::Directory;
    }
}

/// The directories above a path that aren't there, outermost first.
async fn missing_parents(host: &Host, path: &str) -> Result<Vec<String>, Error> {
    let mut missing = Vec::new();
    for directory in Path::new(path).ancestors().skip(1) {
        let directory = directory.to_string_lossy().into_owned();
        if directory == "/" || host.root.exists(&directory).await? {
            break;
        }
        missing.push(directory);
    }
    missing.reverse();
    Ok(missing)
}

/// SHA-256 as lower-case hexadecimal.
pub fn sha256(content: &[u8]) -> String {
    hex(&Sha256::digest(content))
}

/// Bytes as lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing to a string can't fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// What a step did, gathered part by part.
#[derive(Debug, Default)]
pub struct Summary {
    parts: Vec<String>,
    changed: bool,
    repaired: bool,
}

impl Summary {
    /// Adds what became of one thing.
    pub fn add(&mut self, name: &str, verdict: Verdict, what: &str) {
        self.changed |= matches!(verdict, Verdict::Created | Verdict::Updated);
        self.repaired |= verdict == Verdict::Repaired;
        let text = match (verdict, what) {
            (_, what) if !what.is_empty() => what,
            (Verdict::Created, _) => "written",
            (Verdict::Updated, _) => "changed",
            (Verdict::Repaired, _) => "repaired",
            (Verdict::Same | Verdict::NotOurs, _) => "unchanged",
        };
        self.parts.push(format!("{name}: {text}"));
    }

    /// Adds a remark that decides nothing.
    pub fn note(&mut self, text: impl Into<String>) {
        self.parts.push(text.into());
    }

    /// The end of the step: repaired before changed before unchanged.
    pub fn done(self) -> Done {
        let detail = self.parts.join("; ");
        match (self.repaired, self.changed) {
            (true, _) => Done::repaired(detail),
            (false, true) => Done::changed(detail),
            (false, false) => Done::unchanged(detail),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_of_a_file_has_its_verdict() {
        let entry = |sha: &str, created| Owned {
            path: "/f".to_owned(),
            kind: Kind::File,
            sha256: sha.to_owned(),
            created,
        };
        let ours = entry("a", true);
        let intent = entry("a", false);
        for (known, found, mode, wanted, verdict) in [
            (None, None, false, "a", Verdict::Created),
            (None, Some("a"), true, "a", Verdict::NotOurs),
            (Some(&ours), Some("a"), true, "a", Verdict::Same),
            (Some(&ours), Some("a"), true, "b", Verdict::Updated),
            (Some(&ours), Some("a"), false, "a", Verdict::Repaired),
            (Some(&ours), Some("x"), true, "a", Verdict::Repaired),
            (Some(&ours), Some("x"), true, "b", Verdict::Repaired),
            (Some(&ours), None, false, "a", Verdict::Repaired),
            // A crash between the intent and the write, and between the write and the record.
            (Some(&intent), None, false, "a", Verdict::Repaired),
            (Some(&intent), Some("a"), true, "a", Verdict::Repaired),
        ] {
            assert_eq!(
                judge(known, found, mode, wanted),
                verdict,
                "{known:?} {found:?} {mode} {wanted}"
            );
        }
    }
}
