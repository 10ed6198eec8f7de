//! A stored value (or absence) with its times, stamp, tags, validator, visibility, status and headers.
//!
//! Made once per load from what the loader gave, shared by reference from then on: bodies are never copied.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use xxhash_rust::xxh3::xxh3_128;

use super::freshness::Times;
use super::generations::{Checked, Stamp};
use super::source::{Found, Validator};
use super::variants::Variants;
use crate::error::{Failure, FailureKind};
use crate::key::{Param, Visibility};

/// Whether there is a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EntryKind {
    /// There is: `body` and `headers` are it.
    Found,
    /// There is none, and that is remembered. Has no stale windows: an absence past its ttl is asked again.
    Missing,
}

/// What is kept of an answer besides its times: shared between an entry and its renewals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// Whether there is a value.
    pub kind: EntryKind,
    /// The status to answer with.
    pub status: u16,
    /// The media type.
    pub content_type: Option<String>,
    /// Further headers, filtered.
    pub headers: Vec<Param>,
    /// The body.
    pub body: Bytes,
    /// The source's validator, as it gave it.
    pub validator: Option<Validator>,
    /// The entity tag as it goes on the wire, quotes included: the validator's, else a digest of the content.
    pub etag: String,
    /// What a purge by tag finds it by.
    pub tags: Vec<String>,
    /// Who may share it.
    pub visibility: Visibility,
    /// The loader of the chain that made it: only that one is shown its validator.
    pub maker: String,
    /// The body in other codings.
    pub variants: Variants,
}

/// One stored answer.
#[derive(Debug)]
pub struct Entry {
    /// What it is.
    pub content: Arc<Content>,
    /// When it was loaded and how long it lives.
    pub times: Times,
    /// The seq noted before its load began.
    pub stamp: Stamp,
    /// Up to which seq this node knows it to be alive.
    pub checked: Checked,
    /// When, by this node's clock, it was certainly not older than any purge: just before its source was asked, or the
    /// tier that nodes share was.
    pub as_of_ms: u64,
}

/// A response with more would be refused by what stands before Larder, and every hit pays for each.
const HEADERS_MAX: usize = 64;
const HEADER_BYTES_MAX: usize = 32 * 1024;
/// A tag that is left out could not be purged by, so too many are a fault and not a loss.
const TAGS_MAX: usize = 256;
const TAG_BYTES_MAX: usize = 32 * 1024;

/// Headers the host writes itself, or that concern one connection: never taken from a loader (DESIGN section 6).
const NOT_FROM_LOADERS: &[&str] = &[
    "age",
    "cache-control",
    "cache-status",
    "connection",
    "content-length",
    "content-type",
    "date",
    "etag",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

impl Content {
    /// What is kept of what a loader gave. Also says how many of its headers were dropped.
    ///
    /// # Errors
    /// `invalid-status` or `invalid-content-type`: the loader's answer cannot be sent as HTTP.
    pub fn from_found(
        found: Found,
        maker: &str,
        visibility: Visibility,
    ) -> Result<(Self, usize), Failure> {
        let status = found.status.unwrap_or(200);
        // 1xx and 304 have no body of their own and would confuse downstream caches; 304 is the host's to say.
        if !(200..=599).contains(&status)
            || matches!(status, 204 | 205 | 304) && !found.body.is_empty()
            || status == 304
        {
            return Err(Failure::host(
                FailureKind::Internal,
                "invalid-status",
                format!(
                    "loader `{maker}` answered status {status}; 200 to 599 without 304 are allowed, and 204 and 205 only without a body"
                ),
            ));
        }
        if let Some(text) = &found.content_type
            && HeaderValue::from_str(text).is_err()
        {
            return Err(Failure::host(
                FailureKind::Internal,
                "invalid-content-type",
                format!(
                    "loader `{maker}` answered a content type that is not a header value: {text:?}"
                ),
            ));
        }
        let tag_bytes: usize = found.tags.iter().map(String::len).sum();
        if found.tags.len() > TAGS_MAX || tag_bytes > TAG_BYTES_MAX {
            return Err(Failure::host(
                FailureKind::Internal,
                "too-many-tags",
                format!(
                    "loader `{maker}` gave {} tags of {tag_bytes} bytes; {TAGS_MAX} of {TAG_BYTES_MAX} bytes in all are allowed",
                    found.tags.len()
                ),
            ));
        }
        let offered = found.headers.len();
        let mut header_bytes = 0;
        let headers: Vec<Param> = found
            .headers
            .into_iter()
            .filter_map(keep_header)
            .take(HEADERS_MAX)
            .take_while(|header| {
                header_bytes += header.name.len() + header.value.len();
                header_bytes <= HEADER_BYTES_MAX
            })
            .collect();
        let dropped = offered - headers.len();
        let etag = found
            .validator
            .as_ref()
            .and_then(|validator| validator.etag.as_deref())
            .and_then(quoted)
            .unwrap_or_else(|| content_etag(status, found.content_type.as_deref(), &found.body));
        let content = Self {
            kind: EntryKind::Found,
            status,
            content_type: found.content_type,
            headers,
            body: found.body,
            validator: found.validator,
            etag,
            tags: found.tags,
            visibility,
            maker: maker.to_owned(),
            variants: Variants::default(),
        };
        Ok((content, dropped))
    }

    /// A remembered absence.
    pub fn missing(tags: Vec<String>, maker: &str, visibility: Visibility) -> Self {
        Self {
            kind: EntryKind::Missing,
            status: 404,
            content_type: None,
            headers: Vec::new(),
            body: Bytes::new(),
            validator: None,
            etag: String::new(),
            tags,
            visibility,
            maker: maker.to_owned(),
            variants: Variants::default(),
        }
    }

    /// Bytes it takes, for the memory tier's bound: what is held, plus the fixed part.
    pub fn weight(&self) -> u64 {
        let given = self
            .validator
            .as_ref()
            .and_then(|validator| validator.etag.as_ref());
        let texts = self.etag.len()
            + given.map_or(0, String::len)
            + self.maker.len()
            + self.content_type.as_ref().map_or(0, String::len)
            + self
                .tags
                .iter()
                .map(|tag| tag.len() + size_of::<String>())
                .sum::<usize>()
            + self
                .headers
                .iter()
                .map(|h| h.name.len() + h.value.len() + size_of::<Param>())
                .sum::<usize>();
        (size_of::<Self>() + size_of::<Entry>() + texts + self.body.len()) as u64
    }
}

/// A header of a loader in lower case, or nothing if the host must not send it.
fn keep_header(header: Param) -> Option<Param> {
    let name = HeaderName::from_bytes(header.name.as_bytes()).ok()?;
    HeaderValue::from_str(&header.value).ok()?;
    let allowed = !NOT_FROM_LOADERS.contains(&name.as_str());
    allowed.then(|| Param {
        name: name.as_str().to_owned(),
        value: header.value,
    })
}

/// The source's entity tag in wire form (RFC 9110 section 8.8.3): taken as it is if quoted, quoted if bare; nothing if
/// it holds bytes an entity tag cannot.
pub fn quoted(etag: &str) -> Option<String> {
    let opaque = etag.strip_prefix("W/").unwrap_or(etag);
    let inner = opaque
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    let body = inner.unwrap_or(opaque);
    let valid = !body.is_empty()
        && body
            .bytes()
            .all(|b| b == 0x21 || (0x23..=0x7e).contains(&b));
    if !valid {
        return None;
    }
    let weak = if etag.starts_with("W/") { "W/" } else { "" };
    Some(format!("{weak}\"{body}\""))
}

/// A strong entity tag from the content. The `~` marks it as Larder's own digest, not a validator of the source.
fn content_etag(status: u16, content_type: Option<&str>, body: &[u8]) -> String {
    let kind = xxh3_128(content_type.unwrap_or_default().as_bytes());
    let digest = xxh3_128(body) ^ kind.rotate_left(1) ^ u128::from(status);
    format!("\"~{digest:032x}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(headers: &[(&str, &str)]) -> Found {
        Found {
            status: None,
            content_type: Some("application/json".into()),
            headers: headers.iter().map(|(n, v)| Param::new(*n, *v)).collect(),
            body: Bytes::from_static(b"{}"),
            validator: None,
            ttl: None,
            tags: Vec::new(),
            hints: Vec::new(),
        }
    }

    #[test]
    fn headers_the_host_owns_or_cannot_send_are_dropped_and_counted() {
        let offered = found(&[
            ("X-Source", "db"),
            ("Set-Cookie", "a=1"),
            ("Transfer-Encoding", "chunked"),
            ("x-bad", "a\r\nb"),
            ("bad name", "x"),
            ("ETag", "\"1\""),
        ]);
        let (content, dropped) = Content::from_found(offered, "demo", Visibility::Public).unwrap();
        assert_eq!(content.headers, [Param::new("x-source", "db")]);
        assert_eq!(dropped, 5);
    }

    #[test]
    fn statuses_that_http_cannot_carry_are_the_loaders_fault() {
        for status in [0, 100, 199, 204, 304, 600] {
            let offered = Found {
                status: Some(status),
                ..found(&[])
            };
            let failure = Content::from_found(offered, "demo", Visibility::Public).unwrap_err();
            assert_eq!(failure.code, "invalid-status", "{status}");
        }
    }

    #[test]
    fn entity_tags_go_on_the_wire_quoted() {
        let check = |given: &str, expect: Option<&str>| {
            assert_eq!(quoted(given).as_deref(), expect, "{given:?}");
        };
        check("abc", Some("\"abc\""));
        check("\"abc\"", Some("\"abc\""));
        check("W/\"abc\"", Some("W/\"abc\""));
        check("a b", None);
        check("a\"b", None);
        check("", None);
    }
}
