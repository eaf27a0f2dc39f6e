//! Removing a user or a host closes what is open at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use canasta_transport::dial::{self, Dialled};
use canasta_transport::refusal::HandshakeRefusal;
use canasta_transport::tls::{ClientTls, ServerTls};
use tonic::Code;

use crate::fleet::Fleet;
use crate::service::{HANG, Hanging, Serving, call, who};

async fn dial(fleet: &Fleet, serving: &Serving, user: &str) -> Dialled {
    let leaf = fleet.leaf(fleet.user(user));
    let tls = ClientTls::fleet(leaf.reloadable(), fleet.controller());
    dial::connect(&serving.address(), &tls, &dial::Limits::default())
        .await
        .expect("dialled")
}

#[tokio::test]
async fn open_connections_of_a_removed_user_are_closed() {
    let fleet = Fleet::new();
    let leaf = fleet.leaf(fleet.controller());
    let tls = ServerTls::controller(leaf.reloadable(), Arc::new(|_, _| Ok(())));
    let mut serving = Serving::new(tls).await;
    let busy = dial(&fleet, &serving, "mallory").await;
    let idle = dial(&fleet, &serving, "mallory").await;
    let good = dial(&fleet, &serving, "anna").await;
    for (dialled, name) in [(&idle, "user mallory"), (&good, "user anna")] {
        assert_eq!(who(&dialled.channel).await, name);
    }
    let hanging = tokio::spawn({
        let channel = busy.channel.clone();
        async move { call(&channel, HANG).await }
    });
    assert_eq!(serving.hanging.recv().await, Some(Hanging::Began));

    let mallory = fleet.user("mallory");
    let closed = serving
        .connections
        .close(|identity, _| *identity == mallory);
    assert_eq!(closed, 2);
    let status = hanging.await.expect("joined").expect_err("cut off");
    assert!(
        matches!(status.code(), Code::Unavailable | Code::Unknown),
        "{status:?}"
    );
    assert_eq!(serving.hanging.recv().await, Some(Hanging::Dropped));

    // A channel does not connect again by itself.
    for dialled in [&busy, &idle] {
        let status = call(&dialled.channel, 0).await.expect_err("closed");
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    }
    assert_eq!(who(&good.channel).await, "user anna");
    assert_eq!(serving.connections.len(), 1);
}

#[tokio::test]
async fn who_is_revoked_during_the_handshake_is_not_let_in() {
    let fleet = Fleet::new();
    let leaf = fleet.leaf(fleet.controller());
    let asked = AtomicUsize::new(0);
    // Good when the handshake asks, revoked when asked again.
    let tls = ServerTls::controller(
        leaf.reloadable(),
        Arc::new(
            move |identity, _| match asked.fetch_add(1, Ordering::SeqCst) {
                0 => Ok(()),
                _ => Err(HandshakeRefusal::Revoked {
                    presented: identity.clone(),
                }),
            },
        ),
    );
    let mut serving = Serving::new(tls).await;
    let own = fleet.leaf(fleet.user("mallory")).reloadable();
    let tls = ClientTls::fleet(own, fleet.controller());
    dial::connect(&serving.address(), &tls, &dial::Limits::default())
        .await
        .expect_err("not let in");
    let (named, refusal) = serving.refusal().await;
    assert_eq!(named.as_deref(), Some("user mallory"));
    assert!(matches!(refusal, HandshakeRefusal::Revoked { .. }));
    assert!(serving.connections.is_empty());
}
