//! The users that may log in, kept in memory: handshakes and the gate ask on every call and must not wait for the disk.
//!
//! It is read from the store at start and after every change; the database is used by this process alone.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use canasta_proto::name::UserName;
use canasta_transport::roles::Role;
use jiff::Timestamp;
use tokio::sync::Mutex;

use crate::store::{Error, Holder, Store};

#[derive(Debug)]
struct Entry {
    role: Role,
    /// The serials of the certificates that count, and whether their holder was seen with them.
    serials: HashMap<String, bool>,
}

/// The users that may log in. Cheap to clone; all clones are the same.
#[derive(Clone, Default)]
pub struct Directory {
    users: Arc<RwLock<HashMap<UserName, Entry>>>,
    /// Held from reading the database to changing what is in memory, so that an older reading never comes last.
    change: Arc<Mutex<()>>,
}

impl Directory {
    /// Reads all users.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn load(store: &Store) -> Result<Self, Error> {
        let directory = Self::default();
        for user in store.users().await? {
            directory.refresh(store, &user.name).await?;
        }
        Ok(directory)
    }

    /// Reads one user again after a change.
    ///
    /// # Errors
    /// When the database can't be read; what was known before stays.
    pub async fn refresh(&self, store: &Store, name: &UserName) -> Result<(), Error> {
        let _alone = self.change.lock().await;
        let Some(user) = store.user(name).await? else {
            self.write().remove(name);
            return Ok(());
        };
        let serials = store
            .certificates(Holder::User(name.as_str()))
            .await?
            .into_iter()
            .map(|row| (row.serial, row.used))
            .collect();
        let entry = Entry {
            role: user.role,
            serials,
        };
        self.write().insert(name.clone(), entry);
        Ok(())
    }

    /// Removes a user from the database and locks it out. False when there is no such user.
    ///
    /// # Errors
    /// When the database can't be written; the user stays.
    pub async fn remove(
        &self,
        store: &Store,
        name: &UserName,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let _alone = self.change.lock().await;
        let known = store.remove_user(name, now).await?;
        self.write().remove(name);
        Ok(known)
    }

    /// What a user may do with a certificate; none when either is not known or revoked.
    pub fn role(&self, name: &UserName, serial: &str) -> Option<Role> {
        let users = self.users.read().unwrap_or_else(PoisonError::into_inner);
        let entry = users.get(name)?;
        entry.serials.contains_key(serial).then_some(entry.role)
    }

    /// Notes that a user was seen with a certificate. True the first time.
    pub fn first_use(&self, name: &UserName, serial: &str) -> bool {
        let seen = {
            let users = self.users.read().unwrap_or_else(PoisonError::into_inner);
            users
                .get(name)
                .and_then(|entry| entry.serials.get(serial).copied())
        };
        if seen != Some(false) {
            return false;
        }
        let mut users = self.write();
        let used = users
            .get_mut(name)
            .and_then(|entry| entry.serials.get_mut(serial));
        used.is_some_and(|used| !std::mem::replace(used, true))
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<UserName, Entry>> {
        self.users.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Directory {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let users = self.users.read().unwrap_or_else(PoisonError::into_inner);
        write!(formatter, "Directory({} users)", users.len())
    }
}
