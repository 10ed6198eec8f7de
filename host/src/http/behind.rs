//! A change that is accepted before it is made: what its client is told, at once and when it asks again.

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use serde_json::{Value, json};

use super::respond::{CACHE_STATUS, value};
use super::write::Refused;
use super::{Body, Service, problem};
use crate::cache::queue::{Known, State, WriteId, accepted_ms};
use crate::error::{Failure, FailureKind};
use crate::write::behind::{Accepted, Behind, NotAccepted};

/// Under which a client asks what became of its change.
pub(super) const PATH: &str = "/writes/";

/// The conditions of a request, which nobody can be asked for before the change is made.
const CONDITIONS: [header::HeaderName; 4] = [
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_UNMODIFIED_SINCE,
];

/// A change on a condition is refused where it is answered before it is made.
pub(super) fn refuse_conditions(headers: &http::HeaderMap) -> Result<(), Refused> {
    match CONDITIONS.iter().find(|name| headers.contains_key(*name)) {
        None => Ok(()),
        Some(name) => Err(Refused(
            StatusCode::UNPROCESSABLE_ENTITY,
            "needs-write-through",
            format!(
                "this route accepts a change before its source is asked, so `{name}` cannot be judged: leave it out, or have the route write through"
            ),
        )),
    }
}

/// The answer to a change that was accepted.
pub(super) fn accepted(accepted: &Accepted) -> Response<Body> {
    let mut response = answer(
        StatusCode::ACCEPTED,
        &described(&accepted.id, &accepted.known),
    );
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, value(format!("{PATH}{}", accepted.id)));
    let again = if accepted.again {
        "; detail=idempotency-key"
    } else {
        ""
    };
    headers.insert(
        CACHE_STATUS,
        value(format!("larder; fwd=method; fwd-status=202{again}")),
    );
    response
}

/// The answer to one that was not.
pub(super) fn not_accepted(why: NotAccepted) -> Response<Body> {
    match why {
        NotAccepted::Failed(failure) => problem::write_failed(&failure, false),
        NotAccepted::Another => super::write::key_reused(),
        NotAccepted::TooLong { share } => problem::of_write(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body-too-long",
            format!(
                "a part of the queue takes {share} bytes ([writes] max_bytes), and this change is longer"
            ),
        ),
    }
}

impl Service {
    /// Answers `GET /writes/ID`.
    pub(super) async fn told<B>(&self, behind: &Behind, request: &Request<B>) -> Response<Body> {
        let path = request.uri().path();
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return problem::method_not_allowed(path, false);
        }
        let id = path.strip_prefix(PATH).unwrap_or_default();
        let unknown = || {
            problem::of_write(
                StatusCode::NOT_FOUND,
                "unknown-write",
                format!(
                    "no change {id:?} is known: what became of one is told for 24 hours, and nothing of one that an operator dropped"
                ),
            )
        };
        let Ok(id) = id.parse::<WriteId>() else {
            return unknown();
        };
        match behind.find(&id).await {
            Ok(Some(known)) => {
                let mut response = answer(StatusCode::OK, &described(&id, &known));
                response
                    .headers_mut()
                    .insert(CACHE_STATUS, value("larder; detail=write".to_owned()));
                response
            }
            Ok(None) => unknown(),
            Err(error) => {
                let failure = Failure::host(
                    FailureKind::Overloaded,
                    "queue-unavailable",
                    error.to_string(),
                );
                problem::write_failed(&failure, false)
            }
        }
    }
}

fn answer(status: StatusCode, body: &Value) -> Response<Body> {
    let mut response = Response::new(Body::whole(format!("{body}\n")));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A change as its client is told of it; times in milliseconds since 1970.
fn described(id: &WriteId, known: &Known) -> Value {
    let mut told = json!({
        "id": id.as_str(),
        "accepted_ms": accepted_ms(known.sequence),
    });
    let more = match &known.state {
        State::Pending => json!({"state": "pending"}),
        State::Applied { at_ms } => json!({"state": "applied", "applied_ms": at_ms}),
        State::Dead { at_ms, reason } => json!({
            "state": "dead",
            "dead_ms": at_ms,
            "reason": serde_json::from_str::<Value>(reason).unwrap_or(Value::Null),
        }),
    };
    if let (Value::Object(told), Value::Object(more)) = (&mut told, more) {
        told.extend(more);
    }
    told
}
