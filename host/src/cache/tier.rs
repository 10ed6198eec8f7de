//! The seam between the cache and the tier that all nodes share. Knows no Redis; the cache knows nothing else of it.
//!
//! A tier never fails a request (law 6): its answers have a case for "not now", and every call ends within its own
//! timeout.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::entry::Entry;
use super::generations::{Mode, Scope, Stamp, Verdict};
use crate::key::{Key, Resource};

/// What a look-up in the shared tier gave.
#[derive(Clone, Debug)]
pub enum Lookup {
    /// An entry, and what the tier's generation of its resource says of it. The reader judges by its own generations
    /// too: the worse of both counts.
    Found(Entry, Verdict),
    /// Nothing there (or foreign bytes, which were counted: law 11).
    Absent,
    /// The tier is not to be had now; the breaker knows.
    Unavailable,
}

/// What became of an entry that was to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It is stored.
    Stored,
    /// The lease was lost, or its resource was purged since the load began: it is served and not stored.
    Refused,
    /// The tier is not to be had now.
    Unavailable,
}

/// How far a purge is known to have reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Purged {
    /// Its place in the sequence.
    pub seq: u64,
    /// Whether the shared tier has it too; if not it is kept and sent as soon as the tier is back, and until then this
    /// node judges what it reads from the tier by its own record.
    pub shared: bool,
    /// Nodes that were listening when it was told; none where nobody could be told, or there is nobody.
    pub nodes: Option<u64>,
    /// Replicas that have it, of each server of the shared tier; none where there are no replicas, or it was not told.
    pub replicas: Option<u32>,
    /// Whether it outlives a restart of this node.
    pub durable: bool,
}

/// How long a lease stands after it was last renewed: so long a node that died holds up the others.
pub const LIVENESS: Duration = Duration::from_secs(1);

/// The right of one flight, of all nodes, to store what it loads. Given back when it is dropped.
pub struct Lease {
    /// Who holds it.
    pub token: u64,
    /// It has ended with a store, and need not be given back.
    pub ended: Arc<AtomicBool>,
    /// Renews it, and gives it back.
    pub guard: Box<dyn Send + Sync>,
}

/// Who asks for a lease.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    /// Of the load that would begin with it.
    pub stamp: Stamp,
    /// The seq of the last purge that covers the key, as far as is known: a lease of a load that began before it is taken
    /// over.
    pub least_seq: u64,
}

/// What became of the attempt to take a lease.
pub enum Leasing {
    /// It is given.
    Granted {
        /// To store with.
        lease: Lease,
        /// How long ago the entry that is in the tier was stored; none if there is none.
        stored_ago: Option<Duration>,
    },
    /// Another flight has it. Ends with its lease.
    Held(BoxFuture<'static, Ended>),
    /// The tier is not to be had now.
    Unavailable,
}

/// How a lease ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With a store.
    Stored,
    /// Given back, with nothing stored.
    GivenBack,
    /// Nobody told.
    Unknown,
}

/// What became of the wish to do what one node of all does at a time, such as reading a change feed.
pub enum Duty {
    /// It is this node's.
    Ours(Box<dyn Tenure>),
    /// It is another node's. Ends when it may be to be had.
    Others(BoxFuture<'static, ()>),
    /// The tier is not to be had now, so nobody knows whose it is.
    Unavailable,
}

/// A duty while this node has it. Given back when it is dropped, so that another node may take it at once.
///
/// What is done with it must do no harm when it is done twice: a node that was frozen finds out afterwards that its duty
/// has gone to another. Only what it saves is safe from that.
pub trait Tenure: Send + Sync {
    /// How far the duty had come when it was taken, as whoever had it saved; none if nobody did, or it was lost.
    fn progress(&self) -> Option<Vec<u8>>;

    /// Whether it is still known to be this node's: no other node has it before this turns false.
    fn stands(&self) -> bool;

    /// Ends when it is not known to be this node's any more.
    fn lost(&self) -> BoxFuture<'_, ()>;

    /// Writes down how far it has come, if it is still this node's. After that, whoever has it next goes on from there.
    fn save<'a>(&'a self, progress: &'a [u8]) -> BoxFuture<'a, Saved>;

    /// Gives it back and waits until that is told.
    fn end(self: Box<Self>) -> BoxFuture<'static, ()>;
}

/// What became of a progress that was to be saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saved {
    /// It is written down.
    Saved,
    /// The duty is another node's by now, or nobody's.
    Lost,
    /// The tier is not to be had now.
    Unavailable,
}

/// What is to become of a note: a few bytes that nodes agree on, beside the entries of a resource.
#[derive(Clone, Copy, Debug)]
pub struct Noting<'a> {
    /// What it must be now; none: there must be none.
    pub expect: Option<&'a [u8]>,
    /// What it is to be; none: nothing.
    pub value: Option<&'a [u8]>,
    /// How long it is kept.
    pub life: Duration,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Noted {
    /// It is as was wanted.
    Done,
    /// It is something else, or nothing, and was left so.
    Holds(Option<Vec<u8>>),
    /// The tier is not to be had now.
    Unavailable,
}

/// The health of the shared tier, for `/readyz` and the metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TierHealth {
    /// Whether commands are being sent (the breaker is closed).
    pub available: bool,
    /// Why not, or the last error.
    pub error: Option<String>,
    /// Purges kept until the tier is back.
    pub pending_purges: usize,
}

/// The tier that all nodes share.
pub trait SharedTier: Send + Sync {
    /// Reads an entry and the generation of its resource in one step.
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Lookup>;

    /// The right to store what is about to be loaded.
    fn lease<'a>(&'a self, key: &'a Key, claim: Claim) -> BoxFuture<'a, Leasing>;

    /// Stores an entry if its lease still stands and its resource was not purged since its stamp; says how long it
    /// lives by `entry.times().life_ms()`.
    fn put<'a>(&'a self, key: &'a Key, entry: &'a Entry, lease: &'a Lease) -> BoxFuture<'a, Put>;

    /// Purges: raises the generation here and in the tier. Always succeeds on this node; what the tier could not be
    /// told is kept and sent later.
    fn purge<'a>(&'a self, scope: &'a Scope, mode: Mode) -> BoxFuture<'a, Purged>;

    /// The duty of this name, for this node, if no other has it.
    fn duty<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Duty>;

    /// Replaces the note of this name, if it is what is expected, in one step.
    fn note<'a>(
        &'a self,
        resource: &'a Resource,
        name: &'a str,
        noting: Noting<'a>,
    ) -> BoxFuture<'a, Noted>;

    /// Every stored variant of a resource, for the operator; bounded.
    fn variants<'a>(&'a self, resource: &'a Resource) -> BoxFuture<'a, Vec<(String, Entry)>>;

    /// How long a request waits for it at most, in all that it asks of it.
    fn patience(&self) -> Duration;

    /// How it is.
    fn health(&self) -> TierHealth;
}
