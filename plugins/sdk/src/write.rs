//! Writers: one mutation at a time, as its author sees it. The host hands them over in batches, at most one for each
//! resource, and they run at the same time.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::contract::types::{Entry, Failure, Validator};
use crate::contract::writer;
use crate::error::Error;
use crate::reply::Reply;

/// What is to be done to one resource.
#[derive(Clone, Debug)]
pub struct Mutation<P> {
    /// The parts, read as the loader's are.
    pub params: P,
    /// What to do.
    pub operation: Operation,
    /// What must hold beforehand; `conflict` if it does not.
    pub expect: Expect,
    /// The same for every delivery of this mutation: a source that keeps it can tell a second one.
    pub idempotency_key: String,
    /// Rises with every mutation of a resource: a source that keeps the highest can refuse older ones.
    pub sequence: u64,
}

/// What to do.
#[derive(Clone, Debug)]
pub enum Operation {
    /// Store this.
    Put {
        /// The media type, if the client said one.
        content_type: Option<String>,
        /// As the client sent it.
        body: Vec<u8>,
    },
    /// Remove it.
    Delete,
}

impl Operation {
    /// The body of a PUT, read as JSON; none of a DELETE.
    ///
    /// # Errors
    /// `invalid-request` with the code `body-invalid`, if it cannot be read so. Where `plugin!` has
    /// `request: Body::json::<T>()`, the host has checked it before.
    pub fn json<T: DeserializeOwned>(&self) -> Result<Option<T>, Error> {
        match self {
            Self::Put { body, .. } => serde_json::from_slice(body).map(Some).map_err(|fault| {
                Error::invalid_request(format!("the body does not fit: {fault}"))
                    .code("body-invalid")
            }),
            Self::Delete => Ok(None),
        }
    }
}

/// What must hold before a mutation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Nothing.
    Anything,
    /// There is no such resource yet.
    Absent,
    /// There is one.
    Present,
    /// There is one, and this is its entity tag.
    Etag(String),
}

/// What was done.
#[derive(Debug, Default)]
pub struct Receipt {
    created: bool,
    etag: Option<String>,
    entry: Option<Result<Entry, Failure>>,
    tags: Vec<String>,
}

impl Receipt {
    /// It was done.
    #[must_use]
    pub fn done() -> Self {
        Self::default()
    }

    /// The resource was not there before.
    #[must_use]
    pub const fn created(mut self, created: bool) -> Self {
        self.created = created;
        self
    }

    /// The entity tag it has now.
    #[must_use]
    pub fn etag(mut self, etag: impl Into<String>) -> Self {
        self.etag = Some(etag.into());
        self
    }

    /// The value as the next read would give it: the host stores it, so that the read need not ask.
    #[must_use]
    pub fn value<T: Serialize>(mut self, reply: Reply<T>) -> Self {
        self.entry = reply.into_entry().transpose();
        self
    }

    /// Adds a tag to purge.
    #[must_use]
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.tags.push(tag.into());
        self
    }

    pub(crate) fn into_contract(self) -> Result<writer::Receipt, Failure> {
        Ok(writer::Receipt {
            created: self.created,
            validator: self.etag.map(|etag| Validator {
                etag: Some(etag),
                last_modified_ms: None,
            }),
            entry: self.entry.transpose()?,
            tags: self.tags,
            hints: Vec::new(),
        })
    }
}

impl From<writer::Operation> for Operation {
    fn from(operation: writer::Operation) -> Self {
        match operation {
            writer::Operation::Put(payload) => Self::Put {
                content_type: payload.content_type,
                body: payload.body,
            },
            writer::Operation::Delete => Self::Delete,
        }
    }
}

impl From<writer::Precondition> for Expect {
    fn from(precondition: writer::Precondition) -> Self {
        match precondition {
            writer::Precondition::None => Self::Anything,
            writer::Precondition::Absent => Self::Absent,
            writer::Precondition::Present => Self::Present,
            // A resource without an entity tag matches none.
            writer::Precondition::Matches(validator) => {
                Self::Etag(validator.etag.unwrap_or_default())
            }
        }
    }
}
