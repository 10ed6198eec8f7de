//! The seam to changes of a resource that are accepted and not made yet: what a load does about them. Knows nothing of where
//! they wait.
//!
//! # Why no read brings back what was there before
//!
//! A change is first written down as pending, then what the cache has of its resource is purged, then it is answered. A load
//! takes its stamp, then looks here, then asks its source.
//!
//! - It looks before the change is written down: its stamp is older than the purge, so what it loads is dead to everybody
//!   who comes after the answer, and is not kept.
//! - It looks after that: it finds the change, and asks nobody until it is made.
//!
//! When the change is made, the resource is purged, and only then is it no longer pending: a load that finds nothing pending
//! any more is later than the purge, and its source was asked after the change.

use futures_util::future::BoxFuture;

use super::source::Outcome;
use crate::key::{Parts, Resource};

/// What is known of a resource's changes.
pub enum Pending {
    /// None is pending.
    Nothing,
    /// The last that is pending makes it this; not to be kept.
    Known(Outcome),
    /// Some are pending, and what they make of it only the source will know. Ends when those are made.
    Unmade(BoxFuture<'static, ()>),
    /// Nobody can say now: what is loaded is not to be kept.
    Unknown,
}

/// Who knows.
pub trait Underway: Send + Sync {
    /// Whether this node knows by itself, and may be alone in knowing, that some are pending: then what other nodes have stored
    /// may be older. Asked of every miss.
    fn is_known(&self, resource: &Resource) -> bool;

    /// What is pending of a resource, for a read with these parts.
    fn of<'a>(&'a self, resource: &'a Resource, parts: &'a Parts) -> BoxFuture<'a, Pending>;
}
