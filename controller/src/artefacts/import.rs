//! Taking an artefact from a caller: for controllers that have no way to a release server.

use bytes::Bytes;
use canasta_proto::artefact::MAX_SIZE;
use canasta_proto::package;
use canasta_proto::pb;
use canasta_proto::version::K3sVersion;
use futures_util::{Stream, StreamExt as _};

use super::file::{self, Writer};
use super::source::Architecture;
use super::{Artefact, Artefacts, Error, IMPORTED, K3S, Key, key};

/// The largest part of a file.
pub(crate) const CHUNK: usize = 256 * 1024;
/// How much of a program tells its architecture.
const HEAD: usize = 20;
/// What a package of the agent is called in a header; which it is, its own content tells.
const AGENT: &str = "agent";

/// The caller went away.
#[derive(Debug)]
pub(crate) struct Cut;

/// What a caller says that it sends.
enum What {
    /// A release of k3s.
    K3s(K3sVersion),
    /// A package of the agent.
    Agent,
}

/// A header that is sound.
struct Header {
    what: What,
    sha256: String,
    size: u64,
    arch: Option<&'static Architecture>,
}

impl Header {
    fn check(header: &pb::ImportHeader) -> Result<Self, Error> {
        let refused = |rule: String| Err(Error::Import(rule));
        let what = match (header.name.as_str(), header.version.as_str()) {
            (AGENT, "") => What::Agent,
            (AGENT, _) => {
                return refused("a package of the agent tells its own version".to_owned());
            }
            (K3S, version) => match version.parse() {
                Ok(version) => What::K3s(version),
                Err(_) => return refused("a k3s version looks like v1.34.8+k3s1".to_owned()),
            },
            _ => return refused(format!("only '{K3S}' and '{AGENT}' can be imported")),
        };
        let whole = |byte: u8| byte.is_ascii_hexdigit();
        if header.sha256.len() != 64 || !header.sha256.bytes().all(whole) {
            return refused("a SHA-256 has 64 hexadecimal digits".to_owned());
        }
        if header.size == 0 || header.size > MAX_SIZE {
            return refused(format!(
                "a file has 1 to {MAX_SIZE} bytes, this one has {}",
                header.size
            ));
        }
        let arch = match header.arch.as_str() {
            "" => None,
            arch => match Architecture::find(arch) {
                Ok(arch) => Some(arch),
                Err(_unknown) => {
                    return refused("an architecture is amd64, arm64, arm or s390x".to_owned());
                }
            },
        };
        Ok(Self {
            what,
            sha256: header.sha256.to_ascii_lowercase(),
            size: header.size,
            arch,
        })
    }

    /// How much of the file tells what it is.
    fn head(&self) -> usize {
        match self.what {
            What::K3s(_) => HEAD,
            What::Agent => package::HEAD,
        }
    }

    /// What the file is by its own content, compared with what was announced.
    fn key(&self, head: &[u8]) -> Result<Key, Error> {
        let (key, found, kind) = match &self.what {
            What::K3s(version) => {
                let found = Architecture::of_program(head).ok_or_else(|| {
                    Error::Import("it is no program for Linux on a known architecture".to_owned())
                })?;
                (key(version, found), found, "a program")
            }
            What::Agent => {
                let package = package::read(head).map_err(Error::Import)?;
                let name = package.format.artefact().to_owned();
                let found = Architecture::find(package.arch)?;
                let key = (name, package.version, found.name.to_owned());
                (key, found, "a package")
            }
        };
        match self.arch.filter(|arch| *arch != found) {
            None => Ok(key),
            Some(arch) => Err(Error::Import(format!(
                "it is {kind} for {}, and {} was announced",
                found.name, arch.name
            ))),
        }
    }
}

impl Artefacts {
    /// Stores what a caller sends. `by` is who that is: `user alice`.
    ///
    /// # Errors
    /// When the file is not what its header says, or another file is stored under this version.
    pub(crate) async fn import(
        &self,
        header: &pb::ImportHeader,
        chunks: impl Stream<Item = Result<Bytes, Cut>> + Send,
        by: &str,
    ) -> Result<Artefact, Error> {
        let header = Header::check(header)?;
        let inner = &self.inner;
        file::check_space(&inner.directory, header.size, inner.limits.reserve)?;
        let name = format!("import-{}", uuid::Uuid::now_v7());
        let path = self.inner.partials().join(name);
        let result = self.take(&header, chunks, by, &path).await;
        // Gone already when it was stored.
        file::blocking(&path, |path| canasta_durable::remove(path).map(drop)).await?;
        result
    }

    async fn take(
        &self,
        header: &Header,
        chunks: impl Stream<Item = Result<Bytes, Cut>> + Send,
        by: &str,
        path: &std::path::Path,
    ) -> Result<Artefact, Error> {
        let mut chunks = std::pin::pin!(chunks);
        let mut writer = Writer::open(path, 0);
        let mut head = Vec::new();
        let mut size = 0;
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|Cut| Error::ImportCut)?;
            size += chunk.len() as u64;
            if chunk.len() > CHUNK || size > header.size {
                let rule = "more came than the header announced, or in parts above 256 KiB";
                return Err(Error::Import(rule.to_owned()));
            }
            head.extend_from_slice(&chunk[..chunk.len().min(header.head() - head.len())]);
            writer.write(chunk).await?;
        }
        let written = writer.finish().await?;
        if written.size < header.size {
            return Err(Error::ImportCut);
        }
        if written.sha256 != header.sha256 {
            return Err(Error::Import(format!(
                "its SHA-256 is {}, and {} was announced",
                written.sha256, header.sha256
            )));
        }
        let key = header.key(&head)?;
        let lock = self.inner.lock_of(&key);
        let _alone = lock.lock().await;
        if let Some(stored) = self.inner.kept(&key).await? {
            if stored.sha256() == written.sha256 {
                return Ok(stored);
            }
            return Err(Error::Differs {
                name: key.0,
                version: key.1,
                arch: key.2,
                stored: stored.row.sha256,
            });
        }
        let target = self.inner.directory.join(&written.sha256);
        let publish = {
            let target = target.clone();
            move |path: &std::path::Path| file::publish(path, &target)
        };
        file::blocking(path, publish).await?;
        self.inner
            .record(&key, &written, format!("{IMPORTED}{by}"), target)
            .await
    }
}
