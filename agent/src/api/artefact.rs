//! Receiving a push: the header first, then chunks in order.

use std::sync::Arc;

use canasta_proto::pb;
use canasta_proto::pb::push_artefact_request::Part;
use tonic::Streaming;

use super::check;
use super::error::Error;
use crate::agent::Core;
use crate::artefacts::ArtefactError;

/// Takes a whole push and answers with the bytes on disk.
pub(super) async fn take(
    core: &Arc<Core>,
    mut parts: Streaming<pb::PushArtefactRequest>,
) -> Result<u64, Error> {
    let Some(Part::Header(header)) = next(&mut parts).await? else {
        return Err(check::broken(
            "part",
            "the first message of a push is its header",
        ));
    };
    let (sha256, size) = check::artefact(&header.sha256, header.size)?;
    if header.offset > size {
        return Err(check::broken(
            "header.offset",
            "a push begins within the file",
        ));
    }
    let mut push = core.artefacts.begin(&sha256, size, header.offset).await?;
    loop {
        let part = tokio::select! {
            part = next(&mut parts) => part?,
            () = push.superseded() => return Err(ArtefactError::Superseded.into()),
            () = core.life.stopping.cancelled() => return Err(ArtefactError::Stopping.into()),
        };
        match part {
            Some(Part::Chunk(chunk)) => push.chunk(check::chunk(chunk)?).await?,
            Some(Part::Header(_)) => {
                return Err(check::broken("part", "the header of a push is sent once"));
            }
            None => return Ok(push.finish().await?),
        }
    }
}

/// The next part; `None` when the controller has ended the stream in order.
async fn next(parts: &mut Streaming<pb::PushArtefactRequest>) -> Result<Option<Part>, Error> {
    match parts.message().await {
        Ok(None) => Ok(None),
        Ok(Some(pb::PushArtefactRequest { part: Some(part) })) => Ok(Some(part)),
        Ok(Some(pb::PushArtefactRequest { part: None })) => Err(check::broken(
            "part",
            "a message of a push is its header or a chunk",
        )),
        // The connection broke or the message was too large; what has arrived stays for a resume.
        Err(status) => Err(Error::Call(status)),
    }
}
