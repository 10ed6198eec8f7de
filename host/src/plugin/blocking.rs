//! Blocking loaders: a pool of instances, each used by one call at a time.
//!
//! A call runs on a fiber in the task of its caller: guest code is interrupted every epoch so that other tasks of the
//! thread run, and a guest that waits in the host only suspends its fiber. Both limits hold from outside: `cpu` by the
//! meter, wall clock by dropping the call with its store, which nobody else shares.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant as Clock;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};

use super::backoff::Backoff;
use super::bindings::{self, Answer};
use super::breaker::Breaker;
use super::fault::{self, Denials};
use super::instance::{self, Live, Mould};
use super::meter::Meter;
use super::places::Places;
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
    idle: Mutex<Vec<Live>>,
    backoff: Mutex<Backoff>,
    /// Why the last instance could not be made.
    restarting: Mutex<Option<String>>,
    stopped: AtomicBool,
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
            idle: Mutex::new(vec![first]),
            backoff: Mutex::default(),
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
        let idle = std::mem::take(&mut *pool.idle.lock());
        for live in idle {
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
    async fn ask(&self, question: Question) -> Result<Outcome, Failure> {
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
        let _place = place?;
        match timeout_at(deadline, self.run(question, deadline)).await {
            Ok(answer) => bindings::answer(answer?, kit.limits.body),
            // The call is dropped with its store; the next one gets another instance.
            Err(_elapsed) => Err(fault::timeout(&kit.name, timeout)),
        }
    }

    async fn run(&self, question: Question, deadline: Instant) -> Result<Answer, Failure> {
        let mut live = self.take().await?;
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
                self.backoff.lock().reset();
                self.idle.lock().push(live);
                Ok(answer)
            }
            Err(error) => Err(fault::of(&error, &mould.kit, live.store.data_mut())),
        }
    }

    /// An idle instance, or a new one after its back-off.
    async fn take(&self) -> Result<Live, Failure> {
        if let Some(live) = self.idle.lock().pop() {
            return Ok(live);
        }
        let delay = self.backoff.lock().next_delay();
        tokio::time::sleep(delay).await;
        // Aside: it is seldom needed, and would make the future of every call three times as large.
        let begun = Box::pin(self.mould.begin(meter(&self.mould))).await;
        *self.restarting.lock() = begun.as_ref().err().map(ToString::to_string);
        begun
    }
}

#[cfg(test)]
#[path = "blocking_tests.rs"]
mod tests;
