//! The package of the agent that the controller keeps for a machine. Called by the bootstrap.

use canasta_proto::artefact::MAX_SIZE;
use canasta_proto::name::HostName;
use canasta_proto::package::{Format, Package};
use canasta_proto::pb;
use canasta_proto::pb::artefact_service_client::ArtefactServiceClient;
use canasta_proto::pb::get_agent_package_response::Part;
use sha2::{Digest as _, Sha256};
use tonic::transport::Channel;

use super::{Given, none_fits};
use crate::contexts::to_hex;
use crate::error::Error;
use crate::ssh::Facts;

/// Why there is none.
pub(super) enum Missing {
    /// The controller has none.
    None,
    /// Something else.
    Other(Error),
}

impl Missing {
    /// The error, with what the machine is.
    pub(super) fn into_error(
        self,
        host: &HostName,
        facts: &Facts,
        format: Format,
        arch: &str,
    ) -> Error {
        match self {
            Self::None => {
                let ending = format.ending();
                none_fits(
                    host,
                    facts,
                    &format!("the controller has no .{ending} for {arch}"),
                )
            }
            Self::Other(error) => error,
        }
    }
}

impl From<Error> for Missing {
    fn from(error: Error) -> Self {
        match error {
            Error::Refused(fault) if fault.reason == "AGENT_PACKAGE_MISSING" => Self::None,
            error => Self::Other(error),
        }
    }
}

impl From<tonic::Status> for Missing {
    fn from(status: tonic::Status) -> Self {
        Error::from(status).into()
    }
}

/// Fetches it. Where the installed version is the one that the controller would send, its content is left there.
pub(super) async fn package(
    channel: Channel,
    format: Format,
    arch: &'static str,
    facts: &Facts,
) -> Result<Given, Missing> {
    let wire = match format {
        Format::Deb => pb::PackageFormat::Deb,
        Format::Rpm => pb::PackageFormat::Rpm,
    };
    let request = pb::GetAgentPackageRequest {
        format: wire.into(),
        arch: arch.to_owned(),
    };
    let mut client = ArtefactServiceClient::new(channel);
    let mut parts = client.get_agent_package(request).await?.into_inner();
    let first = parts.message().await?.and_then(|first| first.part);
    let Some(Part::Artefact(artefact)) = first else {
        return Err(cut().into());
    };
    let mut content = Vec::new();
    if facts.installed.as_ref() != Some(&artefact.version) {
        while let Some(part) = parts.message().await? {
            if let Some(Part::Chunk(chunk)) = part.part {
                content.extend_from_slice(&chunk);
            }
            let length = content.len() as u64;
            if length > artefact.size || length > MAX_SIZE {
                return Err(cut().into());
            }
        }
        if to_hex(&Sha256::digest(&content)) != artefact.sha256 {
            return Err(cut().into());
        }
    }
    let package = Package {
        format,
        version: artefact.version,
        arch,
    };
    Ok(Given { package, content })
}

fn cut() -> Error {
    Error::local(
        "the controller did not send the package as it announced it",
        "run the command again; see `journalctl -u canasta-controller` if it stays so",
    )
}
