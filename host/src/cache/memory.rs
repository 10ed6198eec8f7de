//! The memory tier: entries in this process, bounded by bytes.
//!
//! Owns eviction; whether an entry may be served is not its business (see `freshness` and `generations`).

use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{OptionsBuilder, Weighter};

use super::entry::Entry;
use crate::key::{Key, Resource};

/// Entries by key. Reads take one sharded read lock for a few nanoseconds and copy one pointer.
pub struct MemoryTier {
    entries: Option<Cache<Key, Arc<Entry>, ByBytes, BuildHasherDefault<PrecomputedHasher>>>,
}

/// A shard holds at least this, so that the largest body a loader may give still fits one.
const SHARD_BYTES_MIN: u64 = 16 * 1024 * 1024;
/// What one entry is guessed to weigh, to size the tables.
const ENTRY_BYTES_GUESS: u64 = 1024;

impl MemoryTier {
    /// A tier of `capacity` bytes; 0 turns it off.
    pub fn new(capacity: u64) -> Self {
        if capacity == 0 {
            return Self { entries: None };
        }
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let shards = usize::try_from(capacity / SHARD_BYTES_MIN)
            .unwrap_or(usize::MAX)
            .clamp(1, cpus * 4);
        let options = OptionsBuilder::new()
            .shards(shards)
            .weight_capacity(capacity)
            .estimated_items_capacity(
                usize::try_from(capacity / ENTRY_BYTES_GUESS)
                    .unwrap_or(usize::MAX)
                    .max(16),
            )
            .build()
            .expect("both required options are set");
        let lifecycle = DefaultLifecycle::default();
        Self {
            entries: Some(Cache::with_options(
                options,
                ByBytes,
                BuildHasherDefault::default(),
                lifecycle,
            )),
        }
    }

    /// Whether there is one.
    pub fn is_on(&self) -> bool {
        self.entries.is_some()
    }

    /// The entry of a key, whatever its age.
    pub fn get(&self, key: &Key) -> Option<Arc<Entry>> {
        self.entries.as_ref()?.get(key)
    }

    /// Keeps an entry; `false` if the tier is off or the entry is larger than a shard takes.
    pub fn insert(&self, key: Key, entry: Arc<Entry>) -> bool {
        let Some(entries) = &self.entries else {
            return false;
        };
        // The library drops what is heavier than 97 % of a shard without a word.
        let room = entries.shard_capacity() / 100 * 97;
        if ByBytes.weight(&key, &entry) > room {
            return false;
        }
        entries.insert(key, entry);
        true
    }

    /// Lets an entry go if it is still this very one.
    pub fn remove_if_same(&self, key: &Key, entry: &Arc<Entry>) {
        if let Some(entries) = &self.entries {
            entries.remove_if(key, |held| Arc::ptr_eq(held, entry));
        }
    }

    /// Drops everything: after a resynchronisation it may be older than purges this node had not heard of.
    pub fn clear(&self) {
        if let Some(entries) = &self.entries {
            entries.clear();
        }
    }

    /// Every variant of a resource. Walks the whole tier: for the operator, never on a request's way.
    pub fn variants(&self, resource: &Resource, most: usize) -> Vec<(Key, Arc<Entry>)> {
        let Some(entries) = &self.entries else {
            return Vec::new();
        };
        entries
            .iter()
            .filter(|(key, _)| key.resource() == resource)
            .take(most)
            .collect()
    }

    /// Entries held, and the bytes they weigh.
    pub fn size(&self) -> (usize, u64) {
        self.entries
            .as_ref()
            .map_or((0, 0), |entries| (entries.len(), entries.weight()))
    }
}

/// What an entry weighs: its key and its content.
#[derive(Clone)]
struct ByBytes;

impl Weighter<Key, Arc<Entry>> for ByBytes {
    fn weight(&self, key: &Key, entry: &Arc<Entry>) -> u64 {
        key.weight() as u64 + entry.content.weight()
    }
}

/// Keys carry their hash; hashing them again would be waste.
#[derive(Clone, Default)]
pub struct PrecomputedHasher(u64);

impl Hasher for PrecomputedHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
    fn write(&mut self, _: &[u8]) {
        unreachable!("only keys and resources are hashed here, and they write one u64");
    }
}
