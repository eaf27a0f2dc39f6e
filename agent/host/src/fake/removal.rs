//! The real removal below the fake host's directory; its mounts are lines of its mount table.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;

use crate::files::Root;
use crate::mounts;
use crate::removal::{Order, Removal, RemovalError, Report, perform};

/// Removes files, and mounts from the table.
#[derive(Debug)]
pub struct FakeRemoval {
    root: Root,
    /// How many orders are done before the program that does them is killed.
    left: AtomicUsize,
}

impl FakeRemoval {
    pub(super) fn new(root: Root) -> Self {
        Self {
            root,
            left: AtomicUsize::new(usize::MAX),
        }
    }

    /// Has the program that does the orders be killed after so many more of them.
    pub fn stop_after(&self, orders: usize) {
        self.left.store(orders, Ordering::SeqCst);
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
        let unmount = |mount: &mounts::Mount| self.unmount(&mount.point);
        let left = self.left.load(Ordering::SeqCst);
        let done = orders.len().min(left);
        self.left.store(left - done, Ordering::SeqCst);
        let report = perform(&self.root, &orders[..done], &unmount, |_| {});
        if done < orders.len() {
            let doing = "killed by the test".to_owned();
            return Err(RemovalError::NoAnswer { doing });
        }
        Ok(report)
    }
}
