//! PUT and DELETE: a request becomes a change, and what it came to a response. Knows nothing of how it is made.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use tokio::sync::OwnedSemaphorePermit;

use super::behind::refuse_conditions;
use super::conditions::{idempotency_key, precondition};
use super::fields::{self, Sink as _};
use super::respond::{CACHE_STATUS, value};
use super::{Body, Service, problem, told};
use crate::cache::Cache;
use crate::cache::entry::quoted;
use crate::cache::flight::overloaded;
use crate::error::{Failure, FailureKind};
use crate::metrics::Outcome;
use crate::route::derive::Derived;
use crate::route::writing::absent_writer;
use crate::route::{Surface, WriteLink, Writes};
use crate::trace::Span;
use crate::write::behind::Behind;
use crate::write::idempotency::{Begun, Keyed};
use crate::write::notes::Notes;
use crate::write::through::{self, Done, Wish};
use crate::write::{Operation, Payload, Precondition, Writer};

/// Changes that are made at once, with their bodies (law 12): clients that leave do not end them.
pub const WRITES_MAX: usize = 1024;

/// Why a request becomes no change: status, code and what to tell.
pub(super) struct Refused(pub StatusCode, pub &'static str, pub String);

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
        let metrics = Arc::clone(&derived.brief.metrics);
        metrics.request();
        let refused_of = |failure: &Failure| {
            metrics.answer(Outcome::WriteFailed);
            problem::write_failed(failure, false)
        };
        let refused = |Refused(status, code, detail)| {
            metrics.answer(Outcome::Refused);
            let mut response = problem::of_write(status, code, detail);
            if status == StatusCode::REQUEST_TIMEOUT {
                // RFC 9110 section 15.5.9.
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
            }
            response
        };
        let (link, behind) = match (&derived.route.writes, &self.behind) {
            (Writes::Through(link), _) => (link, None),
            (Writes::Behind(link), Some(behind)) => (link, Some(behind)),
            (Writes::Behind(_) | Writes::Off, _) => return self.other_method(path),
        };
        if behind.is_some()
            && let Err(fault) = refuse_conditions(&head.headers)
        {
            return refused(fault);
        }
        let Ok(place) = Arc::clone(&self.writes).try_acquire_owned() else {
            let message = format!("{WRITES_MAX} changes are being made, the most at once");
            return refused_of(&overloaded("too-many-writes", message));
        };
        let body = match Self::body(&snapshot.surface, &head.headers, body).await {
            Ok(body) => body,
            Err(fault) => return refused(fault),
        };
        if head.method == Method::PUT
            && let Err(unfit) = derived.route.check_body(content_type(&head.headers), &body)
        {
            metrics.answer(Outcome::Refused);
            return problem::body_unfit(unfit);
        }
        let wish = match wish(&head.method, &head.headers, body) {
            Ok(wish) => wish,
            Err(fault) => return refused(fault),
        };
        let wish = Wish {
            may_keep: derived.bypass.is_none(),
            ..wish
        };
        let by = match (behind, link) {
            // Whether its writer is there now says nothing of when the change is made.
            (Some(behind), _) => By::Queue(Arc::clone(behind)),
            (None, WriteLink::Ready(writer)) => By::Writer(Arc::clone(writer)),
            (None, WriteLink::NotLoaded { name, why }) => {
                let message = absent_writer(name, why);
                let failure = Failure::host(FailureKind::NotLoaded, "plugin-not-loaded", message);
                return refused_of(&failure);
            }
        };
        let change = Change {
            cache: Arc::clone(&self.cache),
            notes: self.notes.load().as_deref().cloned(),
            derived,
            by,
            wish,
            method: head.method,
            target: target.to_owned(),
            _place: place,
        };
        // In a task of the host: what a client that leaves has asked for is made and remembered all the same.
        match self.tasks.spawn(Span::current().scope(change.make())).await {
            Ok(response) => response,
            Err(_) => {
                let message = "the change ended without a result: the server is stopping; it may have been made";
                let failure = Failure::host(FailureKind::Timeout, "write-aborted", message);
                problem::write_failed(&failure, false)
            }
        }
    }

    /// The whole body, if it is not too long and does not take too long.
    pub(super) async fn body<B>(
        surface: &Surface,
        headers: &HeaderMap,
        body: B,
    ) -> Result<Bytes, Refused>
    where
        B: http_body::Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let max = surface.body_bytes;
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
        let coding = headers.get(header::CONTENT_ENCODING);
        if coding.is_some_and(|coding| coding != "identity") {
            return Err(Refused(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "content-encoding-unsupported",
                "a body is taken as it is: send it without Content-Encoding".to_owned(),
            ));
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
        let collected = tokio::time::timeout(surface.body_time, Limited::new(body, max).collect());
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
                    "the body did not come within {:?} ([server] body_timeout)",
                    surface.body_time
                ),
            )),
        }
    }
}

/// Who takes a change.
enum By {
    /// Makes it.
    Writer(Arc<dyn Writer>),
    /// Keeps it until it is made.
    Queue(Arc<Behind>),
}

/// A change that a client asks for.
struct Change {
    cache: Arc<Cache>,
    notes: Option<Notes>,
    derived: Derived,
    by: By,
    wish: Wish,
    method: Method,
    target: String,
    _place: OwnedSemaphorePermit,
}

impl Change {
    /// Makes it, or answers again what it was answered before.
    async fn make(self) -> Response<Body> {
        let metrics = Arc::clone(&self.derived.brief.metrics);
        let writer = match &self.by {
            By::Writer(writer) => writer,
            // It knows by itself what it has accepted under a key.
            By::Queue(behind) => return self.accept(behind).await,
        };
        let key = self.wish.idempotency_key.clone().zip(self.notes.as_ref());
        let Some((key, notes)) = key else {
            return self.write(writer).await;
        };
        let what = (&self.wish.operation, &self.wish.expect);
        let keyed = Keyed::new(notes, &self.derived.ask, &key, what);
        let refused = |status, code, detail: &str| {
            metrics.answer(Outcome::Refused);
            problem::of_write(status, code, detail.to_owned())
        };
        let is_remembered = match keyed.begin().await {
            Begun::First => true,
            Begun::Unknown => false,
            Begun::Answered(answer) => {
                if let Some(response) = told::again(&answer) {
                    metrics.answer(Outcome::Written);
                    return response;
                }
                false
            }
            Begun::Running => {
                let detail = "the change of this Idempotency-Key is being made; ask again when it is answered";
                let mut response = refused(StatusCode::CONFLICT, "idempotency-key-in-use", detail);
                let wait = HeaderValue::from_static("1");
                response.headers_mut().insert(header::RETRY_AFTER, wait);
                return response;
            }
            Begun::Another => {
                metrics.answer(Outcome::Refused);
                return key_reused();
            }
        };
        let response = self.write(writer).await;
        if !is_remembered {
            return response;
        }
        let (response, answer) = told::remembered(response).await;
        match answer {
            Some(answer) => keyed.answered(&answer).await,
            None => keyed.given_up().await,
        }
        response
    }

    async fn accept(&self, behind: &Behind) -> Response<Body> {
        let metrics = &self.derived.brief.metrics;
        match behind.accept(&self.derived.ask, self.wish.clone()).await {
            Ok(accepted) => {
                metrics.answer(Outcome::WriteAccepted);
                super::behind::accepted(&accepted)
            }
            Err(why) => {
                metrics.answer(Outcome::WriteFailed);
                super::behind::not_accepted(why)
            }
        }
    }

    async fn write(&self, writer: &Arc<dyn Writer>) -> Response<Body> {
        let metrics = &self.derived.brief.metrics;
        let conditional = self.wish.expect != Precondition::None;
        let (ask, wish) = (&self.derived.ask, self.wish.clone());
        match through::write(&self.cache, ask, writer, wish).await {
            Ok(done) => {
                metrics.answer(Outcome::Written);
                written(&self.derived, &done, &self.method, &self.target)
            }
            Err(failure) => {
                metrics.answer(Outcome::WriteFailed);
                problem::write_failed(&failure, conditional)
            }
        }
    }
}

/// A key that stands for another change.
pub(super) fn key_reused() -> Response<Body> {
    problem::of_write(
        StatusCode::UNPROCESSABLE_ENTITY,
        "idempotency-key-reused",
        "another change was sent with this Idempotency-Key; send each with one of its own"
            .to_owned(),
    )
}

/// As a key policy is told it.
fn name(method: &Method) -> &'static str {
    if *method == Method::PUT {
        "PUT"
    } else {
        "DELETE"
    }
}

fn content_type(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::CONTENT_TYPE)?.to_str().ok()
}

fn wish(method: &Method, headers: &HeaderMap, body: Bytes) -> Result<Wish, Refused> {
    let content_type = content_type(headers).map(str::to_owned);
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

/// The answer to a change that was made: the value as a read would now give it, if the writer has said it.
fn written(derived: &Derived, done: &Done, method: &Method, target: &str) -> Response<Body> {
    let status = match (done.receipt.created, method == Method::DELETE, &done.entry) {
        (true, false, _) => StatusCode::CREATED,
        (_, false, Some(_)) => StatusCode::OK,
        _ => StatusCode::NO_CONTENT,
    };
    let mut response = match &done.entry {
        Some(entry) if status != StatusCode::NO_CONTENT => {
            let mut response = Response::new(Body::whole(entry.body()));
            let headers = response.headers_mut();
            headers.put(&header::CONTENT_TYPE, &[fields::content_type(entry)]);
            // RFC 9110 section 9.3.4: what follows is the resource's representation.
            headers.insert(header::CONTENT_LOCATION, value(target.to_owned()));
            fields::of_loader(headers, entry, |_| false);
            response
        }
        _ => Response::new(Body::default()),
    };
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let given = done
        .receipt
        .validator
        .as_ref()
        .filter(|_| *method == Method::PUT);
    let etag = given.and_then(|validator| quoted(validator.etag.as_deref()?));
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
