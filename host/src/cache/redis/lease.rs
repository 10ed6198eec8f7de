//! The lease of a key in Redis: one flight of all nodes has it, renews it while it loads, and stores only with it. That of a
//! duty (see `duty`) is taken, renewed and given back in the same way.
//!
//! It ends by itself [`LIVENESS`] after it was last renewed, so that a node that died holds nobody up, while a load may
//! take as long as it may. Its value names the owner and the seq of its load's stamp: a lease whose load began before a
//! purge that covers the key is taken over, for its load would be refused, and nobody shall wait for that.
//!
//! # Why at most one stores
//!
//! `acquire.lua`, `renew.lua`, `release.lua` and `store.lua` run alone, in the slot of the key. A store needs the owner's
//! token in the lease, and removes it; a take-over replaces it. So of any two flights only the later owner's store can
//! come after the take-over, and the earlier one's before it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::Shared;
use super::counters::count;
use super::link::Link;
use super::scripts::Acquired;
use super::trouble::Trouble;
use super::waiters::Waiter;
use crate::cache::tier::{Claim, Ended, LIVENESS, Lease, Leasing};
use crate::key::Key;

/// How often a lease is renewed: two renewals may be lost.
const RENEW_EVERY: Duration = Duration::from_millis(300);
/// Whoever waits for a lease tries again this long after it should have ended, at most; each after another while.
const SPREAD_MS: u64 = 50;

/// What a lease is of.
#[derive(Clone)]
pub(super) enum Of {
    /// The load of a key.
    Key(Key),
    /// A duty, by its text.
    Duty(Arc<str>),
}

impl Of {
    /// What the lease is called after.
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Key(key) => key.text(),
            Self::Duty(text) => text,
        }
    }
}

/// A lease that is held: renewed, and given back when this is dropped, unless it has ended with a store.
pub(super) struct Held {
    pub(super) shared: Arc<Shared>,
    pub(super) of: Of,
    pub(super) token: u64,
    pub(super) ended: Arc<AtomicBool>,
    pub(super) standing: Arc<Standing>,
    _renewal: AbortOnDropHandle<()>,
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.ended.load(Ordering::Acquire) {
            return;
        }
        let (shared, of, token) = (Arc::clone(&self.shared), self.of.clone(), self.token);
        // Outside of a runtime it ends by itself.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { shared.give_back(&of, token).await });
        }
    }
}

/// Until when a lease is known to stand, by this node's clock: its liveness after the last renewal that was confirmed, counted
/// from before that was sent, and so no later than Redis ends it.
pub(super) struct Standing {
    until: watch::Sender<Instant>,
}

impl Standing {
    fn since(asked: Instant) -> Self {
        Self {
            until: watch::Sender::new(asked + LIVENESS),
        }
    }

    fn renewed(&self, asked: Instant) {
        self.until.send_replace(asked + LIVENESS);
    }

    fn is_over(&self) {
        self.until.send_replace(Instant::now());
    }

    pub(super) fn stands(&self) -> bool {
        Instant::now() < *self.until.borrow()
    }

    /// Ends when it is not known to stand.
    pub(super) async fn lost(&self) {
        let mut until = self.until.subscribe();
        while self.stands() {
            let end = *until.borrow_and_update();
            let _ = timeout_at(end, until.changed()).await;
        }
    }
}

/// What became of the attempt to take a lease of some kind.
pub(super) enum Taken {
    /// It is ours.
    Ours {
        held: Held,
        /// How long ago the entry that is there was stored.
        stored_ago: Option<Duration>,
    },
    /// Another has it. Ends with that.
    Others(BoxFuture<'static, Ended>),
    /// Redis is not to be had now.
    Unavailable,
}

impl Shared {
    /// Takes the lease of a key, or says how to wait for who has it.
    pub(super) async fn take_lease(self: &Arc<Self>, key: &Key, claim: Claim) -> Leasing {
        // What would be stored with it would be refused; see `put`.
        if self.pending.is_ahead() {
            return Leasing::Unavailable;
        }
        match self.take(Of::Key(key.clone()), claim).await {
            Taken::Ours { held, stored_ago } => Leasing::Granted {
                lease: Lease {
                    token: held.token,
                    ended: Arc::clone(&held.ended),
                    guard: Box::new(held),
                },
                stored_ago,
            },
            Taken::Others(ended) => {
                count(&self.counters.lease_waits);
                Leasing::Held(ended)
            }
            Taken::Unavailable => Leasing::Unavailable,
        }
    }

    pub(super) async fn take(self: &Arc<Self>, of: Of, claim: Claim) -> Taken {
        // As in `put`: who has waited for Redis in vain does not wait for it again.
        let link = self.link_of_lease(&of);
        let Some(link) = link.filter(|link| !link.is_doubtful()) else {
            return Taken::Unavailable;
        };
        // Before the lease is asked for: its end may be told at once.
        let waiter = self.waiters.wait_for(of.text());
        let (token, asked) = (rand::random(), Instant::now());
        let acquired = self
            .scripts
            .acquire(&link, of.text(), (token, claim), self.timeout)
            .await;
        match acquired {
            Ok(Acquired::Granted { stored_ago }) => {
                self.wrote(&link);
                let standing = Arc::new(Standing::since(asked));
                let renewal = renew(Arc::clone(self), of.clone(), token, Arc::clone(&standing));
                let held = Held {
                    shared: Arc::clone(self),
                    of,
                    token,
                    ended: Arc::default(),
                    standing,
                    _renewal: AbortOnDropHandle::new(tokio::spawn(renewal)),
                };
                Taken::Ours { held, stored_ago }
            }
            Ok(Acquired::Held { left }) => Taken::Others(Box::pin(wait(waiter, left))),
            Err(trouble) => {
                self.failed(&link, &trouble);
                Taken::Unavailable
            }
        }
    }

    pub(super) async fn give_back(&self, of: &Of, token: u64) {
        let link = self.link_of_lease(of);
        let Some(link) = link.filter(|link| !link.is_doubtful()) else {
            return;
        };
        let given = self
            .scripts
            .release(&link, of.text(), (token, &self.node), self.timeout);
        if let Err(trouble) = given.await {
            self.failed(&link, &trouble);
        }
    }

    fn link_of_lease(&self, of: &Of) -> Option<Arc<Link>> {
        match of {
            Of::Key(key) => self.link_of(key.resource()),
            Of::Duty(_) => self.group_link(),
        }
    }
}

/// Waits until the end of a lease is told, or until it must have ended by itself.
async fn wait(mut waiter: Waiter, left: Duration) -> Ended {
    let spread = Duration::from_millis(rand::random_range(1..=SPREAD_MS));
    timeout(left.min(LIVENESS) + spread, waiter.ended())
        .await
        .unwrap_or(Ended::Unknown)
}

/// Renews a lease until it is lost. Aborted when it ends.
async fn renew(shared: Arc<Shared>, of: Of, token: u64, standing: Arc<Standing>) {
    loop {
        sleep(RENEW_EVERY).await;
        let Some(link) = shared.link_of_lease(&of) else {
            continue;
        };
        let asked = Instant::now();
        match shared
            .scripts
            .renew(&link, of.text(), token, shared.timeout)
            .await
        {
            Ok(true) => standing.renewed(asked),
            Ok(false) => {
                count(&shared.counters.leases_lost);
                standing.is_over();
                return;
            }
            Err(Trouble::Moved(_)) => shared.map_wanted.notify_one(),
            Err(trouble) => shared.failed(&link, &trouble),
        }
    }
}
