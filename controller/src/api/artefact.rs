//! Artefacts: listing them, and taking one from a caller.

use std::path::PathBuf;

use canasta_proto::pb;
use canasta_proto::pb::artefact_service_server::ArtefactService;
use canasta_proto::pb::get_agent_package_response as package;
use canasta_proto::pb::import_artefact_request::Part;
use canasta_transport::status::Fault;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use super::caller::{AuditSubject, caller_of};
use super::{Answer, invalid};
use crate::artefacts::{Architecture, Artefacts, Cut, Error, Format};

/// Lists and imports artefacts.
#[derive(Debug)]
pub(super) struct ArtefactApi {
    pub(super) artefacts: Artefacts,
    /// Packages of the agent that the controller's own package brings.
    pub(super) shipped: PathBuf,
}

#[tonic::async_trait]
impl ArtefactService for ArtefactApi {
    type GetAgentPackageStream = BoxStream<'static, Result<pb::GetAgentPackageResponse, Status>>;

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
        request: Request<pb::GetAgentPackageRequest>,
    ) -> Answer<Self::GetAgentPackageStream> {
        let request = request.into_inner();
        let format = match request.format() {
            pb::PackageFormat::Deb => Format::Deb,
            pb::PackageFormat::Rpm => Format::Rpm,
            pb::PackageFormat::Unspecified => {
                return Err(
                    invalid("format", "INVALID_FIELD", "a package is a deb or an rpm").into(),
                );
            }
        };
        if Architecture::find(&request.arch).is_err() {
            let rule = "an architecture is amd64, arm64, arm or s390x";
            return Err(invalid("arch", "INVALID_FIELD", rule).into());
        }
        let found = self
            .artefacts
            .agent_package(format, &request.arch, &self.shipped)
            .await?;
        let first = package_part(package::Part::Artefact(found.artefact));
        let chunks = ReceiverStream::new(found.chunks).map(|chunk| match chunk {
            Ok(chunk) => package_part(package::Part::Chunk(chunk)),
            Err(error) => Err(Error::from(error).into()),
        });
        Ok(Response::new(stream::iter([first]).chain(chunks).boxed()))
    }
}

#[expect(clippy::unnecessary_wraps, reason = "an item of a stream")]
fn package_part(part: package::Part) -> Result<pb::GetAgentPackageResponse, Status> {
    Ok(pb::GetAgentPackageResponse { part: Some(part) })
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
        Error::NoPackage { .. } => Code::NotFound,
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
