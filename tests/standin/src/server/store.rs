//! The stand-in's datastore: objects with resource versions, a bounded history for watches, and a copy on disk that a
//! restart reads. The API and the node's life write here.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use thiserror::Error;
use tokio::sync::{Notify, broadcast};

use super::resources::Resource;
use crate::clock::kubernetes_now;
use crate::files::{self, FileError};

const HISTORY: usize = 1000;
const BACKLOG: usize = 256;

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It is new.
    Added,
    /// It changed.
    Modified,
    /// It is gone.
    Deleted,
}

impl Change {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// One change, as watches see it.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) version: u64,
    pub(crate) change: Change,
    pub(crate) key: Key,
    pub(crate) object: Arc<Value>,
}

/// Where an object stands: resource id, namespace (empty for the cluster's own) and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Key {
    pub(crate) resource: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Key {
    pub(crate) fn new(resource: &Resource, namespace: &str, name: &str) -> Self {
        Self {
            resource: resource.id(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }
}

/// A change that was not made.
#[derive(Debug, Error)]
pub(crate) enum StoreError {
    #[error("already exists")]
    Exists,
    #[error("not found")]
    Absent,
    #[error("the object has been modified")]
    Stale,
}

/// Objects as they are at one moment.
pub(crate) struct Snapshot {
    pub(crate) version: u64,
    pub(crate) objects: Vec<Value>,
}

/// A watch: what is already due, and what will come.
pub(crate) struct Subscription {
    pub(crate) due: Vec<Event>,
    pub(crate) coming: broadcast::Receiver<Event>,
    pub(crate) version: u64,
}

/// The store. Every method is short and never waits.
pub(crate) struct Store {
    inner: Mutex<Inner>,
    events: broadcast::Sender<Event>,
    changed: Notify,
}

#[derive(Default)]
struct Inner {
    version: u64,
    // The oldest version that a watch can still begin from.
    floor: u64,
    next_subnet: u32,
    objects: BTreeMap<Key, Value>,
    history: VecDeque<Event>,
}

#[derive(Serialize, Deserialize)]
struct OnDisk {
    version: u64,
    next_subnet: u32,
    objects: Vec<(Key, Value)>,
}

impl Store {
    /// Reads the copy at `path`, or starts empty.
    pub(crate) fn open(path: &Path) -> Result<Self, FileError> {
        let mut inner = Inner::default();
        if path.exists() {
            let text = files::read(path)?;
            if let Ok(disk) = serde_json::from_str::<OnDisk>(&text) {
                inner.version = disk.version;
                inner.floor = disk.version;
                inner.next_subnet = disk.next_subnet;
                inner.objects = disk.objects.into_iter().collect();
            }
        }
        inner.version = inner.version.max(3);
        inner.floor = inner.floor.max(3);
        Ok(Self {
            inner: Mutex::new(inner),
            events: broadcast::channel(BACKLOG).0,
            changed: Notify::new(),
        })
    }

    /// Waits until something changed since the last call.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Every change from now on, for controllers.
    pub(crate) fn changes(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// The whole store as the copy on disk holds it.
    pub(crate) fn serialize(&self) -> Vec<u8> {
        let inner = self.lock();
        let disk = OnDisk {
            version: inner.version,
            next_subnet: inner.next_subnet,
            objects: inner
                .objects
                .iter()
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
        };
        drop(inner);
        serde_json::to_vec(&disk).unwrap_or_default()
    }

    /// The current resource version.
    pub(crate) fn version(&self) -> u64 {
        self.lock().version
    }

    /// A subnet that no node had before.
    pub(crate) fn allocate_subnet(&self) -> String {
        let mut inner = self.lock();
        let subnet = format!("10.42.{}.0/24", inner.next_subnet % 256);
        inner.next_subnet += 1;
        subnet
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Value> {
        self.lock().objects.get(key).cloned()
    }

    /// All objects of a resource, in one namespace if it is not empty.
    pub(crate) fn list(&self, resource: &Resource, namespace: &str) -> Snapshot {
        let inner = self.lock();
        let id = resource.id();
        let objects = inner
            .objects
            .iter()
            .filter(|(key, _)| {
                key.resource == id && (namespace.is_empty() || key.namespace == namespace)
            })
            .map(|(_, object)| object.clone())
            .collect();
        Snapshot {
            version: inner.version,
            objects,
        }
    }

    /// Stores a new object and answers it with uid, version and time.
    pub(crate) fn create(&self, key: Key, mut object: Value) -> Result<Value, StoreError> {
        let mut inner = self.lock();
        if inner.objects.contains_key(&key) {
            return Err(StoreError::Exists);
        }
        object["metadata"]["name"] = key.name.clone().into();
        if !key.namespace.is_empty() {
            object["metadata"]["namespace"] = key.namespace.clone().into();
        }
        object["metadata"]["uid"] = uuid::Uuid::new_v4().to_string().into();
        object["metadata"]["creationTimestamp"] = kubernetes_now().into();
        Ok(self.commit(&mut inner, key, object, Change::Added))
    }

    /// Changes an object in place. With `expected`, only if that is its version.
    pub(crate) fn update(
        &self,
        key: &Key,
        expected: Option<&str>,
        change: impl FnOnce(&mut Value),
    ) -> Result<Value, StoreError> {
        let mut inner = self.lock();
        let old = inner.objects.get(key).ok_or(StoreError::Absent)?;
        if expected.is_some_and(|version| old["metadata"]["resourceVersion"] != version) {
            return Err(StoreError::Stale);
        }
        let mut new = old.clone();
        change(&mut new);
        for field in [
            "uid",
            "creationTimestamp",
            "name",
            "namespace",
            "resourceVersion",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
        ] {
            if let Some(value) = old["metadata"].get(field) {
                new["metadata"][field] = value.clone();
            }
        }
        if let Some(generation) = old["metadata"]["generation"].as_u64() {
            let changed = u64::from(new["spec"] != old["spec"]);
            new["metadata"]["generation"] = (generation + changed).into();
        }
        if new == *old {
            return Ok(new);
        }
        if is_done(&new) {
            inner.objects.remove(key);
            return Ok(self.commit(&mut inner, key.clone(), new, Change::Deleted));
        }
        Ok(self.commit(&mut inner, key.clone(), new, Change::Modified))
    }

    /// Creates or replaces: for manifests and the server's own objects.
    pub(crate) fn put(&self, key: Key, object: Value) -> Value {
        match self.create(key.clone(), object.clone()) {
            Ok(created) => created,
            Err(_) => self
                .update(&key, None, |old| *old = object)
                .unwrap_or_default(),
        }
    }

    pub(crate) fn delete(&self, key: &Key) -> Result<Value, StoreError> {
        let mut inner = self.lock();
        let object = inner.objects.remove(key).ok_or(StoreError::Absent)?;
        Ok(self.commit(&mut inner, key.clone(), object, Change::Deleted))
    }

    /// Begins a watch. `since` of none or 0 first reports all that is there; one that is too old is refused with the
    /// oldest version still known.
    pub(crate) fn watch(
        &self,
        resource: &Resource,
        namespace: &str,
        since: Option<u64>,
    ) -> Result<Subscription, u64> {
        let inner = self.lock();
        let id = resource.id();
        let wanted =
            |key: &Key| key.resource == id && (namespace.is_empty() || key.namespace == namespace);
        let due = match since {
            None | Some(0) => inner
                .objects
                .iter()
                .filter(|(key, _)| wanted(key))
                .map(|(key, object)| Event {
                    version: inner.version,
                    change: Change::Added,
                    key: key.clone(),
                    object: Arc::new(object.clone()),
                })
                .collect(),
            Some(since) if since < inner.floor => return Err(inner.floor),
            Some(since) => inner
                .history
                .iter()
                .filter(|event| event.version > since && wanted(&event.key))
                .cloned()
                .collect(),
        };
        Ok(Subscription {
            due,
            coming: self.events.subscribe(),
            version: inner.version,
        })
    }

    fn commit(&self, inner: &mut Inner, key: Key, mut object: Value, change: Change) -> Value {
        inner.version += 1;
        object["metadata"]["resourceVersion"] = inner.version.to_string().into();
        if change != Change::Deleted {
            inner.objects.insert(key.clone(), object.clone());
        }
        let event = Event {
            version: inner.version,
            change,
            key,
            object: Arc::new(object.clone()),
        };
        inner.history.push_back(event.clone());
        if inner.history.len() > HISTORY
            && let Some(dropped) = inner.history.pop_front()
        {
            inner.floor = dropped.version;
        }
        // Nobody watching is no fault. Sent under the lock, so that watches see changes in order.
        let _ = self.events.send(event);
        self.changed.notify_one();
        object
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// Marked for deletion, and nobody has to do anything before it goes.
fn is_done(object: &Value) -> bool {
    let metadata = &object["metadata"];
    metadata["deletionTimestamp"].is_string()
        && metadata["deletionGracePeriodSeconds"].as_u64().unwrap_or(0) == 0
        && metadata["finalizers"].as_array().is_none_or(Vec::is_empty)
}

/// A namespace that is there.
pub(crate) fn namespace(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
        "spec": {"finalizers": ["kubernetes"]},
        "status": {"phase": "Active"},
    })
}
