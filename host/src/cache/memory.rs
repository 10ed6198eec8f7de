//! The memory tier: entries in this process, bounded by bytes.
//!
//! Owns eviction; whether an entry may be served is not its business (see `freshness` and `generations`).
//!
//! # By what an entry is found
//!
//! By the hash of its key's text, and by that alone, so that the text is held once, in the entry. Whoever finds one looks whether
//! it is the right one; of two keys whose hashes are the same, one finds nothing (law 2). They take the place from each other:
//! that costs loads, and no more.
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
use std::sync::atomic::Ordering;

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{OptionsBuilder, Weighter};

use super::entry::Entry;
use crate::key::{Key, Resource, hash_of};
use crate::sync::AtomicU64;

/// Entries by key. Reads take one sharded read lock for a few nanoseconds and copy one pointer.
pub struct MemoryTier {
    entries: Option<Cache<Place, Entry, ByBytes, BuildHasherDefault<PrecomputedHasher>>>,
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

/// Where the entry of a key is: the hash of its text.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Place(u64);

impl Hash for Place {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0);
    }
}

/// What the library takes for an entry, in bytes: a slot of 40, and its place in a table of 5 for each place, of which between
/// seven sixteenths and seven eighths are taken.
const SLOT_BYTES: u64 = 48;
/// A shard holds at least this, so that the largest body a loader may give still fits one.
const SHARD_BYTES_MIN: u64 = 16 * 1024 * 1024;
/// What one entry is guessed to weigh, to say how many evicted ones are remembered.
const ENTRY_BYTES_GUESS: u64 = 1024;
/// How many those are, as a share of the entries there is room for. One that is asked for again while it is remembered takes the
/// place of one that is asked for less. With many remembered, as the library has it, keys that come round and round, and are a
/// few more than there is room for, push each other out for ever; with few, most of them stay. `larder-bench hit-ratio` tries it.
const REMEMBERED_SHARE: f64 = 0.15;

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
            .ghost_allocation(REMEMBERED_SHARE)
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
    #[inline]
    pub fn get(&self, key: &Key) -> Option<Entry> {
        let entry = self.entries.as_ref()?.get(&Place(key.hash64()))?;
        entry.is_of(key).then_some(entry)
    }

    /// Keeps an entry; `false` if the tier is off or the entry is larger than a shard takes.
    pub fn insert(&self, key: &Key, entry: Entry) -> bool {
        debug_assert!(entry.is_of(key), "it would not be found");
        let Some(entries) = &self.entries else {
            return false;
        };
        // The library drops what is heavier than 97 % of a shard without a word.
        let room = entries.shard_capacity() / 100 * 97;
        let place = Place(key.hash64());
        if ByBytes.weight(&place, &entry) > room {
            return false;
        }
        entries.insert(place, entry);
        true
    }

    /// To be taken before the shared tier is asked for what is to be kept here, or given it.
    pub fn mark(&self) -> Mark {
        Mark(self.drops.load(Ordering::Acquire))
    }

    /// Keeps what a look-up or a load gave, unless a newer one was stored elsewhere since `mark`. Whether it is kept.
    pub fn insert_unless_dropped(&self, mark: Mark, key: &Key, entry: &Entry) -> bool {
        if !self.insert(key, entry.clone()) {
            return false;
        }
        let overtaken = self.drop_of(key.hash64()).load(Ordering::Acquire) > mark.0;
        if overtaken {
            self.remove_if_same(key, entry);
        }
        !overtaken
    }

    /// Lets the copy under this key's text go: a newer one was stored elsewhere. With it goes that of a key with the same hash.
    pub fn drop_copy(&self, text: &str) {
        let Some(entries) = &self.entries else {
            return;
        };
        let hash = hash_of(text);
        let number = self.drops.fetch_add(1, Ordering::AcqRel) + 1;
        self.drop_of(hash).fetch_max(number, Ordering::AcqRel);
        entries.remove(&Place(hash));
    }

    fn drop_of(&self, hash: u64) -> &AtomicU64 {
        // The low bits: below `DROPS` whatever a pointer's width is.
        &self.dropped[(hash % DROPS as u64) as usize]
    }

    /// Lets an entry go if it is still this very one.
    pub fn remove_if_same(&self, key: &Key, entry: &Entry) {
        if let Some(entries) = &self.entries {
            entries.remove_if(&Place(key.hash64()), |held| held.is_same(entry));
        }
    }

    /// Drops everything: after a resynchronisation it may be older than purges this node had not heard of.
    pub fn clear(&self) {
        if let Some(entries) = &self.entries {
            entries.clear();
        }
    }

    /// Every variant of a resource. Walks the whole tier: for the operator, never on a request's way.
    pub fn variants(&self, resource: &Resource, most: usize) -> Vec<Entry> {
        let Some(entries) = &self.entries else {
            return Vec::new();
        };
        entries
            .iter()
            .map(|(_, entry)| entry)
            .filter(|entry| entry.is_variant_of(resource))
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

/// What an entry weighs: itself and its slot.
#[derive(Clone)]
struct ByBytes;

impl Weighter<Place, Entry> for ByBytes {
    fn weight(&self, _: &Place, entry: &Entry) -> u64 {
        SLOT_BYTES + entry.weight()
    }
}

/// What is hashed here is a hash; hashing it again would be waste.
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
        unreachable!("only keys, resources and places are hashed here, and they write one u64");
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::cache::entry::{Content, Draft};
    use crate::cache::freshness::Times;
    use crate::cache::generations::Stamp;
    use crate::cache::source::Found;
    use crate::key::{Param, Visibility};

    fn key(value: &str) -> Key {
        let parts = [Param::new("key", value)];
        Key::new(&Resource::new("/data/{key}", [value]), "demo~1", &parts).unwrap()
    }

    fn entry(key: &Key) -> Entry {
        let found = Found {
            status: None,
            content_type: None,
            headers: Vec::new(),
            body: Bytes::from_static(b"x"),
            validator: None,
            ttl: None,
            tags: Vec::new(),
            hints: Vec::new(),
        };
        let (content, _) = Content::from_found(found, "demo", Visibility::Public).unwrap();
        let draft = Draft {
            content,
            times: Times {
                loaded_ms: 1,
                ttl_ms: 1,
                ttl_from_loader: false,
                swr_ms: 0,
                sie_ms: 0,
            },
            stamp: Stamp {
                epoch: 1,
                seq: 1,
                sync: 1,
            },
            as_of_ms: 1,
        };
        draft.keep(key.text())
    }

    #[test]
    fn law_2_of_two_keys_with_one_hash_none_is_given_the_others_entry() {
        let tier = MemoryTier::new(SHARD_BYTES_MIN);
        let (own, other) = (key("1"), key("2"));
        assert!(tier.insert(&own, entry(&own)));
        assert!(tier.get(&own).is_some() && tier.get(&other).is_none());
        // As if both texts had the hash of the other's.
        let entries = tier.entries.as_ref().unwrap();
        entries.insert(Place(other.hash64()), entry(&own));
        assert!(tier.get(&other).is_none());
    }

    #[test]
    fn the_variants_of_a_resource_are_found_and_one_that_is_not_the_same_stays() {
        let tier = MemoryTier::new(SHARD_BYTES_MIN);
        for value in ["1", "12"] {
            tier.insert(&key(value), entry(&key(value)));
        }
        let found = tier.variants(key("1").resource(), 10);
        let found: Vec<String> = found.iter().map(Entry::key).collect();
        assert_eq!(found, [key("1").text()]);
        tier.remove_if_same(&key("1"), &entry(&key("1")));
        assert_eq!(tier.size().0, 2);
        let held = tier.get(&key("1")).unwrap();
        tier.remove_if_same(&key("1"), &held);
        tier.drop_copy(key("12").text());
        assert_eq!(tier.size(), (0, 0));
    }
}
