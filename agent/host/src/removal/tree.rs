//! Removes a tree by descriptors: no symbolic link is followed and no mount is entered, whoever changes names meanwhile.

use std::ffi::{CStr, CString, OsStr};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{Mode, SFlag, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::os::fd::AsFd as _;

use super::{Left, Report};
use crate::files::Root;

/// How much is told of what could not be removed.
const MOST_LEFT: usize = 100;

/// Removes what has this name. The directories above it may be links: where the system keeps its things is its own affair.
pub(super) fn remove(root: &Root, path: &Path, report: &mut Report) {
    let full = root.path(path);
    let (Some(parent), Some(name)) = (full.parent(), full.file_name()) else {
        return;
    };
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let parent = match open(parent, flags, Mode::empty()) {
        Ok(parent) => parent,
        Err(Errno::ENOENT | Errno::ENOTDIR) => return,
        Err(errno) => return leave(report, path, &errno.into()),
    };
    match mount_id(parent.as_fd()) {
        Ok(mount) => {
            let mut walk = Walk { mount, report };
            walk.remove(parent.as_fd(), &c_name(name), path);
        }
        Err(error) => leave(report, path, &error),
    }
}

fn leave(report: &mut Report, path: &Path, error: &io::Error) {
    if report.left.len() < MOST_LEFT {
        report.left.push(Left {
            path: path.to_path_buf(),
            why: error.to_string(),
        });
    }
}

fn c_name(name: &OsStr) -> CString {
    // A name in a directory holds no zero byte.
    CString::new(name.as_bytes()).unwrap_or_default()
}

/// The kernel's number of the mount that an open file lies on. A bind mount has another one than what it lies on.
fn mount_id(file: BorrowedFd<'_>) -> io::Result<u64> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
    info.lines()
        .find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok())
        .ok_or_else(|| io::Error::other("the kernel does not tell which mount a file lies on"))
}

struct Walk<'a> {
    mount: u64,
    report: &'a mut Report,
}

impl Walk<'_> {
    /// Removes a name in an open directory. `path` is for people.
    fn remove(&mut self, directory: BorrowedFd<'_>, name: &CStr, path: &Path) {
        let kind = match fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(found) => found.st_mode & SFlag::S_IFMT.bits(),
            Err(Errno::ENOENT) => return,
            Err(errno) => return leave(self.report, path, &errno.into()),
        };
        let flag = if kind == SFlag::S_IFDIR.bits() {
            if !self.empty(directory, name, path) {
                return;
            }
            UnlinkatFlags::RemoveDir
        } else {
            UnlinkatFlags::NoRemoveDir
        };
        match unlinkat(directory, name, flag) {
            Ok(()) => self.report.removed += 1,
            Err(Errno::ENOENT) => {}
            Err(errno) => leave(self.report, path, &errno.into()),
        }
    }

    /// Empties a directory; false where something is left in it.
    fn empty(&mut self, above: BorrowedFd<'_>, name: &CStr, path: &Path) -> bool {
        let before = self.report.left.len();
        match self.enter(above, name) {
            Ok(Some((directory, names))) => {
                for inner in names {
                    let path: PathBuf = path.join(OsStr::from_bytes(inner.to_bytes()));
                    self.remove(directory.as_fd(), &inner, &path);
                }
            }
            Ok(None) => {
                let error = io::Error::other("something is mounted there");
                leave(self.report, path, &error);
            }
            Err(error) => leave(self.report, path, &error),
        }
        self.report.left.len() == before
    }

    /// Opens a directory and reads its names; `None` for one that lies on another mount.
    fn enter(
        &self,
        above: BorrowedFd<'_>,
        name: &CStr,
    ) -> io::Result<Option<(OwnedFd, Vec<CString>)>> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let directory = openat(above, name, flags, Mode::empty())?;
        if mount_id(directory.as_fd())? != self.mount {
            return Ok(None);
        }
        let mut names = Vec::new();
        let mut open = Dir::from_fd(directory.try_clone()?)?;
        for entry in open.iter() {
            let name = entry?.file_name().to_owned();
            if !matches!(name.to_bytes(), b"." | b"..") {
                names.push(name);
            }
        }
        Ok(Some((directory, names)))
    }
}
