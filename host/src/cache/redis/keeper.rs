//! Keeps the tier usable: connects, catches up, hears what others change, notices what was missed, and tells Redis what it
//! could not be told. One task for the server that holds the group, one for each other server of a cluster; requests
//! never wait for them.
//!
//! # Why a tier that was away is not read before it has caught up
//!
//! This node's record holds purges that Redis has not numbered. Redis may meanwhile have given the same numbers to
//! purges of other nodes, so an entry stored there with a stamp of 11 says nothing about our purge 10. Once the kept
//! purges are told, Redis has numbered them above everything stored so far, and stamps mean the same to both again.
//!
//! # When something was missed
//!
//! `heard_seq` is the last seq of an unbroken row: what the group had when it was read whole, and then what each word of
//! the channel added, our own purges' too. It is compared with the group's seq as the channel's own connection gives it
//! (see `channel`), so: equal: nothing was missed; more: a word was lost, or was told while nobody listened; less, or
//! another epoch, or no group: Redis lost something, and a new epoch begins in which nothing stored before lives.
//!
//! # After a failover
//!
//! The new master may lack the last purges of the old one, and its seq may since have passed ours, which hides that. So a
//! node that finds another server than before tells again what it purged lately; told twice does no harm.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt as _;
use redis::{Client, Cmd, ConnectionAddr};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::Shared;
use super::channel::{Channel, Told, Word, head_of};
use super::counters::count;
use super::link::{Link, Road};
use super::pending::Kept;
use super::scripts::{Group, Known};
use super::shard::{Map, Shard};
use super::telling::Untold;
use super::trouble::Trouble;
use crate::cache::generations::{Mode, Scope};
use crate::cache::tier::Ended;

/// The breaker stays open at least this long, and the pause doubles from here…
const PAUSE_MIN: Duration = Duration::from_millis(250);
/// …to here. With the time a connection may take it keeps recovery under two seconds.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// A link that lived shorter than this does not reset the pause.
const SETTLED: Duration = Duration::from_secs(1);
/// Nobody waits for the keeper, and a whole group is a long answer.
const PATIENCE_MIN: Duration = Duration::from_millis(500);
/// Purges that keep arriving while the kept ones are told are told too, but not for ever.
const ROUNDS_MAX: usize = 16;
/// How often Redis is asked whether it is there, while somebody waits for a word.
const DOUBT_EVERY: Duration = Duration::from_millis(50);
/// How often Sentinels are asked whom they name.
const SENTINELS_EVERY: Duration = Duration::from_millis(500);
/// Words taken in before anything else is looked at.
const WORDS_MAX: usize = 1024;
/// The map of a cluster is asked for this often when nothing is wrong…
const MAP_EVERY: Duration = Duration::from_secs(5);
/// …and this often while a server is missed.
const MAP_EVERY_MISSED: Duration = Duration::from_millis(250);
/// Two looks at the map are at least this far apart, whatever asks for them.
const MAP_PAUSE: Duration = Duration::from_millis(50);

/// Keeps the server that holds the group. Runs until it is aborted.
pub(super) async fn keep(shared: Arc<Shared>) {
    let mut pause = PAUSE_MIN;
    loop {
        let shard = shared.map.load().group().map(Arc::clone);
        if let Some(shard) = shard {
            match shared.establish(&shard).await {
                Ok(channel) => {
                    let since = Instant::now();
                    shared.watch(&shard, channel).await;
                    if since.elapsed() >= SETTLED {
                        pause = PAUSE_MIN;
                    }
                }
                Err(trouble) => shard.breaker.stay_open(&trouble),
            }
        }
        // A map in which another server holds the group ends the pause.
        let _ = timeout(pause, shared.regrouped.notified()).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Keeps a server of a cluster that does not hold the group. Runs until it is aborted.
async fn tend(shared: Arc<Shared>, shard: Arc<Shard>) {
    let mut pause = PAUSE_MIN;
    loop {
        match shared.connect(&shard).await {
            Ok((link, _)) => {
                shard.breaker.close(link);
                // What could not be told to it can be told now.
                shared.wake.notify_one();
                let since = Instant::now();
                while shard.breaker.link().is_some() {
                    shard.opened.notified().await;
                }
                if since.elapsed() >= SETTLED {
                    pause = PAUSE_MIN;
                }
            }
            Err(trouble) => shard.breaker.stay_open(&trouble),
        }
        shared.map_wanted.notify_one();
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Keeps the map of a cluster. Runs until it is aborted.
pub(super) async fn keep_map(shared: Arc<Shared>) {
    loop {
        let known: Vec<_> = {
            let map = shared.map.load();
            let shards = map.shards().iter();
            shards.filter_map(|shard| shard.at.clone()).collect()
        };
        match shared.topology.layout(&known).await {
            Ok(layout) => {
                if shared.map.load().layout() != Some(&layout) {
                    shared.redraw(layout);
                }
            }
            Err(trouble) => tracing::debug!(error = %trouble, "redis: no map of the cluster"),
        }
        sleep(MAP_PAUSE).await;
        let every = if shared.is_whole() {
            MAP_EVERY
        } else {
            MAP_EVERY_MISSED
        };
        let _ = timeout(every, shared.map_wanted.notified()).await;
    }
}

impl Shared {
    /// Puts a new map in place. Servers that keep their part keep their connections.
    fn redraw(self: &Arc<Self>, layout: super::topology::Layout) {
        let old = self.map.load_full();
        let (old_group, mut fresh) = (old.group().map(Arc::clone), Vec::new());
        let map = Map::of(layout, |at, holds_group| {
            let held = old
                .shards()
                .iter()
                .find(|shard| shard.at.as_ref() == Some(at));
            // The two kinds of servers are kept by different tasks: one that becomes the other begins anew.
            let same = held.filter(|shard| {
                old_group
                    .as_ref()
                    .is_some_and(|group| Arc::ptr_eq(group, shard))
                    == holds_group
            });
            if let Some(same) = same {
                return Arc::clone(same);
            }
            let shard = self.shard(Some(at.clone()));
            if !holds_group {
                fresh.push(Arc::clone(&shard));
            }
            shard
        });
        let group = map.group().map(Arc::clone);
        self.map.store(Arc::new(map));
        for shard in fresh {
            let task = tokio::spawn(tend(Arc::clone(self), Arc::clone(&shard)));
            *shard.tended.lock() = Some(tokio_util::task::AbortOnDropHandle::new(task));
        }
        let gone = Trouble::Lost("it no longer holds a part of the cluster".into());
        let now = self.map.load();
        for shard in old.shards() {
            if !now.shards().iter().any(|kept| Arc::ptr_eq(kept, shard)) {
                // Its task would hold it, and it its task.
                drop(shard.tended.lock().take());
                if let Some(link) = shard.breaker.link() {
                    shard.breaker.trip(link.id, &gone);
                }
            }
        }
        if group.map(|group| Arc::as_ptr(&group)) != old_group.map(|group| Arc::as_ptr(&group)) {
            self.regrouped.notify_one();
        }
        tracing::info!(
            servers = now.shards().len(),
            "redis: the map of the cluster has changed"
        );
    }

    /// Whether every server is spoken to.
    pub(super) fn is_whole(&self) -> bool {
        let map = self.map.load();
        let mut shards = map.shards().iter();
        map.group().is_some() && shards.all(|shard| shard.breaker.link().is_some())
    }

    /// Connects to a server; its connections, and how to make more of them.
    async fn connect(self: &Arc<Self>, shard: &Arc<Shard>) -> Result<(Arc<Link>, Client), Trouble> {
        let client = self.topology.client(shard.at.as_ref()).await?;
        let id = self.links.fetch_add(1, Ordering::Relaxed);
        // Weak: the connection must not keep alive what owns it.
        let weak = Arc::downgrade(shard);
        let lost = move || {
            if let Some(shard) = weak.upgrade() {
                let trouble = Trouble::Lost("the connection was closed".into());
                shard.breaker.trip(id, &trouble);
            }
        };
        let how = (&self.names, self.timeout, self.topology.is_cluster());
        let link = Arc::new(Link::connect(&client, id, self.topology.tls(), how, lost).await?);
        // Whoever named it may be behind the times; what a replica answers is, too.
        if self.topology.moves() && link.server.is_replica {
            let what = "the server that is named as the master is a replica";
            return Err(Trouble::Lost(what.into()));
        }
        // In a slow network, who runs one that is not loaded is too late for it, every time. Nobody waits for this.
        let (shared, loading) = (Arc::clone(self), Arc::clone(&link));
        tokio::spawn(async move { shared.scripts.load(&loading, shared.patience()).await });
        let here = (
            link.server.run.clone(),
            self.topology
                .moves()
                .then(|| client.get_connection_info().addr().clone()),
        );
        let before = shard.last.lock().replace(here.clone());
        // A shard of which nothing is known may have taken over from one that is no longer on the map.
        let other = match before {
            Some(before) => before != here,
            None => self.topology.is_cluster(),
        };
        if other {
            self.retell.store(true, Ordering::Release);
        }
        Ok((link, client))
    }

    /// Connects to the server that holds the group, catches up, and only then lets requests in.
    async fn establish(self: &Arc<Self>, shard: &Arc<Shard>) -> Result<Channel, Trouble> {
        let (link, client) = self.connect(shard).await?;
        // Before the group is read: what is told in between is heard, and known already.
        let mut channel = Channel::open(&client, &self.names, self.patience()).await?;
        {
            let _quiet = self.exchange.write().await;
            self.synchronise(&link, &mut channel).await?;
        }
        shard.breaker.close(link);
        // A purge that saw no link just before this line was kept a moment too late for `synchronise`.
        if !self.pending.is_empty() {
            self.wake.notify_one();
        }
        Ok(channel)
    }

    /// Hears what is told, and asks now and then, and when it is woken, whether that was everything. Returns when the
    /// breaker has opened.
    async fn watch(&self, shard: &Shard, mut channel: Channel) {
        let mut tick = interval(self.ask_every());
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tick.tick().await;
        // While somebody waits for a word, that none comes must not be because Redis is gone: the wait would be added to
        // the request (law 6).
        let mut doubt = interval(DOUBT_EVERY);
        doubt.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let Some(first) = shard.breaker.link() else {
            return;
        };
        // Beside everything else: a Sentinel that does not answer holds up no word.
        let mut moved = pin!(self.until_moved_from(&first.at).fuse());
        loop {
            let Some(link) = shard.breaker.link() else {
                return;
            };
            let step = tokio::select! {
                word = channel.next() => self.hear_all(word, &mut channel),
                _ = tick.tick() => self.check(&link, &mut channel).await,
                () = self.wake.notified() => self.check(&link, &mut channel).await,
                _ = doubt.tick(), if self.waiters.any() => self.still_answers(&link).await,
                () = shard.opened.notified() => Ok(()),
                () = &mut moved => Err(Trouble::Lost("the Sentinels name another master".into())),
            };
            if let Err(trouble) = step {
                shard.breaker.failed(&link, &trouble);
            }
            if channel.take_gap() {
                self.wake.notify_one();
            }
        }
    }

    /// Whether Redis answers within the time that a request waits for it. If not, nobody waits for its word.
    async fn still_answers(&self, link: &Link) -> Result<(), Trouble> {
        let answer = link
            .ask(Road::Control, &redis::cmd("TIME"), self.timeout)
            .await;
        if answer.is_err() {
            self.waiters.wake_all();
        }
        answer.map(|_| ())
    }

    /// How often the question is asked that proves the channel whole.
    fn ask_every(&self) -> Duration {
        let (least, most) = (Duration::from_millis(20), Duration::from_secs(1));
        (self.trust / 4).clamp(least, most)
    }

    fn patience(&self) -> Duration {
        self.timeout.max(PATIENCE_MIN)
    }

    /// Asks whether all was heard, and catches up if not or if there are purges to tell.
    async fn check(&self, link: &Arc<Link>, channel: &mut Channel) -> Result<(), Trouble> {
        self.generations.prune(
            self.clock
                .now_ms()
                .saturating_sub(self.scripts.matters_ms()),
        );
        // The channel has a connection of its own: that it answers says nothing about the one that requests use.
        if link.is_doubtful() {
            self.head(link, Road::Requests).await?;
        }
        if !self.has_to_tell()
            && !self.retell.load(Ordering::Acquire)
            && self.has_heard_all(channel).await?
        {
            return Ok(());
        }
        let _quiet = self.exchange.write().await;
        self.synchronise(link, channel).await
    }

    /// Whether a purge waits that could be told now.
    fn has_to_tell(&self) -> bool {
        if self.pending.is_empty() {
            return false;
        }
        let kept = self.pending.snapshot();
        let mut kept = kept.iter();
        kept.any(|kept| !kept.numbered || self.link_of_scope(&kept.scope).is_some())
    }

    /// Returns when the Sentinels name another master than the one there; never, where there are none.
    async fn until_moved_from(&self, at: &ConnectionAddr) {
        loop {
            sleep(SENTINELS_EVERY).await;
            if self.topology.has_moved_from(at).await {
                return;
            }
        }
    }

    /// Whether nothing was missed up to now. Then this node's record is complete as of the moment it was asked.
    async fn has_heard_all(&self, channel: &mut Channel) -> Result<bool, Trouble> {
        let gap = channel.take_gap();
        let before_ms = self.clock.now_ms();
        let pong = channel.asker(&self.names).ask(self.patience()).await?;
        // What was told before the answer was given has arrived.
        let mut whole = !gap;
        while let Some(word) = channel.try_next() {
            whole &= self.hear(word)?;
        }
        self.note_time(pong.now_ms, before_ms);
        let known = (
            self.generations.epoch(),
            self.heard_seq.load(Ordering::Relaxed),
        );
        let whole = whole && !channel.take_gap() && pong.head == Some(known);
        if whole {
            self.generations.heard(before_ms);
        }
        Ok(whole)
    }

    fn hear_all(&self, first: Word, channel: &mut Channel) -> Result<(), Trouble> {
        let mut whole = self.hear(first)?;
        for _ in 0..WORDS_MAX {
            match channel.try_next() {
                Some(word) => whole &= self.hear(word)?,
                None => break,
            }
        }
        if !whole {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Takes a word in. `false`: something before it was missed.
    fn hear(&self, word: Word) -> Result<bool, Trouble> {
        match word {
            Word::Purge(told) => return Ok(self.hear_purge(&told)),
            Word::Stored { node, key } => {
                if node != self.node {
                    (self.hooks.stored)(&key);
                }
                self.waiters.wake(&key, Ended::Stored);
            }
            Word::Released { key, .. } => self.waiters.wake(&key, Ended::GivenBack),
            Word::Pushed {
                partition,
                sequence,
            } => self.pushed.heard(partition, sequence),
            Word::Other => {}
            Word::Gone => return Err(Trouble::Lost("the push channel was closed".into())),
        }
        Ok(true)
    }

    fn hear_purge(&self, told: &Told) -> bool {
        if told.epoch != self.generations.epoch() {
            return false;
        }
        let now_ms = self.clock.now_ms();
        if told.collapsed {
            self.generations
                .raise_to(&Scope::All, Mode::Delete, told.seq, now_ms);
        }
        self.generations
            .raise_to(&told.scope, told.mode, told.seq, now_ms);
        let heard = self.heard_seq.load(Ordering::Relaxed);
        if told.seq <= heard {
            // Told before the group was read.
            return true;
        }
        if told.before != heard {
            return false;
        }
        self.heard_seq.store(told.seq, Ordering::Relaxed);
        true
    }

    /// Mirrors the group and tells the kept purges, until there is nothing left to tell. The caller holds `exchange`.
    ///
    /// The group is read first: a purge would raise a seq that went back, and hide that it did. It is read again after
    /// the telling, so that loads which began before are not stored (see `put`), and only then are the purges forgotten.
    async fn synchronise(&self, link: &Arc<Link>, channel: &mut Channel) -> Result<(), Trouble> {
        let patience = self.patience();
        let mut told: Vec<Kept> = Vec::new();
        for _ in 0..ROUNDS_MAX {
            let before_ms = self.clock.now_ms();
            let known = Known {
                epoch: self.generations.epoch(),
                least: self
                    .heard_seq
                    .load(Ordering::Relaxed)
                    .max(self.generations.confirmed()),
                own: self.generations.seq(),
            };
            channel.take_gap();
            let group = self.scripts.sync(link, known, patience).await?;
            self.adopt(&group, before_ms);
            self.generations.heard(before_ms);
            if !told.is_empty() {
                self.pending.forget(&told);
                if let Some(journal) = &self.journal {
                    journal.write(&self.pending).await;
                }
            }
            let mut to_tell = self.pending.snapshot();
            if self.retell.swap(false, Ordering::AcqRel) {
                let recent = self.recent.snapshot(before_ms);
                to_tell.extend(recent.into_iter().filter(|kept| !group.holds(kept)));
            }
            // Those whose server is away wait for it, and hold nobody up: they have their numbers.
            to_tell.retain(|kept| !kept.numbered || self.link_of_scope(&kept.scope).is_some());
            told.clear();
            for kept in to_tell {
                let deadline = Instant::now() + patience;
                match self.tell(link, &kept.scope, kept.mode, deadline).await {
                    Ok(reached) => {
                        // The next failover may lose it as it may lose any other.
                        let when = (reached.numbered.seq, self.clock.now_ms());
                        self.recent.remember(&kept.scope, kept.mode, when);
                        told.push(kept);
                    }
                    Err(Untold {
                        numbered: Some(_),
                        trouble: Trouble::Away | Trouble::Moved(_),
                    }) => self.pending.mark_numbered(&kept),
                    Err(untold) => return Err(untold.trouble),
                }
            }
            if told.is_empty() {
                return Ok(());
            }
            // Our own words come back too, and are part of the row.
            self.has_heard_all(channel).await?;
        }
        Err(Trouble::Fault(
            "purges arrive faster than Redis takes them".into(),
        ))
    }

    fn adopt(&self, group: &Group, before_ms: u64) {
        let now_ms = self.clock.now_ms();
        self.note_time(group.now_ms, before_ms);
        let new_epoch = self.generations.epoch() != group.epoch;
        let missed = new_epoch || self.heard_seq.load(Ordering::Relaxed) != group.seq;
        self.generations
            .adopt(group.epoch, group.seq, &group.generations, now_ms);
        self.heard_seq.store(group.seq, Ordering::Relaxed);
        if new_epoch {
            // The record of the old epoch is gone, and with it the purges that Redis does not know yet.
            for kept in self.pending.snapshot() {
                self.generations.raise(&kept.scope, kept.mode, now_ms);
            }
        }
        if missed {
            count(&self.counters.resyncs);
            tracing::debug!(epoch = group.epoch, seq = group.seq, "redis: caught up");
            (self.hooks.resync)();
        }
    }

    /// The group's epoch and seq; none if it is not there, or is something else.
    pub(super) async fn head(
        &self,
        link: &Link,
        road: Road,
    ) -> Result<Option<(u64, u64)>, Trouble> {
        let mut command = Cmd::with_capacity(4, 16 + self.names.group.len());
        command
            .arg("HMGET")
            .arg(&self.names.group)
            .arg("epoch")
            .arg("seq");
        match link.ask(road, &command, self.timeout).await {
            Err(Trouble::Strange(_)) => Ok(None),
            answer => Ok(head_of(&answer?)),
        }
    }

    /// Keeps the offset to Redis's clock, which was asked at `before_ms`: half a round trip ago on average.
    fn note_time(&self, redis_ms: u64, before_ms: u64) {
        let now_ms = self.clock.now_ms();
        let middle_ms = before_ms + now_ms.saturating_sub(before_ms) / 2;
        let offset_ms = (redis_ms as i64).wrapping_sub(middle_ms as i64);
        self.offset_ms.store(offset_ms, Ordering::Relaxed);
    }
}
