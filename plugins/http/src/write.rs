//! A change of a resource: the request that asks its source for it, and what the answer means. Pure but for the secrets; must
//! not know how it is sent.

use crate::answer::{failure, validator};
use crate::exports::larder::plugin::writer::{Mutation, Operation, Precondition, Receipt};
use crate::fetch::{Lost, Response};
use crate::request::{self, Ask};
use crate::settings::{Method, Settings};
use larder_plugin_support::{Failure, FailureKind};

/// The host takes a change that failed so for one that may have been made.
const OUTCOME_UNKNOWN: &str = "outcome-unknown";

/// The request for a change: to the URL that a load would ask, with the body as the client sent it.
///
/// # Errors
/// As those of a load.
pub(crate) fn ask(settings: &Settings, mutation: Mutation) -> Result<Ask, Failure> {
    let mut ask = request::ask(settings, &mutation.target, None)?;
    ask.headers.retain(|(name, _)| name != "content-type");
    let mut add = |name: &str, value: String| ask.headers.push((name.to_owned(), value));
    match mutation.expect {
        Precondition::None => {}
        Precondition::Absent => add("if-none-match", "*".to_owned()),
        Precondition::Present => add("if-match", "*".to_owned()),
        Precondition::Matches(known) => add("if-match", known.etag.unwrap_or_default()),
    }
    add(
        "idempotency-key",
        format!("\"{}\"", mutation.idempotency_key),
    );
    match mutation.operation {
        Operation::Put(payload) => {
            if let Some(content_type) = payload.content_type {
                add("content-type", content_type);
            }
            ask.method = Method::Put;
            ask.body = Some(payload.body);
        }
        Operation::Delete => {
            ask.method = Method::Delete;
            ask.body = None;
        }
    }
    Ok(ask)
}

/// What a whole answer means. What is not there any more is removed.
///
/// # Errors
/// A failure with the status in its details.
pub(crate) fn receipt(response: &Response, method: Method) -> Result<Receipt, Failure> {
    let status = response.status;
    let done = Receipt {
        created: status == 201,
        validator: validator(response),
        entry: None,
        tags: Vec::new(),
        hints: Vec::new(),
    };
    let (kind, code) = match status {
        // Accepted, or done in part: nobody knows.
        202 | 207 => (FailureKind::Unavailable, Some(OUTCOME_UNKNOWN)),
        200..=299 => return Ok(done),
        404 | 410 if method == Method::Delete => {
            return Ok(Receipt {
                validator: None,
                ..done
            });
        }
        400 | 413 | 415 | 422 => (FailureKind::InvalidRequest, None),
        401 | 403 => (FailureKind::Denied, None),
        409 | 412 | 428 => (FailureKind::Conflict, None),
        429 => (FailureKind::RateLimited, None),
        503 => (FailureKind::Unavailable, None),
        // It may have come half way, or all of it.
        500..=599 => (FailureKind::Unavailable, Some(OUTCOME_UNKNOWN)),
        _ => (FailureKind::Internal, None),
    };
    let named = format!("origin-status-{status}");
    Err(failure(response, kind, code.unwrap_or(&named)))
}

/// No whole answer: only where no connection came about, nothing was sent.
pub(crate) fn lost(lost: Lost) -> Failure {
    let Lost {
        mut failure, sent, ..
    } = lost;
    if sent && failure.kind == FailureKind::Unavailable {
        failure.code = OUTCOME_UNKNOWN.to_owned();
    }
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(status: u16, method: Method) -> String {
        let response = Response {
            status,
            headers: vec![("ETag".to_owned(), b"\"v2\"".to_vec())],
            body: Vec::new(),
        };
        match receipt(&response, method) {
            Ok(receipt) if receipt.created => "created".to_owned(),
            Ok(_) => "done".to_owned(),
            Err(failure) if failure.code == OUTCOME_UNKNOWN => "unknown".to_owned(),
            Err(failure) => format!("{:?}", failure.kind),
        }
    }

    #[test]
    fn every_status_has_its_meaning() {
        for (status, wanted) in [
            (200, "done"),
            (201, "created"),
            (204, "done"),
            (202, "unknown"),
            (400, "InvalidRequest"),
            (403, "Denied"),
            (404, "Internal"),
            (409, "Conflict"),
            (412, "Conflict"),
            (429, "RateLimited"),
            (500, "unknown"),
            (502, "unknown"),
            (503, "Unavailable"),
            (302, "Internal"),
        ] {
            let found = kind(status, Method::Put);
            assert!(found.ends_with(wanted), "{status} is {found}, not {wanted}");
        }
        assert_eq!(kind(404, Method::Delete), "done");
        assert_eq!(kind(410, Method::Delete), "done");
    }
}
