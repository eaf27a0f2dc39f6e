//! What the standard services say: health of each service, and reflection.

use std::collections::BTreeSet;

use canasta_controller::api::SERVICES;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::support::{Lab, PATIENCE};

fn about(service: &str) -> HealthCheckRequest {
    HealthCheckRequest {
        service: service.to_owned(),
    }
}

#[tokio::test]
async fn each_service_is_serving_until_the_controller_stops() {
    let mut lab = Lab::start().await;
    let mut health = HealthClient::new(lab.local().await);
    for service in SERVICES.iter().chain(&[""]) {
        let answer = health.check(about(service)).await.expect(service);
        assert_eq!(
            answer.into_inner().status(),
            ServingStatus::Serving,
            "{service}"
        );
    }
    health
        .check(about("no.such.Service"))
        .await
        .expect_err("not served");

    let mut watches = Vec::new();
    for service in ["", "canasta.fleet.v1.HostService"] {
        let watch = health.watch(about(service)).await.expect("watch");
        let mut watch = watch.into_inner();
        let first = watch.message().await.expect("open").expect("a status");
        assert_eq!(first.status(), ServingStatus::Serving);
        watches.push(watch);
    }
    // Those who watch hear of it while what runs is brought to its end.
    let heard = async {
        for watch in &mut watches {
            let next = tokio::time::timeout(PATIENCE, watch.message()).await;
            let next = next.expect("at once").expect("open").expect("a status");
            assert_eq!(next.status(), ServingStatus::NotServing);
        }
        drop(watches);
    };
    tokio::join!(lab.down(), heard);
}

#[tokio::test]
async fn reflection_tells_all_services_and_their_messages() {
    let lab = Lab::start().await;
    let mut client = ServerReflectionClient::new(lab.local().await);
    let mut ask = async |request: MessageRequest| {
        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(request),
        };
        let asked = client
            .server_reflection_info(tokio_stream::once(request))
            .await;
        let answer = asked.expect("reflection").into_inner().message().await;
        answer.expect("open").expect("an answer").message_response
    };
    let listed = ask(MessageRequest::ListServices(String::new())).await;
    let Some(MessageResponse::ListServicesResponse(listed)) = listed else {
        panic!("no list but {listed:?}");
    };
    let names: BTreeSet<String> = listed.service.into_iter().map(|one| one.name).collect();
    for service in SERVICES.iter().filter(|name| !name.contains("reflection")) {
        assert!(names.contains(*service), "{service}: {names:?}");
    }
    let symbol = "canasta.fleet.v1.HostService.RemoveHost".to_owned();
    let described = ask(MessageRequest::FileContainingSymbol(symbol)).await;
    assert!(
        matches!(&described, Some(MessageResponse::FileDescriptorResponse(files)) if !files.file_descriptor_proto.is_empty()),
        "{described:?}"
    );
}
