//! What others export from this node: by the files of both servers, and by what the running one says.

use std::collections::BTreeSet;

use canasta_host::Host;
use canasta_proto::directories::is_within;
use canasta_steps::StepError;

use super::export::Foreign;
use super::record::Record;
use super::server::Backend;
use super::{ganesha, kernel};
use crate::k3s::Error;

/// The kernel server's own file, and the directory of the others; those whose names end so are read.
const EXPORTS: &str = "/etc/exports";
const EXPORTS_DIRECTORY: &str = "/etc/exports.d";
const EXPORTS_END: &str = ".exports";
/// The files that the agent writes exports to.
const OURS: [&str; 2] = [kernel::OUR_EXPORTS, ganesha::OUR_EXPORTS];
/// The most files that are followed from nfs-ganesha's main file.
const MOST_FILES: usize = 256;

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Look {
    /// Exports that are not ours.
    pub(super) exports: Vec<Foreign>,
    /// What could not be looked at, with the reason, and of which server.
    pub(super) unknown: Vec<(Backend, String)>,
}

/// All exports that are not in the record. One that somebody put into a file of ours is none of ours.
pub(super) async fn look(host: &Host, record: &Record) -> Result<Look, StepError> {
    let mut found = of_kernel(host).await?;
    let Files { files, unknown } = ganesha_files(host).await?;
    for (file, text) in files {
        found.extend(ganesha::exported(&file, &text));
    }
    let unknown = unknown.into_iter().map(|why| (Backend::Ganesha, why));
    let mut look = Look {
        exports: Vec::new(),
        unknown: unknown.collect(),
    };
    for backend in Backend::ALL {
        match backend.server().running(host).await {
            Ok(running) => found.extend(running),
            Err(error) => look.unknown.push((
                backend,
                format!("what {} exports: {error}", backend.in_words()),
            )),
        }
    }
    let mut seen = BTreeSet::new();
    // A running server can't tell our exports from others' of the same path; files can.
    let is_ours = |one: &Foreign| {
        let in_our_place = one.running || OURS.contains(&one.source.as_str());
        in_our_place && record.export(&one.path).is_some()
    };
    found.retain(|one| !is_ours(one) && seen.insert(one.path.clone()));
    look.exports = found;
    Ok(look)
}

/// What others put into a file of ours, which would be lost when it is written.
///
/// # Errors
/// `EXPORTS_ADDED` with what they put there.
pub(super) fn none_in(file: &str, look: &Look) -> Result<(), StepError> {
    let added: Vec<&str> = look
        .exports
        .iter()
        .filter(|export| export.source == file)
        .map(|export| export.path.as_str())
        .collect();
    if added.is_empty() {
        return Ok(());
    }
    Err(StepError::new(
        "EXPORTS_ADDED",
        format!(
            "{file} is written by the agent, and someone added an export of {} to it",
            added.join(", ")
        ),
    )
    .subject(file)
    .hint("move it to a file of its own on the node, then run the command again"))
}

/// What others have the kernel's server export, and what stands in our file.
async fn of_kernel(host: &Host) -> Result<Vec<Foreign>, StepError> {
    let names = host
        .root
        .list(EXPORTS_DIRECTORY)
        .await
        .map_err(Error::from)?;
    let others = names
        .into_iter()
        .filter(|name| name.ends_with(EXPORTS_END) && !name.starts_with('.'))
        .map(|name| format!("{EXPORTS_DIRECTORY}/{name}"));
    let mut found = Vec::new();
    for file in std::iter::once(EXPORTS.to_owned()).chain(others) {
        let text = host.root.read_text(&file).await.map_err(Error::from)?;
        found.extend(kernel::exported(&file, &text.unwrap_or_default()));
    }
    Ok(found)
}

/// What others' files have the kernel's server export.
pub(super) async fn in_kernel_files(host: &Host) -> Result<Vec<String>, StepError> {
    let found = of_kernel(host).await?.into_iter();
    let others = found.filter(|export| export.source != kernel::OUR_EXPORTS);
    Ok(others.map(|export| export.path).collect())
}

/// The numbers that others gave to exports of nfs-ganesha.
pub(super) async fn numbers(host: &Host) -> Result<Vec<u16>, StepError> {
    let files = ganesha_files(host).await?.files;
    let others = files
        .iter()
        .filter(|(path, _)| path != ganesha::OUR_EXPORTS);
    let mut numbers: Vec<u16> = others
        .flat_map(|(_, text)| ganesha::numbers(text))
        .collect();
    // What was added over its bus stands in no file. One that doesn't answer has nothing that could be replaced.
    let running = host.ganesha.exports().await.unwrap_or_default();
    numbers.extend(running.into_iter().map(|export| export.number));
    Ok(numbers)
}

struct Files {
    /// Path and text.
    files: Vec<(String, String)>,
    unknown: Vec<String>,
}

/// The main file of nfs-ganesha and all that it includes, and ours.
async fn ganesha_files(host: &Host) -> Result<Files, StepError> {
    let mut seen = BTreeSet::new();
    let mut open = vec![ganesha::MAIN.to_owned(), ganesha::OUR_EXPORTS.to_owned()];
    let (mut files, mut unknown) = (Vec::new(), Vec::new());
    while let Some(path) = open.pop() {
        if !seen.insert(path.clone()) {
            continue;
        }
        if seen.len() > MOST_FILES {
            unknown.push(format!("more than {MOST_FILES} files of nfs-ganesha"));
            break;
        }
        if host.root.path(&path).is_dir() {
            let names = host.root.list(&path).await.map_err(Error::from)?;
            open.extend(names.into_iter().map(|name| format!("{path}/{name}")));
            continue;
        }
        let text = host.root.read_text(&path).await.map_err(Error::from)?;
        let text = text.unwrap_or_default();
        open.extend(ganesha::included(&path, &text));
        unknown.extend(
            ganesha::elsewhere(&text)
                .into_iter()
                .map(|url| format!("{path} has nfs-ganesha read {url}")),
        );
        files.push((path, text));
    }
    Ok(Files { files, unknown })
}

impl Look {
    /// What one of the servers exports for others.
    pub(super) fn by(&self, backend: Backend) -> Vec<&str> {
        let theirs = self.exports.iter().filter(|one| one.backend == backend);
        theirs.map(|one| one.path.as_str()).collect()
    }
}

/// What of others is in the way of a share: the same directory, one that holds it, or one in it.
pub(super) fn in_the_way<'a>(share: &str, foreign: &'a [Foreign]) -> Option<&'a Foreign> {
    foreign
        .iter()
        .find(|other| is_within(&other.path, share) || is_within(share, &other.path))
}

#[cfg(test)]
mod tests {
    use super::{Backend, Foreign, in_the_way};

    #[test]
    fn an_export_of_others_is_in_the_way_above_and_below() {
        let foreign = |path: &str| {
            vec![Foreign {
                path: path.to_owned(),
                source: "/etc/exports".to_owned(),
                running: false,
                backend: Backend::Kernel,
            }]
        };
        let share = "/srv/nfs/canasta";
        for path in [share, "/srv", "/", "/srv/nfs/canasta/images"] {
            assert!(in_the_way(share, &foreign(path)).is_some(), "{path}");
        }
        for path in ["/srv/nfs/canasta2", "/srv/nfs/other", "/data"] {
            assert!(in_the_way(share, &foreign(path)).is_none(), "{path}");
        }
    }
}
