//! One exchange through `wasi:http` 0.3. Must not know what a status means.

use std::future::Future;

use wasip3::clocks::monotonic_clock;
use wasip3::http::client;
use wasip3::http::types::{self, ErrorCode, Fields, Method, Request as WasiRequest, Scheme};
use wasip3::wit_bindgen::StreamResult;
use wasip3::{wit_future, wit_stream};

use super::{Fault, Request, Response};
use crate::contract::types::FailureKind;

pub(super) async fn send(request: Request) -> Result<Response, Fault> {
    let Request {
        method,
        url,
        headers,
        body,
        timeout,
        body_bytes_max,
    } = request;
    let answer = async {
        let (request, sending) = build(&method, &url, &headers, body)?;
        let exchange = async {
            let response = client::send(request)
                .await
                .map_err(|code| no_answer(&code))?;
            read(response, body_bytes_max).await
        };
        // The body is sent while the answer is awaited; an answer may come before the body was wanted whole.
        race_to_answer(exchange, sending).await
    };
    let too_late = async {
        monotonic_clock::wait_for(timeout.as_nanos().try_into().unwrap_or(u64::MAX)).await;
        Err(fault(
            FailureKind::Timeout,
            "origin-timeout",
            format!(
                "the source did not answer within {} ms",
                timeout.as_millis()
            ),
        ))
    };
    // The one that is late is dropped, and with it the request is given up.
    futures_lite::future::or(answer, too_late).await
}

async fn race_to_answer<T>(
    answer: impl Future<Output = T>,
    sending: impl Future<Output = ()>,
) -> T {
    let sending = async {
        sending.await;
        std::future::pending().await
    };
    futures_lite::future::or(answer, sending).await
}

fn build(
    method: &str,
    url: &str,
    headers: &[(String, String)],
    body: Vec<u8>,
) -> Result<(WasiRequest, impl Future<Output = ()> + use<>), Fault> {
    let invalid = || {
        fault(
            FailureKind::Internal,
            "url-invalid",
            format!("`{url}` is no http or https URL"),
        )
    };
    let uri: http::Uri = url.parse().map_err(|_| invalid())?;
    let scheme = match uri.scheme_str() {
        Some("http") => Scheme::Http,
        Some("https") => Scheme::Https,
        _ => return Err(invalid()),
    };
    let fields = Fields::new();
    for (name, value) in headers {
        fields.append(name, value.as_bytes()).map_err(|error| {
            let message = format!("the header `{name}` cannot be sent ({error:?})");
            fault(FailureKind::Internal, "header-invalid", message)
        })?;
    }
    let (stream, writer) = if body.is_empty() {
        (None, None)
    } else {
        // A source may refuse a body whose length it is not told.
        let _ = fields.append("content-length", body.len().to_string().as_bytes());
        let (writer, stream) = wit_stream::new();
        (Some(stream), Some(writer))
    };
    // Dropping the writing end says: no trailers. What becomes of the sending is told by the answer.
    let (_, trailers) = wit_future::new(|| Ok(None));
    let (request, _sent) = WasiRequest::new(fields, stream, trailers, None);
    let parts_fit = request.set_method(&self::method(method)).is_ok()
        && request.set_scheme(Some(&scheme)).is_ok()
        && request
            .set_authority(uri.authority().map(http::uri::Authority::as_str))
            .is_ok()
        && request
            .set_path_with_query(uri.path_and_query().map(http::uri::PathAndQuery::as_str))
            .is_ok();
    if !parts_fit {
        return Err(invalid());
    }
    let sending = async move {
        if let Some(mut writer) = writer {
            // What is left was not wanted: the answer tells why.
            let _ = writer.write_all(body).await;
        }
    };
    Ok((request, sending))
}

fn method(name: &str) -> Method {
    match name {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
        "PUT" => Method::Put,
        "DELETE" => Method::Delete,
        "PATCH" => Method::Patch,
        other => Method::Other(other.to_owned()),
    }
}

async fn read(response: types::Response, body_bytes_max: usize) -> Result<Response, Fault> {
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
        if body.len() > body_bytes_max {
            return Err(fault(
                FailureKind::Internal,
                "body-too-long",
                format!("the answer is longer than {body_bytes_max} bytes"),
            ));
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
fn no_answer(code: &ErrorCode) -> Fault {
    let (kind, word, remedy) = match code {
        ErrorCode::ConnectionTimeout
        | ErrorCode::ConnectionReadTimeout
        | ErrorCode::ConnectionWriteTimeout
        | ErrorCode::DnsTimeout
        | ErrorCode::HttpResponseTimeout => (FailureKind::Timeout, "origin-timeout", ""),
        ErrorCode::HttpRequestDenied | ErrorCode::DestinationIpProhibited => (
            FailureKind::Internal,
            "origin-not-granted",
            "; add the origin to `http` in [grants] of the sidecar",
        ),
        ErrorCode::HttpRequestUriInvalid | ErrorCode::HttpRequestUriTooLong => {
            (FailureKind::Internal, "url-invalid", "")
        }
        _ => (FailureKind::Unavailable, "origin-unreachable", ""),
    };
    fault(
        kind,
        word,
        format!("no answer from the source: {code:?}{remedy}"),
    )
}

fn fault(kind: FailureKind, code: &'static str, message: String) -> Fault {
    Fault {
        kind,
        code,
        message,
    }
}
