//! From a token to a member of the fleet, and all that may come between.

use std::time::Duration;

use canasta_agent::join::client;
use canasta_agent::join::message::{Answer, Ask, JoinRequest, TokenText};
use canasta_agent::{Agent, State};
use canasta_proto::pb;
use canasta_proto::token::{Purpose, SECRET_BYTES, Token};
use canasta_transport::authority::Authority;
use jiff::Timestamp;
use tokio::net::TcpListener;

use crate::controller::{self, Controller};
use crate::fixture::{Node, join, joined, restarted, until};

#[tokio::test]
async fn a_node_joins_and_serves_without_a_restart() {
    let (controller, node) = (Controller::start().await, Node::new());
    let agent = node.start().await;
    assert_eq!(*agent.state().borrow(), State::WaitingForJoin);
    assert_eq!(agent.local_addr(), None);

    let done = join(&agent, controller.address, &controller.token())
        .await
        .expect("join");
    let address = agent.local_addr().expect("listening");
    assert_eq!((done.name.as_str(), done.reached), ("cp1", Some(true)));
    assert_eq!(done.fleet_id, controller.authority.fleet().to_string());
    assert_eq!(done.attempts[0].address, address.to_string());
    let (request, _) = controller
        .see(|shared| shared.enrolments.pop())
        .expect("enrolment");
    assert_eq!(
        (request.hostname.as_str(), request.port),
        ("cp1", u32::from(address.port()))
    );

    let mut client = controller.dial(address).await;
    let facts = client
        .get_facts(pb::GetFactsRequest {})
        .await
        .expect("facts")
        .into_inner();
    assert_eq!(facts.facts.expect("facts").hostname, "cp1");
    agent.shutdown().await;

    let (agent, mut client) = restarted(&controller, &node).await;
    assert!(matches!(&*agent.state().borrow(), State::Joined { name, .. } if name == "cp1"));
    client
        .get_facts(pb::GetFactsRequest {})
        .await
        .expect("facts");
}

#[tokio::test]
async fn with_other_clocks_the_token_is_never_sent() {
    for (offset, words) in [(3600, "behind"), (-86_400, "ahead of")] {
        let (controller, node) = (Controller::start().await, Node::new());
        controller.see(|shared| shared.clock_offset_seconds = offset);
        let agent = node.start().await;
        let failure = join(&agent, controller.address, &controller.token())
            .await
            .expect_err("skew");
        assert_eq!(failure.reason, "CLOCK_SKEW");
        assert!(failure.message.contains(words), "{}", failure.message);
        let measured = [offset.abs() - 1, offset.abs(), offset.abs() + 1];
        assert!(
            measured
                .iter()
                .any(|seconds| failure.message.contains(&format!(" {seconds} s"))),
            "{}",
            failure.message
        );
        controller.see(|shared| {
            assert_eq!(shared.clocks, 1);
            assert!(shared.enrolments.is_empty());
        });
        assert_eq!(agent.local_addr(), None);
    }
}

#[tokio::test]
async fn the_clock_of_the_node_counts() {
    let (controller, node) = (Controller::start().await, Node::new());
    node.host
        .machine
        .change(|machine| machine.clock_offset_seconds = 45);
    let agent = node.start().await;
    let failure = join(&agent, controller.address, &controller.token())
        .await
        .expect_err("skew");
    assert_eq!(failure.reason, "CLOCK_SKEW");
    node.host
        .machine
        .change(|machine| machine.clock_offset_seconds = 0);
    join(&agent, controller.address, &controller.token())
        .await
        .expect("the token is still good");
}

#[tokio::test]
async fn a_controller_of_another_ca_hears_nothing() {
    let (controller, node) = (Controller::start().await, Node::new());
    let other = Authority::create(Timestamp::now()).expect("authority");
    let token = Token::new(Purpose::Join, other.ca_pin(), [7; SECRET_BYTES]);
    let agent = node.start().await;
    let failure = join(&agent, controller.address, &token)
        .await
        .expect_err("pin");
    assert_eq!(failure.reason, "CA_PIN_MISMATCH");
    assert!(
        failure.hint.contains("the token was not sent"),
        "{}",
        failure.hint
    );
    controller.see(|shared| assert_eq!((shared.clocks, shared.enrolments.len()), (0, 0)));
}

#[tokio::test]
async fn a_controller_without_room_is_waited_for_as_long_as_it_says_and_not_for_ever() {
    let (controller, node) = (Controller::start().await, Node::new());
    controller.see(|shared| shared.full = (3, Duration::from_millis(5)));
    let mut options = node.options();
    options.timings.join_patience = Duration::from_secs(5);
    let agent = Agent::start(options).await.expect("start");
    let ask = Ask::Join(JoinRequest {
        controller: controller.address.to_string(),
        token: TokenText::new(controller.token().reveal()),
        advertise: None,
        name: None,
    });
    let mut told = Vec::new();
    let heard = |answer: &Answer| told.push(format!("{answer:?}"));
    let last = client::ask(agent.join_socket(), &ask, heard).await;
    assert!(matches!(last, Ok(Answer::Done(_))), "{last:?}");
    let waits = told
        .iter()
        .filter(|line| line.contains("too many calls; trying again in 0."));
    assert_eq!(waits.count(), 3, "{told:?}");
    controller.see(|shared| assert_eq!((shared.clocks, shared.enrolments.len()), (1, 1)));

    // One that would have to be waited for too long is told as it says itself.
    controller.see(|shared| shared.full = (1, Duration::from_secs(6)));
    let failure = join(&agent, controller.address, &controller.token()).await;
    let failure = failure.expect_err("no room");
    assert_eq!(
        (failure.reason.as_str(), failure.hint.as_str()),
        ("TOO_MANY_CALLS", "wait")
    );
}

#[tokio::test]
async fn what_the_controller_says_of_a_token_is_passed_on() {
    let (controller, node) = (Controller::start().await, Node::new());
    let agent = node.start().await;
    for reason in [
        "TOKEN_UNKNOWN",
        "TOKEN_EXPIRED",
        "TOKEN_USED",
        "TOKEN_OTHER_HOST",
    ] {
        controller.see(|shared| shared.answer = controller::Answer::Refuse(reason));
        let failure = join(&agent, controller.address, &controller.token())
            .await
            .expect_err("refused");
        assert_eq!(
            (failure.reason.as_str(), failure.hint.as_str()),
            (reason, "make a new one")
        );
        assert_eq!(*agent.state().borrow(), State::WaitingForJoin);
    }
}

#[tokio::test]
async fn a_join_that_was_cut_off_is_repeated_with_the_same_key() {
    let (controller, node) = (Controller::start().await, Node::new());
    controller.see(|shared| shared.answer = controller::Answer::CutOnce);
    let agent = node.start().await;
    let failure = join(&agent, controller.address, &controller.token())
        .await
        .expect_err("cut");
    assert_eq!(failure.reason, "ENROLMENT_CUT");
    agent.abort().await;
    let agent = node.start().await;
    join(&agent, controller.address, &controller.token())
        .await
        .expect("join");
    controller.see(|shared| assert_eq!(shared.enrolments[0].1, shared.enrolments[1].1));
}

#[tokio::test]
async fn a_node_that_is_not_reached_is_told_as_exactly_that() {
    let (controller, node) = (Controller::start().await, Node::new());
    let closed = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("bind")
        .local_addr()
        .expect("address");
    controller.see(|shared| shared.dial_instead = Some(closed.to_string()));
    let agent = node.start().await;
    let done = join(&agent, controller.address, &controller.token())
        .await
        .expect("joined");
    assert_eq!(done.reached, Some(false));
    assert_eq!(done.attempts[0].address, closed.to_string());
    assert!(
        done.attempts[0].error.contains("nothing listens"),
        "{:?}",
        done.attempts
    );
    assert!(done.hint.contains("firewall"), "{}", done.hint);
}

#[tokio::test]
async fn a_taken_port_is_found_before_the_token_is_spent() {
    let (controller, node) = (Controller::start().await, Node::new());
    let taken = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let mut options = node.options();
    options.config.listen = Some(taken.local_addr().expect("address"));
    let agent = canasta_agent::Agent::start(options).await.expect("start");
    let failure = join(&agent, controller.address, &controller.token())
        .await
        .expect_err("taken");
    assert_eq!(failure.reason, "PORT_NOT_OPENED");
    assert!(
        failure.hint.contains("another program listens"),
        "{}",
        failure.hint
    );
    controller.see(|shared| assert!(shared.enrolments.is_empty()));
}

#[tokio::test]
async fn a_prepared_join_waits_for_its_controller_and_is_deleted() {
    let address = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("bind")
        .local_addr()
        .expect("address");
    let authority = Authority::create(Timestamp::now()).expect("authority");
    let token = Token::new(Purpose::Join, authority.ca_pin(), [7; SECRET_BYTES]);
    let node = Node::new();
    let file = node.path("/etc/canasta/join.toml");
    std::fs::create_dir_all(file.parent().expect("parent")).expect("directory");
    std::fs::write(
        &file,
        format!(
            "controller = \"{address}\"\ntoken = \"{}\"\n",
            token.reveal()
        ),
    )
    .expect("write");
    let agent = node.start().await;
    assert_eq!(*agent.state().borrow(), State::WaitingForJoin);
    let _controller = Controller::of(authority, address).await;
    until(&agent, |state| matches!(state, State::Joined { .. })).await;
    agent.shutdown().await;
    assert!(!file.exists());
}

#[tokio::test]
async fn a_prepared_join_that_is_refused_for_good_is_deleted() {
    let (controller, node) = (Controller::start().await, Node::new());
    controller.see(|shared| shared.answer = controller::Answer::Refuse("TOKEN_EXPIRED"));
    let file = node.path("/etc/canasta/join.toml");
    std::fs::create_dir_all(file.parent().expect("parent")).expect("directory");
    let text = format!(
        "controller = \"{}\"\ntoken = \"{}\"\n",
        controller.address,
        controller.token().reveal()
    );
    std::fs::write(&file, text).expect("write");
    let agent = node.start().await;
    // An orderly end waits for a join that is under way.
    while controller.see(|shared| shared.enrolments.is_empty()) {
        tokio::task::yield_now().await;
    }
    while file.exists() {
        tokio::task::yield_now().await;
    }
    assert_eq!(*agent.state().borrow(), State::WaitingForJoin);
}

#[tokio::test]
async fn a_prepared_join_that_makes_no_sense_is_deleted() {
    let (controller, node) = (Controller::start().await, Node::new());
    let file = node.path("/etc/canasta/join.toml");
    std::fs::create_dir_all(file.parent().expect("parent")).expect("directory");
    let text = format!("token = {}\n", controller.token().reveal());
    std::fs::write(&file, text).expect("write");
    let agent = node.start().await;
    while file.exists() {
        tokio::task::yield_now().await;
    }
    assert_eq!(*agent.state().borrow(), State::WaitingForJoin);
}

#[tokio::test]
async fn joining_again_replaces_the_fleet_and_a_failed_try_does_not() {
    let (first, _node, agent, mut client) = joined().await;
    let second = Controller::start().await;
    second.see(|shared| shared.answer = controller::Answer::Refuse("TOKEN_USED"));
    join(&agent, second.address, &second.token())
        .await
        .expect_err("refused");
    client
        .get_facts(pb::GetFactsRequest {})
        .await
        .expect("still served");

    second.see(|shared| shared.answer = controller::Answer::Issue);
    join(&agent, second.address, &second.token())
        .await
        .expect("join");
    client
        .get_facts(pb::GetFactsRequest {})
        .await
        .expect_err("its connection was closed");
    let address = agent.local_addr().expect("listening");
    first
        .dial_as(&first.material, address)
        .await
        .expect_err("of another fleet now");
    second
        .dial(address)
        .await
        .get_facts(pb::GetFactsRequest {})
        .await
        .expect("facts");
}

#[tokio::test]
async fn the_socket_tells_the_status_and_refuses_nonsense() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let (_controller, _node, agent, _client) = joined().await;
    let Answer::Status(status) = client::ask(agent.join_socket(), &Ask::Status, |_| {})
        .await
        .expect("status")
    else {
        panic!("no status");
    };
    assert!(
        status.joined && status.state.contains("as cp1"),
        "{status:?}"
    );
    assert!(status.certificate_expires_at.is_some());
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(agent.join_socket())
            .expect("socket")
            .permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    let mut stream = tokio::net::UnixStream::connect(agent.join_socket())
        .await
        .expect("connect");
    stream
        .write_all(b"{\"token\":\"secret\"}\n")
        .await
        .expect("write");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("read");
    assert!(
        answer.contains("NOT_UNDERSTOOD") && !answer.contains("secret"),
        "{answer}"
    );
}

#[tokio::test]
async fn an_agent_that_does_not_run_is_told_with_the_way_to_start_it() {
    let node = Node::new();
    let path = node.path("/run/canasta-agent/join.sock");
    let error = client::ask(&path, &Ask::Status, |_| {})
        .await
        .expect_err("nobody there");
    assert!(error.hint().contains("systemctl start canasta-agent"));
}
