//! Who may call what on the agent's port. A test proves that no rpc lacks a row and no row an rpc.
//!
//! The handshake lets the fleet's controller in and nobody else; every call is compared with this table all the same.

use canasta_transport::listen::{Peer, PeerInfo};
use canasta_transport::spiffe::Kind;
use canasta_transport::status::Fault;
use tonic::Code;

/// The least that a caller must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Least {
    /// The controller of the agent's fleet.
    Controller,
}

/// Each rpc with the least that its caller must be.
pub(super) const TABLE: &[(&str, Least)] = &[
    // Looking.
    ("/canasta.fleet.v1.AgentService/GetFacts", Least::Controller),
    (
        "/canasta.fleet.v1.AgentService/WatchStatus",
        Least::Controller,
    ),
    (
        "/canasta.fleet.v1.AgentService/Preflight",
        Least::Controller,
    ),
    (
        "/canasta.fleet.v1.AgentService/GetJournal",
        Least::Controller,
    ),
    // Tasks.
    (
        "/canasta.fleet.v1.AgentService/StartTask",
        Least::Controller,
    ),
    (
        "/canasta.fleet.v1.AgentService/WatchTask",
        Least::Controller,
    ),
    // Artefacts.
    (
        "/canasta.fleet.v1.AgentService/StatArtefact",
        Least::Controller,
    ),
    (
        "/canasta.fleet.v1.AgentService/PushArtefact",
        Least::Controller,
    ),
    // The local API server.
    ("/canasta.fleet.v1.AgentService/Tunnel", Least::Controller),
    (
        "/canasta.fleet.v1.AgentService/GetApiCredentials",
        Least::Controller,
    ),
    // Joining a cluster, and leaving one.
    (
        "/canasta.fleet.v1.AgentService/CreateJoinCredential",
        Least::Controller,
    ),
    (
        "/canasta.fleet.v1.AgentService/StoreJoinCredential",
        Least::Controller,
    ),
    (
        "/canasta.fleet.v1.AgentService/ReceiveProbes",
        Least::Controller,
    ),
    (
        "/canasta.fleet.v1.AgentService/SendProbes",
        Least::Controller,
    ),
    (
        "/canasta.fleet.v1.AgentService/InspectUninstall",
        Least::Controller,
    ),
    (
        "/canasta.fleet.v1.AgentService/ListExports",
        Least::Controller,
    ),
    (
        "/canasta.fleet.v1.AgentService/InspectExport",
        Least::Controller,
    ),
    // The agent's certificate.
    (
        "/canasta.fleet.v1.AgentService/CreateCsr",
        Least::Controller,
    ),
    (
        "/canasta.fleet.v1.AgentService/InstallCertificate",
        Least::Controller,
    ),
    // Tools.
    ("/grpc.health.v1.Health/Check", Least::Controller),
    ("/grpc.health.v1.Health/Watch", Least::Controller),
];

/// Whether this peer may make this call.
pub(super) fn judge(peer: Option<&PeerInfo>, method: &str) -> Result<(), Box<Fault>> {
    let Some((_, least)) = TABLE.iter().find(|(name, _)| *name == method) else {
        return Err(Fault::new(
            Code::Unimplemented,
            "UNKNOWN_CALL",
            "this agent does not know that call",
        )
        .hint("use an agent of the controller's version")
        .into());
    };
    let peer = peer.map(|info| &info.peer);
    let enough = match least {
        Least::Controller => matches!(
            peer,
            Some(Peer::Identified { identity, .. }) if identity.kind == Kind::Controller
        ),
    };
    if enough {
        Ok(())
    } else {
        Err(Fault::new(
            Code::PermissionDenied,
            "NOT_THE_CONTROLLER",
            "an agent obeys the controller of its fleet alone",
        )
        .into())
    }
}

#[cfg(test)]
mod tests {
    use canasta_proto::pb;
    use canasta_transport::roles::completeness;

    use super::*;

    #[test]
    fn no_rpc_lacks_a_row_and_no_row_an_rpc() {
        let wrong = completeness(
            TABLE.iter().map(|(method, _)| *method),
            &[pb::DESCRIPTORS, tonic_health::pb::FILE_DESCRIPTOR_SET],
            &["canasta.fleet.v1.AgentService", "grpc.health.v1.Health"],
        );
        assert_eq!(wrong, Vec::<String>::new());
    }

    #[test]
    fn others_than_the_controller_and_unknown_calls_are_refused() {
        let method = TABLE[0].0;
        let local = Peer::Local {
            uid: 0,
            name: "root".to_owned(),
        };
        for peer in [Peer::Anonymous, local] {
            let info = PeerInfo::new(peer, "192.0.2.7:4711".to_owned());
            let fault = judge(Some(&info), method).expect_err("refused");
            assert_eq!(fault.code, Code::PermissionDenied);
        }
        assert_eq!(
            judge(None, method).expect_err("refused").code,
            Code::PermissionDenied
        );
        let fault = judge(None, "/canasta.fleet.v1.HostService/AddHost").expect_err("unknown");
        assert_eq!(fault.code, Code::Unimplemented);
    }
}
