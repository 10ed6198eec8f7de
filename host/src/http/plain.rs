//! Plain reads, answered from the head as it was sent, without hyper and mostly without a map of fields. What they are answered
//! is what [`Service::call`] answers: the same derivation, the same judgement, the same fields.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{HeaderMap, HeaderName, Response, StatusCode};

use super::accept::{Head, Read, Reads, Rendered, Waiting};
use super::{Body, Service, behind, respond};
use crate::cache::entry::{Entry, EntryKind};
use crate::cache::{Answer, TierName};
use crate::route::fields::Fields;

/// What answering asks of a request's fields after its derivation.
const ASKED_AFTER: [HeaderName; 3] = [
    header::ACCEPT_ENCODING,
    header::CACHE_CONTROL,
    header::IF_NONE_MATCH,
];

impl Fields for Head<'_> {
    #[inline]
    fn all<'f>(&'f self, name: &'f HeaderName) -> impl Iterator<Item = &'f [u8]> + 'f {
        let fields = self.fields.iter();
        let named = fields.filter(move |field| field.name.eq_ignore_ascii_case(name.as_str()));
        named.map(|field| field.value)
    }
}

impl Reads for Arc<Service> {
    /// Not where each request is a line of the log or a span: those are made where the response of every request passes.
    fn is_on(&self) -> bool {
        !self.access_log && !self.is_traced
    }

    fn read(&self, request: &Head<'_>, head: &mut Vec<u8>, waiting: &mut Waiting) -> Read {
        let has = |name: HeaderName| request.all(&name).next().is_some();
        if self.behind.is_some() && request.target.starts_with(behind::PATH) {
            return Read::Hypers;
        }
        let snapshot = self.routes.load();
        if snapshot.has_cors() && has(header::ORIGIN) || snapshot.has_watch() && has(header::ACCEPT)
        {
            return Read::Hypers;
        }
        let derived = match snapshot.derive(request.target, request, &self.metrics) {
            Ok(derived) => derived,
            // The host's own paths, and what no route has.
            Err((None, _)) => return Read::Hypers,
            Err((Some(route), refusal)) => {
                self.metrics.derivations.inc();
                self.metrics.derivations_called.inc();
                let path = request.target.split('?').next().unwrap_or_default();
                let response = self.refused(Some(&route), &refusal, path);
                return answered(response, self.cache.clock().now_ms(), head);
            }
        };
        self.metrics.derivations.inc();
        derived.brief.metrics.request();
        if let Some(held) = self.at_hand(&derived) {
            self.hit(&derived, &held);
            let asked = self.asked(request, held.now_ms);
            if is_ordinary(&held.entry) {
                let (body, _) = respond::lines(&derived, &held.into(), &asked, head);
                return Read::Answered(body);
            }
            let answer = Answer::Hit {
                entry: held.entry,
                tier: TierName::Memory,
                left_ms: held.left_ms,
            };
            let response = respond::respond(&derived, answer, &asked);
            return answered(response, held.now_ms, head);
        }
        let (service, headers) = (Arc::clone(self), asked_after(request));
        waiting.set(async move {
            let (answer, now_ms) = service.ask(&derived, &headers).await;
            let asked = service.asked(&headers, now_ms);
            match answer {
                Answer::Hit {
                    entry,
                    tier,
                    left_ms,
                } if is_ordinary(&entry) => {
                    let mut head = Vec::with_capacity(HEAD_BYTES_GUESS);
                    let hit = respond::Hit {
                        entry,
                        tier,
                        left_ms,
                    };
                    let (body, inline) = respond::lines(&derived, &hit, &asked, &mut head);
                    Rendered { head, inline, body }
                }
                answer => render(respond::respond(&derived, answer, &asked), now_ms),
            }
        });
        Read::Later
    }
}

/// What most heads have room in.
const HEAD_BYTES_GUESS: usize = 512;

/// Whether it is given with 200 and as it is.
fn is_ordinary(entry: &Entry) -> bool {
    entry.kind() == EntryKind::Found && entry.status() == 200
}

/// The fields that are asked for when the head is gone. Without any, which is usual among programs, nothing is allocated.
fn asked_after(request: &Head<'_>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for name in ASKED_AFTER {
        for value in request.all(&name) {
            if let Ok(value) = HeaderValue::from_bytes(value) {
                headers.append(name.clone(), value);
            }
        }
    }
    headers
}

fn answered(response: Response<Body>, now_ms: u64, head: &mut Vec<u8>) -> Read {
    let rendered = render(response, now_ms);
    head.extend_from_slice(&rendered.head);
    Read::Answered(rendered.body)
}

/// Any response with a body that is at hand, as HTTP/1.1 has it.
fn render(response: Response<Body>, now_ms: u64) -> Rendered {
    let (parts, body) = response.into_parts();
    // A body that its status does not have would be the next response to whoever reads it; one from another node may.
    let body = match parts.status {
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED => Bytes::new(),
        _ => body.into_whole(),
    };
    let mut head = Vec::with_capacity(HEAD_BYTES_GUESS);
    respond::status_line(&mut head, parts.status);
    for (name, value) in &parts.headers {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    respond::finish(&mut head, parts.status, body.len(), now_ms);
    Rendered {
        head,
        inline: 0,
        body,
    }
}
