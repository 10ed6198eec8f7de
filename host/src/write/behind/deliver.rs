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
//! The duty of a partition is a lease. A node that is frozen, or cut off, for longer than it stands gives nothing more out: whether
//! it stands is looked at with each batch. But a call that it is in goes on, while another node makes the same change and the
//! next; so does an attempt that took too long, in its source. Only the source can refuse the late one: by the sequence.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use xxhash_rust::xxh3::Xxh3;

use super::lanes::{Batch, Batching, Lanes, Member, Way};
use super::record::Record;
use crate::cache::Cache;
use crate::cache::generations::{Mode, Scope};
use crate::cache::queue::{Queue, Queued, Settlement};
use crate::cache::tier::{Duty, Tenure};
use crate::error::{Failure, FailureKind};
use crate::write::{Mutation, Precondition, Receipt, Writer};

/// Changes that are read from a queue at once.
const SCAN_MAX: usize = 1000;
/// What is pending is looked for from the beginning after so long without news.
const ANEW: Duration = Duration::from_secs(60);
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
        while !self.stop.is_cancelled() {
            let owned = tokio::select! {
                () = self.stop.cancelled() => return,
                owned = self.queue.own(partition) => owned,
            };
            match owned {
                Duty::Ours(tenure) => self.consume(partition, tenure).await,
                Duty::Others(ended) => tokio::select! {
                    () = self.stop.cancelled() => {}
                    () = ended => {}
                },
                Duty::Unavailable => tokio::select! {
                    () = self.stop.cancelled() => {}
                    () = tokio::time::sleep(AGAIN) => {}
                },
            }
        }
    }

    /// Consumes it until it is lost, or this is stopped.
    async fn consume(&self, partition: u8, tenure: Box<dyn Tenure>) {
        let tenure = Arc::new(tenure);
        let stands = Arc::clone(&tenure);
        self.lanes
            .lock()
            .own(partition, Arc::new(move || stands.stands()));
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = tenure.lost() => {}
            () = self.feed(partition, &**tenure) => {}
        }
        // Nothing more of it goes out from here on.
        self.lanes.lock().disown(partition);
        // What is out is written down before another node may take it.
        while tenure.stands() && self.lanes.lock().are_out(partition) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if let Some(tenure) = Arc::into_inner(tenure) {
            tenure.end().await;
        }
    }

    async fn feed(&self, partition: u8, tenure: &dyn Tenure) {
        let mut after = 0;
        while tenure.stands() {
            self.lanes.lock().reading(partition);
            match self.queue.scan(partition, after, SCAN_MAX).await {
                Ok(found) if found.is_empty() => {
                    self.lanes.lock().have_read(partition);
                    let news = self.queue.news(partition, after);
                    if tokio::time::timeout(ANEW, news).await.is_err() {
                        // For what has come by another way than was looked for.
                        after = 0;
                    }
                }
                Ok(found) => {
                    after = found.last().map_or(after, |last| last.sequence);
                    let found = found.into_iter().map(|queued| (variant(&queued), queued));
                    let found: Vec<_> = found.collect();
                    {
                        let mut lanes = self.lanes.lock();
                        for (variant, queued) in found {
                            lanes.add(partition, queued, variant);
                        }
                        lanes.have_read(partition);
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

    /// Gives out batches as long as there are any, and waits until there may be more.
    async fn give_out(self: Arc<Self>) {
        while !self.stop.is_cancelled() {
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
        count(&self.counters.coalesced, ended.coalesced);
        self.purge(&ended.settlements, tags).await;
        // Each partition by itself: what one cannot be told holds up none of the others.
        let mut by_partition: BTreeMap<u8, Vec<Settlement>> = BTreeMap::new();
        for (partition, settlement) in ended.settlements {
            by_partition.entry(partition).or_default().push(settlement);
        }
        let settled = by_partition
            .into_iter()
            .map(|(partition, settlements)| self.settle(partition, settlements));
        join_all(settled).await;
    }

    /// Asks the writer: a result for each of the batch, and what else is to be purged.
    async fn write(&self, batch: &Batch) -> (Vec<Result<(), Failure>>, Vec<String>) {
        let mut results: Vec<Option<Result<(), Failure>>> = vec![None; batch.members.len()];
        let (mut places, mut mutations) = (Vec::new(), Vec::new());
        let mut writer = None;
        for (place, member) in batch.members.iter().enumerate() {
            match self.mutation(member).await {
                Ok(None) => results[place] = Some(Ok(())),
                Ok(Some((mutation, found))) => {
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

    /// What the writer is told; none: there is nothing to be made any more.
    async fn mutation(
        &self,
        member: &Member,
    ) -> Result<Option<(Mutation, Arc<dyn Writer>)>, Failure> {
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
                match fetched {
                    Some(record) => record,
                    // It is settled already, by another node: what is written down of it here changes nothing.
                    None => return Ok(None),
                }
            }
        };
        let record = Record::decode(&record).map_err(|_| unreadable())?;
        let destination = self.destinations.of(&record.route);
        let mutation = Mutation {
            route: record.route.into(),
            parts: record.parts.into(),
            timeout: destination.timeout,
            // Who accepted it is long gone, and may have been another node.
            traceparent: None,
            operation: record.operation,
            expect: Precondition::None,
            idempotency_key: record.idempotency_key,
            sequence: member.sequence,
        };
        Ok(Some((mutation, destination.writer?)))
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

    /// Writes down what became of changes of a partition, however long that takes, unless it goes to another node; then their
    /// lanes are opened.
    async fn settle(&self, partition: u8, settlements: Vec<Settlement>) {
        while let Err(error) = self.queue.settle(partition, settlements.clone()).await {
            if !self.lanes.lock().owns(partition) {
                self.lanes.lock().abandoned(&settlements);
                return;
            }
            tracing::warn!(%error, "writes: what was made cannot be written down yet");
            tokio::time::sleep(AGAIN).await;
        }
        for settlement in &settlements {
            tell(settlement);
            let counter = match &settlement.end {
                Ok(()) => &self.counters.applied,
                Err(_) => &self.counters.died,
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
        self.lanes.lock().released(partition, &settlements);
        self.wake.notify_one();
    }
}

/// Which variant of its resource a change is of: a digest of its parts.
fn variant(queued: &Queued) -> u64 {
    let Ok(record) = Record::decode(&queued.record) else {
        return 0;
    };
    let mut hasher = Xxh3::new();
    for part in &record.parts {
        for text in [&part.name, &part.value] {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
    }
    hasher.digest()
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
