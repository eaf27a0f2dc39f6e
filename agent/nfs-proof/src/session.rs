//! One mount, from opening to leaving, with a limit for every call: the client has none for a whole call.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use canasta_host::hex;
use canasta_host::nfs::{Failure, Proof, Reason};
use nfs_rs::{Mount, Nfs4ErrorCode as Status, NfsError, OPEN_READ};

use crate::failure;
use crate::{CALL, LEAVE, MOUNT, OWNER};

/// Owner and group alone may read a probe file.
const MODE: u32 = 0o600;
/// More than any probe file has.
const MOST: u32 = 4096;

/// The addresses of IPv6 that this machine has.
const ADDRESSES_6: &str = "/proc/net/if_inet6";

/// An open share.
pub(crate) struct Session(Box<dyn Mount>);

impl Session {
    /// Opens a share as root.
    pub(crate) async fn open(address: IpAddr, port: u16, path: &str) -> Result<Self, Failure> {
        let host = match address {
            IpAddr::V4(four) => four.to_string(),
            IpAddr::V6(six) => format!("[{six}]"),
        };
        // One version alone: of several the client tells only that none of them worked.
        let url = format!("nfs://{host}{path}?version=4.1&uid=0&gid=0&nfsport={port}");
        let opened = limited(failure::OPENING, MOUNT, nfs_rs::parse_url_and_mount(&url));
        match opened.await {
            Ok(mount) => Ok(Self(mount)),
            Err(failure) => Err(of_family(failure, address)),
        }
    }

    /// Writes the file, changes its owner, and reads both back; answers with the file's handle.
    pub(crate) async fn write(&self, proof: &Proof) -> Result<String, Failure> {
        let mount = &self.0;
        let name = proof.file();
        // What an attempt that was cut short may have left would be in the way.
        self.remove(proof).await?;
        let root = mount.getfh().await;
        let file = limited(
            "creating a file",
            CALL,
            mount.create(root, &name, Some(MODE)),
        )
        .await?;
        let content = Bytes::from(proof.content());
        let handle = || file.fh.clone();
        let written = limited("writing", CALL, mount.write(handle(), 0, content)).await?;
        let commit = mount.commit(handle(), 0, written.count);
        limited("writing to the disk", CALL, commit).await?;
        limited("closing the file", CALL, mount.close(handle())).await?;
        let (uid, gid) = (Some(OWNER.0), Some(OWNER.1));
        let chown = mount.setattr(handle(), None, None, uid, gid, None, None, None);
        limited("changing the owner", CALL, chown).await?;
        self.read(proof).await
    }

    /// Compares owner and content; answers with the file's handle.
    pub(crate) async fn read(&self, proof: &Proof) -> Result<String, Failure> {
        let mount = &self.0;
        let name = proof.file();
        let root = mount.getfh().await;
        let looked = limited(
            "looking for the file",
            CALL,
            mount.lookup(root.clone(), &name),
        )
        .await;
        let found = looked.map_err(|failure| match failure.reason {
            Reason::NotAClientOrNoShare => Failure {
                reason: Reason::ProbeMissing,
                ..failure
            },
            _ => failure,
        })?;
        let attributes = mount.getattr(found.fh.clone());
        let attributes = limited("reading the owner", CALL, attributes).await?;
        // A server that takes everybody for nobody says yes to a change of owner and sets another one.
        if (attributes.uid, attributes.gid) != OWNER {
            let text = format!(
                "the file was given to {}:{} and belongs to {}:{}",
                OWNER.0, OWNER.1, attributes.uid, attributes.gid
            );
            let failure = Failure::new("reading the owner", Reason::OwnerChanged, text);
            return Err(failure);
        }
        let open = limited("opening the file", CALL, mount.open(root, &name, OPEN_READ)).await?;
        let bytes = limited("reading", CALL, mount.read(open.fh.clone(), 0, MOST)).await?;
        limited("closing the file", CALL, mount.close(open.fh)).await?;
        if bytes[..] != *proof.content().as_bytes() {
            let text = format!(
                "{} bytes are there, and not those that were written",
                bytes.len()
            );
            return Err(Failure::new("reading", Reason::ProbeDiffers, text));
        }
        Ok(hex(&found.fh))
    }

    /// Removes the file, if it is there.
    pub(crate) async fn remove(&self, proof: &Proof) -> Result<(), Failure> {
        let mount = &self.0;
        let root = mount.getfh().await;
        let removal = async {
            match mount.remove(root, &proof.file()).await {
                Err(NfsError::Nfs4(Status::NFS4ERR_NOENT)) => Ok(()),
                ended => ended.map(drop),
            }
        };
        limited("removing the file", CALL, removal).await
    }

    /// Ends the session, so that the server forgets this client.
    pub(crate) async fn leave(self) -> Result<(), Failure> {
        limited("closing the share", LEAVE, self.0.umount()).await
    }
}

/// A server that can't be reached since this node has no address of its family at all.
fn of_family(failure: Failure, address: IpAddr) -> Failure {
    let lacks = address.is_ipv6()
        && std::fs::read_to_string(ADDRESSES_6).is_ok_and(|text| !has_global(&text));
    match failure.reason {
        Reason::Unreachable if lacks => Failure {
            reason: Reason::WrongFamily,
            ..failure
        },
        _ => failure,
    }
}

/// Whether an interface has an address of IPv6 that reaches further than its link: `address index length scope flags name`.
fn has_global(addresses: &str) -> bool {
    let scopes = addresses
        .lines()
        .filter_map(|line| line.split_whitespace().nth(3));
    scopes.into_iter().any(|scope| scope == "00")
}

/// Waits for a call, at most `limit`.
async fn limited<T>(
    doing: &str,
    limit: Duration,
    call: impl Future<Output = nfs_rs::Result<T>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(failure::of(doing, &error)),
        Err(_) => Err(Failure::new(
            doing,
            Reason::ServerHangs,
            format!("no answer within {} s", limit.as_secs()),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::has_global;

    #[test]
    fn an_address_of_the_link_alone_reaches_no_server() {
        let lo = "00000000000000000000000000000001 01 80 10 80 lo\n";
        let link = "fe800000000000000000000000000001 02 40 20 80 eth0\n";
        let global = "20010db8000000000000000000000005 02 40 00 80 eth0\n";
        assert!(!has_global("") && !has_global(&format!("{lo}{link}")));
        assert!(has_global(&format!("{lo}{link}{global}")));
    }
}
