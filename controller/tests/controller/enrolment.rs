//! Hosts: adding, joining, being reached, being removed.

use std::time::Duration;

use canasta_proto::pb;
use canasta_proto::token::{Purpose, SECRET_BYTES, Token};
use canasta_transport::status::Fault;
use tonic::Code;

use crate::agent::Agent;
use crate::support::{Lab, join_token, refused, until};

#[tokio::test]
async fn a_host_joins_and_is_connected() {
    let lab = Lab::start().await;
    let token = lab.add_host("cp1").await;
    assert_eq!(lab.host("cp1").await.state(), pb::HostState::WaitingForJoin);
    let mut agent = Agent::new();
    let dial_back = agent.join(&lab, &token).await;
    let address = format!("127.0.0.1:{}", agent.port);
    assert!(dial_back.reached, "{dial_back:?}");
    assert_eq!(dial_back.attempts.len(), 1);
    assert_eq!(dial_back.attempts[0].address, address);

    until("the facts are known", || async {
        lab.host("cp1").await.facts.is_some()
    })
    .await;
    let host = lab.host("cp1").await;
    assert_eq!(host.state(), pb::HostState::Connected);
    assert_eq!(host.addresses[0].source, "source of the join");
    assert_eq!(host.facts.expect("facts").hostname, "node-1");
    assert_eq!(host.public_key_sha256.len(), 64);
    assert!(host.certificate_expires_at.is_some());

    let rows = lab.audit().await;
    let enrolled = rows
        .iter()
        .find(|row| row.what == "EnrolmentService/EnrolHost")
        .expect("row");
    assert_eq!(
        (enrolled.who.as_str(), enrolled.subject.as_str()),
        ("unknown", "host cp1")
    );
    assert_eq!(enrolled.outcome, "ok");
    assert!(enrolled.from.starts_with("127.0.0.1:"), "{}", enrolled.from);
    let added = rows
        .iter()
        .find(|row| row.what == "HostService/AddHost")
        .expect("row");
    assert_eq!(added.from, "unix socket");
    assert!(added.who.starts_with("local "), "{}", added.who);
}

#[tokio::test]
async fn a_host_that_cannot_be_reached_is_reported_with_address_and_port() {
    let lab = Lab::start_with(|config| {
        config.timings.dial_back = Duration::from_millis(600);
    })
    .await;
    let token = lab.add_host("cp1").await;
    let mut agent = Agent::new();
    // The port is closed again before anyone dials it.
    let closed = std::mem::replace(&mut agent, Agent::new()).port;
    let mut request = agent.request(&token);
    request.advertise = format!("127.0.0.1:{closed}");
    request.port = u32::from(closed);
    let (_, mut events) = agent.enrol(&lab, &token, request).await.expect("enrolled");
    let last = events
        .message()
        .await
        .expect("event")
        .and_then(|last| last.event);
    let Some(pb::enrol_host_response::Event::DialBack(dial_back)) = last else {
        panic!("no dial back but {last:?}");
    };
    assert!(!dial_back.reached);
    let attempt = &dial_back.attempts[0];
    assert_eq!(attempt.address, format!("127.0.0.1:{closed}"));
    assert!(
        attempt.error.contains("nothing listens"),
        "{}",
        attempt.error
    );
    let host = lab.host("cp1").await;
    assert_eq!(host.state(), pb::HostState::Unreachable);
    assert!(
        host.state_reason.contains(&format!("127.0.0.1:{closed}")),
        "{}",
        host.state_reason
    );
    assert!(host.state_since.is_some());

    let request = pb::GetHostRequest {
        name: "cp1".to_owned(),
        refresh: true,
    };
    let answer = lab
        .hosts()
        .await
        .get_host(request)
        .await
        .expect("host")
        .into_inner();
    assert_eq!(answer.dial.expect("dialled").attempts, dial_back.attempts);
}

#[tokio::test]
async fn an_agent_that_goes_and_comes_is_found_again() {
    let lab = Lab::start().await;
    let token = lab.add_host("cp1").await;
    let mut agent = Agent::new();
    assert!(agent.join(&lab, &token).await.reached);
    agent.stop().await;
    until("the host is unreachable", || async {
        lab.host("cp1").await.state() == pb::HostState::Unreachable
    })
    .await;
    agent.serve();
    let request = pb::GetHostRequest {
        name: "cp1".to_owned(),
        refresh: true,
    };
    let answer = lab
        .hosts()
        .await
        .get_host(request)
        .await
        .expect("host")
        .into_inner();
    assert_eq!(answer.host.expect("host").state(), pb::HostState::Connected);
    assert_eq!(answer.dial, None);
}

#[tokio::test]
async fn each_way_a_token_can_be_wrong_is_told() {
    let lab = Lab::start_with(|config| config.timings.dial_back = Duration::from_millis(100)).await;
    let agent = Agent::new();
    let token = lab.add_host("cp1").await;
    let unknown = Token::new(Purpose::Join, token.pin(), [7; SECRET_BYTES]);
    let mut faults: Vec<Fault> = Vec::new();
    let denied = Code::PermissionDenied;

    let answer = agent.enrol(&lab, &unknown, agent.request(&unknown)).await;
    faults.push(refused(answer, denied, "TOKEN_UNKNOWN"));

    let mut request = agent.request(&token);
    request.expected_name = "cp2".to_owned();
    let answer = agent.enrol(&lab, &token, request).await;
    faults.push(refused(answer, denied, "TOKEN_OTHER_HOST"));

    let mut request = agent.request(&token);
    request.csr = b"rubbish".as_slice().into();
    let answer = agent.enrol(&lab, &token, request).await;
    faults.push(refused(answer, Code::InvalidArgument, "INVALID_CSR"));

    // The answer may be lost: the same key gets the same certificate, another key gets nothing.
    let (first, _) = agent
        .enrol(&lab, &token, agent.request(&token))
        .await
        .expect("first");
    let (again, _) = agent
        .enrol(&lab, &token, agent.request(&token))
        .await
        .expect("again");
    assert_eq!(first.certificate, again.certificate);
    let thief = Agent::new();
    let answer = thief.enrol(&lab, &token, thief.request(&token)).await;
    faults.push(refused(answer, denied, "TOKEN_USED"));

    let request = pb::RemoveHostRequest {
        name: "cp1".to_owned(),
        force: false,
    };
    let old = lab.add_host("cp3").await;
    lab.hosts()
        .await
        .remove_host(request)
        .await
        .expect("removed");
    let answer = agent.enrol(&lab, &token, agent.request(&token)).await;
    faults.push(refused(answer, denied, "TOKEN_REMOVED"));

    let request = pb::CreateHostTokenRequest {
        name: "cp3".to_owned(),
    };
    let newer = lab
        .hosts()
        .await
        .create_host_token(request)
        .await
        .expect("token");
    join_token(&newer.into_inner().join.expect("token"));
    let answer = agent.enrol(&lab, &old, agent.request(&old)).await;
    faults.push(refused(answer, denied, "TOKEN_REPLACED"));

    for (index, fault) in faults.iter().enumerate() {
        assert!(!fault.hint.is_empty(), "{fault:?}");
        let same = faults.iter().skip(index + 1).find(|other| {
            // Each reason means one thing, and each thing has its own words.
            other.message == fault.message || other.reason == fault.reason
        });
        assert_eq!(same, None);
        assert!(!format!("{fault:?}").contains(token.secret()));
    }
}

#[tokio::test]
async fn a_token_expires_and_is_used_up_once_its_host_was_reached() {
    let lab = Lab::start().await;
    let token = lab.add_host("cp1").await;
    let mut agent = Agent::new();
    assert!(agent.join(&lab, &token).await.reached);
    let answer = agent.enrol(&lab, &token, agent.request(&token)).await;
    refused(answer, Code::PermissionDenied, "TOKEN_USED");

    let lab = Lab::start_with(|config| config.timings.token = Duration::from_millis(1)).await;
    let token = lab.add_host("cp1").await;
    let answer = agent.enrol(&lab, &token, agent.request(&token)).await;
    let fault = refused(answer, Code::PermissionDenied, "TOKEN_EXPIRED");
    assert!(
        fault.hint.contains("canasta host token cp1"),
        "{}",
        fault.hint
    );
}

#[tokio::test]
async fn a_host_joins_anew_with_another_key() {
    let lab = Lab::start().await;
    let token = lab.add_host("cp1").await;
    let mut first = Agent::new();
    assert!(first.join(&lab, &token).await.reached);
    let request = pb::CreateHostTokenRequest {
        name: "cp1".to_owned(),
    };
    let answer = lab
        .hosts()
        .await
        .create_host_token(request)
        .await
        .expect("token");
    let token = join_token(&answer.into_inner().join.expect("token"));
    let mut second = Agent::new();
    assert!(second.join(&lab, &token).await.reached);
    let host = lab.host("cp1").await;
    assert_eq!(
        host.addresses[0].address,
        format!("127.0.0.1:{}", second.port)
    );
    // What the first one has is of no use any more.
    let key = canasta_transport::facts::hex(&second.material().current().facts().spki_sha256);
    assert_eq!(host.public_key_sha256, key);
}

#[tokio::test]
async fn the_address_that_was_given_with_the_host_wins() {
    let lab = Lab::start().await;
    let mut agent = Agent::new();
    let address = format!("127.0.0.1:{}", agent.port);
    let request = pb::AddHostRequest {
        name: "cp1".to_owned(),
        address: address.clone(),
    };
    let answer = lab.hosts().await.add_host(request).await.expect("added");
    let token = join_token(&answer.into_inner().join.expect("token"));
    let mut request = agent.request(&token);
    // Nothing listens where the machine says.
    request.advertise = "127.0.0.1:9".to_owned();
    let (issued, mut events) = agent.enrol(&lab, &token, request).await.expect("enrolled");
    agent.install(&issued);
    agent.serve();
    let last = events.message().await.expect("event").expect("dial back");
    let Some(pb::enrol_host_response::Event::DialBack(dial_back)) = last.event else {
        panic!("no dial back but {last:?}");
    };
    let dialled: Vec<_> = dial_back.attempts.iter().map(|one| &one.address).collect();
    assert_eq!((dial_back.reached, dialled), (true, vec![&address]));
    let host = lab.host("cp1").await;
    let shown: Vec<_> = host
        .addresses
        .iter()
        .map(|one| (one.address.as_str(), one.source.as_str()))
        .collect();
    assert_eq!(
        shown[..2],
        [
            (address.as_str(), "host add --address"),
            ("127.0.0.1:9", "join --advertise")
        ]
    );
}

#[tokio::test]
async fn removing_a_host_ends_its_connection_and_its_tokens() {
    let lab = Lab::start().await;
    let token = lab.add_host("cp1").await;
    let mut agent = Agent::new();
    assert!(agent.join(&lab, &token).await.reached);
    let remove = || pb::RemoveHostRequest {
        name: "cp1".to_owned(),
        force: false,
    };
    // As a step of an operation or a tunnel holds one.
    let name = "cp1".parse().expect("name");
    let mut held = lab.controller().fleet().agent(&name).await.expect("client");
    assert_eq!(agent.connections.len(), 1);
    lab.hosts()
        .await
        .remove_host(remove())
        .await
        .expect("removed");
    assert_eq!(lab.controller().fleet().count(), (0, 0));
    until("the agent's connection has ended", || async {
        agent.connections.is_empty()
    })
    .await;
    held.get_facts(pb::GetFactsRequest {})
        .await
        .expect_err("the client that was handed out is of no use");
    let answer = lab.hosts().await.remove_host(remove()).await;
    let fault = refused(answer, Code::NotFound, "HOST_NOT_REGISTERED");
    assert_eq!(fault.message, "host 'cp1' is not registered");
    assert_eq!(fault.hint, "run `canasta host add --name cp1` first");
    // The name is free again, and nothing of the old host counts for the new one.
    lab.add_host("cp1").await;
    assert_eq!(lab.host("cp1").await.state(), pb::HostState::WaitingForJoin);
    let answer = agent.enrol(&lab, &token, agent.request(&token)).await;
    refused(answer, Code::PermissionDenied, "TOKEN_REMOVED");
}

#[tokio::test]
async fn a_member_of_a_cluster_is_not_removed() {
    let lab = Lab::start().await;
    lab.add_host("cp1").await;
    for query in [
        "INSERT INTO clusters (name, k3s_version, ca_hash, endpoint, adopted, created_at, public_ips)
         VALUES ('prod', 'v1.34.8+k3s1', '', '', 0, 0, '[]')",
        "INSERT INTO cluster_nodes (host, cluster, node_name, role, node_ip, tls_sans)
         VALUES ('cp1', 'prod', 'node-1', 'control-plane', '', '[]')",
    ] {
        sqlx::query(query).execute(lab.controller().store().pool()).await.expect("insert");
    }
    let host = lab.host("cp1").await;
    assert_eq!(
        (host.cluster.as_str(), host.cluster_role.as_str()),
        ("prod", "control-plane")
    );
    let request = pb::RemoveHostRequest {
        name: "cp1".to_owned(),
        force: false,
    };
    let answer = lab.hosts().await.remove_host(request).await;
    let fault = refused(answer, Code::FailedPrecondition, "HOST_IN_CLUSTER");
    assert_eq!(
        fault.message,
        "host 'cp1' is a control-plane of cluster 'prod'"
    );
    assert_eq!(lab.host("cp1").await.name, "cp1");
}

#[tokio::test]
async fn names_and_addresses_are_refused_by_the_rule_and_never_echoed() {
    let lab = Lab::start().await;
    let mut hosts = lab.hosts().await;
    let long = "a".repeat(300);
    for name in ["", "a b", "..", "a;b", "a\nb", "a\u{202e}b", "$(x)", &long] {
        let request = pb::AddHostRequest {
            name: name.to_owned(),
            address: String::new(),
        };
        let fault = refused(
            hosts.add_host(request).await,
            Code::InvalidArgument,
            "INVALID_NAME",
        );
        assert!(fault.message.contains("host name"), "{fault:?}");
        assert!(!fault.message.contains(['\n', '\u{202e}']) && !fault.message.contains(&long));
    }
    for address in ["a b", "a:0", "http://a", "a\nb", &long] {
        let request = pb::AddHostRequest {
            name: "cp1".to_owned(),
            address: address.to_owned(),
        };
        let answer = hosts.add_host(request).await;
        refused(answer, Code::InvalidArgument, "INVALID_ADDRESS");
    }
    lab.add_host("cp1").await;
    let request = pb::AddHostRequest {
        name: "cp1".to_owned(),
        address: String::new(),
    };
    let fault = refused(
        hosts.add_host(request).await,
        Code::AlreadyExists,
        "HOST_EXISTS",
    );
    assert!(
        fault.hint.contains("canasta host token cp1"),
        "{}",
        fault.hint
    );
    let rows = lab.audit().await;
    assert_eq!(rows[0].outcome, "ALREADY_EXISTS HOST_EXISTS");
    assert_eq!(rows[0].subject, "host cp1");
}
