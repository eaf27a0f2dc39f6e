//! `/livez`, `/readyz` and `/healthz`: the recorded lists of checks, failing and passing.

use http::{Response, StatusCode};

use super::answer::{Body, plain};

const CHECKS: [&str; 20] = [
    "poststarthook/start-kube-apiserver-admission-initializer",
    "poststarthook/generic-apiserver-start-informers",
    "poststarthook/priority-and-fairness-config-consumer",
    "poststarthook/priority-and-fairness-filter",
    "poststarthook/start-apiextensions-informers",
    "poststarthook/start-apiextensions-controllers",
    "poststarthook/crd-informer-synced",
    "poststarthook/bootstrap-controller",
    "poststarthook/rbac/bootstrap-roles",
    "poststarthook/scheduling/bootstrap-system-priority-classes",
    "poststarthook/priority-and-fairness-config-producer",
    "poststarthook/start-cluster-authentication-info-controller",
    "poststarthook/aggregator-reload-proxy-client-cert",
    "poststarthook/start-kube-aggregator-informers",
    "poststarthook/apiservice-registration-controller",
    "poststarthook/apiservice-status-available-controller",
    "poststarthook/kube-apiserver-autoregistration",
    "autoregister-completion",
    "poststarthook/apiservice-openapi-controller",
    "shutdown",
];

/// Answers a health path (without its slash). `up` is how far the API server has come: 0 with its datastore not yet
/// open, 1 with its hooks running, 2 ready.
pub(crate) fn answer(name: &str, up: u8, verbose: bool) -> Response<Body> {
    if up >= 2 && !verbose {
        return plain(StatusCode::OK, "text/plain; charset=utf-8", "ok");
    }
    let mut text = String::from("[+]ping ok\n[+]log ok\n");
    text.push_str(&line("etcd", up >= 1));
    if name == "readyz" {
        text.push_str(&line("informer-sync", true));
    }
    for check in CHECKS {
        let passes = match check {
            "shutdown" if name != "readyz" => continue,
            "shutdown" => true,
            // The slowest hooks: the rest is done once the datastore answers.
            "poststarthook/rbac/bootstrap-roles"
            | "poststarthook/scheduling/bootstrap-system-priority-classes" => up >= 2,
            _ => up >= 1,
        };
        text.push_str(&line(check, passes));
    }
    let (status, outcome) = if up >= 2 {
        (StatusCode::OK, "passed")
    } else {
        (StatusCode::INTERNAL_SERVER_ERROR, "failed")
    };
    text.push_str(name);
    text.push_str(" check ");
    text.push_str(outcome);
    text.push('\n');
    plain(status, "text/plain; charset=utf-8", text)
}

fn line(check: &str, passes: bool) -> String {
    if passes {
        format!("[+]{check} ok\n")
    } else {
        format!("[-]{check} failed: reason withheld\n")
    }
}
