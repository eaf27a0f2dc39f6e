//! Artefacts: listing them, and taking one from a caller.

use canasta_proto::pb;
use canasta_proto::pb::artefact_service_server::ArtefactService;
use canasta_proto::pb::import_artefact_request::Part;
use canasta_transport::status::Fault;
use futures_util::StreamExt as _;
use tonic::{Code, Request, Response, Status, Streaming};

use super::caller::{AuditSubject, caller_of};
use super::{Answer, invalid};
use crate::artefacts::{Artefacts, Cut, Error};

/// Lists and imports artefacts.
#[derive(Debug)]
pub(super) struct ArtefactApi {
    pub(super) artefacts: Artefacts,
}

#[tonic::async_trait]
impl ArtefactService for ArtefactApi {
    type GetAgentPackageStream =
        futures_util::stream::BoxStream<'static, Result<pb::GetAgentPackageResponse, Status>>;

    async fn list_artefacts(
        &self,
        _: Request<pb::ListArtefactsRequest>,
    ) -> Answer<pb::ListArtefactsResponse> {
        let artefacts = self.artefacts.list().await?;
        Ok(Response::new(pb::ListArtefactsResponse { artefacts }))
    }

    async fn import_artefact(
        &self,
        request: Request<Streaming<pb::ImportArtefactRequest>>,
    ) -> Answer<pb::ImportArtefactResponse> {
        let by = caller_of(&request).who;
        let mut parts = request.into_inner();
        let Some(Part::Header(header)) = parts.message().await?.and_then(|first| first.part) else {
            return Err(invalid("part", "INVALID_FIELD", "the first part is the header").into());
        };
        let chunks = parts.map(|part| match part.map(|part| part.part) {
            Ok(Some(Part::Chunk(chunk))) => Ok(chunk),
            // A second header, a part that a newer CLI sends, or a broken connection.
            Ok(_) | Err(_) => Err(Cut),
        });
        let artefacts = self.artefacts.clone();
        let named = format!("{} {}", header.name, header.version);
        // In a task of its own, which clears up when the caller goes away in the middle.
        let import = tokio::spawn(async move { artefacts.import(&header, chunks, &by).await });
        let artefact = import.await.unwrap_or(Err(Error::ImportCut))?;
        let subject = AuditSubject(format!("{named} {}", artefact.arch()));
        let mut response = Response::new(pb::ImportArtefactResponse {
            artefact: Some(artefact.to_pb()),
        });
        response.extensions_mut().insert(subject);
        Ok(response)
    }

    async fn get_agent_package(
        &self,
        _: Request<pb::GetAgentPackageRequest>,
    ) -> Answer<Self::GetAgentPackageStream> {
        Err(Status::unimplemented("GetAgentPackage"))
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        match error {
            Error::Store(source) => source.into(),
            error => Fault::from_error(code(&error), error.reason(), &error).hint(error.hint()),
        }
    }
}

/// The code by meaning.
fn code(error: &Error) -> Code {
    match error {
        Error::Import(_) | Error::ImportCut => Code::InvalidArgument,
        Error::Differs { .. } => Code::AlreadyExists,
        Error::NoSpace { .. } | Error::File(canasta_durable::Error::DiskFull { .. }) => {
            Code::ResourceExhausted
        }
        Error::Task { .. } | Error::File(_) => Code::Internal,
        _ => Code::FailedPrecondition,
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        Fault::from(error).into()
    }
}
