//! The caller's side of an async loader: breaker, queue, deadline.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant as Clock;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::bindings;
use super::breaker::Breaker;
use super::driver::Shared;
use super::fault::{self, Denials};
use super::generation::{Place, Ticket};
use super::instance::{Live, Mould};
use super::queue::Asked;
use crate::cache::{Loader, Outcome, Question};
use crate::error::{Failure, FailureKind, Origin};

/// A running async loader. Its instances end when it is stopped, or dropped.
pub(super) struct AsyncLoader {
    shared: Arc<Shared>,
    breaker: Arc<Breaker>,
    slots: Mutex<Vec<JoinHandle<()>>>,
}

impl AsyncLoader {
    /// Starts the slots around the first instance.
    pub(super) fn start(mould: Mould, first: Live, breaker: Arc<Breaker>) -> Self {
        let (shared, slots) = Shared::start(mould, first);
        Self {
            shared,
            breaker,
            slots: Mutex::new(slots),
        }
    }

    /// Why it does not answer just now.
    pub(super) fn restarting(&self) -> Option<String> {
        self.shared.restarting()
    }

    /// Questions that wait for a place, and those that were turned away.
    pub(super) fn waiting(&self) -> (usize, u64) {
        (self.shared.queue.waiting(), self.shared.queue.shed_so_far())
    }

    /// Lets the calls in flight end, then stops the instances.
    pub(super) async fn stop(&self) {
        self.shared.stop();
        let slots = std::mem::take(&mut *self.slots.lock());
        for slot in slots {
            let _ = slot.await;
        }
        self.shared.queue.clear();
    }
}

impl Drop for AsyncLoader {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

impl Loader for AsyncLoader {
    fn name(&self) -> &str {
        &self.shared.mould.kit.name
    }

    fn load(&self, question: Question) -> BoxFuture<'static, Result<Outcome, Failure>> {
        let shared = Arc::clone(&self.shared);
        let breaker = Arc::clone(&self.breaker);
        Box::pin(async move {
            let admission = breaker.admit(Clock::now())?;
            let denials = Denials::watch(&shared.mould.kit);
            let result = ask(&shared, question).await;
            admission.ended(Clock::now(), &result);
            result.map_err(|failure| denials.explain(failure))
        })
    }
}

/// Asks one question and waits for it no longer than it may take.
async fn ask(shared: &Arc<Shared>, question: Question) -> Result<Outcome, Failure> {
    let kit = &shared.mould.kit;
    let timeout = question.timeout.min(kit.limits.timeout);
    let deadline = Instant::now() + timeout;
    let (reply, answer) = oneshot::channel();
    let watch = Watch {
        ticket: Ticket::default(),
        answered: AtomicBool::new(false),
    };
    shared.submit(Asked {
        question,
        deadline,
        reply,
        ticket: Arc::clone(&watch.ticket),
    });
    let Ok(answered) = timeout_at(deadline, answer).await else {
        return Err(too_late(shared, &watch, timeout));
    };
    watch.answered.store(true, Ordering::Relaxed);
    match answered {
        Ok(answer) => bindings::answer(answer?, kit.limits.body),
        Err(_dropped) => Err(fault::stopped(&kit.name)),
    }
}

fn too_late(shared: &Shared, watch: &Watch, timeout: std::time::Duration) -> Failure {
    let name = &shared.mould.kit.name;
    match *watch.ticket.lock() {
        Place::Inside(..) => return fault::timeout(name, timeout),
        Place::Again => return fault::not_asked_again(name, timeout),
        Place::Waiting => {}
    }
    match shared.restarting() {
        Some(last_error) => Failure {
            kind: FailureKind::Unavailable,
            ..Failure::fault(
                Origin::Trap,
                "plugin-restarting",
                format!("`{name}` is being restarted; last: {last_error}"),
            )
        },
        None => fault::no_place(name, timeout),
    }
}

/// Sees to it that a call which nobody waits for any more does not hold its instance for ever, however its caller went:
/// by its deadline, or by being dropped.
struct Watch {
    ticket: Ticket,
    answered: AtomicBool,
}

impl Drop for Watch {
    fn drop(&mut self) {
        if self.answered.load(Ordering::Relaxed) {
            return;
        }
        let place = std::mem::take(&mut *self.ticket.lock());
        if let Place::Inside(generation, id) = place
            && tokio::runtime::Handle::try_current().is_ok()
        {
            generation.overdue(id);
        }
    }
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
