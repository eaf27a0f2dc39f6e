//! Operations as they are listed.

use canasta_proto::pb;
use canasta_proto::pb::operation_service_client::OperationServiceClient;
use jiff::Timestamp;
use prost::Message as _;

use crate::support::Lab;

/// The most that one may ask for.
const MOST: u32 = 500;

#[tokio::test]
async fn a_long_list_of_failed_operations_fits_into_a_message() {
    let lab = Lab::start().await;
    let error = pb::ErrorReport {
        reason: "K3S_EXITED".to_owned(),
        message: "k3s on cp1 has exited".to_owned(),
        causes: vec!["it said so itself".to_owned()],
        hint: "see `journalctl -u k3s` on cp1".to_owned(),
        evidence: vec![pb::Evidence {
            title: "journal of k3s.service".to_owned(),
            lines: vec!["level=fatal msg=\"so it went\"".repeat(4); 200],
            source: "agent on cp1".to_owned(),
            at: None,
        }],
        ..pb::ErrorReport::default()
    };
    let pool = lab.controller().store().pool();
    for index in 0..MOST {
        let id = format!("{index:08}-0000-7000-8000-000000000000");
        sqlx::query(
            "INSERT INTO operations (id, kind, title, state, started_by, started_at, hosts, request, error, last_seq)
             VALUES (?1, 'install-k8s-cp', 'install', 4, 'user otto', ?3, '[\"cp1\"]', '{}', ?2, 1)",
        )
        .bind(&id)
        .bind(error.encode_to_vec())
        .bind(Timestamp::now().as_millisecond())
        .execute(pool)
        .await
        .expect("operation");
        sqlx::query(
            "INSERT INTO operation_steps (operation_id, position, id, title, host, state, error)
             VALUES (?1, 0, 'start-service', 'start', 'cp1', 4, ?2)",
        )
        .bind(&id)
        .bind(error.encode_to_vec())
        .execute(pool)
        .await
        .expect("step");
    }
    let mut client = OperationServiceClient::new(lab.local().await);
    let request = pb::ListOperationsRequest {
        limit: MOST,
        host: String::new(),
    };
    let answer = client.list_operations(request).await.expect("a list");
    let operations = answer.into_inner().operations;
    assert_eq!(operations.len(), MOST as usize);
    for operation in &operations {
        let shown = operation.error.as_ref().expect("why");
        assert_eq!(
            (shown.reason.as_str(), shown.evidence.len()),
            ("K3S_EXITED", 0)
        );
        let step = operation.steps[0].error.as_ref().expect("why");
        assert_eq!(
            (step.hint.as_str(), step.evidence.len()),
            (error.hint.as_str(), 0)
        );
    }
    // One of them is shown with all that was seen.
    let request = pb::GetOperationRequest {
        id: operations[0].id.clone(),
    };
    let answer = client.get_operation(request).await.expect("shown");
    let shown = answer.into_inner().operation.expect("operation");
    assert_eq!(shown.error.expect("why").evidence.len(), 1);
}
