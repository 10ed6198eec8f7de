//! Where questions wait before they enter an instance. All instances of a plugin draw from one queue, so a wedged one
//! strands nobody who is not yet in it.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::bindings::Answer;
use super::driver::Ticket;
use crate::cache::Question;
use crate::error::Failure;

/// A question that somebody waits for.
pub(super) struct Job {
    pub(super) question: Question,
    /// When its caller stops waiting.
    pub(super) deadline: Instant,
    pub(super) reply: oneshot::Sender<Result<Answer, Failure>>,
    /// Where it is, for its caller.
    pub(super) ticket: Ticket,
}

/// Why a job was not taken.
pub(super) enum NotTaken {
    /// So many wait already.
    Full(usize),
    /// The plugin is being stopped.
    Closed,
}

/// First in, first out; bounded (law 12).
pub(super) struct Queue {
    state: Mutex<State>,
    pushed: Notify,
    max: usize,
}

struct State {
    jobs: VecDeque<Job>,
    closed: bool,
}

impl Queue {
    /// An open queue of at most `max` jobs.
    pub(super) fn new(max: usize) -> Self {
        Self {
            state: Mutex::new(State {
                jobs: VecDeque::new(),
                closed: false,
            }),
            pushed: Notify::new(),
            max,
        }
    }

    /// Adds a job at the end.
    pub(super) fn push(&self, job: Job) -> Result<(), NotTaken> {
        {
            let mut state = self.state.lock();
            if state.closed {
                return Err(NotTaken::Closed);
            }
            if state.jobs.len() >= self.max {
                // Those whose callers gave up take no place.
                state.jobs.retain(|job| !job.reply.is_closed());
                if state.jobs.len() >= self.max {
                    return Err(NotTaken::Full(state.jobs.len()));
                }
            }
            state.jobs.push_back(job);
        }
        self.pushed.notify_one();
        Ok(())
    }

    /// Takes the first job whose caller still waits.
    ///
    /// Cancelling it loses nothing: a job is taken only in the poll that returns it, and tokio hands the wake-up of a
    /// dropped `notified` on to the next waiter. One permit may stand for many jobs, so whoever wakes looks first and
    /// waits only before an empty queue.
    pub(super) async fn pop(&self) -> Job {
        loop {
            let pushed = self.pushed.notified();
            {
                let mut state = self.state.lock();
                while let Some(job) = state.jobs.pop_front() {
                    if !job.reply.is_closed() {
                        // Somebody else may have room for the next one.
                        if !state.jobs.is_empty() {
                            self.pushed.notify_one();
                        }
                        return job;
                    }
                }
            }
            pushed.await;
        }
    }

    /// Nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.state.lock().jobs.is_empty()
    }

    /// Takes no more jobs; those in it are still served.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
    }

    /// Drops what waits: its callers are told that the plugin stopped.
    pub(super) fn clear(&self) {
        self.state.lock().jobs.clear();
    }
}
