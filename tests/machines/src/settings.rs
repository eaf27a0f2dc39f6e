//! Settings of the machine itself that a real kubelet insists on and that no node has for itself. Called by [`crate::Lab`].
//!
//! They are all that a lab changes outside its own places. What stood there before is recorded first, for all labs
//! together, and put back with the last lab that needed the change, also after a crash.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::place::Layout;

/// What a kubelet wants; it refuses to start otherwise.
pub(crate) const KUBELET: [(&str, &str); 3] = [
    ("/proc/sys/vm/overcommit_memory", "1"),
    ("/proc/sys/kernel/panic", "10"),
    ("/proc/sys/kernel/panic_on_oops", "1"),
];

/// Why a setting can't be changed or put back.
#[derive(Debug, thiserror::Error)]
pub enum SettingError {
    /// The setting can't be read or written.
    #[error("failed to change the setting {} of this machine, which a kubelet needs", path.display())]
    Change {
        /// The setting.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The record of what was there before can't be kept.
    #[error("failed to keep the record of this machine's own settings in {}", path.display())]
    Record {
        /// The record.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// The record: what was there before, and which labs need it otherwise.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    before: BTreeMap<PathBuf, String>,
    labs: BTreeSet<String>,
}

/// The settings of this machine, with the record of what they were.
#[derive(Debug)]
pub(crate) struct Settings {
    record: PathBuf,
    lock: PathBuf,
}

impl Settings {
    /// Of all labs in one directory.
    pub(crate) fn of(layout: &Layout) -> Self {
        Self {
            record: layout.root().join("settings.json"),
            lock: layout.locks().join("settings"),
        }
    }

    /// Gives settings these values for the sake of a lab.
    pub(crate) fn change(&self, lab: &str, wanted: &[(&str, &str)]) -> Result<(), SettingError> {
        let _lock = self.lock()?;
        let mut kept = self.load()?;
        for (path, _) in wanted {
            if let Entry::Vacant(unknown) = kept.before.entry(PathBuf::from(path)) {
                let found = fs::read_to_string(path).map_err(changing(Path::new(path)))?;
                unknown.insert(found.trim().to_owned());
            }
        }
        kept.labs.insert(lab.to_owned());
        self.save(&kept)?;
        for (path, value) in wanted {
            fs::write(path, value).map_err(changing(Path::new(path)))?;
        }
        Ok(())
    }

    /// Tells that a lab needs nothing any more: the last one has everything put back.
    pub(crate) fn restore(&self, lab: &str) -> Result<(), SettingError> {
        if !self.record.exists() {
            return Ok(());
        }
        let _lock = self.lock()?;
        let mut kept = self.load()?;
        if kept.labs.remove(lab) && kept.labs.is_empty() {
            for (path, value) in &kept.before {
                fs::write(path, value).map_err(changing(path))?;
            }
            return fs::remove_file(&self.record).map_err(self.recording());
        }
        self.save(&kept)
    }

    fn lock(&self) -> Result<File, SettingError> {
        let file = File::create(&self.lock).map_err(self.recording())?;
        file.lock().map_err(self.recording())?;
        Ok(file)
    }

    fn load(&self) -> Result<Kept, SettingError> {
        match fs::read(&self.record) {
            Ok(text) => serde_json::from_slice(&text)
                .map_err(io::Error::from)
                .map_err(self.recording()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Kept::default()),
            Err(error) => Err(self.recording()(error)),
        }
    }

    fn save(&self, kept: &Kept) -> Result<(), SettingError> {
        let text = serde_json::to_vec_pretty(kept)
            .map_err(io::Error::from)
            .map_err(self.recording())?;
        canasta_durable::write(&self.record, &text, 0o644)
            .map_err(io::Error::other)
            .map_err(self.recording())
    }

    fn recording(&self) -> impl FnOnce(io::Error) -> SettingError {
        let path = self.record.clone();
        move |source| SettingError::Record { path, source }
    }
}

fn changing(path: &Path) -> impl FnOnce(io::Error) -> SettingError {
    let path = path.to_owned();
    move |source| SettingError::Change { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lab_puts_back_what_was_there_before_the_first() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path(), "a");
        fs::create_dir_all(layout.locks()).unwrap();
        let setting = directory.path().join("overcommit");
        fs::write(&setting, "2\n").unwrap();
        let wanted = [(setting.to_str().unwrap(), "1")];
        let settings = Settings::of(&layout);
        let value = || fs::read_to_string(&setting).unwrap();

        settings.restore("a").unwrap();
        assert_eq!(value(), "2\n", "nothing was changed yet");
        settings.change("a", &wanted).unwrap();
        settings.change("b", &wanted).unwrap();
        settings.change("a", &wanted).unwrap();
        assert_eq!(value(), "1");
        settings.restore("a").unwrap();
        assert_eq!(value(), "1", "the other lab still needs it");
        settings.restore("b").unwrap();
        assert_eq!(value(), "2");
        assert!(!directory.path().join("settings.json").exists());
    }
}
