//! Blocking loaders: a pool of instances, each used by one call at a time.
//!
//! A call runs on a fiber in the task of its caller: guest code is interrupted every epoch so that other tasks of the
//! thread run, and a guest that waits in the host only suspends its fiber. Both limits hold from outside: `cpu` by the
//! meter, wall clock by dropping the call with its store, which nobody else shares.
//!
//! # Instances
//!
//! One is made when a call finds none idle, in a task of its own: a call that cannot wait for it leaves it to the next. The
//! task holds the call's place for as long as it lasts, so there are never more instances, those that are being made
//! included, than places. After one trapped, or could not be made, none is made for a while ([`Rest`]). That is a moment,
//! and not a wait of each call: when it has come the next call makes one, whatever became of the calls before it. Whoever waits
//! takes what becomes idle meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant as Clock;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::backoff::Backoff;
use super::bindings::{self, Answer};
use super::breaker::Breaker;
use super::fault::{self, Denials};
use super::instance::{self, Live, Mould};
use super::meter::Meter;
use super::places::{Place, Places};
use crate::cache::{Loader, Outcome, Question};
use crate::error::Failure;

/// A running blocking loader.
pub(super) struct BlockingLoader {
    pool: Arc<Pool>,
    breaker: Arc<Breaker>,
}

struct Pool {
    mould: Mould,
    places: Arc<Places>,
    /// None once the pool was emptied: what comes back then is stopped.
    idle: Mutex<Option<Vec<Live>>>,
    /// One became idle.
    idled: Notify,
    rest: Mutex<Rest>,
    /// Why the last instance could not be made.
    restarting: Mutex<Option<String>>,
    stopped: AtomicBool,
}

/// When an instance may be made again.
struct Rest {
    backoff: Backoff,
    until: Instant,
}

impl Default for Rest {
    fn default() -> Self {
        Self {
            backoff: Backoff::default(),
            until: Instant::now(),
        }
    }
}

impl Rest {
    /// An instance trapped, or could not be made. What went down together rests once.
    fn begin(&mut self, now: Instant) {
        if now >= self.until {
            self.until = now + self.backoff.next_delay();
        }
    }

    /// A call was answered.
    fn end(&mut self, now: Instant) {
        self.backoff.reset();
        self.until = now;
    }
}

/// The meter of a blocking instance: the whole call counts.
pub(super) fn meter(mould: &Mould) -> Meter {
    Meter::turns(mould.kit.limits.cpu)
}

impl BlockingLoader {
    /// Makes the pool around the first instance.
    pub(super) fn start(mould: Mould, first: Live, breaker: Arc<Breaker>) -> Self {
        let pool = Pool {
            places: Places::new(
                &mould.kit.name,
                mould.kit.limits.instances,
                mould.kit.limits.queue,
            ),
            idle: Mutex::new(Some(vec![first])),
            idled: Notify::new(),
            rest: Mutex::default(),
            restarting: Mutex::default(),
            stopped: AtomicBool::new(false),
            mould,
        };
        Self {
            pool: Arc::new(pool),
            breaker,
        }
    }

    /// Why it does not answer just now.
    pub(super) fn restarting(&self) -> Option<String> {
        self.pool.restarting.lock().clone()
    }

    /// Calls that wait for a place, and those that were turned away.
    pub(super) fn waiting(&self) -> (usize, u64) {
        (self.pool.places.waiting(), self.pool.places.shed_so_far())
    }

    /// Waits for the calls in flight (each bounded by its deadline), then stops the instances.
    pub(super) async fn stop(&self) {
        let pool = &self.pool;
        pool.stopped.store(true, Ordering::Release);
        let bound = Instant::now() + pool.mould.kit.limits.timeout;
        // Nobody who holds a place needs longer than its deadline, so an error here only means that we waited enough.
        let _ = timeout_at(bound, pool.places.all_free()).await;
        pool.places.close();
        let idle = pool.idle.lock().take();
        for live in idle.into_iter().flatten() {
            pool.mould.stop(live).await;
        }
    }
}

impl Loader for BlockingLoader {
    fn name(&self) -> &str {
        &self.pool.mould.kit.name
    }

    fn load(&self, question: Question) -> BoxFuture<'static, Result<Outcome, Failure>> {
        let pool = Arc::clone(&self.pool);
        let breaker = Arc::clone(&self.breaker);
        Box::pin(async move {
            let admission = breaker.admit(Clock::now())?;
            let denials = Denials::watch(&pool.mould.kit);
            let result = pool.ask(question).await;
            admission.ended(Clock::now(), &result);
            result.map_err(|failure| denials.explain(failure))
        })
    }
}

impl Pool {
    async fn ask(self: &Arc<Self>, question: Question) -> Result<Outcome, Failure> {
        let kit = &self.mould.kit;
        let timeout = question.timeout.min(kit.limits.timeout);
        let deadline = Instant::now() + timeout;
        if self.stopped.load(Ordering::Acquire) {
            return Err(fault::stopped(&kit.name));
        }
        let place = timeout_at(deadline, self.places.take(&question.route, deadline)).await;
        let Ok(place) = place else {
            return Err(fault::no_place(&kit.name, timeout));
        };
        let place = Arc::new(place?);
        let Ok(live) = timeout_at(deadline, self.take(&place)).await else {
            return Err(fault::no_instance(&kit.name, timeout));
        };
        match timeout_at(deadline, self.run(live?, question, deadline)).await {
            Ok(answer) => bindings::answer(answer?, kit.limits.body),
            // The call is dropped with its store; the next one gets another instance.
            Err(_elapsed) => Err(fault::timeout(&kit.name, timeout)),
        }
    }

    async fn run(
        &self,
        mut live: Live,
        question: Question,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        let asked = bindings::question(
            &question,
            deadline.saturating_duration_since(Instant::now()),
        );
        let mould = &self.mould;
        let guest = match &mould.worldly.blocking {
            Some(indices) => indices.load(&mut live.store, &live.instance),
            None => Err(wasmtime::format_err!(
                "the component exports no `blocking-loader`"
            )),
        }
        .map_err(|error| instance::host(&mould.kit, &error))?;
        let meter = Arc::clone(&live.store.data().meter);
        meter.enforce(true);
        let called = instance::metered(
            &mould.engine,
            &mould.kit,
            &meter,
            guest.call_load(&mut live.store, &asked),
        )
        .await;
        match called {
            Ok(answer) => {
                self.rest.lock().end(Instant::now());
                self.keep(live).await;
                Ok(answer)
            }
            Err(error) => {
                self.rest.lock().begin(Instant::now());
                Err(fault::of(&error, &mould.kit, live.store.data_mut()))
            }
        }
    }

    /// An idle instance, or a new one, which may take as long as it likes: who does not wait for it leaves it to the next.
    async fn take(self: &Arc<Self>, place: &Arc<Place>) -> Result<Live, Failure> {
        let mut made = None;
        loop {
            // Before it is looked: what is put there from now on wakes it.
            let idled = self.idled.notified();
            match &mut *self.idle.lock() {
                None => return Err(fault::stopped(&self.mould.kit.name)),
                Some(idle) => {
                    if let Some(live) = idle.pop() {
                        return Ok(live);
                    }
                }
            }
            let until = self.rest.lock().until;
            match &mut made {
                None if until > Instant::now() => tokio::select! {
                    () = sleep_until(until) => {}
                    () = idled => {}
                },
                None => made = Some(self.make(place)),
                Some(failed) => tokio::select! {
                    () = idled => {}
                    failed = failed => match failed {
                        Ok(failure) => return Err(failure),
                        // It is made. If another takes it first, one more is.
                        Err(_) => made = None,
                    },
                },
            }
        }
    }

    /// Makes an instance, in a task of its own: it is idle then. Why not, if it cannot be made.
    fn make(self: &Arc<Self>, place: &Arc<Place>) -> oneshot::Receiver<Failure> {
        let (failed, why) = oneshot::channel();
        let (pool, place) = (Arc::clone(self), Arc::clone(place));
        tokio::spawn(async move {
            let begun = pool.mould.begin(meter(&pool.mould)).await;
            *pool.restarting.lock() = begun.as_ref().err().map(ToString::to_string);
            match begun {
                Ok(live) => pool.keep(live).await,
                Err(failure) => {
                    pool.rest.lock().begin(Instant::now());
                    // Who has left by now does not want to know.
                    let _ = failed.send(failure);
                }
            }
            drop(place);
        });
        why
    }

    /// Keeps an instance for the next call, or stops it if there will be none.
    async fn keep(&self, live: Live) {
        let late = match &mut *self.idle.lock() {
            None => Some(live),
            Some(idle) => {
                idle.push(live);
                None
            }
        };
        match late {
            None => self.idled.notify_one(),
            Some(live) => self.mould.stop(live).await,
        }
    }
}

#[cfg(test)]
#[path = "blocking_tests.rs"]
mod tests;
