//! Which staged files stay. Called when a push begins and when the agent starts.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use canasta_durable::Error;

use super::Sha256Hex;

/// What stands before the SHA-256 in the names of staged files, whole and in part, after leading dots.
const PREFIX: &str = "canasta-k3s-";

/// Removes staged files but for those of `wanted` and of the `most` others that were written to last.
pub(super) fn keep_newest(
    directory: &Path,
    wanted: Option<&Sha256Hex>,
    most: usize,
) -> Result<(), Error> {
    let mut staged: HashMap<String, (SystemTime, Vec<PathBuf>)> = HashMap::new();
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(Error::new("list", directory, source)),
    };
    for entry in entries {
        let entry = entry.map_err(|source| Error::new("list", directory, source))?;
        let Some(digest) = digest_of(&entry.file_name().to_string_lossy()) else {
            continue;
        };
        let changed = entry
            .metadata()
            .and_then(|found| found.modified())
            .unwrap_or(SystemTime::UNIX_EPOCH);
        let of_one = staged.entry(digest).or_insert((changed, Vec::new()));
        of_one.0 = of_one.0.max(changed);
        of_one.1.push(entry.path());
    }
    if let Some(wanted) = wanted {
        staged.remove(wanted.as_str());
    }
    let mut others: Vec<_> = staged.into_values().collect();
    others.sort_unstable_by(|one, other| other.cmp(one));
    for path in others.into_iter().skip(most).flat_map(|(_, paths)| paths) {
        canasta_durable::remove(&path)?;
        tracing::info!(path = %path.display(), "removed a staged artefact that is not needed any more");
    }
    Ok(())
}

/// The SHA-256 in the name of a staged file.
fn digest_of(name: &str) -> Option<String> {
    let rest = name
        .strip_prefix('.')?
        .trim_start_matches('.')
        .strip_prefix(PREFIX)?;
    let digest: String = rest.chars().take_while(char::is_ascii_hexdigit).collect();
    (digest.len() == 64).then_some(digest)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::k3s::paths::staged_binary;

    #[test]
    fn the_wanted_and_the_newest_stay() {
        let directory = tempfile::tempdir().expect("directory");
        let now = SystemTime::now();
        let digest = |letter: &str| letter.repeat(64);
        for (age, letter) in ["a", "b", "c", "d"].into_iter().enumerate() {
            let whole = staged_binary(&digest(letter));
            let name = Path::new(&whole)
                .file_name()
                .expect("name")
                .to_string_lossy()
                .into_owned();
            let name = if letter == "b" {
                format!(".{name}.part-0123")
            } else {
                name
            };
            let file = fs::File::create(directory.path().join(name)).expect("create");
            file.set_modified(now - Duration::from_secs(age as u64))
                .expect("time");
        }
        fs::write(directory.path().join("k3s"), b"x").expect("write");
        let wanted = digest("d").parse().expect("digest");
        keep_newest(directory.path(), Some(&wanted), 1).expect("sweep");
        let mut left: Vec<String> = fs::read_dir(directory.path())
            .expect("list")
            .map(|entry| {
                entry
                    .expect("entry")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        left.sort();
        assert_eq!(left.len(), 3, "{left:?}");
        assert!(
            left[0].contains(&digest("a")) && left[1].contains(&digest("d")),
            "{left:?}"
        );
        keep_newest(directory.path(), None, 0).expect("sweep");
        assert_eq!(fs::read_dir(directory.path()).expect("list").count(), 1);
    }
}
