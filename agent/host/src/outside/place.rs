//! A directory that is to be shared, as it is: what it is, what is in it, and on what file system it lies.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Answer;
use crate::files::{Root, is_absence};
use crate::mounts;

/// What others may do in a directory that was made here.
const MODE: u32 = 0o755;

/// What has a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// Nothing.
    Nothing,
    /// A directory with nothing in it.
    Empty,
    /// A directory with something in it.
    Full,
    /// A file, a socket or the like.
    NoDirectory,
}

/// A place in the tree of files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// What is there.
    pub what: What,
    /// Where the path leads, if links lead to another place than it says.
    pub leads_to: Option<PathBuf>,
    /// The file system that it lies on, or would: `ext4`. Empty where the mount table doesn't say.
    pub fs_type: String,
    /// Where that is mounted.
    pub mount_point: PathBuf,
    /// Whether that can't be written to.
    pub is_read_only: bool,
    /// A directory above it in which somebody beside root can put another one in its place.
    pub exposed_at: Option<PathBuf>,
    /// Directories that were made just now, outermost first.
    pub made: Vec<PathBuf>,
}

/// Looks at a directory.
pub(crate) fn look(root: &Root, path: &str) -> Answer {
    match place(root, path, Vec::new()) {
        Ok(place) => Answer::Place(place),
        Err(error) => failed("look at", path, &error),
    }
}

/// Makes a directory and those above it that are missing; not below one in which others can put a link in their way.
pub(crate) fn make(root: &Root, path: &str) -> Answer {
    match place(root, path, Vec::new()) {
        // Whoever asked looks at what is told.
        Ok(place) if place.exposed_at.is_some() || place.leads_to.is_some() => {
            return Answer::Place(place);
        }
        Ok(_) => {}
        Err(error) => return failed("look at", path, &error),
    }
    let mut missing: Vec<&Path> = Path::new(path)
        .ancestors()
        .take_while(|directory| !root.path(directory).exists())
        .collect();
    missing.reverse();
    for directory in &missing {
        if let Err(error) = make_one(&root.path(directory)) {
            return failed("make", &directory.display().to_string(), &error);
        }
    }
    let made = missing.iter().map(|path| path.to_path_buf()).collect();
    match place(root, path, made) {
        Ok(place) => Answer::Place(place),
        Err(error) => failed("look at", path, &error),
    }
}

/// Makes one directory, and has it on disk: a share that is gone after a power failure would be one without its data.
fn make_one(full: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(MODE).create(full) {
        // Somebody else was as quick.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        made => made?,
    }
    // Whatever the mask of this process is.
    fs::set_permissions(full, fs::Permissions::from_mode(MODE))?;
    let parent = full.parent().unwrap_or(full);
    fs::File::open(parent)?.sync_all()
}

fn place(root: &Root, path: &str, made: Vec<PathBuf>) -> io::Result<Place> {
    let full = root.path(path);
    let base = root.path("/").canonicalize()?;
    let nearest = full.ancestors().find(|directory| directory.exists());
    let nearest = nearest.unwrap_or(&full);
    let real = nearest.canonicalize()?;
    let rest = full.strip_prefix(nearest).unwrap_or(Path::new(""));
    let real = real.strip_prefix(&base).unwrap_or(&real).join(rest);
    let real: PathBuf = Path::new("/").join(real).components().collect();
    let table = mounts::parse(&fs::read(root.path(mounts::TABLE))?);
    let mount = mounts::holding(&table, &real);
    let found = match fs::metadata(&full) {
        Ok(found) => Some(found),
        Err(error) if is_absence(&error) => None,
        Err(error) => return Err(error),
    };
    let what = match &found {
        // A link to nowhere.
        None if fs::symlink_metadata(&full).is_ok() => What::NoDirectory,
        None => What::Nothing,
        Some(found) if !found.is_dir() => What::NoDirectory,
        Some(_) if fs::read_dir(&full)?.next().is_none() => What::Empty,
        Some(_) => What::Full,
    };
    Ok(Place {
        what,
        leads_to: (real != Path::new(path)).then_some(real),
        fs_type: mount.map(|mount| mount.fs_type.clone()).unwrap_or_default(),
        mount_point: mount.map(|mount| mount.point.clone()).unwrap_or_default(),
        is_read_only: mount.is_some_and(mounts::Mount::is_read_only),
        exposed_at: exposed_at(root, Path::new(path))?,
        made,
    })
}

/// The first directory above a path that is not root's, or that others may write to. Whoever has `/` is root.
fn exposed_at(root: &Root, path: &Path) -> io::Result<Option<PathBuf>> {
    let top = fs::metadata(root.path("/"))?;
    let above: Vec<&Path> = path.ancestors().skip(1).collect();
    for directory in above.into_iter().rev() {
        let found = match fs::metadata(root.path(directory)) {
            Ok(found) => found,
            Err(error) if is_absence(&error) => break,
            Err(error) => return Err(error),
        };
        let by_group = found.mode() & 0o020 != 0 && found.gid() != top.gid();
        if found.uid() != top.uid() || found.mode() & 0o002 != 0 || by_group {
            return Ok(Some(directory.to_path_buf()));
        }
    }
    Ok(None)
}

fn failed(action: &str, path: &str, error: &io::Error) -> Answer {
    Answer::NoPlace {
        action: action.to_owned(),
        path: path.to_owned(),
        why: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const TABLE: &str = "27 1 254:1 / / rw - ext4 /dev/vda1 rw\n\
        28 27 0:9 / /srv/memory rw - tmpfs tmpfs rw\n29 27 8:1 / /data ro - xfs /dev/sdb rw\n";

    fn machine() -> (tempfile::TempDir, Root) {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::at(directory.path());
        for path in ["/proc/1", "/srv/memory", "/data/full/x"] {
            fs::create_dir_all(root.path(path)).unwrap();
        }
        fs::write(root.path(mounts::TABLE), TABLE).unwrap();
        (directory, root)
    }

    fn of(answer: Answer) -> Place {
        match answer {
            Answer::Place(place) => place,
            other => panic!("{other:?}"),
        }
    }

    fn bits(root: &Root, path: &str) -> u32 {
        fs::metadata(root.path(path)).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_directory_is_told_with_what_is_in_it_and_where_it_lies() {
        let (_directory, root) = machine();
        let full = of(look(&root, "/data/full"));
        assert_eq!((full.what, full.fs_type.as_str()), (What::Full, "xfs"));
        assert!(full.is_read_only && full.exposed_at.is_none());
        let empty = of(look(&root, "/data/full/x"));
        assert_eq!(
            (empty.what, &*empty.mount_point),
            (What::Empty, Path::new("/data"))
        );
        let none = of(look(&root, "/srv/memory/a/b"));
        assert_eq!((none.what, none.fs_type.as_str()), (What::Nothing, "tmpfs"));
        assert_eq!(none.leads_to, None);
        fs::write(root.path("/srv/file"), "x").unwrap();
        assert_eq!(of(look(&root, "/srv/file")).what, What::NoDirectory);
    }

    #[test]
    fn a_path_through_a_link_is_told_with_where_it_leads() {
        let (_directory, root) = machine();
        symlink("../data", root.path("/srv/link")).unwrap();
        let place = of(look(&root, "/srv/link/new"));
        assert_eq!(place.leads_to.as_deref(), Some(Path::new("/data/new")));
        assert_eq!(place.fs_type, "xfs");
        symlink("/nowhere", root.path("/srv/dangling")).unwrap();
        assert_eq!(of(look(&root, "/srv/dangling")).what, What::NoDirectory);
    }

    #[test]
    fn what_is_missing_is_made_and_what_is_there_stays() {
        let (_directory, root) = machine();
        let place = of(make(&root, "/srv/nfs/canasta"));
        let made = ["/srv/nfs", "/srv/nfs/canasta"].map(PathBuf::from);
        assert_eq!((place.what, place.made), (What::Empty, made.to_vec()));
        assert_eq!(bits(&root, "/srv/nfs/canasta"), 0o755);
        fs::set_permissions(root.path("/data/full"), fs::Permissions::from_mode(0o700)).unwrap();
        let place = of(make(&root, "/data/full"));
        assert_eq!((place.what, place.made), (What::Full, Vec::new()));
        assert_eq!(bits(&root, "/data/full"), 0o700);
    }

    #[test]
    fn nothing_is_made_where_others_could_put_a_link_in_the_way() {
        let (_directory, root) = machine();
        let open = fs::Permissions::from_mode(0o1777);
        fs::set_permissions(root.path("/srv"), open).unwrap();
        for answer in [look(&root, "/srv/a/canasta"), make(&root, "/srv/a/canasta")] {
            let place = of(answer);
            assert_eq!(place.exposed_at.as_deref(), Some(Path::new("/srv")));
            assert_eq!((place.what, place.made), (What::Nothing, Vec::new()));
        }
        assert!(!root.path("/srv/a").exists());
    }
}
