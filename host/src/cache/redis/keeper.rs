//! Keeps the tier usable: connects, catches up, notices what was missed, and tells Redis what it could not be told.
//! One task per tier; requests never wait for it.
//!
//! # Why a tier that was away is not read before it has caught up
//!
//! This node's record holds purges that Redis has not numbered. Redis may meanwhile have given the same numbers to
//! purges of other nodes, so an entry stored there with a stamp of 11 says nothing about our purge 10. Once the kept
//! purges are told, Redis has numbered them above everything stored so far, and stamps mean the same to both again.
//!
//! # When something was missed
//!
//! `expected` is the seq that Redis has if nobody else purged: what it was when the group was last read, plus what our
//! own purges took since. The group is only compared with it while no purge of ours is on its way (`exchange`), so:
//! equal: nothing was missed; more: another node purged; less, or another epoch, or no group: Redis lost something, and
//! a new epoch begins in which nothing stored before lives.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Value};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::Shared;
use super::counters::count;
use super::link::{Link, Trouble};
use super::names::{epoch_of, seq_of};
use super::scripts::{Group, Known};
use crate::cache::generations::{Mode, Scope};

/// The breaker stays open at least this long, and the pause doubles from here…
const PAUSE_MIN: Duration = Duration::from_millis(250);
/// …to here. With the time a connection may take it keeps recovery under two seconds.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// A link that lived shorter than this does not reset the pause.
const SETTLED: Duration = Duration::from_secs(1);
/// How often the group is compared with what is expected of it.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// Nobody waits for the keeper, and a whole group is a long answer.
const PATIENCE_MIN: Duration = Duration::from_millis(500);
/// Purges that keep arriving while the kept ones are told are told too, but not for ever.
const ROUNDS_MAX: usize = 16;

/// Runs until it is aborted.
pub(super) async fn keep(shared: Arc<Shared>) {
    let mut pause = PAUSE_MIN;
    loop {
        match shared.establish().await {
            Ok(()) => {
                let since = tokio::time::Instant::now();
                shared.watch().await;
                if since.elapsed() >= SETTLED {
                    pause = PAUSE_MIN;
                }
            }
            Err(trouble) => shared.breaker.stay_open(&trouble),
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

impl Shared {
    /// Connects, catches up, and only then lets requests in.
    async fn establish(self: &Arc<Self>) -> Result<(), Trouble> {
        let id = self.links.fetch_add(1, Ordering::Relaxed);
        // Weak: the connection must not keep alive what owns it.
        let weak = Arc::downgrade(self);
        let lost = move || {
            if let Some(shared) = weak.upgrade() {
                let trouble = Trouble::Lost("the connection was closed".into());
                shared.breaker.trip(id, &trouble);
            }
        };
        let link =
            Arc::new(Link::connect(&self.client, id, (&self.names, self.timeout), lost).await?);
        {
            let _quiet = self.exchange.write().await;
            self.synchronise(&link).await?;
        }
        self.breaker.close(link);
        // A purge that saw no link just before this line was kept a moment too late for `synchronise`.
        if !self.pending.is_empty() {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Checks once a second, and when it is woken. Returns when the breaker has opened.
    async fn watch(&self) {
        let mut tick = interval(CHECK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tick.tick().await;
        loop {
            let Some(link) = self.breaker.link() else {
                return;
            };
            tokio::select! {
                _ = tick.tick() => {}
                () = self.wake.notified() => {}
            }
            if self.breaker.link().is_none() {
                return;
            }
            if let Err(trouble) = self.check(&link).await {
                self.breaker.failed(&link, &trouble);
            }
        }
    }

    /// Compares the group with what is expected of it, and catches up if it differs or if there are purges to tell.
    pub(super) async fn check(&self, link: &Link) -> Result<(), Trouble> {
        let _quiet = self.exchange.write().await;
        let before_ms = self.clock.now_ms();
        self.generations
            .prune(before_ms.saturating_sub(self.scripts.matters_ms()));
        if self.pending.is_empty() {
            let (head, time) = tokio::join!(
                self.head(link, &link.control),
                self.time(link, &link.control)
            );
            self.note_time(time?, before_ms);
            let expected = (
                self.generations.epoch(),
                self.expected.load(Ordering::Relaxed),
            );
            if head? == Some(expected) {
                return Ok(());
            }
        }
        self.synchronise(link).await
    }

    /// Mirrors the group and tells the kept purges, until there is nothing left to tell. The caller holds `exchange`.
    ///
    /// The group is read first: a purge would raise a seq that went back, and hide that it did. It is read again after
    /// the telling, so that loads which began before are not stored (see `put`), and only then are the purges forgotten.
    async fn synchronise(&self, link: &Link) -> Result<(), Trouble> {
        let patience = self.timeout.max(PATIENCE_MIN);
        let mut told = Vec::new();
        for _ in 0..ROUNDS_MAX {
            let before_ms = self.clock.now_ms();
            let known = Known {
                epoch: self.generations.epoch(),
                least: self.expected.load(Ordering::Relaxed),
                own: self.generations.seq(),
            };
            let group = self.scripts.sync(link, known, patience).await?;
            self.adopt(&group, before_ms);
            self.pending.forget(&told);
            told = self.pending.snapshot();
            if told.is_empty() {
                return Ok(());
            }
            for kept in &told {
                self.tell(link, &kept.scope, kept.mode, patience).await?;
            }
        }
        Err(Trouble::Fault(
            "purges arrive faster than Redis takes them".into(),
        ))
    }

    fn adopt(&self, group: &Group, before_ms: u64) {
        let now_ms = self.clock.now_ms();
        self.note_time(group.now_ms, before_ms);
        let new_epoch = self.generations.epoch() != group.epoch;
        let missed = new_epoch || self.expected.load(Ordering::Relaxed) != group.seq;
        self.generations
            .adopt(group.epoch, group.seq, &group.generations, now_ms);
        self.expected.store(group.seq, Ordering::Relaxed);
        if new_epoch {
            // The record of the old epoch is gone, and with it the purges that Redis does not know yet.
            for kept in self.pending.snapshot() {
                self.generations.raise(&kept.scope, kept.mode, now_ms);
            }
        }
        if missed {
            count(&self.counters.resyncs);
            tracing::debug!(epoch = group.epoch, seq = group.seq, "redis: caught up");
            (self.on_resync)();
        }
    }

    /// Tells Redis of a purge and takes over the number it gave. The caller holds `exchange`, shared or not.
    ///
    /// The group's seq is raised before the resource's generation is: whoever reads the seq and then stores (see
    /// `store.lua`) either reads it before, and the generation written after covers what was stored; or after, and is
    /// refused.
    pub(super) async fn tell(
        &self,
        link: &Link,
        scope: &Scope,
        mode: Mode,
        limit: Duration,
    ) -> Result<u64, Trouble> {
        let own_seq = self.generations.seq();
        let numbered = self
            .scripts
            .purge(link, (scope, mode), own_seq, limit)
            .await?;
        let same_epoch = numbered.epoch == self.generations.epoch();
        if same_epoch {
            let taken = numbered.seq - numbered.before;
            self.expected.fetch_add(taken, Ordering::Relaxed);
        }
        if let Scope::Resource(resource) = scope {
            self.scripts
                .raise(link, resource, mode, numbered, limit)
                .await?;
        }
        self.breaker.wrote();
        let now_ms = self.clock.now_ms();
        if same_epoch {
            if numbered.collapsed {
                self.generations
                    .raise_to(&Scope::All, Mode::Delete, numbered.seq, now_ms);
            }
            self.generations.raise_to(scope, mode, numbered.seq, now_ms);
        } else {
            // Redis had lost the group. Until the new epoch is adopted, this node goes by its own numbers.
            self.generations.raise(scope, mode, now_ms);
            self.wake.notify_one();
        }
        Ok(numbered.seq)
    }

    /// The group's epoch and seq; none if it is not there, or is something else.
    pub(super) async fn head(
        &self,
        link: &Link,
        connection: &MultiplexedConnection,
    ) -> Result<Option<(u64, u64)>, Trouble> {
        let mut command = Cmd::with_capacity(4, 16 + self.names.group.len());
        command
            .arg("HMGET")
            .arg(&self.names.group)
            .arg("epoch")
            .arg("seq");
        let answer = match link.ask(connection, &command, self.timeout).await {
            Err(Trouble::Strange(_)) => return Ok(None),
            answer => answer?,
        };
        let Value::Array(fields) = answer else {
            return Ok(None);
        };
        let [Value::BulkString(epoch), Value::BulkString(seq)] = fields.as_slice() else {
            return Ok(None);
        };
        Ok(epoch_of(epoch).zip(seq_of(seq)))
    }

    /// Redis's time, in milliseconds since 1970.
    async fn time(&self, link: &Link, connection: &MultiplexedConnection) -> Result<u64, Trouble> {
        let answer = link
            .ask(connection, &redis::cmd("TIME"), self.timeout)
            .await?;
        redis::from_redis_value::<(u64, u64)>(answer)
            .map(|(seconds, micros)| seconds.saturating_mul(1000).saturating_add(micros / 1000))
            .map_err(|error| Trouble::Strange(error.to_string()))
    }

    /// Keeps the offset to Redis's clock, which was asked at `before_ms`: half a round trip ago on average.
    fn note_time(&self, redis_ms: u64, before_ms: u64) {
        let now_ms = self.clock.now_ms();
        let middle_ms = before_ms + now_ms.saturating_sub(before_ms) / 2;
        let offset_ms = (redis_ms as i64).wrapping_sub(middle_ms as i64);
        self.offset_ms.store(offset_ms, Ordering::Relaxed);
    }
}
