//! An answer of the cache becomes a response: status, `Cache-Status` (RFC 9211), `Age`, `Cache-Control`, `ETag`, 304.
//!
//! The strings are the table of DESIGN section 6; other programs read them.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Response, StatusCode};

use super::encoding::{self, Encoder};
use super::{Body, problem};
use crate::cache::entry::{Content, Entry, EntryKind};
use crate::cache::{Answer, StaleReason, TierName};
use crate::error::Failure;
use crate::key::Visibility;
use crate::metrics::Outcome;
use crate::route::derive::Derived;

pub use crate::cache::Forward;

/// RFC 9211.
pub const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
/// RFC 9213.
const CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cdn-cache-control");
/// The longest field of tags.
const TAGS_FIELD_MAX: usize = 8 * 1024;

/// How an answer is asked for.
pub struct Asked<'r> {
    /// The head of the request.
    pub headers: &'r HeaderMap,
    /// When it is answered.
    pub now_ms: u64,
    /// Who has bodies in other codings.
    pub encoder: &'r Encoder,
}

/// Counts the answer and writes it down.
pub fn respond(derived: &Derived, answer: Answer, asked: &Asked<'_>) -> Response<Body> {
    let metrics = &derived.route.metrics;
    match answer {
        Answer::Hit {
            entry,
            tier,
            left_ms,
        } => {
            let missing = entry.content.kind == EntryKind::Missing;
            let (outcome, detail) = match tier {
                _ if missing => (Outcome::HitMissing, "missing"),
                TierName::Memory => (Outcome::HitMemory, "memory"),
                TierName::Redis => (Outcome::HitRedis, "redis"),
            };
            metrics.answer(outcome);
            // Rounded up: what is still fresh says at least 1, and `Age` + `ttl` add up to the whole.
            let status = hit_status(left_ms.div_ceil(1000), detail);
            of_entry(derived, &entry, status, asked)
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
            of_stale(derived, &entry, value(status), asked)
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
                let _ = write!(status, "; fwd-status={}", entry.content.status);
            }
            match (stored, collapsed) {
                (_, true) => status.push_str("; collapsed"),
                (true, _) => status.push_str("; stored"),
                _ => {}
            }
            if pending {
                status.push_str("; detail=pending");
            }
            of_entry(derived, &entry, value(status), asked)
        }
        Answer::Bypass { result } => {
            metrics.answer(Outcome::Bypass);
            let reason = derived.bypass.as_deref().unwrap_or("key-policy");
            let status = format!("larder; fwd=bypass; detail={reason}");
            match result {
                Ok(entry) => of_entry(derived, &entry, value(status), asked),
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

fn hit_status(ttl: u64, detail: &str) -> HeaderValue {
    let mut text = String::with_capacity(48);
    let mut digits = itoa::Buffer::new();
    text.push_str("larder; hit; ttl=");
    text.push_str(digits.format(ttl));
    text.push_str("; detail=");
    text.push_str(detail);
    value(text)
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
fn of_stale(
    derived: &Derived,
    entry: &Arc<Entry>,
    cache_status: HeaderValue,
    asked: &Asked<'_>,
) -> Response<Body> {
    let ttl = entry.times.ttl_within(&derived.ask.binding.policy);
    let ttl = ttl.min(entry.times.age_ms(asked.now_ms));
    with_ttl(derived, entry, cache_status, asked, (ttl, None))
}

fn of_entry(
    derived: &Derived,
    entry: &Arc<Entry>,
    cache_status: HeaderValue,
    asked: &Asked<'_>,
) -> Response<Body> {
    let ttl = entry.times.ttl_within(&derived.ask.binding.policy);
    let windows = entry.times.windows_within(&derived.ask.binding.policy);
    with_ttl(derived, entry, cache_status, asked, (ttl, Some(windows)))
}

/// `windows`: how long past that it may be used downstream while it is asked for again, or if that fails.
fn with_ttl(
    derived: &Derived,
    entry: &Arc<Entry>,
    cache_status: HeaderValue,
    asked: &Asked<'_>,
    (ttl, windows): (u64, Option<(u64, u64)>),
) -> Response<Body> {
    let content = &entry.content;
    let visibility = derived.ask.visibility;
    if content.kind == EntryKind::Missing {
        let mut response = problem::missing(cache_status);
        let headers = response.headers_mut();
        caching(headers, entry, visibility, (ttl, None), asked.now_ms);
        return response;
    }
    let mut headers = HeaderMap::with_capacity(8 + content.headers.len());
    headers.insert(CACHE_STATUS, cache_status);
    caching(
        &mut headers,
        entry,
        visibility,
        (ttl, windows),
        asked.now_ms,
    );
    let codings = &derived.route.codings;
    let mut variant = None;
    if !codings.is_empty() && encoding::is_worth_it(content) {
        headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        variant = asked.encoder.choose(content, codings, asked.headers);
    }
    let etag = match &variant {
        Some((coding, _)) => encoding::tag(&content.etag, *coding).into(),
        None => Cow::Borrowed(content.etag.as_str()),
    };
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        headers.insert(header::ETAG, etag);
    }
    let not_modified = content.status == 200 && is_known(asked.headers, &content.etag);
    let (status, body) = if not_modified {
        // RFC 9110 section 15.4.5: what describes the body stays away, the rest is as in the 200.
        (StatusCode::NOT_MODIFIED, Bytes::new())
    } else {
        headers.insert(header::CONTENT_TYPE, content_type(content));
        let status = StatusCode::from_u16(content.status).unwrap_or(StatusCode::BAD_GATEWAY);
        match variant {
            Some((coding, body)) => {
                let coding = HeaderValue::from_static(coding.name());
                headers.insert(header::CONTENT_ENCODING, coding);
                (status, body)
            }
            None => (status, content.body.clone()),
        }
    };
    add_headers(&mut headers, content);
    if derived
        .route
        .config
        .cors
        .as_ref()
        .is_some_and(|cors| !cors.is_any)
    {
        // To everybody: a cache downstream must not give a page what was answered to nobody's.
        headers.append(header::VARY, HeaderValue::from_static("origin"));
    }
    downstream(&mut headers, derived, entry);
    let mut response = Response::new(Body::whole(body));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// What caches downstream are told beside `Cache-Control`, where the route says so.
fn downstream(headers: &mut HeaderMap, derived: &Derived, entry: &Entry) {
    let config = &derived.route.config;
    if let Some(text) = &config.cdn_cache_control {
        // RFC 9213 section 3.1: it stands over Cache-Control, so what is private says so in it too.
        let is_shared = is_shared(entry, derived.ask.visibility) && entry.times.ttl_ms > 0;
        let text = if is_shared { text.as_str() } else { "no-store" };
        if let Ok(text) = HeaderValue::from_str(text) {
            headers.insert(CDN_CACHE_CONTROL, text);
        }
    }
    let name = config.tags_header.as_ref();
    let name = name.and_then(|name| HeaderName::from_bytes(name.as_bytes()).ok());
    if let Some(name) = name.filter(|_| !entry.content.tags.is_empty()) {
        headers.insert(
            name,
            value(tags(&entry.content.tags, config.tags_header.as_deref())),
        );
    }
}

/// Tags in one field: with commas where it is `Cache-Tag`, with spaces elsewhere, as those who read it expect. One that has
/// what separates them in it would be read as two, and is left out, as is what no longer fits.
fn tags(tags: &[String], name: Option<&str>) -> String {
    let separator = match name {
        Some(name) if name.eq_ignore_ascii_case("cache-tag") => ',',
        _ => ' ',
    };
    let mut text = String::new();
    for tag in tags {
        let fits = text.len() + tag.len() < TAGS_FIELD_MAX;
        let is_one = !tag.is_empty()
            && tag.bytes().all(|byte| byte.is_ascii_graphic())
            && !tag.contains(separator);
        if fits && is_one {
            if !text.is_empty() {
                text.push(separator);
            }
            text.push_str(tag);
        }
    }
    text
}

/// The headers that the loader gave.
pub(super) fn add_headers(headers: &mut HeaderMap, content: &Content) {
    for param in &content.headers {
        // Judged when the entry was made; an entry from another node is judged again.
        if let (Ok(name), Ok(value)) = (
            HeaderName::try_from(param.name.as_str()),
            HeaderValue::from_str(&param.value),
        ) {
            let _ = headers.try_append(name, value);
        }
    }
}

pub(super) fn content_type(content: &Content) -> HeaderValue {
    let given = content.content_type.as_deref();
    match given {
        Some("application/json") => HeaderValue::from_static("application/json"),
        Some(text) => HeaderValue::from_str(text)
            .unwrap_or(HeaderValue::from_static("application/octet-stream")),
        None => HeaderValue::from_static("application/octet-stream"),
    }
}

/// Whether caches that several clients use may keep it: the stricter of what this request's policy says and what was said
/// when it was loaded.
fn is_shared(entry: &Entry, asked: Visibility) -> bool {
    asked != Visibility::Private && entry.content.visibility != Visibility::Private
}

/// `Age` and `Cache-Control`. `max-age` is the entry's whole ttl, because downstream subtracts `Age`; the windows (RFC 5861)
/// begin at its end, as they do here.
fn caching(
    headers: &mut HeaderMap,
    entry: &Entry,
    asked: Visibility,
    (ttl_ms, windows): (u64, Option<(u64, u64)>),
    now_ms: u64,
) {
    let mut digits = itoa::Buffer::new();
    if entry.times.ttl_ms == 0 {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        return;
    }
    let age = HeaderValue::from_str(digits.format(entry.times.age_ms(now_ms) / 1000));
    headers.insert(header::AGE, age.unwrap_or(HeaderValue::from_static("0")));
    let mut text = String::with_capacity(28);
    text.push_str(if is_shared(entry, asked) {
        "public, max-age="
    } else {
        "private, max-age="
    });
    text.push_str(digits.format(ttl_ms / 1000));
    let (while_revalidate, if_error) = windows.unwrap_or_default();
    for (name, window_ms) in [
        (", stale-while-revalidate=", while_revalidate),
        (", stale-if-error=", if_error),
    ] {
        if window_ms >= 1000 {
            text.push_str(name);
            text.push_str(digits.format(window_ms / 1000));
        }
    }
    headers.insert(header::CACHE_CONTROL, value(text));
}

/// `If-None-Match` by weak comparison (RFC 9110 section 13.1.2).
pub(super) fn is_known(request: &HeaderMap, etag: &str) -> bool {
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let mut fields = request.get_all(header::IF_NONE_MATCH).iter().peekable();
    if fields.peek().is_none() {
        return false;
    }
    fields.any(|field| {
        let text = field.to_str().unwrap_or_default();
        text.trim() == "*"
            || split_tags(text).any(|tag| {
                let tag = opaque(tag);
                // Of the same body in any coding: what is there is what the request knows.
                let plain = encoding::plain_tag(&tag);
                tag == opaque(etag) || plain.is_some_and(|plain| plain == opaque(etag))
            })
    })
}

/// Splits a list of entity tags at the commas outside quotes.
fn split_tags(text: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    text.split(move |c| {
        quoted ^= c == '"';
        c == ',' && !quoted
    })
}

/// A header value of text this program wrote itself.
pub(super) fn value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("larder"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_separated_as_their_field_has_it() {
        let all = ["a", "b c", "d,e", "é", ""].map(str::to_owned);
        assert_eq!(tags(&all, Some("Surrogate-Key")), "a d,e");
        assert_eq!(tags(&all[..3], Some("Cache-Tag")), "a");
        let long = vec!["x".repeat(5000), "y".repeat(5000), "z".to_owned()];
        assert_eq!(tags(&long, Some("Surrogate-Key")).len(), 5002);
    }

    #[test]
    fn entity_tags_are_compared_weakly_and_commas_in_quotes_do_not_split() {
        let check = |field: &str, etag: &str, expect: bool| {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_NONE_MATCH, HeaderValue::from_str(field).unwrap());
            assert_eq!(is_known(&headers, etag), expect, "{field} {etag}");
        };
        check("\"a\"", "\"a\"", true);
        check("W/\"a\"", "\"a\"", true);
        check("\"x\", \"a\"", "W/\"a\"", true);
        check("*", "\"a\"", true);
        check("\"a,b\"", "\"a,b\"", true);
        check("\"b\"", "\"a\"", false);
        check("a", "\"a\"", false);
        check("\"a~br\"", "\"a\"", true);
        check("\"a~br\"", "\"a~br\"", true);
        check("\"a~x\"", "\"a\"", false);
        assert!(!is_known(&HeaderMap::new(), "\"a\""));
    }
}
