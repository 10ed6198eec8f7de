//! Async loaders: one driver task owns a store and runs many loads in it.
//!
//! Three measured facts of wasmtime 48 shape this file. A call future inside a store is never dropped alone (that would trap
//! the store), so a call that is too late keeps its slot and its *caller* is answered from outside. Time cannot be told
//! reliably inside `run_concurrent` (a guest that blocks in a host call holds the whole store), so deadlines, grace and
//! replacement are decided here, outside it. A trap kills the whole store, and who of many was the culprit is unknown, so
//! the reads that were in it are asked once more, each alone in a fresh instance.
//!
//! The words: a *slot* is one of `[limits] instances` places, supervised by one task; a *generation* is one instance in a
//! slot; a generation is *condemned* when a call is still in it a grace after its deadline.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use wasmtime::component::Accessor;

use super::backoff::Backoff;
use super::bindings::{self, Answer, loader};
use super::fault;
use super::instance::{Live, Mould};
use super::meter::Meter;
use super::queue::{Job, Queue};
use super::state::State;
use crate::cache::Question;
use crate::error::Failure;

/// How long a call may stay in an instance after its deadline before the instance is replaced.
pub(super) const GRACE: Duration = Duration::from_secs(1);
/// Reads of dead stores that are asked again at once, each in an instance of its own.
const RETRIES: usize = 16;

/// What the slots of one running loader share.
pub(super) struct Shared {
    pub(super) mould: Mould,
    pub(super) queue: Queue,
    retries: Semaphore,
    stopping: watch::Sender<bool>,
    /// Slots that still run.
    slots: AtomicUsize,
    /// Of each slot: why it has no instance just now.
    restarting: Mutex<Vec<Option<String>>>,
}

/// Where a job is, for its caller.
pub(super) type Ticket = Arc<Mutex<Place>>;

/// The places of a job.
#[derive(Default)]
pub(super) enum Place {
    /// In the queue.
    #[default]
    Waiting,
    /// In an instance, as this call of it.
    Inside(Arc<Generation>, u64),
    /// Its instance died; it is asked again, or waits to be.
    Again,
}

/// One instance in a slot, as the world outside its store sees it.
pub(super) struct Generation {
    /// The calls that are in the store, by the order of their arrival.
    asked: Mutex<HashMap<u64, Asked>>,
    next: AtomicU64,
    mode: AtomicU8,
    mode_changed: Notify,
    condemned: Notify,
    /// It answered a call: the next restart is immediate.
    answered: AtomicBool,
}

/// A call that is in a store: all that it takes to ask again.
struct Asked {
    question: Question,
    deadline: Instant,
    reply: oneshot::Sender<Result<Answer, Failure>>,
    /// Of its caller. It points back here, but only until the call ends or its caller goes, whichever is first.
    ticket: Ticket,
}

/// Takes jobs.
const OPEN: u8 = 0;
/// Takes what is in the queue, then ends: the plugin is being stopped.
const FINISHING: u8 = 1;
/// Takes nothing more: another generation has its slot.
const RETIRED: u8 = 2;

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
            queue: Queue::new(mould.kit.limits.queue),
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

    /// No new jobs; the slots finish what they have and end.
    pub(super) fn stop(&self) {
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
    let asked = std::mem::take(&mut *generation.asked.lock());
    for asked in asked.into_values().filter(|asked| !asked.reply.is_closed()) {
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
    let guest = guest(mould, store, &live.instance)
        .map_err(|error| super::instance::host(&mould.kit, &error))?;
    let question = bindings::question(
        &asked.question,
        asked.deadline.saturating_duration_since(Instant::now()),
    );
    let meter = Arc::clone(&store.data().meter);
    meter.enforce(true);
    let ran = super::instance::metered(
        &mould.engine,
        &meter,
        store.run_concurrent(async |accessor| {
            sliced(&meter, guest.call_load(accessor, question)).await
        }),
    )
    .await;
    match ran {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) | Err(error) => Err(fault::of(&error, &mould.kit, store.data_mut())),
    }
}

fn guest(
    mould: &Mould,
    store: &mut wasmtime::Store<State>,
    instance: &wasmtime::component::Instance,
) -> wasmtime::Result<loader::Guest> {
    match &mould.worldly.loader {
        Some(indices) => indices.load(store, instance),
        None => Err(wasmtime::format_err!("the component exports no `loader`")),
    }
}

/// Runs a generation until it is drained or dead.
async fn run(shared: Arc<Shared>, live: Live, generation: Arc<Generation>) -> End {
    let mould = &shared.mould;
    let Live {
        mut store,
        instance,
    } = live;
    let guest = match guest(mould, &mut store, &instance) {
        Ok(guest) => guest,
        Err(error) => return End::Dead(super::instance::host(&mould.kit, &error)),
    };
    let meter = Arc::clone(&store.data().meter);
    meter.enforce(true);
    let ran = super::instance::metered(
        &mould.engine,
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

/// wasmtime polls the closure of `run_concurrent` between any two pieces of guest code: there a slice ends.
async fn sliced<F: Future>(meter: &Meter, future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|cx| {
        meter.slice_begins();
        future.as_mut().poll(cx)
    })
    .await
}

/// Inside the store: takes jobs below `concurrency`, and never drops a call.
async fn pump(
    shared: &Shared,
    generation: &Arc<Generation>,
    guest: &loader::Guest,
    accessor: &Accessor<State>,
) -> wasmtime::Result<()> {
    let concurrency = shared.mould.kit.limits.concurrency;
    let mut calls = FuturesUnordered::new();
    loop {
        let mode = generation.mode.load(Ordering::Acquire);
        let more = mode == OPEN || (mode == FINISHING && !shared.queue.is_empty());
        if !more && calls.is_empty() {
            return Ok(());
        }
        tokio::select! {
            Some(ended) = calls.next() => ended?,
            job = shared.queue.pop(), if more && calls.len() < concurrency => {
                calls.push(call(generation, guest, accessor, job));
            }
            () = generation.mode_changed.notified() => {}
        }
    }
}

async fn call(
    generation: &Arc<Generation>,
    guest: &loader::Guest,
    accessor: &Accessor<State>,
    job: Job,
) -> wasmtime::Result<()> {
    let remaining = job.deadline.saturating_duration_since(Instant::now());
    let question = bindings::question(&job.question, remaining);
    let id = generation.enter(job);
    let answer = guest.call_load(accessor, question).await?;
    generation.leave(id, answer);
    Ok(())
}

impl Generation {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            asked: Mutex::default(),
            next: AtomicU64::new(0),
            mode: AtomicU8::new(OPEN),
            mode_changed: Notify::new(),
            condemned: Notify::new(),
            answered: AtomicBool::new(false),
        })
    }

    /// A job enters the store.
    ///
    /// The interleaving with a caller that gives up just now: it drops its receiver and then takes the ticket; this fills
    /// the ticket and then looks at the receiver. If the caller found the ticket empty, its receiver was gone before, so
    /// one of the two sees to the overdue call.
    fn enter(self: &Arc<Self>, job: Job) -> u64 {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let asked = Asked {
            question: job.question,
            deadline: job.deadline,
            reply: job.reply,
            ticket: job.ticket,
        };
        let mut table = self.asked.lock();
        let asked = table.entry(id).insert_entry(asked);
        *asked.get().ticket.lock() = Place::Inside(Arc::clone(self), id);
        let gone = asked.get().reply.is_closed();
        drop(table);
        if gone {
            Arc::clone(self).overdue(id);
        }
        id
    }

    fn leave(&self, id: u64, answer: Answer) {
        self.answered.store(true, Ordering::Relaxed);
        if let Some(asked) = self.asked.lock().remove(&id) {
            // The caller may have gone; then nobody misses the answer.
            let _ = asked.reply.send(Ok(answer));
        }
    }

    fn change(&self, mode: u8) {
        self.mode.store(mode, Ordering::Release);
        self.mode_changed.notify_one();
    }

    fn last_deadline(&self) -> Instant {
        let asked = self.asked.lock();
        let last = asked.values().map(|asked| asked.deadline).max();
        last.unwrap_or_else(Instant::now) + GRACE
    }

    /// A caller gave up on call `id`: if it is still there a grace after its deadline, the instance is replaced.
    pub(super) fn overdue(self: Arc<Self>, id: u64) {
        let Some(deadline) = self.asked.lock().get(&id).map(|asked| asked.deadline) else {
            return;
        };
        tokio::spawn(async move {
            tokio::time::sleep_until(deadline.max(Instant::now()) + GRACE).await;
            if self.asked.lock().contains_key(&id) {
                self.condemned.notify_one();
            }
        });
    }
}

#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;
