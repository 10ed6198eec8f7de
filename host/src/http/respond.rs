//! An answer of the cache becomes a response: status, `Cache-Status` (RFC 9211), `Age`, `Cache-Control`, `ETag`, 304.
//!
//! The strings are the table of DESIGN section 6; other programs read them.

use std::fmt::Write as _;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{HeaderMap, Response, StatusCode};

use super::fields::{self, Sent, Sink as _};
use super::{Body, date, problem};
use crate::cache::entry::{Entry, EntryKind};
use crate::cache::{Answer, AtHand, StaleReason, TierName};
use crate::error::Failure;
use crate::metrics::Outcome;
use crate::route::derive::Derived;
use crate::route::fields::Fields;

pub use super::fields::{Asked, CACHE_STATUS};
pub use crate::cache::Forward;

/// Counts the answer and writes it down.
pub fn respond<F: Fields>(
    derived: &Derived,
    answer: Answer,
    asked: &Asked<'_, F>,
) -> Response<Body> {
    let metrics = &derived.brief.metrics;
    match answer {
        Answer::Hit {
            entry,
            tier,
            left_ms,
        } => {
            let missing = entry.kind() == EntryKind::Missing;
            let (outcome, detail) = match tier {
                _ if missing => (Outcome::HitMissing, "missing"),
                TierName::Memory => (Outcome::HitMemory, "memory"),
                TierName::Redis => (Outcome::HitRedis, "redis"),
            };
            metrics.answer(outcome);
            // Rounded up: what is still fresh says at least 1, and `Age` + `ttl` add up to the whole.
            let mut digits = itoa::Buffer::new();
            let ttl = digits.format(left_ms.div_ceil(1000));
            let status = ["larder; hit; ttl=", ttl, "; detail=", detail];
            of_entry(derived, &entry, &status, asked)
        }
        Answer::Stale {
            entry,
            over_ms,
            reason,
        } => {
            let over = over_ms.div_ceil(1000);
            let (outcome, status) = match reason {
                StaleReason::WhileRevalidate => (
                    Outcome::StaleWhileRevalidate,
                    format!(
                        "larder; hit; ttl={}; detail=stale-while-revalidate",
                        negative(over)
                    ),
                ),
                StaleReason::SoftTimeout => (
                    Outcome::StaleSoftTimeout,
                    format!(
                        "larder; hit; ttl={}; detail=stale-soft-timeout",
                        negative(over)
                    ),
                ),
                StaleReason::IfError(failure) => {
                    let failed = problem::load_status(&failure).as_u16();
                    let ttl = negative(over);
                    (
                        Outcome::StaleIfError,
                        format!(
                            "larder; fwd=stale; fwd-status={failed}; ttl={ttl}; detail=stale-if-error"
                        ),
                    )
                }
            };
            metrics.answer(outcome);
            of_stale(derived, &entry, &[&status], asked)
        }
        Answer::Miss {
            entry,
            forward,
            stored,
            collapsed,
            revalidated,
            pending,
        } => {
            metrics.answer(match (collapsed, revalidated) {
                _ if pending => Outcome::MissPending,
                (true, _) => Outcome::MissCollapsed,
                (_, true) => Outcome::MissRevalidated,
                _ => Outcome::MissLoaded,
            });
            // An entry that was revalidated was there, however old.
            let mut status = String::from(match forward {
                _ if revalidated => "larder; fwd=stale; fwd-status=304",
                Forward::UriMiss => "larder; fwd=uri-miss",
                Forward::Stale => "larder; fwd=stale",
            });
            if forward == Forward::Stale && !revalidated {
                let _ = write!(status, "; fwd-status={}", entry.status());
            }
            match (stored, collapsed) {
                (_, true) => status.push_str("; collapsed"),
                (true, _) => status.push_str("; stored"),
                _ => {}
            }
            if pending {
                status.push_str("; detail=pending");
            }
            of_entry(derived, &entry, &[&status], asked)
        }
        Answer::Bypass { result } => {
            metrics.answer(Outcome::Bypass);
            let reason = derived.bypass.as_deref().unwrap_or("key-policy");
            let status = format!("larder; fwd=bypass; detail={reason}");
            match result {
                Ok(entry) => of_entry(derived, &entry, &[&status], asked),
                Err(failure) => problem::load_failed(&failure, value(status)),
            }
        }
        Answer::Failed { failure, forward } => {
            metrics.answer(Outcome::Failed);
            problem::load_failed(&failure, failed_status(&failure, forward))
        }
        Answer::NotCached => {
            metrics.answer(Outcome::NotCached);
            problem::not_cached()
        }
    }
}

fn failed_status(failure: &Failure, forward: Forward) -> HeaderValue {
    let forward = match forward {
        Forward::UriMiss => "uri-miss",
        Forward::Stale => "stale",
    };
    let status = problem::load_status(failure).as_u16();
    value(format!(
        "larder; fwd={forward}; fwd-status={status}; detail={}",
        problem::code(failure)
    ))
}

/// `-3`; `0` when the ttl was ended early by a purge.
fn negative(seconds: u64) -> String {
    if seconds == 0 {
        "0".into()
    } else {
        format!("-{seconds}")
    }
}

/// An entry past its ttl. A purge may have ended that early: downstream must not take it for fresh until the end it once
/// had, so no more than its age is left of it.
fn of_stale<F: Fields>(
    derived: &Derived,
    entry: &Entry,
    cache_status: &[&str],
    asked: &Asked<'_, F>,
) -> Response<Body> {
    let ttl = entry.times().ttl_within(derived.ask.bounds());
    let ttl = ttl.min(entry.times().age_ms(asked.now_ms));
    with_ttl(derived, entry, cache_status, asked, (ttl, None))
}

fn of_entry<F: Fields>(
    derived: &Derived,
    entry: &Entry,
    cache_status: &[&str],
    asked: &Asked<'_, F>,
) -> Response<Body> {
    let life = life(derived, entry);
    with_ttl(derived, entry, cache_status, asked, life)
}

/// How long it lives as this request sees it, and the windows after that.
fn life(derived: &Derived, entry: &Entry) -> (u64, Option<(u64, u64)>) {
    let (times, bounds) = (entry.times(), derived.ask.bounds());
    (times.ttl_within(bounds), Some(times.windows_within(bounds)))
}

fn with_ttl<F: Fields>(
    derived: &Derived,
    entry: &Entry,
    cache_status: &[&str],
    asked: &Asked<'_, F>,
    life: (u64, Option<(u64, u64)>),
) -> Response<Body> {
    if entry.kind() == EntryKind::Missing {
        let mut response = problem::missing(value(cache_status.concat()));
        let (headers, visibility) = (response.headers_mut(), derived.ask.visibility);
        let life = (life.0, None);
        // Unlike other problems, this one may be kept, for as long as it is remembered here.
        headers.remove(header::CACHE_CONTROL);
        fields::caching(headers, entry, visibility, life, asked.now_ms);
        return response;
    }
    let mut headers = HeaderMap::with_capacity(8 + entry.headers().len());
    let (status, body) = fields::found(&mut headers, (derived, entry), cache_status, asked, life);
    let mut response = Response::new(match body {
        Sent::Nothing => Body::default(),
        Sent::Whole => Body::whole(entry.body()),
        Sent::Coded(body) => Body::whole(body),
    });
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// A hit, of whatever tier.
pub(super) struct Hit {
    pub(super) entry: Entry,
    pub(super) tier: TierName,
    pub(super) left_ms: u64,
}

impl From<AtHand> for Hit {
    fn from(held: AtHand) -> Self {
        Self {
            entry: held.entry,
            tier: TierName::Memory,
            left_ms: held.left_ms,
        }
    }
}

/// A hit as the head of HTTP/1.1 that is sent for it, and its body: what [`respond`] makes of it, without the way through a map.
/// Of an entry with status 200. A short body is written after the head: then nothing is left to be sent, and its length is returned.
pub(super) fn lines<F: Fields>(
    derived: &Derived,
    hit: &Hit,
    asked: &Asked<'_, F>,
    head: &mut Vec<u8>,
) -> (Bytes, usize) {
    let (outcome, detail) = match hit.tier {
        TierName::Memory => (Outcome::HitMemory, "memory"),
        TierName::Redis => (Outcome::HitRedis, "redis"),
    };
    derived.brief.metrics.answer(outcome);
    let start = head.len();
    head.extend_from_slice(OK);
    let mut digits = itoa::Buffer::new();
    let ttl = digits.format(hit.left_ms.div_ceil(1000));
    let cache_status = ["larder; hit; ttl=", ttl, "; detail=", detail];
    let life = life(derived, &hit.entry);
    let (status, body) = fields::found(head, (derived, &hit.entry), &cache_status, asked, life);
    if status != StatusCode::OK {
        let mut line = Vec::new();
        status_line(&mut line, status);
        head.splice(start..start + OK.len(), line);
    }
    let (inline, body) = match body {
        Sent::Nothing => (&[][..], Bytes::new()),
        Sent::Coded(body) => (&[][..], body),
        Sent::Whole => match hit.entry.inline() {
            Some(inline) => (inline, Bytes::new()),
            None => (&[][..], hit.entry.body()),
        },
    };
    finish(head, status, inline.len() + body.len(), asked.now_ms);
    head.extend_from_slice(inline);
    (body, inline.len())
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\n";

pub(super) fn status_line(head: &mut Vec<u8>, status: StatusCode) {
    head.extend_from_slice(b"HTTP/1.1 ");
    head.extend_from_slice(status.as_str().as_bytes());
    head.push(b' ');
    let reason = status.canonical_reason().unwrap_or("<none>");
    head.extend_from_slice(reason.as_bytes());
    head.extend_from_slice(b"\r\n");
}

/// The last fields of a head: what HTTP itself needs to know.
pub(super) fn finish(head: &mut Vec<u8>, status: StatusCode, length: usize, now_ms: u64) {
    // RFC 9110 section 8.6.
    if !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        head.put_known(
            &header::CONTENT_LENGTH,
            &[itoa::Buffer::new().format(length)],
        );
    }
    date::with(now_ms, |date| head.put_known(&header::DATE, &[date]));
    head.extend_from_slice(b"\r\n");
}

/// A header value of text this program wrote itself.
pub(super) fn value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("larder"))
}
