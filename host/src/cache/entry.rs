//! A stored value (or absence) with its times, stamp, tags, validator, visibility, status and headers.
//!
//! A [`Draft`] is what a load or a shared tier brings: plain, and to be changed. [`Draft::keep`] makes an [`Entry`] of it: one
//! pointer, shared from then on, to one allocation.
//!
//! # What an entry takes
//!
//! Most entries are small, and there are many of them. So an entry is a head of fixed size, what its key does not have in common
//! with those of its route, and its body; what it has in common with others is held once for all of them (see
//! [`common`](super::common)), and what few have (headers, tags, a source's validator) is held apart. A body longer than
//! [`INLINE_MAX`] stays where it is, is never copied, and is held apart too.

use std::fmt;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use once_cell::race::OnceBox;
use triomphe::ThinArc;
use xxhash_rust::xxh3::xxh3_128;

use super::common::{self, Common, View};
use super::freshness::Times;
use super::generations::{Checked, Stamp};
use super::source::{Found, Validator};
use super::variants::{Share, Variants};
use crate::error::{Failure, FailureKind};
use crate::key::{Key, Param, Resource, Visibility};

/// Whether there is a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EntryKind {
    /// There is: `body` and `headers` are it.
    Found,
    /// There is none, and that is remembered. Has no stale windows: an absence past its ttl is asked again.
    Missing,
}

/// What is kept of an answer besides its times.
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
    /// The entity tag: the validator's, else a digest of the content.
    pub etag: Etag,
    /// What a purge by tag finds it by.
    pub tags: Vec<String>,
    /// Who may share it.
    pub visibility: Visibility,
    /// The loader of the chain that made it: only that one is shown its validator.
    pub maker: String,
    /// The body in other codings, where another entry with the same body has them.
    pub variants: Option<Arc<Variants>>,
}

/// An entity tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Etag {
    /// None, or any text as it goes on the wire, quotes included.
    Text(String),
    /// A digest that goes on the wire as [`TagRoom`] writes it.
    Digest(u128),
}

impl Etag {
    /// The tag that goes on the wire so.
    pub fn of(text: &str) -> Self {
        let hex = text
            .strip_prefix(DIGEST_BEGINS)
            .and_then(|rest| rest.strip_suffix('"'));
        // Only as it would be written again: 32 digits, and none in upper case.
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let half = |hex: &str| {
            let mut digits = hex.bytes();
            digits.try_fold(0_u64, |half, byte| {
                Some(half << 4 | u64::from(digit(byte)?))
            })
        };
        let digest = hex.filter(|hex| hex.len() == 32).and_then(|hex| {
            let (high, low) = hex.split_at_checked(16)?;
            Some(u128::from(half(high)?) << 64 | u128::from(half(low)?))
        });
        digest.map_or_else(|| Self::Text(text.to_owned()), Self::Digest)
    }
}

/// The `~` marks it as Larder's own digest, not a validator of the source.
const DIGEST_BEGINS: &str = "\"~";

/// Where a digest is written down as an entity tag.
pub struct TagRoom([u8; 35]);

impl Default for TagRoom {
    fn default() -> Self {
        Self([b'"'; 35])
    }
}

impl TagRoom {
    /// `"~`, 32 hexadecimal digits, `"`. Every hit writes it: without a branch, so that it is done in vectors.
    #[inline]
    fn write(&mut self, digest: [u8; 16]) -> &[u8] {
        let digit = |nibble: u8| nibble + b'0' + u8::from(nibble > 9) * (b'a' - b'0' - 10);
        self.0[1] = b'~';
        let (pairs, _) = self.0[2..34].as_chunks_mut::<2>();
        for (pair, byte) in pairs.iter_mut().zip(digest) {
            *pair = [digit(byte >> 4), digit(byte & 15)];
        }
        &self.0
    }
}

/// An answer before it is kept.
#[derive(Clone, Debug)]
pub struct Draft {
    /// What it is.
    pub content: Content,
    /// When it was loaded and how long it lives.
    pub times: Times,
    /// The seq noted before its load began.
    pub stamp: Stamp,
    /// When, by this node's clock, it was certainly not older than any purge: just before its source was asked, or the
    /// tier that nodes share was.
    pub as_of_ms: u64,
}

/// One stored answer. Cloning copies one pointer.
#[derive(Clone)]
pub struct Entry(ThinArc<Head, u8>);

/// The longest body that is kept in the entry itself, in bytes. To copy as much is dearer than a second allocation, but not by
/// much; whoever sends one puts it into one buffer with its head anyhow.
pub const INLINE_MAX: usize = 4 * 1024;

/// The part of an entry that has a fixed size. After it come the values of its key's resource, the parts of its key, and its body
/// if that is short.
struct Head {
    common: Common,
    /// Made later if an entry without one turns out to need a body in another coding.
    rare: OnceBox<Rare>,
    /// The digest that its entity tag is, if it is one: the lowest byte last, as it is read.
    digest: [u8; 16],
    seq: u64,
    sync: u32,
    checked: Checked,
    /// From when it was loaded; [`AS_OF_NEVER`]: it is too long before.
    as_of_after_ms: i32,
    /// Bytes of the resource's values, and of the parts.
    values: u32,
    parts: u16,
    loaded_ms: U48,
    ttl_ms: U48,
    /// Whether it is the first with its [`Common`].
    is_first: bool,
}

/// Its `as_of_ms` is 0, which is always right.
const AS_OF_NEVER: i32 = i32::MIN;

/// A number in six bytes. In milliseconds it goes to the year 10889, as a time and as a duration; what is more counts as that.
#[derive(Clone, Copy)]
struct U48([u16; 3]);

impl U48 {
    const MAX: u64 = (1 << 48) - 1;

    fn new(number: u64) -> Self {
        let number = number.min(Self::MAX);
        Self([number as u16, (number >> 16) as u16, (number >> 32) as u16])
    }

    #[inline]
    fn get(self) -> u64 {
        let [low, middle, high] = self.0.map(u64::from);
        low | middle << 16 | high << 32
    }
}

/// What few entries have.
#[derive(Default)]
struct Rare {
    /// Whether it counts in what its entry weighs, and not, because it was made later, in [`VARIANTS_BYTES`]: an entry must always
    /// weigh the same.
    is_counted: bool,
    /// A body that is not in the entry itself; empty if it is.
    body: Bytes,
    /// The source's entity tag as it gave it, and as it goes on the wire if that differs.
    given: Option<Box<str>>,
    etag: Option<Box<str>>,
    has_validator: bool,
    last_modified_ms: Option<u64>,
    headers: Box<[Param]>,
    tags: Box<[String]>,
    /// One too long to be held in common.
    content_type: Option<Box<str>>,
    variants: OnceLock<Arc<Variants>>,
}

impl Rare {
    /// Of a content; none if it has nothing of it.
    fn of(content: &mut Content) -> Option<Box<Self>> {
        let is_long = content.body.len() > INLINE_MAX;
        let etag = match &mut content.etag {
            Etag::Text(text) if !text.is_empty() => Some(std::mem::take(text)),
            _ => None,
        };
        let content_type = content
            .content_type
            .take_if(|text| text.len() > common::CONTENT_TYPE_MAX);
        let is_needed = is_long
            || etag.is_some()
            || content_type.is_some()
            || content.validator.is_some()
            || content.variants.is_some()
            || !content.headers.is_empty()
            || !content.tags.is_empty();
        if !is_needed {
            return None;
        }
        let has_validator = content.validator.is_some();
        let Validator {
            etag: given,
            last_modified_ms,
        } = content.validator.take().unwrap_or_default();
        Some(Box::new(Self {
            is_counted: true,
            body: match is_long {
                true => std::mem::take(&mut content.body),
                false => Bytes::new(),
            },
            etag: etag
                .filter(|etag| given.as_ref() != Some(etag))
                .map(Into::into),
            given: given.map(Into::into),
            has_validator,
            last_modified_ms,
            headers: std::mem::take(&mut content.headers).into(),
            tags: std::mem::take(&mut content.tags).into(),
            content_type: content_type.map(Into::into),
            variants: content
                .variants
                .take()
                .map_or_else(OnceLock::new, OnceLock::from),
        }))
    }

    fn weight(&self) -> usize {
        if !self.is_counted {
            return 0;
        }
        let text = |text: &Option<Box<str>>| text.as_ref().map_or(0, |text| allocated(text.len()));
        let headers = self.headers.iter();
        let headers = headers.map(|h| allocated(h.name.len()) + allocated(h.value.len()));
        let tags = self.tags.iter().map(|tag| allocated(tag.len()));
        allocated(size_of::<Self>())
            + allocated(self.body.len())
            + text(&self.given)
            + text(&self.etag)
            + text(&self.content_type)
            + allocated(size_of_val(&*self.headers))
            + headers.sum::<usize>()
            + allocated(size_of_val(&*self.tags))
            + tags.sum::<usize>()
    }
}

/// What an entry takes more, in bytes, once its body was asked for in another coding: that is after it was weighed.
pub const VARIANTS_BYTES: usize =
    allocated(size_of::<Rare>()) + allocated(size_of::<Variants>() + 16);

/// What the allocator takes for so many bytes: it has four sizes for every power of two, up to half a mebibyte.
pub(super) const fn allocated(bytes: usize) -> usize {
    const LARGE: usize = 512 * 1024;
    match bytes {
        0 => 0,
        1..=64 => bytes.next_multiple_of(16),
        65..=LARGE => bytes.next_multiple_of((1 << (bytes - 1).ilog2()) / 4),
        _ => bytes.next_multiple_of(4096),
    }
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
            .map_or_else(
                || Etag::Digest(digest(status, found.content_type.as_deref(), &found.body)),
                Etag::Text,
            );
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
            variants: None,
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
            etag: Etag::Text(String::new()),
            tags,
            visibility,
            maker: maker.to_owned(),
            variants: None,
        }
    }
}

impl Draft {
    /// What is kept of it under the key of this text.
    pub fn keep(self, key: &str) -> Entry {
        let Self {
            mut content,
            times,
            stamp,
            as_of_ms,
        } = self;
        let rare = Rare::of(&mut content);
        let [before, values, between, parts] = pieces(key);
        let digest = match content.etag {
            Etag::Digest(digest) => Some(digest),
            Etag::Text(_) => None,
        };
        let (common, is_first) = common::share(View {
            before,
            between,
            content_type: content.content_type.as_deref(),
            maker: &content.maker,
            epoch: stamp.epoch,
            swr_ms: times.swr_ms,
            sie_ms: times.sie_ms,
            status: content.status,
            kind: content.kind,
            visibility: content.visibility,
            ttl_from_loader: times.ttl_from_loader,
            is_digest: digest.is_some(),
        });
        let loaded_ms = U48::new(times.loaded_ms);
        let as_of_after_ms = i128::from(as_of_ms) - i128::from(loaded_ms.get());
        let head = Head {
            common,
            rare: rare.map_or_else(OnceBox::new, OnceBox::with_value),
            digest: digest.unwrap_or_default().to_be_bytes(),
            seq: stamp.seq,
            sync: stamp.sync,
            checked: Checked::default(),
            as_of_after_ms: match i32::try_from(as_of_after_ms) {
                Ok(after_ms) => after_ms,
                // Earlier than it was is always right.
                Err(_) if as_of_after_ms > 0 => i32::MAX,
                Err(_) => AS_OF_NEVER,
            },
            values: values.len() as u32,
            parts: parts.len() as u16,
            loaded_ms,
            ttl_ms: U48::new(times.ttl_ms),
            is_first,
        };
        let body = &*content.body;
        let mut tail = Vec::with_capacity(values.len() + parts.len() + body.len());
        tail.extend_from_slice(values.as_bytes());
        tail.extend_from_slice(parts.as_bytes());
        tail.extend_from_slice(body);
        Entry(ThinArc::from_header_and_slice(head, &tail))
    }
}

/// The text of a key in four: what all keys of a route begin with, the values of the resource, what all keys of a route and its
/// loaders have in the middle, and the parts. Put together they are the text, whatever it is.
fn pieces(key: &str) -> [&str; 4] {
    let is = |wanted: u8| move |byte: u8| byte == wanted;
    let end = key.bytes().position(is(b'}')).unwrap_or(0);
    let start = key[..end].bytes().position(is(b':')).unwrap_or(end);
    let colon = key.bytes().rposition(is(b':'));
    let parts = colon.map_or(key.len(), |at| at + 1).max(end);
    // Parts are a digest if they are long; what else comes here as a key is held as something in common.
    let parts = match key.len() - parts <= usize::from(u16::MAX) {
        true => parts,
        false => key.len(),
    };
    [
        &key[..start],
        &key[start..end],
        &key[end..parts],
        &key[parts..],
    ]
}

impl Entry {
    #[inline]
    fn head(&self) -> &Head {
        &self.0.header.header
    }

    #[inline]
    fn rare(&self) -> Option<&Rare> {
        self.head().rare.get()
    }

    /// Where the parts begin and where they end.
    #[inline]
    fn bounds(&self) -> (usize, usize) {
        let head = self.head();
        let values = head.values as usize;
        (values, values + usize::from(head.parts))
    }

    /// Whether it is kept under this key.
    #[inline]
    pub fn is_of(&self, key: &Key) -> bool {
        let (values, parts) = self.bounds();
        let (common, tail) = (&self.head().common, &self.0.slice);
        let text = key.text().as_bytes();
        text.len() == common.before().len() + common.between().len() + parts
            && text
                .strip_prefix(common.before())
                .and_then(|text| text.strip_prefix(&tail[..values]))
                .and_then(|text| text.strip_prefix(common.between()))
                .is_some_and(|text| *text == tail[values..parts])
    }

    /// The text of the key it is kept under.
    pub fn key(&self) -> String {
        let (values, parts) = self.bounds();
        let (common, tail) = (&self.head().common, &self.0.slice);
        let text = [
            common.before(),
            &tail[..values],
            common.between(),
            &tail[values..parts],
        ];
        String::from_utf8(text.concat()).expect("these are the pieces of a text")
    }

    /// Whether it is a variant of this resource.
    pub fn is_variant_of(&self, resource: &Resource) -> bool {
        let (values, _) = self.bounds();
        let pattern = self.head().common.before().strip_prefix(b"{");
        let text = resource.text().as_bytes();
        let rest = pattern.and_then(|pattern| text.strip_prefix(pattern));
        rest.is_some_and(|rest| *rest == self.0.slice[..values])
    }

    /// Whether this is that very entry.
    #[inline]
    pub fn is_same(&self, other: &Self) -> bool {
        std::ptr::eq(self.0.ptr(), other.0.ptr())
    }

    /// Whether there is a value.
    #[inline]
    pub fn kind(&self) -> EntryKind {
        self.head().common.kind
    }

    /// The status to answer with.
    #[inline]
    pub fn status(&self) -> u16 {
        self.head().common.status
    }

    /// The media type.
    #[inline]
    pub fn content_type(&self) -> Option<&str> {
        let common = self.head().common.content_type();
        common.or_else(|| self.rare()?.content_type.as_deref())
    }

    /// Further headers, filtered.
    #[inline]
    pub fn headers(&self) -> &[Param] {
        self.rare().map_or(&[], |rare| &rare.headers)
    }

    /// What a purge by tag finds it by.
    #[inline]
    pub fn tags(&self) -> &[String] {
        self.rare().map_or(&[], |rare| &rare.tags)
    }

    /// The source's validator, as it gave it.
    pub fn validator(&self) -> Option<Validator> {
        let rare = self.rare().filter(|rare| rare.has_validator)?;
        Some(Validator {
            etag: rare.given.as_deref().map(str::to_owned),
            last_modified_ms: rare.last_modified_ms,
        })
    }

    /// Whether its source gave a validator.
    pub fn has_validator(&self) -> bool {
        self.rare().is_some_and(|rare| rare.has_validator)
    }

    /// The entity tag as it goes on the wire, quotes included: the validator's, else a digest of the content. Empty for an
    /// absence.
    #[inline]
    pub fn etag<'a>(&'a self, room: &'a mut TagRoom) -> &'a str {
        let head = self.head();
        if head.common.is_digest {
            return std::str::from_utf8(room.write(head.digest)).unwrap_or_default();
        }
        let etag = self.rare().and_then(|rare| {
            let etag = rare.etag.as_deref();
            etag.or(rare.given.as_deref())
        });
        etag.unwrap_or_default()
    }

    /// The entity tag as it goes on the wire, if it is a digest: 35 visible characters.
    #[inline]
    pub fn digest<'a>(&self, room: &'a mut TagRoom) -> Option<&'a [u8]> {
        let head = self.head();
        head.common.is_digest.then(|| room.write(head.digest))
    }

    /// Who may share it.
    #[inline]
    pub fn visibility(&self) -> Visibility {
        self.head().common.visibility
    }

    /// The loader of the chain that made it: only that one is shown its validator.
    pub fn maker(&self) -> &str {
        self.head().common.maker()
    }

    /// Bytes of the body.
    #[inline]
    pub fn len(&self) -> usize {
        self.bytes().len()
    }

    /// Whether the body is empty.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The body, to be read.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        self.inline()
            .unwrap_or_else(|| &self.rare().expect("it is apart").body)
    }

    /// The body, if it is no longer than [`INLINE_MAX`].
    #[inline]
    pub fn inline(&self) -> Option<&[u8]> {
        let (_, parts) = self.bounds();
        match self.rare() {
            Some(rare) if !rare.body.is_empty() => None,
            _ => Some(&self.0.slice[parts..]),
        }
    }

    /// The body, to be sent: not a copy of it.
    pub fn body(&self) -> Bytes {
        struct Inline(Entry);
        impl AsRef<[u8]> for Inline {
            fn as_ref(&self) -> &[u8] {
                self.0.bytes()
            }
        }
        match self.rare() {
            Some(rare) if !rare.body.is_empty() => rare.body.clone(),
            _ => Bytes::from_owner(Inline(self.clone())),
        }
    }

    /// The body in other codings, if it was asked for in one.
    #[inline]
    pub fn variants(&self) -> Option<&Arc<Variants>> {
        self.rare()?.variants.get()
    }

    /// Where the body in other codings is kept from now on. `share`: of [`VARIANTS_BYTES`].
    pub fn variants_with(&self, share: Share) -> &Arc<Variants> {
        let rare = self.head().rare.get_or_init(Box::default);
        rare.variants
            .get_or_init(|| Arc::new(Variants::with(share)))
    }

    /// When it was loaded and how long it lives.
    #[inline]
    pub fn times(&self) -> Times {
        let head = self.head();
        Times {
            loaded_ms: head.loaded_ms.get(),
            ttl_ms: head.ttl_ms.get(),
            ttl_from_loader: head.common.ttl_from_loader,
            swr_ms: head.common.swr_ms,
            sie_ms: head.common.sie_ms,
        }
    }

    /// The seq noted before its load began.
    #[inline]
    pub fn stamp(&self) -> Stamp {
        let head = self.head();
        Stamp {
            epoch: head.common.epoch,
            seq: head.seq,
            sync: head.sync,
        }
    }

    /// Up to which version of the record of purges this node knows it to be alive.
    #[inline]
    pub fn checked(&self) -> &Checked {
        &self.head().checked
    }

    /// When, by this node's clock, it was certainly not older than any purge, or some time before that.
    #[inline]
    pub fn as_of_ms(&self) -> u64 {
        let head = self.head();
        match head.as_of_after_ms {
            AS_OF_NEVER => 0,
            after_ms => head.loaded_ms.get().saturating_add_signed(after_ms.into()),
        }
    }

    /// What [`Draft::keep`] was given, for another to be made of it. A long body is not copied, nor are its variants.
    pub fn draft(&self) -> Draft {
        let mut room = TagRoom::default();
        let content = Content {
            kind: self.kind(),
            status: self.status(),
            content_type: self.content_type().map(str::to_owned),
            headers: self.headers().to_vec(),
            body: self.body(),
            validator: self.validator(),
            etag: Etag::of(self.etag(&mut room)),
            tags: self.tags().to_vec(),
            visibility: self.visibility(),
            maker: self.maker().to_owned(),
            variants: self.variants().map(Arc::clone),
        };
        Draft {
            content,
            times: self.times(),
            stamp: self.stamp(),
            as_of_ms: self.as_of_ms(),
        }
    }

    /// Bytes it takes, with what the allocator adds, for the memory tier's bound. Not what it shares with others, but if it was
    /// the first of them: who comes later may outlive it, so as many bytes as a [`Common`] has can go uncounted with each,
    /// which are few, because nothing in it is longer than what a configuration says and a short media type.
    pub fn weight(&self) -> u64 {
        let head = self.head();
        // Before the head, how often it is held and how long what follows it is.
        let own = size_of::<[usize; 2]>() + size_of::<Head>() + self.0.slice.len();
        let common = if head.is_first {
            head.common.weight()
        } else {
            0
        };
        (allocated(own) + self.rare().map_or(0, Rare::weight) + common) as u64
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("key", &self.key())
            .field("status", &self.status())
            .field("bytes", &self.len())
            .finish_non_exhaustive()
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

/// A strong entity tag from the content.
fn digest(status: u16, content_type: Option<&str>, body: &[u8]) -> u128 {
    let kind = xxh3_128(content_type.unwrap_or_default().as_bytes());
    xxh3_128(body) ^ kind.rotate_left(1) ^ u128::from(status)
}

#[cfg(test)]
#[path = "entry_tests.rs"]
mod tests;
