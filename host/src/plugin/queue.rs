//! Where calls wait before they enter an instance. All instances of a plugin draw from one queue, so a wedged one
//! strands nobody who is not yet in it.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::bindings::Answer;
use super::fault;
use super::generation::Ticket;
use crate::cache::Question;
use crate::error::Failure;

/// A question that somebody waits for.
pub(super) struct Asked {
    pub(super) question: Question,
    /// When its caller stops waiting.
    pub(super) deadline: Instant,
    pub(super) reply: oneshot::Sender<Result<Answer, Failure>>,
    /// Where it is, for its caller.
    pub(super) ticket: Ticket,
}

impl Asked {
    /// Nobody waits for it any more.
    fn is_gone(&self) -> bool {
        self.reply.is_closed()
    }
}

/// What enters an instance in one call: a question, or a batch of them. Never empty.
pub(super) struct Job(Vec<Asked>);

impl Job {
    /// Its questions go in together.
    pub(super) fn new(asked: Vec<Asked>) -> Self {
        Self(asked)
    }

    /// The questions whose callers still wait.
    pub(super) fn still_asked(mut self) -> Vec<Asked> {
        self.0.retain(|asked| !asked.is_gone());
        self.0
    }

    fn is_gone(&self) -> bool {
        self.0.iter().all(Asked::is_gone)
    }

    /// It is not taken: tells everybody who waits for it.
    fn refuse(self, failure: &Failure) {
        for asked in self.0 {
            let _ = asked.reply.send(Err(failure.clone()));
        }
    }
}

/// First in, first out; bounded (law 12).
pub(super) struct Queue {
    state: Mutex<State>,
    pushed: Notify,
    name: String,
    max: usize,
}

struct State {
    jobs: VecDeque<Job>,
    /// Of all jobs.
    questions: usize,
    closed: bool,
}

impl Queue {
    /// An open queue of at most `max` questions to the plugin of this name.
    pub(super) fn new(name: &str, max: usize) -> Self {
        Self {
            state: Mutex::new(State {
                jobs: VecDeque::new(),
                questions: 0,
                closed: false,
            }),
            pushed: Notify::new(),
            name: name.to_owned(),
            max,
        }
    }

    /// Adds a job at the end. If there is no room, or the plugin is being stopped, its callers are told.
    pub(super) fn push(&self, job: Job) {
        let refused = {
            let mut state = self.state.lock();
            if state.questions + job.0.len() > self.max {
                // Those whose callers gave up take no place.
                state.jobs.retain(|job| !job.is_gone());
                state.questions = state.jobs.iter().map(|job| job.0.len()).sum();
            }
            if state.closed {
                Some((job, fault::stopped(&self.name)))
            } else if state.questions + job.0.len() > self.max {
                Some((job, fault::overloaded(&self.name, state.questions)))
            } else {
                state.questions += job.0.len();
                state.jobs.push_back(job);
                None
            }
        };
        match refused {
            None => self.pushed.notify_one(),
            Some((job, failure)) => job.refuse(&failure),
        }
    }

    /// Takes the first job that somebody still waits for.
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
                    state.questions -= job.0.len();
                    if !job.is_gone() {
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
        let mut state = self.state.lock();
        state.jobs.clear();
        state.questions = 0;
    }
}
