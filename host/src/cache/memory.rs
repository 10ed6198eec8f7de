//! The memory tier: entries in this process, bounded by bytes.
//!
//! Owns what an entry weighs and by what it is found; which stay is `bounded`'s to decide, and whether one may be served is
//! `freshness`'s and `generations`'.
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

use quick_cache::Weighter;

use super::bounded::{Bounded, HOT_OF_1000};
use super::entry::Entry;
use crate::key::{Key, Resource, hash_of};
use crate::sync::AtomicU64;

/// Entries by key. Reads take one sharded read lock for a few nanoseconds and copy one pointer.
pub struct MemoryTier {
    entries: Option<Bounded<Place, Entry, ByBytes, BuildHasherDefault<PrecomputedHasher>>>,
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

impl MemoryTier {
    /// A tier of `capacity` bytes; 0 turns it off.
    pub fn new(capacity: u64) -> Self {
        Self {
            entries: (capacity > 0)
                .then(|| Bounded::new(capacity, ByBytes, BuildHasherDefault::default())),
            drops: AtomicU64::new(0),
            dropped: (0..DROPS).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Room in bytes.
    pub fn capacity(&self) -> u64 {
        self.entries
            .as_ref()
            .map_or(0, |entries| entries.held().capacity())
    }

    /// Whether there is one.
    pub fn is_on(&self) -> bool {
        self.entries.is_some()
    }

    /// The entry of a key, whatever its age.
    #[inline]
    pub fn get(&self, key: &Key) -> Option<Entry> {
        let entry = self.entries.as_ref()?.held().get(&Place(key.hash64()))?;
        entry.is_of(key).then_some(entry)
    }

    /// Keeps an entry; `false` if the tier is off or the entry is larger than a shard takes.
    pub fn insert(&self, key: &Key, entry: Entry) -> bool {
        debug_assert!(entry.is_of(key), "it would not be found");
        let Some(entries) = &self.entries else {
            return false;
        };
        // The library drops what is heavier than this share of a shard without a word, and rounds the share down.
        let room = entries.held().shard_capacity() / 1000 * u64::from(HOT_OF_1000);
        let place = Place(key.hash64());
        if ByBytes.weight(&place, &entry) >= room {
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
        entries.held().remove(&Place(hash));
    }

    fn drop_of(&self, hash: u64) -> &AtomicU64 {
        // The low bits: below `DROPS` whatever a pointer's width is.
        &self.dropped[(hash % DROPS as u64) as usize]
    }

    /// Lets an entry go if it is still this very one.
    pub fn remove_if_same(&self, key: &Key, entry: &Entry) {
        if let Some(entries) = &self.entries {
            entries
                .held()
                .remove_if(&Place(key.hash64()), |held| held.is_same(entry));
        }
    }

    /// Drops everything: after a resynchronisation it may be older than purges this node had not heard of.
    pub fn clear(&self) {
        if let Some(entries) = &self.entries {
            entries.held().clear();
        }
    }

    /// Every variant of a resource. Walks the whole tier: for the operator, never on a request's way.
    pub fn variants(&self, resource: &Resource, most: usize) -> Vec<Entry> {
        let Some(entries) = &self.entries else {
            return Vec::new();
        };
        entries
            .held()
            .iter()
            .map(|(_, entry)| entry)
            .filter(|entry| entry.is_variant_of(resource))
            .take(most)
            .collect()
    }

    /// Entries held, and the bytes they weigh.
    pub fn size(&self) -> (usize, u64) {
        self.entries.as_ref().map_or((0, 0), |entries| {
            (entries.held().len(), entries.held().weight())
        })
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
    use crate::cache::bounded::SHARD_BYTES_MIN;
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
