//! The memory tier: entries in this process, bounded by bytes.
//!
//! Owns eviction; whether an entry may be served is not its business (see `freshness` and `generations`).
//!
//! # A reply that is overtaken
//!
//! Another node stores a key, and its word for it may arrive here before an older reply to our own look-up does. So a
//! look-up is preceded by [`MemoryTier::mark`], and what it finds is kept by [`MemoryTier::insert_unless_dropped`]; the
//! word for it ends in [`MemoryTier::drop_copy`], which writes the drop down *before* it removes the copy, while the
//! insertion looks for drops *after* it. Both pass the same shard's lock: removed after the insertion, the copy is gone;
//! removed before it, the drop is seen. Drops are written down by a few bits of the key's hash: two keys that share
//! them cost a copy, not a fault.

use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{Equivalent, OptionsBuilder, Weighter};
use xxhash_rust::xxh3::xxh3_64;

use super::entry::Entry;
use crate::key::{Key, Resource};
use crate::sync::AtomicU64;

/// Entries by key. Reads take one sharded read lock for a few nanoseconds and copy one pointer.
pub struct MemoryTier {
    entries: Option<Cache<Key, Arc<Entry>, ByBytes, BuildHasherDefault<PrecomputedHasher>>>,
    /// Copies that others' stores made old, numbered.
    drops: AtomicU64,
    /// The number of the last drop, by hash.
    dropped: Box<[AtomicU64]>,
}

/// Which drops came before a look-up.
#[derive(Clone, Copy, Debug)]
pub struct Mark(u64);

/// Places to write drops down; a power of two.
const DROPS: usize = 1024;

/// A key by its text alone.
struct ByText<'a> {
    text: &'a str,
    hash: u64,
}

impl Hash for ByText<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl Equivalent<Key> for ByText<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        self.hash == key.hash64() && self.text == key.text()
    }
}

/// A shard holds at least this, so that the largest body a loader may give still fits one.
const SHARD_BYTES_MIN: u64 = 16 * 1024 * 1024;
/// What one entry is guessed to weigh, to size the tables.
const ENTRY_BYTES_GUESS: u64 = 1024;

impl MemoryTier {
    /// A tier of `capacity` bytes; 0 turns it off.
    pub fn new(capacity: u64) -> Self {
        let off = Self {
            entries: None,
            drops: AtomicU64::new(0),
            dropped: (0..DROPS).map(|_| AtomicU64::new(0)).collect(),
        };
        if capacity == 0 {
            return off;
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
            ..off
        }
    }

    /// Room in bytes.
    pub fn capacity(&self) -> u64 {
        self.entries.as_ref().map_or(0, Cache::capacity)
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

    /// To be taken before the shared tier is asked for what is to be kept here, or given it.
    pub fn mark(&self) -> Mark {
        Mark(self.drops.load(Ordering::Acquire))
    }

    /// Keeps what a look-up or a load gave, unless a newer one was stored elsewhere since `mark`. Whether it is kept.
    pub fn insert_unless_dropped(&self, mark: Mark, key: &Key, entry: &Arc<Entry>) -> bool {
        if !self.insert(key.clone(), Arc::clone(entry)) {
            return false;
        }
        let overtaken = self.place(key.hash64()).load(Ordering::Acquire) > mark.0;
        if overtaken {
            self.remove_if_same(key, entry);
        }
        !overtaken
    }

    /// Lets the copy under this key's text go: a newer one was stored elsewhere.
    pub fn drop_copy(&self, text: &str) {
        let Some(entries) = &self.entries else {
            return;
        };
        let hash = xxh3_64(text.as_bytes());
        let number = self.drops.fetch_add(1, Ordering::AcqRel) + 1;
        self.place(hash).fetch_max(number, Ordering::AcqRel);
        entries.remove(&ByText { text, hash });
    }

    fn place(&self, hash: u64) -> &AtomicU64 {
        // The low bits: below `DROPS` whatever a pointer's width is.
        &self.dropped[(hash % DROPS as u64) as usize]
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
