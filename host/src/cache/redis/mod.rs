//! The shared tier in Redis (DESIGN section 7), one node of it. Alone in naming the redis crate; knows nothing of
//! loaders, routes and HTTP.
//!
//! # Layout
//!
//! - this file: the tier as the cache sees it: look up, store, purge.
//! - [`topology`]: where the servers are (one, a master that Sentinels name, a cluster); [`shard`]: which of them holds what.
//! - [`breaker`]: whether commands are sent to one at all; [`link`]: the connections; [`trouble`]: what a command can end in;
//!   [`refused`]: why there is no connection;
//!   [`lane`]: the look-ups of requests, gathered into one command; [`dial`]: its connection; [`resp`]: what is answered on it.
//! - [`lease`]: who loads, of all nodes; [`waiters`]: who waits for that; [`duty`]: what one of them does for all.
//! - [`keeper`]: the tasks behind: connect, catch up, notice what was missed, tell what could not be told; [`telling`]: how a
//!   purge is told.
//! - [`channel`]: what other nodes purge and store, heard at once; [`copies`]: whether a replica has a purge.
//! - [`pending`]: the purges that are yet to be told; [`journal`]: they outlive a restart.
//! - [`queue`]: the durable queue of changes, for all nodes; [`durability`]: what the servers promise of it.
//! - [`search`]: the variants of a resource, for the operator.
//! - [`acl`]: what its user must be allowed.
//! - [`scripts`] and the `.lua` files: what runs in Redis; [`names`]: what things are called there.
//!
//! # Law 4 in Redis
//!
//! An entry and the generation of its resource are read by one `MGET` and written by one script, in one slot. The
//! generation may be evicted: an entry without one is dead, and a generation is made anew with the group's current
//! seq, read just before, so that a purge which was in the lost one still refuses what it covered. The group (epoch,
//! seq, and the purges of everything, routes and tags) may be evicted: then a new epoch begins. Neither way does
//! anything come back to life.

mod acl;
mod breaker;
mod channel;
mod copies;
mod counters;
mod dial;
mod durability;
mod duty;
mod journal;
mod keeper;
mod lane;
mod lease;
mod link;
mod names;
mod pending;
mod queue;
mod refused;
mod resp;
mod scripts;
mod search;
mod shard;
mod telling;
mod topology;
mod trouble;
mod waiters;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::{Notify, RwLock};
use tokio_util::task::AbortOnDropHandle;

pub use self::acl::acl;
pub use self::counters::Counters;
use self::counters::count;
pub use self::durability::{Durability, Lasting};
use self::journal::Journal;
use self::link::{Link, Road};
use self::names::{Names, generation_of};
use self::pending::{Pending, Recent};
use self::queue::{Heard, RedisQueue};
use self::scripts::{Scripts, Storing};
use self::shard::{Map, Shard};
use self::telling::Untold;
use self::topology::{Address, Topology};
pub use self::topology::{Servers, Tls};
use self::trouble::Trouble;
use self::waiters::Waiters;
use super::clock::Clock;
use super::entry::{Entry, INLINE_MAX};
use super::envelope;
use super::freshness::millis;
use super::generations::{Generations, Mode, Scope, Verdict};
use super::queue::{Bounds, Queue};
use super::tier::{
    Claim, Duty, Lease, Leasing, Lookup, Noted, Noting, Purged, Put, SharedTier, TierHealth,
};
use crate::key::{Key, Resource};

/// How to reach Redis, and what the tier must know of the configuration.
#[derive(Clone)]
pub struct RedisSettings {
    /// Where the servers are.
    pub servers: Servers,
    /// For `rediss://`.
    pub tls: Tls,
    /// What every key begins with: `[A-Za-z0-9._~:-]`, not empty.
    pub prefix: String,
    /// How long a command may take.
    pub timeout: Duration,
    /// How long what this node knows is trusted while it cannot hear what others purge.
    pub trust: Duration,
    /// Where purges that could not be told are kept; none: in memory alone.
    pub journal: Option<PathBuf>,
    /// The longest life any entry can have, in milliseconds: purges are remembered that long.
    pub longest_life_ms: u64,
    /// Whether what is found is kept for longer than one request takes, as a memory tier does. Then it is copied out of the
    /// buffer that it was read into; else a large body is a slice of that.
    pub kept: bool,
}

/// Settings that no Redis could be reached with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    /// The address does not parse, or needs what is not built in. Never shows the address: it may hold a password.
    #[error(
        "[redis] url: {reason}; write it as redis://[user:password@]host:port[/db], rediss://… for TLS, or redis+unix:///path"
    )]
    Url {
        /// What is wrong with it.
        reason: String,
    },
    /// The prefix would not keep the keys apart, or readable.
    #[error("[redis] prefix {prefix:?}: use letters, digits and any of `.` `_` `~` `:` `-`")]
    Prefix {
        /// As it was given.
        prefix: String,
    },
}

fn check_prefix(prefix: &str) -> Result<(), SetupError> {
    let readable = |c: char| c.is_ascii_alphanumeric() || ".-_~:".contains(c);
    if prefix.is_empty() || !prefix.chars().all(readable) {
        return Err(SetupError::Prefix {
            prefix: prefix.to_owned(),
        });
    }
    Ok(())
}

/// What is done with what other nodes tell.
pub struct Hooks {
    /// Purges may have been missed: what is in memory must be dropped.
    pub resync: Box<dyn Fn() + Send + Sync>,
    /// Another node has stored an entry under the key of this text: an older copy of it must be dropped.
    pub stored: Box<dyn Fn(&str) + Send + Sync>,
}

/// The tier. Dropping it ends its tasks and its connections.
pub struct RedisTier {
    shared: Arc<Shared>,
    _keepers: Vec<AbortOnDropHandle<()>>,
}

impl Drop for RedisTier {
    fn drop(&mut self) {
        // Their tasks hold what holds them.
        for shard in self.shared.map.load().shards() {
            drop(shard.tended.lock().take());
        }
    }
}

/// What the tier and its keepers share.
struct Shared {
    topology: Topology,
    map: ArcSwap<Map>,
    /// Rouses who keeps the map: a server was lost, or answered that it does not hold the key.
    map_wanted: Arc<Notify>,
    /// Another server holds the group.
    regrouped: Notify,
    /// This node, as it signs what it tells: 16 hexadecimal digits, new after every start.
    node: String,
    names: Names,
    scripts: Scripts,
    timeout: Duration,
    trust: Duration,
    kept: bool,
    generations: Arc<Generations>,
    clock: Arc<dyn Clock>,
    pending: Pending,
    journal: Option<Journal>,
    recent: Recent,
    /// Another server answers than before: what was told lately must be told again.
    retell: AtomicBool,
    /// Rouses the keeper: there is a purge to tell, or something looked lost.
    wake: Arc<Notify>,
    /// Held shared by purges on their way, and alone by the keeper while it compares and catches up.
    exchange: RwLock<()>,
    /// The last seq of an unbroken row; see `keeper`.
    heard_seq: AtomicU64,
    /// Redis's clock minus ours.
    offset_ms: AtomicI64,
    counters: Arc<Counters>,
    /// Who waits for a lease of another node.
    waiters: Arc<Waiters>,
    /// What was heard of changes that other nodes, or this one, have queued.
    pushed: Heard,
    hooks: Hooks,
    links: AtomicU64,
}

impl RedisTier {
    /// A tier that connects by itself, now and after every outage. Redis need not be there: until it is, the tier is
    /// unavailable. Purges that a node of this storage directory kept and did not tell are taken over.
    ///
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`SetupError`], when no Redis could ever be reached with these settings.
    pub fn start(
        settings: RedisSettings,
        generations: Arc<Generations>,
        clock: Arc<dyn Clock>,
        hooks: Hooks,
    ) -> Result<Arc<Self>, SetupError> {
        let topology = Topology::new(&settings.servers, settings.tls)?;
        check_prefix(&settings.prefix)?;
        generations.mirror(millis(settings.trust));
        let names = Names::new(&settings.prefix);
        let clustered = topology.is_cluster();
        let shared = Arc::new(Shared {
            topology,
            map: ArcSwap::from_pointee(Map::unknown()),
            map_wanted: Arc::default(),
            regrouped: Notify::new(),
            node: format!("{:016x}", rand::random::<u64>()),
            scripts: Scripts::new(names.clone(), settings.longest_life_ms),
            names,
            timeout: settings.timeout,
            trust: settings.trust,
            kept: settings.kept,
            generations,
            clock,
            pending: Pending::default(),
            journal: settings.journal.as_deref().and_then(Journal::open),
            recent: Recent::default(),
            retell: AtomicBool::new(false),
            wake: Arc::default(),
            exchange: RwLock::new(()),
            heard_seq: AtomicU64::new(0),
            offset_ms: AtomicI64::new(0),
            counters: Arc::default(),
            waiters: Arc::default(),
            pushed: Heard::default(),
            hooks,
            links: AtomicU64::new(1),
        });
        shared.recall();
        if !clustered {
            shared.map.store(Arc::new(Map::single(shared.shard(None))));
        }
        let mut keepers = vec![tokio::spawn(keeper::keep(Arc::clone(&shared)))];
        if clustered {
            keepers.push(tokio::spawn(keeper::keep_map(Arc::clone(&shared))));
        }
        Ok(Arc::new(Self {
            shared,
            _keepers: keepers.into_iter().map(AbortOnDropHandle::new).collect(),
        }))
    }

    /// Entries may live so long from now on: purges are remembered as long. To be called before the first is stored.
    pub fn outlive(&self, longest_life_ms: u64) {
        self.shared.scripts.outlive(longest_life_ms);
    }

    /// What it counted so far.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.shared.counters
    }

    /// The durable queue in the same servers, shared by all nodes of the same prefix.
    ///
    /// `bounds` are of the whole queue, and one step sees a partition alone: so each of the 16 takes a sixteenth of both, and
    /// a queue may be full for one resource and not for another. A record of more than a sixteenth of the bytes never fits.
    /// What is in the queue outlives what [`RedisTier::durability`] says.
    pub fn queue(self: &Arc<Self>, bounds: Bounds) -> Arc<dyn Queue> {
        Arc::new(RedisQueue::new(Arc::clone(self), bounds))
    }
}

impl SharedTier for RedisTier {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Lookup> {
        Box::pin(self.shared.look_up(key))
    }

    fn lease<'a>(&'a self, key: &'a Key, claim: Claim) -> BoxFuture<'a, Leasing> {
        Box::pin(self.shared.take_lease(key, claim))
    }

    fn put<'a>(&'a self, key: &'a Key, entry: &'a Entry, lease: &'a Lease) -> BoxFuture<'a, Put> {
        Box::pin(self.shared.put(key, entry, lease))
    }

    fn purge<'a>(&'a self, scope: &'a Scope, mode: Mode) -> BoxFuture<'a, Purged> {
        Box::pin(self.shared.purge(scope, mode))
    }

    fn duty<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Duty> {
        Box::pin(self.shared.take_duty(name))
    }

    fn note<'a>(
        &'a self,
        resource: &'a Resource,
        name: &'a str,
        noting: Noting<'a>,
    ) -> BoxFuture<'a, Noted> {
        Box::pin(self.shared.note(resource, name, noting))
    }

    fn variants<'a>(&'a self, resource: &'a Resource) -> BoxFuture<'a, Vec<(String, Entry)>> {
        Box::pin(self.shared.variants(resource))
    }

    fn patience(&self) -> Duration {
        self.shared.timeout
    }

    fn health(&self) -> TierHealth {
        let map = self.shared.map.load();
        let lost: Vec<_> = map
            .shards()
            .iter()
            .filter(|shard| shard.breaker.link().is_none())
            .collect();
        let error = match (map.group(), lost.as_slice()) {
            (None, _) => Some("the map of the cluster is not known yet".to_owned()),
            (Some(group), []) => group.breaker.error(),
            (Some(_), [first, ..]) if map.layout().is_some() => {
                let (of, at) = (map.shards().len(), first.at.as_ref());
                let at = at.map(|(host, port)| format!("{host}:{port}"));
                let error = first.breaker.error().unwrap_or_default();
                let (lost, at) = (lost.len(), at.unwrap_or_default());
                Some(format!(
                    "{lost} of {of} servers are not to be had: {at}: {error}"
                ))
            }
            (Some(_), [first, ..]) => first.breaker.error(),
        };
        TierHealth {
            available: self.shared.group_link().is_some(),
            error,
            pending_purges: self.shared.pending.len(),
        }
    }
}

impl Shared {
    /// A server that is not spoken to yet.
    fn shard(&self, at: Option<Address>) -> Arc<Shard> {
        let (wake, map_wanted) = (Arc::clone(&self.wake), Arc::clone(&self.map_wanted));
        let waiters = Arc::clone(&self.waiters);
        Shard::new(at, self.topology.moves(), &self.counters, move || {
            wake.notify_one();
            map_wanted.notify_one();
            // Their word will not come.
            waiters.wake_all();
        })
    }

    /// Takes over what was kept on disk.
    fn recall(&self) {
        let Some(journal) = &self.journal else {
            return;
        };
        for (scope, mode) in journal.recall() {
            let kept = self.pending.keep(&scope, mode, false);
            self.generations
                .raise(&kept.scope, kept.mode, self.clock.now_ms());
        }
    }

    /// The connections to the server that holds the group; none while this node has not caught up with it.
    fn group_link(&self) -> Option<Arc<Link>> {
        self.map.load().group()?.breaker.link()
    }

    /// The connections to the server that holds a resource; none while it, or the one that holds the group, is away.
    fn link_of(&self, resource: &Resource) -> Option<Arc<Link>> {
        let map = self.map.load();
        let shard = map.of_resource(resource)?;
        if map.layout().is_some() {
            map.group()?.breaker.link()?;
        }
        shard.breaker.link()
    }

    fn link_of_scope(&self, scope: &Scope) -> Option<Arc<Link>> {
        match scope {
            Scope::Resource(resource) => self.link_of(resource),
            _ => self.group_link(),
        }
    }

    /// The shard that is spoken to on this link.
    fn with_shard_of(&self, link: &Link, act: impl FnOnce(&Shard)) {
        let map = self.map.load();
        let of = |shard: &&Arc<Shard>| {
            let current = shard.breaker.link();
            current.is_some_and(|current| current.id == link.id)
        };
        if let Some(shard) = map.shards().iter().find(of) {
            act(shard);
        }
    }

    /// Counts a failed command against the server it was sent to.
    fn failed(&self, link: &Link, trouble: &Trouble) {
        if matches!(trouble, Trouble::Moved(_)) {
            self.map_wanted.notify_one();
        }
        self.with_shard_of(link, |shard| shard.breaker.failed(link, trouble));
    }

    /// A write went through.
    fn wrote(&self, link: &Link) {
        self.with_shard_of(link, |shard| shard.breaker.wrote());
    }

    async fn look_up(&self, key: &Key) -> Lookup {
        // Before the question is sent: what it finds is no older than this.
        let as_of_ms = self.clock.now_ms();
        // A record that may lack purges of tags and routes is no judge of what others have stored.
        if self.generations.is_overdue(0, as_of_ms) {
            return Lookup::Unavailable;
        }
        let Some(link) = self.link_of(key.resource()) else {
            return Lookup::Unavailable;
        };
        match link.look_up(key).await {
            Ok((Some(entry), Some(generation))) => {
                self.judge(key.text(), entry, &generation, as_of_ms)
            }
            Ok(_) => self.miss(),
            Err(trouble) => {
                self.failed(&link, &trouble);
                match trouble {
                    // It is there, and answers.
                    Trouble::Strange(_) => Lookup::Absent,
                    _ => Lookup::Unavailable,
                }
            }
        }
    }

    fn miss(&self) -> Lookup {
        count(&self.counters.misses);
        Lookup::Absent
    }

    /// What an entry and the generation of its resource come to. The reader judges by the node's own record too.
    fn judge(&self, key: &str, entry: Bytes, generation: &[u8], as_of_ms: u64) -> Lookup {
        // Before the entry is looked at: without a generation of this epoch it is dead whatever it is.
        let Some((epoch, generation)) = generation_of(generation) else {
            return self.miss();
        };
        if epoch != self.generations.epoch() {
            return self.miss();
        }
        let offset_ms = self.offset_ms.load(Ordering::Relaxed);
        // A long body is a slice of what was read, with other entries: so it may be given, but not kept.
        let entry = if self.kept && entry.len() > INLINE_MAX {
            Bytes::copy_from_slice(&entry)
        } else {
            entry
        };
        let mut entry = match envelope::decode(entry, key, self.clock.now_ms(), offset_ms) {
            Ok(entry) => entry,
            Err(foreign) => {
                tracing::debug!(key, %foreign, "redis: a stored value is no entry");
                count(&self.counters.foreign);
                return Lookup::Absent;
            }
        };
        let verdict = generation.judge(entry.stamp.seq);
        if entry.stamp.epoch != epoch || verdict == Verdict::Dead {
            return self.miss();
        }
        count(&self.counters.hits);
        entry.as_of_ms = as_of_ms;
        Lookup::Found(entry.keep(key), verdict)
    }

    /// Stores an entry.
    ///
    /// While purges wait to be told, loads are stamped with numbers that only this node gives out, which Redis may give
    /// to other purges. Such an entry must not be stored, and this order sees to it: a purge is kept before it is
    /// numbered, and forgotten after the resynchronisation that follows its telling. So if the stamp was taken in
    /// between, then either the list is not empty here, or the stamp is not current below it.
    async fn put(&self, key: &Key, entry: &Entry, lease: &Lease) -> Put {
        if self.pending.is_ahead() {
            return Put::Unavailable;
        }
        if !self.generations.is_current(entry.stamp()) {
            count(&self.counters.stores_refused);
            return Put::Refused;
        }
        // A request that has waited for Redis in vain does not wait for it again (law 6): as long as nothing was answered
        // since, only reads and the keeper find out whether it answers.
        let link = self.link_of(key.resource());
        let Some(link) = link.filter(|link| !link.is_doubtful()) else {
            return Put::Unavailable;
        };
        match self.store(&link, key, (entry, lease)).await {
            Ok(true) => {
                lease.ended.store(true, Ordering::Release);
                count(&self.counters.stores);
                self.wrote(&link);
                Put::Stored
            }
            Ok(false) => {
                count(&self.counters.stores_refused);
                Put::Refused
            }
            Err(trouble) => {
                self.failed(&link, &trouble);
                Put::Unavailable
            }
        }
    }

    async fn store(
        &self,
        link: &Link,
        key: &Key,
        (entry, lease): (&Entry, &Lease),
    ) -> Result<bool, Trouble> {
        let started = tokio::time::Instant::now();
        let now_ms = self.clock.now_ms();
        let times = entry.times();
        let life_ms = times.life_ms().saturating_sub(times.age_ms(now_ms));
        if life_ms == 0 {
            return Ok(false);
        }
        // Read from Redis and not from our record: should the resource's generation be gone, only what was loaded after
        // every purge that may have been in it is stored, and another node's may not have reached us.
        let group = self.group_link().ok_or(Trouble::Away)?;
        let head = self.head(&group, Road::Requests).await?;
        let stamp = entry.stamp();
        let Some((_, group_seq)) = head.filter(|(e, s)| *e == stamp.epoch && *s >= stamp.seq)
        else {
            self.wake.notify_one();
            return Ok(false);
        };
        let storing = Storing {
            key,
            stamp,
            group_seq,
            life_ms,
            envelope: &envelope::encode(entry, key.text(), now_ms),
            token: lease.token,
            node: &self.node,
        };
        // Both commands together take no longer than one may.
        let left = self.timeout.saturating_sub(started.elapsed());
        self.scripts.store(link, &storing, left).await
    }

    async fn note(&self, resource: &Resource, name: &str, noting: Noting<'_>) -> Noted {
        let link = self.link_of(resource);
        let Some(link) = link.filter(|link| !link.is_doubtful()) else {
            return Noted::Unavailable;
        };
        let noted = self
            .scripts
            .note(&link, (resource, name), noting, self.timeout);
        match noted.await {
            Ok(noted) => noted,
            Err(trouble) => {
                self.failed(&link, &trouble);
                Noted::Unavailable
            }
        }
    }

    async fn purge(&self, scope: &Scope, mode: Mode) -> Purged {
        // All steps together take no longer than one command may.
        let deadline = tokio::time::Instant::now() + self.timeout;
        let mut numbered = None;
        if let Some(link) = self.group_link() {
            // The keeper may hold the exchange for longer than a purge may take.
            let told = match tokio::time::timeout_at(deadline, self.exchange.read()).await {
                Ok(_on_its_way) => self.tell(&link, scope, mode, deadline).await,
                Err(_) => Err(Untold {
                    numbered: None,
                    trouble: Trouble::Crowded,
                }),
            };
            match told {
                Ok(reached) => {
                    let told = (reached.numbered.seq, self.clock.now_ms());
                    self.recent.remember(scope, mode, told);
                    // After the exchange was given back: who waits for it does not wait for a replica.
                    let replicas = self.copied(&reached, deadline).await;
                    return Purged {
                        seq: reached.numbered.seq,
                        shared: true,
                        nodes: Some(reached.numbered.nodes),
                        replicas,
                        durable: true,
                    };
                }
                Err(untold) => {
                    self.failed(&link, &untold.trouble);
                    numbered = untold.numbered;
                }
            }
        }
        // Kept before it is numbered; see `put`. Whether Redis did it after all is not known: told again it does no harm.
        let kept = self.pending.keep(scope, mode, numbered.is_some());
        let seq = match numbered.filter(|_| kept.numbered) {
            Some(numbered) => numbered.seq,
            None => self
                .generations
                .raise(&kept.scope, kept.mode, self.clock.now_ms()),
        };
        // Before it is acknowledged: a node that is killed now tells it when it is back.
        let durable = match &self.journal {
            Some(journal) => journal.write(&self.pending).await,
            None => false,
        };
        self.wake.notify_one();
        Purged {
            seq,
            shared: false,
            nodes: numbered.map(|numbered| numbered.nodes),
            replicas: None,
            durable,
        }
    }
}

#[cfg(test)]
mod tests;
