//! One GET through `wasi:http` 0.3, whole or not at all. Must not know what a status means to the cache.

use crate::internal;
use larder_plugin_support::{Failure, FailureKind};
use std::time::Duration;
use wasip3::clocks::monotonic_clock;
use wasip3::http::client;
use wasip3::http::types::{self, ErrorCode, Fields, Request, Scheme};
use wasip3::wit_bindgen::StreamResult;
use wasip3::wit_future;

/// An answer that came whole.
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    /// The first field called `name` (in lower case), if it is text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self
            .headers
            .iter()
            .find(|(field, _)| field.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(value).ok().map(str::trim)
    }
}

/// GETs `url`, waiting at most `timeout` for the end of the answer and taking at most `body_max` bytes of body.
pub(crate) async fn get(
    url: &http::Uri,
    headers: &[(String, String)],
    timeout: Duration,
    body_max: usize,
) -> Result<Response, Failure> {
    let answer = async {
        let response = client::send(request(url, headers)?)
            .await
            .map_err(|code| no_answer(&code))?;
        read(response, body_max).await
    };
    let too_late = async {
        monotonic_clock::wait_for(timeout.as_nanos().try_into().unwrap_or(u64::MAX)).await;
        let message = format!(
            "the source did not answer within {} ms",
            timeout.as_millis()
        );
        Err(Failure::new(
            FailureKind::Timeout,
            "origin-timeout",
            message,
        ))
    };
    // The one that is late is dropped, and with it the request is given up.
    futures_lite::future::or(answer, too_late).await
}

fn request(url: &http::Uri, headers: &[(String, String)]) -> Result<Request, Failure> {
    let fields = Fields::new();
    for (name, value) in headers {
        fields.append(name, value.as_bytes()).map_err(|error| {
            internal(
                "header-refused",
                format!("the header `{name}` cannot be sent as the settings make it ({error:?})"),
            )
        })?;
    }
    // Dropping the writing end says: no trailers. What becomes of the sending is told by the answer.
    let (_, trailers) = wit_future::new(|| Ok(None));
    let (request, _sent) = Request::new(fields, None, trailers, None);
    let scheme = if url.scheme_str() == Some("https") {
        Scheme::Https
    } else {
        Scheme::Http
    };
    let parts_fit = request.set_scheme(Some(&scheme)).is_ok()
        && request
            .set_authority(url.authority().map(http::uri::Authority::as_str))
            .is_ok()
        && request
            .set_path_with_query(url.path_and_query().map(http::uri::PathAndQuery::as_str))
            .is_ok();
    if parts_fit {
        Ok(request)
    } else {
        Err(internal(
            "url-invalid",
            "the host does not take this URL".to_owned(),
        ))
    }
}

async fn read(response: types::Response, body_max: usize) -> Result<Response, Failure> {
    const CHUNK: usize = 64 << 10;
    let status = response.get_status_code();
    let headers = response.get_headers().copy_all();
    let (taken, result) = wit_future::new(|| Ok(()));
    let (mut stream, trailers) = types::Response::consume_body(response, result);
    let mut body = Vec::new();
    loop {
        body.reserve(CHUNK);
        let (state, filled) = stream.read(body).await;
        body = filled;
        if body.len() > body_max {
            let message = format!(
                "the answer is longer than {body_max} bytes; raise `body_max` and [limits] body"
            );
            return Err(internal("body-too-long", message));
        }
        if !matches!(state, StreamResult::Complete(_)) {
            break;
        }
    }
    drop(stream);
    drop(taken);
    // A body that breaks off ends its stream just as a whole one does: what comes after it tells which it was.
    trailers.await.map_err(|code| no_answer(&code))?;
    Ok(Response {
        status,
        headers,
        body,
    })
}

/// Why there is no whole answer.
fn no_answer(code: &ErrorCode) -> Failure {
    let (kind, word, remedy) = match code {
        ErrorCode::ConnectionTimeout
        | ErrorCode::ConnectionReadTimeout
        | ErrorCode::ConnectionWriteTimeout
        | ErrorCode::DnsTimeout
        | ErrorCode::HttpResponseTimeout => (FailureKind::Timeout, "origin-timeout", ""),
        ErrorCode::HttpRequestDenied | ErrorCode::DestinationIpProhibited => (
            FailureKind::Internal,
            "origin-not-granted",
            "; add the origin of `url` to `http` in [grants] of the sidecar",
        ),
        ErrorCode::HttpRequestUriInvalid
        | ErrorCode::HttpRequestUriTooLong
        | ErrorCode::ConfigurationError => (
            FailureKind::Internal,
            "url-invalid",
            "; correct `url` in [config] of the sidecar",
        ),
        _ => (FailureKind::Unavailable, "origin-unreachable", ""),
    };
    Failure::new(
        kind,
        word,
        format!("no answer from the source: {code:?}{remedy}"),
    )
}
