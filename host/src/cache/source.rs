//! What the cache asks of a loader and what it is answered: the contract's records in the host's own types.
//!
//! Owns the `Loader` trait, the seam between the cache and the plugin host (and where chaos can be put between them).
//! Knows nothing of how a loader works.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::error::Failure;
use crate::key::{Param, Parts};

/// What tells one version of a value from another: an entity tag, a time, or both.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Validator {
    /// As the source gives it, without weakening: an opaque text, unquoted or quoted as in HTTP.
    pub etag: Option<String>,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub last_modified_ms: Option<u64>,
}

/// How the misses of a route gather for a loader that takes batches. Other loaders do not look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batching {
    /// How long the first of a batch waits for others, in whole milliseconds.
    pub window: Duration,
    /// The most questions in a batch. Never 0.
    pub max: usize,
}

impl Batching {
    /// Every question is asked alone, at once.
    pub const ALONE: Self = Self {
        window: Duration::ZERO,
        max: 1,
    };
}

/// A question to a loader: the contract's `question`.
#[derive(Clone, Debug)]
pub struct Question {
    /// The route's pattern.
    pub route: Arc<str>,
    /// All that the loader is told of the request (law 1).
    pub parts: Parts,
    /// How long the host waits, from now. The guest is told it as `deadline-ms`.
    pub timeout: Duration,
    /// The host's own span, never the client's text (law 1).
    pub traceparent: Option<String>,
    /// The validator of the entry in hand, only if this very loader made that entry.
    pub known: Option<Validator>,
    /// How it may wait for others.
    pub batching: Batching,
}

/// A value: the contract's `entry`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The status to answer with; 200 if none.
    pub status: Option<u16>,
    /// The media type; `application/octet-stream` if none.
    pub content_type: Option<String>,
    /// Further headers, filtered by the host before they are kept.
    pub headers: Vec<Param>,
    /// The body. A short one is copied once, into the entry; a long one is moved, and never copied from here to the socket.
    pub body: Bytes,
    /// The source's own validator, if it has one.
    pub validator: Option<Validator>,
    /// The loader's own time to live; zero: do not store.
    pub ttl: Option<Duration>,
    /// What a purge by tag finds it by.
    pub tags: Vec<String>,
    /// Room for growth.
    pub hints: Vec<Param>,
}

/// A cacheable absence: the contract's `absence`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Absence {
    /// The loader's own time to live; zero: do not store.
    pub ttl: Option<Duration>,
    /// What a purge by tag finds it by.
    pub tags: Vec<String>,
    /// Room for growth.
    pub hints: Vec<Param>,
}

/// The entry in hand is still true: the contract's `renewal`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Renewal {
    /// The loader's own time to live for the renewed entry.
    pub ttl: Option<Duration>,
    /// Room for growth.
    pub hints: Vec<Param>,
}

/// What a loader can answer. A failure is not among them (law 10).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There is a value.
    Found(Found),
    /// There is none, and that may be remembered.
    Missing(Absence),
    /// The entry whose validator was sent is still true.
    NotModified(Renewal),
}

/// Where data comes from. One value of this type is one version of one plugin: requests that hold it finish on it.
pub trait Loader: Send + Sync {
    /// The name as the operator wrote it: the file stem.
    fn name(&self) -> &str;

    /// Asks one question. The future is owned by a flight of the host and is polled to its end;
    /// the implementation ends it within `question.timeout` (plus its own scheduling), whatever the guest does.
    fn load(&self, question: Question) -> BoxFuture<'static, Result<Outcome, Failure>>;
}
