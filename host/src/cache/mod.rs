//! The cache: memory tier → shared tier → flight → loader → entry.
//!
//! # Layout
//! - `path`: the way of a request through the tiers, read top to bottom; every exit is a named [`Answer`].
//! - `load`: what a flight does: ask the chain, make the entry, store it.
//! - [`flight`]: one load per key. [`places`]: how many at once, and of whom. [`generations`]: what a purge covers. [`freshness`]: what may be served when.
//! - [`hot`]: which keys are asked for most. [`pace`]: many of them asked for, with restraint.
//! - [`entry`]: what is stored; `common`: what many of them share. [`memory`]: the tier in this process; `bounded`: which entries stay there. [`tier`]: the seam to the one that nodes share.
//! - [`queue`]: the seam to a durable queue of changes.
//! - [`redis`]: that tier; the only place that names Redis. [`envelope`]: an entry as bytes.
//! - [`source`]: what a loader is asked and answers. [`underway`]: what is on its way to the source; [`queue`]: where it waits.
//!
//! Knows neither axum nor wasmtime; names its neighbours only through [`Loader`], [`tier::SharedTier`] and [`clock::Clock`].

mod ask;
mod bounded;
pub mod clock;
mod common;
pub mod entry;
pub mod envelope;
mod failures;
pub mod flight;
pub mod freshness;
pub mod generations;
pub mod hot;
mod lease;
mod load;
pub mod memory;
pub mod pace;
mod path;
mod patience;
pub mod places;
pub mod queue;
pub mod redis;
pub mod source;
pub mod tier;
pub mod underway;
pub mod variants;
mod written;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

pub use ask::Ask;
pub use path::{Answer, AtHand, Forward, StaleReason, TierName};
pub use source::{Absence, Batching, Found, Loader, Outcome, Question, Renewal, Validator};

use crate::key::Resource;
use clock::Clock;
use entry::Entry;
use freshness::Policy;
use generations::{Generations, Mode, Scope};
use tier::{Purged, SharedTier};

/// What a route is to the cache: where answers come from and how long they live. Immutable; a request pins one.
pub struct Binding {
    /// The route's pattern.
    pub route: Arc<str>,
    /// How long answers live.
    pub policy: Policy,
    /// How its misses gather for a loader that takes batches.
    pub batching: Batching,
    /// The loaders, the next being tried when one fails.
    pub chain: Vec<Link>,
    /// What happened on this route, over all of its bindings.
    pub counters: Arc<Counters>,
    /// How many of its loads may run, and what is reserved for it.
    pub places: Arc<places::RoutePlaces>,
    /// Who knows of changes that are accepted and not made yet; none where there are no such.
    pub underway: Option<Arc<dyn underway::Underway>>,
}

/// One place of a chain.
#[derive(Clone)]
pub enum Link {
    /// A loader that can be asked.
    Ready(Arc<dyn Loader>),
    /// A plugin that is broken or removed: hits are still served, misses go to the next link.
    NotLoaded {
        /// The file stem.
        name: String,
        /// Why, as the operator is told.
        why: String,
    },
}

/// What the loads of a route did. Every flight adds to exactly one of found, missing, not-modified, failed, earlier, pending.
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub struct Counters {
    pub loads_found: AtomicU64,
    pub loads_missing: AtomicU64,
    pub loads_not_modified: AtomicU64,
    pub loads_failed: AtomicU64,
    pub loads_earlier: AtomicU64,
    pub loads_pending: AtomicU64,
    /// Loads that a hit began before the end of the ttl.
    pub refreshed_ahead: AtomicU64,
    /// How long a load takes, in microseconds: a moving average, in which each of the last few counts most.
    pub load_us: AtomicU64,
    /// Calls of loaders after the first of a chain.
    pub chain_fallbacks: AtomicU64,
    /// Headers of loaders that the host does not send.
    pub headers_dropped: AtomicU64,
    /// Times to live that a loader asked for and `ttl_max` cut.
    pub ttl_clamped: AtomicU64,
    /// Loads that a purge overtook: served to who came before it, not stored.
    pub not_stored_purged: AtomicU64,
}

/// Bounds of the cache (law 12).
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Loads at once.
    pub loads_max: usize,
    /// Requests that wait for a load at once.
    pub waiters_max: usize,
}

/// The tiers, the flights and the record of purges: one per process.
pub struct Cache {
    memory: Arc<memory::MemoryTier>,
    shared: Option<Arc<dyn SharedTier>>,
    generations: Arc<Generations>,
    clock: Arc<dyn Clock>,
    flights: Arc<flight::Flights>,
    failures: failures::Failures,
    waiters: Arc<places::Places>,
}

impl Cache {
    /// A cache of these tiers. `memory` and `generations` are given because the shared tier works on them too.
    pub fn new(
        memory: Arc<memory::MemoryTier>,
        shared: Option<Arc<dyn SharedTier>>,
        generations: Arc<Generations>,
        clock: Arc<dyn Clock>,
        bounds: Bounds,
    ) -> Self {
        Self {
            memory,
            shared,
            generations,
            clock,
            flights: Arc::new(flight::Flights::new(bounds.loads_max)),
            failures: failures::Failures::new(),
            waiters: places::Places::new(bounds.waiters_max),
        }
    }

    /// Purges and says how far the purge is known to have reached.
    pub async fn purge(&self, scope: &Scope, mode: Mode) -> Purged {
        match &self.shared {
            Some(shared) => shared.purge(scope, mode).await,
            None => Purged {
                seq: self.generations.raise(scope, mode, self.clock.now_ms()),
                shared: true,
                nodes: None,
                replicas: None,
                // What it could cover ends with this process.
                durable: true,
            },
        }
    }

    /// Forgets purges that no living entry can be older than. A load that is in the air counts from its stamp and not
    /// from its landing, so the longest life alone would forget purges that it must still be held against.
    pub fn prune(&self, longest_life_ms: u64) {
        const LONGEST_LOAD_MS: u64 = 600_000;
        let longest_ms = longest_life_ms.saturating_add(LONGEST_LOAD_MS);
        self.generations
            .prune(self.clock.now_ms().saturating_sub(longest_ms));
    }

    /// Every variant of a resource that any tier holds, by key text, with the tier's name; for the operator.
    pub async fn variants(&self, resource: &Resource) -> Vec<(String, TierName, Entry)> {
        const MOST: usize = 1000;
        let mut found: Vec<_> = self
            .memory
            .variants(resource, MOST)
            .into_iter()
            .map(|entry| (entry.key(), TierName::Memory, entry))
            .collect();
        if let Some(shared) = &self.shared {
            found.extend(
                shared
                    .variants(resource)
                    .await
                    .into_iter()
                    .map(|(key, entry)| (key, TierName::Redis, entry)),
            );
        }
        found
    }

    /// The record of purges.
    pub fn generations(&self) -> &Arc<Generations> {
        &self.generations
    }

    /// The tier in this process.
    pub fn memory(&self) -> &memory::MemoryTier {
        &self.memory
    }

    /// The tier that all nodes share.
    pub fn shared(&self) -> Option<&Arc<dyn SharedTier>> {
        self.shared.as_ref()
    }

    /// The clock entries are judged by.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Loads running and requests waiting for one.
    pub fn in_flight(&self) -> (usize, usize) {
        (self.flights.flying(), self.waiters.taken())
    }
}
