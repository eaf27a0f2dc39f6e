//! Facts about the k3s on this node, whoever installed it. Secrets are left out where they are read.

use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use canasta_host::Host;
use canasta_host::systemd::Unit;
use canasta_proto::pb;
use tokio::sync::Mutex;

use super::with_causes;
use crate::k3s::config::{self, Configured};
use crate::k3s::traces::Traces;
use crate::k3s::{api, paths, version};

/// What is known, and what couldn't be found out.
#[derive(Debug, Clone, Default)]
pub struct Sight {
    /// The facts.
    pub k3s: pb::K3sFacts,
    /// Facts that couldn't be had, with the reason.
    pub unknown: Vec<String>,
}

/// Remembers hash and version of a binary until the file changes. Locked while it looks, so that two questions at once hash once.
#[derive(Debug, Default)]
pub struct BinaryCache(Mutex<Option<Known>>);

#[derive(Debug, Clone)]
struct Known {
    stamp: Stamp,
    path: String,
    sha256: String,
    version: String,
}

/// Changes whenever the file does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// When the file got its place, content and mode.
    fn changed_at(&self) -> SystemTime {
        let (seconds, nanoseconds) = self.changed;
        UNIX_EPOCH
            + Duration::new(
                u64::try_from(seconds).unwrap_or(0),
                u32::try_from(nanoseconds).unwrap_or(0),
            )
    }
}

impl BinaryCache {
    /// Hash and version of the binary. A version that can't be had is asked for again the next time.
    async fn get(&self, host: &Host, path: &str, unknown: &mut Vec<String>) -> Option<Known> {
        let mut known = self.0.lock().await;
        let stamp = match tokio::fs::metadata(host.root.path(path)).await {
            Ok(found) => Stamp {
                device: found.dev(),
                inode: found.ino(),
                size: found.size(),
                modified: (found.mtime(), found.mtime_nsec()),
                changed: (found.ctime(), found.ctime_nsec()),
            },
            Err(error) => {
                unknown.push(format!("binary of k3s: failed to look at {path}: {error}"));
                return None;
            }
        };
        if let Some(known) = known
            .as_ref()
            .filter(|known| known.stamp == stamp && known.path == path)
        {
            return Some(known.clone());
        }
        let sha256 = match host.root.sha256(path).await {
            Ok(hash) => hash?,
            Err(error) => {
                unknown.push(format!("binary of k3s: {}", with_causes(&error)));
                return None;
            }
        };
        let fresh = Known {
            stamp,
            path: path.to_owned(),
            sha256,
            version: String::new(),
        };
        match version::of(&host.root.path(path)).await {
            Ok(version) => {
                let fresh = Known { version, ..fresh };
                *known = Some(fresh.clone());
                Some(fresh)
            }
            Err(error) => {
                unknown.push(format!("version of k3s: {}", with_causes(&error)));
                Some(fresh)
            }
        }
    }
}

/// Gathers the facts behind what was found.
pub async fn look(host: &Host, traces: &Traces, cache: &BinaryCache) -> Sight {
    let mut sight = Sight::default();
    let unit = traces.unit().cloned().unwrap_or_default();
    sight.k3s = pb::K3sFacts {
        present: traces.is_present(),
        origin: traces.origin().into(),
        found: traces.in_words(),
        role: traces.role().into(),
        unit: unit.name.clone(),
        unit_active_state: unit.active_state.clone(),
        unit_sub_state: unit.sub_state.clone(),
        unit_restarts: unit.n_restarts,
        unit_started_at: unit.main_pid.and(unit.exec_main_start).map(Into::into),
        ..pb::K3sFacts::default()
    };
    if !sight.k3s.present {
        return sight;
    }
    match api::ca_hash(host).await {
        Ok(hash) => sight.k3s.ca_hash = hash.unwrap_or_default(),
        Err(error) => sight
            .unknown
            .push(format!("CA of k3s: {}", with_causes(&error))),
    }
    configuration(host, traces, &unit, &mut sight).await;
    if let Some(path) = &traces.binary
        && let Some(binary) = cache.get(host, path, &mut sight.unknown).await
    {
        sight.k3s.running_version = running_version(traces, &unit, &binary);
        sight.k3s.binary_version = binary.version;
        sight.k3s.binary_sha256 = binary.sha256;
    }
    sight
}

/// What is configured, by file and by the arguments of the unit, which win.
async fn configuration(host: &Host, traces: &Traces, unit: &Unit, sight: &mut Sight) {
    let configured = match config::read(host).await {
        Ok(configured) => configured,
        Err(error) => {
            sight
                .unknown
                .push(format!("configuration of k3s: {}", with_causes(&error)));
            Configured::default()
        }
    };
    let file = unit.fragment_path.as_ref().map_or_else(
        || paths::unit_file(&unit.name),
        |path| path.display().to_string(),
    );
    let text = host
        .root
        .read_text(&file)
        .await
        .ok()
        .flatten()
        .unwrap_or_default();
    let arguments = config::arguments(&text);
    let given =
        |option: &str| Some(config::values(&arguments, option)).filter(|values| !values.is_empty());
    let first = |option: &str, configured: &str| {
        given(option).map_or_else(|| configured.to_owned(), |mut values| values.swap_remove(0))
    };
    let facts = &mut sight.k3s;
    facts.node_ip = first("--node-ip", &configured.node_ip);
    facts.node_name = first("--node-name", &configured.node_name);
    facts.tls_sans = given("--tls-san").unwrap_or(configured.tls_sans);
    facts.config_keys = configured.keys;
    if facts.node_name.is_empty() {
        facts.node_name = traces
            .record
            .as_ref()
            .map(|record| record.node_name.clone())
            .unwrap_or_default();
    }
    if facts.node_name.is_empty()
        && let Ok(machine) = host.machine.facts().await
    {
        // What k3s does without a name.
        facts.node_name = machine.hostname.to_lowercase();
    }
    facts.arguments = arguments;
}

/// The version that the running process was started as; empty where nobody can tell.
fn running_version(traces: &Traces, unit: &Unit, binary: &Known) -> String {
    if unit.main_pid.is_none() {
        return String::new();
    }
    let started = traces
        .record
        .as_ref()
        .and_then(|record| record.started.as_ref());
    if let Some(started) = started
        && started.invocation.is_some()
        && started.invocation == unit.invocation_id
    {
        return started.version.clone();
    }
    // Started by someone else: it is this binary if the binary was in place by then.
    match unit.exec_main_start {
        Some(start) if binary.stamp.changed_at() <= start => binary.version.clone(),
        _ => String::new(),
    }
}
