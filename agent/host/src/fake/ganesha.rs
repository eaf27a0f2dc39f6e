//! nfs-ganesha as a list of exports. It runs while its unit is active, and reads its files as it does: a block by its number.

use std::collections::BTreeMap;
use std::sync::Mutex;

use async_trait::async_trait;

use super::{FakeSystemd, locked};
use crate::files::Root;
use crate::ganesha::{Ganesha, GaneshaError, Listed, Served};
use crate::systemd::Systemd as _;

/// Its unit.
const UNIT: &str = "nfs-ganesha.service";

/// A server that a test can look into.
#[derive(Debug)]
pub struct FakeGanesha {
    root: Root,
    systemd: FakeSystemd,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    exports: BTreeMap<u16, Served>,
    /// What others had it export, by number.
    foreign: BTreeMap<u16, String>,
    /// How often it is still asked before its grace period is over.
    grace: u32,
    /// What it says to every change, if it refuses.
    refuses: Option<String>,
    changes: u32,
}

impl FakeGanesha {
    pub(super) fn new(root: Root, systemd: FakeSystemd) -> Self {
        Self {
            root,
            systemd,
            state: Mutex::default(),
        }
    }

    /// What it serves, by number.
    pub fn exports(&self) -> BTreeMap<u16, Served> {
        locked(&self.state).exports.clone()
    }

    /// Has somebody else have it export a directory.
    pub fn export_foreign(&self, number: u16, path: &str) {
        locked(&self.state).foreign.insert(number, path.to_owned());
    }

    /// How often it was told to change something.
    pub fn changes(&self) -> u32 {
        locked(&self.state).changes
    }

    /// Has it be in its grace period for so many questions.
    pub fn set_grace(&self, questions: u32) {
        locked(&self.state).grace = questions;
    }

    /// Has it forget all exports, as one that was started anew with other files.
    pub fn forget(&self) {
        locked(&self.state).exports.clear();
    }

    /// Has it refuse every change with a text, or none any more.
    pub fn refuse(&self, text: Option<&str>) {
        locked(&self.state).refuses = text.map(str::to_owned);
    }

    async fn reach(&self) -> Result<(), GaneshaError> {
        let unit = self.systemd.unit(UNIT).await;
        let is_up = unit.is_ok_and(|unit| unit.is_active());
        is_up.then_some(()).ok_or(GaneshaError::NotRunning)
    }
}

#[async_trait]
impl Ganesha for FakeGanesha {
    async fn exports(&self) -> Result<Vec<Listed>, GaneshaError> {
        self.reach().await?;
        let state = locked(&self.state);
        let ours = state.exports.iter();
        let ours = ours.map(|(number, served)| (*number, served.path.clone()));
        let foreign = state.foreign.iter();
        let foreign = foreign.map(|(number, path)| (*number, path.clone()));
        let root = std::iter::once((0, "/".to_owned()));
        let all = root.chain(ours).chain(foreign);
        Ok(all.map(|(number, path)| Listed { number, path }).collect())
    }

    async fn export(&self, number: u16) -> Result<Option<Served>, GaneshaError> {
        self.reach().await?;
        Ok(locked(&self.state).exports.get(&number).cloned())
    }

    async fn update(&self, file: &str, number: u16) -> Result<(), GaneshaError> {
        self.reach().await?;
        let text = std::fs::read_to_string(self.root.path(file)).unwrap_or_default();
        let mut state = locked(&self.state);
        state.changes += 1;
        let refused = |text: String| GaneshaError::Refused {
            action: "change",
            number,
            text,
        };
        if let Some(text) = state.refuses.clone() {
            return Err(refused(text));
        }
        let served = block(&text, number).ok_or_else(|| {
            refused("Error finding exports because No such file or directory".to_owned())
        })?;
        state.exports.insert(number, served);
        Ok(())
    }

    async fn remove(&self, number: u16) -> Result<(), GaneshaError> {
        self.reach().await?;
        let mut state = locked(&self.state);
        state.changes += 1;
        state.exports.remove(&number);
        Ok(())
    }

    async fn in_grace(&self) -> Result<bool, GaneshaError> {
        self.reach().await?;
        let mut state = locked(&self.state);
        let in_grace = state.grace > 0;
        state.grace = state.grace.saturating_sub(1);
        Ok(in_grace)
    }
}

/// The export of this number in a file whose lines are `key = value;`.
fn block(text: &str, number: u16) -> Option<Served> {
    let is_it = |block: &&str| value(block, "Export_Id").as_deref() == Some(&*number.to_string());
    let block = text.split("EXPORT {").skip(1).find(is_it)?;
    Some(Served {
        path: value(block, "Path")?,
        clients: value(block, "Clients")?
            .split(", ")
            .map(str::to_owned)
            .collect(),
    })
}

fn value(block: &str, key: &str) -> Option<String> {
    block.lines().find_map(|line| {
        let (found, value) = line.split_once('=')?;
        (found.trim() == key).then(|| {
            value
                .trim()
                .trim_end_matches(';')
                .trim_matches('"')
                .to_owned()
        })
    })
}
