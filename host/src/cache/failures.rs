//! Remembered failures: for `failure_ttl` after a failed load the source is not asked again.
//!
//! A failure is never an entry (law 10): it lives here, in the process, bounded by bytes, and ends early when a purge
//! covers its key.

use std::hash::BuildHasherDefault;
use std::sync::Arc;

use quick_cache::Weighter;
use quick_cache::sync::{Cache, DefaultLifecycle};

use super::generations::Stamp;
use super::memory::PrecomputedHasher;
use crate::error::Failure;
use crate::key::Key;

/// One failed load.
#[derive(Clone)]
pub(super) struct Remembered {
    pub failure: Arc<Failure>,
    pub until_ms: u64,
    pub stamp: Stamp,
}

/// Failures by key.
pub(super) struct Failures {
    by_key: Cache<Key, Remembered, ByBytes, BuildHasherDefault<PrecomputedHasher>>,
}

const REMEMBERED_BYTES_MAX: u64 = 32 * 1024 * 1024;
const BYTES_GUESS: u64 = 512;

#[derive(Clone)]
struct ByBytes;

impl Weighter<Key, Remembered> for ByBytes {
    fn weight(&self, key: &Key, remembered: &Remembered) -> u64 {
        let failure = &remembered.failure;
        let details = failure
            .details
            .iter()
            .map(|detail| detail.name.len() + detail.value.len());
        let texts = failure.code.len() + failure.message.len() + details.sum::<usize>();
        (key.weight() + texts + size_of::<Remembered>() + size_of::<Failure>()) as u64
    }
}

impl Failures {
    pub(super) fn new() -> Self {
        let lifecycle = DefaultLifecycle::default();
        let hasher = BuildHasherDefault::default();
        Self {
            by_key: Cache::with(
                (REMEMBERED_BYTES_MAX / BYTES_GUESS) as usize,
                REMEMBERED_BYTES_MAX,
                ByBytes,
                hasher,
                lifecycle,
            ),
        }
    }

    /// The failure of a key that still counts at `now_ms`; the caller judges its stamp.
    pub(super) fn get(&self, key: &Key, now_ms: u64) -> Option<Remembered> {
        if self.by_key.is_empty() {
            return None;
        }
        let remembered = self.by_key.get(key)?;
        if remembered.until_ms <= now_ms {
            self.by_key.remove(key);
            return None;
        }
        Some(remembered)
    }

    pub(super) fn remember(&self, key: Key, remembered: Remembered) {
        self.by_key.insert(key, remembered);
    }

    /// A load succeeded.
    pub(super) fn forget(&self, key: &Key) {
        if !self.by_key.is_empty() {
            self.by_key.remove(key);
        }
    }
}
