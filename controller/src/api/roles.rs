//! Who may call what: the table of all that the controller serves. A test proves that no rpc lacks a row and no row an rpc.

use canasta_transport::roles::{Role, Rule};

/// Each rpc with the least role that may call it.
pub const TABLE: &[Rule] = &[
    // First contact.
    Rule::reads(
        "/canasta.fleet.v1.EnrolmentService/GetClock",
        Role::Anonymous,
    ),
    Rule::changes(
        "/canasta.fleet.v1.EnrolmentService/EnrolHost",
        Role::Anonymous,
    ),
    Rule::changes(
        "/canasta.fleet.v1.EnrolmentService/RedeemUser",
        Role::Anonymous,
    ),
    // Hosts.
    Rule::reads("/canasta.fleet.v1.HostService/ListHosts", Role::Viewer),
    Rule::reads("/canasta.fleet.v1.HostService/GetHost", Role::Viewer),
    Rule::changes("/canasta.fleet.v1.HostService/AddHost", Role::Admin),
    Rule::changes("/canasta.fleet.v1.HostService/RemoveHost", Role::Admin),
    Rule::changes("/canasta.fleet.v1.HostService/CreateHostToken", Role::Admin),
    // Clusters.
    Rule::reads(
        "/canasta.fleet.v1.ClusterService/ListClusters",
        Role::Viewer,
    ),
    Rule::reads("/canasta.fleet.v1.ClusterService/GetCluster", Role::Viewer),
    Rule::changes(
        "/canasta.fleet.v1.ClusterService/InstallControlPlane",
        Role::Operator,
    ),
    Rule::changes(
        "/canasta.fleet.v1.ClusterService/AdoptControlPlane",
        Role::Admin,
    ),
    Rule::changes(
        "/canasta.fleet.v1.ClusterService/JoinWorkers",
        Role::Operator,
    ),
    Rule::changes(
        "/canasta.fleet.v1.ClusterService/UninstallK3s",
        Role::Operator,
    ),
    Rule::changes(
        "/canasta.fleet.v1.ClusterService/ForgetCluster",
        Role::Admin,
    ),
    // Hands out a secret, so it is audited as a change is.
    Rule::changes(
        "/canasta.fleet.v1.ClusterService/GetKubeconfig",
        Role::Admin,
    ),
    Rule::changes(
        "/canasta.fleet.v1.ClusterService/CordonNode",
        Role::Operator,
    ),
    Rule::changes(
        "/canasta.fleet.v1.ClusterService/UncordonNode",
        Role::Operator,
    ),
    Rule::changes("/canasta.fleet.v1.ClusterService/DrainNode", Role::Operator),
    // Operations.
    Rule::reads(
        "/canasta.fleet.v1.OperationService/ListOperations",
        Role::Viewer,
    ),
    Rule::reads(
        "/canasta.fleet.v1.OperationService/GetOperation",
        Role::Viewer,
    ),
    Rule::reads(
        "/canasta.fleet.v1.OperationService/WatchOperation",
        Role::Viewer,
    ),
    Rule::changes(
        "/canasta.fleet.v1.OperationService/CancelOperation",
        Role::Operator,
    ),
    // Artefacts.
    Rule::reads(
        "/canasta.fleet.v1.ArtefactService/ListArtefacts",
        Role::Viewer,
    ),
    Rule::changes(
        "/canasta.fleet.v1.ArtefactService/ImportArtefact",
        Role::Admin,
    ),
    Rule::reads(
        "/canasta.fleet.v1.ArtefactService/GetAgentPackage",
        Role::Admin,
    ),
    // Storage.
    Rule::reads("/canasta.fleet.v1.StorageService/ListStorage", Role::Viewer),
    // Writes to shares, so operators alone.
    Rule::changes(
        "/canasta.fleet.v1.StorageService/CheckStorage",
        Role::Operator,
    ),
    Rule::changes("/canasta.fleet.v1.StorageService/SetupNfs", Role::Operator),
    Rule::changes(
        "/canasta.fleet.v1.StorageService/RemoveStorage",
        Role::Operator,
    ),
    // People.
    Rule::reads("/canasta.fleet.v1.UserService/WhoAmI", Role::Viewer),
    Rule::changes(
        "/canasta.fleet.v1.UserService/RenewCertificate",
        Role::Viewer,
    ),
    Rule::reads("/canasta.fleet.v1.UserService/ListUsers", Role::Admin),
    Rule::changes("/canasta.fleet.v1.UserService/AddUser", Role::Admin),
    Rule::changes("/canasta.fleet.v1.UserService/RemoveUser", Role::Admin),
    Rule::reads("/canasta.fleet.v1.AuditService/ListAudit", Role::Admin),
    // Tools.
    Rule::reads("/grpc.health.v1.Health/Check", Role::Viewer),
    Rule::reads("/grpc.health.v1.Health/Watch", Role::Viewer),
    Rule::reads(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        Role::Viewer,
    ),
    Rule::reads(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        Role::Viewer,
    ),
];

#[cfg(test)]
mod tests {
    use canasta_proto::pb;
    use canasta_transport::roles::{Role, completeness, rule_for};

    use super::TABLE;

    #[test]
    fn no_rpc_lacks_a_row_and_no_row_an_rpc() {
        let wrong = completeness(
            TABLE.iter().map(|rule| rule.method),
            &[
                pb::DESCRIPTORS,
                tonic_health::pb::FILE_DESCRIPTOR_SET,
                tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
                tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
            ],
            crate::api::SERVICES,
        );
        assert_eq!(wrong, Vec::<String>::new());
    }

    #[test]
    fn only_first_contact_is_open_to_anonymous_callers() {
        for rule in TABLE {
            let first_contact = rule
                .method
                .starts_with("/canasta.fleet.v1.EnrolmentService/");
            assert_eq!(
                rule.least == Role::Anonymous,
                first_contact,
                "{}",
                rule.method
            );
        }
        assert!(rule_for(TABLE, "/canasta.fleet.v1.AgentService/StartTask").is_none());
    }
}
