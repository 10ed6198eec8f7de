//! PUT and DELETE: a request becomes a change, and what it came to a response. Knows nothing of how it is made.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};

use super::respond::{CACHE_STATUS, value};
use super::{Body, Service, problem, respond};
use crate::cache::Validator;
use crate::cache::entry::quoted;
use crate::error::{Failure, FailureKind};
use crate::metrics::Outcome;
use crate::route::derive::Derived;
use crate::route::{WriteLink, Writes};
use crate::write::through::{self, Done, Wish};
use crate::write::{Operation, Payload, Precondition};

/// The most bytes of an `Idempotency-Key`.
const KEY_BYTES_MAX: usize = 255;

/// Why a request becomes no change: status, code and what to tell.
struct Refused(StatusCode, &'static str, String);

impl Service {
    /// Answers a PUT or a DELETE.
    pub(super) async fn write<B>(&self, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (head, body) = request.into_parts();
        let target = head
            .uri
            .path_and_query()
            .map_or("/", http::uri::PathAndQuery::as_str);
        let (path, method) = (head.uri.path(), name(&head.method));
        let snapshot = self.routes.load_full();
        if snapshot
            .find(path)
            .is_some_and(|(route, _)| matches!(route.writes, Writes::Off))
        {
            return self.other_method(path);
        }
        let derived = match snapshot.derive_write(method, target, &head.headers) {
            Ok(derived) => derived,
            Err((route, refusal)) => return self.refused(route.as_deref(), &refusal, path),
        };
        let metrics = Arc::clone(&derived.route.metrics);
        metrics.request();
        let refused = |Refused(status, code, detail)| {
            metrics.answer(Outcome::Refused);
            problem::of_write(status, code, detail)
        };
        let Writes::Through(link) = &derived.route.writes else {
            return self.other_method(path);
        };
        let body = match self.body(&head.headers, body).await {
            Ok(body) => body,
            Err(fault) => return refused(fault),
        };
        let wish = match wish(&head.method, &head.headers, body) {
            Ok(wish) => wish,
            Err(fault) => return refused(fault),
        };
        let wish = Wish {
            may_keep: derived.bypass.is_none(),
            ..wish
        };
        let conditional = wish.expect != Precondition::None;
        let done = match link {
            WriteLink::Ready(writer) => {
                through::write(&self.cache, &derived.ask, writer, wish).await
            }
            WriteLink::NotLoaded { name, why } => Err(Arc::new(Failure::host(
                FailureKind::NotLoaded,
                "plugin-not-loaded",
                format!("the plugin `{name}` that writes for this route is not loaded: {why}"),
            ))),
        };
        match done {
            Ok(done) => {
                metrics.answer(Outcome::Written);
                written(&derived, &done, &head.method, target)
            }
            Err(failure) => {
                metrics.answer(Outcome::WriteFailed);
                problem::write_failed(&failure, conditional)
            }
        }
    }

    /// The whole body, if it is not too long and does not take too long.
    async fn body<B>(&self, headers: &HeaderMap, body: B) -> Result<Bytes, Refused>
    where
        B: http_body::Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let max = self.limits.body_bytes;
        let too_long = || {
            Refused(
                StatusCode::PAYLOAD_TOO_LARGE,
                "body-too-long",
                format!("a body has at most {max} bytes ([server] body_bytes)"),
            )
        };
        // Said beforehand, it is refused beforehand.
        let said = headers.get(header::CONTENT_LENGTH);
        let said = said.and_then(|said| said.to_str().ok()?.parse::<usize>().ok());
        if said.is_some_and(|said| said > max) {
            return Err(too_long());
        }
        if headers.contains_key(header::CONTENT_RANGE) {
            // RFC 9110 section 14.5: it must not be taken for the whole.
            return Err(Refused(
                StatusCode::BAD_REQUEST,
                "partial-put",
                "a part of a resource cannot be written: send all of it, without Content-Range"
                    .to_owned(),
            ));
        }
        let collected =
            tokio::time::timeout(self.limits.body_time, Limited::new(body, max).collect());
        match collected.await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_long()),
            Ok(Err(error)) => Err(Refused(
                StatusCode::BAD_REQUEST,
                "body-cut-short",
                format!("the body did not come whole: {error}"),
            )),
            Err(_) => Err(Refused(
                StatusCode::REQUEST_TIMEOUT,
                "body-too-slow",
                format!(
                    "the body did not come within {:?} ([server] header_timeout)",
                    self.limits.body_time
                ),
            )),
        }
    }
}

/// As a key policy is told it.
fn name(method: &Method) -> &'static str {
    if *method == Method::PUT {
        "PUT"
    } else {
        "DELETE"
    }
}

/// What a client may send.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The longest body of a request.
    pub body_bytes: usize,
    /// How long it may take to come.
    pub body_time: Duration,
}

fn wish(method: &Method, headers: &HeaderMap, body: Bytes) -> Result<Wish, Refused> {
    let content_type = headers.get(header::CONTENT_TYPE);
    let content_type = content_type
        .and_then(|text| text.to_str().ok())
        .map(str::to_owned);
    Ok(Wish {
        operation: if *method == Method::PUT {
            Operation::Put(Payload { content_type, body })
        } else {
            Operation::Delete
        },
        expect: precondition(headers)?,
        idempotency_key: idempotency_key(headers)?,
        may_keep: true,
    })
}

/// `If-Match` and `If-None-Match` (RFC 9110 sections 13.1.1 and 13.1.2), as far as a source can be asked for them.
fn precondition(headers: &HeaderMap) -> Result<Precondition, Refused> {
    let unsupported = |detail: &str| {
        Err(Refused(
            StatusCode::UNPROCESSABLE_ENTITY,
            "precondition-unsupported",
            detail.to_owned(),
        ))
    };
    let one = |name| {
        let mut fields = headers.get_all(name).iter();
        let first = fields
            .next()
            .map(|field| field.to_str().unwrap_or_default().trim());
        (first, fields.next().is_some())
    };
    let failed = |code, detail: String| Err(Refused(StatusCode::PRECONDITION_FAILED, code, detail));
    match (one(header::IF_MATCH), one(header::IF_NONE_MATCH)) {
        ((None, _), (None, _)) => Ok(Precondition::None),
        ((Some(_), _), (Some(_), _)) => {
            unsupported("If-Match and If-None-Match do not go together")
        }
        ((None, _), (Some("*"), false)) => Ok(Precondition::Absent),
        ((None, _), (Some(_), _)) => {
            unsupported("of If-None-Match only * can be asked of a source")
        }
        ((Some("*"), false), _) => Ok(Precondition::Present),
        ((Some(tag), false), _) if tag.starts_with("W/") => {
            // Strong comparison: it matches nothing.
            failed(
                "weak-validator",
                format!("If-Match compares strongly, and {tag} is a weak entity tag"),
            )
        }
        ((Some(tag), false), _) if tag.starts_with("\"~") => failed(
            "no-validator",
            format!(
                "{tag} is a digest that the cache made of the value: its source knows no validator of it, so it cannot be asked"
            ),
        ),
        ((Some(tag), false), _) if quoted(tag).as_deref() == Some(tag) => {
            Ok(Precondition::Matches(Validator {
                etag: Some(tag.to_owned()),
                last_modified_ms: None,
            }))
        }
        ((Some(_), _), _) => unsupported("If-Match has one entity tag in quotes, or *"),
    }
}

/// `Idempotency-Key`, bare or as a string in quotes.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Refused> {
    let Some(key) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    let text = key.to_str().unwrap_or_default().trim();
    let inner = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'));
    let key = inner.unwrap_or(text);
    if key.is_empty() || key.len() > KEY_BYTES_MAX || key.contains(['"', '\\']) {
        return Err(Refused(
            StatusCode::UNPROCESSABLE_ENTITY,
            "idempotency-key-invalid",
            format!(
                "an Idempotency-Key has 1 to {KEY_BYTES_MAX} visible characters without quotes"
            ),
        ));
    }
    Ok(Some(key.to_owned()))
}

/// The answer to a change that was made: the value as a read would now give it, if the writer has said it.
fn written(derived: &Derived, done: &Done, method: &Method, target: &str) -> Response<Body> {
    let status = match (done.receipt.created, method == Method::DELETE, &done.entry) {
        (true, false, _) => StatusCode::CREATED,
        (_, false, Some(_)) => StatusCode::OK,
        _ => StatusCode::NO_CONTENT,
    };
    let mut response = match &done.entry {
        Some(entry) if status != StatusCode::NO_CONTENT => {
            let mut response = Response::new(Full::new(entry.content.body.clone()));
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, respond::content_type(&entry.content));
            // RFC 9110 section 9.3.4: what follows is the resource's representation.
            headers.insert(header::CONTENT_LOCATION, value(target.to_owned()));
            response
        }
        _ => Response::new(Body::default()),
    };
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let given = done.receipt.validator.as_ref();
    let given = given.and_then(|validator| quoted(validator.etag.as_deref()?));
    let etag = given.or_else(|| Some(done.entry.as_ref()?.content.etag.clone()));
    if let Some(etag) = etag.and_then(|etag| HeaderValue::try_from(etag).ok()) {
        headers.insert(header::ETAG, etag);
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let code = status.as_u16();
    let via = derived
        .bypass
        .as_deref()
        .map_or(String::new(), |reason| format!("; detail={reason}"));
    headers.insert(
        CACHE_STATUS,
        value(format!("larder; fwd=method; fwd-status={code}{via}")),
    );
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let fields = fields
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)));
        fields.collect()
    }

    #[test]
    fn conditions_become_what_a_source_can_be_asked() {
        let etag = |etag: &str| {
            Ok(Precondition::Matches(Validator {
                etag: Some(etag.to_owned()),
                last_modified_ms: None,
            }))
        };
        for (fields, wanted) in [
            (&[][..], Ok(Precondition::None)),
            (&[("if-none-match", "*")], Ok(Precondition::Absent)),
            (&[("if-match", "*")], Ok(Precondition::Present)),
            (&[("if-match", "\"a,b\"")], etag("\"a,b\"")),
            (&[("if-match", "\"~00ff\"")], Err("no-validator")),
            (&[("if-match", "W/\"a\"")], Err("weak-validator")),
            (&[("if-match", "a")], Err("precondition-unsupported")),
            (
                &[("if-match", "\"a\", \"b\"")],
                Err("precondition-unsupported"),
            ),
            (
                &[("if-match", "\"a\""), ("if-match", "\"b\"")],
                Err("precondition-unsupported"),
            ),
            (
                &[("if-none-match", "\"a\"")],
                Err("precondition-unsupported"),
            ),
            (
                &[("if-match", "*"), ("if-none-match", "*")],
                Err("precondition-unsupported"),
            ),
        ] {
            let found = precondition(&headers(fields)).map_err(|Refused(_, code, _)| code);
            assert_eq!(found, wanted, "{fields:?}");
        }
    }

    #[test]
    fn idempotency_keys_are_texts_of_a_bounded_length() {
        for (key, wanted) in [
            ("8e03978e-40d5", Some("8e03978e-40d5")),
            ("\"8e03978e-40d5\"", Some("8e03978e-40d5")),
            ("\"\"", None),
            ("a\"b", None),
        ] {
            let found = idempotency_key(&headers(&[("idempotency-key", key)]));
            assert_eq!(found.ok().flatten().as_deref(), wanted, "{key}");
        }
        assert_eq!(idempotency_key(&HeaderMap::new()).ok(), Some(None));
    }
}
