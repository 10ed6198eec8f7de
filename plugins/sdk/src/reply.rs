//! What a load answers. Knows the contract's outcome, and nothing of how it was asked for.

use std::time::Duration;

use serde::Serialize;

use crate::contract::types::{Absence, Entry, Failure, Outcome, Param, Renewal, Validator};
use crate::error::Error;

/// An answer, an absence or "unchanged", with what the host should know of it.
///
/// A loader whose values need nothing more may answer any serialisable value instead: it is taken as
/// [`Reply::found`].
#[derive(Debug)]
pub struct Reply<T> {
    what: What<T>,
    ttl: Option<Duration>,
    tags: Vec<String>,
    validator: Option<Validator>,
    status: Option<u16>,
    headers: Vec<Param>,
}

#[derive(Debug)]
enum What<T> {
    Value(T),
    Bytes(String, Vec<u8>),
    Missing,
    Unchanged,
}

impl<T> Reply<T> {
    const fn of(what: What<T>) -> Self {
        Self {
            what,
            ttl: None,
            tags: Vec::new(),
            validator: None,
            status: None,
            headers: Vec::new(),
        }
    }

    /// A value, answered as JSON.
    #[must_use]
    pub const fn found(value: T) -> Self {
        Self::of(What::Value(value))
    }

    /// A body as it is, of this media type.
    #[must_use]
    pub fn bytes(content_type: impl Into<String>, body: impl Into<Vec<u8>>) -> Self {
        Self::of(What::Bytes(content_type.into(), body.into()))
    }

    /// There is no such thing: a 404 that the host remembers for a while.
    #[must_use]
    pub const fn missing() -> Self {
        Self::of(What::Missing)
    }

    /// What the host holds is still true. Only for a call with [`crate::Context::known`].
    #[must_use]
    pub const fn unchanged() -> Self {
        Self::of(What::Unchanged)
    }

    /// How long it is fresh; the route's `ttl` (of an absence, `missing_ttl`) if this is not said. Zero: do not store.
    #[must_use]
    pub const fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Adds a tag to purge it by. "Unchanged" keeps the tags it has.
    #[must_use]
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.tags.push(tag.into());
        self
    }

    /// The source's entity tag: shown to this loader when the value is asked for again, and to consumers.
    #[must_use]
    pub fn etag(mut self, etag: impl Into<String>) -> Self {
        self.validator_mut().etag = Some(etag.into());
        self
    }

    /// When the source changed it last, in milliseconds since 1970.
    #[must_use]
    pub fn last_modified_ms(mut self, time_ms: u64) -> Self {
        self.validator_mut().last_modified_ms = Some(time_ms);
        self
    }

    /// Another status than 200.
    #[must_use]
    pub const fn status(mut self, status: u16) -> Self {
        self.status = Some(status);
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push(Param {
            name: name.into(),
            value: value.into(),
        });
        self
    }

    fn validator_mut(&mut self) -> &mut Validator {
        self.validator.get_or_insert(Validator {
            etag: None,
            last_modified_ms: None,
        })
    }
}

impl<T: Serialize> Reply<T> {
    pub(crate) fn into_outcome(self) -> Result<Outcome, Failure> {
        let ttl_ms = self.ttl.map(millis);
        let (content_type, body) = match self.what {
            What::Missing => {
                return Ok(Outcome::Missing(Absence {
                    ttl_ms,
                    tags: self.tags,
                    hints: Vec::new(),
                }));
            }
            What::Unchanged => {
                return Ok(Outcome::NotModified(Renewal {
                    ttl_ms,
                    hints: Vec::new(),
                }));
            }
            What::Value(value) => {
                let body = serde_json::to_vec(&value).map_err(|error| {
                    Error::internal(format!("the value cannot be written as JSON: {error}"))
                        .code("value-not-json")
                        .0
                })?;
                ("application/json".to_owned(), body)
            }
            What::Bytes(content_type, body) => (content_type, body),
        };
        Ok(Outcome::Found(Entry {
            status: self.status,
            content_type: Some(content_type),
            headers: self.headers,
            body,
            validator: self.validator,
            ttl_ms,
            tags: self.tags,
            hints: Vec::new(),
        }))
    }

    pub(crate) fn into_entry(self) -> Result<Option<Entry>, Failure> {
        Ok(match self.into_outcome()? {
            Outcome::Found(entry) => Some(entry),
            Outcome::Missing(_) | Outcome::NotModified(_) => None,
        })
    }
}

/// What a load may answer: a [`Reply`], or a value by itself.
pub trait IntoReply {
    /// The value, for its schema.
    type Value: Serialize;
    /// The reply.
    fn into_reply(self) -> Reply<Self::Value>;
}

impl<T: Serialize> IntoReply for Reply<T> {
    type Value = T;
    fn into_reply(self) -> Self {
        self
    }
}

impl<T: Serialize> IntoReply for T {
    type Value = T;
    fn into_reply(self) -> Reply<T> {
        Reply::found(self)
    }
}

pub(crate) fn millis(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}
