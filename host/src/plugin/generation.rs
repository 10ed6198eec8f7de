//! One instance in a slot, as the world outside its store sees it: which calls are in it, what becomes of their questions,
//! and whether it may stay.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::bindings::Answer;
use super::fault;
use super::queue::Asked;

/// How long a call may stay in an instance after its deadline before the instance is replaced.
pub(super) const GRACE: Duration = Duration::from_secs(1);

/// Where a question is, for its caller.
pub(super) type Ticket = Arc<Mutex<Place>>;

/// The places of a question.
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

/// The instance.
pub(super) struct Generation {
    /// The calls that are in the store, by the order of their arrival.
    calls: Mutex<HashMap<u64, Call>>,
    next: AtomicU64,
    pub(super) mode: AtomicU8,
    pub(super) mode_changed: Notify,
    /// A call is still in it a grace after its deadline.
    pub(super) condemned: Notify,
    /// It answered a call: the next restart is immediate.
    pub(super) answered: AtomicBool,
}

/// A call that is in a store: all that it takes to ask its questions again. The tickets point back here, but only until the
/// call ends or their callers go, whichever is first.
struct Call {
    asked: Vec<Asked>,
    /// The last of its questions'.
    deadline: Instant,
    /// Somebody sees to it that it does not stay for ever.
    is_watched: bool,
}

/// Takes jobs.
pub(super) const OPEN: u8 = 0;
/// Takes what is in the queue, then ends: the plugin is being stopped.
pub(super) const FINISHING: u8 = 1;
/// Takes nothing more: another generation has its slot.
pub(super) const RETIRED: u8 = 2;

impl Generation {
    /// It takes jobs.
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            calls: Mutex::default(),
            next: AtomicU64::new(0),
            mode: AtomicU8::new(OPEN),
            mode_changed: Notify::new(),
            condemned: Notify::new(),
            answered: AtomicBool::new(false),
        })
    }

    /// A call enters the store.
    ///
    /// The interleaving with a caller that gives up just now: it drops its receiver and then takes the ticket; this fills
    /// the ticket and then looks at the receiver. If the caller found the ticket empty, its receiver was gone before, so
    /// one of the two sees to the overdue call.
    pub(super) fn enter(self: &Arc<Self>, asked: Vec<Asked>) -> u64 {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let deadlines = asked.iter().map(|asked| asked.deadline);
        let call = Call {
            deadline: deadlines.max().unwrap_or_else(Instant::now),
            asked,
            is_watched: false,
        };
        let mut calls = self.calls.lock();
        let call = calls.entry(id).insert_entry(call);
        let mut gone = false;
        for asked in &call.get().asked {
            *asked.ticket.lock() = Place::Inside(Arc::clone(self), id);
            gone |= asked.reply.is_closed();
        }
        drop(calls);
        if gone {
            Arc::clone(self).overdue(id);
        }
        id
    }

    /// A call ended: one answer for each question, in their order. Of another number nobody can tell which is whose.
    pub(super) fn leave(&self, id: u64, answers: Vec<Answer>, name: &str) {
        self.answered.store(true, Ordering::Relaxed);
        let Some(call) = self.calls.lock().remove(&id) else {
            return;
        };
        let (asked, given) = (call.asked.len(), answers.len());
        let mut answers = answers.into_iter();
        for Asked { reply, .. } in call.asked {
            let answer = answers
                .next()
                .filter(|_| asked == given)
                .ok_or_else(|| fault::batch_length(name, asked, given));
            // The caller may have gone; then nobody misses the answer.
            let _ = reply.send(answer);
        }
    }

    /// What it does from now on.
    pub(super) fn change(&self, mode: u8) {
        self.mode.store(mode, Ordering::Release);
        self.mode_changed.notify_one();
    }

    /// The store is dead: the questions that were in it.
    pub(super) fn left_behind(&self) -> impl Iterator<Item = Asked> {
        let calls = std::mem::take(&mut *self.calls.lock());
        calls.into_values().flat_map(|call| call.asked)
    }

    /// When the last of its callers has been answered, a grace included.
    pub(super) fn last_deadline(&self) -> Instant {
        let calls = self.calls.lock();
        let last = calls.values().map(|call| call.deadline).max();
        last.unwrap_or_else(Instant::now) + GRACE
    }

    /// A caller gave up on call `id`: if it is still there a grace after its deadline, the instance is replaced.
    pub(super) fn overdue(self: Arc<Self>, id: u64) {
        let deadline = {
            let mut calls = self.calls.lock();
            let Some(call) = calls.get_mut(&id) else {
                return;
            };
            // One watches for all who give up on a batch.
            if std::mem::replace(&mut call.is_watched, true) {
                return;
            }
            call.deadline
        };
        tokio::spawn(async move {
            tokio::time::sleep_until(deadline.max(Instant::now()) + GRACE).await;
            if self.calls.lock().contains_key(&id) {
                self.condemned.notify_one();
            }
        });
    }
}
