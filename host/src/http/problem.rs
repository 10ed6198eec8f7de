//! A fault becomes a response: `application/problem+json` (RFC 9457) with a stable `type` and `code`.

use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::Body;
use super::respond::{CACHE_STATUS, value};
use crate::error::{Failure, FailureKind};
use crate::route::body::Unfit;
use crate::route::derive::{Fault, Refusal};

/// One problem: `code` is stable, `detail` is for the reader.
struct Problem<'a> {
    status: StatusCode,
    code: &'a str,
    detail: String,
    errors: Option<Value>,
}

impl Problem<'_> {
    fn into_response(self, cache_status: HeaderValue) -> Response<Body> {
        let mut body = json!({
            "type": format!("urn:larder:problem:{}", self.code),
            "title": self.status.canonical_reason().unwrap_or("Problem"),
            "status": self.status.as_u16(),
            "code": self.code,
            "detail": self.detail,
        });
        if let Some(errors) = self.errors {
            body["errors"] = errors;
        }
        let mut response = Response::new(Body::whole(body.to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(CACHE_STATUS, cache_status);
        response
    }

    /// An answer of the host itself, before any cache was asked.
    fn of_host(self) -> Response<Body> {
        let status = value(format!("larder; detail={}", self.code));
        self.into_response(status)
    }
}

/// A request that became no key.
pub fn refused(refusal: &Refusal, path: &str) -> Response<Body> {
    let problem = |status, code, detail: String| Problem {
        status,
        code,
        detail,
        errors: None,
    };
    match refusal {
        Refusal::NoRoute => problem(
            StatusCode::NOT_FOUND,
            "not-found",
            format!("no route has the path {path}"),
        )
        .of_host(),
        Refusal::Starting => {
            let detail = "the server is starting: its plugins are still being judged".to_owned();
            let mut response =
                problem(StatusCode::SERVICE_UNAVAILABLE, "starting", detail).of_host();
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            response
        }
        Refusal::NotUtf8(error) => {
            problem(StatusCode::BAD_REQUEST, "not-utf-8", error.to_string()).of_host()
        }
        Refusal::Invalid(faults) => {
            let detail = match faults.as_slice() {
                [one] => one.message.clone(),
                many => format!("{} parameters do not fit", many.len()),
            };
            let errors = Some(faults.iter().map(item).collect());
            Problem {
                status: StatusCode::UNPROCESSABLE_ENTITY,
                code: "invalid-request",
                detail,
                errors,
            }
            .of_host()
        }
        Refusal::KeyTooLarge(error) => problem(
            StatusCode::UNPROCESSABLE_ENTITY,
            "key-too-large",
            error.to_string(),
        )
        .of_host(),
        Refusal::PolicyKeyTooLarge(error) => problem(
            StatusCode::INTERNAL_SERVER_ERROR,
            "key-too-large",
            error.to_string(),
        )
        .of_host(),
        Refusal::Rejected(failure) => {
            let status = match failure.kind {
                FailureKind::InvalidRequest => StatusCode::UNPROCESSABLE_ENTITY,
                FailureKind::Denied => StatusCode::FORBIDDEN,
                FailureKind::RateLimited => StatusCode::TOO_MANY_REQUESTS,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            };
            of_failure(status, failure)
        }
        Refusal::PolicyFailed(failure) => {
            let status = match failure.kind {
                FailureKind::Overloaded | FailureKind::NotLoaded => StatusCode::SERVICE_UNAVAILABLE,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            };
            of_failure(status, failure)
        }
    }
}

fn of_failure(status: StatusCode, failure: &Failure) -> Response<Body> {
    let detail = failure.message.clone();
    let mut response = Problem {
        status,
        code: code(failure),
        detail,
        errors: details(failure),
    }
    .of_host();
    retry_after(&mut response, failure);
    response
}

fn item(fault: &Fault) -> Value {
    let what = (&*fault.name, &*fault.pointer, &*fault.code, &*fault.message);
    of_fault(fault.place.name(), what, fault.expected.as_ref())
}

/// One thing that is wrong with a request.
fn of_fault(
    place: &str,
    (name, pointer, code, message): (&str, &str, &str, &str),
    expected: Option<&Value>,
) -> Value {
    let mut item = json!({
        "where": place,
        "name": name,
        "pointer": pointer,
        "code": code,
        "message": message,
    });
    if let Some(expected) = expected {
        item["expected"] = expected.clone();
    }
    item
}

/// PUT, DELETE and the rest, on a route that only reads; the rest, on one that `writes`.
pub fn method_not_allowed(path: &str, writes: bool) -> Response<Body> {
    let (detail, allowed) = if writes {
        (
            format!("{path} answers GET, HEAD, PUT and DELETE"),
            "GET, HEAD, PUT, DELETE",
        )
    } else {
        (
            format!("{path} answers GET and HEAD; writes are off for its route"),
            "GET, HEAD",
        )
    };
    let problem = Problem {
        status: StatusCode::METHOD_NOT_ALLOWED,
        code: "method-not-allowed",
        detail,
        errors: None,
    };
    let mut response = problem.of_host();
    response
        .headers_mut()
        .insert(header::ALLOW, HeaderValue::from_static(allowed));
    response
}

/// An absence, remembered or just found.
pub fn missing(cache_status: HeaderValue) -> Response<Body> {
    let detail = "the source has no such resource".to_owned();
    Problem {
        status: StatusCode::NOT_FOUND,
        code: "missing",
        detail,
        errors: None,
    }
    .into_response(cache_status)
}

/// `only-if-cached`, and nothing there (RFC 9111 section 5.2.1.7).
pub fn not_cached() -> Response<Body> {
    let detail = "the request allows only a stored response, and there is none".to_owned();
    Problem {
        status: StatusCode::GATEWAY_TIMEOUT,
        code: "only-if-cached",
        detail,
        errors: None,
    }
    .of_host()
}

/// A load that failed with nothing stale to give.
pub fn load_failed(failure: &Failure, cache_status: HeaderValue) -> Response<Body> {
    let status = load_status(failure);
    let problem = Problem {
        status,
        code: code(failure),
        detail: failure.message.clone(),
        errors: details(failure),
    };
    let mut response = problem.into_response(cache_status);
    retry_after(&mut response, failure);
    response
}

/// A request to change something that is refused before its source is told.
pub fn of_write(status: StatusCode, code: &str, detail: String) -> Response<Body> {
    Problem {
        status,
        code,
        detail,
        errors: None,
    }
    .of_host()
}

/// The body of a PUT that its writer does not take.
pub fn body_unfit(unfit: Unfit) -> Response<Body> {
    let unprocessable = |code, detail, errors| Problem {
        status: StatusCode::UNPROCESSABLE_ENTITY,
        code,
        detail,
        errors,
    };
    match unfit {
        Unfit::MediaType(wanted) => {
            let detail = format!("the body is to be {wanted}, and its Content-Type is to say so");
            let code = "content-type-unsupported";
            let mut response = of_write(StatusCode::UNSUPPORTED_MEDIA_TYPE, code, detail);
            // RFC 9110 section 15.5.16.
            response.headers_mut().insert(header::ACCEPT, value(wanted));
            response
        }
        Unfit::NotJson(why) => {
            let detail = format!("the body is not JSON: {why}");
            unprocessable("body-invalid", detail, None).of_host()
        }
        Unfit::Members(faults) => {
            let detail = match faults.as_slice() {
                [one] if one.pointer.is_empty() => {
                    format!("the body does not fit: {}", one.message)
                }
                [one] => format!("the body does not fit at {}: {}", one.pointer, one.message),
                many => format!("{} members of the body do not fit", many.len()),
            };
            let item = |fault: &crate::route::body::Fault| {
                let what = (&*fault.name, &*fault.pointer, &*fault.code, &*fault.message);
                of_fault("body", what, fault.expected.as_ref())
            };
            let errors = faults.iter().map(item).collect();
            unprocessable("invalid-request", detail, Some(errors)).of_host()
        }
    }
}

/// A change that was not made, or of which nobody knows. `conditional`: the request said on what condition.
pub fn write_failed(failure: &Failure, conditional: bool) -> Response<Body> {
    let status = match failure.kind {
        FailureKind::Conflict if conditional => StatusCode::PRECONDITION_FAILED,
        FailureKind::Conflict => StatusCode::CONFLICT,
        FailureKind::Denied => StatusCode::FORBIDDEN,
        _ => load_status(failure),
    };
    let problem = Problem {
        status,
        code: code(failure),
        detail: failure.message.clone(),
        errors: details(failure),
    };
    let cache_status = value(format!(
        "larder; fwd=method; fwd-status={}; detail={}",
        status.as_u16(),
        code(failure)
    ));
    let mut response = problem.into_response(cache_status);
    retry_after(&mut response, failure);
    response
}

/// The status of a failed load (DESIGN section 6).
pub fn load_status(failure: &Failure) -> StatusCode {
    match failure.kind {
        FailureKind::InvalidRequest => StatusCode::UNPROCESSABLE_ENTITY,
        FailureKind::Timeout => StatusCode::GATEWAY_TIMEOUT,
        FailureKind::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        FailureKind::Overloaded | FailureKind::NotLoaded => StatusCode::SERVICE_UNAVAILABLE,
        FailureKind::Denied
        | FailureKind::Conflict
        | FailureKind::Unavailable
        | FailureKind::Internal => StatusCode::BAD_GATEWAY,
    }
}

/// A failure's code as a token that fits a `type` URN and a `Cache-Status` detail; the kind's name if it does not.
pub fn code(failure: &Failure) -> &str {
    let code = failure.code.as_ref();
    let fits = code.len() <= 64
        && code.starts_with(|c: char| c.is_ascii_alphabetic())
        && code
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    if fits { code } else { failure.kind.name() }
}

fn details(failure: &Failure) -> Option<Value> {
    let items = failure
        .details
        .iter()
        .map(|detail| json!({ "name": detail.name, "message": detail.value }));
    (!failure.details.is_empty()).then(|| items.collect())
}

fn retry_after(response: &mut Response<Body>, failure: &Failure) {
    let wait = match (failure.retry_after, failure.kind) {
        (Some(wait), _) => wait,
        (None, FailureKind::Overloaded | FailureKind::RateLimited | FailureKind::NotLoaded) => {
            std::time::Duration::from_secs(1)
        }
        (None, _) => return,
    };
    // Whole seconds, rounded up: coming back early would be refused again.
    let seconds = wait.as_millis().div_ceil(1000).max(1).to_string();
    response
        .headers_mut()
        .insert(header::RETRY_AFTER, value(seconds));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn law_12_what_is_over_a_bound_is_a_503_that_says_when_to_come_back() {
        let overloaded = Failure::host(FailureKind::Overloaded, "plugin-overloaded", "full");
        let response = load_failed(&overloaded, HeaderValue::from_static("larder"));
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[header::RETRY_AFTER], "1");
        let later = Failure {
            retry_after: Some(std::time::Duration::from_millis(1500)),
            ..overloaded
        };
        let response = load_failed(&later, HeaderValue::from_static("larder"));
        assert_eq!(response.headers()[header::RETRY_AFTER], "2", "rounded up");
    }

    #[tokio::test]
    async fn what_a_body_lacks_is_told_as_of_parameters_one_item_per_fault() {
        use crate::route::body::Fault;
        use http_body_util::BodyExt as _;
        let fault = |name: &str, pointer: &str, code: &str| Fault {
            name: name.to_owned(),
            code: code.to_owned(),
            message: "no".to_owned(),
            pointer: pointer.to_owned(),
            expected: (code == "type").then(|| json!("string")),
        };
        let faults = vec![fault("a", "/a/0", "type"), fault("", "", "required")];
        let response = body_unfit(Unfit::Members(faults));
        assert_eq!(response.status(), StatusCode::UNPROCESSABLE_ENTITY);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let problem: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(problem["code"], "invalid-request");
        assert_eq!(
            problem["errors"],
            json!([
                { "where": "body", "name": "a", "pointer": "/a/0", "code": "type", "message": "no", "expected": "string" },
                { "where": "body", "name": "", "pointer": "", "code": "required", "message": "no" },
            ])
        );
        let response = body_unfit(Unfit::MediaType("application/json".to_owned()));
        assert_eq!(response.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
        assert_eq!(response.headers()[header::ACCEPT], "application/json");
    }
}
