//! Who may change what right now: hosts, and the membership of clusters. Kept in memory; taken up again with each
//! operation that goes on after a restart.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use canasta_proto::name::HostName;

/// Something that operations hold.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// A host, by its name in the fleet.
    Host(String),
    /// Which nodes belong to a cluster, by its name.
    Membership(String),
    /// The shared storage of a cluster, by its name.
    Storage(String),
    /// A node of a cluster, which need not be a host of the fleet: `w1 of cluster wiki`.
    Node(String),
}

impl fmt::Display for Resource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(name) => write!(formatter, "host {name}"),
            Self::Membership(name) => write!(formatter, "the membership of cluster {name}"),
            Self::Storage(name) => write!(formatter, "the storage of cluster {name}"),
            Self::Node(name) => write!(formatter, "node {name}"),
        }
    }
}

/// What an operation needs to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// What it changes; held alone.
    pub changes: Vec<Resource>,
    /// What it only consults; held together with others that consult it.
    pub consults: Vec<Resource>,
}

impl Wanted {
    /// One host, to change it.
    pub fn change_of(host: &HostName) -> Self {
        Self {
            changes: vec![Resource::Host(host.to_string())],
            consults: Vec::new(),
        }
    }

    /// The hosts that it changes.
    pub fn changed_hosts(&self) -> Vec<String> {
        let host = |resource: &Resource| match resource {
            Resource::Host(name) => Some(name.clone()),
            Resource::Membership(_) | Resource::Storage(_) | Resource::Node(_) => None,
        };
        self.changes.iter().filter_map(host).collect()
    }
}

/// Who holds something: an operation, or a call that plans one or does its work at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The id of the operation; of a call, the one that its operation will have.
    pub id: String,
    /// True once the operation is stored, so that it can be shown and watched.
    pub begun: bool,
    /// The kind of the operation, or what the call does.
    pub kind: String,
    /// Who started it.
    pub started_by: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            id,
            begun,
            kind,
            started_by,
        } = self;
        if *begun {
            write!(
                formatter,
                "operation {id} ({kind}, started by {started_by})"
            )
        } else {
            write!(formatter, "{kind}, which {started_by} has just begun")
        }
    }
}

/// What was wanted is held by somebody else.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{resource} is in use by {holder}")]
pub struct Busy {
    /// What is held.
    pub resource: Resource,
    /// By whom.
    pub holder: Holder,
}

#[derive(Debug)]
enum Held {
    Alone(Holder),
    Shared(Vec<Holder>),
}

/// All that is held.
#[derive(Debug, Clone, Default)]
pub struct Locks {
    held: Arc<Mutex<BTreeMap<Resource, Held>>>,
}

/// Gives everything back when dropped.
#[derive(Debug)]
pub struct Guard {
    locks: Locks,
    wanted: Wanted,
    holder: Holder,
}

impl Locks {
    /// Takes all of it, or nothing.
    ///
    /// # Errors
    /// Names the first holder that stands in the way.
    pub fn take(&self, wanted: &Wanted, holder: &Holder) -> Result<Guard, Busy> {
        let mut guard = Guard {
            locks: self.clone(),
            wanted: Wanted::default(),
            holder: holder.clone(),
        };
        guard.extend(wanted)?;
        Ok(guard)
    }

    /// The operation that changes a host right now.
    pub fn changer_of(&self, host: &str) -> Option<String> {
        match self.lock().get(&Resource::Host(host.to_owned())) {
            Some(Held::Alone(holder)) if holder.begun => Some(holder.id.clone()),
            _ => None,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Resource, Held>> {
        self.held.lock().expect("no holder panics")
    }
}

/// What somebody else than `own` holds of what is wanted.
fn find_conflict(
    held: &BTreeMap<Resource, Held>,
    wanted: &Wanted,
    own: &Holder,
) -> Result<(), Busy> {
    let other = |holder: &&Holder| holder.id != own.id;
    let changed = wanted.changes.iter().map(|resource| {
        let holder = match held.get(resource) {
            Some(Held::Alone(holder)) => Some(holder).filter(other),
            Some(Held::Shared(holders)) => holders.iter().find(other),
            None => None,
        };
        (resource, holder)
    });
    let consulted = wanted.consults.iter().map(|resource| {
        let holder = match held.get(resource) {
            Some(Held::Alone(holder)) => Some(holder).filter(other),
            _ => None,
        };
        (resource, holder)
    });
    for (resource, holder) in changed.chain(consulted) {
        if let Some(holder) = holder {
            return Err(Busy {
                resource: resource.clone(),
                holder: holder.clone(),
            });
        }
    }
    Ok(())
}

impl Guard {
    /// Takes more, or nothing of it. What is held already may be named again.
    ///
    /// # Errors
    /// Names the first holder that stands in the way; what was held before stays held.
    pub fn extend(&mut self, wanted: &Wanted) -> Result<(), Busy> {
        let mut held = self.locks.lock();
        find_conflict(&held, wanted, &self.holder)?;
        for resource in &wanted.changes {
            held.insert(resource.clone(), Held::Alone(self.holder.clone()));
            if !self.wanted.changes.contains(resource) {
                self.wanted.changes.push(resource.clone());
            }
        }
        for resource in &wanted.consults {
            match held
                .entry(resource.clone())
                .or_insert_with(|| Held::Shared(Vec::new()))
            {
                Held::Shared(holders) => {
                    if holders.iter().all(|holder| holder.id != self.holder.id) {
                        holders.push(self.holder.clone());
                    }
                }
                // What is changed by the same holder is consulted by it anyway.
                Held::Alone(_) => {}
            }
            if !self.wanted.consults.contains(resource) {
                self.wanted.consults.push(resource.clone());
            }
        }
        Ok(())
    }

    /// The operation is stored: from now on it is named by its id.
    pub fn begin(&mut self) {
        self.holder.begun = true;
        for held in self.locks.lock().values_mut() {
            let holders = match held {
                Held::Alone(holder) => std::slice::from_mut(holder),
                Held::Shared(holders) => holders.as_mut_slice(),
            };
            for holder in holders.iter_mut().filter(|one| one.id == self.holder.id) {
                holder.begun = true;
            }
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut held = self.locks.lock();
        for resource in self.wanted.changes.iter().chain(&self.wanted.consults) {
            let empty = match held.get_mut(resource) {
                Some(Held::Alone(_)) => true,
                Some(Held::Shared(holders)) => {
                    holders.retain(|holder| holder.id != self.holder.id);
                    holders.is_empty()
                }
                None => false,
            };
            if empty {
                held.remove(resource);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Holder, Locks, Resource, Wanted};

    fn host(name: &str) -> Resource {
        Resource::Host(name.to_owned())
    }

    fn holder(operation: &str) -> Holder {
        Holder {
            id: operation.to_owned(),
            begun: true,
            kind: "install-k8s-cp".to_owned(),
            started_by: "user alice".to_owned(),
        }
    }

    fn changes(resources: &[Resource]) -> Wanted {
        Wanted {
            changes: resources.to_vec(),
            consults: Vec::new(),
        }
    }

    fn consults(resources: &[Resource]) -> Wanted {
        Wanted {
            changes: Vec::new(),
            consults: resources.to_vec(),
        }
    }

    #[test]
    fn a_changed_host_is_held_alone_and_the_holder_is_named() {
        let locks = Locks::default();
        let guard = locks
            .take(&changes(&[host("cp1")]), &holder("one"))
            .expect("free");
        for wanted in [
            changes(&[host("w1"), host("cp1")]),
            consults(&[host("cp1")]),
        ] {
            let busy = locks.take(&wanted, &holder("two")).expect_err("held");
            assert_eq!(
                busy.to_string(),
                "host cp1 is in use by operation one (install-k8s-cp, started by user alice)"
            );
        }
        // The refused one kept nothing.
        assert_eq!(locks.changer_of("w1"), None);
        assert_eq!(locks.changer_of("cp1").as_deref(), Some("one"));
        drop(guard);
        locks
            .take(&changes(&[host("cp1")]), &holder("two"))
            .expect("free again");
    }

    #[test]
    fn a_consulted_host_is_shared_until_the_last_one_gives_it_back() {
        let locks = Locks::default();
        let wanted = consults(&[host("cp1")]);
        let first = locks.take(&wanted, &holder("one")).expect("free");
        let second = locks.take(&wanted, &holder("two")).expect("shared");
        drop(first);
        let busy = locks
            .take(&changes(&[host("cp1")]), &holder("three"))
            .expect_err("still consulted");
        assert_eq!(busy.holder.id, "two");
        drop(second);
        locks
            .take(&changes(&[host("cp1")]), &holder("three"))
            .expect("free");
    }

    #[test]
    fn membership_is_apart_from_hosts_and_what_one_changes_it_may_consult() {
        let locks = Locks::default();
        let member = Resource::Membership("cp1".to_owned());
        let _guard = locks
            .take(&changes(&[member]), &holder("one"))
            .expect("free");
        let both = Wanted {
            changes: vec![host("cp1")],
            consults: vec![host("cp1")],
        };
        let guard = locks.take(&both, &holder("two")).expect("another resource");
        drop(guard);
        locks
            .take(&changes(&[host("cp1")]), &holder("three"))
            .expect("given back whole");
    }

    #[test]
    fn what_is_planned_is_held_before_it_has_an_operation_and_grows_with_the_plan() {
        let locks = Locks::default();
        let planning = Holder {
            begun: false,
            ..holder("one")
        };
        let mut guard = locks
            .take(&changes(&[host("cp1")]), &planning)
            .expect("free");
        assert_eq!(
            locks.changer_of("cp1"),
            None,
            "there is nothing to show yet"
        );
        let busy = locks
            .take(&changes(&[host("cp1")]), &holder("two"))
            .expect_err("held");
        assert_eq!(
            busy.to_string(),
            "host cp1 is in use by install-k8s-cp, which user alice has just begun"
        );
        let member = Resource::Membership("wiki".to_owned());
        let other = locks
            .take(&changes(std::slice::from_ref(&member)), &holder("two"))
            .expect("free");
        let grown = changes(&[host("cp1"), member]);
        guard.extend(&grown).expect_err("the cluster is held");
        drop(other);
        guard.extend(&grown).expect("the host is its own");
        guard.begin();
        assert_eq!(locks.changer_of("cp1").as_deref(), Some("one"));
        drop(guard);
        locks.take(&grown, &holder("two")).expect("all given back");
    }
}
