//! Derivations remembered: key policies are pure, so what one request became, the next one like it becomes too.
//!
//! Keyed by the raw bytes that a derivation can depend on: the path with its query, and the headers the route lets
//! through. Where there are such headers, the path and query alone lead to the list of their names. Bounded by bytes. A
//! snapshot has its own, so a new policy never sees an old one's results.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::derive::Derived;
use super::headers::At;

/// What is remembered of a request.
#[derive(Clone)]
pub enum Remembered {
    /// What it became.
    Derived(Arc<Derived>),
    /// That what it became depends on the headers of this list. Not whose it is: a route that is asked for once in a thousand
    /// requests is in no cache of the processor, while few lists serve all routes.
    ByHeaders(At),
}

/// Remembered derivations.
pub struct Memo {
    derived: Cache<Box<[u8]>, Remembered, ByBytes>,
    /// Cleared when a policy turned out not to be pure.
    on: AtomicBool,
}

const BYTES_MAX: u64 = 32 * 1024 * 1024;
const ENTRY_BYTES_GUESS: u64 = 512;

impl Memo {
    pub(super) fn new() -> Self {
        let items = usize::try_from(BYTES_MAX / ENTRY_BYTES_GUESS).unwrap_or(usize::MAX);
        Self {
            derived: Cache::with_weighter(items, BYTES_MAX, ByBytes),
            on: AtomicBool::new(true),
        }
    }

    /// What these bytes became.
    #[inline]
    pub fn get(&self, request: &[u8]) -> Option<Remembered> {
        self.derived.get(request)
    }

    /// Remembers it.
    pub(super) fn insert(&self, request: &[u8], remembered: Remembered) {
        if self.on.load(Ordering::Relaxed) {
            self.derived.insert(request.into(), remembered);
        }
    }

    /// A policy is not pure: nothing it said may be remembered, and nothing more is.
    pub(super) fn turn_off(&self) {
        self.on.store(false, Ordering::Relaxed);
        self.derived.clear();
    }
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<Box<[u8]>, Remembered> for ByBytes {
    fn weight(&self, request: &Box<[u8]>, remembered: &Remembered) -> u64 {
        let own = match remembered {
            Remembered::Derived(derived) => derived.weight(),
            Remembered::ByHeaders(_) => size_of::<Remembered>() as u64,
        };
        request.len() as u64 + own
    }
}
