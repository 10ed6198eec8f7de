//! The fields of a response that gives an entry, and its body. Written once, into whatever takes them: hyper's map, or the
//! lines of HTTP/1.1 as they are sent. Must not know why the entry is given.

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};

use super::encoding::{self, Encoder};
use crate::cache::entry::{Entry, TagRoom};
use crate::key::Visibility;
use crate::route::derive::Derived;
use crate::route::fields::Fields;

/// RFC 9211.
pub const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
/// RFC 9213.
const CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cdn-cache-control");
/// The longest field of tags.
const TAGS_FIELD_MAX: usize = 8 * 1024;

/// How an answer is asked for.
pub struct Asked<'r, F> {
    /// The head of the request.
    pub headers: &'r F,
    /// When it is answered.
    pub now_ms: u64,
    /// Who has bodies in other codings.
    pub encoder: &'r Encoder,
}

/// What takes fields.
pub(super) trait Sink {
    /// One field, its value in parts. One that HTTP cannot carry is left out: an entry may come from another node.
    fn put(&mut self, name: &HeaderName, value: &[&str]);

    /// One field whose value is known to be one that HTTP can carry. Every hit has several, so they are not looked through.
    fn put_known<T: AsRef<[u8]>>(&mut self, name: &HeaderName, value: &[T]);
}

impl Sink for HeaderMap {
    fn put(&mut self, name: &HeaderName, value: &[&str]) {
        let value = match value {
            [whole] => HeaderValue::from_str(whole),
            parts => HeaderValue::from_maybe_shared(Bytes::from(parts.concat())),
        };
        if let Ok(value) = value {
            let _ = self.try_append(name, value);
        }
    }

    fn put_known<T: AsRef<[u8]>>(&mut self, name: &HeaderName, value: &[T]) {
        let mut whole = Vec::new();
        for part in value {
            whole.extend_from_slice(part.as_ref());
        }
        if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(whole)) {
            let _ = self.try_append(name, value);
        }
    }
}

/// `name: value` and the end of the line.
impl Sink for Vec<u8> {
    fn put(&mut self, name: &HeaderName, value: &[&str]) {
        let start = self.len();
        self.extend_from_slice(name.as_str().as_bytes());
        self.extend_from_slice(b": ");
        for part in value {
            if !is_value(part) {
                self.truncate(start);
                return;
            }
            self.extend_from_slice(part.as_bytes());
        }
        self.extend_from_slice(b"\r\n");
    }

    fn put_known<T: AsRef<[u8]>>(&mut self, name: &HeaderName, value: &[T]) {
        self.extend_from_slice(name.as_str().as_bytes());
        self.extend_from_slice(b": ");
        for part in value {
            self.extend_from_slice(part.as_ref());
        }
        self.extend_from_slice(b"\r\n");
    }
}

/// What [`HeaderValue::from_str`] takes.
fn is_value(text: &str) -> bool {
    // Without a way out in the middle: so it is done in vectors.
    let fit = |byte| byte == b'\t' || byte >= b' ' && byte != 0x7f;
    text.bytes().fold(true, |all, byte| all & fit(byte))
}

/// Which body goes with the fields.
pub(super) enum Sent {
    /// None: the client has it.
    Nothing,
    /// The entry's, as it is.
    Whole,
    /// The entry's in another coding.
    Coded(Bytes),
}

/// Writes down the fields of a value that is there. `windows`: how long past `ttl_ms` it may be used downstream while it is
/// asked for again, or if that fails.
pub(super) fn found<S: Sink, F: Fields>(
    sink: &mut S,
    (derived, entry): (&Derived, &Entry),
    cache_status: &[&str],
    asked: &Asked<'_, F>,
    (ttl_ms, windows): (u64, Option<(u64, u64)>),
) -> (StatusCode, Sent) {
    sink.put_known(&CACHE_STATUS, cache_status);
    let visibility = derived.ask.visibility;
    caching(sink, entry, visibility, (ttl_ms, windows), asked.now_ms);
    let mut variant = None;
    if derived.brief.has_codings && encoding::is_worth_it(entry) {
        sink.put_known(&header::VARY, &["accept-encoding"]);
        let codings = &derived.route.codings;
        variant = asked.encoder.choose(entry, codings, asked.headers);
    }
    let mut room = TagRoom::default();
    match &variant {
        Some((coding, _)) => {
            let tag = encoding::tag(entry.etag(&mut room), *coding);
            sink.put(&header::ETAG, &[&tag]);
        }
        None => match entry.digest(&mut room) {
            Some(tag) => sink.put_known(&header::ETAG, &[tag]),
            None => sink.put(&header::ETAG, &[entry.etag(&mut room)]),
        },
    }
    let is_conditional = asked.headers.all(&header::IF_NONE_MATCH).next().is_some();
    let not_modified =
        is_conditional && entry.status() == 200 && is_known(asked.headers, entry.etag(&mut room));
    let (status, body) = if not_modified {
        // RFC 9110 section 15.4.5: what describes the body stays away, the rest is as in the 200.
        (StatusCode::NOT_MODIFIED, Sent::Nothing)
    } else {
        sink.put_known(&header::CONTENT_TYPE, &[content_type(entry)]);
        let status = StatusCode::from_u16(entry.status()).unwrap_or(StatusCode::BAD_GATEWAY);
        match variant {
            Some((coding, body)) => {
                sink.put_known(&header::CONTENT_ENCODING, &[coding.name()]);
                (status, Sent::Coded(body))
            }
            None => (status, Sent::Whole),
        }
    };
    if derived.brief.has_own_fields {
        of_route(sink, (derived, entry));
    } else {
        of_loader(sink, entry, |_| false);
    }
    (status, body)
}

/// The headers of the loader, and the fields that the route is configured to add.
fn of_route(sink: &mut impl Sink, (derived, entry): (&Derived, &Entry)) {
    let config = &derived.route.config;
    let tags_header = match (&config.tags_header, entry.tags().is_empty()) {
        (Some(name), false) => HeaderName::from_bytes(name.as_bytes()).ok(),
        _ => None,
    };
    of_loader(sink, entry, |name| {
        config.cdn_cache_control.is_some() && *name == CDN_CACHE_CONTROL
            || tags_header.as_ref() == Some(name)
    });
    if config.cors.as_ref().is_some_and(|cors| !cors.is_any) {
        // To everybody: a cache downstream must not give a page what was answered to nobody's.
        sink.put(&header::VARY, &["origin"]);
    }
    if let Some(text) = &config.cdn_cache_control {
        // RFC 9213 section 3.1: it stands over Cache-Control, so what is private says so in it too.
        let is_shared = is_shared(entry, derived.ask.visibility) && entry.times().ttl_ms > 0;
        let text = if is_shared { text.as_str() } else { "no-store" };
        sink.put(&CDN_CACHE_CONTROL, &[text]);
    }
    if let Some(name) = tags_header {
        let tags = tags(entry.tags(), config.tags_header.as_deref());
        sink.put(&name, &[&tags]);
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

/// The headers that the loader gave, but those that the host writes itself.
pub(super) fn of_loader(
    sink: &mut impl Sink,
    entry: &Entry,
    is_the_hosts: impl Fn(&HeaderName) -> bool,
) {
    for param in entry.headers() {
        // Judged when the entry was made; an entry from another node is judged again.
        if let Ok(name) = HeaderName::try_from(param.name.as_str())
            && !is_the_hosts(&name)
        {
            sink.put(&name, &[&param.value]);
        }
    }
}

pub(super) fn content_type(entry: &Entry) -> &str {
    const UNKNOWN: &str = "application/octet-stream";
    let given = entry.content_type();
    given.filter(|text| is_value(text)).unwrap_or(UNKNOWN)
}

/// Whether caches that several clients use may keep it: the stricter of what this request's policy says and what was said
/// when it was loaded.
fn is_shared(entry: &Entry, asked: Visibility) -> bool {
    asked != Visibility::Private && entry.visibility() != Visibility::Private
}

/// `Age` and `Cache-Control`. `max-age` is the entry's whole ttl, because downstream subtracts `Age`; the windows (RFC 5861)
/// begin at its end, as they do here.
pub(super) fn caching(
    sink: &mut impl Sink,
    entry: &Entry,
    asked: Visibility,
    (ttl_ms, windows): (u64, Option<(u64, u64)>),
    now_ms: u64,
) {
    if entry.times().ttl_ms == 0 {
        sink.put_known(&header::CACHE_CONTROL, &["no-store"]);
        return;
    }
    let mut digits = [itoa::Buffer::new(); 3];
    let [first, second, third] = &mut digits;
    sink.put_known(
        &header::AGE,
        &[first.format(entry.times().age_ms(now_ms) / 1000)],
    );
    let scope = if is_shared(entry, asked) {
        "public, max-age="
    } else {
        "private, max-age="
    };
    let mut parts = [scope, first.format(ttl_ms / 1000), "", "", "", ""];
    let (while_revalidate, if_error) = windows.unwrap_or_default();
    if while_revalidate >= 1000 {
        parts[2] = ", stale-while-revalidate=";
        parts[3] = second.format(while_revalidate / 1000);
    }
    if if_error >= 1000 {
        parts[4] = ", stale-if-error=";
        parts[5] = third.format(if_error / 1000);
    }
    sink.put_known(&header::CACHE_CONTROL, &parts);
}

/// `If-None-Match` by weak comparison (RFC 9110 section 13.1.2).
pub(super) fn is_known(request: &impl Fields, etag: &str) -> bool {
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    request.all(&header::IF_NONE_MATCH).any(|field| {
        let text = std::str::from_utf8(field).unwrap_or_default();
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

    #[test]
    fn what_http_cannot_carry_is_left_out_of_a_map_and_of_lines_alike() {
        let mut map = HeaderMap::new();
        let mut lines = Vec::new();
        for (value, is_kept) in [
            (&["a", "b"][..], true),
            (&["a\tb"], true),
            (&[""], true),
            (&["a\r\nx: y"], false),
            (&["a", "b\0"], false),
            (&["\u{e9}"], true),
            (&["\u{7f}"], false),
        ] {
            map.clear();
            lines.clear();
            map.put(&header::AGE, value);
            lines.put(&header::AGE, value);
            assert_eq!(map.len(), usize::from(is_kept), "{value:?}");
            let line = format!("age: {}\r\n", value.concat());
            let line = if is_kept { line.as_bytes() } else { b"" };
            assert_eq!(lines, line, "{value:?}");
        }
    }
}
