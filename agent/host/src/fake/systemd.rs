//! A service manager that keeps units in memory and takes their files from the fake host's directory.
//!
//! It behaves like systemd where the agent looks: a unit is known once its file is there, enabling makes a link, a start passes
//! through `activating`, every run has an invocation id. What a unit does when it runs is a hook that a test sets.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use futures_util::{StreamExt, stream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::{glob, locked, next_number};
use crate::files::{Change, Root};
use crate::systemd::{ListedUnit, Systemd, SystemdError, Unit, UnitStream};

mod unit_files;

/// What a running unit holds: dropped when it stops. A task's abort-on-drop guard, a server's shutdown handle, or nothing.
pub type Running = Box<dyn Any + Send>;

/// A main process that ended: its exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit(pub i32);

/// A run that begins, as a hook sees it.
#[derive(Debug, Clone)]
pub struct Run {
    /// The unit.
    pub unit: String,
    /// Identifies the run.
    pub invocation_id: String,
    /// The machine's files.
    pub root: Root,
}

/// Something that the manager was told to do, with the unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Read unit files again.
    DaemonReload,
    /// Come up at boot.
    Enable(String),
    /// Stay down at boot.
    Disable(String),
    /// Start.
    Start(String),
    /// Restart.
    Restart(String),
    /// Stop.
    Stop(String),
    /// Forget a failure.
    ResetFailed(String),
}

type Hook = Arc<dyn Fn(Run) -> BoxFuture<'static, Result<Running, Exit>> + Send + Sync>;

/// Units in memory. Cheap to clone; all clones are one manager.
#[derive(Clone)]
pub struct FakeSystemd {
    root: Root,
    state: Arc<Mutex<State>>,
}

impl fmt::Debug for FakeSystemd {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("FakeSystemd")
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    units: BTreeMap<String, Entry>,
    hooks: HashMap<String, Hook>,
    stop_status: HashMap<String, i32>,
    orders: Vec<Order>,
    /// The state of the whole system, where a test has set one.
    overall: Option<String>,
    unreachable: bool,
}

struct Entry {
    unit: watch::Sender<Unit>,
    /// Set by a test rather than found as a file.
    made: bool,
    /// The hook of a run that hasn't come up yet.
    starting: Option<AbortHandle>,
    running: Option<Running>,
}

impl Entry {
    fn new(unit: Unit, made: bool) -> Self {
        Self {
            unit: watch::Sender::new(unit),
            made,
            starting: None,
            running: None,
        }
    }

    /// Ends the run, if there is one. What it held is to be dropped after the lock is.
    fn end(&mut self) -> Option<Running> {
        if let Some(starting) = self.starting.take() {
            starting.abort();
        }
        self.unit.send_modify(|unit| unit.main_pid = None);
        self.running.take()
    }

    fn is_up(&self) -> bool {
        matches!(
            self.unit.borrow().active_state.as_str(),
            "active" | "activating" | "reloading"
        )
    }
}

impl FakeSystemd {
    pub(super) fn new(root: Root) -> Self {
        Self {
            root,
            state: Arc::default(),
        }
    }

    /// Has `hook` run at each start of the unit: the unit is active once it answers with what the run holds, and failed if it
    /// answers with an exit status. A unit without a hook is active at once.
    pub fn on_start<F, R>(&self, unit: &str, hook: F)
    where
        F: Fn(Run) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Running, Exit>> + Send + 'static,
    {
        let hook: Hook = Arc::new(move |run| Box::pin(hook(run)));
        locked(&self.state).hooks.insert(unit.to_owned(), hook);
    }

    /// Has the unit end with this status whenever it is stopped; other than 0 leaves it failed. k3s does that.
    pub fn stops_with(&self, unit: &str, status: i32) {
        locked(&self.state)
            .stop_status
            .insert(unit.to_owned(), status);
    }

    /// Adds a unit that has no file, or replaces one.
    pub fn add(&self, unit: Unit) {
        let mut state = locked(&self.state);
        match state.units.get_mut(&unit.name) {
            Some(entry) => {
                entry.made = true;
                entry.unit.send_replace(unit);
            }
            None => {
                state
                    .units
                    .insert(unit.name.clone(), Entry::new(unit, true));
            }
        }
    }

    /// Changes a unit as if something had happened to it; watchers see it.
    pub fn change(&self, unit: &str, change: impl FnOnce(&mut Unit)) {
        self.with_entry(unit, |entry| entry.unit.send_modify(change));
    }

    /// Has the main process end by itself: whatever the run held is dropped, the unit is failed unless the status is 0.
    pub fn exit(&self, unit: &str, status: i32) {
        let held = self.with_entry(unit, |entry| {
            let held = entry.end();
            entry.unit.send_modify(|unit| ended(unit, status));
            held
        });
        drop(held);
    }

    /// Everything that the manager was told to do, in order.
    pub fn orders(&self) -> Vec<Order> {
        locked(&self.state).orders.clone()
    }

    /// Forgets all orders, so that those of the next act stand alone.
    pub fn clear_orders(&self) {
        locked(&self.state).orders.clear();
    }

    /// Sets the state of the whole system; `running` in the beginning.
    pub fn set_system_state(&self, state: &str) {
        locked(&self.state).overall = Some(state.to_owned());
    }

    /// Takes the bus away (true) or brings it back: every question and order fails meanwhile.
    pub fn set_unreachable(&self, unreachable: bool) {
        locked(&self.state).unreachable = unreachable;
    }

    pub(super) fn power_off(&self) {
        let mut state = locked(&self.state);
        let mut held = Vec::new();
        for entry in state.units.values_mut() {
            held.push(entry.end());
            entry.unit.send_modify(|unit| {
                put(unit, "inactive", "dead", "success");
                unit.n_restarts = 0;
                unit.exec_main_status = 0;
                unit.exec_main_start = None;
                unit.invocation_id = None;
            });
        }
        drop(state);
        drop(held);
    }

    pub(super) fn boot(&self) {
        for name in unit_files::enabled(&self.root) {
            self.with_entry(&name, |_| ());
            self.begin(&name);
        }
    }

    /// Works on a unit, which is looked up on disk if it isn't in memory.
    fn with_entry<T>(&self, name: &str, work: impl FnOnce(&mut Entry) -> T) -> T {
        let mut state = locked(&self.state);
        let entry = state
            .units
            .entry(name.to_owned())
            .or_insert_with(|| Entry::new(unit_files::load(&self.root, name), false));
        if !entry.made && entry.unit.borrow().load_state == "not-found" {
            let found = unit_files::load(&self.root, name);
            if found.is_loaded() {
                entry.unit.send_replace(found);
            }
        }
        if !entry.made {
            let enabled = unit_files::state(&self.root, name);
            entry.unit.send_if_modified(|unit| {
                let differs = unit.unit_file_state != enabled;
                unit.unit_file_state = enabled;
                differs
            });
        }
        work(entry)
    }

    /// Notes an order, unless the bus is away.
    fn order(&self, order: Order) -> Result<(), SystemdError> {
        self.reach()?;
        locked(&self.state).orders.push(order);
        Ok(())
    }

    fn reach(&self) -> Result<(), SystemdError> {
        if !locked(&self.state).unreachable {
            return Ok(());
        }
        let gone = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        Err(SystemdError::Unreachable {
            source: zbus::Error::from(gone),
        })
    }

    fn known(&self, action: &'static str, name: &str) -> Result<(), SystemdError> {
        if self.with_entry(name, |entry| entry.unit.borrow().is_loaded()) {
            Ok(())
        } else {
            Err(SystemdError::NoSuchUnit {
                action,
                unit: name.to_owned(),
            })
        }
    }

    /// Begins a run of a unit that is down.
    fn begin(&self, name: &str) {
        let invocation_id = format!("{:032x}", next_number());
        let mut state = locked(&self.state);
        let hook = state.hooks.get(name).cloned();
        let Some(entry) = state.units.get_mut(name) else {
            return;
        };
        entry.unit.send_modify(|unit| {
            put(unit, "activating", "start", "success");
            unit.exec_main_status = 0;
            unit.exec_main_start = Some(SystemTime::now());
            unit.main_pid = u32::try_from(100_000 + next_number()).ok();
            unit.invocation_id = Some(invocation_id.clone());
        });
        let Some(hook) = hook else {
            entry.unit.send_modify(come_up);
            return;
        };
        let run = Run {
            unit: name.to_owned(),
            invocation_id: invocation_id.clone(),
            root: self.root.clone(),
        };
        let manager = self.clone();
        let name = name.to_owned();
        let task = tokio::spawn(async move {
            let outcome = hook(run).await;
            manager.finish(&name, &invocation_id, outcome);
        });
        entry.starting = Some(task.abort_handle());
    }

    /// The hook of a run has answered. If the unit was stopped meanwhile, the answer counts for nothing.
    fn finish(&self, name: &str, invocation_id: &str, outcome: Result<Running, Exit>) {
        let mut state = locked(&self.state);
        let Some(entry) = state.units.get_mut(name) else {
            return;
        };
        let is_this_run = entry.unit.borrow().invocation_id.as_deref() == Some(invocation_id);
        if !is_this_run || entry.starting.take().is_none() {
            return;
        }
        match outcome {
            Ok(running) => {
                entry.running = Some(running);
                entry.unit.send_modify(come_up);
            }
            Err(Exit(status)) => entry.unit.send_modify(|unit| ended(unit, status)),
        }
    }

    /// Stops a unit that is up. Returns what its run held.
    fn halt(&self, name: &str) -> Option<Running> {
        let status = locked(&self.state)
            .stop_status
            .get(name)
            .copied()
            .unwrap_or(0);
        self.with_entry(name, |entry| {
            let was_up = entry.is_up();
            let held = entry.end();
            if was_up {
                entry.unit.send_modify(|unit| ended(unit, status));
            }
            held
        })
    }
}

fn put(unit: &mut Unit, active: &str, sub: &str, result: &str) {
    active.clone_into(&mut unit.active_state);
    sub.clone_into(&mut unit.sub_state);
    result.clone_into(&mut unit.result);
}

fn come_up(unit: &mut Unit) {
    put(unit, "active", "running", "success");
}

fn ended(unit: &mut Unit, status: i32) {
    let (active, sub, result) = if status == 0 {
        ("inactive", "dead", "success")
    } else {
        ("failed", "failed", "exit-code")
    };
    put(unit, active, sub, result);
    unit.exec_main_status = status;
    unit.main_pid = None;
}

#[async_trait]
impl Systemd for FakeSystemd {
    async fn system_state(&self) -> Result<String, SystemdError> {
        self.reach()?;
        Ok(locked(&self.state)
            .overall
            .clone()
            .unwrap_or_else(|| "running".to_owned()))
    }

    async fn unit(&self, name: &str) -> Result<Unit, SystemdError> {
        self.reach()?;
        Ok(self.with_entry(name, |entry| entry.unit.borrow().clone()))
    }

    async fn list_units(&self, patterns: &[&str]) -> Result<Vec<ListedUnit>, SystemdError> {
        self.reach()?;
        let state = locked(&self.state);
        let units = state
            .units
            .values()
            .map(|entry| entry.unit.borrow().clone());
        let listed = units
            .filter(|unit| {
                unit.is_loaded()
                    && patterns
                        .iter()
                        .any(|pattern| glob::matches(pattern, &unit.name))
            })
            .map(|unit| ListedUnit {
                name: unit.name,
                load_state: unit.load_state,
                active_state: unit.active_state,
                sub_state: unit.sub_state,
            });
        Ok(listed.collect())
    }

    async fn daemon_reload(&self) -> Result<(), SystemdError> {
        self.order(Order::DaemonReload)?;
        let mut state = locked(&self.state);
        for (name, entry) in state.units.iter_mut().filter(|(_, entry)| !entry.made) {
            let found = unit_files::load(&self.root, name);
            entry.unit.send_modify(|unit| {
                unit.load_state = found.load_state;
                unit.type_ = found.type_;
                unit.fragment_path = found.fragment_path;
                unit.unit_file_state = found.unit_file_state;
            });
        }
        Ok(())
    }

    async fn enable(&self, name: &str) -> Result<Change, SystemdError> {
        self.order(Order::Enable(name.to_owned()))?;
        self.known("enable", name)?;
        unit_files::enable(&self.root, name).map_err(|source| refused("enable", name, source))
    }

    async fn disable(&self, name: &str) -> Result<Change, SystemdError> {
        self.order(Order::Disable(name.to_owned()))?;
        unit_files::disable(&self.root, name).map_err(|source| refused("disable", name, source))
    }

    async fn start_no_block(&self, name: &str) -> Result<(), SystemdError> {
        self.order(Order::Start(name.to_owned()))?;
        self.known("start", name)?;
        if !self.with_entry(name, |entry| entry.is_up()) {
            self.begin(name);
        }
        Ok(())
    }

    async fn restart_no_block(&self, name: &str) -> Result<(), SystemdError> {
        self.order(Order::Restart(name.to_owned()))?;
        self.known("restart", name)?;
        drop(self.halt(name));
        self.begin(name);
        Ok(())
    }

    async fn stop(&self, name: &str, _limit: Duration) -> Result<(), SystemdError> {
        self.order(Order::Stop(name.to_owned()))?;
        drop(self.halt(name));
        Ok(())
    }

    async fn reset_failed(&self, name: &str) -> Result<(), SystemdError> {
        self.order(Order::ResetFailed(name.to_owned()))?;
        self.with_entry(name, |entry| {
            entry.unit.send_modify(|unit| {
                unit.n_restarts = 0;
                if unit.is_failed() {
                    put(unit, "inactive", "dead", "success");
                }
            });
        });
        Ok(())
    }

    async fn watch(&self, name: &str) -> Result<UnitStream, SystemdError> {
        self.reach()?;
        let mut receiver = self.with_entry(name, |entry| entry.unit.subscribe());
        receiver.mark_changed();
        let states = stream::unfold(receiver, |mut receiver| async move {
            receiver.changed().await.ok()?;
            let unit = receiver.borrow_and_update().clone();
            Some((Ok(unit), receiver))
        });
        Ok(states.boxed())
    }
}

fn refused(action: &'static str, unit: &str, source: std::io::Error) -> SystemdError {
    SystemdError::Refused {
        action,
        unit: unit.to_owned(),
        source: zbus::Error::from(source),
    }
}

/// Where a unit file of this name is expected to be written by an installer.
fn installed_path(name: &str) -> PathBuf {
    PathBuf::from("/etc/systemd/system").join(name)
}
