//! The seam to a durable queue: changes that were accepted and are not made yet, and what became of those that were. Knows
//! nothing of what a change is: to it, a record is bytes.
//!
//! A queue has partitions. All changes of a resource are in one of them, in the order of their sequence; a partition is
//! consumed by one node at a time, which holds its duty.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::tier::Duty;
use crate::key::Resource;

/// How long what became of a change is told, after it was made or given up.
pub const TOLD_MS: u64 = 24 * 3_600_000;
/// What became of so many changes is told at most (law 12): the oldest are forgotten first.
pub const TOLD_MAX: u64 = 100_000;

/// By which a client asks what became of its change: 32 hexadecimal digits, of which the first two name the partition. Not to
/// be guessed.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WriteId(String);

impl WriteId {
    const LEN: usize = 32;

    /// An id in a partition: the same for the same bytes.
    pub fn new(partition: u8, bytes: u128) -> Self {
        let bytes = bytes & (u128::MAX >> 8);
        Self(format!("{partition:02x}{bytes:030x}"))
    }

    /// The partition where its change is.
    pub fn partition(&self) -> u8 {
        u8::from_str_radix(&self.0[..2], 16).unwrap_or_default()
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// It is no id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the id of a change has 32 hexadecimal digits")]
pub struct NoId;

impl FromStr for WriteId {
    type Err = NoId;

    fn from_str(text: &str) -> Result<Self, NoId> {
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() == Self::LEN && text.bytes().all(is_hex) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NoId)
        }
    }
}

impl fmt::Display for WriteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for WriteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A change to be accepted.
#[derive(Clone, Debug)]
pub struct Item {
    /// Its id, in the partition of its resource.
    pub id: WriteId,
    /// What it changes.
    pub resource: Resource,
    /// A digest of what it does, by which a second attempt under the same id is told from another change.
    pub print: [u8; 32],
    /// The change.
    pub record: Bytes,
}

/// A change that was accepted.
#[derive(Clone, Debug)]
pub struct Queued {
    /// Its place: grows with every change of the partition. The bits above the lowest 20 are the time at which it was accepted,
    /// in milliseconds since 1970, or somewhat more; it fits a signed 64-bit number.
    pub sequence: u64,
    /// Its id.
    pub id: WriteId,
    /// What it changes.
    pub resource: Resource,
    /// The change.
    pub record: Bytes,
}

/// When a change was accepted, in milliseconds since 1970.
pub const fn accepted_ms(sequence: u64) -> u64 {
    sequence >> 20
}

/// What became of the wish to accept a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It outlives whatever the queue promises to outlive.
    Accepted {
        /// Its place.
        sequence: u64,
    },
    /// The same change was accepted before, under the same id.
    Known(Known),
    /// Another change was accepted under the same id.
    Another,
    /// There is no room; nothing was accepted.
    Full(Depth),
    /// It is not to be had now; nothing was accepted, as far as anybody knows.
    Unavailable {
        /// What is wrong.
        why: String,
        /// It may have been accepted all the same.
        uncertain: bool,
    },
}

/// What is known of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// What became of it.
    pub state: State,
    /// Its place.
    pub sequence: u64,
}

/// What became of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It waits, or is being made.
    Pending,
    /// It was made.
    Applied {
        /// When, in milliseconds since 1970.
        at_ms: u64,
    },
    /// It was given up, and is kept.
    Dead {
        /// When, in milliseconds since 1970.
        at_ms: u64,
        /// Why, as whoever gave it up wrote it.
        reason: String,
    },
}

/// That a change is no longer pending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// Which.
    pub sequence: u64,
    /// Its id.
    pub id: WriteId,
    /// What it changes.
    pub resource: Resource,
    /// Made, or given up for this reason.
    pub end: Result<(), String>,
}

/// A change that was given up.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// The change.
    pub queued: Queued,
    /// Why, as whoever gave it up wrote it.
    pub reason: String,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// A later change of the same resource was made since: made now, this one would revert it.
    pub superseded: bool,
}

/// What became of the wish to try a dead letter again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revived {
    /// It is pending again, with this new place: the last of its resource.
    Done {
        /// Its place.
        sequence: u64,
    },
    /// It is superseded, or a change of its resource is pending that is later; it was left where it is.
    Superseded,
    /// There is no such dead letter.
    Unknown,
}

/// How much is in a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// Changes that are pending.
    pub pending: u64,
    /// Dead letters.
    pub dead: u64,
    /// Bytes of the records of both.
    pub bytes: u64,
    /// The sequence of the oldest that is pending.
    pub oldest: Option<u64>,
}

/// How much may be in a queue (law 12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Changes, pending and dead.
    pub items_max: u64,
    /// Bytes of their records.
    pub bytes_max: u64,
}

impl Depth {
    /// Whether a record of this length has room.
    pub fn has_room(&self, bounds: Bounds, len: u64) -> bool {
        self.pending + self.dead < bounds.items_max
            && self.bytes.saturating_add(len) <= bounds.bytes_max
    }
}

/// The queue is not to be had now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the queue is not to be had: {0}")]
pub struct Unavailable(pub String);

/// A durable queue.
pub trait Queue: Send + Sync {
    /// Its kind, as it is configured: `disk` or `redis`.
    fn kind(&self) -> &'static str;

    /// How many partitions it has, numbered from 0; 1 to 256.
    fn partitions(&self) -> u16;

    /// The partition of a resource.
    fn partition_of(&self, resource: &Resource) -> u8;

    /// Accepts a change: once this says so, it is durable, and [`Queue::newest`] of its resource is it or a later one. One step
    /// for all that is said of it.
    fn push(&self, item: Item) -> BoxFuture<'_, Pushed>;

    /// What is known of a change.
    fn find<'a>(&'a self, id: &'a WriteId) -> BoxFuture<'a, Result<Option<Known>, Unavailable>>;

    /// The last change of a resource that is pending.
    fn newest<'a>(
        &'a self,
        resource: &'a Resource,
    ) -> BoxFuture<'a, Result<Option<Queued>, Unavailable>>;

    /// Whether this node knows without asking that a change of a resource is pending. A queue that nodes share says no: what is
    /// pending there all of them find.
    fn holds(&self, _resource: &Resource) -> bool {
        false
    }

    /// Writes what is to be written, and lets go of it.
    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }

    /// The right to consume a partition, if no other node has it.
    fn own(&self, partition: u8) -> BoxFuture<'_, Duty>;

    /// The first of a partition that are pending, after a sequence, in their order.
    fn scan(
        &self,
        partition: u8,
        after: u64,
        max: usize,
    ) -> BoxFuture<'_, Result<Vec<Queued>, Unavailable>>;

    /// Ends when [`Queue::scan`] after this sequence may find something that it did not find before.
    fn news(&self, partition: u8, after: u64) -> BoxFuture<'_, ()>;

    /// The record of one that is pending; none if it is not.
    fn fetch(
        &self,
        partition: u8,
        sequence: u64,
    ) -> BoxFuture<'_, Result<Option<Bytes>, Unavailable>>;

    /// Ends changes of a partition, in one step each: they are not pending any more and what became of them is told. One that
    /// is not pending is left alone.
    fn settle(
        &self,
        partition: u8,
        settlements: Vec<Settlement>,
    ) -> BoxFuture<'_, Result<(), Unavailable>>;

    /// Dead letters in the order of their ids, after an id.
    fn dead<'a>(
        &'a self,
        after: Option<&'a WriteId>,
        max: usize,
    ) -> BoxFuture<'a, Result<Vec<DeadLetter>, Unavailable>>;

    /// Makes a dead letter pending again. Where a change of its resource was made, or is pending, that is later than itself and
    /// than the sequence that is given, only by force: it would revert that.
    fn revive<'a>(
        &'a self,
        id: &'a WriteId,
        unless: (bool, u64),
    ) -> BoxFuture<'a, Result<Revived, Unavailable>>;

    /// Forgets a dead letter; whether there was one.
    fn discard<'a>(&'a self, id: &'a WriteId) -> BoxFuture<'a, Result<bool, Unavailable>>;

    /// How much is in it.
    fn depth(&self) -> BoxFuture<'_, Result<Depth, Unavailable>>;
}
