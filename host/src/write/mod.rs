//! Changes on their way to a source.
//!
//! # Layout
//! - this file: what a writer is told and what it answers, as the host sees it; the seam to the plugin host.
//! - [`idempotency`], [`notes`]: a change that was answered is not made a second time; where that is remembered.
//! - [`through`]: a change is made at once, and what the cache holds of its resource ends with it.
//! - [`behind`]: a change is made durable in a queue, and made later; [`disk`]: the queue of one node.
//!
//! Knows neither axum nor wasmtime.

pub mod behind;
pub mod disk;
pub mod idempotency;
pub mod notes;
pub mod through;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::cache::{Found, Validator};
use crate::error::{Failure, FailureKind, Origin};
use crate::key::Parts;

/// What a PUT sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    /// The `Content-Type` of the request.
    pub content_type: Option<String>,
    /// Its body.
    pub body: Bytes,
}

/// What to do to the resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Make it this.
    Put(Payload),
    /// Remove it.
    Delete,
}

/// What must hold before it is done; if it does not, the answer is a `conflict`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// Nothing.
    None,
    /// There is no such resource.
    Absent,
    /// There is one.
    Present,
    /// There is one and this is its validator.
    Matches(Validator),
}

/// One change of one resource: the contract's `mutation`.
#[derive(Clone, Debug)]
pub struct Mutation {
    /// The pattern of its route.
    pub route: Arc<str>,
    /// All that the writer is told of who is meant: the parts of a read.
    pub parts: Parts,
    /// How long the host waits, from now.
    pub timeout: Duration,
    /// The host's own span, never the client's text (law 1).
    pub traceparent: Option<String>,
    /// What to do.
    pub operation: Operation,
    /// On what condition.
    pub expect: Precondition,
    /// The same for every attempt at the same change, and for no other.
    pub idempotency_key: String,
    /// Grows with every change of a resource.
    pub sequence: u64,
}

/// What a change came to: the contract's `receipt`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Receipt {
    /// The resource was not there before.
    pub created: bool,
    /// The validator of the resource as it is now.
    pub validator: Option<Validator>,
    /// The value as a read would now give it.
    pub entry: Option<Found>,
    /// Tags to purge because of this change.
    pub tags: Vec<String>,
}

/// The way back to a source. One value of this type is one version of one plugin.
pub trait Writer: Send + Sync {
    /// The name as the operator wrote it: the file stem.
    fn name(&self) -> &str;

    /// Makes changes, at most one of each resource; as many results, in their order. Ends within the longest of their
    /// timeouts, whatever the guest does.
    fn write(&self, mutations: Vec<Mutation>) -> BoxFuture<'static, Vec<Result<Receipt, Failure>>>;
}

/// A failure's code by which a plugin says that a change may have been made although it cannot tell.
pub const OUTCOME_UNKNOWN: &str = "outcome-unknown";

/// Whether a change that failed so may have been made all the same.
pub fn is_uncertain(failure: &Failure) -> bool {
    match failure.origin {
        // It may have got to the source before it died.
        Origin::Trap | Origin::Limit => true,
        // Only what it says itself after a call that did not end.
        Origin::Host => failure.kind == FailureKind::Timeout,
        Origin::Returned => {
            failure.kind == FailureKind::Timeout
                || failure.kind == FailureKind::Internal
                || failure.code == OUTCOME_UNKNOWN
        }
    }
}
