//! Who this node is: its key and certificate, kept on disk and exchanged while connections are open.
//!
//! [`crate::join`] stores the first one, [`crate::api`] the renewals that the controller drives. A new certificate is
//! used for new connections at once; the files of the one before it go when the new one has been used once.

mod store;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use canasta_transport::keys::{KeyError, PrivateKey};
use canasta_transport::material::{Material, MaterialError, Reloadable};
use canasta_transport::spiffe::Kind;
use jiff::Timestamp;

use store::Store;

use crate::agent::Life;

/// The identity can't be loaded, stored or exchanged.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file can't be read or written.
    #[error(transparent)]
    File(#[from] canasta_durable::Error),
    /// The stored files are damaged.
    #[error("failed to use the identity in {}", path.display())]
    Damaged {
        /// The directory that holds the files.
        path: PathBuf,
        /// What is wrong with them.
        #[source]
        source: Box<MaterialError>,
    },
    /// A file of the stored identity is not there.
    #[error("failed to use the identity: {} is missing", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A stored private key is damaged.
    #[error("failed to use the private key {}", path.display())]
    DamagedKey {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: KeyError,
    },
    /// A key can't be made.
    #[error("failed to make a key for this node")]
    Key(#[source] KeyError),
    /// The node has no identity yet.
    #[error("failed to renew the certificate: this node has not joined a fleet")]
    NotJoined,
    /// A certificate came without a request before it.
    #[error("failed to take the certificate: no request for one was made before")]
    NoRequest,
    /// A certificate does not fit what was asked.
    #[error("failed to take the certificate")]
    Unfit(#[source] Box<MaterialError>),
    /// A certificate names someone else.
    #[error("failed to take the certificate: it is for {presented}, and this node is {expected}")]
    OtherIdentity {
        /// Who this node is, or what it should become.
        expected: String,
        /// Who the certificate names.
        presented: String,
    },
    /// A renewal comes with another CA.
    #[error(
        "failed to take the certificate: it is from another CA than the one that this node trusts"
    )]
    OtherCa,
    /// A certificate is over already.
    #[error(
        "failed to take the certificate: it ended at {not_after}, and the clock here says {now}"
    )]
    Expired {
        /// When it ended.
        not_after: Timestamp,
        /// The node's clock.
        now: Timestamp,
    },
    /// The thread that did the work ended early: the program is shutting down.
    #[error("failed to finish the work on the identity: the agent is shutting down")]
    Interrupted,
}

/// The node's identity. All clones are the same.
#[derive(Debug, Clone)]
pub struct Identity {
    store: Arc<Store>,
    life: Life,
    current: Arc<Mutex<Option<Reloadable>>>,
    /// Held while something is exchanged.
    change: Arc<tokio::sync::Mutex<()>>,
}

impl Identity {
    /// Loads what is stored in this directory. Damaged files are logged and kept, and the node counts as not joined:
    /// joining again mends it.
    ///
    /// # Errors
    /// When the directory can't be read; that may be over at the next try.
    pub async fn load(directory: &Path, life: Life) -> Result<Self, IdentityError> {
        let store = Arc::new(Store::new(directory));
        let loaded = {
            let store = Arc::clone(&store);
            blocking(move || store.load()).await?
        };
        let identity = Self {
            store,
            life,
            current: Arc::default(),
            change: Arc::default(),
        };
        match loaded {
            Ok(None) => {}
            Ok(Some(material)) => identity.put(material),
            Err(error @ IdentityError::File(_)) => return Err(error),
            Err(error) => tracing::error!(
                error = &error as &dyn std::error::Error,
                "the identity can't be used; join this node again with a new token from `canasta host token`"
            ),
        }
        Ok(identity)
    }

    /// What handshakes take; `None` before the first join.
    pub fn reloadable(&self) -> Option<Reloadable> {
        self.current.lock().expect("no holder panics").clone()
    }

    /// The current certificate with its facts; `None` before the first join.
    pub fn material(&self) -> Option<Arc<Material>> {
        self.reloadable().map(|reloadable| reloadable.current())
    }

    /// Makes a new key, stores it, and answers with a request (PKCS#10, DER) for it. A request before it is forgotten.
    ///
    /// # Errors
    /// When the node has not joined, or the key can't be made or stored.
    pub async fn create_csr(&self) -> Result<Vec<u8>, IdentityError> {
        let identity = self.clone();
        self.whole(async move { identity.make_csr().await }).await
    }

    async fn make_csr(&self) -> Result<Vec<u8>, IdentityError> {
        let _change = self.change.lock().await;
        if self.reloadable().is_none() {
            return Err(IdentityError::NotJoined);
        }
        let store = Arc::clone(&self.store);
        blocking(move || {
            let key = PrivateKey::generate().map_err(IdentityError::Key)?;
            store.write_next_key(&key)?;
            key.csr().map_err(IdentityError::Key)
        })
        .await?
    }

    /// Takes the certificate for the key of the last request. One that is in use already is accepted again.
    ///
    /// # Errors
    /// When it does not fit the request, this node or its CA, or can't be stored.
    pub async fn install(
        &self,
        leaf: Vec<u8>,
        ca: Vec<u8>,
        now: SystemTime,
    ) -> Result<(), IdentityError> {
        let identity = self.clone();
        self.whole(async move { identity.exchange(leaf, ca, now).await })
            .await
    }

    /// Brings what was begun to its end, also when the call is dropped: what is on disk and what is served stay the same.
    async fn whole<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, IdentityError>> + Send + 'static,
    ) -> Result<T, IdentityError> {
        let done = self.life.finish(work).await;
        done.unwrap_or(Err(IdentityError::Interrupted))
    }

    async fn exchange(
        &self,
        leaf: Vec<u8>,
        ca: Vec<u8>,
        now: SystemTime,
    ) -> Result<(), IdentityError> {
        let _change = self.change.lock().await;
        let current = self.material().ok_or(IdentityError::NotJoined)?;
        if current.leaf().as_ref() == leaf {
            return Ok(());
        }
        let store = Arc::clone(&self.store);
        let material = blocking(move || {
            let key = store.next_key()?.ok_or(IdentityError::NoRequest)?;
            let material = Material::new(&leaf, &key, &ca).map_err(unfit)?;
            if material.identity() != current.identity() {
                return Err(IdentityError::OtherIdentity {
                    expected: current.identity().to_string(),
                    presented: material.identity().to_string(),
                });
            }
            if material.ca() != current.ca() {
                return Err(IdentityError::OtherCa);
            }
            not_over(&material, now)?;
            store.write(&material, &key)?;
            Ok(material)
        })
        .await??;
        tracing::info!(expires_at = %material.facts().not_after, "took a new certificate");
        self.put(material);
        Ok(())
    }

    /// The key to join with: the one of an earlier try that was cut off, so that the controller knows the repeat, or a
    /// new one. It is on disk before this returns.
    pub async fn join_key(&self) -> Result<PrivateKey, IdentityError> {
        let _change = self.change.lock().await;
        let store = Arc::clone(&self.store);
        blocking(move || {
            if let Some(key) = store.join_key()? {
                return Ok(key);
            }
            let key = PrivateKey::generate().map_err(IdentityError::Key)?;
            store.write_join_key(&key)?;
            Ok(key)
        })
        .await?
    }

    /// Checks and stores the certificate of a join and uses it for new connections.
    ///
    /// # Errors
    /// When it is not an agent's certificate for this key by this CA, or can't be stored.
    pub async fn take_join(
        &self,
        leaf: Vec<u8>,
        ca: Vec<u8>,
        key: PrivateKey,
        now: SystemTime,
    ) -> Result<Arc<Material>, IdentityError> {
        let _change = self.change.lock().await;
        let store = Arc::clone(&self.store);
        let material = blocking(move || {
            let material = Material::new(&leaf, &key, &ca).map_err(unfit)?;
            if !matches!(material.identity().kind, Kind::Agent(_)) {
                return Err(IdentityError::OtherIdentity {
                    expected: "to become an agent".to_owned(),
                    presented: material.identity().to_string(),
                });
            }
            not_over(&material, now)?;
            store.write(&material, &key)?;
            Ok(material)
        })
        .await??;
        self.put(material);
        Ok(self.material().expect("just put"))
    }

    /// Uses the material from now on and drops older files when it has been used once.
    fn put(&self, material: Material) {
        let first_use = {
            let mut current = self.current.lock().expect("no holder panics");
            match current.as_ref() {
                Some(reloadable) => reloadable.replace(material),
                None => current.insert(Reloadable::new(material)).first_use(),
            }
        };
        let store = Arc::clone(&self.store);
        let change = Arc::clone(&self.change);
        self.life.spawn(async move {
            if !first_use.wait().await {
                return;
            }
            let _change = change.lock().await;
            match blocking(move || store.drop_old()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) | Err(error) => tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the files of the certificate before this one stay"
                ),
            }
        });
    }
}

fn unfit(source: MaterialError) -> IdentityError {
    IdentityError::Unfit(Box::new(source))
}

fn not_over(material: &Material, now: SystemTime) -> Result<(), IdentityError> {
    let now = Timestamp::try_from(now).unwrap_or(Timestamp::UNIX_EPOCH);
    let not_after = material.facts().not_after;
    if now >= not_after {
        return Err(IdentityError::Expired { not_after, now });
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, IdentityError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| IdentityError::Interrupted)
}
