//! What the memory tier keeps its entries in: the library's cache, and in front of it the memory of who was evicted.
//!
//! Owns which entries stay. Must not know what an entry is, nor anything else of this crate: `larder-bench hit-ratio` is
//! compiled with this very file.
//!
//! # Who may stay
//!
//! The library (a kind of Clock-Pro) lets an entry that is new pass through a short queue, and one that was asked for
//! meanwhile, or comes back soon after it was evicted, into the large rest, where somebody else has to go for it. How soon is
//! soon decides it all: keys that come round and round and are a few more than there is room for push each other out for
//! ever if those that come back are let in; where what is popular changes, those that are popular now never get in if they
//! are not. The library takes a number of keys for it, once and for all, so it fits one kind of requests and one size of entry.
//!
//! So that memory is our own (the library's is off), and it *learns*. It also notes who was evicted from the rest. If those
//! are asked for again while others come back (a *regret*), letting in did no good, and "soon" becomes half as long; if they are
//! not, twice as long. On a loop every one let in is regretted; of popularity by Zipf's law two of five at most. It shortens at once
//! and lengthens slowly, and some are let in on trial however long ago they were evicted, so that it never stops to learn.

use std::hash::{BuildHasher, Hash};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{Lifecycle, OptionsBuilder, Weighter};

/// A shard holds at least this, so that the largest body a loader may give still fits one.
pub(super) const SHARD_BYTES_MIN: u64 = 16 * 1024 * 1024;
/// So many of 1000 bytes of the room are not the queue's. What goes round in the queue is not found again, so it is short.
pub(super) const HOT_OF_1000: u32 = 995;
/// What an entry is guessed to weigh; the library makes fewer shards if too few fit one.
const ENTRY_BYTES_GUESS: u64 = 1024;
/// For so many bytes of room there is a place to remember an evicted one: 8 bytes, made when it is first needed.
const BYTES_A_GHOST: u64 = 512;
/// Places among which an evicted one takes the oldest: a line of the processor's cache. With one place for each, those that share
/// it by chance forget a third of what comes back, and what is not noted is not regretted.
const LINE: usize = 8;
/// Lines that are made at once: it is done under a shard's lock, and all of a large cache would take milliseconds.
const BLOCK: usize = 1024;
/// At most so many times as many evictions ago as there are entries is soon.
const REACH: u64 = 2;
/// How often that is halved at the start, and at most.
const HALVINGS_FIRST: u32 = 2;
const HALVINGS_MOST: u32 = 8;
/// Of those that come back too late, one in so many is let in on trial.
const TRIALS: u64 = 128;
/// The entries are counted anew after so many came back.
const COUNTED: u64 = 32;

/// A bounded cache.
pub(super) struct Bounded<K, V, W, B> {
    held: Cache<K, V, W, B, Watch<K, V, B>>,
    ghosts: Arc<Ghosts>,
    hasher: B,
}

impl<K, V, W, B> Bounded<K, V, W, B>
where
    K: Copy + Eq + Hash,
    V: Clone,
    W: Weighter<K, V> + Clone,
    B: BuildHasher + Clone,
{
    /// One with room for so many bytes. The hasher must be good in all of its bits.
    pub(super) fn new(capacity: u64, weighter: W, hasher: B) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let count = |bytes: u64| usize::try_from(capacity / bytes).unwrap_or(usize::MAX);
        let options = OptionsBuilder::new()
            .shards(count(SHARD_BYTES_MIN).clamp(1, cpus * 4))
            .weight_capacity(capacity)
            .hot_allocation(f64::from(HOT_OF_1000) / 1000.0)
            .ghost_allocation(0.0)
            .estimated_items_capacity(count(ENTRY_BYTES_GUESS).max(16))
            .build()
            .expect("both required options are set");
        let ghosts = Arc::new(Ghosts::new(count(BYTES_A_GHOST)));
        let watch = Watch {
            ghosts: Arc::clone(&ghosts),
            hasher: hasher.clone(),
            dropping: DefaultLifecycle::default(),
        };
        Self {
            held: Cache::with_options(options, weighter, hasher.clone(), watch),
            ghosts,
            hasher,
        }
    }

    /// The library's cache, to look and to remove. What is to be kept goes through [`Bounded::insert`].
    #[inline]
    pub(super) fn held(&self) -> &Cache<K, V, W, B, Watch<K, V, B>> {
        &self.held
    }

    /// Keeps a value, if it is not heavier than [`HOT_OF_1000`] of a shard.
    pub(super) fn insert(&self, key: K, value: V) {
        let hash = self.hasher.hash_one(key);
        let is_let_in = self.ghosts.is_let_in(hash, || self.held.len() as u64);
        self.held.insert(key, value);
        if is_let_in {
            // Asked for while it is in the queue: so it goes into the rest, and not out, when its turn comes.
            self.held.get(&key);
        }
    }
}

/// Notes who is evicted.
#[derive(Clone)]
pub(super) struct Watch<K, V, B> {
    ghosts: Arc<Ghosts>,
    hasher: B,
    /// Drops what was evicted once no lock is held.
    dropping: DefaultLifecycle<K, V>,
}

impl<K: Hash, V, B: BuildHasher> Lifecycle<K, V> for Watch<K, V, B> {
    type RequestState = <DefaultLifecycle<K, V> as Lifecycle<K, V>>::RequestState;

    fn on_evict_cold(&self, state: &mut Self::RequestState, key: K, value: V) {
        self.ghosts.note(self.hasher.hash_one(&key), Part::Queue);
        self.dropping.on_evict(state, key, value);
    }

    fn on_evict_hot(&self, state: &mut Self::RequestState, key: K, value: V) {
        self.ghosts.note(self.hasher.hash_one(&key), Part::Rest);
        self.dropping.on_evict(state, key, value);
    }
}

/// What one was evicted from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Queue,
    Rest,
}

#[derive(Default)]
#[repr(align(64))]
struct Line([AtomicU64; LINE]);

/// Who was evicted, and how soon they must be back to be let in.
///
/// All of it is a guess of what will be asked for: two evictions that share a place forget one, two threads that judge at once
/// count one step for two. That costs hits, never an answer, so nothing here is ordered; and nothing here takes a lock, for
/// evictions are noted under a shard's.
struct Ghosts {
    /// By the low bits of a key's hash, which decide neither about the shard nor about the high ones kept here.
    blocks: Box<[OnceLock<Box<[Line]>>]>,
    /// How many lines there are to be; a power of two.
    size: usize,
    evictions: AtomicU64,
    /// Those that came back.
    returns: AtomicU64,
    /// Entries held, when they were last counted.
    entries: AtomicU64,
    /// Since the last judgement: those let in, and those evicted from the rest that came back.
    let_in: AtomicU64,
    regrets: AtomicU64,
    /// [`REACH`] is halved so often.
    halvings: AtomicU32,
}

/// A ghost: the high half of the hash, what it was evicted from, and the number of the eviction.
struct Ghost(u64);

impl Ghost {
    const NUMBER: u64 = (1 << 31) - 1;

    fn new(hash: u64, part: Part, eviction: u64) -> Self {
        let is_from_rest = u64::from(part == Part::Rest);
        Self(hash >> 32 << 32 | is_from_rest << 31 | eviction & Self::NUMBER)
    }

    fn is_of(&self, hash: u64) -> bool {
        self.0 != 0 && self.0 >> 32 == hash >> 32
    }

    fn is_from_rest(&self) -> bool {
        self.0 >> 31 & 1 == 1
    }

    /// How many evictions ago it was evicted. Numbers come round after two thousand million.
    fn age(&self, evictions: u64) -> u64 {
        evictions.wrapping_sub(self.0) & Self::NUMBER
    }
}

impl Ghosts {
    fn new(size: usize) -> Self {
        let size = (size / LINE).next_power_of_two();
        Self {
            blocks: (0..size.div_ceil(BLOCK)).map(|_| OnceLock::new()).collect(),
            size,
            evictions: AtomicU64::new(0),
            returns: AtomicU64::new(0),
            entries: AtomicU64::new(0),
            let_in: AtomicU64::new(0),
            regrets: AtomicU64::new(0),
            halvings: AtomicU32::new(HALVINGS_FIRST),
        }
    }

    /// In which block the line of a hash is, and where there.
    fn place(&self, hash: u64) -> (&OnceLock<Box<[Line]>>, usize) {
        // The size is a power of two, so these are the low bits.
        let line = (hash % self.size as u64) as usize;
        (&self.blocks[line / BLOCK], line % BLOCK)
    }

    /// The line of a hash, if anything was noted near it.
    fn line(&self, hash: u64) -> Option<&[AtomicU64; LINE]> {
        let (block, line) = self.place(hash);
        Some(&block.get()?[line].0)
    }

    fn line_or_new(&self, hash: u64) -> &[AtomicU64; LINE] {
        let (block, line) = self.place(hash);
        let lines = || (0..self.size.min(BLOCK)).map(|_| Line::default());
        &block.get_or_init(|| lines().collect())[line].0
    }

    fn note(&self, hash: u64, part: Part) {
        let eviction = self.evictions.fetch_add(1, Relaxed) + 1;
        let oldest = self.line_or_new(hash).iter().max_by_key(|place| {
            let ghost = Ghost(place.load(Relaxed));
            (ghost.0 == 0, ghost.age(eviction))
        });
        if let Some(place) = oldest {
            place.store(Ghost::new(hash, part, eviction).0, Relaxed);
        }
    }

    /// Whether one that comes is to go into the rest, because it was evicted not long ago.
    fn is_let_in(&self, hash: u64, count: impl Fn() -> u64) -> bool {
        let found = self.line(hash).and_then(|line| {
            line.iter().find_map(|place| {
                let ghost = Ghost(place.load(Relaxed));
                ghost.is_of(hash).then_some((place, ghost))
            })
        });
        let Some((place, ghost)) = found else {
            return false;
        };
        // It is there again: what is stored under the same key later does not come back.
        place.store(0, Relaxed);
        let returns = self.returns.fetch_add(1, Relaxed);
        if returns.is_multiple_of(COUNTED) {
            self.entries.store(count(), Relaxed);
        }
        let entries = self.entries.load(Relaxed);
        let age = ghost.age(self.evictions.load(Relaxed));
        if age > entries * REACH {
            return false;
        }
        let halvings = self.halvings.load(Relaxed);
        let is_let_in = age <= (entries * REACH) >> halvings || returns.is_multiple_of(TRIALS);
        let is_regret = ghost.is_from_rest();
        let let_in = self.let_in.fetch_add(u64::from(is_let_in), Relaxed) + u64::from(is_let_in);
        let regrets = self.regrets.fetch_add(u64::from(is_regret), Relaxed) + u64::from(is_regret);
        if let Some(halvings) = judged(halvings, entries, let_in, regrets) {
            self.halvings.store(halvings, Relaxed);
            self.let_in.store(0, Relaxed);
            self.regrets.store(0, Relaxed);
        }
        is_let_in
    }
}

/// How often the reach is halved from now on, if so many were let in and so many regretted; nothing if it is too early to tell.
/// An eviction is regretted a while after who caused it was let in. So few regrets shorten the reach, and it takes many that were
/// let in to lengthen it, if not next to none is regretted: then the rest is full of what nobody asks for any more.
fn judged(halvings: u32, entries: u64, let_in: u64, regrets: u64) -> Option<u32> {
    let few = entries / 128;
    if regrets * 2 > let_in {
        return (regrets >= few.max(8)).then_some((halvings + 1).min(HALVINGS_MOST));
    }
    let enough = if regrets * 16 < let_in { few } else { few * 8 };
    (let_in >= enough.max(32)).then_some(halvings.saturating_sub(1))
}

#[cfg(test)]
#[path = "bounded_tests.rs"]
mod tests;
