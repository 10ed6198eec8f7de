//! What the cache is asked. Must not know how it answers.

use std::sync::Arc;

use super::Binding;
use super::freshness::Bounds;
use crate::key::{Key, Parts, Visibility};

/// A question to the cache: a route's binding, a key and what the loader may know.
#[derive(Clone)]
pub struct Ask {
    /// The route as it was when the request came.
    pub binding: Arc<Binding>,
    /// Where the answer lives.
    pub key: Key,
    /// All that a loader is told.
    pub parts: Parts,
    /// Who may share the answer.
    pub visibility: Visibility,
    /// How long the answer lives, as the binding says.
    bounds: Bounds,
}

impl Ask {
    /// A question to the loaders of `binding`.
    pub fn new(binding: Arc<Binding>, key: Key, parts: Parts, visibility: Visibility) -> Self {
        Self {
            bounds: binding.policy.bounds(),
            binding,
            key,
            parts,
            visibility,
        }
    }

    /// How long the answer lives.
    pub fn bounds(&self) -> &Bounds {
        &self.bounds
    }
}
