//! The shared tier in Redis (DESIGN section 7), one node of it. Alone in naming the redis crate; knows nothing of
//! loaders, routes and HTTP.
//!
//! # Layout
//!
//! - this file: the tier as the cache sees it: look up, store, purge.
//! - [`breaker`]: whether commands are sent at all; [`link`]: the connections, and what a command can end in; [`lane`]:
//!   the look-ups of requests, gathered into one command.
//! - [`keeper`]: the task behind: connects, catches up, notices what was missed, tells what could not be told.
//! - [`pending`]: the purges that are yet to be told.
//! - [`scripts`] and the `.lua` files: what runs in Redis; [`names`]: what things are called there.
//!
//! # Law 4 in Redis
//!
//! An entry and the generation of its resource are read by one `MGET` and written by one script, in one slot. The
//! generation may be evicted: an entry without one is dead, and a generation is made anew with the group's current
//! seq, read just before, so that a purge which was in the lost one still refuses what it covered. The group (epoch,
//! seq, and the purges of everything, routes and tags) may be evicted: then a new epoch begins. Neither way does
//! anything come back to life.

mod breaker;
mod counters;
mod keeper;
mod lane;
mod link;
mod names;
mod pending;
mod scripts;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use redis::{Client, IntoConnectionInfo as _, ProtocolVersion, Value};
use tokio::sync::{Notify, RwLock};
use tokio_util::task::AbortOnDropHandle;

use self::breaker::Breaker;
pub use self::counters::Counters;
use self::counters::count;
use self::link::{Link, Trouble};
use self::names::{Names, generation_of};
use self::pending::Pending;
use self::scripts::{Scripts, Storing};
use super::clock::Clock;
use super::entry::Entry;
use super::envelope;
use super::generations::{Generations, Mode, Scope, Verdict};
use super::tier::{Lease, Lookup, Purged, Put, SharedTier, TierHealth};
use crate::key::{Key, Resource};

/// Variants of a resource that are listed at most.
const VARIANTS_MAX: usize = 256;
/// Pages of the key space that are searched for them at most, of [`VARIANTS_PAGE`] keys each.
const VARIANTS_PAGES_MAX: usize = 1_000;
const VARIANTS_PAGE: usize = 1_000;

/// How to reach Redis, and what the tier must know of the configuration.
#[derive(Clone)]
pub struct RedisSettings {
    /// `redis://[user:password@]host:port/db`, or `redis+unix:///path`.
    pub url: String,
    /// What every key begins with: `[A-Za-z0-9._~:-]`, not empty.
    pub prefix: String,
    /// How long a command may take.
    pub timeout: Duration,
    /// The longest life any entry can have, in milliseconds: purges are remembered that long.
    pub longest_life_ms: u64,
}

/// Settings that no Redis could be reached with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    /// The address does not parse, or needs what is not built in. Never shows the address: it may hold a password.
    #[error("[redis] url: {reason}; write it as redis://[user:password@]host:port[/db]")]
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

/// The tier. Dropping it ends its task and its connections.
pub struct RedisTier {
    shared: Arc<Shared>,
    _keeper: AbortOnDropHandle<()>,
}

/// What the tier and its keeper share.
struct Shared {
    client: Client,
    names: Names,
    scripts: Scripts,
    timeout: Duration,
    breaker: Breaker,
    generations: Arc<Generations>,
    clock: Arc<dyn Clock>,
    pending: Pending,
    /// Rouses the keeper: the breaker opened, there is a purge to tell, or something looked lost.
    wake: Arc<Notify>,
    /// Held shared by purges on their way, and alone by the keeper while it compares and catches up.
    exchange: RwLock<()>,
    /// The group's seq if nobody else purged; see `keeper`.
    expected: AtomicU64,
    /// Redis's clock minus ours.
    offset_ms: AtomicI64,
    counters: Arc<Counters>,
    on_resync: Box<dyn Fn() + Send + Sync>,
    links: AtomicU64,
}

impl RedisTier {
    /// A tier that connects by itself, now and after every outage. Redis need not be there: until it is, the tier is
    /// unavailable. `on_resync` is called when purges may have been missed: what is in memory must be dropped then.
    ///
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`SetupError`], when no Redis could ever be reached with these settings.
    pub fn start(
        settings: RedisSettings,
        generations: Arc<Generations>,
        clock: Arc<dyn Clock>,
        on_resync: Box<dyn Fn() + Send + Sync>,
    ) -> Result<Arc<Self>, SetupError> {
        let client = client(&settings.url)?;
        let readable = |c: char| c.is_ascii_alphanumeric() || ".-_~:".contains(c);
        if settings.prefix.is_empty() || !settings.prefix.chars().all(readable) {
            return Err(SetupError::Prefix {
                prefix: settings.prefix,
            });
        }
        let names = Names::new(&settings.prefix);
        let counters = Arc::new(Counters::default());
        let wake = Arc::new(Notify::new());
        let rouse = Arc::clone(&wake);
        let shared = Arc::new(Shared {
            client,
            scripts: Scripts::new(names.clone(), settings.longest_life_ms),
            names,
            timeout: settings.timeout,
            breaker: Breaker::new(Arc::clone(&counters), Box::new(move || rouse.notify_one())),
            generations,
            clock,
            pending: Pending::default(),
            wake,
            exchange: RwLock::new(()),
            expected: AtomicU64::new(0),
            offset_ms: AtomicI64::new(0),
            counters,
            on_resync,
            links: AtomicU64::new(1),
        });
        let keeper = tokio::spawn(keeper::keep(Arc::clone(&shared)));
        Ok(Arc::new(Self {
            shared,
            _keeper: AbortOnDropHandle::new(keeper),
        }))
    }

    /// What it counted so far.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.shared.counters
    }
}

/// A client that speaks RESP3 (needed to be told of a lost connection) and does not wait to fill packets.
fn client(url: &str) -> Result<Client, SetupError> {
    let fault = |error: redis::RedisError| SetupError::Url {
        reason: error.to_string(),
    };
    let info = url.into_connection_info().map_err(fault)?;
    let redis = info
        .redis_settings()
        .clone()
        .set_protocol(ProtocolVersion::RESP3);
    let tcp = info.tcp_settings().clone().set_nodelay(true);
    Client::open(info.set_redis_settings(redis).set_tcp_settings(tcp)).map_err(fault)
}

impl SharedTier for RedisTier {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Lookup> {
        Box::pin(self.shared.look_up(key))
    }

    fn lease<'a>(&'a self, _key: &'a Key) -> BoxFuture<'a, Option<Lease>> {
        let lease = Lease {
            token: rand::random(),
        };
        Box::pin(std::future::ready(Some(lease)))
    }

    fn put<'a>(
        &'a self,
        key: &'a Key,
        entry: &'a Arc<Entry>,
        _lease: &'a Lease,
    ) -> BoxFuture<'a, Put> {
        Box::pin(self.shared.put(key, entry))
    }

    fn purge<'a>(&'a self, scope: &'a Scope, mode: Mode) -> BoxFuture<'a, Purged> {
        Box::pin(self.shared.purge(scope, mode))
    }

    fn variants<'a>(&'a self, resource: &'a Resource) -> BoxFuture<'a, Vec<(String, Arc<Entry>)>> {
        Box::pin(self.shared.variants(resource))
    }

    fn health(&self) -> TierHealth {
        TierHealth {
            available: self.shared.breaker.link().is_some(),
            error: self.shared.breaker.error(),
            pending_purges: self.shared.pending.len(),
        }
    }
}

impl Shared {
    async fn look_up(&self, key: &Key) -> Lookup {
        let Some(link) = self.breaker.link() else {
            return Lookup::Unavailable;
        };
        match link.look_up(key).await {
            Ok((Some(entry), Some(generation))) => self.judge(key.text(), entry, &generation),
            Ok(_) => self.miss(),
            Err(trouble) => {
                self.breaker.failed(&link, &trouble);
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
    fn judge(&self, key: &str, entry: Vec<u8>, generation: &[u8]) -> Lookup {
        // Before the entry is looked at: without a generation of this epoch it is dead whatever it is.
        let Some((epoch, generation)) = generation_of(generation) else {
            return self.miss();
        };
        if epoch != self.generations.epoch() {
            return self.miss();
        }
        let offset_ms = self.offset_ms.load(Ordering::Relaxed);
        // `Bytes::from` takes the reply's buffer over; the body is a slice of it.
        let entry = match envelope::decode(Bytes::from(entry), key, self.clock.now_ms(), offset_ms)
        {
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
        Lookup::Found(Arc::new(entry), verdict)
    }

    /// Stores an entry.
    ///
    /// While purges wait to be told, loads are stamped with numbers that only this node gives out, which Redis may give
    /// to other purges. Such an entry must not be stored, and this order sees to it: a purge is kept before it is
    /// numbered, and forgotten after the resynchronisation that follows its telling. So if the stamp was taken in
    /// between, then either the list is not empty here, or the stamp is not current below it.
    async fn put(&self, key: &Key, entry: &Entry) -> Put {
        if !self.pending.is_empty() {
            return Put::Unavailable;
        }
        if !self.generations.is_current(entry.stamp) {
            count(&self.counters.stores_refused);
            return Put::Refused;
        }
        // A request that has waited for Redis in vain does not wait for it again (law 6): as long as nothing was answered
        // since, only reads and the keeper find out whether it answers.
        let Some(link) = self.breaker.link().filter(|link| !link.is_doubtful()) else {
            return Put::Unavailable;
        };
        match self.store(&link, key, entry).await {
            Ok(true) => {
                count(&self.counters.stores);
                self.breaker.wrote();
                Put::Stored
            }
            Ok(false) => {
                count(&self.counters.stores_refused);
                Put::Refused
            }
            Err(trouble) => {
                self.breaker.failed(&link, &trouble);
                Put::Unavailable
            }
        }
    }

    async fn store(&self, link: &Link, key: &Key, entry: &Entry) -> Result<bool, Trouble> {
        let started = tokio::time::Instant::now();
        let now_ms = self.clock.now_ms();
        let life_ms = entry
            .times
            .life_ms()
            .saturating_sub(entry.times.age_ms(now_ms));
        if life_ms == 0 {
            return Ok(false);
        }
        // Read from Redis and not from our record: should the resource's generation be gone, only what was loaded after
        // every purge that may have been in it is stored, and another node's may not have reached us.
        let head = self.head(link, &link.stores).await?;
        let stamp = entry.stamp;
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
        };
        // Both commands together take no longer than one may.
        let left = self.timeout.saturating_sub(started.elapsed());
        self.scripts.store(link, &storing, left).await
    }

    async fn purge(&self, scope: &Scope, mode: Mode) -> Purged {
        if let Some(link) = self.breaker.link() {
            // The keeper may hold the exchange for longer than a purge may take.
            let told = match tokio::time::timeout(self.timeout, self.exchange.read()).await {
                Ok(_on_its_way) => self.tell(&link, scope, mode, self.timeout).await,
                Err(_) => Err(Trouble::Crowded),
            };
            match told {
                Ok(seq) => return Purged { seq, shared: true },
                Err(trouble) => self.breaker.failed(&link, &trouble),
            }
        }
        // Kept before it is numbered; see `put`. Whether Redis did it after all is not known: told again it does no harm.
        let (kept, kept_mode) = self.pending.keep(scope, mode);
        let seq = self
            .generations
            .raise(&kept, kept_mode, self.clock.now_ms());
        self.wake.notify_one();
        Purged { seq, shared: false }
    }

    async fn variants(&self, resource: &Resource) -> Vec<(String, Arc<Entry>)> {
        let mut found = Vec::new();
        let Some(link) = self.breaker.link() else {
            return found;
        };
        if let Err(trouble) = self.search(&link, resource, &mut found).await {
            self.breaker.failed(&link, &trouble);
        }
        found
    }

    /// Adds the variants of a resource that live, until there are enough or the key space was searched far enough.
    async fn search(
        &self,
        link: &Link,
        resource: &Resource,
        found: &mut Vec<(String, Arc<Entry>)>,
    ) -> Result<(), Trouble> {
        let pattern = self.names.variants(resource);
        let mut cursor = 0_u64;
        for _ in 0..VARIANTS_PAGES_MAX {
            let mut command = redis::cmd("SCAN");
            command.arg(cursor).arg("MATCH").arg(&pattern);
            command.arg("COUNT").arg(VARIANTS_PAGE);
            let answer = link.ask(&link.control, &command, self.timeout).await?;
            let (next, names): (u64, Vec<Vec<u8>>) = redis::from_redis_value(answer)
                .map_err(|error| Trouble::Strange(error.to_string()))?;
            for name in names {
                let text = std::str::from_utf8(&name).ok();
                let Some(key) = text.and_then(|text| text.strip_prefix(&self.names.entry)) else {
                    continue;
                };
                // A page may repeat what an earlier one gave.
                if found.iter().any(|(known, _)| known == key) {
                    continue;
                }
                let mut command = redis::cmd("MGET");
                self.names.push_entry(&mut command, key);
                self.names.push_generation(&mut command, resource);
                let answer = link.ask(&link.control, &command, self.timeout).await?;
                if let Value::Array(answer) = answer
                    && let Ok([Value::BulkString(entry), Value::BulkString(generation)]) =
                        <[Value; 2]>::try_from(answer)
                    && let Lookup::Found(entry, _) = self.judge(key, entry, &generation)
                {
                    found.push((key.to_owned(), entry));
                }
                if found.len() == VARIANTS_MAX {
                    return Ok(());
                }
            }
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
