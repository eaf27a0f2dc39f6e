//! The real removal below the fake host's directory; its mounts are lines of its mount table.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;

use crate::files::Root;
use crate::mounts;
use crate::removal::{Order, Removal, RemovalError, Report, perform};

/// Removes files, and mounts from the table.
#[derive(Debug)]
pub struct FakeRemoval {
    root: Root,
}

impl FakeRemoval {
    pub(super) fn new(root: Root) -> Self {
        Self { root }
    }

    /// Mounts something, as far as the table tells.
    ///
    /// # Panics
    /// When the table can't be written.
    pub fn mount(&self, point: &str, source: &str, fs_type: &str) {
        let table = self.root.path(mounts::TABLE);
        let mut text = fs::read_to_string(&table).expect("a mount table");
        let id = 100 + text.lines().count();
        text.push_str(&format!(
            "{id} 27 0:{id} / {point} rw - {fs_type} {source} rw\n"
        ));
        fs::write(table, text).expect("a mount table");
    }

    fn unmount(&self, point: &Path) -> io::Result<()> {
        let table = self.root.path(mounts::TABLE);
        let text = fs::read_to_string(&table)?;
        let mut lines: Vec<&str> = text.lines().collect();
        let is_it = |line: &&str| {
            mounts::parse(line.as_bytes())
                .first()
                .is_some_and(|mount| mount.point == point)
        };
        if let Some(at) = lines.iter().rposition(is_it) {
            lines.remove(at);
        }
        fs::write(table, lines.join("\n") + "\n")
    }
}

#[async_trait]
impl Removal for FakeRemoval {
    async fn run(&self, orders: &[Order], _limit: Duration) -> Result<Report, RemovalError> {
        let unmount = |point: &Path| self.unmount(point);
        Ok(perform(&self.root, orders, &unmount, |_| {}))
    }
}
