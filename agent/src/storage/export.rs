//! One export, whatever server does it.

use canasta_proto::share::{ClientRange, SharePath};
use sha2::{Digest as _, Sha256};

use super::server::Backend;

/// A directory and who may mount it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Export {
    /// The directory, and its path for clients.
    pub(crate) share: SharePath,
    /// Who may mount it, sorted and each once.
    pub(crate) clients: Vec<ClientRange>,
}

impl Export {
    /// An export of this directory to these clients.
    pub(crate) fn new(share: SharePath, clients: impl IntoIterator<Item = ClientRange>) -> Self {
        let mut clients: Vec<_> = clients.into_iter().collect();
        clients.sort_unstable();
        clients.dedup();
        Self { share, clients }
    }

    /// Who may mount it, as text.
    pub(crate) fn clients(&self) -> Vec<String> {
        self.clients.iter().map(ToString::to_string).collect()
    }

    /// What names the file system to clients, whatever disk it is on: file handles hold it, so it must be the same after a
    /// reboot and when the export is made anew. It follows from the path.
    pub(crate) fn file_system(&self) -> [u8; 16] {
        let digest = Sha256::digest(format!("canasta export {}", self.share));
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        id
    }
}

/// An export with the number that nfs-ganesha knows it by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Numbered {
    /// The export.
    pub(crate) export: Export,
    /// Its number.
    pub(crate) number: u16,
}

/// An export that somebody else configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Foreign {
    /// The directory.
    pub(crate) path: String,
    /// The file that says so, or the server that does it.
    pub(crate) source: String,
    /// Whether a running server says so, and no file.
    pub(crate) running: bool,
    /// Whose export it is.
    pub(crate) backend: Backend,
}

/// A path without what does not change it, so that it can be compared.
pub(super) fn normal(path: &str) -> String {
    let parts: Vec<_> = path
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::Export;

    #[test]
    fn the_same_share_has_the_same_file_system_and_another_has_another() {
        let export = |path: &str, client: &str| {
            Export::new(
                path.parse().expect("a share"),
                [client.parse().expect("a client")],
            )
        };
        let one = export("/srv/nfs/a", "10.0.0.5");
        assert_eq!(
            one.file_system(),
            export("/srv/nfs/a", "10.0.0.6").file_system()
        );
        assert_ne!(
            one.file_system(),
            export("/srv/nfs/b", "10.0.0.5").file_system()
        );
    }

    #[test]
    fn clients_are_sorted_and_stand_once() {
        let clients = ["10.0.0.6", "10.0.0.5", "10.0.0.6"];
        let export = Export::new(
            "/srv/nfs/a".parse().expect("a share"),
            clients.map(|client| client.parse().expect("a client")),
        );
        assert_eq!(export.clients(), ["10.0.0.5", "10.0.0.6"]);
    }
}
