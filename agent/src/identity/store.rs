//! The files of the identity. Each certificate has a directory of its own with key, leaf and CA; the file `current`
//! names the one in use and is exchanged in one rename, so that key and certificate always belong together.

use std::fs;
use std::path::{Path, PathBuf};

use canasta_transport::keys::PrivateKey;
use canasta_transport::material::Material;

use super::IdentityError;

const CURRENT: &str = "current";
const KEY: &str = "key.pem";
const LEAF: &str = "leaf.der";
const CA: &str = "ca.der";
/// The key between a request for renewal and its certificate.
const NEXT_KEY: &str = "next-key.pem";
/// The key between the beginning of a join and its certificate.
const JOIN_KEY: &str = "join-key.pem";

/// The directory of the identity. All calls block.
#[derive(Debug)]
pub(super) struct Store {
    directory: PathBuf,
}

impl Store {
    pub(super) fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_path_buf(),
        }
    }

    /// The certificate in use; where its files are damaged, the newest other one that is whole.
    pub(super) fn load(&self) -> Result<Option<Material>, IdentityError> {
        canasta_durable::sweep(&self.directory)?;
        let current = self.current()?;
        let mut found = self.numbers()?;
        // The one that is named first, then from the newest down.
        found.sort_unstable_by_key(|number| (Some(*number) != current, std::cmp::Reverse(*number)));
        if current.is_none() && found.is_empty() {
            return Ok(None);
        }
        let mut first_error = None;
        for number in found {
            match self.load_one(number) {
                // Without `current` a first certificate was cut off before anyone heard of it, or the file is lost.
                Ok(material) => return Ok(Some(material)),
                Err(error) => {
                    first_error.get_or_insert(error);
                }
            }
        }
        first_error.map_or(Ok(None), Err)
    }

    /// Stores a certificate with its key under a new number and makes it the current one. The keys of requests are
    /// spent with that.
    pub(super) fn write(&self, material: &Material, key: &PrivateKey) -> Result<(), IdentityError> {
        let number = self.numbers()?.into_iter().max().unwrap_or(0) + 1;
        let directory = self.numbered(number);
        canasta_durable::create_dir_all(&directory, 0o700)?;
        self.write_key(&directory.join(KEY), key)?;
        canasta_durable::write(&directory.join(LEAF), material.leaf(), 0o600)?;
        canasta_durable::write(&directory.join(CA), material.ca(), 0o600)?;
        canasta_durable::write(
            &self.directory.join(CURRENT),
            format!("{number}\n").as_bytes(),
            0o600,
        )?;
        canasta_durable::remove(&self.directory.join(NEXT_KEY))?;
        canasta_durable::remove(&self.directory.join(JOIN_KEY))?;
        Ok(())
    }

    /// Removes the certificates that are not the current one.
    pub(super) fn drop_old(&self) -> Result<(), IdentityError> {
        let Some(current) = self.current()? else {
            return Ok(());
        };
        for number in self.numbers()? {
            if number != current {
                let directory = self.numbered(number);
                fs::remove_dir_all(&directory)
                    .map_err(|source| canasta_durable::Error::new("remove", &directory, source))?;
                canasta_durable::sync_parent(&directory)?;
            }
        }
        Ok(())
    }

    pub(super) fn next_key(&self) -> Result<Option<PrivateKey>, IdentityError> {
        read_key(&self.directory.join(NEXT_KEY))
    }

    pub(super) fn write_next_key(&self, key: &PrivateKey) -> Result<(), IdentityError> {
        self.write_key(&self.directory.join(NEXT_KEY), key)
    }

    /// The key of a join that was begun. One that is damaged counts as none.
    pub(super) fn join_key(&self) -> Result<Option<PrivateKey>, IdentityError> {
        match read_key(&self.directory.join(JOIN_KEY)) {
            Err(IdentityError::DamagedKey { .. }) => Ok(None),
            found => found,
        }
    }

    pub(super) fn write_join_key(&self, key: &PrivateKey) -> Result<(), IdentityError> {
        self.write_key(&self.directory.join(JOIN_KEY), key)
    }

    fn write_key(&self, path: &Path, key: &PrivateKey) -> Result<(), IdentityError> {
        canasta_durable::create_dir_all(&self.directory, 0o700)?;
        let pem = key.reveal_pem().map_err(IdentityError::Key)?;
        Ok(canasta_durable::write(path, pem.as_bytes(), 0o600)?)
    }

    fn load_one(&self, number: u64) -> Result<Material, IdentityError> {
        let directory = self.numbered(number);
        let read = |name: &str| {
            let path = directory.join(name);
            canasta_durable::read_optional(&path)?.ok_or(IdentityError::Missing { path })
        };
        let (leaf, ca) = (read(LEAF)?, read(CA)?);
        let key_path = directory.join(KEY);
        let key = parse_key(&key_path, read(KEY)?)?;
        Material::new(&leaf, &key, &ca).map_err(|source| IdentityError::Damaged {
            path: directory,
            source: Box::new(source),
        })
    }

    fn current(&self) -> Result<Option<u64>, IdentityError> {
        let text = canasta_durable::read_optional(&self.directory.join(CURRENT))?;
        Ok(text.and_then(|text| String::from_utf8(text).ok()?.trim().parse().ok()))
    }

    fn numbers(&self) -> Result<Vec<u64>, IdentityError> {
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => {
                return Err(canasta_durable::Error::new("list", &self.directory, source).into());
            }
        };
        Ok(entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect())
    }

    fn numbered(&self, number: u64) -> PathBuf {
        self.directory.join(number.to_string())
    }
}

fn read_key(path: &Path) -> Result<Option<PrivateKey>, IdentityError> {
    canasta_durable::read_optional(path)?
        .map(|bytes| parse_key(path, bytes))
        .transpose()
}

fn parse_key(path: &Path, bytes: Vec<u8>) -> Result<PrivateKey, IdentityError> {
    let damaged = |source| IdentityError::DamagedKey {
        path: path.to_path_buf(),
        source,
    };
    let pem =
        String::from_utf8(bytes).map_err(|_| damaged(canasta_transport::keys::KeyError::Read))?;
    PrivateKey::from_pem(&pem).map_err(damaged)
}

#[cfg(test)]
mod tests {
    use canasta_transport::authority::{Authority, IssueRequest};
    use jiff::Timestamp;

    use super::*;

    fn certificate(authority: &Authority, key: &PrivateKey) -> Material {
        let identity = authority.fleet().agent("cp1".parse().expect("name"));
        let public = key.public().expect("public key");
        let leaf = authority
            .issue(&IssueRequest::usual(&public, identity, Timestamp::now()))
            .expect("leaf");
        Material::new(&leaf, key, authority.certificate()).expect("material")
    }

    /// A store with two certificates, and the serials of both.
    fn two(directory: &Path) -> (Store, [String; 2]) {
        let authority = Authority::create(Timestamp::now()).expect("authority");
        let store = Store::new(directory);
        let serials = [(); 2].map(|()| {
            let key = PrivateKey::generate().expect("key");
            let material = certificate(&authority, &key);
            store.write(&material, &key).expect("write");
            material.facts().serial.clone()
        });
        (store, serials)
    }

    fn loaded(store: &Store) -> String {
        let material = store.load().expect("load").expect("some");
        material.facts().serial.clone()
    }

    #[test]
    fn nothing_is_stored_before_the_first_join() {
        let directory = tempfile::tempdir().expect("directory");
        let store = Store::new(&directory.path().join("identity"));
        assert!(store.load().expect("load").is_none());
        assert!(store.join_key().expect("no key").is_none());
    }

    #[test]
    fn the_current_certificate_is_loaded_and_the_one_before_it_where_it_is_damaged() {
        let directory = tempfile::tempdir().expect("directory");
        let (store, [first, second]) = two(directory.path());
        assert_eq!(loaded(&store), second);
        fs::write(directory.path().join("2/leaf.der"), b"x").expect("write");
        assert_eq!(loaded(&store), first);
        fs::remove_file(directory.path().join("1/key.pem")).expect("remove");
        assert!(matches!(store.load(), Err(IdentityError::Damaged { .. })));
    }

    #[test]
    fn old_certificates_go_and_numbers_are_not_used_again() {
        let directory = tempfile::tempdir().expect("directory");
        let (store, [_, second]) = two(directory.path());
        store.drop_old().expect("drop");
        assert!(!directory.path().join("1").exists());
        assert_eq!(loaded(&store), second);
        assert_eq!(store.numbers().expect("numbers"), [2]);
    }

    #[test]
    fn a_certificate_that_was_cut_off_before_it_was_current_does_not_count() {
        let directory = tempfile::tempdir().expect("directory");
        let (store, [first, _]) = two(directory.path());
        fs::write(directory.path().join(CURRENT), b"1\n").expect("write");
        assert_eq!(loaded(&store), first);
    }
}
