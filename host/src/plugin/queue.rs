//! Where calls wait before they enter an instance. All instances of a plugin draw from one queue, so a wedged one
//! strands nobody who is not yet in it. In which order, and who waits in vain, is `fair`'s to say.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::bindings::Answer;
use super::fair::{Fair, Shed, Waits};
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

/// What enters an instance in one call: a question, or a batch of them, all of one route. Never empty.
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

    /// It is not taken: tells everybody who waits for it.
    fn refuse(self, failure: &Failure) {
        for asked in self.0 {
            let _ = asked.reply.send(Err(failure.clone()));
        }
    }
}

impl Waits for Job {
    fn is_gone(&self) -> bool {
        self.0.iter().all(Asked::is_gone)
    }

    fn size(&self) -> usize {
        self.0.len()
    }

    fn deadline(&self) -> Instant {
        let deadlines = self.0.iter().map(|asked| asked.deadline);
        deadlines.max().unwrap_or_else(Instant::now)
    }
}

/// Bounded (law 12).
pub(super) struct Queue {
    state: Mutex<State>,
    pushed: Notify,
    name: String,
    /// Calls at once, of all instances.
    places: usize,
    shed: Shed,
}

struct State {
    jobs: Fair<Job>,
    closed: bool,
}

impl Queue {
    /// An open queue of at most `max` questions to the plugin of this name, which answers `places` calls at once.
    pub(super) fn new(name: &str, max: usize, places: usize) -> Self {
        Self {
            state: Mutex::new(State {
                jobs: Fair::new(max),
                closed: false,
            }),
            pushed: Notify::new(),
            name: name.to_owned(),
            places,
            shed: Shed::default(),
        }
    }

    /// Adds a job. Who has to give way to it is told; and if the plugin is being stopped, its own callers are.
    pub(super) fn push(&self, job: Job) {
        let mut state = self.state.lock();
        if state.closed {
            drop(state);
            return job.refuse(&fault::stopped(&self.name));
        }
        let Some(route) = job.0.first().map(|asked| Arc::clone(&asked.question.route)) else {
            return;
        };
        let given_way = state.jobs.push(&route, job, Instant::now());
        let (waiting, backlog) = (state.jobs.size(), state.jobs.backlog(self.places));
        drop(state);
        self.pushed.notify_one();
        self.shed(given_way, waiting, backlog);
    }

    /// Takes the next job that somebody still waits for. `None`: the queue is closed, and there is none.
    ///
    /// Cancelling it loses nothing: a job is taken only in the poll that returns it, and tokio hands the wake-up of a
    /// dropped `notified` on to the next waiter. One permit may stand for many jobs, so whoever wakes looks first and
    /// waits only before an empty queue.
    pub(super) async fn pop(&self) -> Option<Job> {
        loop {
            let pushed = self.pushed.notified();
            let (next, waiting, backlog, closed) = {
                let mut state = self.state.lock();
                let (waiting, backlog) = (state.jobs.size(), state.jobs.backlog(self.places));
                let next = state.jobs.pop(Instant::now());
                (next, waiting, backlog, state.closed)
            };
            self.shed(next.shed, waiting, backlog);
            if let Some(job) = next.taken {
                // Somebody else may have room for the next one.
                if waiting > job.size() {
                    self.pushed.notify_one();
                }
                return Some(job);
            }
            if closed {
                return None;
            }
            pushed.await;
        }
    }

    /// A call of it took so long.
    pub(super) fn took(&self, time: Duration) {
        self.state.lock().jobs.took(time);
    }

    /// Questions that wait.
    pub(super) fn waiting(&self) -> usize {
        self.state.lock().jobs.size()
    }

    /// Questions that were turned away: there was no room, or they could not be answered in time.
    pub(super) fn shed_so_far(&self) -> u64 {
        self.shed.so_far()
    }

    /// Nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.state.lock().jobs.is_empty()
    }

    /// Takes no more jobs; those in it are still served.
    ///
    /// Who waits for a job either looked before this, and made the `notified` that is woken here before it looked; or looks
    /// after it, and sees that the queue is closed.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.pushed.notify_waiters();
    }

    /// Drops what waits: its callers are told that the plugin stopped.
    pub(super) fn clear(&self) {
        let dropped = self.state.lock().jobs.clear();
        drop(dropped);
    }

    fn shed(&self, jobs: Vec<Job>, waiting: usize, backlog: Duration) {
        for job in jobs {
            let asked = Job::new(job.still_asked());
            self.shed.add(&self.name, asked.0.len());
            asked.refuse(&fault::overloaded(&self.name, waiting, backlog));
        }
    }
}
