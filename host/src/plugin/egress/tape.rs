//! What a plugin sent by HTTP and was answered: recorded on its way, or answered from a recording without a network.
//!
//! Bodies are taken whole here, which is fine for the one call that a recording holds; what is served never comes this
//! way. Knows neither how a recording is kept nor what is secret in it.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

use super::Egress;

/// Exchanges of one call that are recorded.
const EXCHANGES_MAX: usize = 1000;
/// Bytes of all their bodies together.
const BYTES_MAX: usize = 64 * 1024 * 1024;
/// Requests that a recording did not have, of which the sentence is kept.
const UNKNOWN_MAX: usize = 16;

/// One request, and what became of it: a reply or an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exchange {
    /// What was sent.
    pub request: Sent,
    /// What was answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<Reply>,
    /// Why nothing was, in WASI's words, e.g. `connection-refused`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A request as the plugin made it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sent {
    /// E.g. `GET`.
    pub method: String,
    /// The whole address.
    pub url: String,
    /// Names in lower case, in the order they were written. Not compared: they hold dates and spans.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    #[serde(default, skip_serializing_if = "Bytestring::is_empty")]
    pub body: Bytestring,
}

/// An answer as the plugin got it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// Without `content-length` and `transfer-encoding`, which follow from the body.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    #[serde(default, skip_serializing_if = "Bytestring::is_empty")]
    pub body: Bytestring,
}

/// Bytes in a file of JSON: as they are if they are text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Bytestring {
    /// UTF-8.
    Text(String),
    /// Anything else.
    Binary {
        /// In the standard alphabet.
        base64: String,
    },
}

impl Bytestring {
    /// Of any bytes.
    pub fn new(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Binary {
                base64: BASE64.encode(bytes),
            },
        }
    }

    /// The bytes; none if the base64 was edited into something else.
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Text(text) => text.clone().into_bytes(),
            Self::Binary { base64 } => BASE64.decode(base64).unwrap_or_default(),
        }
    }

    fn is_empty(&self) -> bool {
        matches!(self, Self::Text(text) if text.is_empty())
    }
}

impl Default for Bytestring {
    fn default() -> Self {
        Self::Text(String::new())
    }
}

/// The exchanges of one call, as they happen or as they happened.
pub struct Tape {
    /// Of a recording: whether each was asked for again. `None`: this is being recorded.
    played: Option<Mutex<Vec<bool>>>,
    exchanges: Mutex<Vec<Exchange>>,
    /// The recording is not whole.
    overflowed: Mutex<bool>,
    unknown: Mutex<Vec<String>>,
}

impl Tape {
    /// An empty one: requests go where they always go, and are noted.
    pub fn recorder() -> Arc<Self> {
        Arc::new(Self::of(Vec::new(), None))
    }

    /// A recorded one: no request leaves the process.
    pub fn player(exchanges: Vec<Exchange>) -> Arc<Self> {
        let played = vec![false; exchanges.len()];
        Arc::new(Self::of(exchanges, Some(Mutex::new(played))))
    }

    fn of(exchanges: Vec<Exchange>, played: Option<Mutex<Vec<bool>>>) -> Self {
        Self {
            played,
            exchanges: Mutex::new(exchanges),
            overflowed: Mutex::default(),
            unknown: Mutex::default(),
        }
    }

    /// What is on it; `None` if more happened than it holds.
    pub fn exchanges(&self) -> Option<Vec<Exchange>> {
        (!*self.overflowed.lock()).then(|| self.exchanges.lock().clone())
    }

    /// Requests that were made and are not on it, as `GET http://…`.
    pub fn unknown(&self) -> Vec<String> {
        self.unknown.lock().clone()
    }

    /// Requests that are on it and were not made, as `GET http://…`.
    pub fn unasked(&self) -> Vec<String> {
        let Some(played) = &self.played else {
            return Vec::new();
        };
        let (exchanges, played) = (self.exchanges.lock(), played.lock());
        let all = exchanges.iter().zip(&*played);
        all.filter(|(_, played)| !**played)
            .map(|(exchange, _)| exchange.request.line())
            .collect()
    }

    /// Sends one request of the guest, or looks it up.
    pub(super) async fn send(
        self: Arc<Self>,
        egress: Arc<Egress>,
        request: Request<WasiBody>,
        options: RequestOptions,
    ) -> Result<Response<WasiBody>, Error> {
        let (parts, body) = request.into_parts();
        let limit = egress.body_bytes_max;
        let body = match Limited::new(body, limit).collect().await {
            Ok(body) => body.to_bytes(),
            Err(_) => return Err(Error::HttpRequestBodySize(Some(limit as u64))),
        };
        let sent = Sent {
            method: parts.method.to_string(),
            url: parts.uri.to_string(),
            headers: headers(&parts.headers),
            body: Bytestring::new(&body),
        };
        if let Some(played) = &self.played {
            return self.play(played, &egress, &sent);
        }
        let request = Request::from_parts(parts, whole(body));
        match whole_reply(egress.send(request, options).await).await {
            Ok((status, headers, body)) => {
                let reply = Reply {
                    status: status.as_u16(),
                    headers: self::headers(&headers),
                    body: Bytestring::new(&body),
                };
                self.note(sent, Ok(reply.clone()), body.len());
                reply.response()
            }
            Err(error) => {
                self.note(sent, Err(name_of(&error).to_owned()), 0);
                Err(error)
            }
        }
    }

    fn note(&self, request: Sent, result: Result<Reply, String>, bytes: usize) {
        let mut exchanges = self.exchanges.lock();
        let held: usize = exchanges
            .iter()
            .filter_map(|exchange| exchange.reply.as_ref())
            .map(|reply| reply.body.bytes().len())
            .sum();
        if exchanges.len() == EXCHANGES_MAX || held + bytes > BYTES_MAX {
            *self.overflowed.lock() = true;
            return;
        }
        let (reply, error) = match result {
            Ok(reply) => (Some(reply), None),
            Err(error) => (None, Some(error)),
        };
        exchanges.push(Exchange {
            request,
            reply,
            error,
        });
    }

    /// The first exchange of this very request that was not asked for before.
    fn play(
        &self,
        played: &Mutex<Vec<bool>>,
        egress: &Egress,
        sent: &Sent,
    ) -> Result<Response<WasiBody>, Error> {
        let exchanges = self.exchanges.lock();
        let mut played = played.lock();
        let at = exchanges
            .iter()
            .zip(&*played)
            .position(|(exchange, played)| !played && exchange.request.is_as(sent));
        let Some(at) = at else {
            let mut unknown = self.unknown.lock();
            if unknown.len() < UNKNOWN_MAX {
                unknown.push(sent.line());
            }
            egress.deny(format!(
                "{} is not in the recording (or not as often): make it again with `larder plugin record`",
                sent.line()
            ));
            return Err(Error::HttpRequestDenied);
        };
        played[at] = true;
        match &exchanges[at].reply {
            Some(reply) => reply.response(),
            None => Err(error_of(exchanges[at].error.as_deref().unwrap_or_default())),
        }
    }
}

impl Sent {
    /// `GET http://…`
    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.url)
    }

    /// Whether it asks for the same. Headers are not compared: they hold dates, spans and what is secret.
    fn is_as(&self, other: &Self) -> bool {
        self.method == other.method && self.url == other.url && self.body == other.body
    }
}

impl Reply {
    fn response(&self) -> Result<Response<WasiBody>, Error> {
        let mut response = Response::new(whole(self.body.bytes().into()));
        *response.status_mut() =
            http::StatusCode::from_u16(self.status).map_err(|_| Error::HttpProtocolError)?;
        for (name, value) in &self.headers {
            let name = HeaderName::try_from(name).map_err(|_| Error::HttpProtocolError)?;
            let value = HeaderValue::try_from(value).map_err(|_| Error::HttpProtocolError)?;
            response.headers_mut().append(name, value);
        }
        Ok(response)
    }
}

type Whole = (http::StatusCode, HeaderMap, Bytes);

async fn whole_reply(response: Result<Response<WasiBody>, Error>) -> Result<Whole, Error> {
    let (parts, body) = response?.into_parts();
    let body = body.collect().await?.to_bytes();
    Ok((parts.status, parts.headers, body))
}

fn whole(body: Bytes) -> WasiBody {
    Full::new(body)
        .map_err(|never| match never {})
        .boxed_unsync()
}

fn headers(map: &HeaderMap) -> Vec<(String, String)> {
    map.iter()
        .filter(|(name, _)| {
            **name != http::header::CONTENT_LENGTH && **name != http::header::TRANSFER_ENCODING
        })
        .map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes());
            (name.as_str().to_owned(), value.into_owned())
        })
        .collect()
}

/// The errors that the host's client gives, as the WIT of `wasi:http` spells them.
fn name_of(error: &Error) -> &'static str {
    match error {
        Error::DnsError { .. } | Error::DnsTimeout => "dns-error",
        Error::DestinationUnavailable => "destination-unavailable",
        Error::ConnectionRefused => "connection-refused",
        Error::ConnectionTimeout => "connection-timeout",
        Error::ConnectionReadTimeout => "connection-read-timeout",
        Error::TlsProtocolError => "tls-protocol-error",
        Error::TlsCertificateError => "tls-certificate-error",
        Error::HttpRequestDenied => "http-request-denied",
        Error::HttpRequestMethodInvalid => "http-request-method-invalid",
        Error::HttpRequestUriInvalid => "http-request-uri-invalid",
        Error::HttpRequestBodySize(_) => "http-request-body-size",
        Error::HttpResponseIncomplete => "http-response-incomplete",
        Error::HttpResponseHeaderSectionSize(_) => "http-response-header-section-size",
        Error::HttpResponseBodySize(_) => "http-response-body-size",
        Error::HttpProtocolError => "http-protocol-error",
        _ => "connection-terminated",
    }
}

fn error_of(name: &str) -> Error {
    match name {
        "dns-error" => Error::DnsError {
            rcode: None,
            info_code: None,
        },
        "destination-unavailable" => Error::DestinationUnavailable,
        "connection-refused" => Error::ConnectionRefused,
        "connection-timeout" => Error::ConnectionTimeout,
        "connection-read-timeout" => Error::ConnectionReadTimeout,
        "tls-protocol-error" => Error::TlsProtocolError,
        "tls-certificate-error" => Error::TlsCertificateError,
        "http-request-denied" => Error::HttpRequestDenied,
        "http-request-method-invalid" => Error::HttpRequestMethodInvalid,
        "http-request-uri-invalid" => Error::HttpRequestUriInvalid,
        "http-request-body-size" => Error::HttpRequestBodySize(None),
        "http-response-incomplete" => Error::HttpResponseIncomplete,
        "http-response-header-section-size" => Error::HttpResponseHeaderSectionSize(None),
        "http-response-body-size" => Error::HttpResponseBodySize(None),
        "http-protocol-error" => Error::HttpProtocolError,
        _ => Error::ConnectionTerminated,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(url: &str) -> Sent {
        Sent {
            method: "GET".to_owned(),
            url: url.to_owned(),
            headers: Vec::new(),
            body: Bytestring::default(),
        }
    }

    fn exchange(url: &str, body: &str) -> Exchange {
        Exchange {
            request: sent(url),
            reply: Some(Reply {
                status: 200,
                headers: vec![("etag".to_owned(), "\"1\"".to_owned())],
                body: Bytestring::Text(body.to_owned()),
            }),
            error: None,
        }
    }

    async fn play(tape: &Tape, url: &str) -> Result<String, &'static str> {
        let egress = Egress::denied("x");
        let played = tape.played.as_ref().expect("a player");
        match tape.play(played, &egress, &sent(url)) {
            Ok(response) => {
                let body = response.into_body().collect().await.expect("a body");
                Ok(String::from_utf8(body.to_bytes().to_vec()).expect("text"))
            }
            Err(error) => Err(name_of(&error)),
        }
    }

    #[tokio::test]
    async fn a_request_is_answered_as_often_as_it_was_recorded_and_in_that_order() {
        let tape = Tape::player(vec![
            exchange("http://a/1", "one"),
            exchange("http://a/2", "two"),
            exchange("http://a/1", "one again"),
        ]);
        assert_eq!(play(&tape, "http://a/1").await.as_deref(), Ok("one"));
        assert_eq!(play(&tape, "http://a/1").await.as_deref(), Ok("one again"));
        assert_eq!(play(&tape, "http://a/1").await, Err("http-request-denied"));
        assert_eq!(play(&tape, "http://a/3").await, Err("http-request-denied"));
        assert_eq!(tape.unknown(), ["GET http://a/1", "GET http://a/3"]);
        assert_eq!(tape.unasked(), ["GET http://a/2"]);
    }

    #[test]
    fn an_error_has_one_name() {
        for error in [
            Error::ConnectionRefused,
            Error::HttpRequestDenied,
            Error::HttpResponseBodySize(Some(1)),
            Error::ConnectionTerminated,
        ] {
            assert_eq!(name_of(&error_of(name_of(&error))), name_of(&error));
        }
    }

    #[test]
    fn bytes_that_are_no_text_come_back_as_they_were() {
        for bytes in [&b"text"[..], b"\xff\0", b""] {
            let written = serde_json::to_string(&Bytestring::new(bytes)).unwrap();
            let read: Bytestring = serde_json::from_str(&written).unwrap();
            assert_eq!(read.bytes(), bytes);
        }
    }
}
