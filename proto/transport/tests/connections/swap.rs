//! New certificates while connections run.

use canasta_transport::dial;
use canasta_transport::material::{Material, MaterialError};
use canasta_transport::tls::{ClientTls, ServerTls};
use futures_util::FutureExt as _;

use crate::fleet::Fleet;
use crate::service::{Serving, who};

#[tokio::test]
async fn new_material_is_used_by_new_handshakes_and_old_connections_go_on() {
    let fleet = Fleet::new();
    let (first, second) = (
        fleet.leaf(fleet.agent("cp1")),
        fleet.leaf(fleet.agent("cp1")),
    );
    let agent = first.reloadable();
    let controller = fleet.leaf(fleet.controller()).reloadable();
    let serving = Serving::new(ServerTls::agent(agent.clone())).await;
    let tls = ClientTls::fleet(controller.clone(), fleet.agent("cp1"));
    let limits = dial::Limits::default();
    let old = dial::connect(&serving.address(), &tls, &limits)
        .await
        .expect("dialled");
    assert_eq!(old.presented.facts, *first.material().facts());
    assert!(agent.first_use().wait().await, "the first was used");

    let used_by_agent = agent.replace(second.material());
    let used_by_controller = controller.replace(fleet.leaf(fleet.controller()).material());
    assert_eq!(who(&old.channel).await, "controller");
    assert_eq!(
        agent.first_use().wait().now_or_never(),
        None,
        "open connections do not use the new one"
    );

    let new = dial::connect(&serving.address(), &tls, &limits)
        .await
        .expect("dialled");
    assert!(used_by_agent.wait().await);
    assert!(used_by_controller.wait().await);
    assert_eq!(new.presented.facts, *second.material().facts());
    for dialled in [&old, &new] {
        assert_eq!(who(&dialled.channel).await, "controller");
    }
    assert_eq!(serving.connections.len(), 2);
}

#[tokio::test]
async fn a_refused_handshake_uses_nothing() {
    let fleet = Fleet::new();
    let agent = fleet.leaf(fleet.agent("cp1")).reloadable();
    let mut serving = Serving::new(ServerTls::agent(agent.clone())).await;
    let user = fleet.leaf(fleet.user("anna")).reloadable();
    let tls = ClientTls::fleet(user.clone(), fleet.agent("cp1"));
    dial::connect(&serving.address(), &tls, &dial::Limits::default())
        .await
        .expect_err("refused");
    serving.refusal().await;
    assert_eq!(agent.first_use().wait().now_or_never(), None);
    assert_eq!(user.first_use().wait().now_or_never(), None);
}

#[tokio::test]
async fn material_that_is_replaced_unseen_was_not_used() {
    let fleet = Fleet::new();
    let agent = fleet.leaf(fleet.agent("cp1")).reloadable();
    let unseen = agent.replace(fleet.leaf(fleet.agent("cp1")).material());
    agent.replace(fleet.leaf(fleet.agent("cp1")).material());
    assert!(!unseen.wait().await);
}

#[test]
fn material_must_belong_together() {
    let (fleet, other) = (Fleet::new(), Fleet::new());
    let (one, two) = (fleet.leaf(fleet.user("a")), fleet.leaf(fleet.user("b")));
    let ca = fleet.authority.certificate();
    assert!(matches!(
        Material::new(&one.der, &two.key, ca),
        Err(MaterialError::Mismatch)
    ));
    assert!(matches!(
        Material::new(&one.der, &one.key, other.authority.certificate()),
        Err(MaterialError::OtherFleet)
    ));
    assert!(matches!(
        Material::new(&one.der, &one.key, &two.der),
        Err(MaterialError::NotACa)
    ));
    assert!(matches!(
        Material::new(b"x", &one.key, ca),
        Err(MaterialError::Certificate(_))
    ));
    let expired = fleet.expired(fleet.user("a"));
    assert_eq!(expired.material().identity(), &fleet.user("a"));
}
