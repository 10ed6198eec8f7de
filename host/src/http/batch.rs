//! `POST /_batch`: many reads in one request, told in the order in which they come about. Each goes the way of a GET of its
//! own, with the headers of the request; knows nothing of what it becomes there.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;
use http::header::{self, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use serde_json::{Value, json};

use super::respond::{CACHE_STATUS, value};
use super::write::Refused;
use super::{Body, Looked, Service, problem};
use crate::trace::Span;

/// Where it is asked for.
pub(super) const PATH: &str = "/_batch";

/// Paths of one request (law 12).
const PATHS_MAX: usize = 1000;
/// Reads of one request at once. More than a batching loader takes in one call, so that it is filled.
const AT_ONCE: usize = 128;

/// What belongs to the request itself, and would be wrong of each of its reads: an item is told whole, as it is.
const OF_THE_WHOLE: [HeaderName; 8] = [
    header::ACCEPT_ENCODING,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::RANGE,
    header::TRANSFER_ENCODING,
];

impl Service {
    /// Answers `POST /_batch`: one line of JSON for each path, each path once, whatever becomes of it.
    ///
    /// The reads are tasks of the host: a client that does not take its lines holds back those that are not begun, and no
    /// place among the waiters; one that leaves ends none that another waits for.
    pub(super) async fn batch<B>(self: Arc<Self>, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        if request.method() != Method::POST {
            return method();
        }
        self.metrics.batch_requests.inc();
        let (head, body) = request.into_parts();
        let paths = match self.paths(&head.headers, body).await {
            Ok(paths) => paths,
            Err(Refused(status, code, detail)) => return problem::of_write(status, code, detail),
        };
        self.metrics.batch_items.inc_by(paths.len() as u64);
        let mut headers = head.headers;
        for name in OF_THE_WHOLE {
            headers.remove(name);
        }
        let headers = Arc::new(headers);
        let span = Span::current();
        let reads = stream::iter(paths).map(move |path| {
            let (service, headers, span) = (Arc::clone(&self), Arc::clone(&headers), span.clone());
            let asked = path.clone();
            let read = tokio::spawn(span.scope(async move { service.item(asked, &headers).await }));
            async move {
                match read.await {
                    Ok(line) => line,
                    Err(_) => line(path, aborted()).await,
                }
            }
        });
        let lines = reads
            .buffer_unordered(AT_ONCE)
            .map(|line| Ok(Frame::data(line)));
        let mut response = Response::new(Body::stream(StreamBody::new(lines)));
        let headers = response.headers_mut();
        for (name, text) in [
            (header::CONTENT_TYPE, "application/x-ndjson"),
            (header::CACHE_CONTROL, "no-store"),
            (CACHE_STATUS, "larder; detail=batch"),
        ] {
            headers.insert(name, HeaderValue::from_static(text));
        }
        response
    }

    /// What the request asks for.
    async fn paths<B>(&self, headers: &HeaderMap, body: B) -> Result<Vec<String>, Refused>
    where
        B: http_body::Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let content_type = headers.get(header::CONTENT_TYPE);
        if content_type.is_some_and(|text| !is_json(text)) {
            return Err(Refused(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "content-type-unsupported",
                "the body is to be application/json, and its Content-Type is to say so".to_owned(),
            ));
        }
        let surface = self.routes.load().surface.clone();
        let body = Self::body(&surface, headers, body).await?;
        let invalid = |why: String| {
            let detail = format!("{why}; send for example [\"/data/42\", \"/data/43?lang=de\"]");
            Refused(StatusCode::UNPROCESSABLE_ENTITY, "batch-invalid", detail)
        };
        let paths: Vec<String> = serde_json::from_slice(&body)
            .map_err(|error| invalid(format!("the body is no JSON array of paths: {error}")))?;
        if paths.len() > PATHS_MAX {
            let why = format!("there are {} paths, and {PATHS_MAX} at most", paths.len());
            return Err(invalid(why));
        }
        Ok(paths)
    }

    /// One line.
    async fn item(&self, path: String, headers: &HeaderMap) -> Bytes {
        let is_path = path.starts_with('/') && path.parse::<PathAndQuery>().is_ok();
        let response = if is_path {
            match self.look(&path, headers) {
                Looked::Answered(response) => response,
                Looked::Ask(derived) => self.answer(derived, headers).await,
                Looked::Watch(derived) => self.not_watched(derived, headers).await,
            }
        } else {
            let detail = format!(
                "{path:?} is no path: it begins with a slash, and what is no part of one is percent-encoded"
            );
            self.metrics.unrouted.inc();
            problem::of_write(StatusCode::BAD_REQUEST, "invalid-path", detail)
        };
        line(path, response).await
    }
}

/// A read that ended without a result. Its path is told all the same.
fn aborted() -> Response<Body> {
    problem::of_write(
        StatusCode::INTERNAL_SERVER_ERROR,
        "internal",
        "the read ended without a result; the log says why".to_owned(),
    )
}

fn is_json(content_type: &HeaderValue) -> bool {
    let text = content_type.to_str().unwrap_or_default();
    let essence = text.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

/// `{"path": …, "status": …, "cache_status": …, …, "body": …}`: a body of JSON as it is, of other text as a string, of anything
/// else in Base64 with `"encoding": "base64"`.
pub(super) async fn line(path: String, response: Response<Body>) -> Bytes {
    let (head, body) = response.into_parts();
    let body = match body.collect().await {
        Ok(body) => body.to_bytes(),
        Err(never) => match never {},
    };
    let field = |name: &HeaderName| head.headers.get(name)?.to_str().ok();
    let mut item = json!({
        "path": path,
        "status": head.status.as_u16(),
        "cache_status": field(&CACHE_STATUS),
    });
    for (member, name) in [
        ("content_type", header::CONTENT_TYPE),
        ("etag", header::ETAG),
        ("cache_control", header::CACHE_CONTROL),
        ("retry_after", header::RETRY_AFTER),
    ] {
        if let Some(text) = field(&name) {
            item[member] = text.into();
        }
    }
    if let Some(age) = field(&header::AGE).and_then(|age| age.parse::<u64>().ok()) {
        item["age"] = age.into();
    }
    let says_json = field(&header::CONTENT_TYPE).is_some_and(|text| {
        let essence = text.split(';').next().unwrap_or_default().trim();
        essence.eq_ignore_ascii_case("application/json") || essence.ends_with("+json")
    });
    // Judged and not read: numbers that no type of this program holds stay what they are.
    let is_json = says_json && serde_json::from_slice::<serde::de::IgnoredAny>(&body).is_ok();
    if !is_json {
        match std::str::from_utf8(&body) {
            Ok(text) => item["body"] = text.into(),
            Err(_) => {
                use base64::Engine as _;
                item["encoding"] = "base64".into();
                item["body"] = base64::engine::general_purpose::STANDARD
                    .encode(&body)
                    .into();
            }
        }
        return format!("{item}\n").into();
    }
    with_json(&item, &body)
}

/// The item with JSON as its body. Line breaks stand between tokens alone, for in a string they are escaped: a space there
/// says the same.
fn with_json(item: &Value, body: &[u8]) -> Bytes {
    let mut line = item.to_string().into_bytes();
    line.pop();
    line.extend_from_slice(b",\"body\":");
    let start = line.len();
    line.extend_from_slice(body.trim_ascii());
    for byte in &mut line[start..] {
        if matches!(*byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    line.extend_from_slice(b"}\n");
    line.into()
}

/// What any other method is answered.
pub(super) fn method() -> Response<Body> {
    let detail = format!("{PATH} answers POST, with a JSON array of paths");
    let mut response =
        problem::of_write(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", detail);
    response
        .headers_mut()
        .insert(header::ALLOW, value("POST".to_owned()));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn told(content_type: &'static str, body: &'static [u8]) -> String {
        let mut response = Response::new(Body::whole(body));
        let text = HeaderValue::from_static(content_type);
        response.headers_mut().insert(header::CONTENT_TYPE, text);
        let line = line("/a".to_owned(), response).await;
        String::from_utf8(line.to_vec()).expect("a line is text")
    }

    #[tokio::test]
    async fn a_body_is_told_as_what_it_is_and_a_line_is_one() {
        for (content_type, body, wanted) in [
            (
                "application/json",
                &b"{\n  \"a\":\r\n 1e400 }\n"[..],
                "{   \"a\":   1e400 }",
            ),
            (
                "application/json; charset=utf-8",
                b"123456789012345678901234567890",
                "123456789012345678901234567890",
            ),
            ("application/problem+json", b"{}", "{}"),
            ("application/json", b"{", "\"{\""),
            ("text/plain", b"a\nb", "\"a\\nb\""),
            ("image/png", b"\xff\x00", "\"/wA=\""),
        ] {
            let line = told(content_type, body).await;
            assert!(line.contains(&format!("\"body\":{wanted}")), "{line}");
            assert_eq!(line.matches('\n').count(), 1, "{line}");
            let item: Value = serde_json::from_str(&line).unwrap_or(json!({"path": "/a"}));
            assert_eq!(item["path"], "/a");
        }
        assert!(
            told("image/png", b"\xff")
                .await
                .contains("\"encoding\":\"base64\"")
        );
    }
}
