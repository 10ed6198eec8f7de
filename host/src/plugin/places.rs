//! The places of a pool, one call in each: who waits for one gets it when it is their turn, which `fair` says.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::fair::{Fair, Shed, Waits};
use super::fault;
use crate::error::Failure;

/// So many places, and who waits for one.
pub(super) struct Places {
    state: Mutex<State>,
    /// A place was given back, and nobody took it.
    freed: Notify,
    name: String,
    all: usize,
    shed: Shed,
}

struct State {
    free: usize,
    waiting: Fair<Waiter>,
    closed: bool,
}

struct Waiter {
    deadline: Instant,
    reply: oneshot::Sender<Result<Place, Failure>>,
}

impl Waits for Waiter {
    fn is_gone(&self) -> bool {
        self.reply.is_closed()
    }

    fn size(&self) -> usize {
        1
    }

    fn deadline(&self) -> Instant {
        self.deadline
    }
}

/// A place; on drop it goes to the next in turn.
pub(super) struct Place {
    places: Arc<Places>,
    since: Instant,
}

impl Places {
    /// `all` of them, and room for `max` who wait, before the plugin of this name.
    pub(super) fn new(name: &str, all: usize, max: usize) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                free: all,
                waiting: Fair::new(max),
                closed: false,
            }),
            freed: Notify::new(),
            name: name.to_owned(),
            all,
            shed: Shed::default(),
        })
    }

    /// A place, when it is this route's turn. The caller stops waiting at `deadline`; to drop the future is to leave.
    ///
    /// # Errors
    /// `plugin-overloaded`, `plugin-not-loaded` when the pool is closed.
    pub(super) async fn take(
        self: &Arc<Self>,
        route: &Arc<str>,
        deadline: Instant,
    ) -> Result<Place, Failure> {
        let stopped = || Err(fault::stopped(&self.name));
        let (reply, answer) = oneshot::channel();
        let given_way = {
            let mut state = self.state.lock();
            if state.closed {
                return stopped();
            }
            // Nobody waits while a place is free: whoever gives one back looks for the next first.
            if state.free > 0 {
                state.free -= 1;
                return Ok(self.place());
            }
            let waiter = Waiter { deadline, reply };
            state.waiting.push(route, waiter, Instant::now())
        };
        self.shed(given_way);
        // A place that is sent to a caller who has just left is in the channel, is dropped with it, and goes on.
        answer.await.unwrap_or_else(|_| stopped())
    }

    /// Waits until all places are free and nobody waits.
    pub(super) async fn all_free(&self) {
        loop {
            let freed = self.freed.notified();
            if self.state.lock().free == self.all {
                return;
            }
            freed.await;
        }
    }

    /// Gives out no more; who waits is told that the plugin stopped.
    pub(super) fn close(&self) {
        let dropped = {
            let mut state = self.state.lock();
            state.closed = true;
            state.waiting.clear()
        };
        drop(dropped);
    }

    /// Calls that wait.
    pub(super) fn waiting(&self) -> usize {
        self.state.lock().waiting.size()
    }

    /// Calls that were turned away.
    pub(super) fn shed_so_far(&self) -> u64 {
        self.shed.so_far()
    }

    fn place(self: &Arc<Self>) -> Place {
        Place {
            places: Arc::clone(self),
            since: Instant::now(),
        }
    }

    /// One is free: the next in turn gets it.
    fn give_back(self: &Arc<Self>, held: Duration) {
        let (next, shed) = {
            let mut state = self.state.lock();
            state.waiting.took(held);
            let next = state.waiting.pop(Instant::now());
            if next.taken.is_none() {
                state.free += 1;
            }
            (next.taken, next.shed)
        };
        // Outside the lock: who has left meanwhile drops the place here, and that comes back in by itself.
        match next {
            Some(waiter) => {
                let _ = waiter.reply.send(Ok(self.place()));
            }
            None => self.freed.notify_waiters(),
        }
        self.shed(shed);
    }

    fn shed(&self, waiters: Vec<Waiter>) {
        if waiters.is_empty() {
            return;
        }
        let (waiting, backlog) = {
            let state = self.state.lock();
            let waiting = state.waiting.size() + waiters.len();
            (waiting, state.waiting.backlog(self.all))
        };
        for waiter in waiters.into_iter().filter(|waiter| !waiter.is_gone()) {
            self.shed.add(&self.name, 1);
            let _ = waiter
                .reply
                .send(Err(fault::overloaded(&self.name, waiting, backlog)));
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.give_back(self.since.elapsed());
    }
}
