//! Makes the changes that are pending: reads the queue, asks the writers, writes down what became of it.
//!
//! # A change, step by step
//!
//! 1. Its partition's reader finds it and puts it into [`Lanes`].
//! 2. It goes out in a batch, in a task of its own, which asks the writer.
//! 3. If it was made or is given up: what the cache has of its resource is purged; *then* it is written down that it is no
//!    longer pending; *then* its lane is opened.
//!
//! Reads of the resource that begin before step 3 ends find it pending and load nothing that is kept (see `reads`); those
//! that begin after it load what the source has now, and are later than the purge. A node that dies on the way leaves it
//! pending: whoever has the partition next makes it again, with the same idempotency key and sequence.
//!
//! # A node that was frozen
//!
//! The duty of a partition is a lease. A node that wakes after it has ended gives nothing more out, but a call that it was
//! frozen in goes on, while another node makes the same change and the next. Only the source can refuse the late one: by the
//! sequence.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::lanes::{Batch, Batching, Lanes, Member, Way};
use super::record::Record;
use crate::cache::Cache;
use crate::cache::generations::{Mode, Scope};
use crate::cache::queue::{Queue, Settlement};
use crate::cache::tier::{Duty, Tenure};
use crate::error::{Failure, FailureKind};
use crate::write::{Mutation, Precondition, Receipt, Writer};

/// Changes that are read from a queue at once.
const SCAN_MAX: usize = 1000;
/// Between attempts to reach a queue that is not to be had.
const AGAIN: Duration = Duration::from_millis(250);

/// Where the changes of a route go, as things are now.
pub struct Destination {
    /// The name of the writer.
    pub name: Arc<str>,
    /// The writer, or why there is none just now.
    pub writer: Result<Arc<dyn Writer>, Failure>,
    /// How long a change may take.
    pub timeout: Duration,
    /// Whether the latest of a resource may stand for those before it.
    pub coalesce: bool,
}

/// Who knows where changes go.
pub trait Destinations: Send + Sync {
    /// Where those of a route go, by its pattern.
    fn of(&self, route: &str) -> Destination;
}

/// What was done since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Changes that were accepted.
    pub accepted: AtomicU64,
    /// Changes that were made, alone or as part of a later one.
    pub applied: AtomicU64,
    /// Of these, as part of a later one.
    pub coalesced: AtomicU64,
    /// Changes that were tried in vain and are tried again.
    pub retried: AtomicU64,
    /// Changes that were given up.
    pub died: AtomicU64,
    /// Calls of writers.
    pub batches: AtomicU64,
    /// Changes that were refused because there was no room.
    pub full: AtomicU64,
}

/// What makes changes.
pub struct Delivery {
    queue: Arc<dyn Queue>,
    cache: Arc<Cache>,
    destinations: Arc<dyn Destinations>,
    lanes: Mutex<Lanes>,
    /// There may be something to do.
    wake: Notify,
    counters: Arc<Counters>,
    /// The calls.
    tasks: TaskTracker,
    /// Nothing more is given out.
    stop: CancellationToken,
}

impl Delivery {
    /// Begins to make what is pending, in tasks of its own, until it is stopped.
    pub fn start(
        queue: Arc<dyn Queue>,
        cache: Arc<Cache>,
        destinations: Arc<dyn Destinations>,
        batching: Batching,
        counters: Arc<Counters>,
    ) -> Arc<Self> {
        let delivery = Arc::new(Self {
            queue,
            cache,
            destinations,
            lanes: Mutex::new(Lanes::new(batching)),
            wake: Notify::new(),
            counters,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        });
        for partition in 0..delivery.queue.partitions() {
            let partition = u8::try_from(partition).unwrap_or(u8::MAX);
            let reader = Arc::clone(&delivery);
            delivery
                .tasks
                .spawn(async move { reader.read(partition).await });
        }
        let giver = Arc::clone(&delivery);
        delivery.tasks.spawn(async move { giver.give_out().await });
        delivery
    }

    /// Lets what is pending be made for so long at most, or until nothing can be made now; then lets the calls in flight end.
    /// What is not made stays in the queue.
    pub async fn stop(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if self.lanes.lock().is_idle() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// The partitions whose changes this node makes.
    pub fn partitions(&self) -> Vec<u8> {
        self.lanes.lock().owned()
    }

    /// Consumes a partition whenever it is this node's.
    async fn read(&self, partition: u8) {
        let stopped = self.stop.cancelled();
        tokio::pin!(stopped);
        loop {
            let owned = tokio::select! {
                () = &mut stopped => return,
                owned = self.queue.own(partition) => owned,
            };
            match owned {
                Duty::Ours(tenure) => {
                    self.lanes.lock().own(partition);
                    tokio::select! {
                        () = &mut stopped => {
                            // What is out is written down before another node may take it.
                            self.calls_ended().await;
                            tenure.end().await;
                            return;
                        }
                        () = tenure.lost() => {}
                        () = self.feed(partition, &*tenure) => {}
                    }
                    self.lanes.lock().disown(partition);
                }
                Duty::Others(ended) => tokio::select! {
                    () = &mut stopped => return,
                    () = ended => {}
                },
                Duty::Unavailable => tokio::select! {
                    () = &mut stopped => return,
                    () = tokio::time::sleep(AGAIN) => {}
                },
            }
        }
    }

    async fn feed(&self, partition: u8, tenure: &dyn Tenure) {
        let mut after = 0;
        while tenure.stands() {
            match self.queue.scan(partition, after, SCAN_MAX).await {
                Ok(found) if found.is_empty() => self.queue.news(partition, after).await,
                Ok(found) => {
                    after = found.last().map_or(after, |last| last.sequence);
                    {
                        let mut lanes = self.lanes.lock();
                        for queued in found {
                            lanes.add(partition, queued);
                        }
                    }
                    self.wake.notify_one();
                }
                Err(_) => {
                    tokio::time::sleep(AGAIN).await;
                    // Another server may answer by now, which gave numbers of its own: what is here already is left alone.
                    after = 0;
                }
            }
        }
    }

    async fn calls_ended(&self) {
        while self.lanes.lock().are_out() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Gives out batches as long as there are any, and waits until there may be more.
    async fn give_out(self: Arc<Self>) {
        loop {
            let now = Instant::now();
            let (batch, wake_at) = {
                let mut lanes = self.lanes.lock();
                let batch = lanes.next_batch(now, &|route| {
                    let destination = self.destinations.of(route);
                    Way {
                        writer: destination.name,
                        coalesce: destination.coalesce,
                    }
                });
                (batch, lanes.wake_at(now))
            };
            if self.stop.is_cancelled() && batch.is_none() {
                return;
            }
            match batch {
                Some(batch) => {
                    let delivery = Arc::clone(&self);
                    self.tasks
                        .spawn(async move { delivery.deliver(batch).await });
                }
                None => tokio::select! {
                    () = self.stop.cancelled() => return,
                    () = self.wake.notified() => {}
                    () = sleep_until(wake_at) => {}
                },
            }
        }
    }

    async fn deliver(&self, batch: Batch) {
        let (results, tags) = self.write(&batch).await;
        let ended = {
            let now = (Instant::now(), now_ms());
            self.lanes.lock().ended(&batch, &results, now)
        };
        let count = |counter: &AtomicU64, n: u64| {
            counter.fetch_add(n, Ordering::Relaxed);
        };
        count(&self.counters.batches, 1);
        count(&self.counters.retried, ended.again);
        self.wake.notify_one();
        if ended.settlements.is_empty() {
            return;
        }
        self.purge(&ended.settlements, tags).await;
        if self.settle(&ended.settlements).await {
            for (_, settlement) in &ended.settlements {
                tell(settlement);
                match &settlement.end {
                    Ok(()) => count(&self.counters.applied, 1),
                    Err(_) => count(&self.counters.died, 1),
                }
            }
            count(&self.counters.coalesced, ended.coalesced);
            self.lanes.lock().released(&ended.settlements);
        } else {
            self.lanes.lock().abandoned(&ended.settlements);
        }
        self.wake.notify_one();
    }

    /// Asks the writer: a result for each of the batch, and what else is to be purged.
    async fn write(&self, batch: &Batch) -> (Vec<Result<(), Failure>>, Vec<String>) {
        let mut results: Vec<Option<Result<(), Failure>>> = vec![None; batch.members.len()];
        let (mut places, mut mutations) = (Vec::new(), Vec::new());
        let mut writer = None;
        for (place, member) in batch.members.iter().enumerate() {
            match self.mutation(member).await {
                Ok((mutation, found)) => {
                    places.push(place);
                    mutations.push(mutation);
                    writer = Some(found);
                }
                Err(failure) => results[place] = Some(Err(failure)),
            }
        }
        let mut tags = Vec::new();
        if let Some(writer) = writer {
            for (place, result) in places.into_iter().zip(call(&writer, mutations).await) {
                results[place] = Some(result.map(|receipt| tags.extend(receipt.tags)));
            }
        }
        let results = results
            .into_iter()
            .map(|result| result.unwrap_or_else(|| Err(no_result(&batch.writer))));
        (results.collect(), tags)
    }

    async fn mutation(&self, member: &Member) -> Result<(Mutation, Arc<dyn Writer>), Failure> {
        let record = match &member.record {
            Some(record) => record.clone(),
            None => {
                let fetched = self.queue.fetch(member.partition, member.sequence).await;
                let fetched = fetched.map_err(|error| {
                    Failure::host(
                        FailureKind::Unavailable,
                        "queue-unavailable",
                        error.to_string(),
                    )
                })?;
                // None: it is settled already, and what is said of it here changes nothing.
                fetched.ok_or_else(unreadable)?
            }
        };
        let record = Record::decode(&record).map_err(|_| unreadable())?;
        let destination = self.destinations.of(&record.route);
        let mutation = Mutation {
            route: record.route.into(),
            parts: record.parts.into(),
            timeout: destination.timeout,
            operation: record.operation,
            expect: Precondition::None,
            idempotency_key: record.idempotency_key,
            sequence: member.sequence,
        };
        Ok((mutation, destination.writer?))
    }

    async fn purge(&self, settlements: &[(u8, Settlement)], mut tags: Vec<String>) {
        let mut scopes: Vec<Scope> = Vec::new();
        for (_, settlement) in settlements {
            // Those that were made as one stand together.
            let scope = Scope::Resource(settlement.resource.clone());
            if scopes.last() != Some(&scope) {
                scopes.push(scope);
            }
        }
        tags.sort();
        tags.dedup();
        scopes.extend(tags.into_iter().map(|tag| Scope::Tag(tag.as_str().into())));
        let purges = scopes
            .iter()
            .map(|scope| self.cache.purge(scope, Mode::Delete));
        join_all(purges).await;
    }

    /// Writes down what became of changes, however long that takes; whether it was, or the partition went to another node.
    async fn settle(&self, settlements: &[(u8, Settlement)]) -> bool {
        let mut by_partition: Vec<(u8, Vec<Settlement>)> = Vec::new();
        for (partition, settlement) in settlements {
            match by_partition.iter_mut().find(|(of, _)| of == partition) {
                Some((_, all)) => all.push(settlement.clone()),
                None => by_partition.push((*partition, vec![settlement.clone()])),
            }
        }
        for (partition, settlements) in by_partition {
            while let Err(error) = self.queue.settle(partition, settlements.clone()).await {
                if !self.lanes.lock().owns(partition) || self.stop.is_cancelled() {
                    return false;
                }
                tracing::warn!(%error, "writes: what was made cannot be written down yet");
                tokio::time::sleep(AGAIN).await;
            }
        }
        true
    }
}

async fn sleep_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Tells a writer of changes: as many results.
async fn call(writer: &Arc<dyn Writer>, mutations: Vec<Mutation>) -> Vec<Result<Receipt, Failure>> {
    // The writer ends itself in time and knows best what to say of it; this is for one that does not.
    const GRACE: Duration = Duration::from_millis(100);
    let count = mutations.len();
    let longest = mutations.iter().map(|mutation| mutation.timeout).max();
    let longest = longest.unwrap_or_default();
    let call = tokio::spawn(writer.write(mutations));
    let failure = match tokio::time::timeout(longest + GRACE, call).await {
        Ok(Ok(results)) if results.len() == count => return results,
        Ok(Ok(_)) => no_result(writer.name()),
        Ok(Err(_)) => {
            let message = format!("writer `{}` panicked", writer.name());
            Failure::host(FailureKind::Internal, "write-aborted", message)
        }
        Err(_) => {
            let name = writer.name();
            let message = format!("writer `{name}` did not answer within {longest:?}");
            Failure::host(FailureKind::Timeout, "timeout", message)
        }
    };
    vec![Err(failure); count]
}

fn no_result(writer: &str) -> Failure {
    let message = format!("writer `{writer}` gave no result");
    Failure::host(FailureKind::Internal, "no-result", message)
}

/// Nothing that can be read is known of it: it is never made, and kept.
fn unreadable() -> Failure {
    Failure::host(
        FailureKind::InvalidRequest,
        "record-unreadable",
        "what the queue holds of this change is not what was written: nothing was done with it",
    )
}

fn tell(settlement: &Settlement) {
    if let Err(reason) = &settlement.end {
        tracing::warn!(
            id = %settlement.id,
            resource = settlement.resource.text(),
            reason,
            "writes: a change is given up and kept; GET /queue/dead on the admin listener lists it"
        );
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}
