//! Users: roles, revocation, callers without a certificate, and the audit trail.

use std::time::Duration;

use canasta_controller::api::roles::TABLE;
use canasta_proto::pb;
use canasta_proto::pb::enrolment_service_client::EnrolmentServiceClient;
use canasta_proto::pb::user_service_client::UserServiceClient;
use canasta_transport::keys::PrivateKey;
use canasta_transport::refusal::{HandshakeRefusal, PeerVerdict};
use canasta_transport::roles::Role;
use http::uri::PathAndQuery;
use tonic::client::Grpc;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::agent::Agent;
use crate::support::{Lab, PATIENCE, refused, until};

/// Calls any rpc with an empty message, and reads nothing of the answer but how it went.
async fn call(channel: &Channel, method: &'static str) -> Result<(), Status> {
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.expect("ready");
    let codec = tonic_prost::ProstCodec::<pb::GetClockRequest, pb::GetClockResponse>::default();
    let path = PathAndQuery::from_static(method);
    let request = Request::new(pb::GetClockRequest {});
    grpc.server_streaming(request, path, codec)
        .await
        .map(|_| ())
}

#[tokio::test]
async fn each_role_may_call_what_the_table_says() {
    let lab = Lab::start().await;
    for (role, wire) in [
        (Role::Viewer, pb::Role::Viewer),
        (Role::Operator, pb::Role::Operator),
        (Role::Admin, pb::Role::Admin),
    ] {
        let user = lab.user(role.as_str(), wire).await;
        let channel = lab.dial(&user).await.expect("dialled");
        for rule in TABLE {
            let answer = call(&channel, rule.method).await;
            let denied = matches!(&answer, Err(status) if status.code() == Code::PermissionDenied);
            let first_contact = rule.least == Role::Anonymous;
            // There the token is refused, which is none.
            if !first_contact {
                assert_eq!(
                    denied,
                    role < rule.least,
                    "{role} {}: {answer:?}",
                    rule.method
                );
            }
            if denied && !first_contact {
                let fault = refused(answer, Code::PermissionDenied, "ROLE_TOO_LOW");
                let needed = format!("needs the role {}", rule.least);
                let own = format!("has the role {role}");
                assert!(
                    fault.message.contains(&needed) && fault.message.contains(&own),
                    "{fault}"
                );
            }
        }
    }
}

#[tokio::test]
async fn without_a_certificate_there_is_only_first_contact() {
    let lab = Lab::start().await;
    let token = lab.add_host("cp1").await;
    let stranger = lab.stranger(token.pin()).await;
    for method in [
        "/canasta.fleet.v1.HostService/ListHosts",
        "/canasta.fleet.v1.UserService/WhoAmI",
        "/grpc.health.v1.Health/Check",
        "/no.such.Service/Call",
    ] {
        let answer = call(&stranger, method).await;
        refused(answer, Code::PermissionDenied, "NO_CERTIFICATE");
    }
    let request = pb::RedeemUserRequest {
        token: "x".repeat(100 * 1024),
        csr: Vec::new().into(),
    };
    let mut client = EnrolmentServiceClient::new(stranger.clone());
    let answer = client.redeem_user(request).await;
    assert_eq!(answer.expect_err("too large").code(), Code::OutOfRange);
    let mut allowed = 0;
    let limited = loop {
        match client.get_clock(pb::GetClockRequest {}).await {
            Ok(_) => allowed += 1,
            answer => break answer,
        }
        assert!(allowed < 50, "nothing is limited");
    };
    refused(limited, Code::ResourceExhausted, "TOO_MANY_CALLS");
    let rows = lab.audit().await;
    assert!(rows.iter().any(|row| row.what == "UserService/WhoAmI"
        && row.who == "unknown"
        && row.outcome == "PERMISSION_DENIED NO_CERTIFICATE"));
}

#[tokio::test]
async fn a_removed_user_is_out_at_once_and_stays_out() {
    let mut lab = Lab::start().await;
    let alice = lab.user("alice", pb::Role::Viewer).await;
    let channel = lab.dial(&alice).await.expect("dialled");
    let who = UserServiceClient::new(channel.clone())
        .who_am_i(pb::WhoAmIRequest {})
        .await
        .expect("answer")
        .into_inner();
    assert_eq!(
        (who.name.as_str(), who.role()),
        ("user alice", pb::Role::Viewer)
    );
    let mut watch = HealthClient::new(channel.clone())
        .watch(HealthCheckRequest::default())
        .await
        .expect("watch")
        .into_inner();
    watch.message().await.expect("open").expect("status");

    let request = pb::RemoveUserRequest {
        name: "alice".to_owned(),
    };
    lab.users()
        .await
        .remove_user(request)
        .await
        .expect("removed");
    tokio::time::timeout(PATIENCE, watch.message())
        .await
        .expect("at once")
        .expect_err("the open stream is cut");
    let error = lab.dial(&alice).await.expect_err("revoked");
    assert_eq!(
        error.refusal(),
        Some(&HandshakeRefusal::ByPeer(PeerVerdict::Revoked)),
        "{error:?}"
    );
    until("the refusal is in the audit trail", || async {
        lab.audit()
            .await
            .iter()
            .any(|row| row.what == "handshake" && row.who == "user alice")
    })
    .await;
    assert_eq!(lab.controller().gate().refused_handshakes(), 1);
    lab.crash().await;
    lab.up().await.expect("start");
    let error = lab.dial(&alice).await.expect_err("still revoked");
    assert_eq!(
        error.refusal(),
        Some(&HandshakeRefusal::ByPeer(PeerVerdict::Revoked)),
        "{error:?}"
    );
}

#[tokio::test]
async fn all_open_streams_of_a_removed_user_are_cut_each_time() {
    let lab = Lab::start().await;
    // Fewer users than one address may redeem at once.
    for number in 0..8 {
        let name = format!("anna{number}");
        let user = lab.user(&name, pb::Role::Viewer).await;
        let mut watches = Vec::new();
        for _ in 0..4 {
            let mut watch = HealthClient::new(lab.dial(&user).await.expect("dialled"))
                .watch(HealthCheckRequest::default())
                .await
                .expect("watch")
                .into_inner();
            watch.message().await.expect("open").expect("status");
            watches.push(watch);
        }
        let request = pb::RemoveUserRequest { name };
        let removed = lab.users().await.remove_user(request).await;
        removed.expect("removed");
        for mut watch in watches {
            tokio::time::timeout(PATIENCE, watch.message())
                .await
                .unwrap_or_else(|_| panic!("round {number}: a stream goes on"))
                .expect_err("the stream is cut");
        }
    }
}

#[tokio::test]
async fn a_role_that_is_changed_counts_at_once() {
    let lab = Lab::start().await;
    let bob = lab.user("bob", pb::Role::Admin).await;
    let channel = lab.dial(&bob).await.expect("dialled");
    let method = "/canasta.fleet.v1.AuditService/ListAudit";
    call(&channel, method).await.expect("an admin may");
    lab.add_user("bob", pb::Role::Viewer).await;
    refused(
        call(&channel, method).await,
        Code::PermissionDenied,
        "ROLE_TOO_LOW",
    );
    let rows = lab.audit().await;
    assert_eq!(rows[0].who, "user bob");
    assert_eq!(rows[0].outcome, "PERMISSION_DENIED ROLE_TOO_LOW");
}

#[tokio::test]
async fn a_user_token_is_answered_again_until_it_was_used() {
    let lab = Lab::start().await;
    let token = lab.add_user("carol", pb::Role::Operator).await;
    let key = PrivateKey::generate().expect("key");
    let first = lab.redeem(&token, &key).await.expect("first").issued;
    let again = lab.redeem(&token, &key).await.expect("again").issued;
    assert_eq!(first, again);
    let thief = PrivateKey::generate().expect("key");
    let answer = lab.redeem(&token, &thief).await;
    refused(answer, Code::PermissionDenied, "TOKEN_USED");
    let users = lab.users().await.list_users(pb::ListUsersRequest {}).await;
    let users = users.expect("users").into_inner().users;
    assert!(users[0].certificate_expires_at.is_some());
    let request = pb::RemoveUserRequest {
        name: "nobody".to_owned(),
    };
    let answer = lab.users().await.remove_user(request).await;
    refused(answer, Code::NotFound, "USER_NOT_KNOWN");
}

#[tokio::test]
async fn an_agent_is_no_user() {
    let lab = Lab::start().await;
    let token = lab.add_host("cp1").await;
    let mut agent = Agent::new();
    assert!(agent.join(&lab, &token).await.reached);
    let error = lab.dial(agent.material()).await.expect_err("refused");
    assert!(
        matches!(error.refusal(), Some(HandshakeRefusal::ByPeer(_))),
        "{error:?}"
    );
    until("the refusal is in the audit trail", || async {
        lab.audit()
            .await
            .iter()
            .any(|row| row.what == "handshake" && row.who == "agent cp1")
    })
    .await;
}

#[tokio::test]
async fn a_certificate_is_renewed_in_the_second_half_of_its_life_alone() {
    let lab = Lab::start_with(|config| config.timings.leaf = Duration::from_secs(4)).await;
    let alice = lab.user("alice", pb::Role::Viewer).await;
    let mut users = UserServiceClient::new(lab.dial(&alice).await.expect("dialled"));
    let renew = || {
        let key = PrivateKey::generate().expect("key");
        pb::RenewCertificateRequest {
            csr: key.csr().expect("csr").into(),
        }
    };
    let fault = refused(
        users.renew_certificate(renew()).await,
        Code::FailedPrecondition,
        "RENEWAL_NOT_DUE",
    );
    assert!(fault.message.contains("half of its life"), "{fault}");
    until("the certificate can be renewed", || {
        let mut users = users.clone();
        async move { users.renew_certificate(renew()).await.is_ok() }
    })
    .await;
}
