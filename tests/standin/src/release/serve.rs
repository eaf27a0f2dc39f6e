//! One request to the release server: which asset, which part of it, and what goes wrong on the way.

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use percent_encoding::percent_decode_str;

use super::blob::{Blob, Reader};
use super::cut::Scissors;
use super::{Fault, FaultKind, Source, State};
use crate::trailer::Trailer;

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Answers a request, or never.
pub(super) async fn respond(
    state: Arc<State>,
    scissors: Scissors,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    if state.controls && path.starts_with("/-/") {
        return Ok(control(&state, &path, request).await);
    }
    let range = header(request.headers(), header::RANGE);
    state
        .requests
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(super::Request {
            path: path.clone(),
            range: range.clone(),
        });
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Ok(text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n"));
    }
    let path = percent_decode_str(&path).decode_utf8_lossy();
    let Some((version, asset)) = path.trim_start_matches('/').rsplit_once('/') else {
        return Ok(text(StatusCode::NOT_FOUND, "Not Found\n"));
    };
    let fault = state.strike(asset);
    match &fault {
        Some(FaultKind::NotFound) => return Ok(text(StatusCode::NOT_FOUND, "Not Found\n")),
        Some(FaultKind::ServerError { .. }) => {
            return Ok(text(
                StatusCode::INTERNAL_SERVER_ERROR,
                "Internal Server Error\n",
            ));
        }
        Some(FaultKind::Redirect { to }) => {
            let mut response = text(StatusCode::FOUND, "Found\n");
            let target = format!("{to}{}", request.uri().path());
            set(&mut response, header::LOCATION, &target);
            return Ok(response);
        }
        Some(FaultKind::Hang) => std::future::pending().await,
        Some(FaultKind::TruncateAfter { bytes, .. }) => scissors.cut_after(*bytes),
        _ => {}
    }
    let head = request.method() == Method::HEAD;
    let answer = answer(&state, version, asset, request.headers(), fault, head).await;
    Ok(
        answer
            .unwrap_or_else(|error| text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n"))),
    )
}

async fn answer(
    state: &State,
    version: &str,
    asset: &str,
    headers: &HeaderMap,
    fault: Option<FaultKind>,
    head: bool,
) -> io::Result<Response<Body>> {
    if let Some(file) = state.packaged(&format!("{version}/{asset}")) {
        let blob = Blob::open(&file, Vec::new())?;
        let hash = state.hashes.of(&blob).await?;
        return content(&blob, &hash, headers, fault, head).await;
    }
    let suffix = match asset {
        "k3s" | "sha256sum-amd64.txt" => "",
        "k3s-arm64" | "sha256sum-arm64.txt" => "-arm64",
        "k3s-armhf" | "sha256sum-arm.txt" => "-armhf",
        "k3s-s390x" | "sha256sum-s390x.txt" => "-s390x",
        _ => return Ok(text(StatusCode::NOT_FOUND, "Not Found\n")),
    };
    let Some(blob) = blob(&state.source, version)? else {
        return Ok(text(StatusCode::NOT_FOUND, "Not Found\n"));
    };
    let mut hash = state.hashes.of(&blob).await?;
    if asset.starts_with("sha256sum") {
        if fault == Some(FaultKind::BadChecksum) {
            hash = hash.chars().rev().collect();
            hash.replace_range(..1, if hash.starts_with('0') { "1" } else { "0" });
        }
        let name = match fault {
            Some(FaultKind::NoChecksum) => "k3s-airgap-images.tar".to_owned(),
            _ => format!("k3s{suffix}"),
        };
        return Ok(text(StatusCode::OK, format!("{hash}  {name}\n")));
    }
    content(&blob, &hash, headers, fault, head).await
}

/// Answers with a blob, or the part of it that is asked for.
async fn content(
    blob: &Blob,
    hash: &str,
    headers: &HeaderMap,
    fault: Option<FaultKind>,
    head: bool,
) -> io::Result<Response<Body>> {
    let etag = format!("\"{hash}\"");
    let length = blob.length();
    let wanted = header(headers, header::RANGE)
        .filter(|_| header(headers, header::IF_RANGE).is_none_or(|tag| tag == etag))
        .map(|range| parse_range(&range, length));
    let (status, start, end) = match wanted {
        Some(Range::Part(start, end)) => (StatusCode::PARTIAL_CONTENT, start, end),
        Some(Range::Beyond) => {
            let mut response = text(StatusCode::RANGE_NOT_SATISFIABLE, "");
            set(
                &mut response,
                header::CONTENT_RANGE,
                &format!("bytes */{length}"),
            );
            return Ok(response);
        }
        Some(Range::Unknown) | None => (StatusCode::OK, 0, length),
    };
    let body = if head {
        whole("")
    } else {
        stream_body(blob.reader(start, end).await?, fault)
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    set(
        &mut response,
        header::CONTENT_TYPE,
        "application/octet-stream",
    );
    set(&mut response, header::ACCEPT_RANGES, "bytes");
    set(&mut response, header::ETAG, &etag);
    set(
        &mut response,
        header::CONTENT_LENGTH,
        &(end - start).to_string(),
    );
    if status == StatusCode::PARTIAL_CONTENT {
        let range = format!("bytes {start}-{}/{length}", end - 1);
        set(&mut response, header::CONTENT_RANGE, &range);
    }
    Ok(response)
}

fn blob(source: &Source, version: &str) -> io::Result<Option<Blob>> {
    match source {
        Source::Real { file, version: own } if version == own => {
            Blob::open(file, Vec::new()).map(Some)
        }
        Source::Standin {
            file,
            profile,
            faults,
        } if is_version(version) => {
            let trailer = Trailer {
                version: version.to_owned(),
                profile: *profile,
                faults: faults.clone(),
                scale: None,
            };
            Blob::open(file, trailer.to_bytes()).map(Some)
        }
        Source::Real { .. } | Source::Standin { .. } => Ok(None),
    }
}

// vX.Y.Z+k3sN
fn is_version(text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.strip_prefix('v')
        .and_then(|text| text.split_once("+k3s"))
        .is_some_and(|(numbers, build)| {
            digits(build) && numbers.split('.').count() == 3 && numbers.split('.').all(digits)
        })
}

#[derive(Debug, PartialEq, Eq)]
enum Range {
    Part(u64, u64),
    Beyond,
    Unknown,
}

// One range of bytes, `from-`, `from-to` or `-last`; the end is excluded in the result.
fn parse_range(text: &str, length: u64) -> Range {
    let Some((from, to)) = text
        .strip_prefix("bytes=")
        .and_then(|text| text.split_once('-'))
    else {
        return Range::Unknown;
    };
    let (start, end) = match (from.parse::<u64>(), to.parse::<u64>()) {
        (Ok(from), Ok(to)) => (from, to.saturating_add(1).min(length)),
        (Ok(from), Err(_)) if to.is_empty() => (from, length),
        (Err(_), Ok(last)) if from.is_empty() => (length.saturating_sub(last), length),
        _ => return Range::Unknown,
    };
    if start < end {
        Range::Part(start, end)
    } else {
        Range::Beyond
    }
}

fn stream_body(reader: Reader, fault: Option<FaultKind>) -> Body {
    let rate = match fault {
        Some(FaultKind::Slow { bytes_per_second }) => Some(bytes_per_second.max(1)),
        _ => None,
    };
    // Ten parts a second are slow enough to see.
    let limit = rate.map_or(usize::MAX, |rate| {
        usize::try_from(rate.div_ceil(10)).unwrap_or(usize::MAX)
    });
    let parts = stream::unfold(Some(reader), move |reader| async move {
        let mut reader = reader?;
        if rate.is_some() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        match reader.next(limit).await {
            Ok(Some(part)) => Some((Ok(Frame::data(part)), Some(reader))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    });
    StreamBody::new(parts).boxed_unsync()
}

async fn control(state: &State, path: &str, request: Request<Incoming>) -> Response<Body> {
    match (request.method().as_str(), path) {
        ("GET", "/-/requests") => {
            let body = serde_json::to_vec(&state.requests()).unwrap_or_default();
            text(StatusCode::OK, body)
        }
        ("DELETE", "/-/fault") => {
            state.set_fault(None);
            text(StatusCode::OK, "no fault\n")
        }
        ("POST", "/-/fault") => {
            let body = Limited::new(request.into_body(), 4096).collect().await;
            let bytes = body
                .map(http_body_util::Collected::to_bytes)
                .unwrap_or_default();
            match serde_json::from_slice::<Fault>(&bytes) {
                Ok(fault) => {
                    state.set_fault(Some(fault));
                    text(StatusCode::OK, "as you like\n")
                }
                Err(error) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
            }
        }
        _ => text(StatusCode::NOT_FOUND, "Not Found\n"),
    }
}

fn header(headers: &HeaderMap, name: header::HeaderName) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

fn set(response: &mut Response<Body>, name: header::HeaderName, value: &str) {
    if let Ok(value) = value.parse() {
        response.headers_mut().insert(name, value);
    }
}

fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(whole(body));
    *response.status_mut() = status;
    set(
        &mut response,
        header::CONTENT_TYPE,
        "text/plain; charset=utf-8",
    );
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        assert_eq!(parse_range("bytes=5-", 10), Range::Part(5, 10));
        assert_eq!(parse_range("bytes=5-7", 10), Range::Part(5, 8));
        assert_eq!(parse_range("bytes=-3", 10), Range::Part(7, 10));
        assert_eq!(parse_range("bytes=10-", 10), Range::Beyond);
        assert_eq!(parse_range("lines=1-2", 10), Range::Unknown);
    }

    #[test]
    fn versions() {
        assert!(is_version("v1.34.8+k3s1"));
        for bad in [
            "1.34.8+k3s1",
            "v1.34+k3s1",
            "v1.34.8",
            "v1.34.8+k3s",
            "v1.34.8+k3s1/..",
        ] {
            assert!(!is_version(bad), "{bad}");
        }
    }
}
