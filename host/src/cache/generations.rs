//! Which entries are older than a purge: one sequence, and the seq of the last purge of everything, of a route, of a
//! resource, of one variant of it, of a tag. Purging is O(1); nothing is searched, and no clocks are compared (law 4, DESIGN section 7).
//!
//! This is the node's own record. Alone it is the truth (memory only); with a shared tier it mirrors what that tier
//! holds for everything, routes, variants and tags, and adds the purges this node made itself.
//!
//! # The order that makes it right
//!
//! A purge writes its generation first and publishes the new seq after it; a load notes the seq before it starts.
//! - Load notes seq, then the purge publishes: stamp < generation, the entry is dead wherever it is judged.
//! - Purge publishes, then the load notes seq: stamp ≥ generation, and the source was asked after the purge.
//! - The load notes the seq between the two steps: stamp < generation although it asked after the purge began.
//!   It is judged dead and loaded again: the error is on the side of reloading.
//!
//! An entry remembers at which version of this record it was judged alive (`Checked`). The version is read *before* the
//! generations are looked at and raised *after* each is written, so a purge that arrives in between makes the next
//! reader look again. It is not the seq: purges that a shared tier numbered 6 and 7 may be taken over as 7, then 6, and
//! an entry judged in between at seq 7 would never be held against 6.
//!
//! # Numbers that only this node knows
//!
//! While the shared tier is away, purges of this node are numbered here, and the tier may give the same numbers to purges
//! of others. `confirmed` is the highest number that came from the tier. A purge that is heard of while there are numbers
//! above it is numbered anew, above all of ours: a load stamped with one of ours says nothing of when that purge was made.
//!
//! # How long this record is trusted
//!
//! A node that mirrors others' purges can be cut off from them. `heard_ms` is the last moment, by this node's clock, up to
//! which it is known to have heard of every purge. What is older than that, and older than the time it is trusted
//! beyond it, counts as expired: so a purge is honoured everywhere within that time, whatever is broken in between.

use std::collections::VecDeque;
use std::hash::{BuildHasherDefault, Hash};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use xxhash_rust::xxh3::Xxh3Default;

use crate::key::Resource;
use crate::sync::{AtomicU32, AtomicU64, Mutex, RwLock};

/// The seq noted before a load began, and the epoch whose sequence it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Entries of another epoch are dead.
    pub epoch: u64,
    /// The seq noted before the load began.
    pub seq: u64,
    /// How often this node had synchronised with the shared tier by then: a load that a resynchronisation overtook is
    /// served but not stored, because its seq may count purges that others number differently.
    pub sync: u32,
}

/// What a purge covers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Everything.
    All,
    /// Every resource of a route, named by its pattern.
    Route(Arc<str>),
    /// Every variant of one resource.
    Resource(Resource),
    /// One variant of a resource, by the parts as [`Key::variant`](crate::key::Key::variant) gives them; under every
    /// identity, because purges cross versions.
    Variant(Resource, Arc<str>),
    /// Every entry that carries the tag.
    Tag(Arc<str>),
}

/// What a purge does to what it covers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Never served again.
    #[default]
    Delete,
    /// Its ttl ends; its stale windows stay.
    Expire,
}

/// What the generations say of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// No purge covers it.
    Alive,
    /// A soft purge covers it.
    Expired,
    /// A hard purge covers it, or it is of another epoch.
    Dead,
}

/// The seq of the last hard and of the last soft purge of a thing; 0: never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Generation {
    /// Last `delete`.
    pub delete: u64,
    /// Last `expire`.
    pub expire: u64,
}

impl Generation {
    /// Judges a stamp by this generation alone.
    pub fn judge(self, seq: u64) -> Verdict {
        if seq < self.delete {
            Verdict::Dead
        } else if seq < self.expire {
            Verdict::Expired
        } else {
            Verdict::Alive
        }
    }

    /// Raises to `seq`; never lowers.
    pub fn raise(&mut self, mode: Mode, seq: u64) {
        let field = match mode {
            Mode::Delete => &mut self.delete,
            Mode::Expire => &mut self.expire,
        };
        *field = (*field).max(seq);
    }
}

/// At which version of the record an entry was found alive. One per entry: judged once per purge, not once per hit. In four bytes,
/// for there are many entries: after so many purges that they are not enough, an entry is judged on every hit.
#[derive(Debug, Default)]
pub struct Checked(AtomicU32);

impl Checked {
    #[inline]
    fn is_at(&self, version: u64) -> bool {
        u64::from(self.0.load(Ordering::Relaxed)) >= version
    }

    fn raise_to(&self, version: u64) {
        if let Ok(version) = u32::try_from(version) {
            self.0.fetch_max(version, Ordering::Relaxed);
        }
    }
}

/// Purges of routes, resources and tags that are remembered at once; older ones become a purge of everything (law 12).
pub const REMEMBERED_MAX: usize = 1_000_000;

/// The generations as this node knows them.
#[derive(Debug)]
pub struct Generations {
    /// Changes only when the shared tier turns out to have another one.
    epoch: AtomicU64,
    seq: AtomicU64,
    /// Raised after every change of `all` or `scopes`; see the module's last paragraph.
    version: AtomicU64,
    sync: AtomicU32,
    all: RwLock<Generation>,
    scopes: RwLock<Scopes>,
    /// Serialises purges: generation first, then seq.
    purging: Mutex<History>,
    remembered_max: usize,
    /// Every purge made before this is known here; `u64::MAX` while there is nobody else to hear of.
    heard_ms: AtomicU64,
    /// How long after that this record is trusted.
    trust_ms: AtomicU64,
}

type Scopes = std::collections::HashMap<ScopeKey, Generation, BuildHasherDefault<Xxh3Default>>;

/// A scope as a map key without cloning strings on look-up: a 128-bit digest of kind and text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct ScopeKey(u128);

impl ScopeKey {
    fn new(kind: u8, text: &str) -> Self {
        let mut hasher = Xxh3Default::new();
        hasher.update(&[kind]);
        hasher.update(text.as_bytes());
        Self(hasher.digest128())
    }
    fn route(pattern: &str) -> Self {
        Self::new(b'r', pattern)
    }
    fn resource(resource: &Resource) -> Self {
        Self::new(b'o', resource.text())
    }
    fn variant(resource: &Resource, variant: &str) -> Self {
        let mut hasher = Xxh3Default::new();
        hasher.update(b"v");
        hasher.update(resource.text().as_bytes());
        // It is in no resource: the two cannot be cut elsewhere.
        hasher.update(b"}");
        hasher.update(variant.as_bytes());
        Self(hasher.digest128())
    }
    fn tag(tag: &str) -> Self {
        Self::new(b't', tag)
    }
    /// The key of a scope; none for everything, which has a place of its own.
    fn of(scope: &Scope) -> Option<Self> {
        match scope {
            Scope::All => None,
            Scope::Route(pattern) => Some(Self::route(pattern)),
            Scope::Resource(resource) => Some(Self::resource(resource)),
            Scope::Variant(resource, variant) => Some(Self::variant(resource, variant)),
            Scope::Tag(tag) => Some(Self::tag(tag)),
        }
    }
}

/// The order in which scopes were purged, so that the oldest can be forgotten.
#[derive(Debug, Default)]
struct History {
    order: VecDeque<(ScopeKey, u64, u64)>,
    /// The highest seq that the shared tier gave.
    confirmed: u64,
}

/// What an entry is judged by: where it lives and what it carries.
#[derive(Clone, Copy, Debug)]
pub struct Covered<'a> {
    /// The route's pattern.
    pub route: &'a str,
    /// The resource.
    pub resource: &'a Resource,
    /// Which variant of it: the parts, as its key has them.
    pub variant: &'a str,
    /// The tags it carries; empty when they are not known yet.
    pub tags: &'a [String],
}

impl Default for Generations {
    fn default() -> Self {
        Self::new()
    }
}

impl Generations {
    /// A new sequence in a new random epoch: whatever was stored before is of another one, and dead.
    pub fn new() -> Self {
        Self::with_bound(REMEMBERED_MAX)
    }

    fn with_bound(remembered_max: usize) -> Self {
        Self {
            epoch: AtomicU64::new(new_epoch()),
            seq: AtomicU64::new(0),
            version: AtomicU64::new(1),
            sync: AtomicU32::new(0),
            all: RwLock::default(),
            scopes: RwLock::default(),
            purging: Mutex::default(),
            remembered_max,
            heard_ms: AtomicU64::new(u64::MAX),
            trust_ms: AtomicU64::new(0),
        }
    }

    /// The stamp of a load that starts now.
    pub fn stamp(&self) -> Stamp {
        // The sync count first: if a resynchronisation falls between the reads, the stamp carries the old count and
        // the load is not stored in the shared tier.
        let sync = self.sync.load(Ordering::Acquire);
        let epoch = self.epoch.load(Ordering::Acquire);
        Stamp {
            epoch,
            seq: self.seq.load(Ordering::Acquire),
            sync,
        }
    }

    /// The seq of the last purge this node knows of.
    pub fn seq(&self) -> u64 {
        self.seq.load(Ordering::Acquire)
    }

    /// The current epoch.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Judges an entry. `checked` belongs to the entry; pass `None` for one that is not kept.
    pub fn judge(&self, stamp: Stamp, checked: Option<&Checked>, covered: Covered<'_>) -> Verdict {
        // Before anything is looked at: see the module's last paragraph.
        let version = self.version.load(Ordering::Acquire);
        let seq = self.seq.load(Ordering::Acquire);
        if stamp.epoch != self.epoch.load(Ordering::Acquire) {
            return Verdict::Dead;
        }
        if stamp.seq >= seq || checked.is_some_and(|checked| checked.is_at(version)) {
            return Verdict::Alive;
        }
        let verdict = self.look_up(stamp.seq, covered);
        // A new epoch that was adopted meanwhile has replaced the generations that were to be looked at: they say
        // nothing of this entry, its epoch does.
        if stamp.epoch != self.epoch.load(Ordering::Acquire) {
            return Verdict::Dead;
        }
        if verdict == Verdict::Alive
            && let Some(checked) = checked
        {
            checked.raise_to(version);
        }
        verdict
    }

    fn look_up(&self, seq: u64, covered: Covered<'_>) -> Verdict {
        // In this order: what is forgotten for room moves from `scopes` to `all`, and must be seen in one of them.
        let scopes = self.scopes.read();
        let mut verdict = self.all.read().judge(seq);
        let keys = [
            ScopeKey::route(covered.route),
            ScopeKey::resource(covered.resource),
            ScopeKey::variant(covered.resource, covered.variant),
        ];
        for key in keys
            .into_iter()
            .chain(covered.tags.iter().map(|tag| ScopeKey::tag(tag)))
        {
            if verdict == Verdict::Dead {
                break;
            }
            if let Some(generation) = scopes.get(&key) {
                verdict = verdict.max(generation.judge(seq));
            }
        }
        verdict
    }

    /// The seq of the last purge that covers a key, of either mode; 0 if none does.
    pub fn covering_seq(&self, covered: Covered<'_>) -> u64 {
        let of = |generation: Generation| generation.delete.max(generation.expire);
        let scopes = self.scopes.read();
        let mut seq = of(*self.all.read());
        let keys = [
            ScopeKey::route(covered.route),
            ScopeKey::resource(covered.resource),
            ScopeKey::variant(covered.resource, covered.variant),
        ];
        let tags = covered.tags.iter().map(|tag| ScopeKey::tag(tag));
        for key in keys.into_iter().chain(tags) {
            seq = seq.max(scopes.get(&key).copied().map_or(0, of));
        }
        seq
    }

    /// Purges on this node: `seq += 1; generation[scope] = seq`. Returns the new seq.
    pub fn raise(&self, scope: &Scope, mode: Mode, now_ms: u64) -> u64 {
        let mut history = self.purging.lock();
        let seq = self.seq.load(Ordering::Relaxed) + 1;
        self.write(&mut history, scope, mode, seq, now_ms);
        self.seq.store(seq, Ordering::Release);
        seq
    }

    /// Takes over a purge that the shared tier numbered `seq`. Never lowers anything. Where this node has given out
    /// numbers of its own from `seq` on, the purge takes the next of them: see the module's text.
    pub fn raise_to(&self, scope: &Scope, mode: Mode, seq: u64, now_ms: u64) {
        let mut history = self.purging.lock();
        let own = self.seq.load(Ordering::Relaxed);
        let diverged = own > history.confirmed && seq <= own;
        history.confirmed = history.confirmed.max(seq);
        let seq = if diverged { own + 1 } else { seq };
        self.write(&mut history, scope, mode, seq, now_ms);
        self.seq.fetch_max(seq, Ordering::Release);
    }

    /// The highest seq that the shared tier gave, as far as this node was told.
    pub fn confirmed(&self) -> u64 {
        self.purging.lock().confirmed
    }

    /// From now on others purge too: what is known here is trusted for this long after it was last heard to be complete.
    /// Nothing has been heard yet.
    pub fn mirror(&self, trust_ms: u64) {
        self.trust_ms.store(trust_ms, Ordering::Relaxed);
        self.heard_ms.store(0, Ordering::Release);
    }

    /// Every purge that was made before `at_ms`, by this node's clock, is known here.
    pub fn heard(&self, at_ms: u64) {
        self.heard_ms.fetch_max(at_ms, Ordering::AcqRel);
    }

    /// Whether what was right at `as_of_ms` may by now be older than a purge this node has not heard of, and has been so
    /// for longer than is allowed.
    #[inline]
    pub fn is_overdue(&self, as_of_ms: u64, now_ms: u64) -> bool {
        let heard_ms = self.heard_ms.load(Ordering::Acquire);
        let trust_ms = self.trust_ms.load(Ordering::Relaxed);
        now_ms > heard_ms.max(as_of_ms).saturating_add(trust_ms)
    }

    /// Takes over what the shared tier holds: its epoch, its seq (never lowering ours within the epoch) and its
    /// generations, and only those when the epoch is new. Returns whether entries in memory may be older than a purge this node had not heard of, so that
    /// the memory tier must be dropped.
    pub fn adopt(
        &self,
        epoch: u64,
        seq: u64,
        generations: &[(Scope, Generation)],
        now_ms: u64,
    ) -> bool {
        let mut history = self.purging.lock();
        let same_epoch = self.epoch.load(Ordering::Relaxed) == epoch;
        let known = self.seq.load(Ordering::Relaxed);
        // In a new epoch the numbers begin anew too.
        history.confirmed = if same_epoch {
            history.confirmed.max(seq)
        } else {
            seq
        };
        for (scope, generation) in generations {
            self.write(&mut history, scope, Mode::Delete, generation.delete, now_ms);
            self.write(&mut history, scope, Mode::Expire, generation.expire, now_ms);
        }
        if same_epoch {
            self.seq.store(known.max(seq), Ordering::Release);
        } else {
            // Entries of the old epoch are dead by their epoch, so its seq may be replaced by a lower one, and its
            // generations must be: numbered higher, they would cover whatever is loaded from now on. Until they are
            // replaced they cover too much and not too little.
            self.epoch.store(epoch, Ordering::Release);
            self.seq.store(seq, Ordering::Release);
            self.replace(&mut history, generations, now_ms);
        }
        // Last, because a stamp reads it first: a stamp that mixes the new epoch with the old (higher) seq carries
        // the old sync count, and `is_current` refuses it.
        self.sync.fetch_add(1, Ordering::AcqRel);
        !same_epoch || known != seq
    }

    /// Whether a load stamped so may be stored: nothing was resynchronised since its stamp was taken.
    pub fn is_current(&self, stamp: Stamp) -> bool {
        stamp.sync == self.sync.load(Ordering::Acquire)
            && stamp.epoch == self.epoch.load(Ordering::Acquire)
    }

    /// Forgets purges made before `before_ms`: every entry they could cover is past its life.
    pub fn prune(&self, before_ms: u64) {
        let mut history = self.purging.lock();
        while history
            .order
            .front()
            .is_some_and(|(_, _, at_ms)| *at_ms < before_ms)
        {
            self.forget_oldest(&mut history, false);
        }
    }

    /// How many purges are remembered.
    pub fn remembered(&self) -> usize {
        self.scopes.read().len()
    }

    fn write(&self, history: &mut History, scope: &Scope, mode: Mode, seq: u64, now_ms: u64) {
        if seq == 0 {
            return;
        }
        match ScopeKey::of(scope) {
            None => self.all.write().raise(mode, seq),
            Some(key) => {
                let mut scopes = self.scopes.write();
                let generation = scopes.entry(key).or_default();
                let before = *generation;
                generation.raise(mode, seq);
                // What is known already is not remembered again: a mirror that is reread every second would fill the
                // history with repetitions, and a full history becomes a purge of everything.
                if *generation == before {
                    return;
                }
                history.order.push_back((key, seq, now_ms));
            }
        }
        while history.order.len() > self.remembered_max {
            self.forget_oldest(history, true);
        }
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Keeps these generations and no others.
    fn replace(&self, history: &mut History, generations: &[(Scope, Generation)], now_ms: u64) {
        let mut all = Generation::default();
        let mut scopes = Scopes::default();
        let mut order = VecDeque::new();
        for (scope, generation) in generations {
            match ScopeKey::of(scope) {
                None => all = *generation,
                Some(key) => {
                    scopes.insert(key, *generation);
                    order.push_back((key, generation.delete.max(generation.expire), now_ms));
                }
            }
        }
        *self.all.write() = all;
        *self.scopes.write() = scopes;
        history.order = order;
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Forgets the oldest remembered purge. When it is forgotten for want of room and not of age, everything as old as
    /// it counts as purged: reloading too much is right, serving too much would not be.
    fn forget_oldest(&self, history: &mut History, for_room: bool) {
        let Some((key, seq, _)) = history.order.pop_front() else {
            return;
        };
        let mut scopes = self.scopes.write();
        let Some(generation) = scopes.get(&key).copied() else {
            return;
        };
        // Purged again since: a later place in the order stands for it.
        if generation.delete.max(generation.expire) != seq {
            return;
        }
        scopes.remove(&key);
        if for_room {
            let mut all = self.all.write();
            all.raise(Mode::Delete, generation.delete);
            all.raise(Mode::Expire, generation.expire);
        }
    }
}

/// A new random epoch, never 0.
pub fn new_epoch() -> u64 {
    rand::random::<u64>() | 1
}

#[cfg(test)]
#[path = "generations_tests.rs"]
mod tests;
