//! The connections of one instance: opened when they are wanted, kept, shared by the loads in flight, and opened again with
//! back-off when the database went away. Must not know what is asked on them.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_channel::oneshot::{self, Receiver};
use futures_util::FutureExt as _;
use futures_util::future::Shared;

use crate::connection::{Connection, Lease, Purpose, Server};
use crate::fault::Fault;
use crate::net;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What an attempt came to, for all who wait for it. The attempt itself is polled by one task alone: what waits for the host
/// belongs to the call that it was begun in, and would be lost to the other if two took turns.
type Opening = Shared<Receiver<Result<Rc<Connection>, Fault>>>;

/// At most `most` connections to one server, all for the same.
pub(crate) struct Pool {
    server: Rc<Server>,
    purpose: fn() -> Purpose,
    most: usize,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    open: Vec<Rc<Connection>>,
    /// The attempt that is being made; there is one at a time.
    opening: Option<Opening>,
    trouble: Option<Trouble>,
}

/// The last attempts failed.
struct Trouble {
    fault: Fault,
    pause: Duration,
    until: Instant,
}

impl Pool {
    pub(crate) fn new(server: Rc<Server>, purpose: fn() -> Purpose, most: usize) -> Rc<Self> {
        Rc::new(Self {
            server,
            purpose,
            most,
            state: RefCell::default(),
        })
    }

    /// The connection with the fewest loads on it; a new one where there is none. Where all have some and there may be
    /// more, another is opened for those who come after.
    ///
    /// # Errors
    /// Why there is none; within a pause after a failed attempt at once, and without a new one.
    pub(crate) async fn lease(self: &Rc<Self>) -> Result<Lease, Fault> {
        let (best, opening) = {
            let mut state = self.state.borrow_mut();
            state.open.retain(|connection| !connection.is_closed());
            let best = state
                .open
                .iter()
                .min_by_key(|connection| connection.loads())
                .cloned();
            let wanted =
                best.as_ref().is_none_or(|best| best.loads() > 0) && state.open.len() < self.most;
            let opening = wanted.then(|| self.opening(&mut state));
            (best, opening)
        };
        match (best, opening) {
            (Some(connection), _) => Ok(connection.lease()),
            (None, Some(opening)) => {
                let opened = opening?.await;
                // Unreachable while the instance lives: nobody ends the task.
                let ended = || Fault::unreachable("the attempt to connect was given up".to_owned());
                Ok(opened.unwrap_or_else(|_| Err(ended()))?.lease())
            }
            // Unreachable while `connections` is at least 1, which the schema says.
            (None, None) => Err(Fault::unreachable(
                "`connections` is 0; raise it".to_owned(),
            )),
        }
    }

    /// The attempt that is being made, or a new one.
    fn opening(self: &Rc<Self>, state: &mut State) -> Result<Opening, Fault> {
        if let Some(opening) = &state.opening {
            return Ok(opening.clone());
        }
        if let Some(trouble) = &state.trouble {
            let left = trouble.until.saturating_duration_since(Instant::now());
            if !left.is_zero() {
                let mut fault = trouble.fault.clone();
                fault.failure.retry_after_ms = u64::try_from(left.as_millis()).ok();
                return Err(fault);
            }
        }
        let pool = Rc::clone(self);
        let (told, opening) = oneshot::channel();
        let opening = opening.shared();
        state.opening = Some(opening.clone());
        // A task of its own: the load that wanted it may be gone before it is there.
        net::spawn(async move {
            let opened = Connection::open(&pool.server, (pool.purpose)()).await;
            told.send(pool.opened(opened.map(Rc::new))).ok(); // an error: nobody waits any more
        });
        Ok(opening)
    }

    fn opened(&self, opened: Result<Rc<Connection>, Fault>) -> Result<Rc<Connection>, Fault> {
        let mut state = self.state.borrow_mut();
        state.opening = None;
        match &opened {
            Ok(connection) => {
                state.open.push(Rc::clone(connection));
                state.trouble = None;
            }
            Err(fault) => {
                let pause = state.trouble.as_ref().map_or(FIRST_PAUSE, |trouble| {
                    (trouble.pause * 2).min(LONGEST_PAUSE)
                });
                state.trouble = Some(Trouble {
                    fault: fault.clone(),
                    pause,
                    until: Instant::now() + pause,
                });
            }
        }
        opened
    }

    /// Closes every connection once its loads are done.
    pub(crate) fn close(&self) {
        self.state.borrow_mut().open.clear();
    }
}
