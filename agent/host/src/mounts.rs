//! The mount table of PID 1.
//!
//! The agent's unit has a mount namespace of its own, so the table that counts is `/proc/1/mountinfo`. Called by the preflight,
//! by snapshots, and by everything that must not cross a mount point.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::files::{FileError, Root};

#[cfg(test)]
mod tests;

/// Where the table is.
pub(crate) const TABLE: &str = "/proc/1/mountinfo";

/// A mounted file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// The kernel's number for this mount.
    pub id: u32,
    /// The mount that this one lies on.
    pub parent: u32,
    /// The part of the file system that is mounted; `/` unless it is a bind mount or subvolume.
    pub root: PathBuf,
    /// Where it is mounted.
    pub point: PathBuf,
    /// Options of this mount: `rw,nosuid,relatime`.
    pub options: String,
    /// Type: `ext4`, `nfs4`, `overlay`.
    pub fs_type: String,
    /// Device, export, or a word for file systems that have neither.
    pub source: String,
    /// Options of the file system.
    pub super_options: String,
}

impl Mount {
    /// Whether it can't be written to.
    pub fn is_read_only(&self) -> bool {
        let has = |options: &str| options.split(',').any(|option| option == "ro");
        has(&self.options) || has(&self.super_options)
    }

    /// Whether the files lie on another machine, so that looking at them can hang.
    pub fn is_network(&self) -> bool {
        matches!(
            self.fs_type.as_str(),
            "nfs"
                | "nfs4"
                | "cifs"
                | "smb3"
                | "ceph"
                | "9p"
                | "afs"
                | "glusterfs"
                | "fuse.sshfs"
                | "fuse.glusterfs"
        )
    }
}

/// Reads PID 1's mount table. One that isn't there is an error: that nothing is mounted would be the wrong answer.
pub async fn read(root: &Root) -> Result<Vec<Mount>, FileError> {
    let Some(table) = root.read_optional(TABLE).await? else {
        let missing = io::Error::from(io::ErrorKind::NotFound);
        return Err(canasta_durable::Error::new("read", &root.path(TABLE), missing).into());
    };
    Ok(parse(&table))
}

/// Reads a mount table; lines in another form are left out.
pub fn parse(table: &[u8]) -> Vec<Mount> {
    table
        .split(|byte| *byte == b'\n')
        .filter_map(parse_line)
        .collect()
}

/// The mount that holds `path` (absolute, without symbolic links); of several on one point the topmost.
pub fn holding<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    // Of equally deep ones the last counts, and max_by_key takes the last.
    mounts
        .iter()
        .filter(|mount| path.starts_with(&mount.point))
        .max_by_key(|mount| mount.point.components().count())
}

/// The mounts at `directory` or below it, deepest first: the order in which they can be unmounted.
pub fn at_or_below<'a>(mounts: &'a [Mount], directory: &Path) -> Vec<&'a Mount> {
    let mut found: Vec<_> = mounts
        .iter()
        .filter(|mount| mount.point.starts_with(directory))
        .collect();
    found.reverse();
    found.sort_by_key(|mount| std::cmp::Reverse(mount.point.components().count()));
    found
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`; the fields before the dash vary in number.
fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = number(fields.next()?)?;
    let parent = number(fields.next()?)?;
    let _device = fields.next()?;
    let root = path(fields.next()?);
    let point = path(fields.next()?);
    let options = text(fields.next()?);
    fields.find(|field| *field == b"-")?;
    let fs_type = text(fields.next()?);
    let source = text(fields.next()?);
    let super_options = fields.next().map(text).unwrap_or_default();
    Some(Mount {
        id,
        parent,
        root,
        point,
        options,
        fs_type,
        source,
        super_options,
    })
}

fn number(field: &[u8]) -> Option<u32> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn path(field: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(unescape(field)))
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(&unescape(field)).into_owned()
}

/// The kernel writes space, tab, newline and backslash as a backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let escaped = after.get(..3).filter(|_| first == b'\\').and_then(octal);
        plain.push(escaped.unwrap_or(first));
        rest = if escaped.is_some() {
            &after[3..]
        } else {
            after
        };
    }
    plain
}

fn octal(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}
