//! One exchange through `wasi:http` 0.3, whole or not at all. Must not know what a status means to the cache.

use crate::decode::{Body, Encoding, too_long};
use crate::internal;
use crate::request::Ask;
use crate::settings::Method;
use larder_plugin_support::{Failure, FailureKind};
use wasip3::clocks::monotonic_clock;
use wasip3::http::client;
use wasip3::http::types::{self, ErrorCode, Fields, Request, Scheme};
use wasip3::wit_bindgen::StreamResult;
use wasip3::{wit_future, wit_stream};

const CHUNK: usize = 64 << 10;

/// An answer that came whole. The body of one that is no success is not looked at.
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    /// The first field called `name` (in lower case), if it is text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }
}

fn header<'h>(headers: &'h [(String, Vec<u8>)], name: &str) -> Option<&'h str> {
    let (_, value) = headers
        .iter()
        .find(|(field, _)| field.eq_ignore_ascii_case(name))?;
    std::str::from_utf8(value).ok().map(str::trim)
}

/// Why there is no answer.
pub(crate) struct Lost {
    pub(crate) failure: Failure,
    /// The connection failed, so the next may not.
    pub(crate) in_passing: bool,
    /// The source may have got the request.
    pub(crate) sent: bool,
}

impl From<Failure> for Lost {
    fn from(failure: Failure) -> Self {
        Self {
            failure,
            in_passing: false,
            sent: false,
        }
    }
}

impl From<ErrorCode> for Lost {
    fn from(code: ErrorCode) -> Self {
        Self {
            in_passing: matches!(
                code,
                ErrorCode::ConnectionRefused
                    | ErrorCode::ConnectionTerminated
                    | ErrorCode::HttpResponseIncomplete
            ),
            sent: !matches!(
                code,
                ErrorCode::ConnectionRefused
                    | ErrorCode::DnsError(_)
                    | ErrorCode::DestinationNotFound
                    | ErrorCode::DestinationUnavailable
                    | ErrorCode::ConnectionLimitReached
                    | ErrorCode::TlsProtocolError
                    | ErrorCode::TlsCertificateError
                    | ErrorCode::TlsAlertReceived(_)
            ),
            failure: no_answer(&code),
        }
    }
}

/// Sends `ask`, and takes at most `body_max` bytes of body in the encodings that were `asked` for. It has no end of its
/// own: who does not want to wait any longer drops it, and with it the request is given up.
pub(crate) async fn exchange(ask: &Ask, asked: &str, body_max: usize) -> Result<Response, Lost> {
    let response = match &ask.body {
        None => client::send(request(ask, None)?).await,
        Some(body) => {
            let (mut writer, contents) = wit_stream::new();
            let sent = client::send(request(ask, Some(contents))?);
            // A source that answers before it has read everything is right to.
            let written = async {
                writer.write_all(body.clone()).await;
                drop(writer);
            };
            futures_lite::future::zip(sent, written).await.0
        }
    };
    // What a change is answered with is not looked at.
    let is_read = matches!(ask.method, Method::Get | Method::Post);
    read(response?, is_read, (asked, body_max)).await
}

fn request(
    ask: &Ask,
    contents: Option<wasip3::wit_bindgen::StreamReader<u8>>,
) -> Result<Request, Failure> {
    let fields = Fields::new();
    let length = ask.body.as_ref().map(|body| body.len().to_string());
    let length = length.map(|length| ("content-length".to_owned(), length));
    for (name, value) in ask.headers.iter().chain(&length) {
        fields.append(name, value.as_bytes()).map_err(|error| {
            internal(
                "header-refused",
                format!("the header `{name}` cannot be sent as the settings make it ({error:?})"),
            )
        })?;
    }
    // Dropping the writing end says: no trailers. What becomes of the sending is told by the answer.
    let (_, trailers) = wit_future::new(|| Ok(None));
    let (request, _sent) = Request::new(fields, contents, trailers, None);
    let url = &ask.url;
    let scheme = if url.scheme_str() == Some("https") {
        Scheme::Https
    } else {
        Scheme::Http
    };
    let method = match ask.method {
        Method::Get => types::Method::Get,
        Method::Post => types::Method::Post,
        Method::Put => types::Method::Put,
        Method::Delete => types::Method::Delete,
    };
    let parts_fit = request.set_method(&method).is_ok()
        && request.set_scheme(Some(&scheme)).is_ok()
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

async fn read(
    response: types::Response,
    is_read: bool,
    (asked, body_max): (&str, usize),
) -> Result<Response, Lost> {
    let status = response.get_status_code();
    let headers = response.get_headers().copy_all();
    let (taken, result) = wit_future::new(|| Ok(()));
    let (mut stream, trailers) = types::Response::consume_body(response, result);
    if !is_read || !(200..300).contains(&status) {
        drain(&mut stream).await;
        return Ok(Response {
            status,
            headers,
            body: Vec::new(),
        });
    }
    let encoding = Encoding::of(header(&headers, "content-encoding"), asked)?;
    let declared = header(&headers, "content-length").and_then(|text| text.parse::<u64>().ok());
    if declared.is_some_and(|length| length > body_max as u64) {
        return Err(too_long(body_max).into());
    }
    let mut body = Body::new(encoding, body_max);
    let mut chunk = Vec::with_capacity(CHUNK);
    loop {
        let (state, filled) = stream.read(chunk).await;
        chunk = filled;
        body.take(&chunk, &breathe).await?;
        chunk.clear();
        if !matches!(state, StreamResult::Complete(_)) {
            break;
        }
    }
    drop(stream);
    drop(taken);
    // A body that breaks off ends its stream just as a whole one does: what comes after it tells which it was.
    trailers.await?;
    Ok(Response {
        status,
        headers,
        body: body.end()?,
    })
}

/// Reads over the body of an answer that is no success, so that the connection can be used again; not for long.
async fn drain(stream: &mut wasip3::wit_bindgen::StreamReader<u8>) {
    let read = async {
        let (state, _) = stream.read(Vec::with_capacity(CHUNK)).await;
        if matches!(state, StreamResult::Complete(_)) {
            stream.read(Vec::with_capacity(1)).await; // its end, if it was that short
        }
    };
    futures_lite::future::or(read, monotonic_clock::wait_for(50_000_000)).await;
}

/// Ends a slice of computing. The host measures the time between two waits, so this must be a wait, if a short one: a bare
/// yield comes straight back.
async fn breathe() {
    monotonic_clock::wait_for(1).await;
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
        ErrorCode::HttpResponseBodySize(_) => (
            FailureKind::Internal,
            "body-too-long",
            "; raise [limits] body of the sidecar",
        ),
        _ => (FailureKind::Unavailable, "origin-unreachable", ""),
    };
    Failure::new(
        kind,
        word,
        format!("no answer from the source: {code:?}{remedy}"),
    )
}
