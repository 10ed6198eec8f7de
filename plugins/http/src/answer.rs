//! What an answer of the source means to the cache: every status has its outcome. Pure; must not know how it was had.

use crate::fetch::Response;
use larder_plugin_support::{Entry, Failure, FailureKind, Outcome, Param, Validator};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The outcome of a whole answer.
///
/// # Errors
/// A failure with the status in its details, and when the source said to come back.
pub(crate) fn outcome(response: Response, asked_to_revalidate: bool) -> Result<Outcome, Failure> {
    let status = response.status;
    let kind = match status {
        200..=299 => return Ok(Outcome::Found(entry(response))),
        304 if asked_to_revalidate => return Ok(Outcome::unchanged()),
        404 | 410 => return Ok(Outcome::nothing()),
        400 | 422 => FailureKind::InvalidRequest,
        401 | 403 => FailureKind::Denied,
        429 => FailureKind::RateLimited,
        500..=599 => FailureKind::Unavailable,
        _ => FailureKind::Internal,
    };
    let code = format!("origin-status-{status}");
    Err(failure(&response, kind, &code))
}

/// A failure of the source, with the status in its details, and when it said to come back.
pub(crate) fn failure(response: &Response, kind: FailureKind, code: &str) -> Failure {
    let status = response.status;
    let wait = retry_after(response, SystemTime::now());
    Failure {
        retry_after_ms: wait.and_then(|wait| wait.as_millis().try_into().ok()),
        details: vec![Param {
            name: "status".to_owned(),
            value: status.to_string(),
        }],
        ..Failure::new(
            kind,
            code,
            format!("the source answered with status {status}"),
        )
    }
}

fn entry(response: Response) -> Entry {
    let header = |name| response.header(name).map(str::to_owned);
    Entry {
        status: Some(response.status),
        content_type: header("content-type"),
        // What the body cannot be understood without; the rest is between the source and this plugin.
        headers: ["content-language", "content-disposition", "link"]
            .into_iter()
            .filter_map(|name| {
                Some(Param {
                    name: name.to_owned(),
                    value: header(name)?,
                })
            })
            .collect(),
        validator: validator(&response),
        body: response.body,
        ttl_ms: None,
        tags: Vec::new(),
        hints: Vec::new(),
    }
}

/// `ETag` and `Last-Modified` of an answer, if it has either.
pub(crate) fn validator(response: &Response) -> Option<Validator> {
    let validator = Validator {
        etag: response.header("etag").map(str::to_owned),
        last_modified_ms: response.header("last-modified").and_then(|date| {
            let date = httpdate::parse_http_date(date).ok()?;
            date.duration_since(UNIX_EPOCH)
                .ok()?
                .as_millis()
                .try_into()
                .ok()
        }),
    };
    (validator.etag.is_some() || validator.last_modified_ms.is_some()).then_some(validator)
}

/// `Retry-After` (RFC 9110 10.2.3) of an answer: seconds, or a date.
pub(crate) fn retry_after(response: &Response, now: SystemTime) -> Option<Duration> {
    let value = response.header("retry-after")?;
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::{Outcome, Response, outcome, retry_after};
    use std::time::{Duration, UNIX_EPOCH};

    fn response(status: u16, headers: &[(&str, &str)]) -> Response {
        let headers = headers
            .iter()
            .map(|&(name, value)| (name.to_owned(), value.into()));
        Response {
            status,
            headers: headers.collect(),
            body: Vec::new(),
        }
    }

    #[test]
    fn every_status_has_its_outcome() {
        let check = |status, known, expect: &str| {
            let said = match outcome(response(status, &[]), known) {
                Ok(Outcome::Found(_)) => "found".to_owned(),
                Ok(Outcome::Missing(_)) => "missing".to_owned(),
                Ok(Outcome::NotModified(_)) => "not-modified".to_owned(),
                Err(failure) => format!("{:?}", failure.kind),
            };
            assert!(said.ends_with(expect), "{status} is {said}, not {expect}");
        };
        for (status, expect) in [
            (200, "found"),
            (203, "found"),
            (404, "missing"),
            (410, "missing"),
            (400, "InvalidRequest"),
            (401, "Denied"),
            (403, "Denied"),
            (429, "RateLimited"),
            (500, "Unavailable"),
            (503, "Unavailable"),
            (302, "Internal"),
            (418, "Internal"),
        ] {
            check(status, false, expect);
            check(status, true, expect);
        }
        check(304, true, "not-modified");
        check(304, false, "Internal");
    }

    #[test]
    fn what_was_decoded_is_not_called_encoded() {
        let headers = [("Content-Encoding", "gzip"), ("Content-Language", "de")];
        let Ok(Outcome::Found(entry)) = outcome(response(200, &headers), false) else {
            panic!("an entry")
        };
        let names: Vec<_> = entry.headers.iter().map(|header| &*header.name).collect();
        assert_eq!(names, ["content-language"]);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let date = "Fri, 31 Dec 1999 23:59:59 GMT";
        let now = UNIX_EPOCH + Duration::from_secs(946_684_799 - 30);
        let check = |value, expect: Option<u64>| {
            let wait = retry_after(&response(503, &[("Retry-After", value)]), now);
            assert_eq!(wait, expect.map(Duration::from_secs), "{value}");
        };
        check("120", Some(120));
        check(date, Some(30));
        check("Fri, 31 Dec 1999 23:00:00 GMT", Some(0));
        check("soon", None);
        check("18446744073709551615", Some(u64::MAX));
        let failure = |value| {
            let refused = outcome(response(429, &[("retry-after", value)]), false);
            refused.unwrap_err().retry_after_ms
        };
        assert_eq!(failure("7"), Some(7000));
        assert_eq!(failure("18446744073709551615"), None);
    }
}
