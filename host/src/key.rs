//! Request → parts → key. Pure: no time, no I/O.
//!
//! Law 1 lives here in its first half: what a loader is told is the parts, so what is not in the key cannot change the
//! answer. Law 2 is the encoding: every part list has exactly one text, and no two share one.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, LazyLock};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::error::Failure;

/// A name and a value: the contract's `param`. Names may repeat; order matters.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Param {
    /// The name, decoded.
    pub name: String,
    /// The value, decoded.
    pub value: String,
}

impl Param {
    /// A pair from anything that becomes text.
    pub fn new(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            value: value.into(),
        }
    }
}

/// The parts of a request: all that a loader is told of it, in the policy's order.
pub type Parts = Arc<[Param]>;

/// Who may share an answer: everybody, or (said to downstream caches) only the one who asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Visibility {
    /// Downstream caches may share it.
    #[default]
    Public,
    /// Downstream caches must not share it; Larder itself keeps it under its key.
    Private,
}

/// What a key policy is told: the contract's `key-policy.request`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRequest {
    /// `GET` for reads (HEAD asks as GET: both share the entry).
    pub method: &'static str,
    /// The route's pattern, e.g. `/data/{key}`.
    pub route: Arc<str>,
    /// The matched path parameters, decoded, in the order of the pattern.
    pub path: Vec<Param>,
    /// The query, decoded, in request order; a repeated name is repeated.
    pub query: Vec<Param>,
    /// Only the headers the route lets through (`key_headers`), names in lower case, in request order.
    pub headers: Vec<Param>,
}

/// Parts and how widely the answer may be shared: the contract's `derivation`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Derivation {
    /// The parts, in the policy's order.
    pub parts: Vec<Param>,
    /// Public or private.
    pub visibility: Visibility,
    /// Room for growth; unknown hints are ignored.
    pub hints: Vec<Param>,
}

/// What a key policy answers: the contract's `decision`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Cache under these parts.
    Cache(Derivation),
    /// Load with these parts, neither read nor store.
    Bypass(Derivation),
    /// Do not answer: the client is told why.
    Reject(Failure),
}

/// Request → decision. Pure by contract, so its results may be remembered; implementations are synchronous and bounded.
pub trait KeyPolicy: Send + Sync {
    /// The name as the operator wrote it.
    fn name(&self) -> &str;
    /// Derives on a reused instance (microseconds).
    ///
    /// # Errors
    /// A trap, a passed limit or an overload, never what the policy itself decided ([`Decision::Reject`]).
    fn derive(&self, request: &PolicyRequest) -> Result<Decision, Failure>;
    /// Derives on an instance that has never answered before: the reference that remembered results are sampled against.
    ///
    /// # Errors
    /// As [`KeyPolicy::derive`].
    fn derive_fresh(&self, request: &PolicyRequest) -> Result<Decision, Failure>;
    /// A sample differed: take the policy out of service until it is replaced. Later derivations fail with `policy-impure`.
    fn quarantine(&self, why: &str);
}

/// What stays readable in keys; everything else is percent-encoded, so `:`, `=`, `&`, `{` and `}` separate unambiguously.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'-');

/// Parts longer than this (encoded, in bytes) appear in keys as a digest.
pub const PARTS_READABLE_BYTES_MAX: usize = 1024;
/// Parts longer than this (names and values, in bytes) are refused as `key-too-large`.
pub const PARTS_BYTES_MAX: usize = 64 * 1024;

/// Percent-encodes outside `[A-Za-z0-9._~-]`.
pub fn encode(text: &str) -> Cow<'_, str> {
    utf8_percent_encode(text, ENCODED).into()
}

/// Route + matched path parameters, decoded: what a URL path names, whatever variants it has.
///
/// Its text is `ROUTE:value:value…`, encoded: the part of a key between the braces, which Redis Cluster hashes.
#[derive(Clone, Debug)]
pub struct Resource {
    text: Arc<str>,
    hash: u64,
}

impl Resource {
    /// The resource of a route's pattern and its matched values, in the order of the pattern.
    pub fn new<'a>(pattern: &str, values: impl IntoIterator<Item = &'a str>) -> Self {
        let mut text = String::with_capacity(pattern.len() * 2 + 16);
        text.push_str(&encode(pattern));
        for value in values {
            text.push(':');
            text.push_str(&encode(value));
        }
        let hash = hash_of(&text);
        Self {
            text: text.into(),
            hash,
        }
    }

    /// The resource of a text that [`Resource::text`] gave, here or on another node.
    pub fn from_text(text: &str) -> Self {
        Self {
            hash: hash_of(text),
            text: text.into(),
        }
    }

    /// `ROUTE:value:value…`, percent-encoded.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl PartialEq for Resource {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && self.text == other.text
    }
}
impl Eq for Resource {}
impl Hash for Resource {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// What tells texts of keys and of resources apart in this process. Seeded anew at each start: otherwise a client could work out
/// keys that take the place of somebody else's.
pub fn hash_of(text: &str) -> u64 {
    static SEED: LazyLock<u64> = LazyLock::new(rand::random);
    xxh3_64_with_seed(text.as_bytes(), *SEED)
}

/// Where an entry lives: `{ROUTE:resource}:IDENTITY:parts`. Cloning is two pointer copies; hashing is free.
#[derive(Clone, Debug)]
pub struct Key {
    text: Arc<str>,
    hash: u64,
    resource: Resource,
    /// Where in the text the parts begin; every hit asks for them.
    parts_at: u32,
}

impl Key {
    /// The key of a part list under a resource and the identity of the loaders that answer it.
    ///
    /// # Errors
    /// [`KeyTooLarge`] when names and values together exceed [`PARTS_BYTES_MAX`].
    pub fn new(resource: &Resource, identity: &str, parts: &[Param]) -> Result<Self, KeyTooLarge> {
        let bytes: usize = parts.iter().map(|p| p.name.len() + p.value.len()).sum();
        if bytes > PARTS_BYTES_MAX {
            return Err(KeyTooLarge { bytes });
        }
        let mut text =
            String::with_capacity(resource.text.len() + identity.len() + bytes + bytes / 2 + 8);
        let _ = write!(text, "{{{}}}:{}:", resource.text, encode(identity));
        let start = text.len();
        for (i, part) in parts.iter().enumerate() {
            if i > 0 {
                text.push('&');
            }
            text.push_str(&encode(&part.name));
            text.push('=');
            text.push_str(&encode(&part.value));
        }
        if text.len() - start > PARTS_READABLE_BYTES_MAX {
            // `#` is outside the alphabet of encoded parts, so a digest never equals a readable text.
            let digest = blake3::hash(&text.as_bytes()[start..]);
            text.truncate(start);
            let _ = write!(text, "#{}", digest.to_hex());
        }
        let hash = hash_of(&text);
        Ok(Self {
            text: text.into(),
            hash,
            resource: resource.clone(),
            // The text is some hundred KiB at most, for its parts and the path of a request are bounded.
            parts_at: start as u32,
        })
    }

    /// `{ROUTE:resource}:IDENTITY:parts`, percent-encoded: what an entry echoes and what follows `PREFIX:e:` in Redis.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The parts as its text ends with them: which variant of its resource it is, whatever loaders answer it.
    pub fn variant(&self) -> &str {
        &self.text[self.parts_at as usize..]
    }

    /// The resource it is a variant of.
    pub fn resource(&self) -> &Resource {
        &self.resource
    }

    /// Bytes it holds, its resource's text included.
    pub fn weight(&self) -> usize {
        size_of::<Self>() + self.text.len() + self.resource.text.len()
    }

    /// A 64-bit hash of the text, computed once.
    pub fn hash64(&self) -> u64 {
        self.hash
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && self.text == other.text
    }
}
impl Eq for Key {}
impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// The resource in the text of a key; none if it is no key.
pub fn resource_of(key: &str) -> Option<Resource> {
    let (resource, _) = key.strip_prefix('{')?.split_once("}:")?;
    Some(Resource::from_text(resource))
}

/// The parts in the text of a key: what follows its last `:`, which no encoded part contains.
pub fn variant_of(key: &str) -> &str {
    key.rsplit_once(':').map_or(key, |(_, parts)| parts)
}

/// Names and values of the parts exceed [`PARTS_BYTES_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the parts of the key hold {bytes} bytes; {PARTS_BYTES_MAX} are allowed")]
pub struct KeyTooLarge {
    /// Bytes of all names and values.
    pub bytes: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parts(list: &[(&str, &str)]) -> Vec<Param> {
        list.iter().map(|(n, v)| Param::new(*n, *v)).collect()
    }

    fn text(list: &[Param]) -> String {
        let resource = Resource::new("/data/{key}", ["42"]);
        Key::new(&resource, "demo~1", list)
            .unwrap()
            .text()
            .to_owned()
    }

    #[test]
    fn a_key_is_readable_and_its_route_braces_are_not_the_hash_tag() {
        assert_eq!(
            text(&parts(&[("key", "42"), ("lang", "d e")])),
            "{%2Fdata%2F%7Bkey%7D:42}:demo~1:key=42&lang=d%20e"
        );
    }

    #[test]
    fn a_variant_is_what_the_text_ends_with() {
        let long = "x".repeat(2000);
        for list in [&[][..], &[("key", "4:2")], &[("a", ""), ("key", &*long)]] {
            let resource = Resource::new("/data/{key}", ["4:2", ""]);
            let key = Key::new(&resource, "demo~1", &parts(list)).unwrap();
            assert_eq!(key.variant(), variant_of(key.text()));
        }
    }

    #[test]
    fn long_parts_appear_as_a_digest_and_huge_ones_are_refused() {
        let long = text(&parts(&[("key", &"x".repeat(2000))]));
        assert!(long.contains(":#"), "{long}");
        assert_ne!(long, text(&parts(&[("key", &"x".repeat(2001))])));
        let resource = Resource::new("/", []);
        let huge = parts(&[("key", &"x".repeat(PARTS_BYTES_MAX))]);
        assert_eq!(
            Key::new(&resource, "i", &huge).unwrap_err().bytes,
            PARTS_BYTES_MAX + 3
        );
    }

    proptest! {
        /// Law 2: no two different part lists share a key.
        #[test]
        fn law_2_keys_are_injective(
            a in prop::collection::vec(("[a-c=&%:#]{0,3}", "[a-c=&%:#]{0,3}"), 0..4),
            b in prop::collection::vec(("[a-c=&%:#]{0,3}", "[a-c=&%:#]{0,3}"), 0..4),
        ) {
            let list = |l: &[(String, String)]| -> Vec<Param> { l.iter().map(|(n, v)| Param::new(n, v)).collect() };
            prop_assert_eq!(a == b, text(&list(&a)) == text(&list(&b)));
        }

        /// Law 2, moved boundaries: `("a","bc")` and `("ab","c")` differ, whatever the text is.
        #[test]
        fn law_2_a_moved_boundary_is_another_key(s in "\\PC{2,12}", i in 0usize..12, j in 0usize..12) {
            let cuts: Vec<usize> = s.char_indices().map(|(i, _)| i).collect();
            let (i, j) = (cuts[i % cuts.len()], cuts[j % cuts.len()]);
            let one = [Param::new(&s[..i], &s[i..])];
            let two = [Param::new(&s[..j], &s[j..])];
            prop_assert_eq!(i == j, text(&one) == text(&two));
        }
    }
}
