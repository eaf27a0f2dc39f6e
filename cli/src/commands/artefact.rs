//! `canasta artefact …`

use std::io::Read as _;
use std::path::{Path, PathBuf};

use canasta_proto::pb::artefact_service_client::ArtefactServiceClient;
use canasta_proto::pb::import_artefact_request::Part;
use canasta_proto::pb::{ImportArtefactRequest, ImportHeader, ListArtefactsRequest};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::for_people;
use crate::args::{ArtefactCommand, Global};
use crate::connect::connect;
use crate::contexts::to_hex;
use crate::error::Error;
use crate::output;
use crate::view::people::ArtefactList;
use crate::view::size;

/// Bytes a message; the controller takes no more.
const CHUNK: usize = 256 * 1024;

pub(super) async fn run(global: &Global, command: ArtefactCommand) -> Result<(), Error> {
    if let ArtefactCommand::Import { name, version, .. } = &command {
        check_version(name, version.as_deref())?;
    }
    let mut client = ArtefactServiceClient::new(connect(global).await?);
    match command {
        ArtefactCommand::List => {
            let artefacts = client
                .list_artefacts(ListArtefactsRequest {})
                .await?
                .into_inner()
                .artefacts;
            output::print(
                global.output,
                &ArtefactList::new(artefacts),
                ArtefactList::table,
            )
        }
        ArtefactCommand::Import {
            name,
            file,
            version,
        } => {
            let header = read_header(&file, name, version.unwrap_or_default()).await?;
            let (sender, receiver) = mpsc::channel(4);
            let reader = tokio::task::spawn_blocking(move || send_file(&file, header, &sender));
            let answer = client.import_artefact(ReceiverStream::new(receiver)).await;
            // A file that broke off is the reason of whatever the controller made of it.
            reader
                .await
                .map_err(|source| Error::Runtime(source.into()))??;
            let artefact = answer?.into_inner().artefact.unwrap_or_default();
            if for_people(global) {
                output::note(&format!(
                    "{} {} for {} is stored ({}, SHA-256 {})",
                    artefact.name,
                    artefact.version,
                    artefact.arch,
                    size(artefact.size),
                    artefact.sha256
                ));
                return Ok(());
            }
            output::print(
                global.output,
                &ArtefactList::new(vec![artefact]),
                ArtefactList::table,
            )
        }
    }
}

/// A release of k3s has no version that can be read from the file, and a package of the agent has.
fn check_version(name: &str, version: Option<&str>) -> Result<(), Error> {
    match (name, version) {
        ("agent", Some(_)) => Err(Error::usage(
            "a package of the agent says its own version",
            "leave --version out: `canasta artefact import agent FILE`",
        )),
        ("k3s", None) => Err(Error::usage(
            "the version of k3s was not said",
            "run `canasta artefact import k3s FILE --version V`, for example --version v1.34.8+k3s1",
        )),
        _ => Ok(()),
    }
}

/// Reads the file once for its hash, so that the controller can tell a transfer that went wrong.
async fn read_header(file: &Path, name: String, version: String) -> Result<ImportHeader, Error> {
    let path = file.to_owned();
    let hashed = tokio::task::spawn_blocking(move || -> Result<(String, u64), Error> {
        let failed = |source| Error::File {
            path: path.clone(),
            source,
        };
        let mut file = std::fs::File::open(&path).map_err(failed)?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; CHUNK];
        let mut size = 0;
        loop {
            match file.read(&mut buffer).map_err(failed)? {
                0 => return Ok((to_hex(&hash.finalize()), size)),
                read => {
                    hash.update(&buffer[..read]);
                    size += read as u64;
                }
            }
        }
    });
    let (sha256, size) = hashed
        .await
        .map_err(|source| Error::Runtime(source.into()))??;
    Ok(ImportHeader {
        name,
        version,
        sha256,
        size,
        arch: String::new(),
    })
}

fn send_file(
    file: &Path,
    header: ImportHeader,
    sender: &mpsc::Sender<ImportArtefactRequest>,
) -> Result<(), Error> {
    let failed = |source| Error::File {
        path: PathBuf::from(file),
        source,
    };
    let mut open = std::fs::File::open(file).map_err(failed)?;
    let mut part = Part::Header(header);
    // A controller that refused no longer listens; its answer says why.
    while sender
        .blocking_send(ImportArtefactRequest { part: Some(part) })
        .is_ok()
    {
        let mut buffer = vec![0; CHUNK];
        match open.read(&mut buffer).map_err(failed)? {
            0 => break,
            read => {
                buffer.truncate(read);
                part = Part::Chunk(buffer.into());
            }
        }
    }
    Ok(())
}
