//! Faults that cross a real connection.

use canasta_transport::dial;
use canasta_transport::status::Fault;
use canasta_transport::tls::{ClientTls, ServerTls};
use tonic::Code;

use crate::fleet::Fleet;
use crate::service::{FAIL, Serving, call, fault};

#[tokio::test]
async fn faults_arrive_whole_and_never_too_long() {
    let fleet = Fleet::new();
    let agent = fleet.leaf(fleet.agent("cp1"));
    let serving = Serving::new(ServerTls::agent(agent.reloadable())).await;
    let tls = ClientTls::fleet(
        fleet.leaf(fleet.controller()).reloadable(),
        fleet.agent("cp1"),
    );
    let channel = dial::connect(&serving.address(), &tls, &dial::Limits::default())
        .await
        .expect("dialled")
        .channel;
    let status = call(&channel, FAIL).await.expect_err("a fault");
    assert_eq!(Fault::from_status(&status), fault());

    let status = call(&channel, FAIL + 1).await.expect_err("a fault");
    let endless = Fault::from_status(&status);
    assert_eq!(endless.code, Code::Internal);
    assert_eq!(endless.reason, "ENDLESS");
    assert!(endless.message.len() > 100 && endless.hint.len() > 100);
}
