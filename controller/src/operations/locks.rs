//! Who may change what right now: hosts, and the membership of clusters. Kept in memory; taken up again with each
//! operation that goes on after a restart.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

/// Something that operations hold.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// A host, by its name in the fleet.
    Host(String),
    /// Which nodes belong to a cluster, by its name.
    Membership(String),
}

impl fmt::Display for Resource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(name) => write!(formatter, "host {name}"),
            Self::Membership(name) => write!(formatter, "the membership of cluster {name}"),
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
    /// The hosts that it changes.
    pub fn changed_hosts(&self) -> Vec<String> {
        let host = |resource: &Resource| match resource {
            Resource::Host(name) => Some(name.clone()),
            Resource::Membership(_) => None,
        };
        self.changes.iter().filter_map(host).collect()
    }
}

/// The operation that holds something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its id.
    pub operation: String,
    /// Its kind.
    pub kind: String,
    /// Who started it.
    pub started_by: String,
}

/// What was wanted is held by another operation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{resource} is in use by operation {} ({}, started by {})",
    holder.operation, holder.kind, holder.started_by
)]
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
    operation: String,
}

impl Locks {
    /// Tells whether all of it could be had now, without taking it.
    ///
    /// # Errors
    /// Names the first holder that stands in the way.
    pub fn check(&self, wanted: &Wanted) -> Result<(), Busy> {
        find_conflict(&self.lock(), wanted)
    }

    /// Takes all of it, or nothing.
    ///
    /// # Errors
    /// Names the first holder that stands in the way.
    pub fn take(&self, wanted: &Wanted, holder: &Holder) -> Result<Guard, Busy> {
        let mut held = self.lock();
        find_conflict(&held, wanted)?;
        for resource in &wanted.changes {
            held.insert(resource.clone(), Held::Alone(holder.clone()));
        }
        for resource in &wanted.consults {
            match held
                .entry(resource.clone())
                .or_insert_with(|| Held::Shared(Vec::new()))
            {
                Held::Shared(holders) => holders.push(holder.clone()),
                // What is changed by the same operation is consulted by it anyway.
                Held::Alone(_) => {}
            }
        }
        Ok(Guard {
            locks: self.clone(),
            wanted: wanted.clone(),
            operation: holder.operation.clone(),
        })
    }

    /// The operation that changes a host right now.
    pub fn changer_of(&self, host: &str) -> Option<String> {
        match self.lock().get(&Resource::Host(host.to_owned())) {
            Some(Held::Alone(holder)) => Some(holder.operation.clone()),
            _ => None,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Resource, Held>> {
        self.held.lock().expect("no holder panics")
    }
}

fn find_conflict(held: &BTreeMap<Resource, Held>, wanted: &Wanted) -> Result<(), Busy> {
    let busy = |resource: &Resource, holder: &Holder| Busy {
        resource: resource.clone(),
        holder: holder.clone(),
    };
    for resource in &wanted.changes {
        match held.get(resource) {
            Some(Held::Alone(holder)) => return Err(busy(resource, holder)),
            Some(Held::Shared(holders)) => {
                if let Some(holder) = holders.first() {
                    return Err(busy(resource, holder));
                }
            }
            None => {}
        }
    }
    for resource in &wanted.consults {
        if let Some(Held::Alone(holder)) = held.get(resource) {
            return Err(busy(resource, holder));
        }
    }
    Ok(())
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut held = self.locks.lock();
        for resource in self.wanted.changes.iter().chain(&self.wanted.consults) {
            let empty = match held.get_mut(resource) {
                Some(Held::Alone(_)) => true,
                Some(Held::Shared(holders)) => {
                    holders.retain(|holder| holder.operation != self.operation);
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
            operation: operation.to_owned(),
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
            .check(&changes(&[host("cp1")]))
            .expect_err("still consulted");
        assert_eq!(busy.holder.operation, "two");
        drop(second);
        locks.check(&changes(&[host("cp1")])).expect("free");
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
            .check(&changes(&[host("cp1")]))
            .expect("given back whole");
    }
}
