//! Async loaders: one driver task owns a store and runs many loads in it.
//!
//! Three measured facts of wasmtime 48 shape this file. A call future inside a store is never dropped alone (that would trap
//! the store), so a call that is too late keeps its slot and its *caller* is answered from outside. Time cannot be told
//! reliably inside `run_concurrent` (a guest that blocks in a host call holds the whole store), so deadlines, grace and
//! replacement are decided here, outside it. A trap kills the whole store, and who of many was the culprit is unknown, so
//! the reads that were in it are asked once more, each alone in a fresh instance.
//!
//! A *call* carries one question, or, to a batching loader, all of a batch: its questions go in and are answered together,
//! each caller still has a deadline of its own, and after a trap each question is asked again by itself.
//!
//! The words: a *slot* is one of `[limits] instances` places, supervised by one task; a *generation* is one instance in a
//! slot; a generation is *condemned* when a call is still in it a grace after its deadline.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use wasmtime::component::Accessor;

use super::asking::Guest;
use super::backoff::Backoff;
use super::bindings::{self, Answer};
use super::fault;
use super::gather::Gather;
use super::generation::{FINISHING, GRACE, Generation, OPEN, Place, RETIRED};
use super::instance::{Live, Mould, metered, sliced};
use super::meter::Meter;
use super::queue::{Asked, Job, Queue};
use super::state::State;
use crate::cache::Batching;
use crate::error::Failure;
use crate::trace::Span;

/// Reads of dead stores that are asked again at once, each in an instance of its own.
const RETRIES: usize = 16;

/// What the slots of one running loader share.
pub(super) struct Shared {
    pub(super) mould: Mould,
    pub(super) queue: Queue,
    gather: Gather,
    retries: Semaphore,
    stopping: watch::Sender<bool>,
    /// Slots that still run.
    slots: AtomicUsize,
    /// Of each slot: why it has no instance just now.
    restarting: Mutex<Vec<Option<String>>>,
}

/// How a generation ended.
enum End {
    /// Every call in it was answered.
    Drained(Live),
    /// The store is dead.
    Dead(Failure),
}

impl Shared {
    /// Starts the slots; `first` is the instance that was started and probed when the plugin was launched.
    pub(super) fn start(mould: Mould, first: Live) -> (Arc<Self>, Vec<JoinHandle<()>>) {
        let instances = mould.kit.limits.instances;
        let shared = Arc::new(Self {
            queue: Queue::new(
                &mould.kit.name,
                mould.kit.limits.queue,
                instances * mould.kit.limits.concurrency,
            ),
            gather: Gather::default(),
            retries: Semaphore::new(RETRIES),
            stopping: watch::channel(false).0,
            slots: AtomicUsize::new(instances),
            restarting: Mutex::new(vec![None; instances]),
            mould,
        });
        let mut first = Some(first);
        let slots = (0..instances)
            .map(|slot| {
                tokio::spawn(supervise(
                    Arc::clone(&shared),
                    slot,
                    first.take(),
                    shared.stopping.subscribe(),
                ))
            })
            .collect();
        (shared, slots)
    }

    /// Sends a question on its way: into the queue, or into the batch of its route.
    pub(super) fn submit(self: &Arc<Self>, asked: Asked) {
        let Batching { window, max } = asked.question.batching;
        let max = max.min(self.mould.kit.limits.queue);
        if self.mould.worldly.batch.is_none() || window.is_zero() || max <= 1 {
            return self.queue.push(Job::new(vec![asked]));
        }
        // Half of its time at most goes by in waiting for others.
        let window = window.min(asked.deadline.saturating_duration_since(Instant::now()) / 2);
        let joined = self.gather.join(asked, max);
        for job in joined.go {
            self.queue.push(job);
        }
        if let Some(opened) = joined.opened {
            let shared = Arc::clone(self);
            tokio::spawn(async move {
                // tokio's clock goes by milliseconds and rounds up: without the one that is taken off, a lone miss would
                // wait for longer than the window says.
                tokio::time::sleep(window.saturating_sub(Duration::from_millis(1))).await;
                if let Some(job) = shared.gather.close(&opened) {
                    shared.queue.push(job);
                }
            });
        }
    }

    /// No new jobs; the slots finish what they have and end.
    pub(super) fn stop(&self) {
        for job in self.gather.close_all() {
            self.queue.push(job);
        }
        self.queue.close();
        self.stopping.send_replace(true);
    }

    /// Why a slot has no instance just now.
    pub(super) fn restarting(&self) -> Option<String> {
        self.restarting.lock().iter().flatten().next().cloned()
    }

    fn meter(&self) -> Meter {
        Meter::slice(self.mould.kit.limits.cpu)
    }
}

/// Keeps one slot filled until the plugin is stopped.
async fn supervise(
    shared: Arc<Shared>,
    slot: usize,
    first: Option<Live>,
    mut stopping: watch::Receiver<bool>,
) {
    let mut backoff = Backoff::default();
    let mut next = first;
    loop {
        let live = match next.take() {
            Some(live) => live,
            None => {
                let begun = tokio::select! {
                    begun = replace(&shared, slot, &mut backoff) => begun,
                    () = stopped(&mut stopping) => break,
                };
                shared.restarting.lock()[slot] = None;
                begun
            }
        };
        let generation = Generation::new();
        let mut task = tokio::spawn(run(Arc::clone(&shared), live, Arc::clone(&generation)));
        tokio::select! {
            end = &mut task => {
                let failure = bury(&shared, &generation, end.ok());
                if let Some(failure) = failure {
                    tracing::warn!(plugin = %shared.mould.kit.name, "an instance died: {failure}");
                    shared.restarting.lock()[slot] = Some(failure.to_string());
                }
            }
            () = generation.condemned.notified() => {
                tracing::warn!(plugin = %shared.mould.kit.name, "a call did not end; the instance is replaced");
                shared.restarting.lock()[slot] = Some("a call did not end in time".to_owned());
                generation.change(RETIRED);
                tokio::spawn(drain(Arc::clone(&shared), generation.clone(), task));
            }
            () = stopped(&mut stopping) => {
                generation.change(FINISHING);
                finish(&shared, &generation, task).await;
                break;
            }
        }
        if generation.answered.load(Ordering::Relaxed) {
            backoff.reset();
        }
    }
    // After the last slot nobody takes jobs any more.
    if shared.slots.fetch_sub(1, Ordering::AcqRel) == 1 {
        shared.queue.clear();
    }
}

/// Waits until the plugin is being stopped (or nobody is left to say so).
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

/// A started instance, however many attempts it takes.
async fn replace(shared: &Arc<Shared>, slot: usize, backoff: &mut Backoff) -> Live {
    loop {
        tokio::time::sleep(backoff.next_delay()).await;
        match shared.mould.begin(shared.meter()).await {
            Ok(live) => return live,
            Err(failure) => {
                tracing::warn!(plugin = %shared.mould.kit.name, "a replacement did not start: {failure}");
                shared.restarting.lock()[slot] = Some(failure.to_string());
            }
        }
    }
}

/// Lets the calls of a replaced generation end by themselves until the last of their callers was answered.
async fn drain(shared: Arc<Shared>, generation: Arc<Generation>, mut task: JoinHandle<End>) {
    if let Ok(end) = timeout_at(generation.last_deadline(), &mut task).await {
        if let Some(End::Drained(live)) = bury_or_keep(&shared, &generation, end.ok()) {
            shared.mould.stop(live).await;
        }
    } else {
        // A guest that never ends is dropped with its store, at the next epoch at the latest.
        task.abort();
    }
}

/// The plugin is being stopped: its calls end (bounded by their deadlines), then `lifecycle.stop`.
async fn finish(shared: &Arc<Shared>, generation: &Arc<Generation>, mut task: JoinHandle<End>) {
    let bound = Instant::now() + shared.mould.kit.limits.timeout + GRACE;
    match timeout_at(bound, &mut task).await {
        Ok(end) => {
            if let Some(End::Drained(live)) = bury_or_keep(shared, generation, end.ok()) {
                shared.mould.stop(live).await;
            }
        }
        Err(_) => task.abort(),
    }
}

/// What is left of a generation: a live instance is handed on, the reads of a dead one are asked again.
fn bury_or_keep(shared: &Arc<Shared>, generation: &Generation, end: Option<End>) -> Option<End> {
    if let Some(End::Drained(_)) = end {
        return end;
    }
    bury(shared, generation, end);
    None
}

/// Asks the reads of a dead store again; says why it died.
fn bury(shared: &Arc<Shared>, generation: &Generation, end: Option<End>) -> Option<Failure> {
    let failure = match end {
        Some(End::Drained(_)) => return None,
        Some(End::Dead(failure)) => failure,
        // The task itself panicked: a fault of the host, told like a trap so that the reads are asked again.
        None => Failure::fault(
            crate::error::Origin::Trap,
            "trap",
            format!("the driver of `{}` panicked", shared.mould.kit.name),
        ),
    };
    let asked = generation.left_behind();
    for asked in asked.filter(|asked| !asked.reply.is_closed()) {
        *asked.ticket.lock() = Place::Again;
        tokio::spawn(ask_again(Arc::clone(shared), asked));
    }
    Some(failure)
}

/// One read of a dead store, alone in an instance of its own, so that what happens now is its own doing.
async fn ask_again(shared: Arc<Shared>, asked: Asked) {
    let alone = async {
        // Never closed, so this is a wait and nothing else.
        let _permit = shared.retries.acquire().await;
        let live = shared.mould.begin(shared.meter()).await?;
        alone(&shared.mould, live, &asked).await
    };
    // Past the deadline the caller has its answer already.
    if let Ok(answer) = timeout_at(asked.deadline, alone).await {
        let _ = asked.reply.send(answer);
    }
}

async fn alone(mould: &Mould, mut live: Live, asked: &Asked) -> Result<Answer, Failure> {
    let store = &mut live.store;
    let guest = Guest::of(mould, store, &live.instance)
        .map_err(|error| super::instance::host(&mould.kit, &error))?;
    let question = bindings::question(
        &asked.question,
        asked.deadline.saturating_duration_since(Instant::now()),
    );
    let meter = Arc::clone(&store.data().meter);
    meter.enforce(true);
    let ran = metered(
        &mould.engine,
        &mould.kit,
        &meter,
        store.run_concurrent(async |accessor| {
            sliced(&meter, guest.ask(accessor, vec![question])).await
        }),
    )
    .await;
    match ran {
        Ok(Ok(answers)) => {
            let given = answers.len();
            let one: Result<[Answer; 1], _> = answers.try_into();
            one.map(|[answer]| answer)
                .map_err(|_| fault::batch_length(&mould.kit.name, 1, given))
        }
        Ok(Err(error)) | Err(error) => Err(fault::of(&error, &mould.kit, store.data_mut())),
    }
}

/// Runs a generation until it is drained or dead.
async fn run(shared: Arc<Shared>, live: Live, generation: Arc<Generation>) -> End {
    let mould = &shared.mould;
    let Live {
        mut store,
        instance,
    } = live;
    let guest = match Guest::of(mould, &mut store, &instance) {
        Ok(guest) => guest,
        Err(error) => return End::Dead(super::instance::host(&mould.kit, &error)),
    };
    let meter = Arc::clone(&store.data().meter);
    meter.enforce(true);
    let ran = metered(
        &mould.engine,
        &mould.kit,
        &meter,
        store.run_concurrent(async |accessor| {
            sliced(&meter, pump(&shared, &generation, &guest, accessor)).await
        }),
    )
    .await;
    match ran {
        Ok(Ok(())) => End::Drained(Live { store, instance }),
        Ok(Err(error)) | Err(error) => End::Dead(fault::of(&error, &mould.kit, store.data_mut())),
    }
}

/// Inside the store: takes jobs below `concurrency`, and never drops a call.
async fn pump(
    shared: &Shared,
    generation: &Arc<Generation>,
    guest: &Guest,
    accessor: &Accessor<State>,
) -> wasmtime::Result<()> {
    let concurrency = shared.mould.kit.limits.concurrency;
    let mut calls = FuturesUnordered::new();
    // Closed and empty: it stays so.
    let mut is_over = false;
    loop {
        let mode = generation.mode.load(Ordering::Acquire);
        let more = mode == OPEN || (mode == FINISHING && !shared.queue.is_empty());
        if !more && calls.is_empty() {
            return Ok(());
        }
        tokio::select! {
            Some(ended) = calls.next() => ended?,
            job = shared.queue.pop(), if more && !is_over && calls.len() < concurrency => match job {
                Some(job) => calls.push(call(shared, generation, guest, accessor, job)),
                None => is_over = true,
            },
            () = generation.mode_changed.notified() => {}
        }
    }
}

async fn call(
    shared: &Shared,
    generation: &Arc<Generation>,
    guest: &Guest,
    accessor: &Accessor<State>,
    job: Job,
) -> wasmtime::Result<()> {
    let asked = job.still_asked();
    if asked.is_empty() {
        return Ok(());
    }
    let now = Instant::now();
    let questions = asked
        .iter()
        .map(|asked| {
            bindings::question(
                &asked.question,
                asked.deadline.saturating_duration_since(now),
            )
        })
        .collect();
    if let Guest::Many(_) = guest {
        shared.mould.engine.tally().batch(asked.len());
    }
    let span = if asked.len() > 1 {
        let told = asked.iter();
        let told = told.filter_map(|asked| asked.question.traceparent.as_deref());
        Span::batch(&shared.mould.kit.name, told)
    } else {
        Span::NONE
    };
    let id = generation.enter(asked);
    let answers = guest.ask(accessor, questions).await?;
    shared.queue.took(now.elapsed());
    drop(span);
    generation.leave(id, answers, &shared.mould.kit.name);
    Ok(())
}

#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;
