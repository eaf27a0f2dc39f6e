//! An API server for tests: it demands a client certificate, is reached through the tunnel of a test's agent, and keeps
//! objects by their paths.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use canasta_proto::pb;
use futures_util::future::BoxFuture;
use futures_util::stream;
use http::{Method, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::operations::agent::stub::Agent;

/// What is answered.
pub(crate) type Body = BoxBody<Bytes, Infallible>;

/// Serves an API through the tunnel of an agent.
pub(crate) async fn serve(
    agent: &Agent,
    answer: impl Fn(Request<Incoming>) -> BoxFuture<'static, Response<Body>>
    + Clone
    + Send
    + Sync
    + 'static,
) {
    let ca_key = KeyPair::generate().expect("key");
    let mut params = CertificateParams::new(Vec::new()).expect("names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_pem = params.self_signed(&ca_key).expect("CA").pem();
    let issuer = Issuer::new(params, ca_key);
    let leaf = |name: &str| {
        let key = KeyPair::generate().expect("key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("name");
        (
            params.signed_by(&key, &issuer).expect("leaf").pem(),
            key.serialize_pem(),
        )
    };
    let (server, server_key) = leaf("127.0.0.1");
    let (client, client_key) = leaf("admin");
    let certificate = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM");
    let mut roots = RootCertStore::empty();
    roots.add(certificate(&ca_pem)).expect("CA");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .expect("verifier");
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            vec![certificate(&server)],
            PrivateKeyDer::from_pem_slice(server_key.as_bytes()).expect("key"),
        )
        .expect("certificate");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, answer) = (acceptor.clone(), answer.clone());
            tokio::spawn(async move {
                let stream = acceptor.accept(stream).await.expect("handshake");
                let service = hyper::service::service_fn(move |request| {
                    let answered = answer(request);
                    async move { Ok::<_, Infallible>(answered.await) }
                });
                // The client may leave in the middle of a watch.
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    let credentials = pb::GetApiCredentialsResponse {
        ca_certificate: ca_pem.into(),
        client_certificate: client.into(),
        client_key: client_key.into(),
        server_name: "127.0.0.1".to_owned(),
    };
    *agent.api.lock().expect("api") = Some((address, credentials));
}

/// Objects by path: `/api/v1/nodes/w1`.
#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<String, Value>,
    /// What keeps a pod, by its path: the code of the refusal and its words.
    budgets: BTreeMap<String, (u16, String)>,
    /// Method and path of all that changed something.
    changes: Vec<String>,
    eviction: String,
    /// What somebody else changes just before the next patch.
    meanwhile: Option<Value>,
}

/// An API that keeps what is put into it.
#[derive(Debug, Clone)]
pub(crate) struct FakeApi(Arc<Mutex<State>>);

impl FakeApi {
    /// Serves through an agent; evictions are known in this version.
    pub(crate) async fn start(agent: &Agent, eviction: &str) -> Self {
        let state = State {
            eviction: eviction.to_owned(),
            ..State::default()
        };
        let api = Self(Arc::new(Mutex::new(state)));
        let served = api.clone();
        serve(agent, move |request| {
            Box::pin(served.clone().answer(request))
        })
        .await;
        api
    }

    pub(crate) fn put(&self, path: &str, object: Value) {
        self.lock().objects.insert(path.to_owned(), object);
    }

    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.lock().objects.get(path).cloned()
    }

    /// A budget keeps a pod; no text lets it go.
    pub(crate) fn keep_pod(&self, path: &str, why: &str) {
        self.refuse_eviction(path, 429, why);
    }

    /// The eviction of this pod is refused with this code, or not any more where there are no words.
    pub(crate) fn refuse_eviction(&self, path: &str, code: u16, why: &str) {
        let refusal = (code, why.to_owned());
        self.lock().budgets.insert(path.to_owned(), refusal);
    }

    /// Somebody else changes the object just before the next patch of it.
    pub(crate) fn meanwhile(&self, change: Value) {
        self.lock().meanwhile = Some(change);
    }

    /// All that changed something, oldest first.
    pub(crate) fn changes(&self) -> Vec<String> {
        self.lock().changes.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().expect("state")
    }

    async fn answer(self, request: Request<Incoming>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        let path = head.uri.path().to_owned();
        if head.uri.query().unwrap_or_default().contains("watch=") {
            let open = StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>());
            return response(200, BodyExt::boxed(open));
        }
        let mut state = self.lock();
        if head.method != Method::GET {
            state.changes.push(format!("{} {path}", head.method));
        }
        let (status, answer) = match head.method {
            Method::GET => state.read(&path),
            Method::PATCH => state.patch(&path, &serde_json::from_slice(&body).expect("JSON")),
            Method::DELETE => {
                state.delete(&path, &serde_json::from_slice(&body).unwrap_or_default())
            }
            Method::POST => state.evict(&path, &serde_json::from_slice(&body).expect("JSON")),
            other => panic!("nobody asks with {other}"),
        };
        response(status, Full::new(Bytes::from(answer.to_string())).boxed())
    }
}

impl State {
    fn read(&self, path: &str) -> (u16, Value) {
        let list = |items: Vec<Value>| {
            (
                200,
                json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": "7"}, "items": items}),
            )
        };
        let all = |wanted: &dyn Fn(&str) -> bool| {
            let found = self.objects.iter().filter(|(key, _)| wanted(key));
            list(found.map(|(_, object)| object.clone()).collect())
        };
        match path {
            "/version" => (
                200,
                json!({
                    "major": "1", "minor": "34", "gitVersion": "v1.34.8+k3s1", "gitCommit": "", "gitTreeState": "",
                    "buildDate": "", "goVersion": "", "compiler": "", "platform": "",
                }),
            ),
            "/api/v1" => (
                200,
                json!({"kind": "APIResourceList", "groupVersion": "v1", "resources": [
                    {"name": "pods/eviction", "singularName": "", "namespaced": true, "group": "policy",
                     "version": self.eviction, "kind": "Eviction", "verbs": ["create"]},
                ]}),
            ),
            "/api/v1/pods" => all(&|key| key.contains("/pods/")),
            "/api/v1/configmaps" => all(&|key| key.contains("/configmaps/")),
            "/api/v1/nodes"
            | "/api/v1/persistentvolumes"
            | "/api/v1/namespaces/kube-system/secrets" => {
                all(&|key| key.starts_with(&format!("{path}/")))
            }
            _ => match self.objects.get(path) {
                Some(object) => (200, object.clone()),
                None => missing(path),
            },
        }
    }

    fn delete(&mut self, path: &str, options: &Value) -> (u16, Value) {
        let wanted = &options["preconditions"]["uid"];
        match self.objects.get(path) {
            Some(object) if !wanted.is_null() && object["metadata"]["uid"] != *wanted => conflict(),
            Some(_) => (200, self.objects.remove(path).expect("there")),
            None => missing(path),
        }
    }

    fn patch(&mut self, path: &str, change: &Value) -> (u16, Value) {
        let meanwhile = self.meanwhile.take();
        match self.objects.get_mut(path) {
            Some(object) => {
                if let Some(other) = meanwhile {
                    merge(object, &other);
                    object["metadata"]["resourceVersion"] = "8".into();
                }
                let wanted = &change["metadata"]["resourceVersion"];
                if !wanted.is_null() && object["metadata"]["resourceVersion"] != *wanted {
                    return conflict();
                }
                merge(object, change);
                (200, object.clone())
            }
            None => missing(path),
        }
    }

    fn evict(&mut self, path: &str, eviction: &Value) -> (u16, Value) {
        let pod = path.strip_suffix("/eviction").expect("an eviction");
        let wanted = format!("policy/{}", self.eviction);
        assert_eq!(eviction["apiVersion"], wanted.as_str());
        let refusal = self.budgets.get(pod).filter(|(_, why)| !why.is_empty());
        if let Some((code, why)) = refusal.filter(|(code, _)| *code != 429) {
            let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": why, "code": code});
            return (*code, status);
        }
        if let Some((_, why)) = refusal {
            return (
                429,
                json!({
                    "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                    "message": "Cannot evict pod as it would violate the pod's disruption budget.",
                    "reason": "TooManyRequests",
                    "details": {"causes": [{"reason": "DisruptionBudget", "message": why}]},
                    "code": 429,
                }),
            );
        }
        match self.objects.remove(pod) {
            Some(_) => (
                201,
                json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
            ),
            None => missing(pod),
        }
    }
}

fn merge(object: &mut Value, change: &Value) {
    let Value::Object(change) = change else {
        *object = change.clone();
        return;
    };
    if !object.is_object() {
        *object = json!({});
    }
    for (key, value) in change {
        if value.is_null() {
            object.as_object_mut().expect("an object").remove(key);
        } else {
            merge(&mut object[key], value);
        }
    }
}

fn conflict() -> (u16, Value) {
    (
        409,
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": "the object is another one by now", "reason": "Conflict", "code": 409,
        }),
    )
}

fn missing(path: &str) -> (u16, Value) {
    (
        404,
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": format!("{path} not found"), "reason": "NotFound", "code": 404,
        }),
    )
}

fn response(status: u16, body: Body) -> Response<Body> {
    Response::builder()
        .status(status)
        .header("content-type", "application/json")
        .body(body)
        .expect("an answer")
}

/// A Node object.
pub(crate) fn node(name: &str, machine_id: &str, boot_id: &str, ready: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "uid": "1", "resourceVersion": "7", "labels": {"kubernetes.io/hostname": name}},
        "spec": {},
        "status": {
            "conditions": [{"type": "Ready", "status": ready, "reason": "KubeletReady", "message": "",
                            "lastHeartbeatTime": "2026-11-23T00:21:38Z"}],
            "nodeInfo": {
                "architecture": "", "bootID": boot_id, "containerRuntimeVersion": "", "kernelVersion": "",
                "kubeProxyVersion": "", "kubeletVersion": "v1.34.8+k3s1", "machineID": machine_id,
                "operatingSystem": "", "osImage": "", "systemUUID": "",
            },
        },
    })
}

/// A Secret of the system's namespace, with the path of it.
pub(crate) fn secret(name: &str, kind: &str, description: &str) -> (String, Value) {
    let encoded = serde_json::to_value(k8s_openapi::ByteString(description.as_bytes().to_vec()));
    let object = json!({
        "apiVersion": "v1", "kind": "Secret", "type": kind,
        "metadata": {"name": name, "namespace": "kube-system"},
        "data": {"description": encoded.expect("base64")},
    });
    (
        format!("/api/v1/namespaces/kube-system/secrets/{name}"),
        object,
    )
}

/// A pod on a node, with the path of it.
pub(crate) fn pod(name: &str, node: &str, owner: &str) -> (String, Value) {
    let object = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "n", "ownerReferences": [
            {"apiVersion": "apps/v1", "kind": owner, "name": "o", "uid": "1", "controller": true},
        ]},
        "spec": {"nodeName": node, "containers": []},
    });
    (format!("/api/v1/namespaces/n/pods/{name}"), object)
}
