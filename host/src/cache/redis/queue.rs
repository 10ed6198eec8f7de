//! The durable queue in Redis: what is sent for each question of [`Queue`], and what the answers come to. Knows nothing of what
//! a change is.
//!
//! # Layout
//!
//! A partition is a few keys of one slot, `PREFIX:q:{w:NN}:…`; `queue/queue.lua` says what they are. Whatever changes them is
//! one script, alone while it runs: [`steps`]. So every word of [`Queue`] that says "in one step" is.
//!
//! # Its order
//!
//! A partition has a stream, whose entries are what is pending, and whose numbers `MILLISECONDS-COUNT` are the sequence. Redis
//! keeps them growing when its clock goes back, when the stream is empty too; a push hands it the last one that this node has
//! seen besides, for a replica that was promoted may lack it.
//!
//! # Once for each id
//!
//! What is known of an id is asked, and the change added, in one script. Whoever has no answer sends the same again: it is
//! accepted then, or found, whether the first came before it, comes after it or never.
//!
//! # Two consumers
//!
//! Consuming is a [`Duty`]: one that was cut off may believe in its own for no longer than its lease stands, and one that was
//! frozen finds out afterwards. What it settles then is settled once: a script that finds the entry gone leaves everything as
//! it is. Which of them was first counts.
//!
//! # What settled entries cost
//!
//! `XDEL` marks an entry, and Redis frees a node of the stream (up to 4 KiB, or one record that is longer) with the last entry
//! that lives in it. So each pending change holds up one node at most, and trimming would free nothing that is not freed.
//!
//! # Pieces that were evicted
//!
//! The stream is the truth about what is pending. An id whose entry is gone is not known; a dead letter without its record is
//! taken off the list; sums begin anew where there is nothing to sum up. What was lost is lost, and stops nothing.

mod answers;
mod steps;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, try_join_all};
use redis::{Script, Value};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use xxhash_rust::xxh3::xxh3_64;

use self::answers::{
    bytes, depth_of, known_of, letter_of, list, owned, pushed_of, queued_of, text, three,
};
pub(super) use self::steps::Steps;
use self::steps::To;
use super::counters::count;
use super::link::{Link, Road};
use super::names::{PARTITIONS, PIECES, number_text, sequence_of};
use super::trouble::Trouble;
use super::{RedisTier, Shared};
use crate::cache::queue::{
    Bounds, DeadLetter, Depth, Item, Known, Pushed, Queue, Queued, Revived, Settlement, State,
    TOLD_MAX, TOLD_MS, Unavailable, WriteId,
};
use crate::cache::tier::Duty;
use crate::key::Resource;

/// A change waits for Redis at least this long: it may have to reach a disk there, and is no read that could do without.
const PATIENCE_MIN: Duration = Duration::from_secs(2);
/// How long an idle consumer goes without looking, should the word of a push be lost.
const FALLBACK: Duration = Duration::from_secs(1);
/// Entries that are asked for at once.
const PAGE: usize = 64;
/// No further page is asked for after so many bytes of records.
const SCAN_BYTES_MAX: usize = 4 << 20;
/// Changes that are settled in one script: Redis does nothing else meanwhile.
const SETTLED_AT_ONCE: usize = 64;

/// What was heard on the channel: the last place at which a change was accepted, by partition.
pub(super) struct Heard(Vec<watch::Sender<u64>>);

impl Default for Heard {
    fn default() -> Self {
        Self((0..PARTITIONS).map(|_| watch::Sender::new(0)).collect())
    }
}

impl Heard {
    pub(super) fn heard(&self, partition: u8, sequence: u64) {
        if let Some(last) = self.0.get(usize::from(partition)) {
            last.send_replace(sequence);
        }
    }

    /// What will be heard from here on; none of a partition that is none.
    pub(super) fn of(&self, partition: u8) -> Option<watch::Receiver<u64>> {
        let last = self.0.get(usize::from(partition))?;
        Some(last.subscribe())
    }
}

/// The queue.
pub(super) struct RedisQueue {
    tier: Arc<RedisTier>,
    partitions: Vec<Partition>,
    /// Of one partition.
    bounds: Bounds,
}

struct Partition {
    pieces: [String; PIECES.len()],
    /// The highest sequence that this node has seen.
    seen: AtomicU64,
}

impl Partition {
    fn stream(&self) -> &str {
        &self.pieces[0]
    }

    fn counts(&self) -> &str {
        &self.pieces[PIECES.len() - 1]
    }

    fn saw(&self, sequence: u64) -> u64 {
        self.seen.fetch_max(sequence, Ordering::Relaxed);
        sequence
    }

    fn floor(&self) -> String {
        number_text(self.seen.load(Ordering::Relaxed))
    }
}

impl RedisQueue {
    pub(super) fn new(tier: Arc<RedisTier>, bounds: Bounds) -> Self {
        let names = &tier.shared.names;
        let partitions = (0..PARTITIONS).map(|partition| Partition {
            pieces: names.pieces(partition),
            seen: AtomicU64::new(0),
        });
        let share = |of: u64| of.div_ceil(PARTITIONS.into());
        Self {
            partitions: partitions.collect(),
            bounds: Bounds {
                items_max: share(bounds.items_max),
                bytes_max: share(bounds.bytes_max),
            },
            tier,
        }
    }

    fn shared(&self) -> &Shared {
        &self.tier.shared
    }

    fn steps(&self) -> &Steps {
        &self.shared().scripts.queue
    }

    fn partition(&self, partition: u8) -> Result<&Partition, Unavailable> {
        self.partitions
            .get(usize::from(partition))
            .ok_or_else(|| Unavailable(format!("it has no partition {partition}")))
    }

    /// The connections to the server that holds a partition.
    fn link(&self, partition: u8) -> Result<Arc<Link>, Unavailable> {
        let map = self.shared().map.load();
        let shard = map.of_partition(partition);
        if let Some(link) = shard.and_then(|shard| shard.breaker.link()) {
            return Ok(link);
        }
        let error = shard.and_then(|shard| shard.breaker.error());
        Err(Unavailable(error.unwrap_or_else(|| {
            "no server of the cluster is known to hold it".into()
        })))
    }

    fn failed(&self, link: &Link, trouble: &Trouble) -> Unavailable {
        self.shared().failed(link, trouble);
        Unavailable(trouble.to_string())
    }

    fn limit(&self) -> Duration {
        self.shared().timeout.max(PATIENCE_MIN)
    }

    /// Where a step of a partition is sent: beside what requests ask if one of them waits for it, and out of their way if its
    /// answer may be long.
    fn to<'a>(&self, link: &'a Link, partition: &'a Partition, waited_for: bool) -> To<'a> {
        To {
            link,
            road: if waited_for {
                Road::Requests
            } else {
                Road::Control
            },
            pieces: &partition.pieces,
            limit: self.limit(),
        }
    }

    /// Runs a step.
    async fn step(
        &self,
        at: u8,
        (script, waited_for): (&Script, bool),
        arguments: &[&[u8]],
    ) -> Result<(Arc<Link>, Value), Unavailable> {
        let (partition, link) = (self.partition(at)?, self.link(at)?);
        let to = self.to(&link, partition, waited_for);
        match to.run(script, arguments).await {
            Ok(answer) => Ok((link, answer)),
            Err(trouble) => Err(self.failed(&link, &trouble)),
        }
    }

    async fn accept(&self, item: Item) -> Pushed {
        let unavailable = |Unavailable(why), uncertain| Pushed::Unavailable { why, uncertain };
        let at = item.id.partition();
        if at != self.partition_of(&item.resource) {
            let why = "the id names another partition than that of its resource";
            return unavailable(Unavailable(why.into()), false);
        }
        let (partition, link) = match self.partition(at).and_then(|p| Ok((p, self.link(at)?))) {
            Ok(found) => found,
            Err(away) => return unavailable(away, false),
        };
        let (print, told_ms) = (print_text(&item.print), TOLD_MS.to_string());
        let (items_max, bytes_max) = (
            self.bounds.items_max.to_string(),
            self.bounds.bytes_max.to_string(),
        );
        let (floor, word) = (partition.floor(), word(at));
        let arguments = [
            item.id.as_str().as_bytes(),
            item.resource.text().as_bytes(),
            print.as_bytes(),
            &item.record,
            items_max.as_bytes(),
            bytes_max.as_bytes(),
            told_ms.as_bytes(),
            floor.as_bytes(),
            self.shared().names.channel.as_bytes(),
            word.as_bytes(),
        ];
        let to = self.to(&link, partition, true);
        let pushed = match to.run(&self.steps().push, &arguments).await {
            Ok(answer) => pushed_of(&answer).unwrap_or_else(|| Pushed::Unavailable {
                why: strange(partition),
                uncertain: true,
            }),
            Err(trouble) => {
                let uncertain = may_be_done(&trouble);
                return unavailable(self.failed(&link, &trouble), uncertain);
            }
        };
        match pushed {
            Pushed::Accepted { sequence } => {
                self.shared().wrote(&link);
                partition.saw(sequence);
                self.copied(&link, partition).await;
            }
            // Whoever accepted it may have had no time to wait for a replica.
            Pushed::Known(Known {
                state: State::Pending,
                ..
            }) => self.copied(&link, partition).await,
            _ => {}
        }
        pushed
    }

    /// Waits for a replica, where there is one, as purges do: it is lost with the master no more. One that hangs delays this by
    /// about `timeout` and refuses nothing; that is for `min-replicas-to-write`, which Redis keeps.
    async fn copied(&self, link: &Link, partition: &Partition) {
        let timeout = self.shared().timeout;
        let mut mark = redis::cmd("HSET");
        mark.arg(partition.counts()).arg("waited").arg(1);
        let limits = (Instant::now() + timeout, timeout);
        link.copies.of_written(link, &mark, limits).await;
    }

    /// Entries of a stream, from the one after a sequence on: their numbers and their fields.
    async fn entries(
        &self,
        link: &Link,
        partition: &Partition,
        (after, count): (u64, usize),
    ) -> Result<Vec<Value>, Trouble> {
        let mut command = redis::cmd("XRANGE");
        command.arg(partition.stream());
        command.arg(number_text(after.saturating_add(1))).arg("+");
        command.arg("COUNT").arg(count);
        match link.ask(Road::Control, &command, self.limit()).await {
            Ok(Value::Array(entries)) => Ok(entries),
            // Of another type: replaced when something is pushed.
            Ok(_) | Err(Trouble::Strange(_)) => Ok(Vec::new()),
            Err(trouble) => Err(trouble),
        }
    }

    async fn pending_after(
        &self,
        at: u8,
        after: u64,
        max: usize,
    ) -> Result<Vec<Queued>, Unavailable> {
        let (partition, link) = (self.partition(at)?, self.link(at)?);
        let (mut found, mut from, mut bytes) = (Vec::new(), after, 0);
        while found.len() < max && bytes < SCAN_BYTES_MAX {
            let count = PAGE.min(max - found.len());
            let page = self.entries(&link, partition, (from, count)).await;
            let page = page.map_err(|trouble| self.failed(&link, &trouble))?;
            let (is_last, mut foreign) = (page.len() < count, Vec::new());
            for entry in page {
                match queued_of(entry) {
                    Ok(queued) => {
                        from = partition.saw(queued.sequence);
                        bytes += queued.record.len();
                        found.push(queued);
                    }
                    Err(number) => foreign.extend(number),
                }
            }
            // So that the next page begins with something else.
            self.drop_foreign(&link, partition, &foreign).await?;
            if is_last {
                break;
            }
        }
        Ok(found)
    }

    /// Takes what no Larder wrote out of a stream (law 11): it would be in the way of what is behind it.
    async fn drop_foreign(
        &self,
        link: &Link,
        partition: &Partition,
        numbers: &[Vec<u8>],
    ) -> Result<(), Unavailable> {
        if numbers.is_empty() {
            return Ok(());
        }
        let stream = partition.stream();
        tracing::warn!(
            stream,
            entries = numbers.len(),
            "redis: the queue held entries that are no changes; they were removed"
        );
        let mut command = redis::cmd("XDEL");
        command.arg(stream).arg(numbers);
        let removed = link.ask(Road::Control, &command, self.limit()).await;
        removed.map_err(|trouble| self.failed(link, &trouble))?;
        numbers
            .iter()
            .for_each(|_| count(&self.shared().counters.foreign));
        Ok(())
    }

    /// Nothing waits here for longer than [`FALLBACK`] and one answer of Redis: a push came before the look, which then finds
    /// it, for it stays where it is until this consumer settles it; or after it, and its word, told in the same script, comes
    /// after the subscription, which came before the look. If that word is lost, or told by a server that is being replaced,
    /// the next look finds it. While Redis is away there is nothing to be had.
    async fn news_after(&self, at: u8, after: u64) {
        let Some(mut heard) = self.shared().pushed.of(at) else {
            return std::future::pending().await;
        };
        while !self.has_after(at, after).await {
            let word = timeout(FALLBACK, heard.changed()).await;
            // The word of what was found long since is none.
            if word.is_ok() && *heard.borrow_and_update() > after {
                return;
            }
        }
    }

    async fn has_after(&self, at: u8, after: u64) -> bool {
        let (Ok(partition), Ok(link)) = (self.partition(at), self.link(at)) else {
            return false;
        };
        match self.entries(&link, partition, (after, 1)).await {
            Ok(entries) => !entries.is_empty(),
            Err(trouble) => {
                self.failed(&link, &trouble);
                false
            }
        }
    }

    async fn record_of(&self, at: u8, sequence: u64) -> Result<Option<Bytes>, Unavailable> {
        let (partition, link) = (self.partition(at)?, self.link(at)?);
        let Some(before) = sequence.checked_sub(1) else {
            return Ok(None);
        };
        let entries = self.entries(&link, partition, (before, 1)).await;
        let entries = entries.map_err(|trouble| self.failed(&link, &trouble))?;
        let found = entries.into_iter().find_map(|entry| queued_of(entry).ok());
        let it = found.filter(|queued| queued.sequence == sequence);
        Ok(it.map(|queued| queued.record))
    }

    async fn end(&self, at: u8, mut settlements: Vec<Settlement>) -> Result<(), Unavailable> {
        // Those that are given up first: what is made in the same batch supersedes them.
        settlements.sort_by_key(|settlement| settlement.end.is_ok());
        let (told_ms, told) = (TOLD_MS.to_string(), TOLD_MAX / u64::from(PARTITIONS));
        let told = told.to_string();
        for some in settlements.chunks(SETTLED_AT_ONCE) {
            let numbers: Vec<String> = some.iter().map(|it| number_text(it.sequence)).collect();
            let mut arguments: Vec<&[u8]> = vec![told_ms.as_bytes(), told.as_bytes()];
            for (settlement, number) in some.iter().zip(&numbers) {
                let (end, reason) = match &settlement.end {
                    Ok(()) => ("a", ""),
                    Err(reason) => ("d", reason.as_str()),
                };
                arguments.extend([number.as_bytes(), end.as_bytes(), reason.as_bytes()]);
            }
            let step = (&self.steps().settle, false);
            let (link, _) = self.step(at, step, &arguments).await?;
            self.shared().wrote(&link);
        }
        Ok(())
    }

    async fn known(&self, id: &WriteId) -> Result<Option<Known>, Unavailable> {
        if id.partition() >= PARTITIONS {
            return Ok(None);
        }
        let (step, told_ms) = ((&self.steps().find, true), TOLD_MS.to_string());
        let arguments = [id.as_str().as_bytes(), told_ms.as_bytes()];
        let (_, answer) = self.step(id.partition(), step, &arguments).await?;
        Ok(list(&answer).and_then(known_of))
    }

    async fn last_of(&self, resource: &Resource) -> Result<Option<Queued>, Unavailable> {
        let at = self.partition_of(resource);
        let arguments = [resource.text().as_bytes()];
        let step = (&self.steps().newest, true);
        let (_, answer) = self.step(at, step, &arguments).await?;
        let Some([number, id, record]) = three(answer) else {
            return Ok(None);
        };
        let found = || {
            Some(Queued {
                sequence: sequence_of(bytes(&number)?)?,
                id: text(&id)?.parse().ok()?,
                resource: resource.clone(),
                record: owned(record)?,
            })
        };
        Ok(found())
    }

    async fn letters(
        &self,
        after: Option<&WriteId>,
        max: usize,
    ) -> Result<Vec<DeadLetter>, Unavailable> {
        let mut found = Vec::new();
        let first = after.map_or(0, WriteId::partition);
        let mut after = after.map(|id| id.as_str().to_owned()).unwrap_or_default();
        for at in first..PARTITIONS {
            while found.len() < max {
                let count = PAGE.min(max - found.len()).to_string();
                let arguments = [after.as_bytes(), count.as_bytes()];
                let step = (&self.steps().dead, false);
                let (_, answer) = self.step(at, step, &arguments).await?;
                let Value::Array(page) = answer else {
                    break;
                };
                let mut page = page.into_iter();
                let next = page.next().as_ref().and_then(text).map(str::to_owned);
                found.extend(page.filter_map(letter_of));
                after = next.unwrap_or_default();
                if after.is_empty() {
                    break;
                }
            }
            after.clear();
        }
        Ok(found)
    }

    async fn make_pending(
        &self,
        id: &WriteId,
        (force, but): (bool, u64),
    ) -> Result<Revived, Unavailable> {
        let at = id.partition();
        let Ok(partition) = self.partition(at) else {
            return Ok(Revived::Unknown);
        };
        let (floor, word) = (partition.floor(), word(at));
        let but = number_text(but);
        let arguments = [
            id.as_str().as_bytes(),
            if force { b"1" } else { b"0" },
            floor.as_bytes(),
            self.shared().names.channel.as_bytes(),
            word.as_bytes(),
            but.as_bytes(),
        ];
        let step = (&self.steps().revive, false);
        let (link, answer) = self.step(at, step, &arguments).await?;
        let answer = list(&answer).unwrap_or_default();
        match answer.first().and_then(text) {
            Some("done") => {
                self.shared().wrote(&link);
                let sequence = answer.get(1).and_then(bytes).and_then(sequence_of);
                let sequence = partition.saw(sequence.unwrap_or_default());
                self.copied(&link, partition).await;
                Ok(Revived::Done { sequence })
            }
            Some("superseded") => Ok(Revived::Superseded),
            Some("unknown") => Ok(Revived::Unknown),
            _ => Err(Unavailable(strange(partition))),
        }
    }

    async fn forget(&self, id: &WriteId) -> Result<bool, Unavailable> {
        if id.partition() >= PARTITIONS {
            return Ok(false);
        }
        let (step, arguments) = ((&self.steps().discard, false), [id.as_str().as_bytes()]);
        let (_, answer) = self.step(id.partition(), step, &arguments).await?;
        Ok(answer == Value::Int(1))
    }

    /// Asked of all partitions at once: on one connection that is one write and one read.
    async fn sum(&self) -> Result<Depth, Unavailable> {
        let step = (&self.steps().depth, false);
        let asked = (0..PARTITIONS).map(|at| async move {
            let (_, answer) = self.step(at, step, &[]).await?;
            let depth = list(&answer).and_then(depth_of);
            depth.ok_or_else(|| Unavailable(strange(&self.partitions[usize::from(at)])))
        });
        let depths = try_join_all(asked).await?;
        let sum = |of: fn(&Depth) -> u64| depths.iter().map(of).sum();
        Ok(Depth {
            pending: sum(|depth| depth.pending),
            dead: sum(|depth| depth.dead),
            bytes: sum(|depth| depth.bytes),
            oldest: depths.iter().filter_map(|depth| depth.oldest).min(),
        })
    }
}

impl Queue for RedisQueue {
    fn kind(&self) -> &'static str {
        "redis"
    }

    fn partitions(&self) -> u16 {
        PARTITIONS.into()
    }

    fn partition_of(&self, resource: &Resource) -> u8 {
        // The same on every node and in every version: what is queued stays where it is.
        (xxh3_64(resource.text().as_bytes()) % u64::from(PARTITIONS)) as u8
    }

    /// [`Pushed::Full`] tells the depth of the partition: that is what is full.
    fn push(&self, item: Item) -> BoxFuture<'_, Pushed> {
        Box::pin(self.accept(item))
    }

    fn find<'a>(&'a self, id: &'a WriteId) -> BoxFuture<'a, Result<Option<Known>, Unavailable>> {
        Box::pin(self.known(id))
    }

    fn newest<'a>(
        &'a self,
        resource: &'a Resource,
    ) -> BoxFuture<'a, Result<Option<Queued>, Unavailable>> {
        Box::pin(self.last_of(resource))
    }

    fn own(&self, partition: u8) -> BoxFuture<'_, Duty> {
        Box::pin(async move {
            let duty = format!("writes:{partition:02x}");
            self.tier.shared.take_duty(&duty).await
        })
    }

    /// Fewer than `max` where they are long: [`Queue::news`] after the last ends at once if there are more.
    fn scan(
        &self,
        partition: u8,
        after: u64,
        max: usize,
    ) -> BoxFuture<'_, Result<Vec<Queued>, Unavailable>> {
        Box::pin(self.pending_after(partition, after, max))
    }

    fn news(&self, partition: u8, after: u64) -> BoxFuture<'_, ()> {
        Box::pin(self.news_after(partition, after))
    }

    fn fetch(
        &self,
        partition: u8,
        sequence: u64,
    ) -> BoxFuture<'_, Result<Option<Bytes>, Unavailable>> {
        Box::pin(self.record_of(partition, sequence))
    }

    fn settle(
        &self,
        partition: u8,
        settlements: Vec<Settlement>,
    ) -> BoxFuture<'_, Result<(), Unavailable>> {
        Box::pin(self.end(partition, settlements))
    }

    fn dead<'a>(
        &'a self,
        after: Option<&'a WriteId>,
        max: usize,
    ) -> BoxFuture<'a, Result<Vec<DeadLetter>, Unavailable>> {
        Box::pin(self.letters(after, max))
    }

    fn revive<'a>(
        &'a self,
        id: &'a WriteId,
        unless: (bool, u64),
    ) -> BoxFuture<'a, Result<Revived, Unavailable>> {
        Box::pin(self.make_pending(id, unless))
    }

    fn discard<'a>(&'a self, id: &'a WriteId) -> BoxFuture<'a, Result<bool, Unavailable>> {
        Box::pin(self.forget(id))
    }

    fn depth(&self) -> BoxFuture<'_, Result<Depth, Unavailable>> {
        Box::pin(self.sum())
    }
}

/// Whether a script that ended in this may have been run all the same.
fn may_be_done(trouble: &Trouble) -> bool {
    match trouble {
        // Redis says so before it runs one, or at its first write.
        Trouble::RefusesWrites(_)
        | Trouble::ReadOnly(_)
        | Trouble::Moved(_)
        | Trouble::Away
        | Trouble::NoScript
        | Trouble::Crowded => false,
        Trouble::Lost(_)
        | Trouble::Slow(_)
        | Trouble::Fault(_)
        | Trouble::Strange(_)
        | Trouble::Reported(_) => true,
    }
}

/// What the channel tells of a push, before its place; see `channel`.
fn word(partition: u8) -> String {
    format!("w:{partition:02x}:")
}

fn print_text(print: &[u8; 32]) -> String {
    print.iter().fold(String::with_capacity(64), |text, byte| {
        text + &format!("{byte:02x}")
    })
}

fn strange(partition: &Partition) -> String {
    let stream = partition.stream();
    format!(
        "`{stream}` has numbers that are of no clock, or its script answered what Larder does not know; \
         if something else writes to it, let it use another prefix"
    )
}
