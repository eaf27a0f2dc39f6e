//! Watches: a stream of events, one JSON line each, until the client's time is up. Opened by the API.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Response, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::answer::{Body, Status, json as json_answer};
use super::query::Query;
use super::resources::Resource;
use super::store::{Event, Store, Subscription};

/// How long a watch lasts whose client names no limit.
const LONGEST: u64 = 3600;

#[derive(Serialize)]
struct Line<'a, T> {
    #[serde(rename = "type")]
    kind: &'a str,
    object: T,
}

/// Opens a watch on a resource.
pub(super) fn open(
    store: &Store,
    resource: &Resource,
    namespace: &str,
    query: &Query,
) -> Response<Body> {
    let since = query
        .get("resourceVersion")
        .and_then(|text| text.parse().ok());
    let subscription = match store.watch(resource, namespace, since) {
        Ok(subscription) => subscription,
        Err(oldest) => {
            let object = Status::expired(since.unwrap_or_default(), oldest);
            return streaming(json_answer(
                http::StatusCode::OK,
                &Line {
                    kind: "ERROR",
                    object,
                },
            ));
        }
    };
    let limit = query
        .get("timeoutSeconds")
        .and_then(|text| text.parse().ok())
        .unwrap_or(LONGEST);
    let (lines, coming) = mpsc::channel(16);
    let feed = Feed {
        resource: resource.clone(),
        namespace: namespace.to_owned(),
        query: query.clone(),
        lines,
    };
    tokio::spawn(async move {
        let mut last = subscription.version;
        tokio::select! {
            () = feed.run(subscription, &mut last) => {}
            () = feed.lines.closed() => {}
            () = tokio::time::sleep(Duration::from_secs(limit)) => {
                if feed.query.flag("allowWatchBookmarks") {
                    feed.bookmark(last).await;
                }
            }
        }
    });
    let body = StreamBody::new(stream::unfold(coming, |mut coming| async move {
        let line: Bytes = coming.recv().await?;
        Some((Ok::<_, io::Error>(Frame::data(line)), coming))
    }));
    let mut response = Response::new(body.boxed_unsync());
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    streaming(response)
}

fn streaming(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("no-cache, private"),
    );
    response
}

struct Feed {
    resource: Resource,
    namespace: String,
    query: Query,
    lines: mpsc::Sender<Bytes>,
}

impl Feed {
    /// Sends events until the client is gone or the watch falls behind; `last` is the version that it has come to.
    async fn run(&self, mut subscription: Subscription, last: &mut u64) {
        for event in std::mem::take(&mut subscription.due) {
            if self.event(&event).await.is_none() {
                return;
            }
        }
        // A watch that lags ends, and the client begins a new one.
        while let Ok(event) = subscription.coming.recv().await {
            // Older ones were among those that were due.
            if event.version > subscription.version {
                *last = event.version;
                if self.event(&event).await.is_none() {
                    return;
                }
            }
        }
    }

    async fn event(&self, event: &Event) -> Option<()> {
        let other = event.key.resource != self.resource.id()
            || !self.namespace.is_empty() && event.key.namespace != self.namespace;
        if other || !self.query.selects(&event.object) {
            return Some(());
        }
        let object = with_type(&self.resource, (*event.object).clone());
        self.send(event.change.name(), &object).await
    }

    async fn bookmark(&self, version: u64) {
        let object = json!({"kind": self.resource.kind, "apiVersion": self.resource.api_version(),
            "metadata": {"resourceVersion": version.to_string(), "creationTimestamp": null}});
        // The client may be gone.
        let _ = self.send("BOOKMARK", &object).await;
    }

    async fn send(&self, kind: &str, object: &Value) -> Option<()> {
        let mut line = serde_json::to_vec(&Line { kind, object }).ok()?;
        line.push(b'\n');
        self.lines.send(line.into()).await.ok()
    }
}

/// The object with its kind and version, which the store leaves out.
pub(super) fn with_type(resource: &Resource, mut object: Value) -> Value {
    object["kind"] = resource.kind.clone().into();
    object["apiVersion"] = resource.api_version().into();
    object
}
