//! What happens when: the recorded sequence from the open port to a Node with its network, the watch over other
//! nodes' leases, and saving. Runs for the life of a server.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch::Receiver;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::resources::Resource;
use super::store::{self, Key};
use super::{
    Exit, Phase, Shared, StartError, accounts, controllers, disk, listener, manifests, pods,
    supervisor,
};
use crate::client::{Client, Trust};
use crate::host::peers;
use crate::kubelet::pods::{Addresses, Kubelet};
use crate::{agent, files, kubelet, node};

/// When each node was last heard of.
pub(super) type Leases = Mutex<HashMap<String, Instant>>;

/// Serves until stopped or ended by a fault.
pub(super) async fn run(
    shared: Arc<Shared>,
    listener: TcpListener,
    acceptor: TlsAcceptor,
    mut stopped: Receiver<bool>,
) -> Option<Exit> {
    let mut tasks = JoinSet::new();
    tasks.spawn(listener::serve(Arc::clone(&shared), listener, acceptor));
    tasks.spawn(save_changes(Arc::clone(&shared)));
    tasks.spawn(watch_leases(Arc::clone(&shared)));
    tasks.spawn(kubelet_health(Arc::clone(&shared)));
    tasks.spawn(deploy(Arc::clone(&shared)));
    tasks.spawn(own_pods(Arc::clone(&shared)));
    tasks.spawn(controllers::run(Arc::clone(&shared)));
    let exit = tokio::select! {
        // Also when the handle is dropped.
        _ = stopped.wait_for(|stop| *stop) => None,
        exit = shared.fault_exit() => Some(exit),
        exit = start_up(&shared) => Some(exit),
    };
    tasks.shutdown().await;
    save(&shared).await;
    exit
}

/// Walks through the start. Comes back only if that fails.
async fn start_up(shared: &Arc<Shared>) -> Exit {
    let clock = shared.clock;
    clock.at(2.4).await;
    create_namespaces(shared);
    let writer = Arc::clone(shared);
    let written: Result<(), StartError> = tokio::task::spawn_blocking(move || disk::up(&writer))
        .await
        .unwrap_or_else(|error| Err(StartError::Tls(error.to_string())));
    if let Err(error) = written {
        return Exit {
            code: 1,
            message: error.to_string(),
        };
    }
    shared.enter(Phase::Up);
    clock.at(3.0).await;
    shared.enter(Phase::Hooks);
    clock.at(4.3).await;
    if !shared.faults.no_notify {
        (shared.notify)();
    }
    if shared.faults.never_ready {
        return std::future::pending().await;
    }
    clock.at(5.75).await;
    shared.enter(Phase::Ready);
    clock.at(6.4).await;
    shared.log.info("Kube API server is now running");
    shared.log.info("k3s is up and running");
    own_node(shared).await;
    std::future::pending().await
}

// The kubelet of a server whose API never gets ready does not start either.
async fn kubelet_health(shared: Arc<Shared>) {
    shared.clock.at(10.0).await;
    if !shared.faults.never_ready {
        tokio::join!(
            kubelet::serve(shared.kubelet_health, &shared.log),
            kubelet::serve_api(shared.host.is_some(), &shared.paths, &shared.log),
        );
    }
}

// The server's own kubelet is a client like any other.
fn own_client(shared: &Shared) -> Option<Client> {
    let identity = agent::disk::client(&shared.paths)?;
    let host = shared
        .listen
        .map(|address| address.ip().to_string())
        .or_else(|| shared.config.get("bind-address").map(str::to_owned))
        .unwrap_or_else(|| "127.0.0.1".into());
    let address = format!("{host}:{}", shared.port());
    let authority = Trust::Authority(shared.server_ca.certificate());
    match Client::new(&address, authority, Some(&identity)) {
        Ok(client) => Some(client),
        Err(error) => {
            shared.log.error(error.to_string());
            None
        }
    }
}

async fn own_pods(shared: Arc<Shared>) {
    // A node that really runs pods needs its network first.
    let network_first = shared.host.is_some();
    shared
        .clock
        .at(if network_first { 22.5 } else { 10.5 })
        .await;
    let Some(client) = own_client(&shared) else {
        return;
    };
    let kubelet = Kubelet {
        root: shared.root.clone(),
        client,
        node: shared.node.name.clone(),
        address: shared.node.address.clone(),
        clock: shared.clock,
        log: shared.log.clone(),
        addresses: Addresses::default(),
        host: shared.host.clone(),
    };
    Arc::new(kubelet).run().await;
}

// The deploy controller: the packaged components, then whatever is put into the directory.
async fn deploy(shared: Arc<Shared>) {
    if shared.faults.never_ready {
        return;
    }
    shared.clock.at(8.3).await;
    manifests::local_path(&shared);
    let mut applied = manifests::Applied::default();
    loop {
        let reader = Arc::clone(&shared);
        let mut known = std::mem::take(&mut applied);
        let looked = tokio::task::spawn_blocking(move || {
            manifests::apply(&reader, &mut known);
            known
        });
        match looked.await {
            Ok(known) => applied = known,
            Err(_) => return,
        }
        shared.clock.wait(15.0).await;
    }
}

fn create_namespaces(shared: &Shared) {
    let Some(resource) = shared.resources.find("", "v1", "namespaces") else {
        return;
    };
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        // One that is there from an earlier run stays.
        let _ = shared
            .store
            .create(Key::new(resource, "", name), store::namespace(name));
    }
}

async fn own_node(shared: &Arc<Shared>) {
    let Some(nodes) = shared.resources.find("", "v1", "nodes") else {
        return;
    };
    let clock = shared.clock;
    let key = Key::new(nodes, "", &shared.node.name);
    let change = |change: &dyn Fn(&mut Value)| {
        // A Node that was deleted meanwhile does not come back by itself.
        let _ = shared.store.update(&key, None, |object| change(object));
    };
    clock.at(9.0).await;
    let password = files::read(&shared.paths.node_password()).unwrap_or_default();
    if let Err(message) = supervisor::check_password(shared, &shared.node.name, password.trim()) {
        shared.log.error(message);
        return;
    }
    clock.at(9.9).await;
    if shared.store.get(&key).is_some() {
        change(&|object| shared.node.restarted(object, &shared.root));
    } else {
        // Absent a moment ago, and only this task makes it.
        let _ = shared
            .store
            .create(key.clone(), shared.node.created(&shared.root));
    }
    clock.at(10.15).await;
    change(&node::initialised);
    clock.at(10.4).await;
    change(&node::control_plane);
    if shared.faults.node_never_ready {
        return;
    }
    clock.at(19.8).await;
    accounts::create_defaults(shared);
    clock.at(19.9).await;
    let subnet = shared.store.get(&key).and_then(|object| pod_cidr(&object));
    let subnet = subnet.unwrap_or_else(|| shared.store.allocate_subnet());
    change(&|object| {
        give_subnet(object, &subnet);
        node::ready(object);
    });
    clock.at(20.9).await;
    change(&|object| shared.node.annotated(object));
    clock.at(21.95).await;
    let worker = Arc::clone(shared);
    let up = tokio::task::spawn_blocking(move || network(&worker, &subnet)).await;
    let mac = up
        .ok()
        .flatten()
        .unwrap_or_else(|| shared.node.claimed_mac());
    change(&|object| shared.node.network_up(object, &mac));
    if let (Some(host), Some(client)) = (&shared.host, own_client(shared)) {
        let name = shared.node.name.clone();
        peers::follow(Arc::clone(host), client, name, clock).await;
    }
}

// flannel's lease, and its link if this is a node of its own; answers the link's hardware address.
fn network(shared: &Shared, subnet: &str) -> Option<String> {
    if let Err(error) = agent::disk::subnet(&shared.paths, subnet) {
        shared.log.error(error.to_string());
    }
    let server = format!("{}:{}", shared.node.address, shared.port());
    shared.host.as_ref()?.network_up(subnet, &server)
}

pub(super) fn pod_cidr(object: &Value) -> Option<String> {
    object["spec"]["podCIDR"].as_str().map(str::to_owned)
}

pub(super) fn give_subnet(object: &mut Value, subnet: &str) {
    object["spec"]["podCIDR"] = subnet.into();
    object["spec"]["podCIDRs"] = serde_json::json!([subnet]);
}

/// Notes that a node was heard of. Called by the API for every lease that is written.
pub(super) fn heard(shared: &Shared, node: &str) {
    shared
        .leases
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(node.to_owned(), Instant::now());
}

// Other nodes are judged by their leases, as recorded: unknown after 33 s, evicted 5 s later.
async fn watch_leases(shared: Arc<Shared>) {
    let Some(nodes) = shared.resources.find("", "v1", "nodes") else {
        return;
    };
    loop {
        shared.clock.wait(2.5).await;
        supervisor::sweep_tokens(&shared);
        for object in shared.store.list(nodes, "").objects {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            if name != shared.node.name {
                judge(&shared, nodes, name);
            }
        }
    }
}

fn judge(shared: &Shared, nodes: &Resource, name: &str) {
    let silent = shared
        .leases
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        // A node that this run never heard of is timed from now.
        .entry(name.to_owned())
        .or_insert_with(Instant::now)
        .elapsed();
    let key = Key::new(nodes, "", name);
    // A node deleted at this moment needs no judgement.
    if silent > shared.clock.scaled(33.0) {
        pods_of_a_lost_node(shared, name, silent > shared.clock.scaled(338.0));
    }
    if silent > shared.clock.scaled(38.0) {
        let _ = shared.store.update(&key, None, |object| {
            node::lost(object);
            node::evicting(object);
        });
    } else if silent > shared.clock.scaled(33.0) {
        let _ = shared.store.update(&key, None, |object| {
            node::lost(object);
        });
    }
}

// They are no longer ready, and after five minutes they are marked for deletion, which nobody there carries out.
fn pods_of_a_lost_node(shared: &Shared, node: &str, evict: bool) {
    for pod in pods::list(shared, "") {
        if pod["spec"]["nodeName"] != node || pods::is_over(&pod) {
            continue;
        }
        let key = pods::key_of(&pod);
        // Gone meanwhile is as good, for both.
        if pods::is_ready(&pod) {
            let _ = shared.store.update(&key, None, |pod| {
                pods::condition(pod, "Ready", "False", None);
            });
        }
        if evict {
            let _ = pods::delete(shared, &key, None);
        }
    }
}

async fn save_changes(shared: Arc<Shared>) {
    loop {
        shared.store.changed().await;
        save(&shared).await;
    }
}

async fn save(shared: &Arc<Shared>) {
    let writer = Arc::clone(shared);
    let written = tokio::task::spawn_blocking(move || {
        let _alone = writer.saving.lock().unwrap_or_else(PoisonError::into_inner);
        files::write(
            &writer.paths.server("db/state.db"),
            0o644,
            writer.store.serialize(),
        )
    })
    .await;
    if let Ok(Err(error)) = written {
        shared.log.error(error.to_string());
    }
}
