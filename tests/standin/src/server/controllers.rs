//! The controllers: after every change, and now and then without one, they look at all objects and move each one step
//! on. Started by the timeline.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use serde_json::json;
use tokio::sync::broadcast::error::RecvError;

use super::resources::Resource;
use super::store::Key;
use super::{Shared, accounts, budgets, pods, scheduler, volumes};
use crate::clock::kubernetes_now;

const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Runs them until dropped.
pub(super) async fn run(shared: Arc<Shared>) {
    // As soon as the API is up; accounts come later, and pods with them.
    shared.clock.at(6.0).await;
    let mut changes = shared.store.changes();
    let mut orphans = HashMap::new();
    loop {
        pass(&shared, &mut orphans);
        tokio::select! {
            change = changes.recv() => if let Err(RecvError::Closed) = change {
                return;
            },
            () = shared.clock.wait(5.0) => {}
        }
        // What follows at once is looked at together.
        shared.clock.wait(0.1).await;
        while changes.try_recv().is_ok() {}
    }
}

fn pass(shared: &Shared, orphans: &mut HashMap<String, Instant>) {
    if shared.clock.elapsed() >= shared.clock.scaled(19.8) {
        accounts::create_defaults(shared);
    }
    let Some(nodes) = shared.resources.find("", "v1", "nodes") else {
        return;
    };
    taint(shared, nodes);
    volumes::reconcile(shared);
    scheduler::reconcile(shared);
    collect(shared, nodes, orphans);
    budgets::reconcile(shared);
}

// A node that takes no pods has a taint that says so.
fn taint(shared: &Shared, nodes: &Resource) {
    for node in shared.store.list(nodes, "").objects {
        let wanted = node["spec"]["unschedulable"] == true;
        let taints = node["spec"]["taints"].as_array();
        let tainted = taints
            .into_iter()
            .flatten()
            .any(|taint| taint["key"] == UNSCHEDULABLE);
        if wanted == tainted {
            continue;
        }
        let key = Key::new(
            nodes,
            "",
            node["metadata"]["name"].as_str().unwrap_or_default(),
        );
        // A Node deleted at this moment needs no taint.
        let _ = shared.store.update(&key, None, |node| {
            let mut taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
            taints.retain(|taint| taint["key"] != UNSCHEDULABLE);
            if wanted {
                taints.push(json!({"key": UNSCHEDULABLE, "effect": "NoSchedule", "timeAdded": kubernetes_now()}));
            }
            if let Some(spec) = node["spec"].as_object_mut() {
                spec.remove("taints");
                if !taints.is_empty() {
                    spec.insert("taints".into(), taints.into());
                }
            }
        });
    }
}

// Pods of a Node that has been gone for a while go too.
fn collect(shared: &Shared, nodes: &Resource, orphans: &mut HashMap<String, Instant>) {
    let names: Vec<String> = shared
        .store
        .list(nodes, "")
        .objects
        .iter()
        .filter_map(|node| node["metadata"]["name"].as_str().map(str::to_owned))
        .collect();
    orphans.retain(|node, _| !names.contains(node));
    for pod in pods::list(shared, "") {
        let Some(node) = pod["spec"]["nodeName"]
            .as_str()
            .filter(|node| !node.is_empty())
        else {
            continue;
        };
        if names.iter().any(|name| name == node) {
            continue;
        }
        let since = orphans.entry(node.to_owned()).or_insert_with(Instant::now);
        if since.elapsed() > shared.clock.scaled(40.0) {
            // Gone already is as good.
            let _ = pods::delete(shared, &pods::key_of(&pod), Some(0));
        }
    }
}
