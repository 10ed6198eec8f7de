//! What the Redis tier counts, for `/metrics`: `hits + misses + foreign` are the look-ups that were answered.

use std::sync::atomic::{AtomicU64, Ordering};

/// One number per thing that can happen. Read them with [`AtomicU64::load`].
#[derive(Debug, Default)]
pub struct Counters {
    /// Look-ups that found a living entry.
    pub hits: AtomicU64,
    /// Look-ups that found nothing, or what a purge covers.
    pub misses: AtomicU64,
    /// Look-ups that found bytes that are no entry (law 11).
    pub foreign: AtomicU64,
    /// Commands that failed, except by time.
    pub errors: AtomicU64,
    /// Commands without an answer in time.
    pub timeouts: AtomicU64,
    /// Entries stored.
    pub stores: AtomicU64,
    /// Entries that were not stored because a purge came before them.
    pub stores_refused: AtomicU64,
    /// Flights that waited for another's lease.
    pub lease_waits: AtomicU64,
    /// Leases that were lost while their load ran.
    pub leases_lost: AtomicU64,
    /// How often the breaker opened.
    pub breaker_opens: AtomicU64,
    /// How often the mirror was reread because something was missed.
    pub resyncs: AtomicU64,
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
